//! Unit: an HMAC-SHA1 over the raw body, and batches of up to 64 events about customers and their accounts.
//!
//! There is no timestamp in the proof, so the event id is the only defence against replays. `included` can carry social
//! security numbers: it is never part of an element, and where a body cannot be split it is taken out before anything
//! is handed on to be stored.

use std::collections::BTreeSet;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use secrecy::SecretString;

use super::addresses;
use super::draft::{Draft, Effect};
use super::elements::{self, Json, id, informative_id, required_id, user_id};
use super::keep::Keep;
use super::signature::{base64, fresh_secret, header, held_by, hmac_sha1, value};
use super::{Provider, Reader, Refusal, Request, Signer, Verified, Verifier};
use crate::config::Variable;
use crate::domain::{
    Cause, Claim, DedupKey, Delivery, Event, Meaning, Proof, ProviderName, Rank, Reason, Scope, StatusChange,
    Timestamp, UserId,
};

const NAME: ProviderName = ProviderName::new("unit");
const HEADER: &str = "x-unit-signature";
const TOKENS: &str = "FINHOOK_UNIT_TOKENS";
const ALLOW_FROM: &str = "FINHOOK_UNIT_ALLOW_FROM";
const USER_TAG: &str = "FINHOOK_UNIT_USER_TAG";

/// Unit's entry in the list.
pub static PROVIDER: Provider = Provider {
    name: NAME,
    title: "Unit",
    variables: &[
        Variable {
            name: TOKENS,
            secret: true,
            default: None,
            help: "Webhook tokens of Unit, comma-separated, exactly as entered there; a delivery signed with any of them is accepted.",
        },
        Variable {
            name: USER_TAG,
            secret: false,
            default: Some("userId"),
            help: "The tag that holds our own user id on Unit's customers, applications and accounts.",
        },
        addresses::variable(
            ALLOW_FROM,
            "Addresses and networks that Unit may post from, comma-separated; `unit-live` and `unit-sandbox` stand for those that it documents; unset, any.",
        ),
    ],
    binds_urls: false,
    verifier: |setup| {
        let tokens = setup.values.secrets(TOKENS)?;
        Ok((!tokens.is_empty()).then(|| Box::new(Unit { tokens }) as Box<dyn Verifier>))
    },
    reader: |values| {
        let user_tag = values.text(USER_TAG).unwrap_or_else(|| "userId".to_owned());
        Ok(Box::new(UnitReader { user_tag }))
    },
    signer: |setup| {
        let token = setup.values.secrets(TOKENS)?.into_iter().next();
        Ok(token.map(|token| Box::new(UnitSigner { token }) as Box<dyn Signer>))
    },
    allow_from: ALLOW_FROM,
    presets: &[
        // https://www.unit.co/docs/api/webhooks/
        ("unit-live", &["3.209.193.26", "54.156.65.95", "54.165.224.37"]),
        ("unit-sandbox", &["54.81.62.38", "35.169.213.205", "3.234.105.75"]),
    ],
    resends_refused: true,
    keeps: KEEPS,
    keeps_unread: Keep::But(&[("included", None)]),
    development: || vec![(TOKENS, fresh_secret())],
};

/// What is read below: ids, the time, tags and why something was closed. Not what the attributes say of people, and not
/// `included`, which is no part of an element in the first place.
const KEEPS: Keep = Keep::Members(&[
    ("id", Keep::Whole),
    ("type", Keep::Whole),
    (
        "attributes",
        Keep::Members(&[
            ("createdAt", Keep::Whole),
            ("tags", Keep::Whole),
            ("closeReason", Keep::Whole),
            ("freezeReason", Keep::Whole),
            ("archiveReason", Keep::Whole),
        ]),
    ),
    (
        "relationships",
        Keep::Every(&Keep::Members(&[("data", Keep::Members(&[("id", Keep::Whole), ("type", Keep::Whole)]))])),
    ),
]);

/// Proves deliveries of Unit.
pub struct Unit {
    /// The webhook tokens: their UTF-8 bytes are the keys, whatever encoding they look like.
    pub tokens: Vec<SecretString>,
}

#[async_trait]
impl Verifier for Unit {
    async fn verify(&self, request: &Request<'_>, _now: Timestamp) -> Result<Verified, Refusal> {
        let presented = header(request.headers, HEADER)?.ok_or(Refusal::Missing)?;
        let presented = base64::<20>(presented).ok_or(Refusal::Malformed)?;
        let place = held_by(&self.tokens, &presented, |token| hmac_sha1(token, request.body));
        let proof = Proof { scheme: "hmac-sha1".to_owned(), ..Proof::default() };
        if place.is_some() { Ok(Verified { provider: NAME, proof, place }) } else { Err(Refusal::Mismatch) }
    }

    fn secrets(&self) -> &[SecretString] {
        &self.tokens
    }
}

/// Signs as Unit does.
pub struct UnitSigner {
    /// The webhook token.
    pub token: SecretString,
}

impl Signer for UnitSigner {
    fn sign(&self, body: &[u8], _now: Timestamp) -> Vec<(HeaderName, HeaderValue)> {
        vec![(HeaderName::from_static(HEADER), value(&STANDARD.encode(hmac_sha1(&self.token, body))))]
    }
}

/// Reads deliveries of Unit.
pub struct UnitReader {
    /// The tag that holds our own user id.
    pub user_tag: String,
}

impl Reader for UnitReader {
    fn events(&self, delivery: &Delivery) -> Vec<Event> {
        match delivery.scope {
            Scope::Element => self.element(delivery, &delivery.bytes, false),
            _ => self.body(delivery, &delivery.bytes),
        }
    }
}

impl UnitReader {
    fn body(&self, delivery: &Delivery, body: &Bytes) -> Vec<Event> {
        if let Some(open) = elements::array_member(body, "data") {
            let batch = elements::batch(body, open);
            let events = batch.elements.iter().flat_map(|element| self.element(delivery, element, batch.whole));
            let rest = batch.remainder.iter().flat_map(|rest| self.body(delivery, rest));
            return events.chain(rest).collect();
        }
        let kept = without_included(body);
        if kept.len() < body.len() {
            return self.body(delivery, &kept);
        }
        let reason = Json::parse(body).err().unwrap_or(Cause::WrongShape.into());
        vec![Draft::body(kept).dead(delivery, reason)]
    }

    /// One element, checked or not: one event, or one per customer for a joint account.
    fn element(&self, delivery: &Delivery, bytes: &Bytes, checked: bool) -> Vec<Event> {
        let json = if checked { Json::checked(bytes) } else { None };
        let json = match json.map_or_else(|| Json::parse(bytes), Ok) {
            Ok(json) if json.is_object() => json,
            Ok(_) => return vec![Draft::element(bytes.clone()).dead(delivery, Cause::WrongShape.into())],
            Err(reason) => {
                let kept = without_included(bytes);
                if kept.len() < bytes.len() {
                    return self.element(delivery, &kept, false);
                }
                return vec![Draft::element(kept).dead(delivery, reason)];
            }
        };
        let [event_id, kind, attributes, relationships, included] =
            json.pick(["id", "type", "attributes", "relationships", "included"]);
        if included.is_some() {
            // Where a batch's brackets are broken, its `included` can end up inside an element that is whole.
            return self.element(delivery, &without_included(bytes), false);
        }
        let element = Element::new(attributes, relationships, &self.user_tag);
        let event_id = required_id(event_id, "/id");
        let kind = required_id(kind, "/type");
        let lower = kind.as_deref().unwrap_or_default().to_ascii_lowercase();
        let customers = element.customers(applies(&lower));
        let subjects: Vec<Option<String>> = match &customers {
            Ok(customers) if lower.starts_with("account.") && event_id.is_ok() && !customers.is_empty() => {
                customers.iter().cloned().map(Some).collect()
            }
            Ok(customers) => vec![customers.first().cloned()],
            Err(_) => vec![None],
        };
        let key = event_id.as_deref().ok().map(DedupKey::from_id);
        let joint = subjects.len() > 1;
        let stated = element.created_at.and_then(Json::text).and_then(|text| Timestamp::parse(&text));
        let problem = event_id.err().or(kind.as_ref().err().cloned()).or(customers.err());
        let event = |(index, subject): (usize, Option<String>)| {
            let meaning = match &problem {
                Some(reason) => Err(reason.clone()),
                None => element.meaning(&lower, subject.as_ref(), joint),
            };
            let key = match (&key, &subject) {
                (Some(key), Some(customer)) if index > 0 => Some(key.for_customer(customer)),
                _ => key.clone(),
            };
            let draft = Draft::element(bytes.clone());
            Draft { key, kind: kind.clone().ok(), subject, stated, ..draft }.settle(delivery, meaning)
        };
        subjects.into_iter().enumerate().map(event).collect()
    }
}

/// Whether a kind changes rows: only then a customer that cannot be read is the event's problem.
fn applies(lower: &str) -> bool {
    matches!(lower, "application.approved" | "customer.created" | "customer.updated" | "customer.archived")
        || account_status(lower).is_some()
}

/// Whether a kind is about an account, and the status that it writes.
#[allow(clippy::option_option, reason = "an account kind without a status is a touch; other kinds are none at all")]
fn account_status(lower: &str) -> Option<Option<StatusChange>> {
    match lower {
        "account.created" | "account.unfrozen" | "account.reopened" => Some(Some(StatusChange::open("open"))),
        "account.closed" => Some(Some(StatusChange::closing("closed"))),
        "account.frozen" => Some(Some(StatusChange::open("frozen"))),
        "account.updated" => Some(None),
        _ => None,
    }
}

/// The parts of one event.
struct Element<'a> {
    created_at: Option<Json<'a>>,
    tags: Option<Json<'a>>,
    close_reason: Option<Json<'a>>,
    freeze_reason: Option<Json<'a>>,
    archive_reason: Option<Json<'a>>,
    account: Related<'a>,
    customer: Related<'a>,
    customers: Related<'a>,
    user_tag: &'a str,
}

/// What a relationship names: by the relationship's own name, since the type beside it varies.
#[derive(Clone, Copy)]
struct Related<'a>(Option<Json<'a>>);

impl<'a> Related<'a> {
    fn items(self) -> impl Iterator<Item = Json<'a>> {
        let data = self.0.into_iter();
        data.clone().filter(|data| !data.is_array()).chain(data.flat_map(|data| data.items()))
    }
}

impl<'a> Element<'a> {
    fn new(attributes: Option<Json<'a>>, relationships: Option<Json<'a>>, user_tag: &'a str) -> Self {
        let named = ["createdAt", "tags", "closeReason", "freezeReason", "archiveReason"];
        let [created_at, tags, close_reason, freeze_reason, archive_reason] =
            attributes.map(|attributes| attributes.pick(named)).unwrap_or_default();
        let named = relationships.map(|them| them.pick(["account", "customer", "customers"])).unwrap_or_default();
        let [account, customer, customers] = named.map(|named| Related(named.and_then(|named| named.get(&["data"]))));
        Self { created_at, tags, close_reason, freeze_reason, archive_reason, account, customer, customers, user_tag }
    }

    fn meaning(&self, lower: &str, subject: Option<&String>, joint: bool) -> Result<Meaning, Reason> {
        let effect = match lower {
            "application.approved" | "customer.created" => {
                Effect::status(StatusChange::open("active")).owned(self.tagged(Rank::Payload)?)
            }
            "customer.updated" => Effect::touch().owned(self.tagged(Rank::Payload)?),
            "customer.archived" => Effect::status(
                StatusChange::closing("archived").because(self.archive_reason.and_then(Json::text).as_deref()),
            ),
            _ => {
                let Some(status) = account_status(lower) else { return Ok(Meaning::Record(None)) };
                let why = match lower {
                    "account.closed" => self.close_reason.and_then(Json::text),
                    "account.frozen" => self.freeze_reason.and_then(Json::text),
                    _ => None,
                };
                let account = self.account.items().next().and_then(|related| related.get(&["id"]));
                let account = required_id(account, "/relationships/account/data/id")?;
                let owner = if joint { None } else { self.tagged(Rank::Inferred)? };
                Effect::ledger_account(&account, status.map(|status| status.because(why.as_deref()))).owned(owner)
            }
        };
        Ok(effect.meaning(subject))
    }

    /// The distinct customers, sorted; strict where the event needs them, else those that can be read.
    fn customers(&self, strict: bool) -> Result<BTreeSet<String>, Reason> {
        let mut found = BTreeSet::new();
        let paths =
            [(self.customer, "/relationships/customer/data/id"), (self.customers, "/relationships/customers/data/id")];
        for (named, path) in paths {
            for related in named.items() {
                let [customer] = related.pick(["id"]);
                found.extend(if strict { id(customer, path)? } else { informative_id(customer, path)? });
            }
        }
        Ok(found)
    }

    /// The claim of the tag that holds our user id.
    fn tagged(&self, rank: Rank) -> Result<Option<Claim>, Reason> {
        let tag = self.tags.and_then(|tags| tags.get(&[self.user_tag]));
        let user = user_id(tag, "/attributes/tags")?;
        Ok(user.map(|user| Claim { user: UserId(user), rank }))
    }
}

/// Bytes that are no batch, without `included`: JSON keeps its other members, of anything else only what comes before.
fn without_included(bytes: &Bytes) -> Bytes {
    if let Ok(json) = Json::parse(bytes) {
        if !json.has("included") {
            return bytes.clone();
        }
        let kept = json.members().filter(|(key, _)| key.text().is_none_or(|key| key != "included"));
        let kept: Vec<String> = kept.map(|(key, value)| format!("{}:{}", key.raw(), value.raw())).collect();
        return format!("{{{}}}", kept.join(",")).into();
    }
    let needle = b"\"included\"";
    match bytes.windows(needle.len()).position(|window| window == needle) {
        Some(at) => bytes.slice(..at),
        None => bytes.clone(),
    }
}

#[cfg(test)]
mod tests;

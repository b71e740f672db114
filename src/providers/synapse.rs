//! Synapse: HMACs over the body or only over the object's id, and snapshots of users and their nodes.
//!
//! The two short signatures are constant per object: whoever saw one delivery can forge any body for that object. They
//! count only where `FINHOOK_SYNAPSE_ALLOW_OBJECT_SIGNATURES` says so and no signature over the body is there. Reading
//! `_id.$oid` for them is the one parse before a proof: a scan in linear time that keeps nothing.

use async_trait::async_trait;
use http::{HeaderName, HeaderValue};
use secrecy::SecretString;

use super::addresses;
use super::draft::{Draft, Effect};
use super::elements::{Json, id, informative_id, required_id, scan_string, user_id};
use super::keep::Keep;
use super::signature::{fresh_secret, header, held_by, hmac_sha1, hmac_sha256, lower_hex, to_hex, value};
use super::{Provider, Reader, Refusal, Request, Setup, Signer, Verified, Verifier};
use crate::config::{ConfigError, Variable};
use crate::domain::{
    Cause, Claim, DedupKey, Delivery, Event, Meaning, Proof, ProviderName, Rank, Reason, StatusChange, Timestamp,
    UserId,
};

const NAME: ProviderName = ProviderName::new("synapse");
const SHORT_SHA1: &str = "x-synapse-signature";
const SHORT_SHA256: &str = "x-synapse-signature-sha256";
const FULL_BODY: &str = "x-synapse-signature-sha256-fullbody";
const CLIENT_ID: &str = "FINHOOK_SYNAPSE_CLIENT_ID";
const CLIENT_SECRETS: &str = "FINHOOK_SYNAPSE_CLIENT_SECRETS";
const ALLOW_FROM: &str = "FINHOOK_SYNAPSE_ALLOW_FROM";
const ALLOW_OBJECT: &str = "FINHOOK_SYNAPSE_ALLOW_OBJECT_SIGNATURES";

/// Synapse's entry in the list.
pub static PROVIDER: Provider = Provider {
    name: NAME,
    title: "Synapse",
    variables: &[
        Variable {
            name: CLIENT_ID,
            secret: false,
            default: None,
            help: "The client id of the Synapse API credential (not the payload's client.id); needed with the secrets.",
        },
        Variable {
            name: CLIENT_SECRETS,
            secret: true,
            default: None,
            help: "Client secrets of the Synapse API credential, comma-separated; a delivery signed with any of them is accepted.",
        },
        Variable {
            name: ALLOW_OBJECT,
            secret: false,
            default: Some("false"),
            help: "Whether Synapse's short signatures, which cover neither body nor time, are accepted where no full-body signature is sent.",
        },
        addresses::variable(
            ALLOW_FROM,
            "Addresses and networks that Synapse's protocol may be spoken from, comma-separated; unset, any.",
        ),
    ],
    binds_urls: false,
    verifier: |setup| {
        let allow_object_signatures = setup.values.flag(ALLOW_OBJECT)?;
        let credential = credential(setup)?;
        Ok(credential.map(|(client_id, secrets)| {
            Box::new(Synapse { client_id, secrets, allow_object_signatures }) as Box<dyn Verifier>
        }))
    },
    reader: |_| Ok(Box::new(SynapseReader)),
    signer: |setup| {
        let signer = credential(setup)?
            .and_then(|(client_id, secrets)| Some(SynapseSigner { client_id, secret: secrets.into_iter().next()? }));
        Ok(signer.map(|signer| Box::new(signer) as Box<dyn Signer>))
    },
    allow_from: ALLOW_FROM,
    presets: &[],
    resends_refused: true,
    keeps: KEEPS,
    keeps_unread: Keep::But(&[
        ("refresh_token", None),
        ("documents", None),
        ("_rest", Some(Keep::But(&[("refresh_token", None), ("documents", None)]))),
    ]),
    development: || vec![(CLIENT_ID, SecretString::from("client_id_development")), (CLIENT_SECRETS, fresh_secret())],
};

/// What is read of an object, wherever it stands.
const OBJECT: &[(&str, Keep)] = &[
    ("_id", Keep::Whole),
    ("user_id", Keep::Whole),
    ("permission", Keep::Whole),
    ("permission_code", Keep::Whole),
    ("allowed", Keep::Whole),
    ("is_active", Keep::Whole),
    ("extra", Keep::Members(&[("supp_id", Keep::Whole)])),
    ("from", Keep::Members(&[("user", Keep::Members(&[("_id", Keep::Whole)]))])),
];

/// What is read below. Not the refresh token, documents, log-ins, names and balances of the objects.
const KEEPS: Keep = Keep::Both(
    OBJECT,
    &[
        ("_rest", Keep::Members(OBJECT)),
        ("webhook_meta", Keep::Members(&[("function", Keep::Whole), ("log_id", Keep::Whole), ("date", Keep::Whole)])),
    ],
);

/// The client id and its secrets, if there are any.
fn credential(setup: &Setup<'_>) -> Result<Option<(String, Vec<SecretString>)>, ConfigError> {
    let secrets = setup.values.secrets(CLIENT_SECRETS)?;
    if secrets.is_empty() {
        return Ok(None);
    }
    match setup.values.text(CLIENT_ID) {
        Some(client_id) => Ok(Some((client_id, secrets))),
        None => Err(setup.values.error(CLIENT_ID, format!("is needed because {CLIENT_SECRETS} is set: give both"))),
    }
}

/// Proves deliveries of Synapse.
pub struct Synapse {
    /// The client id of the API credential: part of what the short signatures cover.
    pub client_id: String,
    /// Its secrets.
    pub secrets: Vec<SecretString>,
    /// Whether the short signatures are accepted where no full-body one is there.
    pub allow_object_signatures: bool,
}

#[async_trait]
impl Verifier for Synapse {
    async fn verify(&self, request: &Request<'_>, _now: Timestamp) -> Result<Verified, Refusal> {
        let full_body = header(request.headers, FULL_BODY)?;
        let short_sha256 = header(request.headers, SHORT_SHA256)?;
        let short_sha1 = header(request.headers, SHORT_SHA1)?;
        // A signature over the body decides alone: a wrong one is never rescued by a right short one.
        let (place, scheme) = if let Some(presented) = full_body {
            let presented = lower_hex::<32>(presented).ok_or(Refusal::Malformed)?;
            (held_by(&self.secrets, &presented, |secret| hmac_sha256(secret, request.body)), "fullbody")
        } else if short_sha256.or(short_sha1).is_none() {
            return Err(Refusal::Missing);
        } else if !self.allow_object_signatures {
            return Err(Refusal::ObjectSignature);
        } else {
            let signed = object_message(request.body, &self.client_id).ok_or(Refusal::Malformed)?;
            if let Some(presented) = short_sha256 {
                let presented = lower_hex::<32>(presented).ok_or(Refusal::Malformed)?;
                (held_by(&self.secrets, &presented, |secret| hmac_sha256(secret, signed.as_bytes())), "object-sha256")
            } else {
                let presented = short_sha1.and_then(lower_hex::<20>).ok_or(Refusal::Malformed)?;
                (held_by(&self.secrets, &presented, |secret| hmac_sha1(secret, signed.as_bytes())), "object-sha1")
            }
        };
        let proof = Proof { scheme: scheme.to_owned(), ..Proof::default() };
        if place.is_some() { Ok(Verified { provider: NAME, proof, place }) } else { Err(Refusal::Mismatch) }
    }

    fn secrets(&self) -> &[SecretString] {
        &self.secrets
    }
}

/// What the short signatures cover: the object's id and the client id, joined by a literal plus sign.
fn object_message(body: &[u8], client_id: &str) -> Option<String> {
    let object = scan_string(body, &["_id", "$oid"]).filter(|object| !object.is_empty() && object.len() <= 200)?;
    Some(format!("{object}+{client_id}"))
}

/// Signs as Synapse does.
pub struct SynapseSigner {
    /// The client id of the API credential.
    pub client_id: String,
    /// Its secret.
    pub secret: SecretString,
}

impl Signer for SynapseSigner {
    fn sign(&self, body: &[u8], _now: Timestamp) -> Vec<(HeaderName, HeaderValue)> {
        let mut fields = vec![(HeaderName::from_static(FULL_BODY), value(&to_hex(&hmac_sha256(&self.secret, body))))];
        if let Some(signed) = object_message(body, &self.client_id) {
            let (sha1, sha256) =
                (hmac_sha1(&self.secret, signed.as_bytes()), hmac_sha256(&self.secret, signed.as_bytes()));
            fields.push((HeaderName::from_static(SHORT_SHA1), value(&to_hex(&sha1))));
            fields.push((HeaderName::from_static(SHORT_SHA256), value(&to_hex(&sha256))));
        }
        fields
    }
}

/// Reads deliveries of Synapse.
pub struct SynapseReader;

impl Reader for SynapseReader {
    /// The body is the element, whatever the scope.
    fn events(&self, delivery: &Delivery) -> Vec<Event> {
        let json = match Json::parse(&delivery.bytes) {
            Ok(json) if json.is_object() => json,
            Ok(_) => return vec![Draft::body(delivery.bytes.clone()).dead(delivery, Cause::WrongShape.into())],
            Err(reason) => return vec![Draft::body(delivery.bytes.clone()).dead(delivery, reason)],
        };
        let [top_id, rest, meta] = json.pick(["_id", "_rest", "webhook_meta"]);
        let [function, log_id, date] = meta.map_or([None; 3], |meta| meta.pick(["function", "log_id", "date"]));
        let log_id = id(log_id, "/webhook_meta/log_id");
        let kind = required_id(function, "/webhook_meta/function");
        let object = rest.filter(|rest| rest.is_object()).unwrap_or(json);
        let action = Action::of(kind.as_deref().unwrap_or_default());
        let object_id = top_id.and_then(oid).or_else(|| object.get(&["_id"]).and_then(oid));
        let user_id = object.get(&["user_id"]).and_then(oid);
        let subject = match action.noun {
            Noun::User if action.applies() => id(object_id, "/_id"),
            Noun::User => informative_id(object_id, "/_id"),
            Noun::Node if action.applies() => id(user_id, "/_rest/user_id"),
            Noun::Node | Noun::Subnet => informative_id(user_id, "/_rest/user_id"),
            Noun::Transaction => {
                informative_id(object.get(&["from", "user", "_id"]).and_then(oid), "/_rest/from/user/_id")
            }
            Noun::Other => Ok(None),
        };
        let named = subject.as_ref().ok().and_then(Option::as_ref);
        let meaning = log_id
            .as_ref()
            .and(kind.as_ref())
            .map_err(Reason::clone)
            .and_then(|_| subject.as_ref().map_err(Reason::clone))
            .and_then(|_| action.meaning(object, object_id, named));
        let draft = Draft {
            key: log_id.ok().flatten().as_deref().map(DedupKey::from_id),
            kind: kind.ok(),
            subject: subject.ok().flatten(),
            stated: date.and_then(date_of),
            ..Draft::element(delivery.bytes.clone())
        };
        vec![draft.settle(delivery, meaning)]
    }
}

/// What the object of an event is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Noun {
    User,
    Node,
    Subnet,
    Transaction,
    Other,
}

/// What happened to it, of what changes rows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verb {
    Write,
    Delete,
    Other,
}

/// A kind, read tolerantly: singular and plural were both sent.
struct Action {
    noun: Noun,
    verb: Verb,
}

impl Action {
    fn of(kind: &str) -> Self {
        let kind = kind.to_ascii_uppercase();
        let (noun, verb) = kind.split_once('|').unwrap_or((&kind, ""));
        let noun = match noun.trim() {
            "USER" | "USERS" => Noun::User,
            "NODE" | "NODES" => Noun::Node,
            noun if noun.starts_with("SUBNET") => Noun::Subnet,
            noun if noun.starts_with("TRAN") => Noun::Transaction,
            _ => Noun::Other,
        };
        let verb = match verb.trim() {
            "POST" | "PATCH" => Verb::Write,
            "DELETE" => Verb::Delete,
            _ => Verb::Other,
        };
        Self { noun, verb }
    }

    fn applies(&self) -> bool {
        matches!((self.noun, self.verb), (Noun::User, Verb::Write) | (Noun::Node, Verb::Write | Verb::Delete))
    }

    fn meaning(
        &self,
        object: Json<'_>,
        object_id: Option<Json<'_>>,
        subject: Option<&String>,
    ) -> Result<Meaning, Reason> {
        let effect = match (self.noun, self.verb) {
            (Noun::User, Verb::Write) => {
                let supplied = user_id(object.get(&["extra", "supp_id"]), "/_rest/extra/supp_id")?;
                let owner = supplied.map(|user| Claim { user: UserId(user), rank: Rank::Payload });
                Effect::status(permission(object)).owned(owner)
            }
            (Noun::Node, Verb::Write) => {
                Effect::ledger_account(&required_id(object_id, "/_id")?, Some(allowance(object)))
            }
            (Noun::Node, Verb::Delete) => {
                Effect::ledger_account(&required_id(object_id, "/_id")?, Some(StatusChange::closing("closed")))
            }
            _ => return Ok(Meaning::Record(None)),
        };
        Ok(effect.meaning(subject))
    }
}

/// A word of Synapse's as it is compared: upper case, with hyphens.
fn word(value: Option<Json<'_>>) -> String {
    let text = value.and_then(Json::text).unwrap_or_default();
    text.trim().to_ascii_uppercase().replace(['_', ' '], "-")
}

/// The status that a user's permission means; `None` = it says nothing that we know.
fn permission(user: Json<'_>) -> Option<StatusChange> {
    let [permission, code] = user.pick(["permission", "permission_code"]);
    let status = match word(permission).as_str() {
        "UNVERIFIED" | "RECEIVE" | "SEND" | "SEND-AND-RECEIVE" => StatusChange::open("active"),
        "LOCKED" => StatusChange::open("locked"),
        "CLOSED" | "MAKE-IT-GO-AWAY" => StatusChange::closing("closed"),
        _ => return None,
    };
    Some(status.because(code.and_then(Json::text).as_deref()))
}

/// The status that a node's allowance means.
fn allowance(node: Json<'_>) -> StatusChange {
    let [allowed, is_active] = node.pick(["allowed", "is_active"]);
    let allowed = word(allowed);
    if matches!(allowed.as_str(), "CLOSED" | "INACTIVE") || is_active.and_then(Json::flag) == Some(false) {
        StatusChange::closing("closed")
    } else if allowed == "LOCKED" {
        StatusChange::open("frozen")
    } else {
        StatusChange::open("open")
    }
}

/// An object id: a plain string, or Mongo's `{"$oid": …}`.
fn oid(value: Json<'_>) -> Option<Json<'_>> {
    if value.is_object() { value.get(&["$oid"]) } else { Some(value) }
}

/// Mongo's date in the forms that its exporters write: milliseconds as a number, a string or `{"$numberLong": …}`, or
/// text. What is none of these counts as missing.
fn date_of(value: Json<'_>) -> Option<Timestamp> {
    let date = if value.is_object() { value.get(&["$date"])? } else { value };
    let number = if date.is_object() { date.get(&["$numberLong"])? } else { date };
    milliseconds(number)
}

fn milliseconds(value: Json<'_>) -> Option<Timestamp> {
    let text = value.text().unwrap_or(std::borrow::Cow::Borrowed(value.raw()));
    let text = text.trim();
    if let Ok(millis) = text.parse::<i64>() {
        return Timestamp::from_millis(millis);
    }
    match text.parse::<f64>() {
        // Years 0001 to 9999 in milliseconds are far within the whole numbers that a float holds exactly.
        #[allow(clippy::cast_possible_truncation, reason = "cut to whole milliseconds, within range by the guard")]
        Ok(millis) if millis.abs() < 1e15 => Timestamp::from_millis(millis as i64),
        Ok(_) => None,
        Err(_) => Timestamp::parse(text),
    }
}

#[cfg(test)]
mod tests;

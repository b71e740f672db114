//! Auth0: a shared token instead of a signature, and two products behind one endpoint.
//!
//! Log streams send batches of tenant logs, event streams one CloudEvent per request; the body tells them apart. The
//! subject is the `user_id`, never an e-mail address: those can be masked, and change.

use async_trait::async_trait;
use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;
use uuid::Uuid;

use super::addresses;
use super::draft::{Draft, Effect};
use super::elements::{self, Json, id, informative_id, required_id, user_id};
use super::keep::Keep;
use super::signature::{fresh_secret, header, place_of, sha256};
use super::{Provider, Reader, Refusal, Request, Setup, Signer, Verified, Verifier};
use crate::config::{ConfigError, Variable};
use crate::domain::{
    Cause, Claim, DedupKey, Delivery, Email, Event, Meaning, Proof, ProviderName, Rank, Reason, Scope, StatusChange,
    Timestamp, UserId,
};

const NAME: ProviderName = ProviderName::new("auth0");
const ALLOW_FROM: &str = "FINHOOK_AUTH0_ALLOW_FROM";
const TOKENS: &str = "FINHOOK_AUTH0_TOKENS";

/// Auth0's entry in the list.
pub static PROVIDER: Provider = Provider {
    name: NAME,
    title: "Auth0",
    variables: &[
        Variable {
            name: TOKENS,
            secret: true,
            default: None,
            help: "Authorization tokens of Auth0's log and event streams, comma-separated; `t` accepts the values `t` and `Bearer t`.",
        },
        addresses::variable(
            ALLOW_FROM,
            "Addresses and networks that Auth0 may post from, comma-separated, as its list of your region says; unset, any.",
        ),
    ],
    binds_urls: false,
    verifier: |setup| {
        let tokens = tokens(setup)?;
        Ok((!tokens.is_empty()).then(|| Box::new(Auth0::new(&tokens)) as Box<dyn Verifier>))
    },
    reader: |_| Ok(Box::new(Auth0Reader)),
    signer: |setup| {
        let signer = tokens(setup)?.into_iter().next().and_then(|token| Auth0Signer::new(&token));
        Ok(signer.map(|signer| Box::new(signer) as Box<dyn Signer>))
    },
    allow_from: ALLOW_FROM,
    presets: &[],
    resends_refused: false,
    keeps: KEEPS,
    keeps_unread: Keep::Whole,
    development: || vec![(TOKENS, fresh_secret())],
};

/// What is read below, of log entries and of CloudEvents. Not addresses of machines, devices, prompts or names.
const KEEPS: Keep = Keep::Members(&[
    ("log_id", Keep::Whole),
    ("specversion", Keep::Whole),
    ("id", Keep::Whole),
    ("type", Keep::Whole),
    ("time", Keep::Whole),
    (
        "data",
        Keep::Members(&[
            ("date", Keep::Whole),
            ("type", Keep::Whole),
            ("user_id", Keep::Whole),
            ("user_name", Keep::Whole),
            ("email", Keep::Whole),
            ("details", Keep::Members(&[("email", Keep::Whole), ("body", Keep::Members(&[("email", Keep::Whole)]))])),
            ("app_metadata", METADATA),
            (
                "object",
                Keep::Members(&[
                    ("user_id", Keep::Whole),
                    ("email", Keep::Whole),
                    ("email_verified", Keep::Whole),
                    ("app_metadata", METADATA),
                ]),
            ),
        ]),
    ),
]);

const METADATA: Keep = Keep::Members(&[("external_user_id", Keep::Whole)]);

/// The tokens, each of which has to fit into a header field.
fn tokens(setup: &Setup<'_>) -> Result<Vec<SecretString>, ConfigError> {
    let tokens = setup.values.secrets(TOKENS)?;
    let fits = |token: &SecretString| token.expose_secret().bytes().all(|byte| matches!(byte, b' '..=b'~'));
    match tokens.iter().position(|token| !fits(token)) {
        Some(index) => {
            let problem =
                format!("entry {} has characters that no header field can carry: use visible ASCII", index + 1);
            Err(setup.values.error(TOKENS, problem))
        }
        None => Ok(tokens),
    }
}

/// Proves deliveries of Auth0.
pub struct Auth0 {
    tokens: Vec<SecretString>,
    /// Digests of the tokens: equal in length, so that comparing them says nothing about a token's.
    digests: Vec<[u8; 32]>,
}

impl Auth0 {
    /// Accepts any of these tokens, as they are or after `Bearer `.
    pub fn new(tokens: &[SecretString]) -> Self {
        Self {
            tokens: tokens.to_vec(),
            digests: tokens.iter().map(|token| sha256(token.expose_secret().as_bytes())).collect(),
        }
    }
}

#[async_trait]
impl Verifier for Auth0 {
    async fn verify(&self, request: &Request<'_>, _now: Timestamp) -> Result<Verified, Refusal> {
        let presented = header(request.headers, AUTHORIZATION.as_str())?.ok_or(Refusal::Missing)?;
        let whole = sha256(presented.as_bytes());
        let bare = sha256(presented.strip_prefix("Bearer ").unwrap_or(presented).as_bytes());
        // Every token is compared, whichever holds, so that time tells nothing.
        let place = place_of(&self.digests, |token| token.ct_eq(&whole) | token.ct_eq(&bare));
        let proof = Proof { scheme: "token".to_owned(), ..Proof::default() };
        if place.is_some() { Ok(Verified { provider: NAME, proof, place }) } else { Err(Refusal::Mismatch) }
    }

    fn secrets(&self) -> &[SecretString] {
        &self.tokens
    }
}

/// Sends the token as a log stream does.
pub struct Auth0Signer {
    token: HeaderValue,
}

impl Auth0Signer {
    /// `None` if the token fits into no header field.
    pub fn new(token: &SecretString) -> Option<Self> {
        let mut token = HeaderValue::from_str(token.expose_secret()).ok()?;
        token.set_sensitive(true);
        Some(Self { token })
    }
}

impl Signer for Auth0Signer {
    fn sign(&self, _body: &[u8], _now: Timestamp) -> Vec<(HeaderName, HeaderValue)> {
        vec![(AUTHORIZATION, self.token.clone())]
    }
}

/// Reads deliveries of Auth0.
pub struct Auth0Reader;

impl Reader for Auth0Reader {
    fn events(&self, delivery: &Delivery) -> Vec<Event> {
        match delivery.scope {
            Scope::Element => vec![element(delivery, &delivery.bytes)],
            _ => body(delivery, &delivery.bytes),
        }
    }
}

/// A body: a JSON array, `{"logs":[…]}`, a single object, or one object per line.
fn body(delivery: &Delivery, bytes: &Bytes) -> Vec<Event> {
    if let Some(open) = array(bytes) {
        let batch = elements::batch(bytes, open);
        let events = batch.elements.iter().map(|bytes| element(delivery, bytes));
        let rest = batch.remainder.iter().flat_map(|rest| match array(rest) {
            // A lone opening bracket leaves itself.
            Some(_) => vec![Draft::body(rest.clone()).dead(delivery, Cause::NotJson.into())],
            None => body(delivery, rest),
        });
        return events.chain(rest).collect();
    }
    let whole = Json::parse(bytes);
    let reason = match whole {
        Ok(json) if json.is_object() => return vec![element(delivery, bytes)],
        Ok(_) => Cause::WrongShape.into(),
        Err(reason) => {
            let lines = lines(bytes);
            if !lines.is_empty() {
                return lines.iter().map(|line| element(delivery, line)).collect();
            }
            reason
        }
    };
    vec![Draft::body(bytes.clone()).dead(delivery, reason)]
}

/// Where the array of elements opens, if the body is one or has one in `logs`.
fn array(bytes: &Bytes) -> Option<usize> {
    let first = bytes.iter().position(|byte| !byte.is_ascii_whitespace())?;
    if bytes.get(first) == Some(&b'[') {
        return Some(first);
    }
    // An element of its own can have a member of that name too.
    let element = Json::parse(bytes).is_ok_and(|json| json.has("log_id") || json.has("specversion"));
    if element { None } else { elements::array_member(bytes, "logs") }
}

/// The lines of NDJSON, blank ones left out. None at all if this is rather one broken value over several lines: of
/// NDJSON at least one line is an object, or all of them begin like one.
fn lines(bytes: &Bytes) -> Vec<Bytes> {
    let lines: Vec<Bytes> = bytes
        .split(|byte| *byte == b'\n')
        .map(<[u8]>::trim_ascii)
        .filter(|line| !line.is_empty())
        .map(|line| bytes.slice_ref(line))
        .collect();
    let object = |line: &Bytes| Json::parse(line).is_ok_and(Json::is_object);
    let likely = lines.len() > 1 && (lines.iter().any(object) || lines.iter().all(|line| line.starts_with(b"{")));
    if likely { lines } else { Vec::new() }
}

/// One log entry or CloudEvent.
fn element(delivery: &Delivery, bytes: &Bytes) -> Event {
    let json = match Json::parse(bytes) {
        Ok(json) if json.is_object() => json,
        Ok(_) => return Draft::element(bytes.clone()).dead(delivery, Cause::WrongShape.into()),
        Err(reason) => return Draft::element(bytes.clone()).dead(delivery, reason),
    };
    let [version, log_id, event_id, cloud_type, cloud_time, data] =
        json.pick(["specversion", "log_id", "id", "type", "time", "data"]);
    let read = if version.is_some() {
        let user = data.and_then(|data| data.get(&["object"]));
        Entry {
            id: required_id(event_id, "/id"),
            kind: required_id(cloud_type, "/type"),
            time: cloud_time,
            user,
            user_path: "/data/object/user_id",
            means: cloud_event,
        }
    } else {
        let [kind, date] = data.map_or([None; 2], |data| data.pick(["type", "date"]));
        Entry {
            id: required_id(log_id, "/log_id"),
            kind: required_id(kind, "/data/type"),
            time: date,
            user: data,
            user_path: "/data/user_id",
            means: log_entry,
        }
    };
    read.event(delivery, bytes)
}

/// What a kind means, from its object and its subject; `None` = recorded.
type Means = fn(&str, Option<Json<'_>>, Option<&str>) -> Result<Option<Effect>, Reason>;

/// An element of either product, as far as they are alike.
struct Entry<'a> {
    id: Result<String, Reason>,
    kind: Result<String, Reason>,
    time: Option<Json<'a>>,
    user: Option<Json<'a>>,
    user_path: &'static str,
    means: Means,
}

impl Entry<'_> {
    fn event(self, delivery: &Delivery, bytes: &Bytes) -> Event {
        let kind = self.kind.as_deref().unwrap_or_default();
        let applying = (self.means)(kind, None, None).is_ok_and(|effect| effect.is_some());
        let user_id = self.user.and_then(|user| user.get(&["user_id"]));
        let subject = if applying {
            id(user_id, self.user_path)
        } else if kind == "sapi" {
            // The user_id of an API operation is the administrator's: not what it is about.
            Ok(None)
        } else {
            informative_id(user_id, self.user_path)
        };
        let named = subject.as_ref().ok().and_then(Option::as_ref);
        let meaning = self
            .id
            .as_ref()
            .and(self.kind.as_ref())
            .map_err(Reason::clone)
            .and_then(|_| subject.as_ref().map_err(Reason::clone))
            .and_then(|_| (self.means)(kind, self.user, named.map(String::as_str)))
            .map(|effect| effect.map_or(Meaning::Record(None), |effect| effect.meaning(named)));
        let draft = Draft {
            key: self.id.ok().as_deref().map(DedupKey::from_id),
            kind: self.kind.ok(),
            subject: subject.ok().flatten(),
            stated: self.time.and_then(Json::text).and_then(|text| Timestamp::parse(&text)),
            ..Draft::element(bytes.clone())
        };
        draft.settle(delivery, meaning)
    }
}

/// What a tenant log entry means. `data` is the entry's own object.
fn log_entry(kind: &str, data: Option<Json<'_>>, subject: Option<&str>) -> Result<Option<Effect>, Reason> {
    let addresses = |paths: &[&[&str]], verified: bool| {
        paths.iter().find_map(|path| Email::parse(data?.get(path)?.text()?.trim(), verified))
    };
    const STATED: &[&[&str]] = &[&["user_name"], &["email"]];
    const ANYWHERE: &[&[&str]] = &[&["user_name"], &["email"], &["details", "email"], &["details", "body", "email"]];
    Ok(Some(match kind {
        "ss" => {
            let owner = stated_owner(data)?.or_else(|| derived_owner(subject));
            Effect::status(StatusChange::open("active")).owned(owner).with_email(addresses(STATED, false))
        }
        "s" => Effect::touch().owned(derived_owner(subject)),
        "sv" => Effect::touch().owned(derived_owner(subject)).with_email(addresses(ANYWHERE, true)),
        "sdu" => Effect::status(StatusChange::closing_for_good("deleted")),
        _ => return Ok(None),
    }))
}

/// What a CloudEvent means. `user` is its `data.object`.
fn cloud_event(kind: &str, user: Option<Json<'_>>, subject: Option<&str>) -> Result<Option<Effect>, Reason> {
    let [address, verified] = user.map_or([None; 2], |user| user.pick(["email", "email_verified"]));
    let verified = verified.and_then(Json::flag).unwrap_or(false);
    let email = address.and_then(Json::text).and_then(|address| Email::parse(address.trim(), verified));
    Ok(Some(match kind.strip_prefix("com.auth0.").unwrap_or(kind) {
        "user.created" => {
            let owner = stated_owner(user)?.or_else(|| derived_owner(subject));
            Effect::status(StatusChange::open("active")).owned(owner).with_email(email)
        }
        "user.updated" => Effect::touch().owned(stated_owner(user)?).with_email(email),
        "user.deleted" => Effect::status(StatusChange::closing_for_good("deleted")),
        _ => return Ok(None),
    }))
}

/// The claim of our own id in a user's metadata.
fn stated_owner(user: Option<Json<'_>>) -> Result<Option<Claim>, Reason> {
    let stated = user.and_then(|user| user.get(&["app_metadata", "external_user_id"]));
    let stated = user_id(stated, "/data/object/app_metadata/external_user_id")?;
    Ok(stated.map(|user| Claim { user: UserId(user), rank: Rank::Payload }))
}

/// The claim of the user that is derived from the Auth0 user, for tenants whose users start there: always the same one.
fn derived_owner(subject: Option<&str>) -> Option<Claim> {
    let derived = Uuid::new_v5(&Uuid::NAMESPACE_URL, format!("auth0:{}", subject?).as_bytes());
    Some(Claim { user: UserId(derived.to_string()), rank: Rank::Inferred })
}

#[cfg(test)]
mod tests;

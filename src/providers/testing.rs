//! What the providers' tests share: deliveries without a proof, requests, settings, and the law of reading again.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

use super::keep;
use super::{PROVIDERS, Provider, Reader, Refusal, Request, Setup, Verified, Verifier};
use crate::config::sources::Sources;
use crate::config::{Values, Variable};
use crate::crypto::UrlKeys;
use crate::domain::{Change, Delivery, Event, Meaning, Proof, Scope, Timestamp, WallClock};

/// Tuesday, 5 August 2025, 07:00:00 UTC.
pub fn received_at() -> Timestamp {
    Timestamp::from_seconds(1_754_377_200).unwrap()
}

/// A delivery as the receiver would make it.
pub fn delivery(provider: &Provider, body: impl Into<Bytes>, proof: Proof) -> Delivery {
    Delivery::assemble(Uuid::nil(), provider.name, received_at(), proof, Scope::Body, false, body.into())
}

/// The events of a body; each is also read again from its own bytes, which must give it again.
pub fn events(provider: &Provider, reader: &dyn Reader, body: impl Into<Bytes>, proof: Proof) -> Vec<Event> {
    let delivery = delivery(provider, body, proof);
    let events = reader.events(&delivery);
    for event in &events {
        let stored = keep::stored(&delivery, event);
        let again = reader.events(&stored);
        let same = again.iter().find(|again| again.dedup_key == event.dedup_key);
        let shown = |event: &Event| (format!("{event:?}"), event.meaning.clone(), event.scope);
        assert_eq!(same.map(shown), Some(shown(event)));
        // And once more, as after a replay of a replay.
        assert_eq!(same.map(|same| keep::stored(&stored, same).bytes), Some(stored.bytes.clone()));
        for text in [&event.kind, &event.subject].into_iter().flatten() {
            assert!(text.len() <= 200 && !text.contains('\0') && !text.is_empty());
        }
        if let Meaning::Apply(changes) = &event.meaning {
            let mut ids = Vec::new();
            for (index, change) in changes.iter().enumerate() {
                match change {
                    Change::Integration { .. } => assert_eq!(index, 0),
                    Change::Account { external_id, .. } => ids.push(external_id.expose().to_owned()),
                }
            }
            assert_eq!(ids.len() + 1, changes.len());
            ids.sort();
            ids.dedup();
            assert_eq!(ids.len() + 1, changes.len(), "an account twice");
            assert!(event.subject.is_some());
        }
    }
    events
}

/// The one event of a body.
pub fn event(provider: &Provider, reader: &dyn Reader, body: impl Into<Bytes>) -> Event {
    let mut events = events(provider, reader, body, Proof::default());
    assert_eq!(events.len(), 1, "{events:?}");
    events.remove(0)
}

/// `dead missing_field at /id`, `recorded`, `recorded no_subject`, or the changes: `c1 active=u1@2 | account a1 closed! (why)`;
/// `!` marks what closes, `!!` what closes for good.
pub fn shown(event: &Event) -> String {
    let changes = match &event.meaning {
        Meaning::Dead(reason) => return format!("dead {reason}"),
        Meaning::Record(None) => return "recorded".to_owned(),
        Meaning::Record(Some(reason)) => return format!("recorded {reason}"),
        Meaning::Apply(changes) => changes,
    };
    let status = |status: &Option<crate::domain::StatusChange>| match status {
        None => "touch".to_owned(),
        Some(status) => {
            let mark = if status.is_final {
                "!!"
            } else if status.closing {
                "!"
            } else {
                ""
            };
            let reason = status.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
            format!("{}{mark}{reason}", status.status)
        }
    };
    let one = |change: &Change| match change {
        Change::Integration { status: it, owner, email } => {
            let subject = event.subject.as_deref().unwrap_or("?");
            let owner = owner.as_ref().map(|claim| format!("={}@{}", claim.user, claim.rank.number()));
            let email = email.as_ref().map(|email| format!(" <{}> {}", email.address, email.verified));
            format!("{subject} {}{}{}", status(it), owner.unwrap_or_default(), email.unwrap_or_default())
        }
        Change::Account { external_id, baas_id, status: it } => {
            let baas = match baas_id {
                Some(baas) if baas == external_id => "ledger account",
                Some(_) => "odd account",
                None => "account",
            };
            format!("{baas} {} {}", external_id.expose(), status(it))
        }
    };
    changes.iter().map(one).collect::<Vec<_>>().join(" | ")
}

/// Header fields from names and values.
pub fn headers(fields: &[(&str, &[u8])]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_bytes(value).unwrap());
    }
    headers
}

/// Asks a verifier that needs no network.
pub fn verify(
    verifier: &dyn Verifier,
    headers: &HeaderMap,
    body: &[u8],
    token: Option<&str>,
    now: Timestamp,
) -> Result<Verified, Refusal> {
    let body = Bytes::copy_from_slice(body);
    let request = Request { headers, body: &body, token };
    futures_util::FutureExt::now_or_never(verifier.verify(&request, now)).unwrap()
}

/// Settings as the environment would give them.
pub fn values(settings: &[(&str, &str)]) -> Values {
    let declared: Vec<&'static [Variable]> = PROVIDERS.iter().map(|provider| provider.variables).collect();
    let sources = Sources::of(settings.iter().copied());
    Values::load(&sources, &declared)
        .map_err(|errors| errors.into_iter().map(|e| e.to_string()).collect::<Vec<_>>())
        .unwrap()
}

/// What a provider's parts are made from.
pub fn setup<'a>(values: &'a Values, url_keys: Option<Arc<UrlKeys>>) -> Setup<'a> {
    Setup { values, url_keys, clock: WallClock::held(received_at()) }
}

/// Bodies that no provider sends: each must be exactly one dead event.
pub const HOSTILE: &[&[u8]] = &[
    b"",
    b" \r\n\t ",
    b"\xff\xfe",
    b"{\"a\":\"\xc3\x28\"}",
    b"null",
    b"true",
    b"1e999",
    b"\"text\"",
    b"{",
    b"[",
    b" [ ",
    b"}",
    b"]",
    b"{\"a\":",
    b"nul",
    b"\"",
    b"\\",
    b",",
    b":",
    b"{\"a\" 1}",
    b"{} {}",
    b"\xef\xbb\xbf{}",
    b"<xml/>",
];

/// Ten thousand levels deep, closed or not.
pub fn deep() -> Vec<Vec<u8>> {
    let depth = 10_000;
    let nested =
        |open: &str, close: &str| format!("{{\"x\":{}{}}}", open.repeat(depth), close.repeat(depth)).into_bytes();
    vec![
        nested("[", "]"),
        nested("{\"a\":", ""),
        nested("[", "}"),
        format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth)).into_bytes(),
    ]
}

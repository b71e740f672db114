//! What a sealed delivery looks like inside and in front: the clear frame of a queue message, the head, the raw bytes.
//!
//! The frame tells a worker which provider and id the seal was made for; both are bound by the seal and repeated in the
//! head, so a message property of the broker is never trusted. The head may grow: unknown fields are ignored, and a field
//! that is new must have a default, because payloads are opened years later and workers of two versions share a queue.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::OpenError;
use super::cipher::OVERHEAD;
use crate::domain::{DedupKey, Delivery, Proof, ProviderName, Scope, Timestamp, TraceParent, UserId};

/// The only version of a frame.
const FRAME_VERSION: u8 = 1;
/// More than the head's field names, id, numbers and quotes take up.
const HEAD_ROOM: usize = 464;

/// The clear frame of a queue message: what the message says that it is.
pub(super) struct Frame<'a> {
    /// The provider's name.
    pub(super) provider: &'a str,
    /// The delivery's id.
    pub(super) id: Uuid,
}

impl<'a> Frame<'a> {
    /// Appends the frame of a delivery to an empty buffer.
    pub(super) fn write(delivery: &Delivery, buffer: &mut Vec<u8>) {
        let name = delivery.provider.as_str();
        buffer.push(FRAME_VERSION);
        // Provider names are constants of `providers`, which paths, queues and metric labels carry too: a few letters.
        buffer.push(u8::try_from(name.len()).expect("a provider's name below 256 bytes"));
        buffer.extend_from_slice(name.as_bytes());
        buffer.extend_from_slice(delivery.id.as_bytes());
    }

    /// Splits a message into its frame and the envelope behind it.
    pub(super) fn split(message: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let ([FRAME_VERSION, len], rest) = message.split_first_chunk::<2>()? else { return None };
        let (name, rest) = rest.split_at_checked(usize::from(*len))?;
        let (id, envelope) = rest.split_first_chunk::<16>()?;
        Some((Self { provider: std::str::from_utf8(name).ok()?, id: Uuid::from_bytes(*id) }, envelope))
    }
}

/// Which provider and delivery a message says that it is, without opening it: for the dead row of one that does not open.
/// Nothing here is proved.
pub fn frame_of(message: &[u8]) -> Option<(String, Uuid)> {
    Frame::split(message).map(|(frame, _)| (frame.provider.to_owned(), frame.id))
}

/// A message that cannot be opened, as a delivery of its own: to be sealed again and kept until it can.
pub fn kept(provider: ProviderName, received_at: Timestamp, message: Bytes) -> Delivery {
    let id = frame_of(&message).map_or(Uuid::nil(), |(_, id)| id);
    Delivery::assemble(id, provider, received_at, Proof::default(), Scope::Message, false, message)
}

/// The head as it is written.
#[derive(Serialize)]
struct HeadOut<'a> {
    id: Uuid,
    provider: &'a str,
    received_at: i64,
    proof: ProofOut<'a>,
    scope: ScopeName,
    force: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<String>,
    /// In hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
}

#[derive(Serialize)]
struct ProofOut<'a> {
    scheme: &'a str,
    iat: Option<i64>,
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<&'a str>,
}

/// The head as it is read. `id`, `provider` and `received_at` (microseconds) are what every version has to write.
#[derive(Deserialize)]
struct HeadIn {
    id: Uuid,
    provider: String,
    received_at: i64,
    #[serde(default)]
    proof: ProofIn,
    #[serde(default)]
    scope: ScopeName,
    #[serde(default)]
    force: bool,
    #[serde(default)]
    traceparent: Option<String>,
    #[serde(default)]
    key: Option<String>,
}

#[derive(Deserialize, Default)]
struct ProofIn {
    #[serde(default)]
    scheme: String,
    #[serde(default)]
    iat: Option<i64>,
    #[serde(default)]
    user: Option<String>,
    #[serde(default)]
    secret: Option<String>,
}

#[derive(Serialize, Deserialize, Default, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum ScopeName {
    #[default]
    Body,
    Element,
    Message,
}

/// Room for a whole message, so that it is written, sealed and sent in one buffer. JSON makes at most six bytes of one.
pub(super) fn room_for(delivery: &Delivery) -> usize {
    let user = delivery.proof.user.as_ref().map_or(0, |user| user.as_str().len());
    let frame = 2 + delivery.provider.as_str().len() + 16;
    let head = 4 + HEAD_ROOM + 6 * (delivery.provider.as_str().len() + delivery.proof.scheme.len() + user);
    frame + head + delivery.bytes.len() + OVERHEAD
}

/// Appends the plaintext of a delivery's envelope: length of the head, head, raw bytes.
pub(super) fn write_plaintext(delivery: &Delivery, buffer: &mut Vec<u8>) {
    let head = HeadOut {
        id: delivery.id,
        provider: delivery.provider.as_str(),
        received_at: delivery.received_at.micros(),
        proof: ProofOut {
            scheme: &delivery.proof.scheme,
            iat: delivery.proof.iat,
            user: delivery.proof.user.as_ref().map(UserId::as_str),
            secret: delivery.proof.secret.as_deref(),
        },
        scope: match delivery.scope {
            Scope::Body => ScopeName::Body,
            Scope::Element => ScopeName::Element,
            Scope::Message => ScopeName::Message,
        },
        force: delivery.force,
        traceparent: delivery.trace.map(|trace| trace.to_string()),
        key: delivery.key.as_ref().map(|key| hex(key.as_bytes())),
    };
    let length_at = buffer.len();
    buffer.extend_from_slice(&[0; 4]);
    // Text and numbers always have a JSON form, and writing to memory does not fail.
    serde_json::to_writer(&mut *buffer, &head).expect("a head has a JSON form");
    // A head has ids, times and the user of a URL's token: a few hundred bytes, and a request's own head has its limit.
    let length = u32::try_from(buffer.len() - length_at - 4).expect("a head below 4 GiB");
    if let Some(place) = buffer.get_mut(length_at..length_at + 4) {
        place.copy_from_slice(&length.to_be_bytes());
    }
    buffer.extend_from_slice(&delivery.bytes);
}

/// Reads an opened envelope of `provider`. The head has to repeat the provider (and the id, where the frame said one):
/// what was sealed decides, never what stood around it. The body is not copied.
pub(super) fn read_plaintext(
    mut plaintext: Zeroizing<Vec<u8>>,
    provider: &str,
    id: Option<Uuid>,
    find: &dyn Fn(&str) -> Option<ProviderName>,
) -> Result<Delivery, OpenError> {
    let (head, body_at) = read_head(&plaintext).ok_or(OpenError::Refused)?;
    if head.provider != provider || id.is_some_and(|id| id != head.id) {
        return Err(OpenError::Refused);
    }
    let received_at = Timestamp::from_micros(head.received_at).ok_or(OpenError::Refused)?;
    let provider = find(&head.provider).ok_or(OpenError::UnknownProvider)?;
    let proof = Proof {
        scheme: head.proof.scheme,
        iat: head.proof.iat,
        user: head.proof.user.map(UserId),
        secret: head.proof.secret,
    };
    let scope = match head.scope {
        ScopeName::Body => Scope::Body,
        ScopeName::Element => Scope::Element,
        ScopeName::Message => Scope::Message,
    };
    // One that cannot be read is none: no delivery is lost for its trace.
    let trace = head.traceparent.as_deref().and_then(TraceParent::parse);
    let body = Bytes::from(std::mem::take(&mut *plaintext)).slice(body_at..);
    let key = head.key.map(|key| unhex(&key).ok_or(OpenError::Refused)).transpose()?;
    let delivery = Delivery::assemble(head.id, provider, received_at, proof, scope, head.force, body).traced(trace);
    Ok(Delivery { key: key.map(DedupKey::from_stored), ..delivery })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let (pairs, odd) = text.as_bytes().as_chunks::<2>();
    let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    if odd.is_empty() { pairs.iter().map(byte).collect() } else { None }
}

/// Where the message starts that an opened payload keeps as it came; `None` if the payload is an event's own.
pub(super) fn kept_at(plaintext: &[u8]) -> Option<usize> {
    let (head, body_at) = read_head(plaintext)?;
    matches!(head.scope, ScopeName::Message).then_some(body_at)
}

/// The head, and where the body starts.
fn read_head(plaintext: &[u8]) -> Option<(HeadIn, usize)> {
    let (length, rest) = plaintext.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let (head, _) = rest.split_at_checked(length)?;
    Some((serde_json::from_slice(head).ok()?, 4 + length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plaintext(head: &str, body: &[u8]) -> Zeroizing<Vec<u8>> {
        let mut bytes = u32::try_from(head.len()).unwrap().to_be_bytes().to_vec();
        bytes.extend_from_slice(head.as_bytes());
        bytes.extend_from_slice(body);
        Zeroizing::new(bytes)
    }

    fn find(name: &str) -> Option<ProviderName> {
        (name == "unit").then_some(ProviderName::new("unit"))
    }

    const ID: &str = "0192f0c4-0000-7000-8000-000000000001";

    #[test]
    fn a_head_with_unknown_fields_and_without_newer_ones_is_read() {
        let head =
            format!(r#"{{"id":"{ID}","provider":"unit","received_at":7,"later":{{"deep":[1]}},"proof":{{"x":1}}}}"#);
        let delivery = read_plaintext(plaintext(&head, b"body"), "unit", None, &find).unwrap();
        assert_eq!((delivery.scope, delivery.force, &delivery.bytes[..]), (Scope::Body, false, &b"body"[..]));
        assert_eq!((delivery.proof, delivery.received_at.micros()), (Proof::default(), 7));
        assert_eq!(delivery.trace, None);
    }

    #[test]
    fn a_trace_is_read_and_one_that_is_malformed_costs_nothing_but_itself() {
        for (given, read) in [
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", true),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331", false),
        ] {
            let head = format!(r#"{{"id":"{ID}","provider":"unit","received_at":7,"traceparent":"{given}"}}"#);
            let delivery = read_plaintext(plaintext(&head, b"body"), "unit", None, &find).unwrap();
            assert_eq!(delivery.trace.map(|trace| trace.to_string()).as_deref(), read.then_some(given));
        }
    }

    #[test]
    fn a_head_that_names_another_provider_or_id_than_its_frame_is_refused() {
        let head = format!(r#"{{"id":"{ID}","provider":"unit","received_at":7}}"#);
        let read = |provider: &str, id| read_plaintext(plaintext(&head, b""), provider, id, &find).map(|_| ());
        assert_eq!(read("unit", Some(ID.parse().unwrap())), Ok(()));
        assert_eq!(read("plaid", None), Err(OpenError::Refused));
        assert_eq!(read("unit", Some(Uuid::nil())), Err(OpenError::Refused));
    }

    #[test]
    fn a_head_longer_than_its_plaintext_is_refused() {
        let mut bytes = plaintext("{}", b"");
        for first in [0u8, 0xff] {
            bytes[0] = first;
            bytes[3] = 0xff;
            assert_eq!(read_plaintext(bytes.clone(), "unit", None, &find).map(|_| ()), Err(OpenError::Refused));
        }
    }

    #[test]
    fn a_frame_names_provider_and_id_and_garbage_names_nothing() {
        let mut message = vec![1, 4];
        message.extend_from_slice(b"unit");
        message.extend_from_slice(ID.parse::<Uuid>().unwrap().as_bytes());
        assert_eq!(frame_of(&message), Some(("unit".into(), ID.parse().unwrap())));
        for end in 0..message.len() {
            assert_eq!(frame_of(&message[..end]), None);
        }
        message[0] = 2;
        assert_eq!(frame_of(&message), None);
    }
}

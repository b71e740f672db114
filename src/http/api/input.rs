//! What a request says, read strictly: unknown fields, wrong types and values out of range are refused by the name of the
//! field, and nothing that was sent is repeated.

use std::time::Duration;

use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderMap, Version};
use http_body_util::BodyExt;
use hyper::body::Body as _;
use secrecy::SecretString;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::error::Category;
use serde_path_to_error::Segment;
use uuid::Uuid;

use super::problem::{Cause, Wrong};
use crate::domain::Timestamp;
use crate::http::body::drain;

/// The largest body: a thousand ids and a filter have room twice.
pub const MAX_BODY: usize = 128 << 10;
/// From the head to the end of the body.
const BODY_TIME: Duration = Duration::from_secs(10);

/// Parameters of the query.
pub struct Query<T>(pub T);

/// A JSON body.
pub struct Body<T>(pub T);

/// The id of an event, in the path.
pub struct EventId(pub Uuid);

/// Answers a request whose body was not read: what arrives of it is thrown away, so that closing does not overtake the
/// answer.
pub fn refuse(request: Request, cause: Cause) -> Cause {
    let (head, body) = request.into_parts();
    if head.version <= Version::HTTP_11 {
        drain(&head.headers, body);
    }
    cause
}

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Cause;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Cause> {
        query(parts.uri.query().unwrap_or_default()).map(Self)
    }
}

/// Reads a query. Every parameter is text here; what it has to be is checked where it is used, by its name.
fn query<T: DeserializeOwned>(text: &str) -> Result<T, Cause> {
    let wrong = |detail: String| Cause::Malformed(vec![Wrong { parameter: None, pointer: None, detail }]);
    let pairs: Vec<(String, String)> =
        serde_urlencoded::from_str(text).map_err(|_| wrong("the query is not name=value&…".to_owned()))?;
    let given = pairs.len();
    let fields: serde_json::Map<String, Value> =
        pairs.into_iter().map(|(name, value)| (name, Value::String(value))).collect();
    if fields.len() < given {
        return Err(wrong("a query parameter is given twice".to_owned()));
    }
    serde_json::from_value(Value::Object(fields)).map_err(|error| {
        let known = known_fields(&error.to_string()).unwrap_or_default();
        wrong(format!("a query parameter is not known here; known: {known}"))
    })
}

/// The names that are known, from serde's text about one that is not; `None` if that is not what went wrong. What was sent
/// stands in the same text, so only what follows the last of serde's own words is taken.
fn known_fields(text: &str) -> Option<String> {
    if !text.starts_with("unknown field") {
        return None;
    }
    let known = text.rsplit_once(", expected ").map_or("none", |(_, known)| known);
    let known = known.trim_start_matches("one of ").split(" at line ").next().unwrap_or_default();
    Some(known.replace('`', "").replace(" or ", ", "))
}

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for Body<T> {
    type Rejection = Cause;

    async fn from_request(request: Request, _: &S) -> Result<Self, Cause> {
        if !is_type(request.headers(), "application/json") {
            return Err(refuse(request, Cause::MediaType("send application/json")));
        }
        json(&read(request).await?).map(Self)
    }
}

/// Whether a request's body is said to be of this type, parameters aside.
pub fn is_type(headers: &HeaderMap, wanted: &str) -> bool {
    let given = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    given.split(';').next().is_some_and(|given| given.trim().eq_ignore_ascii_case(wanted))
}

/// Reads a whole body, within its size and time.
pub async fn read(request: Request) -> Result<Vec<u8>, Cause> {
    if request.body().size_hint().lower() > MAX_BODY as u64 {
        return Err(refuse(request, Cause::TooLarge));
    }
    let (head, mut body) = request.into_parts();
    let mut gathered = Vec::new();
    let reading = async {
        while let Some(frame) = body.frame().await {
            // The sender went away, or its chunks are not chunks.
            let frame = frame.map_err(|_| malformed("the body broke off"))?;
            let Ok(data) = frame.into_data() else { continue };
            if gathered.len() + data.len() > MAX_BODY {
                return Err(Cause::TooLarge);
            }
            gathered.extend_from_slice(&data);
        }
        Ok(())
    };
    match tokio::time::timeout(BODY_TIME, reading).await.unwrap_or(Err(Cause::TooSlow)) {
        Ok(()) => Ok(gathered),
        Err(cause) => {
            if cause == Cause::TooLarge && head.version <= Version::HTTP_11 {
                drain(&head.headers, body);
            }
            Err(cause)
        }
    }
}

/// Reads JSON of this shape.
pub fn json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Cause> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let read = serde_path_to_error::deserialize(&mut reader);
    let value = read.map_err(|error| {
        if error.inner().classify() != Category::Data {
            return not_json(error.inner());
        }
        // The text can quote what was sent; only its beginning, which is serde's, is looked at.
        let text = error.inner().to_string();
        let mut names: Vec<String> = error.path().iter().map(segment).collect();
        let detail = if let Some(known) = known_fields(&text) {
            // Its last name is the unknown one.
            names.pop();
            format!("has a field that is not known here; known: {known}")
        } else if text.starts_with("missing field") {
            "lacks a field that it needs".to_owned()
        } else if text.starts_with("duplicate field") {
            "has a field twice".to_owned()
        } else {
            "is not what is taken here".to_owned()
        };
        Cause::Invalid(vec![Wrong::pointer(names.concat(), detail)])
    })?;
    reader.end().map_err(|error| not_json(&error))?;
    Ok(value)
}

fn segment(segment: &Segment) -> String {
    match segment {
        Segment::Seq { index } => format!("/{index}"),
        // A name of our own: serde stops at the first that is not.
        Segment::Map { key } => format!("/{key}"),
        Segment::Enum { .. } | Segment::Unknown => String::new(),
    }
}

fn not_json(error: &serde_json::Error) -> Cause {
    Cause::Malformed(vec![Wrong {
        parameter: None,
        pointer: Some(String::new()),
        detail: format!("is not JSON: line {}, column {}", error.line(), error.column()),
    }])
}

fn malformed(detail: &str) -> Cause {
    Cause::Malformed(vec![Wrong { parameter: None, pointer: None, detail: detail.to_owned() }])
}

impl<S: Send + Sync> FromRequestParts<S> for EventId {
    type Rejection = Cause;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Cause> {
        let wrong = || Cause::Malformed(vec![Wrong::parameter("id", "is not a UUID")]);
        let Path(text) = Path::<String>::from_request_parts(parts, state).await.map_err(|_| wrong())?;
        Uuid::parse_str(&text).map(Self).map_err(|_| wrong())
    }
}

/// Text that nobody may print, and that is wiped when it is dropped.
pub fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SecretString, D::Error> {
    String::deserialize(deserializer).map(SecretString::from)
}

/// The same where it may be left out.
pub fn maybe_secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SecretString>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.map(SecretString::from))
}

/// No parameters at all.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// What is wrong with several fields, gathered so that all of it is said at once.
#[derive(Default)]
pub struct Check {
    wrong: Vec<Wrong>,
}

/// Where a value stood.
#[derive(Clone, Copy)]
pub enum At {
    /// In the path or the query.
    Parameter(&'static str),
    /// In the body.
    Pointer(&'static str),
}

impl Check {
    /// Notes that a value is not as it has to be.
    pub fn wrong(&mut self, at: At, detail: impl Into<String>) {
        self.wrong.push(match at {
            At::Parameter(name) => Wrong::parameter(name, detail),
            At::Pointer(pointer) => Wrong::pointer(pointer, detail),
        });
    }

    /// A value that is there and can be read.
    pub fn read<T>(
        &mut self,
        at: At,
        given: Option<&str>,
        expected: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let value = read(given?);
        if value.is_none() {
            self.wrong(at, format!("is not {expected}"));
        }
        value
    }

    /// An RFC 3339 time.
    pub fn time(&mut self, at: At, given: Option<&str>) -> Option<Timestamp> {
        self.read(at, given, "an RFC 3339 time such as 2026-01-31T12:00:00Z", Timestamp::parse)
    }

    /// Text as the tables' columns of ids hold it.
    pub fn id(&mut self, at: At, given: Option<String>) -> Option<String> {
        self.read(at, given.as_deref(), "1 to 200 bytes of text without NUL", |text| is_id(text).then_some(()))?;
        given
    }

    /// Nothing was wrong with parameters: 400 otherwise.
    pub fn parameters(self) -> Result<(), Cause> {
        if self.wrong.is_empty() { Ok(()) } else { Err(Cause::Malformed(self.wrong)) }
    }

    /// Nothing was wrong with fields of the body: 422 otherwise.
    pub fn fields(self) -> Result<(), Cause> {
        if self.wrong.is_empty() { Ok(()) } else { Err(Cause::Invalid(self.wrong)) }
    }
}

/// Whether the tables take it as an id, a kind or a subject.
pub fn is_id(text: &str) -> bool {
    (1..=200).contains(&text.len()) && !text.contains('\0')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        #[allow(dead_code, reason = "only read")]
        inner: Option<Inner>,
        #[allow(dead_code, reason = "only read")]
        ids: Option<Vec<Uuid>>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[allow(dead_code, reason = "only read")]
        since: String,
    }

    #[test]
    fn a_wrong_field_is_named_and_nothing_that_was_sent_is_repeated() {
        let cases = [
            (r#"{"inner":{"since":12345}}"#, "/inner/since"),
            (r#"{"inner":{"since":"a","s3cret":1}}"#, "/inner"),
            (r#"{"s3cret":1}"#, ""),
            (r#"{"inner":{}}"#, "/inner"),
            (r#"{"ids":["s3cret"]}"#, "/ids/0"),
            (r#"{"ids":"s3cret"}"#, "/ids"),
            (r#"{"ids":[],"ids":[]}"#, ""),
            (r#"{"x, expected `s3cret":1}"#, ""),
        ];
        for (body, pointer) in cases {
            let Err(Cause::Invalid(wrong)) = json::<Outer>(body.as_bytes()) else { panic!("{body}") };
            assert_eq!(wrong[0].pointer.as_deref(), Some(pointer), "{body}");
            assert!(!wrong[0].detail.contains("s3cret") && !wrong[0].detail.contains("12345"), "{}", wrong[0].detail);
        }
        for body in ["", "{", "s3cret", "{\"inner\":null} s3cret", "{\"inner\":nul}", "\u{0}"] {
            let Err(Cause::Malformed(wrong)) = json::<Outer>(body.as_bytes()) else { panic!("{body}") };
            assert!(!wrong[0].detail.contains("s3cret"), "{}", wrong[0].detail);
        }
        assert!(json::<Outer>(b"{}").is_ok());
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Parameters {
        kind: Option<String>,
        #[allow(dead_code, reason = "only read")]
        since: Option<String>,
    }

    #[test]
    fn unknown_and_repeated_parameters_are_refused_with_the_known_ones() {
        assert_eq!(query::<Parameters>("kind=a%20b").unwrap().kind.as_deref(), Some("a b"));
        for text in ["s3cret=1", "kind=a&s3cret", "kind=s3cret&kind=s3cret"] {
            let Err(Cause::Malformed(wrong)) = query::<Parameters>(text) else { panic!("{text}") };
            assert!(!wrong[0].detail.contains("s3cret"), "{}", wrong[0].detail);
        }
        let Err(Cause::Malformed(wrong)) = query::<Parameters>("x=1") else { panic!() };
        assert!(wrong[0].detail.ends_with("known: kind, since"), "{}", wrong[0].detail);
        assert!(query::<Nothing>("x=1").is_err() && query::<Nothing>("").is_ok());
    }
}

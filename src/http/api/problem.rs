//! The operators' port's map from cause to status: every answer that is not a success is `application/problem+json` (RFC
//! 9457), in words of ours.
//!
//! Nothing of a request stands in one: a field is named by the name that we know it by, never by what was sent.

use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use utoipa::ToSchema;

use crate::pipeline::access::Denied;
use crate::pipeline::console::Trouble;

/// Why a request was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// The body is not JSON, or a parameter of path or query cannot be what it stands for.
    Malformed(Vec<Wrong>),
    /// No credential of ours.
    Unauthenticated,
    /// A credential of another role.
    Forbidden,
    /// A page of another site sent it.
    CrossSite,
    /// Sealed values are not opened without a reason.
    NoReason,
    /// Nothing is at this path.
    Path,
    /// There is no such thing.
    NotFound(&'static str),
    /// Not with this method.
    Method,
    /// The body was not complete in time.
    TooSlow,
    /// It cannot be done as things are, and why.
    Conflict(&'static str),
    /// The body is larger than allowed.
    TooLarge,
    /// The body is not of the type that is taken.
    MediaType(&'static str),
    /// JSON, but its fields are not as they have to be.
    Invalid(Vec<Wrong>),
    /// Too many log-ins failed; seconds.
    TooMany(u32),
    /// A defect of ours: something panicked.
    Internal,
    /// What it needs is away.
    Unavailable(&'static str),
}

/// A field that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Wrong {
    /// The parameter of path or query.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameter: Option<&'static str>,
    /// The field of the body, as a JSON pointer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
    /// What is wrong with it.
    pub detail: String,
}

impl Wrong {
    /// A parameter of path or query.
    pub fn parameter(name: &'static str, detail: impl Into<String>) -> Self {
        Self { parameter: Some(name), pointer: None, detail: detail.into() }
    }

    /// A field of the body.
    pub fn pointer(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { parameter: None, pointer: Some(pointer.into()), detail: detail.into() }
    }
}

/// The body of every answer that is not a success.
#[derive(Debug, Serialize, ToSchema)]
pub struct Problem {
    /// The kind of problem: `urn:finhook:problem:` and its name.
    #[serde(rename = "type")]
    kind: String,
    /// The kind in a few words.
    title: &'static str,
    /// The status again.
    status: u16,
    /// What was wrong this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'static str>,
    /// The fields that are wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    errors: Vec<Wrong>,
}

/// Seconds after which what is away is worth another try.
const SOON: u32 = 5;

impl From<Trouble> for Cause {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::NoStore => Cause::Unavailable("this process has no database: ask one that works"),
            Trouble::Busy => Cause::Unavailable("too many questions at once"),
            Trouble::Away => Cause::Unavailable("the database does not answer"),
            Trouble::QueueAway => Cause::Unavailable("the queue takes nothing"),
            Trouble::Conflict(why) => Cause::Conflict(why),
            Trouble::NotThere(what) => Cause::NotFound(what),
            Trouble::Unopenable => Cause::Unavailable("a sealed value does not open: is its key in FINHOOK_KEYS?"),
            Trouble::Failed => Cause::Internal,
        }
    }
}

impl From<Denied> for Cause {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Unknown => Cause::Unauthenticated,
            Denied::TooMany(seconds) => Cause::TooMany(seconds),
        }
    }
}

impl Cause {
    fn problem(self) -> Problem {
        let (status, name, title) = match &self {
            Cause::Malformed(_) => (400, "malformed", "The request cannot be read"),
            Cause::Unauthenticated => (401, "unauthenticated", "A valid token or session is needed"),
            Cause::Forbidden => (403, "forbidden", "The token has not the role for this"),
            Cause::CrossSite => (403, "cross-site", "A page of another site may not do this"),
            Cause::NoReason => (403, "reason-needed", "Sealed values are not opened without a reason"),
            Cause::Path => (404, "no-such-path", "Nothing is at this path"),
            Cause::NotFound(_) => (404, "not-found", "There is no such thing"),
            Cause::Method => (405, "method-not-allowed", "Not with this method"),
            Cause::TooSlow => (408, "too-slow", "The body was not complete in time"),
            Cause::Conflict(_) => (409, "conflict", "It cannot be done as things are"),
            Cause::TooLarge => (413, "too-large", "The body is too large"),
            Cause::MediaType(_) => (415, "media-type", "The body is not of the type that is taken"),
            Cause::Invalid(_) => (422, "invalid", "Fields of the body are not as they have to be"),
            Cause::TooMany(_) => (429, "too-many", "Too many log-ins failed"),
            Cause::Internal => (500, "internal", "A defect of finhook: the log has it"),
            Cause::Unavailable(_) => (503, "unavailable", "It cannot be done now"),
        };
        let (detail, errors) = match self {
            Cause::Malformed(errors) | Cause::Invalid(errors) => (None, errors),
            Cause::NotFound(detail)
            | Cause::Conflict(detail)
            | Cause::MediaType(detail)
            | Cause::Unavailable(detail) => (Some(detail), Vec::new()),
            Cause::NoReason => (None, vec![Wrong::parameter("reason", "is needed to reveal")]),
            _ => (None, Vec::new()),
        };
        Problem { kind: format!("urn:finhook:problem:{name}"), title, status, detail, errors }
    }
}

impl IntoResponse for Cause {
    fn into_response(self) -> Response {
        let retry_after = match &self {
            Cause::TooMany(seconds) => Some(*seconds),
            Cause::Unavailable(_) => Some(SOON),
            _ => None,
        };
        // What is left of the body would be read as the next request.
        let close = self == Cause::TooSlow;
        let problem = self.problem();
        let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, axum::Json(problem)).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"finhook\""));
        }
        if let Some(seconds) = retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if close {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

//! The only map from cause to status, body, `Retry-After` and metric label on the public port; the operators' port has one of
//! its own, `api/problem.rs`.
//!
//! The statuses follow what senders do with them (PROVIDERS): 503 is sent again, a 4xx by some never, and a 401 has one
//! text for every reason, because the reason helps nobody but a forger.

use axum::response::{IntoResponse, Response};
use http::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, StatusCode};

use crate::ops::metrics::Outcome;
use crate::pipeline::receive::NotAccepted;

/// Why a request was not answered 200.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// Only POST is for us.
    #[error("method not allowed")]
    Method,
    /// Nothing is at this path.
    #[error("no such path")]
    Path,
    /// As many requests, deliveries or bytes are in flight as may be.
    #[error("too much in flight")]
    Busy,
    /// The body is larger than allowed.
    #[error("body too large")]
    TooLarge,
    /// The body was not complete in time.
    #[error("body too slow")]
    TooSlow,
    /// The body ended before it was complete, or its framing is broken.
    #[error("body broken off")]
    Broken,
    /// The receiver said no.
    #[error(transparent)]
    NotAccepted(#[from] NotAccepted),
    /// A defect of ours: something panicked on the delivery's way.
    #[error("panicked")]
    Internal,
}

/// What a cause is to a sender.
struct Answer {
    status: StatusCode,
    /// Seconds.
    retry_after: Option<u16>,
    text: &'static str,
    outcome: Outcome,
}

/// Overload and a broker that is away are short as a rule; keys and configuration take a person or a while.
const SOON: u16 = 5;
const LATER: u16 = 30;
const MUCH_LATER: u16 = 300;

impl Cause {
    fn answer(self) -> Answer {
        let (status, retry_after, text, outcome) = match self {
            Cause::Method => (StatusCode::METHOD_NOT_ALLOWED, None, "only POST\n", Outcome::Misdirected),
            Cause::Path => (StatusCode::NOT_FOUND, None, "not found\n", Outcome::Misdirected),
            Cause::Busy => (StatusCode::SERVICE_UNAVAILABLE, Some(SOON), "busy\n", Outcome::Overloaded),
            Cause::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, None, "too large\n", Outcome::TooLarge),
            Cause::TooSlow => (StatusCode::REQUEST_TIMEOUT, None, "too slow\n", Outcome::TooSlow),
            Cause::Broken => (StatusCode::BAD_REQUEST, None, "body broken off\n", Outcome::Aborted),
            Cause::Internal => (StatusCode::SERVICE_UNAVAILABLE, Some(SOON), "unavailable\n", Outcome::Unavailable),
            Cause::NotAccepted(cause) => match cause {
                NotAccepted::UnknownProvider | NotAccepted::TokenNotSupported => {
                    (StatusCode::NOT_FOUND, None, "not found\n", Outcome::Misdirected)
                }
                // Not a 404, which Synapse would count as delivered.
                NotAccepted::NoSecret => {
                    (StatusCode::SERVICE_UNAVAILABLE, Some(MUCH_LATER), "not configured\n", Outcome::NotConfigured)
                }
                // A list of ours may be behind the provider's: what it would never send again is not refused for good.
                NotAccepted::Address { resends: true } => {
                    (StatusCode::FORBIDDEN, None, "not verified\n", Outcome::Refused)
                }
                NotAccepted::Address { resends: false } => {
                    (StatusCode::SERVICE_UNAVAILABLE, Some(MUCH_LATER), "unavailable\n", Outcome::Refused)
                }
                NotAccepted::Refused(refusal) if refusal.is_transient() => {
                    (StatusCode::SERVICE_UNAVAILABLE, Some(LATER), "unavailable\n", Outcome::Unavailable)
                }
                NotAccepted::Refused(_) => (StatusCode::UNAUTHORIZED, None, "not verified\n", Outcome::Refused),
                NotAccepted::Queue(_) => {
                    (StatusCode::SERVICE_UNAVAILABLE, Some(SOON), "unavailable\n", Outcome::Unavailable)
                }
            },
        };
        Answer { status, retry_after, text, outcome }
    }

    /// The metric's label.
    pub fn outcome(self) -> Outcome {
        self.answer().outcome
    }
}

impl IntoResponse for Cause {
    fn into_response(self) -> Response {
        let answer = self.answer();
        let mut response = (answer.status, answer.text).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = answer.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        match self {
            Cause::Method => {
                headers.insert(ALLOW, HeaderValue::from_static("POST"));
            }
            // What is left of the body would be read as the next request.
            Cause::TooSlow | Cause::Broken => {
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
            }
            _ => {}
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::receive::{PublishError, Refusal};

    fn status(cause: impl Into<Cause>) -> (u16, bool) {
        let response = cause.into().into_response();
        (response.status().as_u16(), response.headers().contains_key(RETRY_AFTER))
    }

    #[test]
    fn every_refused_proof_is_401_with_one_text_and_without_a_hint() {
        use Refusal::*;
        for refusal in [Missing, Malformed, Mismatch, Stale, Future, UnknownKey, Unbound, ObjectSignature] {
            let cause = Cause::from(NotAccepted::Refused(refusal));
            assert_eq!((status(cause), cause.answer().text), ((401, false), "not verified\n"), "{refusal}");
        }
        assert_eq!(status(NotAccepted::Refused(KeysUnavailable)), (503, true));
    }

    #[test]
    fn everything_that_passes_is_503_with_a_time_to_come_back() {
        use PublishError::*;
        for error in [Disconnected, Blocked, Full, Refused, Timeout, Storage] {
            assert_eq!(status(NotAccepted::Queue(error)), (503, true), "{error}");
        }
        assert_eq!(status(NotAccepted::NoSecret), (503, true));
        assert_eq!(status(NotAccepted::Address { resends: false }), (503, true));
        assert_eq!(status(NotAccepted::Address { resends: true }), (403, false));
        assert_eq!(status(Cause::Busy), (503, true));
    }
}

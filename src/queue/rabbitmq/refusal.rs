//! What a broker's answer means: try again, or stop and tell a person.
//!
//! Law: 403, 404 and 406 while we connect, declare or consume are a person's to mend, and reconnecting would only repeat
//! them; but the broker also uses them for what passes by itself (an ack that came too late, a queue whose leader is
//! being elected), and that must never stop a worker.

use std::future::Future;
use std::time::Duration;

use lapin::ErrorKind;

use crate::queue::QueueError;

/// How long one call to the broker may take. Declaring a quorum queue on a busy disk takes most of a second.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// What went wrong, and whether time mends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Passes by itself; the sentence is for the log.
    Passing { code: Option<u16>, sentence: String },
    /// Needs a person, to whom the sentence says what to do.
    Standing { code: u16, sentence: String },
}

impl Trouble {
    pub(super) fn code(&self) -> Option<u16> {
        match self {
            Self::Passing { code, .. } => *code,
            Self::Standing { code, .. } => Some(*code),
        }
    }

    /// Of a queue that was declared a moment ago: somebody is deleting it, and declaring it again mends that.
    pub(super) fn if_missing_passes(self) -> Self {
        match self {
            Self::Standing { code: 404, sentence } => Self::Passing { code: Some(404), sentence },
            trouble => trouble,
        }
    }

    pub(super) fn sentence(&self) -> &str {
        match self {
            Self::Passing { sentence, .. } | Self::Standing { sentence, .. } => sentence,
        }
    }
}

impl From<Trouble> for QueueError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Passing { .. } => Self::Gone,
            Trouble::Standing { sentence, .. } => Self::Fatal(sentence),
        }
    }
}

/// Makes one call, within [`CALL_TIMEOUT`]; `what` completes "could not …".
pub(super) async fn call<T>(what: &str, answer: impl Future<Output = lapin::Result<T>>) -> Result<T, Trouble> {
    match tokio::time::timeout(CALL_TIMEOUT, answer).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(judge(what, &error)),
        Err(_) => Err(Trouble::Passing {
            code: None,
            sentence: format!("could not {what}: the broker did not answer in time"),
        }),
    }
}

/// Judges an error of the broker or of the way to it.
pub(super) fn judge(what: &str, error: &lapin::Error) -> Trouble {
    match error.kind() {
        ErrorKind::ProtocolError(answer) => judge_answer(what, answer.get_id(), answer.get_message().as_str()),
        _ => Trouble::Passing { code: None, sentence: format!("could not {what}: {error}") },
    }
}

fn judge_answer(what: &str, code: u16, text: &str) -> Trouble {
    let advice = match code {
        403 => {
            "Check user and password in AMQP_URL, and give that user configure, write and read permission on names that \
             start with FINHOOK_AMQP_PREFIX."
        }
        404 if !passes(text) => "It is not there: run `finhook topology apply` with a user that may create it.",
        406 if !passes(text) => {
            "It exists with other arguments: drain and delete it, or choose another FINHOOK_AMQP_PREFIX; what you want to \
             tune belongs in a policy."
        }
        _ => {
            return Trouble::Passing {
                code: Some(code),
                sentence: format!("could not {what}: the broker says {code} {text}"),
            };
        }
    };
    Trouble::Standing { code, sentence: format!("could not {what}: the broker says {code} {text}. {advice}") }
}

/// Whether a text that comes with a 404 or 406 speaks of something that passes: late acks, elections, nodes that are down.
fn passes(text: &str) -> bool {
    ["delivery acknowledgement", "unknown delivery tag", "timed out", "timeout", "down or inaccessible", "unavailable"]
        .iter()
        .any(|sign| text.contains(sign))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_with_other_arguments_needs_a_person() {
        let trouble = judge_answer(
            "declare queue finhook.unit",
            406,
            "PRECONDITION_FAILED - inequivalent arg 'x-overflow' for queue 'finhook.unit' in vhost '/'",
        );
        assert!(matches!(&trouble, Trouble::Standing { code: 406, sentence } if sentence.contains("policy")));
    }

    #[test]
    fn an_ack_that_came_too_late_passes() {
        let text =
            "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. Timeout value used: 1800000 ms";
        assert!(matches!(judge_answer("consume", 406, text), Trouble::Passing { .. }));
    }

    #[test]
    fn a_queue_without_its_leader_passes() {
        let text = "NOT_FOUND - failed to perform operation on queue 'finhook.unit' in vhost '/' due to timeout";
        assert!(matches!(judge_answer("consume", 404, text), Trouble::Passing { .. }));
    }

    #[test]
    fn a_broker_that_shuts_down_passes() {
        let text = "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'";
        assert!(matches!(judge_answer("consume", 320, text), Trouble::Passing { code: Some(320), .. }));
    }
}

//! The audit: who did what, to how much, and why. One line for every act of a person or the product, never a value.

use super::{Console, Trouble};
use crate::pipeline::access::Caller;

/// Who acts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor(String);

impl Actor {
    /// Somebody who was let in through the operators' port.
    pub fn of(caller: &Caller) -> Self {
        Self(caller.name.clone())
    }

    /// Their name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What somebody does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Takes events through the way again.
    Replay,
    /// The same with dead ones.
    Requeue,
    /// Settles events as they are.
    Discard,
}

impl Act {
    /// As the audit writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Act::Replay => "replay",
            Act::Requeue => "requeue",
            Act::Discard => "discard",
        }
    }
}

impl Console {
    /// Leaves the line, before the act: an act whose line cannot be left is not done.
    pub(super) async fn audit(
        &self,
        actor: &Actor,
        act: Act,
        about: Option<&str>,
        reason: Option<&str>,
        count: Option<u64>,
    ) -> Result<(), Trouble> {
        tracing::info!(
            audit.actor = actor.as_str(),
            audit.act = act.as_str(),
            audit.about = about,
            audit.reason = reason,
            audit.count = count,
            "audit"
        );
        Ok(())
    }
}

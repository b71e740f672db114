//! Who acts, and the line that it leaves in the audit trail before anything is done.

use serde_json::json;

use super::{Console, Trouble};
use crate::pipeline::access::Caller;
use crate::store::audit::{About, Act, AuditEntry};

/// Who acts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor(String);

impl Actor {
    /// Somebody who was let in through the operators' port.
    pub fn of(caller: &Caller) -> Self {
        Self(caller.name.clone())
    }

    /// Somebody by a name that is known already, such as the user that a command runs as.
    pub fn named(name: impl Into<String>) -> Self {
        Self(name.into())
    }
}

impl Console {
    /// Leaves the line, in the trail and in the log: what cannot be audited is not done. The log has no ids of persons and
    /// no reason.
    pub(super) async fn audit(
        &self,
        actor: &Actor,
        act: Act,
        about: Option<About>,
        reason: Option<&str>,
        count: Option<u64>,
    ) -> Result<(), Trouble> {
        let mut entry = AuditEntry::new(actor.0.clone(), act).because(reason.map(str::to_owned));
        entry.about = about;
        if let Some(count) = count {
            entry = entry.saying(&json!({ "count": count }));
        }
        self.ask(self.store()?.audit(&entry)).await?;
        tracing::info!(audit.actor = actor.0, audit.act = act.as_str(), audit.count = count, "audit");
        Ok(())
    }
}

//! The audit trail: who opened what was sealed, or decided what becomes of rows, when and why.
//!
//! Law: an entry is written before the act that it is about (what cannot be audited is not done), it holds no value that
//! is sealed elsewhere, and `forget` takes the user's own ids out of the entries about them; their mark stays.

use uuid::Uuid;

use super::marks::{self, Mark};
use crate::crypto::BlindIndex;
use crate::domain::{Timestamp, UserId};

/// The most characters of a reason or a detail.
const TEXT_CHARS: usize = 1_000;

macro_rules! acts {
    ($($(#[doc = $doc:literal])* $variant:ident = $text:literal,)*) => {
        /// What was done.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Act { $($(#[doc = $doc])* $variant,)* }

        impl Act {
            /// Every act.
            pub const ALL: &'static [Act] = &[$(Act::$variant,)*];

            /// The stored form.
            pub fn as_str(self) -> &'static str {
                match self { $(Act::$variant => $text,)* }
            }
        }
    };
}

acts! {
    /// Sealed values were opened for a reader.
    Reveal = "reveal",
    /// A user was forgotten.
    Forget = "forget",
    /// What is about a forgotten user is taken again.
    Remember = "remember",
    /// An integration was given to a user.
    Link = "link",
    /// A user was created or changed.
    User = "user",
    /// A webhook URL was minted for a user.
    WebhookUrl = "webhook_url",
    /// Dead events were settled.
    Discard = "discard",
    /// Dead events were taken through again.
    Requeue = "requeue",
    /// Stored events were taken through again.
    Replay = "replay",
    /// Sealed values were sealed anew under another key.
    RotateKeys = "keys.rotate",
    /// A key was declared to be needed no more.
    RetireKey = "keys.retire",
    /// Rows of another system were taken over.
    Import = "import",
}

/// What an act was about.
#[derive(Debug, Clone)]
pub enum About {
    /// A user, by our id of them.
    User(UserId),
    /// A subject: the provider's name and its id.
    Subject(String, String),
    /// Anything that is nobody's: an event's id, a key's number, a filter.
    Thing(String),
}

/// An entry, to be written.
#[derive(Debug, Clone)]
pub struct AuditEntry {
    /// Who: `os:alice`, or a token by its role and fingerprint, `ops:1a2b3c4d`.
    pub actor: String,
    /// What was done.
    pub act: Act,
    /// What it was about.
    pub about: Option<About>,
    /// Why, in the words of whoever did it.
    pub reason: Option<String>,
    /// How much, as JSON; never an id of a person.
    pub detail: Option<String>,
}

impl AuditEntry {
    /// Somebody does something.
    pub fn new(actor: impl Into<String>, act: Act) -> Self {
        Self { actor: actor.into(), act, about: None, reason: None, detail: None }
    }

    /// To or about whom or what.
    pub fn about(self, about: About) -> Self {
        Self { about: Some(about), ..self }
    }

    /// Why.
    pub fn because(self, reason: Option<String>) -> Self {
        Self { reason, ..self }
    }

    /// How much.
    pub fn saying(self, detail: &serde_json::Value) -> Self {
        Self { detail: Some(detail.to_string()), ..self }
    }

    /// The row that it becomes.
    pub(super) fn row(&self, index: &BlindIndex, at: Timestamp) -> NewAudit {
        let (target, target_index) = match &self.about {
            None => (None, None),
            Some(About::User(user)) => (Some(format!("user {user}")), Some(marks::of_user(index, user))),
            Some(About::Subject(service, subject)) => {
                let mark = marks::of_subject(index, &(service.clone(), subject.clone()));
                (Some(format!("{service} {subject}")), Some(mark))
            }
            Some(About::Thing(thing)) => (Some(thing.clone()), None),
        };
        NewAudit {
            id: Uuid::now_v7(),
            at,
            actor: storable(&self.actor),
            act: self.act.as_str(),
            target: target.as_deref().map(storable),
            target_index,
            reason: self.reason.as_deref().map(storable),
            detail: self.detail.as_deref().map(storable),
        }
    }
}

/// Text that every text column takes: bounded, and without NUL.
fn storable(text: &str) -> String {
    text.chars().take(TEXT_CHARS).map(|c| if c == '\0' { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// A row of `audit`, to be written.
#[derive(Debug, Clone)]
pub struct NewAudit {
    /// Version 7.
    pub id: Uuid,
    /// When.
    pub at: Timestamp,
    /// Who.
    pub actor: String,
    /// What was done.
    pub act: &'static str,
    /// To or about whom or what.
    pub target: Option<String>,
    /// The mark of that.
    pub target_index: Option<Mark>,
    /// Why.
    pub reason: Option<String>,
    /// How much.
    pub detail: Option<String>,
}

/// An entry as it is stored.
#[derive(Debug, Clone)]
pub struct AuditRow {
    /// The row's id: ordered by time.
    pub id: Uuid,
    /// When.
    pub at: Timestamp,
    /// Who.
    pub actor: String,
    /// What was done.
    pub act: String,
    /// To or about whom or what; `None` too where the user was forgotten.
    pub target: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// How much, as JSON.
    pub detail: Option<String>,
}

/// Which entries to list. Every field narrows.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// Only these acts' (the stored form).
    pub act: Option<String>,
    /// Only by whom.
    pub actor: Option<String>,
    /// Only about this user or subject, also after they were forgotten.
    pub about: Option<About>,
    /// At or after.
    pub since: Option<Timestamp>,
    /// Before.
    pub until: Option<Timestamp>,
    /// Only ids smaller than this one: the last of the page before.
    pub before: Option<Uuid>,
    /// At most so many.
    pub limit: u32,
}

impl AuditFilter {
    /// The mark that is looked for; a thing has none and is looked for by its text.
    pub(super) fn mark(&self, index: &BlindIndex) -> Option<Mark> {
        match self.about.as_ref()? {
            About::User(user) => Some(marks::of_user(index, user)),
            About::Subject(service, subject) => Some(marks::of_subject(index, &(service.clone(), subject.clone()))),
            About::Thing(_) => None,
        }
    }
}

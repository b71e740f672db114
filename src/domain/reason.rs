//! Why an event was recorded or is dead: our own words, a JSON path and a position, never a library's error text.
//!
//! A parser's own message can quote its input (`invalid type: string "123-45-6789"`), and reasons are stored in the
//! clear, logged and shown. So a [`Reason`] has no field that text from outside could get into: its path is made of names
//! that are written in our code, and its position is a number.

use std::fmt;

/// A cause, with where in the event it was met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// What was wrong.
    pub cause: Cause,
    /// The field, as a JSON path of names from our own code (`/relationships/account/data/id`).
    pub path: Option<&'static str>,
    /// The byte in the event at which reading stopped, counted from 0.
    pub position: Option<u64>,
}

macro_rules! causes {
    ($($(#[doc = $doc:literal])* $variant:ident = $text:literal,)*) => {
        /// What keeps an event from changing rows. The text form is stored in `event.reason` and is a metric's label.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Cause { $($(#[doc = $doc])* $variant,)* }

        impl Cause {
            /// Every cause, for documentation and tests.
            pub const ALL: &'static [Cause] = &[$(Cause::$variant,)*];

            /// The stored form.
            pub const fn as_str(self) -> &'static str {
                match self { $(Cause::$variant => $text,)* }
            }
        }
    };
}

causes! {
    /// The delivery or the element holds nothing but white space.
    Empty = "empty",
    /// The bytes are not UTF-8.
    NotUtf8 = "not_utf8",
    /// The bytes are not JSON, or nest too deep to be read.
    NotJson = "not_json",
    /// JSON, but not of the shape that this provider sends.
    WrongShape = "wrong_shape",
    /// A field that the kind cannot do without is absent, null or empty.
    MissingField = "missing_field",
    /// A field has a type that cannot be what it stands for (an id that is a number).
    WrongType = "wrong_type",
    /// An id, a kind or a subject is longer than 200 bytes.
    TooLong = "too_long",
    /// An id, a kind or a subject contains NUL, which no text column can hold.
    HasNul = "has_nul",
    /// The delivery holds more events than one delivery can carry; those beyond the limit are kept together.
    TooMany = "too_many",
    /// Recorded only: the kind needs a subject and the event names none.
    NoSubject = "no_subject",
    /// Nobody linked the subject within `FINHOOK_UNLINKED_DAYS`.
    UnlinkedExpired = "unlinked_expired",
    /// The delivery was sealed with a key that the ring does not hold; kept as it came until the key is back.
    UnknownKey = "unknown_key",
    /// The message could not be opened or is not one of ours; kept as it came.
    Unopenable = "unopenable",
    /// The delivery names a provider that this version does not know; kept as it came.
    UnknownProvider = "unknown_provider",
    /// The database refused this event's rows for what they contain.
    StoreRefused = "store_refused",
    /// The database failed for this event alone; it is due again.
    StoreFailed = "store_failed",
    /// The database kept failing for this event alone until the attempts ran out.
    AttemptsExhausted = "attempts_exhausted",
    /// Reading the event panicked: a defect of ours.
    Panicked = "panicked",
    /// The stored bytes are read as other events today than when the row was written.
    ReadOtherwise = "read_otherwise",
    /// Recorded only: a person looked at the dead event and settled it.
    Discarded = "discarded",
}

impl Reason {
    /// A cause without a place.
    pub fn new(cause: Cause) -> Self {
        Self { cause, path: None, position: None }
    }

    /// A cause at a field.
    pub fn at(cause: Cause, path: &'static str) -> Self {
        Self { cause, path: Some(path), position: None }
    }

    /// A cause at a byte of the event.
    pub fn at_byte(cause: Cause, position: u64) -> Self {
        Self { cause, path: None, position: Some(position) }
    }

    /// The cause of a stored reason; `None` if this version does not know it.
    pub fn cause_of(stored: &str) -> Option<Cause> {
        let name = stored.split(' ').next()?;
        Cause::ALL.iter().copied().find(|cause| cause.as_str() == name)
    }
}

impl From<Cause> for Reason {
    fn from(cause: Cause) -> Self {
        Self::new(cause)
    }
}

impl fmt::Display for Reason {
    /// `missing_field at /id`, `not_json at byte 17`, `no_subject`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.cause.as_str())?;
        if let Some(path) = self.path {
            write!(f, " at {path}")?;
        }
        if let Some(position) = self.position {
            write!(f, " at byte {position}")?;
        }
        Ok(())
    }
}

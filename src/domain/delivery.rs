//! A delivery: one HTTP request of a provider whose proof held, or one stored event on its way through again.

use std::fmt;

use bytes::Bytes;
use uuid::Uuid;

use super::{DedupKey, ProviderName, Timestamp, TraceParent, UserId};

/// What verification proved about a delivery; kept with it, so that it can be interpreted again years later.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proof {
    /// The scheme that decided, in the provider's own terms (`es256`, `hmac-sha1`, `fullbody`, `object-sha256`, `token`).
    pub scheme: String,
    /// When the provider signed, in seconds since the epoch; Plaid only.
    pub iat: Option<i64>,
    /// The user that the webhook URL was minted for; Plaid only.
    pub user: Option<UserId>,
    /// Which of several secrets held, by its fingerprint; not kept with stored events.
    pub secret: Option<String>,
}

/// What the bytes of a [`Delivery`] are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// A request's whole body, as received: it has to be split into events.
    Body,
    /// One event's own bytes, as stored with its row.
    Element,
    /// A queue message that could not be opened, as it came: kept until its key is back.
    Message,
}

/// A verified delivery in the clear. It exists in this process only: everything that leaves is sealed.
///
/// The constructors are called by `providers::Verified` (fresh from verification) and by `crypto` (opened from what was
/// sealed) and by nobody else; `tests/tidy.rs` holds that.
#[derive(Clone)]
pub struct Delivery {
    /// Version 7, minted when the request was verified.
    pub id: Uuid,
    /// Who sent it.
    pub provider: ProviderName,
    /// When the receiver had read it.
    pub received_at: Timestamp,
    /// What was proved.
    pub proof: Proof,
    /// What the bytes are.
    pub scope: Scope,
    /// Whether its events count even when an equal one is stored already (a replay). It travels inside the seal.
    pub force: bool,
    /// The span in which it was received. It says nothing of what is in it, and decides nothing.
    pub trace: Option<TraceParent>,
    /// The body or the element.
    pub bytes: Bytes,
    /// The key of a stored event that was a hash of its bytes, where not all of these were kept.
    pub key: Option<DedupKey>,
}

impl Delivery {
    /// Puts a delivery together from parts that are proved already, without a trace.
    pub(crate) fn assemble(
        id: Uuid,
        provider: ProviderName,
        received_at: Timestamp,
        proof: Proof,
        scope: Scope,
        force: bool,
        bytes: Bytes,
    ) -> Self {
        Self { id, provider, received_at, proof, scope, force, trace: None, bytes, key: None }
    }

    /// The same with the trace in which it was received.
    pub fn traced(self, trace: Option<TraceParent>) -> Self {
        Self { trace, ..self }
    }

    /// The delivery that is stored with one of its events: the same proof, what is kept of that event's own bytes, and its
    /// key if that was a hash of all of them.
    pub fn narrowed(&self, element: Bytes, scope: Scope, key: Option<DedupKey>) -> Self {
        let proof = Proof { secret: None, ..self.proof.clone() };
        Self { proof, scope, bytes: element, force: false, key, ..self.clone() }
    }
}

impl fmt::Debug for Delivery {
    /// Says which delivery it is and how long, never what is in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("id", &self.id)
            .field("provider", &self.provider)
            .field("len", &self.bytes.len())
            .finish_non_exhaustive()
    }
}

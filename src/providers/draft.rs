//! An event while it is being read: what is known so far is kept, so that a dead event still says what it can.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::domain::event::occurred_at;
use crate::domain::{
    AccountId, Cause, Change, Claim, DedupKey, Delivery, Email, Event, Meaning, Reason, Scope, StatusChange, Timestamp,
};

/// What is known of an event.
pub struct Draft {
    /// Its dedup key; `None` = the hash of its bytes.
    pub key: Option<DedupKey>,
    /// Its kind, once read and valid.
    pub kind: Option<String>,
    /// Its subject, once read and valid.
    pub subject: Option<String>,
    /// When the provider says that it happened.
    pub stated: Option<Timestamp>,
    /// Its own bytes.
    pub bytes: Bytes,
    /// What these are.
    pub scope: Scope,
}

impl Draft {
    /// Nothing known but the bytes of one element.
    pub fn element(bytes: Bytes) -> Self {
        Self { key: None, kind: None, subject: None, stated: None, bytes, scope: Scope::Element }
    }

    /// Bytes that are not even a body of the provider.
    pub fn body(bytes: Bytes) -> Self {
        Self { scope: Scope::Body, ..Self::element(bytes) }
    }

    /// The event.
    pub fn event(self, delivery: &Delivery, meaning: Meaning) -> Event {
        Event {
            provider: delivery.provider,
            dedup_key: self
                .key
                .or_else(|| delivery.key.clone())
                .unwrap_or_else(|| DedupKey::from_bytes_of(&self.bytes)),
            kind: self.kind,
            subject: self.subject,
            occurred_at: occurred_at(self.stated, delivery.received_at),
            received_at: delivery.received_at,
            meaning,
            bytes: self.bytes,
            scope: self.scope,
        }
    }

    /// The event that cannot be read.
    pub fn dead(self, delivery: &Delivery, reason: Reason) -> Event {
        self.event(delivery, Meaning::Dead(reason))
    }

    /// The event with what was read of its meaning, or dead.
    pub fn settle(self, delivery: &Delivery, meaning: Result<Meaning, Reason>) -> Event {
        self.event(delivery, meaning.unwrap_or_else(Meaning::Dead))
    }
}

/// What an applying kind changes.
#[derive(Default)]
pub struct Effect {
    status: Option<StatusChange>,
    owner: Option<Claim>,
    email: Option<Email>,
    accounts: Vec<Change>,
}

impl Effect {
    /// Makes the row exist and nothing else.
    pub fn touch() -> Self {
        Self::default()
    }

    /// Writes the integration's status, if there is one to write.
    pub fn status(status: impl Into<Option<StatusChange>>) -> Self {
        Self { status: status.into(), ..Self::default() }
    }

    /// One account of a banking-as-a-service ledger, where both ids are the same.
    pub fn ledger_account(id: &str, status: Option<StatusChange>) -> Self {
        let account = Change::Account { external_id: AccountId::new(id), baas_id: Some(AccountId::new(id)), status };
        Self { accounts: vec![account], ..Self::default() }
    }

    /// One account that is connected to no ledger.
    pub fn account(id: &str, status: Option<StatusChange>) -> Self {
        Self {
            accounts: vec![Change::Account { external_id: AccountId::new(id), baas_id: None, status }],
            ..Self::default()
        }
    }

    /// Accounts that are connected to no ledger, each once, made to exist.
    pub fn touch_accounts(ids: BTreeSet<String>) -> Self {
        let touch = |id| Change::Account { external_id: AccountId::new(id), baas_id: None, status: None };
        Self { accounts: ids.into_iter().map(touch).collect(), ..Self::default() }
    }

    /// The same with an owner.
    pub fn owned(mut self, owner: Option<Claim>) -> Self {
        self.owner = owner;
        self
    }

    /// The same with an address.
    pub fn with_email(mut self, email: Option<Email>) -> Self {
        self.email = email;
        self
    }

    /// The meaning: the integration first, then its accounts; recorded if the event names no subject.
    pub fn meaning(self, subject: Option<&String>) -> Meaning {
        if subject.is_none() {
            return Meaning::Record(Some(Cause::NoSubject.into()));
        }
        let integration = Change::Integration { status: self.status, owner: self.owner, email: self.email };
        Meaning::Apply(std::iter::once(integration).chain(self.accounts).collect())
    }
}

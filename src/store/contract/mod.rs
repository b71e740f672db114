//! The store's contract, written once and run on both databases: SQLite always, PostgreSQL where
//! `FINHOOK_TEST_DATABASE_URL` names a server on which each test may make a database of its own.

mod audit;
mod changes;
mod concurrency;
pub(crate) mod database;
mod days;
mod dedup;
mod forget;
mod histories;
mod keys;
mod migrations;
mod model;
mod moving;
mod owners;
mod people;
mod registers;
mod retention;
mod secrets;
mod unlinked;
mod waiting;

use std::sync::Mutex;

use bytes::Bytes;
use secrecy::SecretString;
use uuid::Uuid;

use super::{Arriving, Batch, Committed, Failed, Link, Outcome, Reread, StoredEvent, Vault};
use crate::domain::{
    AccountId, Change, Claim, DedupKey, Delivery, Email, Event, EventState, Meaning, Proof, ProviderName, Rank, Scope,
    StatusChange, Timestamp, UserId,
};
use database::Db;
pub(in crate::store) use database::options;

/// Runs each test on both databases, under `sqlite::` and `postgres::`.
macro_rules! on_both {
    ($(async fn $name:ident($db:ident) $body:block)+) => {
        $(async fn $name($db: std::sync::Arc<crate::store::contract::database::Db>) $body)+

        mod sqlite {
            $(#[tokio::test] async fn $name() { crate::store::contract::database::on_sqlite(super::$name).await })+
        }

        mod postgres {
            $(#[tokio::test] async fn $name() { crate::store::contract::database::on_postgres(super::$name).await })+
        }
    };
}
pub(crate) use on_both;

const UNIT: ProviderName = ProviderName::new("unit");
const PLAID: ProviderName = ProviderName::new("plaid");

/// The point in time that the tests count seconds from.
fn at(seconds: i64) -> Timestamp {
    Timestamp::from_seconds(1_700_000_000 + seconds).unwrap()
}

/// An event of Unit about customer `c1`, touching the customer; the tests change what they need otherwise.
fn event(key: &str, seconds: i64) -> Event {
    Event {
        provider: UNIT,
        dedup_key: DedupKey::from_id(key),
        kind: Some("customer.updated".into()),
        subject: Some("c1".into()),
        occurred_at: at(seconds),
        received_at: at(1_000),
        meaning: Meaning::Apply(vec![touch()]),
        bytes: Bytes::new(),
        scope: Scope::Element,
    }
}

/// What the tests say of an event beyond [`event`].
trait Saying {
    fn about(self, subject: &str) -> Self;
    fn by(self, provider: ProviderName) -> Self;
    fn received(self, seconds: i64) -> Self;
    fn meaning(self, meaning: Meaning) -> Self;
    fn status(self, status: StatusChange) -> Self;
    fn claiming(self, user: &str, rank: Rank) -> Self;
    fn email(self, address: &str) -> Self;
    fn account(self, id: &str, status: Option<StatusChange>) -> Self;
}

impl Saying for Event {
    fn about(mut self, subject: &str) -> Self {
        self.subject = Some(subject.into());
        self
    }

    fn by(mut self, provider: ProviderName) -> Self {
        self.provider = provider;
        self
    }

    fn received(mut self, seconds: i64) -> Self {
        self.received_at = at(seconds);
        self
    }

    fn meaning(mut self, meaning: Meaning) -> Self {
        self.meaning = meaning;
        self
    }

    fn status(mut self, change: StatusChange) -> Self {
        if let Meaning::Apply(changes) = &mut self.meaning
            && let Some(Change::Integration { status, .. }) = changes.first_mut()
        {
            *status = Some(change);
        }
        self
    }

    fn claiming(mut self, user: &str, rank: Rank) -> Self {
        if let Meaning::Apply(changes) = &mut self.meaning
            && let Some(Change::Integration { owner, .. }) = changes.first_mut()
        {
            *owner = Some(Claim { user: UserId(user.into()), rank });
        }
        self
    }

    fn email(mut self, address: &str) -> Self {
        if let Meaning::Apply(changes) = &mut self.meaning
            && let Some(Change::Integration { email, .. }) = changes.first_mut()
        {
            *email = Email::parse(address, true);
        }
        self
    }

    fn account(mut self, id: &str, status: Option<StatusChange>) -> Self {
        if let Meaning::Apply(changes) = &mut self.meaning {
            let baas_id = Some(AccountId::new(id));
            changes.push(Change::Account { external_id: AccountId::new(id), baas_id, status });
        }
        self
    }
}

fn touch() -> Change {
    Change::Integration { status: None, owner: None, email: None }
}

/// A link of customer `c1` of Unit.
fn link(user: &str, seconds: i64) -> Link {
    Link {
        provider: UNIT,
        subject: "c1".into(),
        user: UserId(user.into()),
        email: None,
        authorization_id: None,
        at: at(seconds),
    }
}

/// Stands in for the providers: a payload's bytes are the number of an event that was sealed before.
pub struct Archive {
    events: Mutex<Vec<Event>>,
    vault: std::sync::Arc<Vault>,
}

impl Archive {
    fn new(vault: std::sync::Arc<Vault>) -> Self {
        Self { events: Mutex::default(), vault }
    }

    /// Seals an event's envelope as the pipeline would.
    fn arriving(&self, event: Event, force: bool) -> Arriving {
        let mut events = self.events.lock().unwrap();
        let bytes = Bytes::from(events.len().to_string());
        let (id, proof) = (Uuid::now_v7(), Proof::default());
        let delivery = Delivery::assemble(id, event.provider, event.received_at, proof, Scope::Element, false, bytes);
        let payload = self.vault.ring.seal_payload(&event.dedup_key, &delivery);
        events.push(event.clone());
        Arriving { event, payload, force, trace: None, bound: None }
    }
}

impl Reread for Archive {
    fn reread(&self, stored: &StoredEvent) -> Option<Event> {
        let find = |name: &str| [UNIT, PLAID].into_iter().find(|provider| provider.as_str() == name);
        let opened = self.vault.ring.open_payload(&stored.provider, &stored.dedup_key, &stored.payload, &find).ok()?;
        let number: usize = std::str::from_utf8(&opened.bytes).ok()?.parse().ok()?;
        self.events.lock().unwrap().get(number).cloned()
    }
}

impl Db {
    /// Commits events in one batch.
    async fn take(&self, events: impl IntoIterator<Item = Event>) -> Committed {
        self.commit(events, [], false).await
    }

    /// Commits one event alone; what became of it.
    async fn take_one(&self, event: Event) -> Outcome {
        self.take([event]).await.outcomes[0]
    }

    /// Commits one event that is on its way through again.
    async fn force(&self, event: Event) -> Outcome {
        self.commit([event], [], true).await.outcomes[0]
    }

    /// Commits links in one batch.
    async fn link(&self, links: impl IntoIterator<Item = Link>) -> Committed {
        self.commit([], links, false).await
    }

    async fn commit(
        &self,
        events: impl IntoIterator<Item = Event>,
        links: impl IntoIterator<Item = Link>,
        force: bool,
    ) -> Committed {
        let events = events.into_iter().map(|event| self.archive.arriving(event, force)).collect();
        let batch = Batch { events, links: links.into_iter().collect(), replaces: Vec::new() };
        self.store.commit(&batch, &self.archive).await.unwrap()
    }

    /// Does what the periodic sweep does until nothing is left; how many events it took.
    async fn sweep(&self) -> usize {
        let mut swept = 0;
        loop {
            let stored = self.store.linkable(None, 100).await.unwrap();
            if stored.is_empty() {
                return swept;
            }
            swept += stored.len();
            let events: Vec<Event> = stored.iter().map(|row| self.archive.reread(row).unwrap()).collect();
            self.commit(events, [], true).await;
        }
    }

    /// Writes an event's row as one that failed alone.
    async fn set_aside(&self, event: Event, state: EventState, attempts: u32, next: Option<i64>) {
        let failed = Failed {
            arriving: self.archive.arriving(event, false),
            state,
            reason: "attempts_exhausted".into(),
            attempts,
            next_attempt_at: next.map(at),
        };
        self.store.set_aside(&[failed]).await.unwrap();
    }
}

fn token(text: &str) -> Option<SecretString> {
    Some(SecretString::from(text.to_owned()))
}

//! Events as people see them: what their rows say, and where each is on its way. Never what is sealed in them.

use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::cursor::Cursor;
use super::{Console, Trouble};
use crate::domain::{Cause, Change, EventState, Meaning, Reason, Timestamp};
use crate::pipeline::read::Reading;
use crate::store::{EventFilter, EventRow, Store, StoreError, StoredEvent};

/// Which events, by what their rows say. Every field narrows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Narrow {
    /// Only this provider's.
    pub provider: Option<String>,
    /// Only this kind, as the provider writes it.
    pub kind: Option<String>,
    /// Only in this state.
    pub state: Option<EventState>,
    /// Only about this subject.
    pub subject: Option<String>,
    /// Received at or after.
    pub since: Option<Timestamp>,
    /// Received before.
    pub until: Option<Timestamp>,
}

impl Narrow {
    /// The filter of the store.
    pub fn filter(self, limit: u32) -> EventFilter {
        let Self { provider, kind, state, subject, since, until } = self;
        EventFilter { provider, kind, state, subject, since, until, limit, ..EventFilter::default() }
    }
}

/// An event's row.
#[derive(Debug, Serialize, ToSchema)]
pub struct EventView {
    /// The row's id (version 7).
    pub id: Uuid,
    /// Who sent it.
    pub provider: String,
    /// Its type as the provider writes it.
    pub kind: Option<String>,
    /// What became of it.
    #[schema(value_type = String, pattern = "^(applied|recorded|unlinked|retrying|dead)$")]
    pub state: &'static str,
    /// Why, where there is a why: a cause, and where in the event it was met.
    pub reason: Option<String>,
    /// The provider's id of the integration that it is about.
    pub subject: Option<String>,
    /// When it happened.
    #[schema(format = DateTime)]
    pub occurred_at: String,
    /// When its delivery was received.
    #[schema(format = DateTime)]
    pub received_at: String,
    /// When its row was last written by a worker.
    #[schema(format = DateTime)]
    pub processed_at: String,
    /// What makes two copies the same: the provider's id, or a key made here, in hex.
    pub dedup_key: String,
    /// How often it was tried.
    pub attempts: u32,
    /// When it is due again.
    #[schema(format = DateTime)]
    pub next_attempt_at: Option<String>,
}

impl From<EventRow> for EventView {
    fn from(row: EventRow) -> Self {
        Self {
            id: row.id,
            provider: row.provider,
            kind: row.kind,
            state: row.state.as_str(),
            reason: row.reason,
            subject: row.subject,
            occurred_at: row.occurred_at.to_string(),
            received_at: row.received_at.to_string(),
            processed_at: row.processed_at.to_string(),
            dedup_key: row.dedup_key.to_string(),
            attempts: row.attempts,
            next_attempt_at: row.next_attempt_at.map(|at| at.to_string()),
        }
    }
}

/// A page of events.
#[derive(Debug, Serialize, ToSchema)]
pub struct EventPage {
    /// The events, in the order that was asked for.
    pub events: Vec<EventView>,
    /// Where the list goes on; null at its end.
    pub next: Option<String>,
}

/// One event and where it is on its way.
#[derive(Debug, Serialize, ToSchema)]
pub struct EventDetail {
    /// Its row.
    pub event: EventView,
    /// Seconds since its delivery was received.
    pub age_seconds: i64,
    /// Bytes of its sealed envelope; 0 where it was wiped.
    pub payload_bytes: usize,
    /// The cause alone, of a reason that has more.
    pub cause: Option<String>,
    /// The field that the reason is about, as a JSON path.
    pub path: Option<String>,
    /// The byte at which reading stopped, counted from 0.
    pub position: Option<u64>,
    /// What a person can do about it.
    pub help: Option<&'static str>,
    /// Its way.
    pub lineage: Lineage,
}

/// An event's way, as far as it is known.
#[derive(Debug, Serialize, ToSchema)]
pub struct Lineage {
    /// When the receiver had read its delivery.
    #[schema(format = DateTime)]
    pub received_at: String,
    /// The delivery, which the queue and the log call by this id; null where it cannot be opened now.
    pub delivery_id: Option<Uuid>,
    /// What proved the delivery, in the provider's own terms (`es256`, `hmac-sha1`, `token`, …).
    pub proof: Option<String>,
    /// Whether it came by a webhook URL that was minted for one user.
    pub bound: bool,
    /// How often applying it was tried and failed.
    pub attempts: u32,
    /// When it is due again.
    #[schema(format = DateTime)]
    pub next_attempt_at: Option<String>,
    /// When its row was last committed.
    #[schema(format = DateTime)]
    pub committed_at: String,
    /// The rows that it is about, of those that exist now: what it changed, if it was applied.
    pub rows: Vec<RowName>,
    /// Why the rows cannot be named, where they cannot.
    pub unreadable: Option<&'static str>,
}

/// A row, by its id alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct RowName {
    /// `user`, `integration` or `account`.
    pub table: &'static str,
    /// Its id.
    pub id: Uuid,
}

impl Console {
    /// A page of events. A cursor brings its direction along.
    pub async fn events(
        &self,
        narrow: Narrow,
        oldest_first: bool,
        cursor: Option<Cursor>,
        limit: u32,
    ) -> Result<EventPage, Trouble> {
        let store = self.store()?;
        let oldest_first = cursor.map_or(oldest_first, |cursor| cursor.oldest_first);
        let last = cursor.map(|cursor| cursor.last);
        let (after, before) = if oldest_first { (last, None) } else { (None, last) };
        // One more than asked for says whether there is a next page.
        let filter = EventFilter { after, before, oldest_first, ..narrow.filter(limit.saturating_add(1)) };
        let mut rows = self.ask(store.events(&filter)).await?;
        let more = rows.len() > limit as usize;
        rows.truncate(limit as usize);
        let next =
            rows.last().filter(|_| more).map(|row| Cursor { last: row.id, oldest_first, before: None }.to_text());
        Ok(EventPage { events: rows.into_iter().map(EventView::from).collect(), next })
    }

    /// One event with its way; `None` if there is no such event.
    pub async fn event(&self, id: Uuid) -> Result<Option<EventDetail>, Trouble> {
        let store = self.store()?.clone();
        let Some((row, payload)) = self.ask(store.event(id)).await? else { return Ok(None) };
        let lineage = self.ask(self.lineage(store.as_ref(), &row, &payload)).await?;
        let reason = row.reason.clone().unwrap_or_default();
        let (cause, path, position) = parts(&reason);
        let help = (row.state == EventState::Dead).then(|| Reason::cause_of(&reason).map(help)).flatten();
        Ok(Some(EventDetail {
            age_seconds: self.now().seconds() - row.received_at.seconds(),
            payload_bytes: payload.len(),
            cause: Some(cause.to_owned()).filter(|cause| !cause.is_empty()),
            path: path.map(str::to_owned),
            position,
            help,
            lineage,
            event: row.into(),
        }))
    }

    async fn lineage(&self, store: &dyn Store, row: &EventRow, payload: &[u8]) -> Result<Lineage, StoreError> {
        let mut lineage = Lineage {
            received_at: row.received_at.to_string(),
            delivery_id: None,
            proof: None,
            bound: false,
            attempts: row.attempts,
            next_attempt_at: row.next_attempt_at.map(|at| at.to_string()),
            committed_at: row.processed_at.to_string(),
            rows: Vec::new(),
            unreadable: None,
        };
        if payload.is_empty() {
            lineage.unreadable = Some("wiped");
            return Ok(lineage);
        }
        let (provider, dedup_key) = (row.provider.clone(), row.dedup_key.clone());
        let stored = StoredEvent { id: row.id, provider, dedup_key, attempts: row.attempts, payload: payload.to_vec() };
        match self.desk.reading(&stored) {
            Ok((delivery, reading)) => {
                lineage.delivery_id = Some(delivery.id);
                lineage.bound = delivery.proof.user.is_some();
                lineage.proof = Some(delivery.proof.scheme);
                match reading {
                    Reading::Same(arriving) => lineage.rows = self.rows(store, row, &arriving.event.meaning).await?,
                    Reading::Others(_) => lineage.unreadable = Some(Cause::ReadOtherwise.as_str()),
                }
            }
            Err(cause) => lineage.unreadable = Some(cause.as_str()),
        }
        Ok(lineage)
    }

    /// The rows that an event is about: its subject, whose it is, and the accounts that it names, found by their indexes.
    async fn rows(&self, store: &dyn Store, row: &EventRow, meaning: &Meaning) -> Result<Vec<RowName>, StoreError> {
        let (Meaning::Apply(changes), Some(subject)) = (meaning, &row.subject) else { return Ok(Vec::new()) };
        let Some(integration) = store.integration(&row.provider, subject).await? else { return Ok(Vec::new()) };
        let mut rows = vec![RowName { table: "integration", id: integration.id }];
        if let Some(user) = store.user(&integration.user).await? {
            rows.push(RowName { table: "user", id: user.id });
        }
        let named: Vec<[u8; 32]> = changes
            .iter()
            .filter_map(|change| match change {
                Change::Account { external_id, .. } => {
                    Some(self.vault.index.of("external_id", &row.provider, external_id.expose()))
                }
                Change::Integration { .. } => None,
            })
            .collect();
        if !named.is_empty() {
            let accounts = store.accounts(&integration.user).await?;
            let here = accounts
                .iter()
                .filter(|account| account.service == row.provider && account.integration_external_id == *subject)
                .filter(|account| named.iter().any(|index| account.external_id_index == index));
            rows.extend(here.map(|account| RowName { table: "account", id: account.id }));
        }
        Ok(rows)
    }
}

/// A stored reason in its parts: `missing_field at /id`, `not_json at byte 17`.
pub fn parts(stored: &str) -> (&str, Option<&str>, Option<u64>) {
    let mut parts = stored.split(" at ");
    let cause = parts.next().unwrap_or_default();
    let (mut path, mut position) = (None, None);
    for part in parts {
        match part.strip_prefix("byte ") {
            Some(byte) => position = byte.parse().ok(),
            None => path = Some(part),
        }
    }
    (cause, path, position)
}

/// What a person can do about a dead event.
pub fn help(cause: Cause) -> &'static str {
    match cause {
        Cause::UnknownKey => "put the key back into FINHOOK_KEYS: workers then release it by themselves",
        Cause::UnknownProvider => "a newer finhook sent it: upgrade the workers, then requeue it",
        Cause::Unopenable => "damaged, or not finhook's: look for who else publishes to the broker, or discard it",
        Cause::StoreRefused => "the database refuses what it contains: the worker's log has the SQLSTATE",
        Cause::StoreFailed | Cause::AttemptsExhausted => {
            "the database failed for it alone: the worker's log has the SQLSTATE; mend that, then requeue it"
        }
        Cause::UnlinkedExpired => "link its subject (`finhook link`), then requeue it",
        Cause::Panicked => "a defect of finhook: report it, and requeue it after the upgrade that mends it",
        _ => "finhook cannot read what the provider sent: discard it, or requeue it after an upgrade that can",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_reason_is_taken_apart_as_it_was_put_together() {
        let reasons = [
            (Reason::new(Cause::Panicked), ("panicked", None, None)),
            (Reason::at(Cause::MissingField, "/id"), ("missing_field", Some("/id"), None)),
            (Reason::at_byte(Cause::NotJson, 17), ("not_json", None, Some(17))),
        ];
        for (reason, expected) in reasons {
            let stored = reason.to_string();
            assert_eq!(parts(&stored), expected);
            assert_eq!(Reason::cause_of(&stored), Some(reason.cause));
        }
        assert_eq!(Reason::cause_of("of a later version"), None);
    }
}

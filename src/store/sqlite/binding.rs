//! How rows become the values of a statement on SQLite.

use uuid::Uuid;

use super::pieces::Values;
use crate::crypto::{Column, Sealed};
use crate::domain::Timestamp;
use crate::store::columns::{at, key};
use crate::store::rows::{AccountRow, IntegrationRow, NewEvent, SealedIds, SubjectKey};

/// A row beside the time of its writing, which every row of a statement binds.
pub type Timed<'r, T> = (&'r T, Timestamp);

/// The rows of one statement with their time.
pub fn timed<T>(rows: &[T], now: Timestamp) -> Vec<Timed<'_, T>> {
    rows.iter().map(|row| (row, now)).collect()
}

/// Binds an id.
pub fn bind_id(values: &mut Values<'_>, id: &Uuid) {
    values.push_bind(id.hyphenated());
}

/// Binds a service and an external id.
pub fn bind_subject(values: &mut Values<'_>, (service, external_id): &SubjectKey) {
    values.push_bind(service.as_str()).push_bind(external_id.as_str());
}

/// Binds the columns of [`super::statements::INSERT_EVENTS`].
pub fn bind_event(values: &mut Values<'_>, (event, now): &Timed<'_, NewEvent>) {
    values
        .push_bind(event.id.hyphenated())
        .push_bind(event.occurred_at.micros())
        .push_bind(event.received_at.micros())
        .push_bind(now.micros())
        .push_bind(event.next_attempt_at.map(Timestamp::micros))
        .push_bind(event.attempts)
        .push_bind(event.key.0.as_str())
        .push_bind(event.state.as_str())
        .push_bind(event.key.1.as_bytes())
        .push_bind(event.kind.as_deref())
        .push_bind(event.subject.as_deref())
        .push_bind(event.reason.as_deref())
        .push_bind(&event.payload[..])
        .push_bind(event.user_mark.as_deref());
}

/// Binds the columns of an integration.
pub fn bind_integration(values: &mut Values<'_>, (row, now): &Timed<'_, (IntegrationRow, Option<Sealed<Column>>)>) {
    let (row, token) = row;
    let owner = row.owner.as_ref();
    let closing = row.closing.as_ref();
    let address = row.address.as_ref();
    values
        .push_bind(row.id.hyphenated())
        .push_bind(row.service.as_str())
        .push_bind(row.external_id.as_str())
        .push_bind(row.user_id.hyphenated())
        .push_bind(owner.map(|owner| owner.rank.number()))
        .push_bind(at(owner.map(|owner| &owner.clock)))
        .push_bind(key(owner.map(|owner| &owner.clock)))
        .push_bind(row.status.status.as_str())
        .push_bind(row.status.reason.as_deref())
        .push_bind(row.status.is_final)
        .push_bind(at(row.status.clock.as_ref()))
        .push_bind(key(row.status.clock.as_ref()))
        .push_bind(row.status.deleted_at.map(Timestamp::micros))
        .push_bind(closing.map(|closing| closing.status.as_str()))
        .push_bind(closing.is_some_and(|closing| closing.is_final))
        .push_bind(at(closing.map(|closing| &closing.clock)))
        .push_bind(key(closing.map(|closing| &closing.clock)))
        .push_bind(address.map(|address| address.email.address.as_str()))
        .push_bind(address.map(|address| address.email.verified))
        .push_bind(at(address.map(|address| &address.clock)))
        .push_bind(key(address.map(|address| &address.clock)))
        .push_bind(at(row.authorization.as_ref()))
        .push_bind(key(row.authorization.as_ref()))
        .push_bind(row.observed_at.map(Timestamp::micros))
        .push_bind(token.as_ref().map(Sealed::as_str))
        .push_bind(now.micros())
        .push_bind(now.micros());
}

/// Binds the columns of an account.
pub fn bind_account(values: &mut Values<'_>, (row, now): &Timed<'_, (AccountRow, SealedIds)>) {
    let (row, ids) = row;
    values
        .push_bind(row.id.hyphenated())
        .push_bind(row.integration_id.hyphenated())
        .push_bind(row.user_id.hyphenated())
        .push_bind(row.external_id_index.as_deref())
        .push_bind(row.baas_id_index.as_deref())
        .push_bind(row.status.status.as_str())
        .push_bind(row.status.reason.as_deref())
        .push_bind(at(row.status.clock.as_ref()))
        .push_bind(key(row.status.clock.as_ref()))
        .push_bind(row.status.deleted_at.map(Timestamp::micros))
        .push_bind(row.observed_at.map(Timestamp::micros))
        .push_bind(ids.external_id.as_ref().map(Sealed::as_str))
        .push_bind(ids.baas_id.as_ref().map(Sealed::as_str))
        .push_bind(now.micros())
        .push_bind(now.micros());
}

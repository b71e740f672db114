//! What the tables must hold, from the events that are in them: the registers of DESIGN.md, written down a second time.

use std::collections::{BTreeMap, BTreeSet};

use crate::ledger::EventId;
use crate::world::{Effect, Planned, Status};

/// (time, length of key, key), as DESIGN.md orders events.
type Clock = (i64, usize, Vec<u8>);

/// A row of `integration`, as far as it is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Integration {
    /// Our id of its user.
    pub user: String,
    /// Its status, why, and when it was closed.
    pub status: Shown,
}

/// A status as a row shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// The status.
    pub name: String,
    /// Why.
    pub reason: Option<String>,
    /// When it closed the row, in microseconds.
    pub deleted_at: Option<i64>,
}

/// Service and the provider's id.
pub type Subject = (String, String);

/// The rows.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// By service and the provider's id.
    pub integrations: BTreeMap<Subject, Integration>,
    /// By integration and account id.
    pub accounts: BTreeMap<(Subject, String), Integration>,
    /// E-mail by our id.
    pub users: BTreeMap<String, Option<String>>,
}

/// The rows that `events` make, with the links that were made by hand.
pub fn tables(events: &BTreeMap<EventId, &Planned>, links: &[(Subject, String)]) -> Tables {
    let mut tables = Tables::default();
    let mut histories: BTreeMap<Subject, Vec<(Clock, &Effect)>> = BTreeMap::new();
    for ((service, key), event) in events {
        let (Some(subject), Some(effects)) = (&event.subject, &event.effects) else { continue };
        let history = histories.entry(((*service).to_owned(), subject.clone())).or_default();
        history.extend(effects.iter().map(|effect| ((event.at, key.len(), key.clone()), effect)));
    }
    for (subject, _) in links {
        histories.entry(subject.clone()).or_default();
    }
    let mut addresses: BTreeMap<String, (Clock, String)> = BTreeMap::new();
    for (subject, history) in histories {
        let claims = history.iter().filter_map(|(clock, effect)| match effect {
            Effect::Owner(user, rank) => Some((*rank, clock.clone(), user.clone())),
            _ => None,
        });
        let by_hand = links.iter().filter(|(linked, _)| *linked == subject);
        let claims: BTreeSet<_> = claims.chain(by_hand.map(|(_, user)| (4, Clock::default(), user.clone()))).collect();
        tables.users.extend(claims.iter().map(|(_, _, user)| (user.clone(), None)));
        // Without a user nothing of it is written.
        let Some((_, _, user)) = claims.last() else { continue };
        integration(&mut tables, &subject, user, &history);
        let address = history.iter().filter_map(|(clock, effect)| match effect {
            Effect::Email(address) => Some((clock.clone(), address.clone())),
            _ => None,
        });
        if let Some(address) = address.max() {
            let held = addresses.entry(user.clone()).or_insert_with(|| address.clone());
            *held = address.max(held.clone());
        }
    }
    for (user, (_, address)) in addresses {
        tables.users.insert(user, Some(address));
    }
    tables
}

fn integration(tables: &mut Tables, subject: &Subject, user: &str, history: &[(Clock, &Effect)]) {
    let statuses = history.iter().filter_map(|(clock, effect)| match effect {
        Effect::Status(status) => Some((status.is_final, clock, status)),
        _ => None,
    });
    let largest = statuses.clone().max();
    let closing = statuses.filter(|(_, _, status)| status.closing).max();
    let row = |status| Integration { user: user.to_owned(), status };
    tables
        .integrations
        .insert(subject.clone(), row(shown("active", largest.map(|(_, clock, status)| (clock, status)))));

    let mut accounts: BTreeMap<&String, Option<(&Clock, &Status)>> = BTreeMap::new();
    for (clock, effect) in history {
        if let Effect::Account(account, status) = effect {
            let held = accounts.entry(account).or_default();
            *held = (*held).max(status.as_ref().map(|status| (clock, status)));
        }
    }
    for (account, own) in accounts {
        let closed = closing.filter(|(is_final, clock, _)| *is_final || own.is_none_or(|(own, _)| *clock > own));
        let status = match closed {
            Some((_, clock, status)) => {
                Shown { name: "closed".to_owned(), reason: Some(status.name.clone()), deleted_at: Some(clock.0) }
            }
            None => shown("open", own),
        };
        tables.accounts.insert((subject.clone(), account.clone()), row(status));
    }
}

fn shown(initial: &str, status: Option<(&Clock, &Status)>) -> Shown {
    match status {
        None => Shown { name: initial.to_owned(), reason: None, deleted_at: None },
        Some((clock, status)) => Shown {
            name: status.name.clone(),
            reason: status.reason.clone(),
            deleted_at: status.closing.then_some(clock.0),
        },
    }
}

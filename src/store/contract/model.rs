//! An independent model of "What an event does": from the set of all copies and links at once, in no order, to the rows.
//! It shares no code with the fold or the registers; where they disagree, one of them misreads the specification.

use std::collections::{BTreeMap, BTreeSet};

use super::database::{Account, Event, Integration, Rows, User};
use super::histories::{Content, Copy, History, Item, Weight, account_id, address, subject, token_text, user};
use super::{Saying, at};
use crate::domain::register::{Address, Closing, Owner, Status};
use crate::domain::{Change, Clock, DedupKey, Email, Meaning, Rank, StatusChange, Timestamp, UserId};

/// A clock as the specification has it: time, length of the key, key.
type Time = (Timestamp, usize, Vec<u8>);

fn time(seconds: i64, key: &str) -> Time {
    (at(seconds), key.len(), key.as_bytes().to_vec())
}

fn clock((at, _, key): &Time) -> Clock {
    Clock { at: *at, key: DedupKey::from_stored(key.clone()) }
}

/// The rows that a history ends in. `index` is the blind index of an access token of a service.
pub fn rows(history: &History, index: &dyn Fn(&str, &str) -> Vec<u8>) -> Rows {
    let counting = counting_copies(history);
    let owners = owners(history);
    let mut rows = Rows::default();
    for (number, owner) in &owners {
        let (service, id) = subject(*number);
        let key = (service.as_str().to_owned(), id.to_owned());
        let mine: Vec<(&Content, &Copy)> = counting
            .values()
            .filter(|(content, copy)| content.subject == *number && copy.weight == Weight::Applied)
            .copied()
            .collect();
        let closing = closing(&mine);
        rows.integrations.insert(key.clone(), integration(*number, owner, &mine, closing.clone(), history, index));
        for account in accounts(&mine, owner.user.as_str(), closing.as_ref()) {
            rows.accounts.insert((key.0.clone(), key.1.clone(), account.0), account.1);
        }
    }
    rows.users = users(history, &rows.integrations);
    rows.events = counting.iter().map(|(number, (content, copy))| event(*number, content, copy, &owners)).collect();
    rows
}

/// Of several copies one counts: applied beats recorded beats dead, then the later time.
fn counting_copies(history: &History) -> BTreeMap<usize, (&Content, &Copy)> {
    let mut counting: BTreeMap<usize, (&Content, &Copy)> = BTreeMap::new();
    for copy in history.items.iter().filter_map(Item::copy) {
        let content = &history.contents[copy.content];
        let held = counting.entry(copy.content).or_insert((content, copy));
        if (copy.weight, copy.seconds) > (held.1.weight, held.1.seconds) {
            *held = (content, copy);
        }
    }
    counting
}

/// All claims of all copies that can be applied, and all links: largest rank, then time, then user.
fn owners(history: &History) -> BTreeMap<usize, Owner> {
    let mut claims: BTreeMap<usize, BTreeSet<(Rank, Time, String)>> = BTreeMap::new();
    for (number, rank, time, user) in all_claims(history) {
        claims.entry(number).or_default().insert((rank, time, user));
    }
    let largest = |claims: BTreeSet<(Rank, Time, String)>| {
        let (rank, time, user) = claims.last().unwrap();
        Owner { user: UserId(user.clone()), rank: *rank, clock: clock(time) }
    };
    claims.into_iter().map(|(number, claims)| (number, largest(claims))).collect()
}

fn all_claims(history: &History) -> Vec<(usize, Rank, Time, String)> {
    let claim = |item: &Item| match item {
        Item::Link(link) => Some((link.subject, Rank::Link, time(link.seconds, ""), user(link.user))),
        Item::Copy(copy) => {
            let content = &history.contents[copy.content];
            let (who, rank) = content.claim.filter(|_| copy.claims && copy.weight == Weight::Applied)?;
            Some((content.subject, rank, time(copy.seconds, &content.key()), user(who)))
        }
    };
    history.items.iter().filter_map(claim).collect()
}

/// A final one before any other, then the larger clock.
fn closing(mine: &[(&Content, &Copy)]) -> Option<Closing> {
    let closings = mine.iter().filter_map(|(content, copy)| {
        let status = content.status.filter(|status| status.change().closing)?.change();
        Some((status.is_final, time(copy.seconds, &content.key()), status.status.to_owned()))
    });
    closings.max().map(|(is_final, time, status)| Closing { clock: clock(&time), is_final, status })
}

fn status(first: &str, offers: impl Iterator<Item = (StatusChange, Time)>) -> Status {
    let largest = offers.max_by_key(|(change, time)| (change.is_final, time.clone()));
    match largest {
        None => Status { status: first.into(), reason: None, deleted_at: None, is_final: false, clock: None },
        Some((change, time)) => Status {
            status: change.status.into(),
            reason: change.reason,
            deleted_at: change.closing.then_some(time.0),
            is_final: change.is_final,
            clock: Some(clock(&time)),
        },
    }
}

fn integration(
    number: usize,
    owner: &Owner,
    mine: &[(&Content, &Copy)],
    closing: Option<Closing>,
    history: &History,
    index: &dyn Fn(&str, &str) -> Vec<u8>,
) -> Integration {
    let statuses = mine.iter().filter_map(|(content, copy)| {
        content.status.map(|status| (status.change(), time(copy.seconds, &content.key())))
    });
    let links = || history.items.iter().filter_map(Item::link).filter(|link| link.subject == number);
    let of_events = mine.iter().filter_map(|(content, copy)| {
        content.email.map(|email| (time(copy.seconds, &content.key()), Email::parse(&address(email), true).unwrap()))
    });
    let of_links = links().filter_map(|link| {
        link.email.map(|email| (time(link.seconds, ""), Email::parse(&address(email), true).unwrap()))
    });
    let service = subject(number).0;
    let tokens = links().filter_map(|link| {
        let text = token_text(link.token?);
        Some((link.seconds, index(service.as_str(), &text), text))
    });
    Integration {
        owner: Some(owner.clone()),
        status: status("active", statuses),
        closing,
        address: of_events.chain(of_links).max().map(|(time, email)| Address { email, clock: clock(&time) }),
        token: tokens.max().map(|(_, _, text)| text),
        observed_at: mine.iter().map(|(_, copy)| at(copy.seconds)).max(),
    }
}

fn accounts(mine: &[(&Content, &Copy)], owner: &str, closing: Option<&Closing>) -> BTreeMap<String, Account> {
    let mut said: BTreeMap<String, Vec<(Option<StatusChange>, Time)>> = BTreeMap::new();
    let mut connected = BTreeSet::new();
    for (content, copy) in mine {
        for account in &content.accounts {
            let change = account.status.map(|status| status.change());
            said.entry(account_id(account.number)).or_default().push((change, time(copy.seconds, &content.key())));
            if account.connected {
                connected.insert(account_id(account.number));
            }
        }
    }
    let account = |(id, said): (String, Vec<(Option<StatusChange>, Time)>)| {
        let observed_at = said.iter().map(|(_, time)| time.0).max();
        let own = status("open", said.into_iter().filter_map(|(change, time)| Some((change?, time))));
        let closed = closing.filter(|closing| closing.is_final || Some(&closing.clock) >= own.clock.as_ref());
        let status = closed.map_or(own, |closing| Status {
            status: "closed".into(),
            reason: Some(closing.status.clone()),
            deleted_at: Some(closing.clock.at),
            is_final: false,
            clock: Some(closing.clock.clone()),
        });
        let baas_id = connected.contains(&id).then(|| id.clone());
        (id, Account { user: owner.to_owned(), baas_id, status, observed_at })
    };
    said.into_iter().map(account).collect()
}

/// Everybody who was there or is named by a claim, with the largest address of the integrations that they own.
fn users(history: &History, integrations: &BTreeMap<(String, String), Integration>) -> BTreeMap<String, User> {
    let mut users: BTreeMap<String, User> = BTreeMap::new();
    for (_, _, _, name) in all_claims(history) {
        users.insert(name, User::default());
    }
    if history.deleted_user {
        users.entry(user(1)).or_default().deleted = true;
    }
    for (name, row) in &mut users {
        let owned =
            integrations.values().filter(|row| row.owner.as_ref().is_some_and(|owner| owner.user.as_str() == name));
        let largest = owned.filter_map(|row| row.address.as_ref()).max_by_key(|address| {
            (address.clock.at, address.clock.key.as_bytes().len(), address.clock.key.clone(), address.email.clone())
        });
        if let Some(address) = largest {
            row.email = Some(address.email.address.clone());
            row.verified = Some(address.email.verified);
            row.clock = Some(address.clock.clone());
        }
    }
    if history.product_address {
        let email = Some("own@example.com".to_owned());
        let deleted = users.get(&user(0)).is_some_and(|user| user.deleted);
        users.insert(user(0), User { email, deleted, ..User::default() });
    }
    users
}

fn event(
    number: usize,
    content: &Content,
    copy: &Copy,
    owners: &BTreeMap<usize, Owner>,
) -> ((String, DedupKey), Event) {
    let (service, id) = subject(content.subject);
    let (state, reason) = match copy.weight {
        Weight::Dead => ("dead", Some("wrong_shape".to_owned())),
        Weight::Recorded => ("recorded", None),
        Weight::Applied if owners.contains_key(&content.subject) => ("applied", None),
        Weight::Applied => ("unlinked", None),
    };
    debug_assert_eq!(number, copy.content);
    let event = Event { state, reason, occurred_at: at(copy.seconds), subject: Some(id.to_owned()) };
    ((service.as_str().to_owned(), DedupKey::from_id(&content.key())), event)
}

/// A copy as the event that the store is given.
pub fn event_of(content: &Content, copy: &Copy, received: i64) -> crate::domain::Event {
    let (provider, id) = subject(content.subject);
    let mut event = super::event(&content.key(), copy.seconds).by(provider).about(id).received(received);
    match copy.weight {
        Weight::Dead => return event.meaning(Meaning::Dead(crate::domain::Cause::WrongShape.into())),
        Weight::Recorded => return event.meaning(Meaning::Record(None)),
        Weight::Applied => {}
    }
    if let Some(status) = content.status {
        event = event.status(status.change());
    }
    if let Some((who, rank)) = content.claim.filter(|_| copy.claims) {
        event = event.claiming(&user(who), rank);
    }
    if let Some(email) = content.email {
        event = event.email(&address(email));
    }
    for account in &content.accounts {
        event = event.account(&account_id(account.number), account.status.map(|status| status.change()));
        if let (false, Meaning::Apply(changes)) = (account.connected, &mut event.meaning)
            && let Some(Change::Account { baas_id, .. }) = changes.last_mut()
        {
            *baas_id = None;
        }
    }
    event
}

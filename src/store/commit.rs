//! Step 11: what one transaction does with a batch, in order. Both databases run exactly this. way: 11/12
//!
//! ```text
//! lock subjects -> leave out what is about forgotten users (forget.rs) -> load integrations and users -> who owns what after this batch
//!   -> insert events (insert-first dedup) -> which copies count -> unlinked events of subjects that got their user
//!   -> fold -> users -> integrations -> accounts -> users' addresses -> who is to hear of the rows that changed
//! ```
//! Whether a subject is owned is known before its events are inserted, because claims count even of duplicates; so every
//! event is inserted in its final state. Locks are taken in the same order by everybody: subjects, events, users.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use uuid::Uuid;

use super::fold::{Fold, claim_of, fold_addresses, subject_of, subject_of_link};
use super::forget::{Fate, Forgotten, named};
use super::marks;
use super::rows::{EventKey, NewEvent, StoredCopy, SubjectKey};
use super::tables::Tables;
use super::{Arriving, Batch, Committed, Durable, Outcome, Reread, StoreError, StoreOptions, StoreTrouble};
use crate::crypto::BlindIndex;
use crate::domain::{DedupKey, Event, EventState, Meaning, UserId};

/// How many unlinked events of newly owned subjects one transaction applies; a sweep takes the rest.
pub const RELINK_LIMIT: u32 = 1_000;

/// Runs a batch inside an open transaction, up to but not including its commit.
pub async fn run(
    tables: &mut dyn Tables,
    batch: &Batch,
    options: &StoreOptions,
    reread: &dyn Reread,
) -> Result<Committed, StoreError> {
    let now = options.clock.now();
    let subjects = subjects_of(batch);
    tables.lock_subjects(&subjects).await?;
    let index = &options.vault.index;
    let arriving: Vec<&Arriving> = batch.events.iter().collect();
    let mut forgotten = Forgotten::ask(tables, &arriving, &batch.links, index).await?;
    forgotten.obey_links(tables, &batch.links, index).await?;
    let mut fold = Fold::new(&subjects, tables.integrations(&subjects).await?, options.create_users);
    let fates = forgotten.fates(tables, &arriving, &|key| fold.is_owned(key), (index, now)).await?;
    fold.leave_out(forgotten.users);
    fold.know_users(tables.users(&named_users(batch)).await?);
    batch.links.iter().for_each(|link| fold.link(link, &options.vault));
    let taken = || batch.events.iter().zip(&fates).filter(|(_, fate)| **fate != Fate::Dropped);
    taken().for_each(|(arriving, _)| fold.claim(&arriving.event));

    let (outcomes, counting) = dedup(tables, batch, &fates, &fold, options).await?;
    let relinked = unlinked_events(tables, &mut fold, reread, now).await?;
    counting.iter().for_each(|arriving| fold.apply(&arriving.event));
    relinked.iter().for_each(|event| fold.apply(event));

    let changed = write(tables, &mut fold, options, now).await?;
    tables.delete_events(&batch.replaces).await?;
    if options.telling.exchange && !changed.is_empty() {
        tables.keep_changed(&changed).await?;
    }
    if options.telling.notify && !changed.is_empty() {
        tables.notify(&changed).await?;
    }
    Ok(Committed { outcomes, relinked: relinked.len(), changed, _durable: Durable })
}

/// The subjects that this batch can change, sorted.
fn subjects_of(batch: &Batch) -> Vec<SubjectKey> {
    let events = batch.events.iter().filter_map(|arriving| subject_of(&arriving.event));
    events.chain(batch.links.iter().map(subject_of_link)).collect::<BTreeSet<_>>().into_iter().collect()
}

/// The users that this batch names, sorted.
fn named_users(batch: &Batch) -> Vec<UserId> {
    let claims = batch.events.iter().filter_map(|arriving| claim_of(&arriving.event)).map(|claim| claim.user.clone());
    claims.chain(batch.links.iter().map(|link| link.user.clone())).collect::<BTreeSet<_>>().into_iter().collect()
}

/// Decides which copies count: within the batch, then against what is stored. Inserts or overwrites their rows.
async fn dedup<'a>(
    tables: &mut dyn Tables,
    batch: &'a Batch,
    fates: &[Fate],
    fold: &Fold,
    options: &StoreOptions,
) -> Result<(Vec<Outcome>, Vec<&'a Arriving>), StoreError> {
    let now = options.clock.now();
    let mut best: BTreeMap<(&str, &DedupKey), usize> = BTreeMap::new();
    let fate_of = |position: usize| fates.get(position).copied().unwrap_or(Fate::Taken);
    let taken = batch.events.iter().enumerate().filter(|(position, _)| fate_of(*position) != Fate::Dropped);
    for (position, arriving) in taken {
        let held = best.entry((arriving.event.provider.as_str(), &arriving.event.dedup_key)).or_insert(position);
        let beats = batch.events.get(*held).is_some_and(|held| standing(arriving) > standing(held));
        if beats {
            *held = position;
        }
    }
    let candidates: Vec<(usize, &Arriving)> = best
        .values()
        .filter_map(|position| batch.events.get(*position).map(|arriving| (*position, arriving)))
        .collect();
    let rows: Vec<NewEvent> = candidates
        .iter()
        .map(|(position, arriving)| {
            let row = row_of(arriving, fold, &options.vault.index);
            match fate_of(*position) {
                Fate::WithoutPayload => NewEvent { payload: bytes::Bytes::new(), user_mark: None, ..row },
                _ => row,
            }
        })
        .collect();
    let inserted = tables.insert_events(&rows, now).await?;
    // Only where some were there already it has to be known which: a row that is stored under our id is ours.
    let known: Vec<EventKey> = match inserted == rows.len() as u64 {
        true => Vec::new(),
        false => rows.iter().map(|row| row.key.clone()).collect(),
    };
    let copies: HashMap<EventKey, StoredCopy> =
        tables.stored_copies(&known).await?.into_iter().map(|copy| (copy.key.clone(), copy)).collect();

    let outcome = |fate: &Fate| if *fate == Fate::Dropped { Outcome::Forgotten } else { Outcome::Duplicate };
    let mut outcomes: Vec<Outcome> = fates.iter().map(outcome).collect();
    let (mut counting, mut better) = (Vec::new(), Vec::new());
    for ((position, arriving), row) in candidates.into_iter().zip(rows) {
        if !known.is_empty() {
            let Some(copy) = copies.get(&row.key) else {
                return Err(StoreError { trouble: StoreTrouble::Conflict, what: "a stored event went away".into() });
            };
            if copy.id != row.id {
                if !counts(arriving, copy) {
                    continue;
                }
                better.push(row.clone());
            }
        }
        if let Some(outcome) = outcomes.get_mut(position) {
            *outcome = Outcome::Stored(row.state);
        }
        counting.push(arriving);
    }
    tables.update_events(&better, now).await?;
    Ok((outcomes, counting))
}

/// Whether an arriving copy counts although one is stored: it beats that one, or it is forced and not another copy that
/// counts less. The same copy on its way through again (known by its receipt) counts whatever it means today.
fn counts(arriving: &Arriving, stored: &StoredCopy) -> bool {
    let event = &arriving.event;
    let (mine, theirs) = ((event.meaning.weight(), event.occurred_at), (stored.state.weight(), stored.occurred_at));
    mine > theirs || (arriving.force && (mine == theirs || event.received_at == stored.received_at))
}

/// What decides between two copies in one batch. Being forced comes last: a replay does not displace a better copy.
fn standing(arriving: &Arriving) -> (u8, crate::domain::Timestamp, bool) {
    (arriving.event.meaning.weight(), arriving.event.occurred_at, arriving.force)
}

/// The event's row, in the state that it will have when the batch is through.
fn row_of(arriving: &Arriving, fold: &Fold, index: &BlindIndex) -> NewEvent {
    let event = &arriving.event;
    let (state, reason) = match &event.meaning {
        Meaning::Apply(_) if subject_of(event).is_some_and(|key| fold.is_owned(&key)) => (EventState::Applied, None),
        Meaning::Apply(_) => (EventState::Unlinked, None),
        Meaning::Record(reason) => (EventState::Recorded, reason.as_ref().map(ToString::to_string)),
        Meaning::Dead(reason) => (EventState::Dead, Some(reason.to_string())),
    };
    NewEvent {
        id: Uuid::now_v7(),
        key: (event.provider.as_str().to_owned(), event.dedup_key.clone()),
        kind: event.kind.clone(),
        subject: event.subject.clone(),
        occurred_at: event.occurred_at,
        received_at: event.received_at,
        state,
        reason,
        attempts: 0,
        next_attempt_at: None,
        payload: arriving.payload.bytes(),
        user_mark: named(arriving).map(|user| marks::of_user(index, user)),
    }
}

/// Loads the unlinked events of subjects that got their user in this batch, offers their claims, and marks them applied.
async fn unlinked_events(
    tables: &mut dyn Tables,
    fold: &mut Fold,
    reread: &dyn Reread,
    now: crate::domain::Timestamp,
) -> Result<Vec<Event>, StoreError> {
    let stored = tables.unlinked(&fold.newly_owned(), RELINK_LIMIT).await?;
    let (mut ids, mut events) = (Vec::new(), Vec::new());
    for row in &stored {
        // What today's code reads otherwise (another meaning, another subject) waits for the sweep, which takes it alone.
        let event = reread.reread(row).filter(|event| subject_of(event).is_some_and(|key| fold.is_owned(&key)));
        if let Some(event) = event {
            ids.push(row.id);
            events.push(event);
        }
    }
    let users: BTreeSet<UserId> = events.iter().filter_map(claim_of).map(|claim| claim.user.clone()).collect();
    fold.know_users(tables.users(&users.into_iter().collect::<Vec<_>>()).await?);
    events.iter().for_each(|event| fold.claim(event));
    tables.mark_applied(&ids, now).await?;
    Ok(events)
}

/// Writes what the fold changed, parents first. Returns the rows that changed, sorted, each once.
async fn write(
    tables: &mut dyn Tables,
    fold: &mut Fold,
    options: &StoreOptions,
    now: crate::domain::Timestamp,
) -> Result<Vec<(&'static str, Uuid)>, StoreError> {
    let vault = &options.vault;
    let mut changed = BTreeSet::new();
    let missing = fold.missing_users();
    if !missing.is_empty() {
        let made: HashSet<Uuid> = tables.insert_users(&missing, now).await?.into_iter().collect();
        // Where another worker was first, the row that is there counts.
        let (mut users, others): (Vec<_>, Vec<_>) = missing.into_iter().partition(|user| made.contains(&user.id));
        let others: Vec<UserId> = others.into_iter().map(|user| user.external_id).collect();
        users.extend(tables.users(&others).await?);
        changed.extend(users.iter().map(|user| ("user", user.id)));
        fold.know_users(users);
    }
    fold.resolve_owners();
    let (new, old) = fold.integrations(vault);
    tables.insert_integrations(&new, now).await?;
    tables.update_integrations(&old, now).await?;
    changed.extend(new.iter().chain(&old).map(|(row, _)| ("integration", row.id)));

    let (wanted, whole) = fold.wanted_accounts(vault);
    let rows =
        if wanted.is_empty() && whole.is_empty() { Vec::new() } else { tables.accounts(&wanted, &whole).await? };
    fold.fold_accounts(rows, vault);
    tables.keep_originals(&fold.adopted_accounts()).await?;
    let (new, old) = fold.account_rows(vault);
    tables.insert_accounts(&new, now).await?;
    tables.update_accounts(&old, now).await?;
    changed.extend(new.iter().chain(&old).map(|(row, _)| ("account", row.id)));

    let users = fold.users_to_address();
    if !users.is_empty() {
        let held = tables.user_addresses(&users).await?;
        let addresses = fold_addresses(held, tables.owned_addresses(&users).await?);
        tables.write_user_addresses(&addresses, now).await?;
        changed.extend(addresses.iter().map(|row| ("user", row.id)));
    }
    Ok(changed.into_iter().collect())
}

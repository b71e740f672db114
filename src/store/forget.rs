//! Forgetting a user: what one transaction does, and which arriving events are about somebody who was forgotten. Both
//! databases run exactly this.
//!
//! ```text
//! forget:  close the gate -> tombstones of the user and of their subjects -> user, integrations, accounts -> audit trail
//! after:   the stored events of each tombstone, a bounded number at a time, until there are none (`pending`)
//! commit:  what names somebody with a tombstone is dropped: no row, no payload, a count alone
//! ```
//! Every commit holds the gate open, and forgetting closes it: whoever commits later sees the tombstones, whoever committed
//! before has rows that are found. What if the process dies in between? The tombstones are durable with the user's rows
//! gone; what is still to be deleted stands in them until it is, and every worker's sweep goes on with it.
//!
//! A tombstone is a mark (a blind index): it knows a forgotten id when it comes again, and gives none away.

use std::collections::{BTreeSet, HashMap, HashSet};

use async_trait::async_trait;
use uuid::Uuid;

use super::audit::{AuditEntry, NewAudit};
use super::fold::claim_of;
use super::marks::{self, Mark};
use super::rows::SubjectKey;
use super::tables::Tables;
use super::{Arriving, Link, StoreError, StoreOptions, StoreTrouble};
use crate::crypto::BlindIndex;
use crate::domain::{Event, Timestamp, UserId};

/// What stands for somebody who was forgotten.
#[derive(Debug, Clone)]
pub struct Tombstone {
    /// Of a user or a subject.
    pub mark: Mark,
    /// The mark of the user for whose sake it is there.
    pub of_user: Mark,
    /// The subject, only as long as its stored events are still to be deleted.
    pub subject: Option<SubjectKey>,
}

/// What there was of a user.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Forgot {
    /// Rows of `user`: one, or none if finhook never had any.
    pub user: u64,
    /// Rows of `integration`.
    pub integration: u64,
    /// Rows of `account`.
    pub account: u64,
    /// Stored events; counted before, 0 in the answer of the act itself.
    pub event: u64,
    /// Whether they had been forgotten before.
    pub before: bool,
}

/// How much there is of a user, on both databases: by our id of them ($1) and their mark ($2). What says how days are found
/// is each database's own.
pub fn count_statement(subject_days: &str, user_days: &str) -> String {
    format!(
        r#"with whom as (select id from "user" where external_id = $1),
             theirs as (select i.id, i.service, i.external_id from integration i join whom on i.user_id = whom.id),
             about as (
                select (select count(*) from event
                        where provider = theirs.service and subject = theirs.external_id and {subject_days}) as events
                from theirs)
         select (select count(*) from whom), (select count(*) from theirs),
             (select count(*) from account a
              where a.user_id in (select id from whom) or a.integration_id in (select id from theirs)),
             (select cast(coalesce(sum(events), 0) as bigint) from about)
                 + (select count(*) from event
                    where user_mark = $2 and {user_days} and not exists (
                        select 1 from theirs
                        where theirs.service = event.provider and theirs.external_id = event.subject)),
             exists (select 1 from tombstone where mark = $2)"#
    )
}

/// The statements of forgetting, beyond those of a commit.
#[async_trait]
pub trait Graves: Tables {
    /// Waits until no commit is under way and lets none begin before this transaction ends. The first statement of it.
    async fn close_gate(&mut self) -> Result<(), StoreError>;
    /// The user's row.
    async fn user_row(&mut self, user: &UserId) -> Result<Option<Uuid>, StoreError>;
    /// The subjects that belong to a user's row.
    async fn subjects_of_user(&mut self, user: Uuid) -> Result<Vec<SubjectKey>, StoreError>;
    /// Deletes a user's row and everything below it.
    async fn delete_user(&mut self, user: Uuid) -> Result<Forgot, StoreError>;
    /// Removes the tombstones that stand for a user's sake; how many it were.
    async fn lift_user(&mut self, of_user: &Mark) -> Result<u64, StoreError>;
    /// Takes the ids out of the audit trail's entries about these marks, and `id` out of their reasons.
    async fn clean_audit(&mut self, marks: &[Mark], id: &str) -> Result<(), StoreError>;
    /// Writes an entry of the audit trail.
    async fn insert_audit(&mut self, row: &NewAudit) -> Result<(), StoreError>;
    /// Tombstones whose stored events are still to be deleted, locked until the transaction ends.
    async fn pending_tombstones(&mut self, limit: u32) -> Result<Vec<Tombstone>, StoreError>;
    /// Deletes up to `limit` stored events that a tombstone is about; how many it were.
    async fn delete_events_about(&mut self, tombstone: &Tombstone, limit: u32) -> Result<u64, StoreError>;
    /// Nothing is stored any more about this tombstone: takes the subject out of it.
    async fn settle_tombstone(&mut self, mark: &Mark) -> Result<(), StoreError>;
}

/// Forgets a user, up to but not including the commit. Their stored events are left to [`some_events`].
pub async fn run(
    tables: &mut dyn Graves,
    user: &UserId,
    options: &StoreOptions,
    entry: &AuditEntry,
) -> Result<Forgot, StoreError> {
    let (now, index) = (options.clock.now(), &options.vault.index);
    tables.close_gate().await?;
    let of_user = marks::of_user(index, user);
    let row = tables.user_row(user).await?;
    let subjects = match row {
        Some(row) => tables.subjects_of_user(row).await?,
        None => Vec::new(),
    };
    let before = !tables.tombstones(std::slice::from_ref(&of_user)).await?.is_empty();
    let mut tombstones = vec![Tombstone { mark: of_user.clone(), of_user: of_user.clone(), subject: None }];
    tombstones.extend(subjects.into_iter().map(|subject| of_subject(index, subject, &of_user)));
    tombstones.sort_by(|one, two| one.mark.cmp(&two.mark));
    tables.bury(&tombstones, now).await?;
    let mut forgot = match row {
        Some(row) => tables.delete_user(row).await?,
        None => Forgot::default(),
    };
    forgot.before = before;
    let marks: Vec<Mark> = tombstones.into_iter().map(|tombstone| tombstone.mark).collect();
    tables.clean_audit(&marks, user.as_str()).await?;
    let detail = serde_json::json!({
        "user": forgot.user, "integration": forgot.integration, "account": forgot.account, "again": before,
    });
    // Their mark without their id.
    let entry = entry.clone().saying(&detail).row(index, now);
    tables.insert_audit(&NewAudit { target: None, target_index: Some(of_user), ..entry }).await?;
    Ok(forgot)
}

/// Takes what is about a forgotten user again, from now on; how many tombstones are gone.
pub async fn lift(
    tables: &mut dyn Graves,
    user: &UserId,
    options: &StoreOptions,
    entry: &AuditEntry,
) -> Result<u64, StoreError> {
    let of_user = marks::of_user(&options.vault.index, user);
    tables.close_gate().await?;
    // What was stored before the forgetting goes now, if it has not gone yet: it must not come back with the user.
    for tombstone in tables.pending_tombstones(u32::MAX).await?.iter().filter(|stone| stone.of_user == of_user) {
        tables.delete_events_about(tombstone, u32::MAX).await?;
    }
    let lifted = tables.lift_user(&of_user).await?;
    tables.insert_audit(&entry.row(&options.vault.index, options.clock.now())).await?;
    Ok(lifted)
}

/// Lets a transaction go on that makes a row of a user, unless they were forgotten. It holds the gate open, as a commit does.
pub async fn admit(tables: &mut dyn Tables, user: &UserId, index: &BlindIndex) -> Result<(), StoreError> {
    tables.lock_subjects(&[]).await?;
    let buried = tables.tombstones(&[marks::of_user(index, user)]).await?;
    if buried.is_empty() { Ok(()) } else { Err(refused()) }
}

fn refused() -> StoreError {
    let what = "the user was forgotten; `finhook forget --lift` takes them again".to_owned();
    StoreError { trouble: StoreTrouble::Forgotten, what }
}

/// One bounded step of deleting stored events: `Ok(None)` when nothing is left to do, else how many were deleted.
///
/// `behind_the_gate` says whether this transaction may find a tombstone settled: only if no commit that began before the
/// tombstone was there can still add to its events.
pub async fn some_events(
    tables: &mut dyn Graves,
    limit: u32,
    behind_the_gate: bool,
) -> Result<Option<u64>, StoreError> {
    if behind_the_gate {
        tables.close_gate().await?;
    }
    let Some(tombstone) = tables.pending_tombstones(1).await?.pop() else { return Ok(None) };
    let deleted = tables.delete_events_about(&tombstone, limit).await?;
    if behind_the_gate && deleted < u64::from(limit) {
        tables.settle_tombstone(&tombstone.mark).await?;
    }
    Ok(Some(deleted))
}

fn of_subject(index: &BlindIndex, subject: SubjectKey, of_user: &Mark) -> Tombstone {
    Tombstone { mark: marks::of_subject(index, &subject), of_user: of_user.clone(), subject: Some(subject) }
}

/// What becomes of an arriving event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is nobody's who was forgotten.
    Taken,
    /// Its subject is a living user's, but it names somebody who was forgotten: it counts, and is not kept.
    WithoutPayload,
    /// It is about somebody who was forgotten.
    Dropped,
}

/// Who of those that a batch names was forgotten.
pub struct Forgotten {
    /// The users.
    pub users: HashSet<UserId>,
    subjects: HashSet<SubjectKey>,
}

/// The user whom an event names: by its webhook URL, or by a claim.
pub fn named(arriving: &Arriving) -> Option<&UserId> {
    arriving.bound.as_ref().or_else(|| claim_of(&arriving.event).map(|claim| &claim.user))
}

/// The subject of an event, whether or not it changes rows.
fn subject(event: &Event) -> Option<SubjectKey> {
    event.subject.as_ref().map(|subject| (event.provider.as_str().to_owned(), subject.clone()))
}

impl Forgotten {
    /// Asks the tombstones, in one statement, once the batch's locks are held.
    pub async fn ask(
        tables: &mut dyn Tables,
        events: &[&Arriving],
        links: &[Link],
        index: &BlindIndex,
    ) -> Result<Self, StoreError> {
        let subjects = events.iter().filter_map(|arriving| subject(&arriving.event));
        let subjects: HashSet<SubjectKey> = subjects.chain(links.iter().map(super::fold::subject_of_link)).collect();
        let users: HashSet<&UserId> =
            events.iter().copied().filter_map(named).chain(links.iter().map(|link| &link.user)).collect();
        let mut subjects: HashMap<Mark, SubjectKey> =
            subjects.into_iter().map(|subject| (marks::of_subject(index, &subject), subject)).collect();
        let mut users: HashMap<Mark, &UserId> =
            users.into_iter().map(|user| (marks::of_user(index, user), user)).collect();
        let asked: Vec<Mark> = subjects.keys().chain(users.keys()).cloned().collect();
        let found = tables.tombstones(&asked).await?;
        Ok(Self {
            users: found.iter().filter_map(|mark| users.remove(mark)).cloned().collect(),
            subjects: found.iter().filter_map(|mark| subjects.remove(mark)).collect(),
        })
    }

    /// Links: one that names a forgotten user is refused; one that gives a forgotten user's subject to somebody else is
    /// the product's own word that it belongs to them now, and lifts its tombstone. What was stored of it before is gone
    /// with this transaction.
    pub async fn obey_links(
        &mut self,
        tables: &mut dyn Tables,
        links: &[Link],
        index: &BlindIndex,
    ) -> Result<(), StoreError> {
        if links.iter().any(|link| self.users.contains(&link.user)) {
            return Err(refused());
        }
        let linked: BTreeSet<SubjectKey> =
            links.iter().map(super::fold::subject_of_link).filter(|key| self.subjects.remove(key)).collect();
        let lifted: Vec<(SubjectKey, Mark)> =
            linked.into_iter().map(|key| (key.clone(), marks::of_subject(index, &key))).collect();
        tables.lift_subjects(&lifted).await
    }

    /// What becomes of each event, in order. An event that names a forgotten user about a subject that nobody has yet is
    /// how we learn of a further subject of theirs: those are buried with them.
    pub async fn fates(
        &self,
        tables: &mut dyn Tables,
        events: &[&Arriving],
        is_owned: &(dyn Fn(&SubjectKey) -> bool + Sync),
        (index, now): (&BlindIndex, Timestamp),
    ) -> Result<Vec<Fate>, StoreError> {
        if self.users.is_empty() && self.subjects.is_empty() {
            return Ok(vec![Fate::Taken; events.len()]);
        }
        let mut learned: HashMap<SubjectKey, Mark> = HashMap::new();
        for arriving in events {
            let Some(key) = super::fold::subject_of(&arriving.event) else { continue };
            if let Some(user) = named(arriving).filter(|user| self.users.contains(user))
                && !is_owned(&key)
                && !self.subjects.contains(&key)
            {
                learned.insert(key, marks::of_user(index, user));
            }
        }
        let mut tombstones: Vec<Tombstone> =
            learned.iter().map(|(key, of_user)| of_subject(index, key.clone(), of_user)).collect();
        tombstones.sort_by(|one, two| one.mark.cmp(&two.mark));
        tables.bury(&tombstones, now).await?;
        let fate = |arriving: &Arriving| {
            let subject = subject(&arriving.event);
            let buried = |key: &SubjectKey| self.subjects.contains(key) || learned.contains_key(key);
            match (subject, named(arriving).is_some_and(|user| self.users.contains(user))) {
                (Some(key), _) if buried(&key) => Fate::Dropped,
                (_, false) => Fate::Taken,
                (Some(key), true) if is_owned(&key) => Fate::WithoutPayload,
                (_, true) => Fate::Dropped,
            }
        };
        Ok(events.iter().copied().map(fate).collect())
    }
}

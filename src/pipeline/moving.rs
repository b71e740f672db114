//! Moving in: what becomes of the product's rows, subject by subject. Pure; `store::moving` reads and writes them.
//!
//! [`Sealer`] seals anew what typeorm-encrypted wrote and gives every account its index. Rows that repeat another are
//! reported, and merged only when told: then the surplus row is closed and names the row that counts, which takes what it
//! lacks. Nothing is merged that would lose something: rows of two users, or accounts with two ledger's ids, stay apart.
//! A surplus account that is not merged is sealed without an index, because an index is there once.
//!
//! [`Reverter`] goes back: what is unchanged becomes what it was, byte for byte, and the rest is encrypted as the product
//! did, so that its old entities read that too.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use uuid::Uuid;

use crate::crypto::{OpenError, Place, TypeormCipher, is_sealed};
use crate::domain::Timestamp;
use crate::store::Vault;
use crate::store::moving::{Moved, Mover, MovingAccount, MovingIntegration, MovingSubject, Original};
use crate::store::rows::SubjectKey;

/// How many rows of a kind a report names; all are counted.
const NAMED: usize = 1_000;

/// What was found and done.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Rows of `integration`.
    pub integrations: u64,
    /// Rows of `account`.
    pub accounts: u64,
    /// Values that the product wrote.
    pub theirs: u64,
    /// Values that finhook sealed before.
    pub ours: u64,
    /// Values that were sealed anew (or, going back, encrypted as before).
    pub rewritten: u64,
    /// Values that do not open.
    pub unreadable: u64,
    /// Rows that repeat another.
    pub duplicates: u64,
    /// Rows that were merged, or would be.
    pub merged: u64,
    /// Where values do not open, the first ones.
    pub unreadable_at: Vec<Spot>,
    /// Which rows repeat which, the first ones.
    pub duplicate_rows: Vec<Duplicate>,
}

/// A value, by its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Spot {
    /// The table.
    pub table: &'static str,
    /// The column.
    pub column: &'static str,
    /// The row.
    pub id: Uuid,
}

/// A row that repeats another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Duplicate {
    /// The table.
    pub table: &'static str,
    /// The surplus row.
    pub id: Uuid,
    /// The row that counts.
    pub of: Uuid,
    /// The integration's service.
    pub service: String,
    /// The provider's id of the integration.
    pub integration: String,
    /// Why they cannot be merged, if so.
    pub apart: Option<&'static str>,
}

impl Report {
    fn cannot_open(&mut self, table: &'static str, column: &'static str, id: Uuid) {
        self.unreadable += 1;
        if self.unreadable_at.len() < NAMED {
            self.unreadable_at.push(Spot { table, column, id });
        }
    }

    fn repeats(&mut self, duplicate: Duplicate, merge: bool) {
        self.duplicates += 1;
        self.merged += u64::from(merge && duplicate.apart.is_none());
        if self.duplicate_rows.len() < NAMED {
            self.duplicate_rows.push(duplicate);
        }
    }

    fn counts(&mut self, text: &str) {
        if is_sealed(text) { self.ours += 1 } else { self.theirs += 1 }
    }
}

/// Seals what the product wrote.
pub struct Sealer<'v> {
    /// What seals, indexes, and opens what the product wrote.
    pub vault: &'v Vault,
    /// Whether rows that repeat another are merged.
    pub merge: bool,
    /// For closing what is merged.
    pub now: Timestamp,
    /// What was found and done.
    pub report: Report,
}

/// An account whose identifiers are open, where they had to be opened.
struct Open {
    /// As it was loaded.
    was: MovingAccount,
    row: MovingAccount,
    external_id: Option<SecretString>,
    baas_id: Option<SecretString>,
    /// What finds it, whether or not its row has it.
    index: Option<Vec<u8>>,
}

impl Mover for Sealer<'_> {
    fn decide(&mut self, subject: MovingSubject) -> Moved {
        let MovingSubject { key, integrations, accounts } = subject;
        self.report.integrations += integrations.len() as u64;
        self.report.accounts += accounts.len() as u64;
        let before = integrations.clone();
        let mut moved = Moved::default();
        let (integrations, mergeable) = self.integrations(&key, integrations, &mut moved);
        let counts = integrations.iter().find(|row| row.duplicate_of.is_none()).map(|row| row.id);
        let merging = counts.filter(|_| mergeable && self.merge && integrations.len() > 1);

        // Accounts of integrations that become one are looked at as one integration's.
        let mut groups: BTreeMap<(Uuid, Vec<u8>), Vec<Open>> = BTreeMap::new();
        let mut loose = Vec::new();
        for row in accounts {
            if row.duplicate_of.is_some() {
                continue;
            }
            let Some(mut open) = self.open(&key, row) else { continue };
            if let Some(counts) = merging {
                open.row.integration_id = counts;
            }
            match open.index.clone() {
                Some(index) => groups.entry((open.row.integration_id, index)).or_default().push(open),
                None => loose.push(open),
            }
        }
        for open in loose {
            self.seal(&key, open, None, &mut moved);
        }
        for ((_, index), group) in groups {
            self.account(&key, index, group, &mut moved);
        }
        moved.integrations.extend(integrations.into_iter().filter(|row| !before.contains(row)));
        moved
    }
}

impl Sealer<'_> {
    /// The integrations of a subject with their tokens sealed, and merged if told; and whether they can be.
    fn integrations(
        &mut self,
        key: &SubjectKey,
        mut rows: Vec<MovingIntegration>,
        moved: &mut Moved,
    ) -> (Vec<MovingIntegration>, bool) {
        for row in &mut rows {
            let Some(text) = row.authorization_id.clone() else { continue };
            self.report.counts(&text);
            if is_sealed(&text) {
                continue;
            }
            let parts: [&[u8]; 2] = [key.0.as_bytes(), key.1.as_bytes()];
            let place = Place { table: "integration", column: "authorization_id", key: &parts };
            match self.vault.open(&place, &text) {
                Ok(token) => {
                    let sealed = self.vault.ring.seal_column(&place, token.expose_secret());
                    row.authorization_id = Some(sealed.as_str().to_owned());
                    self.report.rewritten += 1;
                }
                Err(_) => self.report.cannot_open("integration", "authorization_id", row.id),
            }
        }
        rows.sort_by_key(|row| (row.duplicate_of.is_some(), row.deleted_at.is_some(), row.created_at, row.id));
        let users: BTreeSet<Uuid> = rows.iter().filter_map(|row| row.user_id).collect();
        let mergeable = users.len() < 2;
        let Some((counts, surplus)) = rows.split_first_mut() else { return (rows, mergeable) };
        let apart = (!mergeable).then_some("they belong to different users");
        for row in surplus.iter_mut().filter(|row| !row.original.as_ref().is_some_and(|original| original.merged)) {
            let (service, integration) = key.clone();
            let duplicate = Duplicate { table: "integration", id: row.id, of: counts.id, service, integration, apart };
            self.report.repeats(duplicate, self.merge);
            if self.merge && mergeable {
                // All of them are sealed for the same place, so a token may move. The newest one is the one that works.
                let newer = counts.authorization_id.is_none() || row.updated_at > counts.updated_at;
                if row.authorization_id.is_some() && newer {
                    counts.authorization_id.clone_from(&row.authorization_id);
                    counts.updated_at = row.updated_at;
                }
                row.duplicate_of = Some(counts.id);
                row.deleted_at = row.deleted_at.or(Some(self.now));
                moved.merged.push(row.id);
            }
        }
        (rows, mergeable)
    }

    /// Opens what has to be opened; `None` if something does not open: then the row stays as it is.
    fn open(&mut self, key: &SubjectKey, row: MovingAccount) -> Option<Open> {
        let place: [&[u8]; 3] =
            [key.0.as_bytes(), key.1.as_bytes(), row.external_id_index.as_deref().unwrap_or_default()];
        let mut readable = true;
        let mut open = |column: &'static str, text: &Option<String>| {
            let text = text.as_ref()?;
            self.report.counts(text);
            let done = is_sealed(text) && row.external_id_index.is_some();
            let opened = (!done).then(|| self.vault.open(&Place { table: "account", column, key: &place }, text))?;
            opened
                .inspect_err(|_| {
                    readable = false;
                    self.report.cannot_open("account", column, row.id);
                })
                .ok()
        };
        let external_id = open("external_id", &row.external_id);
        let baas_id = open("baas_id", &row.baas_id);
        let found = |id: &SecretString| self.vault.index.of("external_id", &key.0, id.expose_secret()).to_vec();
        let index = external_id.as_ref().map(found).or_else(|| row.external_id_index.clone());
        readable.then(|| Open { was: row.clone(), row, external_id, baas_id, index })
    }

    /// The accounts that are one: the first gets the index, the others are merged into it or stay without.
    fn account(&mut self, key: &SubjectKey, index: Vec<u8>, mut group: Vec<Open>, moved: &mut Moved) {
        group.sort_by_key(|open| {
            let row = &open.row;
            (Reverse(row.external_id_index.is_some()), row.deleted_at.is_some(), row.created_at, row.id)
        });
        let mut rows = group.into_iter();
        let Some(mut counts) = rows.next() else { return };
        let of = counts.row.id;
        for mut surplus in rows {
            let (one, two) = (self.ledger(key, &counts), self.ledger(key, &surplus));
            let apart = if counts.row.user_id.is_some()
                && surplus.row.user_id.is_some()
                && counts.row.user_id != surplus.row.user_id
            {
                Some("they belong to different users")
            } else {
                (one.is_some() && two.is_some() && one != two).then_some("their baas_id differs")
            };
            let (service, integration) = key.clone();
            let id = surplus.row.id;
            let duplicate = Duplicate { table: "account", id, of, service, integration, apart };
            self.report.repeats(duplicate, self.merge);
            if self.merge && apart.is_none() {
                if one.is_none() && two.is_some() {
                    let opened = self.opened(key, "baas_id", &surplus);
                    counts.row.baas_id = None;
                    counts.baas_id = opened.ok();
                }
                surplus.row.duplicate_of = Some(of);
                surplus.row.deleted_at = surplus.row.deleted_at.or(Some(self.now));
                moved.merged.push(id);
            }
            self.seal(key, surplus, None, moved);
        }
        self.seal(key, counts, Some(index), moved);
    }

    /// The blind index of an account's ledger's id, by which two are compared.
    fn ledger(&self, key: &SubjectKey, open: &Open) -> Option<Vec<u8>> {
        let found = |id: &SecretString| self.vault.index.of("baas_id", &key.0, id.expose_secret()).to_vec();
        open.baas_id.as_ref().map(found).or_else(|| open.row.baas_id_index.clone())
    }

    /// A value of an account, opened before or now.
    fn opened(&self, key: &SubjectKey, column: &'static str, open: &Open) -> Result<SecretString, OpenError> {
        let (opened, text) = match column {
            "baas_id" => (&open.baas_id, &open.row.baas_id),
            _ => (&open.external_id, &open.row.external_id),
        };
        if let Some(opened) = opened {
            return Ok(opened.clone());
        }
        let index = open.row.external_id_index.as_deref().unwrap_or_default();
        let place: [&[u8]; 3] = [key.0.as_bytes(), key.1.as_bytes(), index];
        let place = Place { table: "account", column, key: &place };
        text.as_ref().map_or(Err(OpenError::Refused), |text| self.vault.open(&place, text))
    }

    /// Seals an account for its place with `index`, unless it is sealed for that already, and adds it if it changed.
    fn seal(&mut self, key: &SubjectKey, open: Open, index: Option<Vec<u8>>, moved: &mut Moved) {
        let same_place = open.row.external_id_index == index;
        let place: [&[u8]; 3] = [key.0.as_bytes(), key.1.as_bytes(), index.as_deref().unwrap_or_default()];
        let mut values: [Option<String>; 2] = [None, None];
        for (column, value) in ["external_id", "baas_id"].into_iter().zip(&mut values) {
            let (text, opened) = match column {
                "baas_id" => (&open.row.baas_id, &open.baas_id),
                _ => (&open.row.external_id, &open.external_id),
            };
            match text {
                Some(text) if is_sealed(text) && same_place => *value = Some(text.clone()),
                None if opened.is_none() => {}
                _ => {
                    let Ok(plain) = self.opened(key, column, &open) else {
                        self.report.cannot_open("account", column, open.row.id);
                        return;
                    };
                    let place = Place { table: "account", column, key: &place };
                    *value = Some(self.vault.ring.seal_column(&place, plain.expose_secret()).as_str().to_owned());
                    self.report.rewritten += 1;
                }
            }
        }
        let baas_id_index = self.ledger(key, &open);
        let [external_id, baas_id] = values;
        let row = MovingAccount { external_id, baas_id, external_id_index: index, baas_id_index, ..open.row };
        if row != open.was {
            moved.accounts.push(row);
        }
    }
}

/// Writes everything as the product did.
pub struct Reverter<'v> {
    /// What opens what was sealed.
    pub vault: &'v Vault,
    /// What the product encrypts with.
    pub theirs: &'v TypeormCipher,
    /// What was found and done.
    pub report: Report,
}

impl Mover for Reverter<'_> {
    fn decide(&mut self, subject: MovingSubject) -> Moved {
        let MovingSubject { key, integrations, accounts } = subject;
        self.report.integrations += integrations.len() as u64;
        self.report.accounts += accounts.len() as u64;
        let mut moved = Moved { back: true, ..Moved::default() };
        let taken = self.taken_over(&integrations, &accounts);
        let taken = |row: Uuid, column| taken.get(&(row, column)).map_or(&[] as &[_], Vec::as_slice);
        for mut row in integrations {
            let parts: [&[u8]; 2] = [key.0.as_bytes(), key.1.as_bytes()];
            let place = Place { table: "integration", column: "authorization_id", key: &parts };
            let before = row.original.as_ref().map(|original| original.authorization_id.clone());
            row.authorization_id =
                self.value(&place, row.id, row.authorization_id, before, taken(row.id, "authorization_id"));
            if let Some(original) = row.original.as_ref().filter(|original| original.merged) {
                row.deleted_at = original.deleted_at;
            }
            moved.integrations.push(row);
        }
        for mut row in accounts {
            let index = row.external_id_index.clone().unwrap_or_default();
            let parts: [&[u8]; 3] = [key.0.as_bytes(), key.1.as_bytes(), &index];
            let place = |column| Place { table: "account", column, key: &parts };
            let original = row.original.clone();
            let before = original.as_ref().map(|original| original.external_id.clone());
            row.external_id = self.value(&place("external_id"), row.id, row.external_id, before, &[]);
            let before = original.as_ref().map(|original| original.baas_id.clone());
            row.baas_id = self.value(&place("baas_id"), row.id, row.baas_id, before, taken(row.id, "baas_id"));
            if row.baas_id.is_none() {
                row.baas_id_index = None;
            }
            if let Some(original) = original {
                row.integration_id = original.integration_id;
                if original.merged {
                    (row.duplicate_of, row.deleted_at) = (None, original.deleted_at);
                }
            }
            moved.accounts.push(row);
        }
        moved
    }
}

/// What rows took over from rows that were merged into them, by row and column.
type TakenOver = BTreeMap<(Uuid, &'static str), Vec<SecretString>>;

impl Reverter<'_> {
    fn taken_over(&self, integrations: &[MovingIntegration], accounts: &[MovingAccount]) -> TakenOver {
        let mut taken = TakenOver::new();
        let mut add = |of: Option<Uuid>, column, original: &Option<Original>| {
            let Some((of, original)) = of.zip(original.as_ref().filter(|original| original.merged)) else { return };
            let text = if column == "baas_id" { &original.baas_id } else { &original.authorization_id };
            if let Some(opened) = text.as_ref().and_then(|text| self.theirs.open(text).ok()) {
                taken.entry((of, column)).or_default().push(opened);
            }
        };
        integrations.iter().for_each(|row| add(row.duplicate_of, "authorization_id", &row.original));
        accounts.iter().for_each(|row| add(row.duplicate_of, "baas_id", &row.original));
        taken
    }

    /// A value as the product had it. `before` is what is kept of it (which may be nothing), `taken` what a merge may have
    /// put in its place.
    fn value(
        &mut self,
        place: &Place<'_>,
        id: Uuid,
        text: Option<String>,
        before: Option<Option<String>>,
        taken: &[SecretString],
    ) -> Option<String> {
        let text = text?;
        self.report.counts(&text);
        if !is_sealed(&text) {
            return Some(text);
        }
        let Ok(plain) = self.vault.open(place, &text) else {
            let table = if place.table == "account" { "account" } else { "integration" };
            let column = match place.column {
                "external_id" => "external_id",
                "baas_id" => "baas_id",
                _ => "authorization_id",
            };
            self.report.cannot_open(table, column, id);
            return Some(text);
        };
        self.report.rewritten += 1;
        let is_this = |other: &SecretString| other.expose_secret() == plain.expose_secret();
        match before {
            Some(Some(before)) if self.theirs.open(&before).is_ok_and(|opened| is_this(&opened)) => Some(before),
            // What finhook sealed before it was kept is none of the product's.
            Some(before) if taken.iter().any(is_this) && !before.as_deref().is_some_and(is_sealed) => before,
            _ => Some(self.theirs.seal(plain.expose_secret())),
        }
    }
}

//! Step 10: the changes of a batch merged per row and register, the larger clock wins. Pure: no statement is sent here.
//!
//! A [`Fold`] holds the rows that a transaction loaded, takes claims, links and counted events in any order, and gives back
//! the rows that differ. The rules of each register are in `domain::register`; what is here is which row a change goes to
//! and what follows from one row for another: an owner for its accounts, a closing for its accounts, an address for its
//! user. way: 10/12

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use secrecy::{ExposeSecret, SecretString};
use uuid::Uuid;

use super::rows::{AccountRow, IntegrationRow, SealedIds, SubjectKey, UserAddress, UserRow};
use super::{Link, Vault};
use crate::crypto::{Column, Place, Sealed};
use crate::domain::register::{Address, Closing, Owner, Status};
use crate::domain::{AccountId, Change, Claim, Clock, DedupKey, Event, Meaning, Rank, StatusChange, Timestamp, UserId};

/// An integration on its way through a batch.
struct Subject {
    /// As loaded; `None` = no row yet.
    loaded: Option<IntegrationRow>,
    /// As it will be.
    row: IntegrationRow,
    /// An access token to be sealed.
    authorization_id: Option<SecretString>,
    /// What its events say of its accounts.
    accounts: Vec<AccountChange>,
}

/// What one event says of one account.
struct AccountChange {
    external_id: AccountId,
    baas_id: Option<AccountId>,
    status: Option<StatusChange>,
    clock: Clock,
}

/// An account on its way through a batch.
struct Account {
    loaded: Option<AccountRow>,
    row: AccountRow,
    subject: SubjectKey,
    external_id: Option<AccountId>,
    baas_id: Option<AccountId>,
}

/// The rows of a batch, being merged.
pub struct Fold {
    subjects: BTreeMap<SubjectKey, Subject>,
    accounts: BTreeMap<Uuid, Account>,
    users: HashMap<UserId, Uuid>,
    create_users: bool,
    missing: BTreeSet<UserId>,
    left_out: HashSet<UserId>,
}

impl Fold {
    /// Starts from the subjects of the batch and the rows that some of them have.
    pub fn new(subjects: &[SubjectKey], rows: Vec<IntegrationRow>, create_users: bool) -> Self {
        let mut loaded: HashMap<SubjectKey, IntegrationRow> =
            rows.into_iter().map(|row| ((row.service.clone(), row.external_id.clone()), row)).collect();
        let subjects = subjects
            .iter()
            .map(|key| {
                let loaded = loaded.remove(key);
                let row = loaded.clone().unwrap_or_else(|| new_integration(key));
                (key.clone(), Subject { loaded, row, authorization_id: None, accounts: Vec::new() })
            })
            .collect();
        Self {
            subjects,
            accounts: BTreeMap::new(),
            users: HashMap::new(),
            create_users,
            missing: BTreeSet::new(),
            left_out: HashSet::new(),
        }
    }

    /// Says whose claims make nobody: these users were forgotten.
    pub fn leave_out(&mut self, users: HashSet<UserId>) {
        self.left_out = users;
    }

    /// Says which users have a row.
    pub fn know_users(&mut self, users: Vec<UserRow>) {
        for user in users {
            self.missing.remove(&user.external_id);
            self.users.insert(user.external_id, user.id);
        }
    }

    /// Offers the event's owner claim, which counts even of a duplicate. A claim that names a user who is not there and
    /// may not be created is left out.
    pub fn claim(&mut self, event: &Event) {
        let (Some(claim), Some(key)) = (claim_of(event), subject_of(event)) else { return };
        if !self.left_out.contains(&claim.user)
            && self.names_a_user(&claim.user, self.create_users)
            && let Some(subject) = self.subjects.get_mut(&key)
        {
            Owner::offer(&mut subject.row.owner, claim, &event.clock());
        }
    }

    /// Takes a link: a claim of the highest rank, an address, an access token. Its user is created if need be.
    ///
    /// The token is a register too, so that links may come in any order. One that is equal by its index to the stored one
    /// is not sealed again.
    pub fn link(&mut self, link: &Link, vault: &Vault) {
        self.names_a_user(&link.user, true);
        let Some(subject) = self.subjects.get_mut(&subject_of_link(link)) else { return };
        let clock = Clock::of_link(link.at);
        Owner::offer(&mut subject.row.owner, &Claim { user: link.user.clone(), rank: Rank::Link }, &clock);
        if let Some(email) = &link.email {
            Address::offer(&mut subject.row.address, email, &clock);
        }
        if let Some(token) = &link.authorization_id {
            let index = vault.index.of("authorization_id", link.provider.as_str(), token.expose_secret());
            let clock = Clock { at: link.at, key: DedupKey::from_stored(index.to_vec()) };
            let held = &mut subject.row.authorization;
            if Some(&clock) > held.as_ref() {
                if held.as_ref().map(|held| &held.key) != Some(&clock.key) {
                    subject.authorization_id = Some(token.clone());
                }
                *held = Some(clock);
            }
        }
    }

    /// Whether the user is there or will be.
    fn names_a_user(&mut self, user: &UserId, create: bool) -> bool {
        if self.users.contains_key(user) || self.missing.contains(user) {
            return true;
        }
        if create {
            self.missing.insert(user.clone());
        }
        create
    }

    /// Whether the subject has its user, after all claims so far.
    pub fn is_owned(&self, key: &SubjectKey) -> bool {
        self.subjects.get(key).is_some_and(Subject::is_owned)
    }

    /// The subjects that had no user and have one now: their unlinked events apply.
    pub fn newly_owned(&self) -> Vec<SubjectKey> {
        self.subjects.iter().filter(|(_, s)| !s.was_owned() && s.is_owned()).map(|(key, _)| key.clone()).collect()
    }

    /// Applies an event that counts. One whose subject has no user changes nothing.
    pub fn apply(&mut self, event: &Event) {
        let (Meaning::Apply(changes), Some(key)) = (&event.meaning, subject_of(event)) else { return };
        let Some(subject) = self.subjects.get_mut(&key).filter(|subject| subject.is_owned()) else { return };
        let clock = event.clock();
        subject.row.observed_at = subject.row.observed_at.max(Some(clock.at));
        for change in changes {
            match change {
                Change::Integration { status, email, .. } => {
                    if let Some(status) = status {
                        subject.row.status.offer(status, &clock);
                        Closing::offer(&mut subject.row.closing, status, &clock);
                    }
                    if let Some(email) = email {
                        Address::offer(&mut subject.row.address, email, &clock);
                    }
                }
                Change::Account { external_id, baas_id, status } => subject.accounts.push(AccountChange {
                    external_id: external_id.clone(),
                    baas_id: baas_id.clone(),
                    status: status.clone(),
                    clock: clock.clone(),
                }),
            }
        }
    }

    /// The users to create, sorted. Their ids are made here; another worker's win if it was first.
    pub fn missing_users(&self) -> Vec<UserRow> {
        self.missing.iter().map(|user| UserRow { id: Uuid::now_v7(), external_id: user.clone() }).collect()
    }

    /// Gives every integration the row of its owner; call when all users have one.
    pub fn resolve_owners(&mut self) {
        for subject in self.subjects.values_mut() {
            if let Some(id) = subject.row.owner.as_ref().and_then(|owner| self.users.get(&owner.user)) {
                subject.row.user_id = *id;
            }
        }
    }

    /// The integrations to insert and those to update, with a newly sealed access token where there is one.
    #[allow(clippy::type_complexity, reason = "two lists of the pairs that the statements take")]
    pub fn integrations(
        &self,
        vault: &Vault,
    ) -> (Vec<(IntegrationRow, Option<Sealed<Column>>)>, Vec<(IntegrationRow, Option<Sealed<Column>>)>) {
        let changed = self.subjects.values().filter(|s| s.is_owned() && s.loaded.as_ref() != Some(&s.row));
        let (new, old): (Vec<&Subject>, Vec<&Subject>) = changed.partition(|subject| subject.loaded.is_none());
        let sealed = |subject: &&Subject| (subject.row.clone(), subject.seal(vault));
        (new.iter().map(sealed).collect(), old.iter().map(sealed).collect())
    }

    /// Which accounts have to be loaded: those that events name, and all of an integration whose owner or closing changed.
    /// An integration that this transaction makes has none yet.
    pub fn wanted_accounts(&self, vault: &Vault) -> (Vec<(Uuid, Vec<u8>)>, Vec<Uuid>) {
        let mut wanted = BTreeSet::new();
        let mut whole = BTreeSet::new();
        for ((service, _), subject) in self.subjects.iter().filter(|(_, subject)| subject.loaded.is_some()) {
            for change in &subject.accounts {
                wanted.insert((subject.row.id, account_index(vault, service, &change.external_id)));
            }
            if subject.changes_all_accounts() {
                whole.insert(subject.row.id);
            }
        }
        (wanted.into_iter().collect(), whole.into_iter().collect())
    }

    /// Merges what events say of accounts into the rows that are there, makes the others, and lets each integration's
    /// closing and owner have the last word.
    pub fn fold_accounts(&mut self, rows: Vec<AccountRow>, vault: &Vault) {
        let by_id: HashMap<Uuid, SubjectKey> = self.subjects.iter().map(|(k, s)| (s.row.id, k.clone())).collect();
        let mut by_index: HashMap<(Uuid, Vec<u8>), Uuid> = HashMap::new();
        let mut unindexed: BTreeMap<(Uuid, Vec<u8>), Account> = BTreeMap::new();
        for row in rows {
            let Some(key) = by_id.get(&row.integration_id) else { continue };
            let account = Account::loaded(row, key);
            match (&account.row.external_id_index, account.adopted(vault)) {
                (Some(index), _) => {
                    by_index.insert((account.row.integration_id, index.clone()), account.row.id);
                    self.accounts.insert(account.row.id, account);
                }
                (None, adopted) => {
                    if self.subjects.get(key).is_some_and(Subject::changes_all_accounts) {
                        self.accounts.insert(account.row.id, account);
                    }
                    if let Some((index, adopted)) = adopted {
                        unindexed.entry((adopted.row.integration_id, index)).or_insert(adopted);
                    }
                }
            }
        }
        for (key, subject) in &mut self.subjects {
            for change in std::mem::take(&mut subject.accounts) {
                let index = account_index(vault, &key.0, &change.external_id);
                let place = (subject.row.id, index);
                // A row that the product wrote before it moved in is found by opening it, and gets its index.
                if !by_index.contains_key(&place)
                    && let Some(account) = unindexed.remove(&place)
                {
                    by_index.insert(place.clone(), account.row.id);
                    self.accounts.insert(account.row.id, account);
                }
                let (_, index) = place;
                let id = *by_index.entry((subject.row.id, index.clone())).or_insert_with(Uuid::now_v7);
                let account = self
                    .accounts
                    .entry(id)
                    .or_insert_with(|| new_account(id, key, &subject.row, index, &change.external_id));
                account.take(&change, vault);
            }
        }
        for account in self.accounts.values_mut() {
            if let Some(subject) = self.subjects.get(&account.subject) {
                account.row.user_id = subject.row.user_id;
                if let Some(closing) = &subject.row.closing {
                    account.row.status.offer_closing(closing);
                }
            }
        }
    }

    /// The accounts to insert and those to update, with their newly sealed columns.
    #[allow(clippy::type_complexity, reason = "two lists of the pairs that the statements take")]
    pub fn account_rows(&self, vault: &Vault) -> (Vec<(AccountRow, SealedIds)>, Vec<(AccountRow, SealedIds)>) {
        let changed = self.accounts.values().filter(|account| account.loaded.as_ref() != Some(&account.row));
        let (new, old): (Vec<&Account>, Vec<&Account>) = changed.partition(|account| account.loaded.is_none());
        let sealed = |account: &&Account| (account.row.clone(), account.seal(vault));
        (new.iter().map(sealed).collect(), old.iter().map(sealed).collect())
    }

    /// The accounts whose columns the product wrote, to be written over now.
    pub fn adopted_accounts(&self) -> Vec<Uuid> {
        let adopted = |account: &&Account| account.row.unindexed.is_some() && account.external_id.is_some();
        self.accounts.values().filter(adopted).map(|account| account.row.id).collect()
    }

    /// The users whose address may differ now: of integrations that changed owner or address, before and after.
    pub fn users_to_address(&self) -> Vec<Uuid> {
        let mut users = BTreeSet::new();
        for subject in self.subjects.values().filter(|subject| subject.is_owned()) {
            match &subject.loaded {
                None if subject.row.address.is_some() => {
                    users.insert(subject.row.user_id);
                }
                Some(loaded)
                    if (loaded.user_id != subject.row.user_id || loaded.address != subject.row.address)
                        && (loaded.address.is_some() || subject.row.address.is_some()) =>
                {
                    users.extend([loaded.user_id, subject.row.user_id]);
                }
                _ => {}
            }
        }
        users.into_iter().collect()
    }
}

/// The users' rows whose address changes: each has that of the largest clock among the integrations that they own now, at
/// an equal clock the larger; an address that the product wrote is never touched.
pub fn fold_addresses(held: Vec<UserAddress>, owned: Vec<(Uuid, Address)>) -> Vec<UserAddress> {
    let mut largest: HashMap<Uuid, Option<Address>> = HashMap::new();
    for (user, address) in owned {
        Address::offer(largest.entry(user).or_default(), &address.email, &address.clock);
    }
    held.into_iter()
        .filter(|row| row.email.is_none() || row.clock.is_some())
        .filter_map(|row| {
            let address = largest.remove(&row.id).flatten();
            let now = UserAddress {
                id: row.id,
                email: address.as_ref().map(|a| a.email.address.clone()),
                verified: address.as_ref().map(|a| a.email.verified),
                clock: address.map(|a| a.clock),
            };
            (now != row).then_some(now)
        })
        .collect()
}

impl Subject {
    fn is_owned(&self) -> bool {
        self.row.owner.is_some()
    }

    /// Only the product makes an integration without a user.
    fn was_owned(&self) -> bool {
        self.loaded.as_ref().is_some_and(|loaded| loaded.owner.is_some())
    }

    /// Whether its owner or closing changed, which all of its accounts follow.
    fn changes_all_accounts(&self) -> bool {
        let differs =
            |loaded: &IntegrationRow| loaded.user_id != self.row.user_id || loaded.closing != self.row.closing;
        self.loaded.as_ref().is_some_and(differs)
    }

    fn seal(&self, vault: &Vault) -> Option<Sealed<Column>> {
        let key: [&[u8]; 2] = [self.row.service.as_bytes(), self.row.external_id.as_bytes()];
        let place = Place { table: "integration", column: "authorization_id", key: &key };
        self.authorization_id.as_ref().map(|token| vault.ring.seal_column(&place, token.expose_secret()))
    }
}

impl Account {
    fn loaded(row: AccountRow, subject: &SubjectKey) -> Self {
        let subject = subject.clone();
        Self { loaded: Some(row.clone()), row, subject, external_id: None, baas_id: None }
    }

    /// The same account with its index, to be sealed anew, where it has none yet and opens; and that index.
    fn adopted(&self, vault: &Vault) -> Option<(Vec<u8>, Self)> {
        let found = self.row.unindexed.as_ref()?;
        let (service, subject) = &self.subject;
        let open = |column: &str, text: &str| {
            let key: [&[u8]; 3] = [service.as_bytes(), subject.as_bytes(), &[]];
            let opened = vault.open(&Place { table: "account", column, key: &key }, text).ok()?;
            Some(AccountId::new(opened.expose_secret()))
        };
        let external_id = open("external_id", &found.external_id)?;
        let baas_id = match &found.baas_id {
            Some(text) => Some(open("baas_id", text)?),
            None => None,
        };
        let index = account_index(vault, service, &external_id);
        let row = AccountRow {
            external_id_index: Some(index.clone()),
            baas_id_index: baas_id.as_ref().map(|id| vault.index.of("baas_id", service, id.expose()).to_vec()),
            ..self.row.clone()
        };
        let (loaded, subject) = (self.loaded.clone(), self.subject.clone());
        Some((index, Self { loaded, row, subject, external_id: Some(external_id), baas_id }))
    }

    fn take(&mut self, change: &AccountChange, vault: &Vault) {
        if let Some(status) = &change.status {
            // No account's status is final (PROVIDERS.md), and its row could not keep it.
            self.row.status.offer(&StatusChange { is_final: false, ..status.clone() }, &change.clock);
        }
        self.row.observed_at = self.row.observed_at.max(Some(change.clock.at));
        if let Some(baas_id) = &change.baas_id {
            // The ledger's id has no clock. Should two events ever disagree, the larger index wins in any order.
            let index = vault.index.of("baas_id", &self.subject.0, baas_id.expose());
            if self.row.baas_id_index.as_deref() < Some(index.as_slice()) {
                self.row.baas_id_index = Some(index.to_vec());
                self.baas_id = Some(baas_id.clone());
            }
        }
    }

    fn seal(&self, vault: &Vault) -> SealedIds {
        let (service, external_id) = &self.subject;
        let index = self.row.external_id_index.as_deref().unwrap_or_default();
        let key: [&[u8]; 3] = [service.as_bytes(), external_id.as_bytes(), index];
        let seal = |column: &str, id: &AccountId| {
            vault.ring.seal_column(&Place { table: "account", column, key: &key }, id.expose())
        };
        SealedIds {
            external_id: self.external_id.as_ref().map(|id| seal("external_id", id)),
            baas_id: self.baas_id.as_ref().map(|id| seal("baas_id", id)),
        }
    }
}

/// The subject of an event that changes rows.
pub fn subject_of(event: &Event) -> Option<SubjectKey> {
    match (&event.meaning, &event.subject) {
        (Meaning::Apply(_), Some(subject)) => Some((event.provider.as_str().to_owned(), subject.clone())),
        _ => None,
    }
}

/// The subject of a link.
pub fn subject_of_link(link: &Link) -> SubjectKey {
    (link.provider.as_str().to_owned(), link.subject.clone())
}

/// The owner claim of an event that changes rows. Kinds that are only recorded make none.
pub fn claim_of(event: &Event) -> Option<&Claim> {
    let Meaning::Apply(changes) = &event.meaning else { return None };
    changes.iter().find_map(|change| match change {
        Change::Integration { owner, .. } => owner.as_ref(),
        Change::Account { .. } => None,
    })
}

fn account_index(vault: &Vault, service: &str, id: &AccountId) -> Vec<u8> {
    vault.index.of("external_id", service, id.expose()).to_vec()
}

fn new_integration((service, external_id): &SubjectKey) -> IntegrationRow {
    IntegrationRow {
        id: Uuid::now_v7(),
        service: service.clone(),
        external_id: external_id.clone(),
        user_id: Uuid::nil(),
        owner: None,
        status: Status::initial("active"),
        closing: None,
        address: None,
        authorization: None,
        observed_at: None::<Timestamp>,
    }
}

fn new_account(
    id: Uuid,
    subject: &SubjectKey,
    integration: &IntegrationRow,
    index: Vec<u8>,
    external_id: &AccountId,
) -> Account {
    Account {
        loaded: None,
        row: AccountRow {
            id,
            integration_id: integration.id,
            user_id: integration.user_id,
            external_id_index: Some(index),
            baas_id_index: None,
            status: Status::initial("open"),
            observed_at: None,
            unindexed: None,
        },
        subject: subject.clone(),
        external_id: Some(external_id.clone()),
        baas_id: None,
    }
}

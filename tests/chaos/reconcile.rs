//! The reckoning: ledger against queues against tables.

use std::collections::{BTreeMap, HashMap};

use finhook::crypto::BlindIndex;
use sqlx::{PgConnection, SqliteConnection};
use tokio::time::Instant;

use crate::ledger::{EventId, Ledger, printable};
use crate::model::{self, Integration, Shown, Subject, Tables};
use crate::world::Planned;

/// A row of `event`.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct EventRow {
    provider: String,
    dedup_key: Vec<u8>,
    state: String,
    subject: Option<String>,
    reason: Option<String>,
}

#[derive(sqlx::FromRow)]
struct IntegrationRow {
    service: String,
    external_id: String,
    user_id: String,
    status: String,
    status_reason: Option<String>,
    deleted_at: Option<i64>,
}

#[derive(sqlx::FromRow)]
struct AccountRow {
    service: String,
    integration: String,
    external_id_index: Option<Vec<u8>>,
    user_id: String,
    status: String,
    status_reason: Option<String>,
    deleted_at: Option<i64>,
}

/// What is in the database.
pub struct Found {
    events: Vec<EventRow>,
    integrations: Vec<IntegrationRow>,
    accounts: Vec<AccountRow>,
    users: Vec<(String, Option<String>)>,
}

const EVENTS: &str = "select provider, dedup_key, state, subject, reason from event";
const USERS: &str = "select external_id, email from \"user\"";

/// The statements, with a database's way to say a time in microseconds.
fn statements(micros: &str) -> (String, String) {
    let columns = format!("u.external_id as user_id, r.status, r.status_reason, {micros} as deleted_at");
    let users = "join \"user\" u on u.id = r.user_id";
    (
        format!("select r.service, r.external_id, {columns} from integration r {users}"),
        format!(
            "select i.service, i.external_id as integration, r.external_id_index, {columns}
             from account r {users} join integration i on i.id = r.integration_id"
        ),
    )
}

impl Found {
    /// Reads PostgreSQL.
    pub async fn in_postgres(connection: &mut PgConnection) -> anyhow::Result<Self> {
        let (integrations, accounts) = statements("(extract(epoch from r.deleted_at) * 1000000)::bigint");
        Ok(Self {
            events: sqlx::query_as(EVENTS).fetch_all(&mut *connection).await?,
            integrations: sqlx::query_as(sqlx::AssertSqlSafe(integrations)).fetch_all(&mut *connection).await?,
            accounts: sqlx::query_as(sqlx::AssertSqlSafe(accounts)).fetch_all(&mut *connection).await?,
            users: sqlx::query_as(USERS).fetch_all(&mut *connection).await?,
        })
    }

    /// Reads SQLite.
    pub async fn in_sqlite(connection: &mut SqliteConnection) -> anyhow::Result<Self> {
        let (integrations, accounts) = statements("r.deleted_at");
        Ok(Self {
            events: sqlx::query_as(EVENTS).fetch_all(&mut *connection).await?,
            integrations: sqlx::query_as(sqlx::AssertSqlSafe(integrations)).fetch_all(&mut *connection).await?,
            accounts: sqlx::query_as(sqlx::AssertSqlSafe(accounts)).fetch_all(&mut *connection).await?,
            users: sqlx::query_as(USERS).fetch_all(&mut *connection).await?,
        })
    }

    /// The events in a state.
    pub fn in_state(&self, state: &str) -> usize {
        self.events.iter().filter(|row| row.state == state).count()
    }
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Reckoning {
    /// Event rows.
    pub rows: usize,
    /// Events of an accepted delivery without a row.
    pub lost: Vec<String>,
    /// Rows that are there twice or that nobody sent, and effects that are not those of the rows.
    pub doubled: Vec<String>,
    /// Events that should have been applied by now, and queues that are not empty.
    pub stuck: Vec<String>,
}

impl Reckoning {
    /// Whether all is as it should be.
    pub fn is_clean(&self) -> bool {
        self.lost.is_empty() && self.doubled.is_empty() && self.stuck.is_empty()
    }
}

/// Compares what was promised with what is there.
pub fn reckon(ledger: &Ledger, links: &[(Subject, String)], index: &BlindIndex, found: &Found) -> Reckoning {
    let mut reckoning = Reckoning { rows: found.events.len(), ..Reckoning::default() };
    let mut stored: BTreeMap<EventId, &EventRow> = BTreeMap::new();
    let mut counted: BTreeMap<EventId, &Planned> = BTreeMap::new();
    for row in &found.events {
        let known = ledger.known.get_key_value(&(provider(&row.provider), row.dedup_key.clone()));
        let Some((id, planned)) = known else {
            let state = (&row.state, &row.reason);
            reckoning.doubled.push(format!(
                "a row that nobody sent: {} {} {state:?}",
                row.provider,
                printable(&row.dedup_key)
            ));
            continue;
        };
        if stored.insert(id.clone(), row).is_some() {
            reckoning.doubled.push(format!("two rows: {}", named(id)));
        }
        counted.insert(id.clone(), planned);
    }
    for id in ledger.promised.keys().filter(|id| !stored.contains_key(*id)) {
        reckoning.lost.push(named(id));
    }
    let expected = model::tables(&counted, links);
    for (id, row) in &stored {
        let planned = counted.get(id).copied();
        let subject = planned.and_then(|planned| planned.subject.clone());
        let owned = subject.is_some_and(|subject| expected.integrations.contains_key(&(row.provider.clone(), subject)));
        let state = match planned.map(|planned| planned.effects.is_some()) {
            Some(true) if owned => "applied",
            // Nobody said whose it is: its provider gave the event up that would have.
            Some(true) => "unlinked",
            _ => "recorded",
        };
        if row.state != state {
            let is = format!("{} is {} ({:?}, subject {:?})", named(id), row.state, row.reason, row.subject);
            reckoning.stuck.push(format!("{is} and should be {state}"));
        }
    }
    // Where events still wait, rows cannot be right.
    if reckoning.stuck.is_empty() {
        compare(&expected, found, index, &mut reckoning.doubled);
    }
    reckoning
}

/// Accepted events that have no row although their 200 is older than `before`, those of `except` left out.
pub fn overdue(ledger: &Ledger, found: &Found, before: Instant, except: &str) -> usize {
    let stored: std::collections::BTreeSet<EventId> =
        found.events.iter().map(|row| (provider(&row.provider), row.dedup_key.clone())).collect();
    let of_other = |id: &EventId| ledger.known.get(id).is_none_or(|planned| planned.subject.as_deref() != Some(except));
    let late = ledger.promised.iter().filter(|(id, at)| **at < before && of_other(id) && !stored.contains(*id));
    late.count()
}

fn provider(name: &str) -> &'static str {
    finhook::providers::find(name).map_or("unknown", |provider| provider.name.as_str())
}

fn named((provider, key): &EventId) -> String {
    format!("{provider} {}", printable(key))
}

/// Every row against the one that it should be.
fn compare(expected: &Tables, found: &Found, index: &BlindIndex, wrong: &mut Vec<String>) {
    let mut integrations = BTreeMap::new();
    for row in &found.integrations {
        let status = shown(&row.status, &row.status_reason, row.deleted_at);
        let key = (row.service.clone(), row.external_id.clone());
        if integrations.insert(key, Integration { user: row.user_id.clone(), status }).is_some() {
            wrong.push(format!("two integrations: {} {}", row.service, row.external_id));
        }
    }
    differ("integration", &expected.integrations, &integrations, wrong);

    // Which id an index stands for is known for the expected ones; another is shown by its bytes.
    let ids: HashMap<(String, [u8; 32]), String> = expected
        .accounts
        .keys()
        .map(|((service, _), account)| ((service.clone(), index.of("external_id", service, account)), account.clone()))
        .collect();
    let mut accounts = BTreeMap::new();
    for row in &found.accounts {
        let bytes = row.external_id_index.clone().unwrap_or_default();
        let id = <[u8; 32]>::try_from(bytes.as_slice()).ok().and_then(|bytes| ids.get(&(row.service.clone(), bytes)));
        let id = id.cloned().unwrap_or_else(|| printable(&bytes));
        let status = shown(&row.status, &row.status_reason, row.deleted_at);
        let key = ((row.service.clone(), row.integration.clone()), id);
        if accounts.insert(key, Integration { user: row.user_id.clone(), status }).is_some() {
            wrong.push(format!("an account twice in {} {}", row.service, row.integration));
        }
    }
    differ("account", &expected.accounts, &accounts, wrong);

    let mut users = BTreeMap::new();
    for (user, email) in &found.users {
        if users.insert(user.clone(), email.clone()).is_some() {
            wrong.push(format!("two users: {user}"));
        }
    }
    differ("user", &expected.users, &users, wrong);
}

fn shown(name: &str, reason: &Option<String>, deleted_at: Option<i64>) -> Shown {
    Shown { name: name.to_owned(), reason: reason.clone(), deleted_at }
}

fn differ<K: Ord + std::fmt::Debug, V: PartialEq + std::fmt::Debug>(
    what: &str,
    expected: &BTreeMap<K, V>,
    found: &BTreeMap<K, V>,
    wrong: &mut Vec<String>,
) {
    for (key, row) in expected {
        match found.get(key) {
            Some(is) if is == row => {}
            Some(is) => wrong.push(format!("{what} {key:?} is {is:?} and should be {row:?}")),
            None => wrong.push(format!("{what} {key:?} is missing; it should be {row:?}")),
        }
    }
    for key in found.keys().filter(|key| !expected.contains_key(key)) {
        wrong.push(format!("{what} {key:?} is one that nothing explains"));
    }
}

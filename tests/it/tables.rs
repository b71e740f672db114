//! Every row of every table read past the store: all columns, whichever there are, in one form for both databases.

use std::collections::BTreeMap;
use std::path::Path;

use finhook::crypto::Place;
use finhook::store::Vault;
use secrecy::ExposeSecret;
use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};
use sqlx::{AssertSqlSafe, Row as _};

/// A row: text by column; times in microseconds, bytes in hex, flags as 0 and 1.
pub type Row = BTreeMap<String, Option<String>>;

/// The tables that finhook writes.
pub const TABLES: [&str; 4] = ["user", "integration", "account", "event"];

/// A database, read with statements of the test's own.
#[derive(Clone)]
pub enum Tables {
    /// PostgreSQL.
    Pg(PgPool),
    /// SQLite.
    Lite(SqlitePool),
}

impl Tables {
    /// Reads a PostgreSQL database.
    pub fn postgres(url: &str) -> Self {
        Self::Pg(PgPoolOptions::new().max_connections(2).connect_lazy(url).unwrap())
    }

    /// Reads an SQLite file.
    pub fn sqlite(path: &Path) -> Self {
        let options = SqliteConnectOptions::new().filename(path).busy_timeout(std::time::Duration::from_secs(30));
        Self::Lite(SqlitePool::connect_lazy_with(options))
    }

    /// Sends statements past the store, as the product would.
    pub async fn execute(&self, sql: &str) {
        let sql = AssertSqlSafe(sql.to_owned());
        match self {
            Self::Pg(pool) => drop(sqlx::raw_sql(sql).execute(pool).await.unwrap()),
            Self::Lite(pool) => drop(sqlx::raw_sql(sql).execute(pool).await.unwrap()),
        }
    }

    /// Empties every table.
    pub async fn clear(&self) {
        self.execute(r#"delete from event; delete from "user""#).await;
    }

    /// All rows of a table, with all its columns.
    pub async fn all(&self, table: &str) -> Vec<Row> {
        let columns = self.columns(table).await;
        let shown: Vec<String> = columns.iter().map(|(name, kind)| self.as_text(name, kind)).collect();
        let sql = format!(r#"select {} from "{table}""#, shown.join(", "));
        let named = |values: Vec<Option<String>>| columns.iter().map(|(name, _)| name.clone()).zip(values).collect();
        self.texts(&sql).await.into_iter().map(named).collect()
    }

    /// How many rows a table has.
    pub async fn count(&self, table: &str) -> u64 {
        let rows = self.texts(&format!(r#"select cast(count(*) as text) from "{table}""#)).await;
        rows[0][0].as_deref().unwrap().parse().unwrap()
    }

    /// Names and types.
    async fn columns(&self, table: &str) -> Vec<(String, String)> {
        let sql = match self {
            Self::Pg(_) => format!(
                "select column_name::text, data_type::text from information_schema.columns \
                 where table_schema = 'public' and table_name = '{table}' order by column_name"
            ),
            Self::Lite(_) => format!("select name, lower(type) from pragma_table_info('{table}') order by name"),
        };
        let columns: Vec<_> = self.texts(&sql).await;
        assert!(!columns.is_empty(), "there is no table {table}");
        columns.into_iter().map(|row| (row[0].clone().unwrap(), row[1].clone().unwrap())).collect()
    }

    fn as_text(&self, name: &str, kind: &str) -> String {
        match (self, kind) {
            (Self::Pg(_), "bytea") => format!(r#"encode("{name}", 'hex')"#),
            (Self::Pg(_), "boolean") => format!(r#""{name}"::int::text"#),
            (Self::Pg(_), kind) if kind.starts_with("timestamp") => {
                format!(r#"(extract(epoch from "{name}") * 1000000)::bigint::text"#)
            }
            (Self::Lite(_), "blob") => format!(r#"case when "{name}" is null then null else lower(hex("{name}")) end"#),
            _ => format!(r#"cast("{name}" as text)"#),
        }
    }

    async fn texts(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        let sql = AssertSqlSafe(sql.to_owned());
        match self {
            Self::Pg(pool) => {
                let rows = sqlx::query(sql).fetch_all(pool).await.unwrap();
                rows.iter().map(|row| (0..row.len()).map(|at| row.get(at)).collect()).collect()
            }
            Self::Lite(pool) => {
                let rows = sqlx::query(sql).fetch_all(pool).await.unwrap();
                rows.iter().map(|row| (0..row.len()).map(|at| row.get(at)).collect()).collect()
            }
        }
    }
}

/// All rows by what names them, without ids and without the times of writing; sealed columns are opened and foreign keys
/// are the names of what they point to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rows {
    /// By `external_id`.
    pub users: BTreeMap<String, Row>,
    /// By service and `external_id`.
    pub integrations: BTreeMap<(String, String), Row>,
    /// By service, integration and `external_id`.
    pub accounts: BTreeMap<(String, String, String), Row>,
    /// By provider and dedup key in hex.
    pub events: BTreeMap<(String, String), Row>,
}

fn take(row: &mut Row, column: &str) -> Option<String> {
    row.remove(column).unwrap_or_else(|| panic!("there is no column {column}"))
}

fn without(row: &mut Row, columns: &[&str]) {
    columns.iter().for_each(|column| drop(take(row, column)));
}

impl Rows {
    /// Reads every table. A row that nothing names, or two of one name, fail the test.
    pub async fn read(tables: &Tables, vault: &Vault) -> Self {
        let mut rows = Self::default();
        let (mut users, mut integrations) = (BTreeMap::new(), BTreeMap::new());
        for mut row in tables.all("user").await {
            let (id, name) = (take(&mut row, "id"), take(&mut row, "external_id").unwrap());
            without(&mut row, &["created_at", "updated_at"]);
            users.insert(id, name.clone());
            assert!(rows.users.insert(name, row).is_none());
        }
        for mut row in tables.all("integration").await {
            let key = (take(&mut row, "service").unwrap(), take(&mut row, "external_id").unwrap());
            integrations.insert(take(&mut row, "id"), key.clone());
            without(&mut row, &["created_at", "updated_at"]);
            let user = users[&take(&mut row, "user_id")].clone();
            row.insert("user".into(), Some(user));
            if let Some(sealed) = take(&mut row, "authorization_id") {
                let place = [key.0.as_bytes(), key.1.as_bytes()];
                row.insert(
                    "authorization_id".into(),
                    Some(opened(vault, "integration", "authorization_id", &place, &sealed)),
                );
            }
            assert!(rows.integrations.insert(key, row).is_none());
        }
        for mut row in tables.all("account").await {
            let (service, subject) = integrations[&take(&mut row, "integration_id")].clone();
            let user = users[&take(&mut row, "user_id")].clone();
            row.insert("user".into(), Some(user));
            without(&mut row, &["id", "created_at", "updated_at"]);
            let index = hex::decode(row["external_id_index"].as_deref().unwrap()).unwrap();
            let place = [service.as_bytes(), subject.as_bytes(), &index];
            let open = |column, sealed: Option<String>| sealed.map(|it| opened(vault, "account", column, &place, &it));
            let (external_id, baas_id) = (take(&mut row, "external_id"), take(&mut row, "baas_id"));
            row.insert("baas_id".into(), open("baas_id", baas_id));
            let key = (service.clone(), subject.clone(), open("external_id", external_id).unwrap());
            assert!(rows.accounts.insert(key, row).is_none());
        }
        for mut row in tables.all("event").await {
            let key = (take(&mut row, "provider").unwrap(), take(&mut row, "dedup_key").unwrap());
            // The last two say of which of several copies the envelope is.
            without(&mut row, &["id", "processed_at", "received_at", "payload", "user_mark"]);
            assert!(rows.events.insert(key, row).is_none());
        }
        rows
    }

    /// How many events are in a state.
    pub fn in_state(&self, state: &str) -> usize {
        self.events.values().filter(|row| row["state"].as_deref() == Some(state)).count()
    }
}

fn opened(vault: &Vault, table: &'static str, column: &str, key: &[&[u8]], sealed: &str) -> String {
    assert!(sealed.starts_with("fh1."), "{table}.{column} is not sealed");
    let place = Place { table, column, key };
    vault.ring.open_column(&place, sealed).unwrap().expose_secret().to_owned()
}

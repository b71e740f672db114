//! The statements of forgetting on SQLite. The transaction has the only writer, so there is no gate to close.

use async_trait::async_trait;
use sqlx::{query, query_as, query_scalar};
use uuid::Uuid;

use super::errors;
use super::statements::{DELETE_ABOUT_SUBJECT, DELETE_ABOUT_USER, SUBJECT_DAYS, USER_DAYS};
use super::tables::SqliteTables;
use crate::domain::UserId;
use crate::store::StoreError;
use crate::store::audit::NewAudit;
use crate::store::columns::{Id, TombstoneColumns};
use crate::store::forget::{self, Forgot, Graves, Tombstone};
use crate::store::marks::Mark;
use crate::store::rows::SubjectKey;

type LiteQuery<'q> = sqlx::query::Query<'q, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>;

impl SqliteTables<'_> {
    async fn run(&mut self, doing: &'static str, statement: LiteQuery<'_>) -> Result<u64, StoreError> {
        let done = statement.execute(&mut *self.connection).await.map_err(errors::of(doing))?;
        Ok(done.rows_affected())
    }
}

#[async_trait]
impl Graves for SqliteTables<'_> {
    async fn close_gate(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn user_row(&mut self, user: &UserId) -> Result<Option<Uuid>, StoreError> {
        let statement = query_scalar(r#"select id from "user" where external_id = $1"#).bind(user.as_str());
        let row: Option<Id> =
            statement.fetch_optional(&mut *self.connection).await.map_err(errors::of("find the user"))?;
        Ok(row.map(|id| id.0))
    }

    async fn subjects_of_user(&mut self, user: Uuid) -> Result<Vec<SubjectKey>, StoreError> {
        query_as("select service, external_id from integration where user_id = $1")
            .bind(user.hyphenated())
            .fetch_all(&mut *self.connection)
            .await
            .map_err(errors::of("find the user's integrations"))
    }

    async fn delete_user(&mut self, user: Uuid) -> Result<Forgot, StoreError> {
        let id = user.hyphenated();
        let accounts = query(
            "delete from account
             where user_id = $1 or integration_id in (select id from integration where user_id = $1)",
        );
        let account = self.run("delete accounts", accounts.bind(id)).await?;
        let integrations = query("delete from integration where user_id = $1").bind(id);
        let integration = self.run("delete integrations", integrations).await?;
        let user = self.run("delete the user", query(r#"delete from "user" where id = $1"#).bind(id)).await?;
        Ok(Forgot { user, integration, account, ..Forgot::default() })
    }

    async fn lift_user(&mut self, of_user: &Mark) -> Result<u64, StoreError> {
        self.run("lift tombstones", query("delete from tombstone where of_user = $1").bind(of_user.clone())).await
    }

    async fn clean_audit(&mut self, marks: &[Mark], id: &str) -> Result<(), StoreError> {
        for mark in marks {
            let statement = query(
                "update audit set target = null, detail = null, reason = replace(reason, $2, '…')
                 where target_index = $1",
            );
            self.run("clean the audit trail", statement.bind(mark.clone()).bind(id)).await?;
        }
        Ok(())
    }

    async fn insert_audit(&mut self, row: &NewAudit) -> Result<(), StoreError> {
        super::audit::insert(&mut *self.connection, row).await
    }

    async fn pending_tombstones(&mut self, limit: u32) -> Result<Vec<Tombstone>, StoreError> {
        let rows: Vec<TombstoneColumns> =
            query_as("select mark, of_user, service, subject from tombstone where pending order by mark limit $1")
                .bind(i64::from(limit))
                .fetch_all(&mut *self.connection)
                .await
                .map_err(errors::of("find pending tombstones"))?;
        rows.into_iter().map(TombstoneColumns::read).collect()
    }

    async fn delete_events_about(&mut self, tombstone: &Tombstone, limit: u32) -> Result<u64, StoreError> {
        let doing = "delete events";
        let Some((service, subject)) = &tombstone.subject else {
            let statement = query(DELETE_ABOUT_USER);
            return self.run(doing, statement.bind(tombstone.mark.clone()).bind(i64::from(limit))).await;
        };
        let statement = query(DELETE_ABOUT_SUBJECT);
        self.run(doing, statement.bind(service).bind(subject).bind(i64::from(limit))).await
    }

    async fn settle_tombstone(&mut self, mark: &Mark) -> Result<(), StoreError> {
        let statement = query("update tombstone set pending = false, service = null, subject = null where mark = $1");
        self.run("settle a tombstone", statement.bind(mark.clone())).await.map(drop)
    }
}

/// How much there is of a user.
pub async fn count(pool: &sqlx::SqlitePool, user: &UserId, mark: &Mark) -> Result<Forgot, StoreError> {
    // Safe: put together from constants of this crate only.
    let statement = sqlx::AssertSqlSafe(forget::count_statement(SUBJECT_DAYS, USER_DAYS));
    let (user, integration, account, event, before): (i64, i64, i64, i64, bool) = query_as(statement)
        .bind(user.as_str())
        .bind(mark)
        .fetch_one(pool)
        .await
        .map_err(errors::of("count what there is of a user"))?;
    let [user, integration, account, event] = [user, integration, account, event].map(i64::unsigned_abs);
    Ok(Forgot { user, integration, account, event, before })
}

//! The migrations of `migrations/postgres`, embedded: up, down, status.
//!
//! Each runs on a connection of its own without the pool's time limits (an index on a large table takes as long as it
//! takes), which is closed afterwards: the advisory lock that keeps two migrators apart goes with it, whatever happened.

use std::collections::HashSet;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};

use super::errors;
use crate::store::{MigrationStatus, StoreError, StoreTrouble, without_upkeep};

/// What is there. The bookkeeping has a table of its own name, because the product may use `_sqlx_migrations` for its own.
fn migrator() -> Migrator {
    let mut migrator = sqlx::migrate!("migrations/postgres");
    migrator.dangerous_set_table_name("finhook_migration");
    migrator
}

/// Which migrations there are and which the database has.
pub async fn status(pool: &PgPool) -> Result<Vec<MigrationStatus>, StoreError> {
    let applied = versions(pool).await?;
    Ok(migrator()
        .iter()
        .filter(|migration| migration.migration_type.is_up_migration())
        .map(|migration| MigrationStatus {
            version: migration.version,
            description: migration.description.to_string(),
            applied: applied.contains(&migration.version),
        })
        .collect())
}

/// Applies what is missing; how many it were.
pub async fn up(connect: &PgConnectOptions) -> Result<usize, StoreError> {
    let pool = alone(connect);
    let before = applied(&pool).await?;
    prepare(&pool).await?;
    let outcome = migrator().run(&pool).await.map_err(|error| explain("migrate up", error));
    let after = applied(&pool).await;
    pool.close().await;
    outcome.and(after.map(|after| after.saturating_sub(before)))
}

/// The product's tables had no unique keys of their own, and migration 2 makes them unique. Surplus integrations are marked
/// before that, and its index is made here without them: they stay as they are until somebody says that they be merged. The
/// row that counts is a live one before a closed one, then the oldest.
const MARK_DUPLICATES: &str = "
do $$
begin
    if to_regclass('integration') is null then
        return;
    end if;
    if not exists (
        select from integration where external_id is not null group by service, external_id having count(*) > 1
    ) then
        return;
    end if;
    lock table integration in share row exclusive mode;
    alter table integration add column if not exists duplicate_of uuid;
    update integration i
    set duplicate_of = ranked.counts
    from (
        select id, first_value(id) over (
            partition by service, external_id order by deleted_at is not null, created_at, id
        ) as counts
        from integration
        where service is not null and external_id is not null
    ) as ranked
    where ranked.id = i.id and ranked.counts <> i.id;
    create unique index if not exists integration_service_external_id
        on integration (service, external_id) where duplicate_of is null;
end
$$";

/// Makes a database of the product fit for migration 2.
async fn prepare(pool: &PgPool) -> Result<(), StoreError> {
    if versions(pool).await?.contains(&2) {
        return Ok(());
    }
    let doing = "look for duplicates";
    let users: bool = sqlx::query_scalar(r#"select to_regclass('"user"') is not null"#)
        .fetch_one(pool)
        .await
        .map_err(errors::of(doing))?;
    if users {
        let repeated: i64 = sqlx::query_scalar(
            r#"select count(*) from (
                select from "user" where external_id is not null group by external_id having count(*) > 1
            ) as repeated"#,
        )
        .fetch_one(pool)
        .await
        .map_err(errors::of(doing))?;
        if repeated > 0 {
            let what = format!(
                r#"migrate up: {repeated} external_id(s) are in "user" more than once, and finhook finds a user by it; make them unique first"#
            );
            return Err(StoreError { trouble: StoreTrouble::Failed, what });
        }
    }
    sqlx::raw_sql(MARK_DUPLICATES).execute(pool).await.map(drop).map_err(errors::of("mark duplicates"))
}

/// Reverts to `target`; how many it were.
pub async fn down(connect: &PgConnectOptions, target: i64) -> Result<usize, StoreError> {
    let pool = alone(connect);
    let before = applied(&pool).await?;
    let outcome = migrator().undo(&pool, target).await.map_err(|error| explain("migrate down", error));
    let after = applied(&pool).await;
    pool.close().await;
    outcome.and(after.map(|after| before.saturating_sub(after)))
}

/// One connection, for one run.
fn alone(connect: &PgConnectOptions) -> PgPool {
    let options = without_upkeep(PgPoolOptions::new()).max_connections(1);
    options.acquire_timeout(super::ACQUIRE_TIMEOUT).connect_lazy_with(connect.clone())
}

async fn applied(pool: &PgPool) -> Result<usize, StoreError> {
    Ok(versions(pool).await?.len())
}

async fn versions(pool: &PgPool) -> Result<HashSet<i64>, StoreError> {
    let doing = "read the migrations";
    let known: bool = sqlx::query_scalar("select to_regclass('finhook_migration') is not null")
        .fetch_one(pool)
        .await
        .map_err(errors::of(doing))?;
    if !known {
        return Ok(HashSet::new());
    }
    let applied: Vec<i64> = sqlx::query_scalar("select version from finhook_migration where success")
        .fetch_all(pool)
        .await
        .map_err(errors::of(doing))?;
    Ok(applied.into_iter().collect())
}

fn explain(doing: &'static str, error: MigrateError) -> StoreError {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => errors::of(doing)(error),
        other => StoreError {
            trouble: StoreTrouble::Failed,
            what: format!("{doing}: {}", crate::store::migration_trouble(&other)),
        },
    }
}

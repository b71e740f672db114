//! The migrations of `migrations/sqlite`, embedded: up, down, status.

use std::collections::HashSet;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::SqlitePool;

use super::errors;
use crate::store::{MigrationStatus, StoreError, StoreTrouble};

/// What is there. The bookkeeping's table has the name that it has on PostgreSQL.
fn migrator() -> Migrator {
    let mut migrator = sqlx::migrate!("migrations/sqlite");
    migrator.dangerous_set_table_name("finhook_migration");
    migrator
}

/// Which migrations there are and which the database has.
pub async fn status(pool: &SqlitePool) -> Result<Vec<MigrationStatus>, StoreError> {
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
pub async fn up(pool: &SqlitePool) -> Result<usize, StoreError> {
    let before = versions(pool).await?.len();
    migrator().run(pool).await.map_err(|error| explain("migrate up", error))?;
    Ok(versions(pool).await?.len().saturating_sub(before))
}

/// Reverts to `target`; how many it were.
pub async fn down(pool: &SqlitePool, target: i64) -> Result<usize, StoreError> {
    let before = versions(pool).await?.len();
    migrator().undo(pool, target).await.map_err(|error| explain("migrate down", error))?;
    Ok(before.saturating_sub(versions(pool).await?.len()))
}

async fn versions(pool: &SqlitePool) -> Result<HashSet<i64>, StoreError> {
    let doing = "read the migrations";
    let known: bool =
        sqlx::query_scalar("select exists (select 1 from sqlite_schema where name = 'finhook_migration')")
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

//! The statements of a move on PostgreSQL. Rows are locked as a commit locks them: subjects, integrations, accounts.

use std::collections::BTreeMap;

use async_trait::async_trait;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, FromRow, query, query_as, query_scalar};
use uuid::Uuid;

use super::binding::naive;
use super::tables::PgTables;
use super::{Postgres, errors};
use crate::domain::Timestamp;
use crate::store::columns::{At, Id};
use crate::store::moving::{
    MoveCounts, Moved, Mover, Moving, MovingAccount, MovingIntegration, MovingSubject, Original, Placeless,
};
use crate::store::rows::SubjectKey;
use crate::store::tables::Tables;
use crate::store::{StoreError, StoreTrouble};

const PAGE: &str = "
    select service, external_id
    from integration
    where external_id is not null and (service, external_id) > ($1, $2)
    group by service, external_id
    order by service, external_id
    limit $3";

const INTEGRATIONS: &str = "
    select i.id, i.service, i.external_id, i.user_id, i.authorization_id, i.duplicate_of, i.created_at, i.updated_at,
        i.deleted_at, m.id as kept, m.integration_id as kept_integration_id, m.authorization_id as kept_authorization_id,
        m.deleted_at as kept_deleted_at, m.merged
    from unnest($1::text[], $2::text[]) as wanted (service, external_id)
    join integration i on i.service = wanted.service and i.external_id = wanted.external_id
    left join moved_in m on m.id = i.id
    order by i.id";

const ACCOUNTS: &str = "
    select a.id, a.integration_id, a.user_id, a.external_id, a.baas_id, a.external_id_index, a.baas_id_index,
        a.duplicate_of, a.created_at, a.deleted_at, m.id as kept, m.integration_id as kept_integration_id,
        m.external_id as kept_external_id, m.baas_id as kept_baas_id, m.deleted_at as kept_deleted_at, m.merged
    from account a
    left join moved_in m on m.id = a.id
    where a.integration_id = any($1)
    order by a.id";

const KEEP_INTEGRATIONS: &str = "
    insert into moved_in (id, integration_id, authorization_id, deleted_at)
    select id, id, authorization_id, deleted_at from integration where id = any($1)
    on conflict (id) do nothing";

/// `updated_at` stays: nothing changed that the product reads.
const UPDATE_INTEGRATIONS: &str = "
    update integration
    set authorization_id = new.authorization_id, duplicate_of = new.duplicate_of, deleted_at = new.deleted_at
    from unnest($1::uuid[], $2::text[], $3::uuid[], $4::timestamp[])
        as new (id, authorization_id, duplicate_of, deleted_at)
    where integration.id = new.id";

const UPDATE_ACCOUNTS: &str = "
    update account
    set integration_id = new.integration_id, external_id = new.external_id, baas_id = new.baas_id,
        external_id_index = new.external_id_index, baas_id_index = new.baas_id_index,
        duplicate_of = new.duplicate_of, deleted_at = new.deleted_at
    from unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::bytea[], $6::bytea[], $7::uuid[], $8::timestamp[])
        as new (id, integration_id, external_id, baas_id, external_id_index, baas_id_index, duplicate_of, deleted_at)
    where account.id = new.id";

/// Merged rows do not count: what they hold goes with them.
const COUNTS: &str = "
    with surplus as (select id from moved_in where merged)
    select
        (select count(*) from integration) + (select count(*) from account) as rows,
        (select count(*) from integration where not starts_with(authorization_id, 'fh1.'))
            + (select count(*) from account where not starts_with(external_id, 'fh1.') and id not in (table surplus))
            + (select count(*) from account where not starts_with(baas_id, 'fh1.') and id not in (table surplus))
            as theirs,
        (select count(*) from moved_in) as kept,
        (select count(*) from surplus) as merged";

const PLACELESS: &str = "
    select 'integration', id from integration
    where (service is null or external_id is null) and not starts_with(authorization_id, 'fh1.')
    union all
    select 'account', a.id
    from account a
    left join integration i on i.id = a.integration_id
    where (i.service is null or i.external_id is null)
        and (not starts_with(a.external_id, 'fh1.') or not starts_with(a.baas_id, 'fh1.'))
    limit $1";

/// A sealed value of 200 bytes has 331 characters.
const SHORT_COLUMNS: &str = "
    select table_name || '.' || column_name
    from information_schema.columns
    where (table_name, column_name) in (('integration', 'authorization_id'), ('account', 'external_id'), ('account', 'baas_id'))
        and table_schema = any(current_schemas(false)) and character_maximum_length < 400
    order by 1";

/// Every column of any table that refers to one of the two by its id.
const REFERENCES: &str = "
    select c.conrelid::regclass::text, quote_ident(a.attname), c.confrelid::regclass::text
    from pg_constraint c
    join pg_attribute a on a.attrelid = c.conrelid and a.attnum = c.conkey[1]
    where c.contype = 'f' and cardinality(c.conkey) = 1
        and c.confrelid in (to_regclass('integration'), to_regclass('account'))
        and c.conrelid <> to_regclass('moved_in')
    order by 1, 2";

#[derive(FromRow)]
struct IntegrationColumns {
    id: Id,
    service: String,
    external_id: String,
    user_id: Option<Id>,
    authorization_id: Option<String>,
    duplicate_of: Option<Id>,
    created_at: Option<At>,
    updated_at: Option<At>,
    deleted_at: Option<At>,
    kept: Option<Id>,
    kept_integration_id: Option<Id>,
    kept_authorization_id: Option<String>,
    kept_deleted_at: Option<At>,
    merged: Option<bool>,
}

#[derive(FromRow)]
struct AccountColumns {
    id: Id,
    integration_id: Id,
    user_id: Option<Id>,
    external_id: Option<String>,
    baas_id: Option<String>,
    external_id_index: Option<Vec<u8>>,
    baas_id_index: Option<Vec<u8>>,
    duplicate_of: Option<Id>,
    created_at: Option<At>,
    deleted_at: Option<At>,
    kept: Option<Id>,
    kept_integration_id: Option<Id>,
    kept_external_id: Option<String>,
    kept_baas_id: Option<String>,
    kept_deleted_at: Option<At>,
    merged: Option<bool>,
}

fn at(at: Option<At>) -> Option<Timestamp> {
    at.map(|at| at.0)
}

fn id(id: Option<Id>) -> Option<Uuid> {
    id.map(|id| id.0)
}

impl IntegrationColumns {
    fn read(self) -> (SubjectKey, MovingIntegration) {
        let original = self.kept.map(|kept| Original {
            integration_id: id(self.kept_integration_id).unwrap_or(kept.0),
            authorization_id: self.kept_authorization_id,
            external_id: None,
            baas_id: None,
            deleted_at: at(self.kept_deleted_at),
            merged: self.merged.unwrap_or(false),
        });
        let row = MovingIntegration {
            id: self.id.0,
            user_id: id(self.user_id),
            authorization_id: self.authorization_id,
            duplicate_of: id(self.duplicate_of),
            created_at: at(self.created_at),
            updated_at: at(self.updated_at),
            deleted_at: at(self.deleted_at),
            original,
        };
        ((self.service, self.external_id), row)
    }
}

impl AccountColumns {
    fn read(self) -> MovingAccount {
        let original = self.kept.map(|_| Original {
            integration_id: id(self.kept_integration_id).unwrap_or(self.integration_id.0),
            authorization_id: None,
            external_id: self.kept_external_id,
            baas_id: self.kept_baas_id,
            deleted_at: at(self.kept_deleted_at),
            merged: self.merged.unwrap_or(false),
        });
        MovingAccount {
            id: self.id.0,
            integration_id: self.integration_id.0,
            user_id: id(self.user_id),
            external_id: self.external_id,
            baas_id: self.baas_id,
            external_id_index: self.external_id_index,
            baas_id_index: self.baas_id_index,
            duplicate_of: id(self.duplicate_of),
            created_at: at(self.created_at),
            deleted_at: at(self.deleted_at),
            original,
        }
    }
}

/// The rows of these subjects, in the subjects' order.
async fn load(
    connection: &mut PgConnection,
    subjects: &[SubjectKey],
    lock: bool,
) -> Result<Vec<MovingSubject>, StoreError> {
    let doing = "load the product's rows";
    let with_lock = |text: &str, of: &str| if lock { format!("{text} for no key update of {of}") } else { text.into() };
    let (services, ids): (Vec<&str>, Vec<&str>) = subjects.iter().map(|(s, e)| (s.as_str(), e.as_str())).unzip();
    // Safe, here and below: put together from constants of this file.
    let statement = AssertSqlSafe(with_lock(INTEGRATIONS, "i"));
    let integrations: Vec<IntegrationColumns> =
        query_as(statement).bind(services).bind(ids).fetch_all(&mut *connection).await.map_err(errors::of(doing))?;
    let mut found: BTreeMap<SubjectKey, MovingSubject> = BTreeMap::new();
    let mut whose: BTreeMap<Uuid, SubjectKey> = BTreeMap::new();
    for (key, row) in integrations.into_iter().map(IntegrationColumns::read) {
        whose.insert(row.id, key.clone());
        let subject = found.entry(key.clone());
        let empty = || MovingSubject { key, integrations: Vec::new(), accounts: Vec::new() };
        subject.or_insert_with(empty).integrations.push(row);
    }
    let statement = AssertSqlSafe(with_lock(ACCOUNTS, "a"));
    let ids: Vec<Uuid> = whose.keys().copied().collect();
    let accounts: Vec<AccountColumns> =
        query_as(statement).bind(ids).fetch_all(&mut *connection).await.map_err(errors::of(doing))?;
    for row in accounts.into_iter().map(AccountColumns::read) {
        if let Some(subject) = whose.get(&row.integration_id).and_then(|key| found.get_mut(key)) {
            subject.accounts.push(row);
        }
    }
    Ok(found.into_values().collect())
}

async fn write(connection: &mut PgConnection, moved: &Moved) -> Result<(), StoreError> {
    let failed = || errors::of("write the product's rows");
    let integrations: Vec<Uuid> = moved.integrations.iter().map(|row| row.id).collect();
    let accounts: Vec<Uuid> = moved.accounts.iter().map(|row| row.id).collect();
    if !moved.back {
        query(KEEP_INTEGRATIONS).bind(&integrations).execute(&mut *connection).await.map_err(failed())?;
        PgTables { connection: &mut *connection }.keep_originals(&accounts).await?;
        query("update moved_in set merged = true where id = any($1)")
            .bind(&moved.merged)
            .execute(&mut *connection)
            .await
            .map_err(failed())?;
    }
    query(UPDATE_INTEGRATIONS)
        .bind(&integrations)
        .bind(moved.integrations.iter().map(|row| row.authorization_id.as_deref()).collect::<Vec<_>>())
        .bind(moved.integrations.iter().map(|row| row.duplicate_of).collect::<Vec<_>>())
        .bind(moved.integrations.iter().map(|row| row.deleted_at.map(naive)).collect::<Vec<_>>())
        .execute(&mut *connection)
        .await
        .map_err(failed())?;
    // Those that lose their index first: uniqueness is looked at row by row, also within one statement.
    let (without, with): (Vec<_>, Vec<_>) = moved.accounts.iter().partition(|row| row.external_id_index.is_none());
    for rows in [without, with].iter().filter(|rows| !rows.is_empty()) {
        query(UPDATE_ACCOUNTS)
            .bind(rows.iter().map(|row| row.id).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.integration_id).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.external_id.as_deref()).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.baas_id.as_deref()).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.external_id_index.as_deref()).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.baas_id_index.as_deref()).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.duplicate_of).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.deleted_at.map(naive)).collect::<Vec<_>>())
            .execute(&mut *connection)
            .await
            .map_err(failed())?;
    }
    if moved.back {
        let ids: Vec<Uuid> = integrations.into_iter().chain(accounts).collect();
        query("delete from moved_in where id = any($1)").bind(ids).execute(connection).await.map_err(failed())?;
    }
    Ok(())
}

async fn counts(connection: &mut PgConnection) -> Result<MoveCounts, StoreError> {
    let (rows, theirs, kept, merged): (i64, i64, i64, i64) =
        query_as(COUNTS).fetch_one(connection).await.map_err(errors::of("count what is moved"))?;
    let [rows, theirs, kept, merged] = [rows, theirs, kept, merged].map(i64::unsigned_abs);
    Ok(MoveCounts { rows, theirs, kept, merged })
}

#[async_trait]
impl Moving for Postgres {
    async fn move_subjects(
        &self,
        after: Option<&SubjectKey>,
        limit: u32,
        mover: &mut dyn Mover,
        write_it: bool,
    ) -> Result<Option<SubjectKey>, StoreError> {
        let mut connection = self.pool.acquire().await.map_err(errors::connecting)?;
        let mut transaction = connection.begin().await.map_err(errors::of("begin"))?;
        let (service, external_id) = after.map_or(("", ""), |(service, id)| (service.as_str(), id.as_str()));
        let subjects: Vec<SubjectKey> = query_as(PAGE)
            .bind(service)
            .bind(external_id)
            .bind(i64::from(limit))
            .fetch_all(&mut *transaction)
            .await
            .map_err(errors::of("list the product's integrations"))?;
        let Some(last) = subjects.last().cloned() else { return Ok(None) };
        if write_it {
            PgTables { connection: &mut transaction }.lock_subjects(&subjects).await?;
        }
        let mut all = Moved::default();
        for subject in load(&mut transaction, &subjects, write_it).await? {
            let moved = mover.decide(subject);
            all.integrations.extend(moved.integrations);
            all.accounts.extend(moved.accounts);
            all.merged.extend(moved.merged);
            all.back |= moved.back;
        }
        if write_it {
            write(&mut transaction, &all).await?;
            transaction.commit().await.map_err(errors::of("commit"))?;
        }
        Ok(Some(last))
    }

    async fn move_counts(&self) -> Result<MoveCounts, StoreError> {
        counts(&mut *self.pool.acquire().await.map_err(errors::connecting)?).await
    }

    async fn has_unmoved_accounts(&self) -> Result<bool, StoreError> {
        query_scalar(
            "select exists (
                select from account
                where external_id_index is null and duplicate_of is null and not starts_with(external_id, 'fh1.')
            )",
        )
        .fetch_one(&self.pool)
        .await
        .map_err(errors::of("look for accounts that are not moved in"))
    }

    async fn placeless(&self, limit: u32) -> Result<Vec<Placeless>, StoreError> {
        let rows: Vec<(String, Uuid)> = query_as(PLACELESS)
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await
            .map_err(errors::of("list the rows without a place"))?;
        let table = |name: &str| if name == "account" { "account" } else { "integration" };
        Ok(rows.into_iter().map(|(name, id)| Placeless { table: table(&name), id }).collect())
    }

    async fn short_columns(&self) -> Result<Vec<String>, StoreError> {
        query_scalar(SHORT_COLUMNS).fetch_all(&self.pool).await.map_err(errors::of("look at the columns"))
    }

    async fn finish(&self) -> Result<MoveCounts, StoreError> {
        let doing = "finish the move";
        let refused = |what: String| StoreError { trouble: StoreTrouble::Failed, what };
        let mut connection = self.pool.acquire().await.map_err(errors::connecting)?;
        let mut transaction = connection.begin().await.map_err(errors::of("begin"))?;
        let before = counts(&mut transaction).await?;
        if before.theirs > 0 {
            return Err(refused(format!("{} value(s) that the product wrote are not moved yet", before.theirs)));
        }
        if before.merged > 0 {
            let references: Vec<(String, String, String)> =
                query_as(REFERENCES).fetch_all(&mut *transaction).await.map_err(errors::of(doing))?;
            for (table, column, target) in references {
                // Safe: names that the database itself has quoted.
                let statement = AssertSqlSafe(format!(
                    "update {table} as r set {column} = d.duplicate_of
                     from {target} as d join moved_in m on m.id = d.id and m.merged
                     where d.id = r.{column}"
                ));
                query(statement).execute(&mut *transaction).await.map_err(|error| {
                    let error = errors::of("update")(error);
                    let what = format!("{table}.{column} cannot refer to the row that counts: {}", error.what);
                    StoreError { what, ..error }
                })?;
            }
            for table in ["account", "integration"] {
                let statement =
                    AssertSqlSafe(format!("delete from {table} where id in (select id from moved_in where merged)"));
                query(statement).execute(&mut *transaction).await.map_err(errors::of(doing))?;
            }
        }
        query("delete from moved_in").execute(&mut *transaction).await.map_err(errors::of(doing))?;
        transaction.commit().await.map_err(errors::of("commit"))?;
        Ok(before)
    }
}

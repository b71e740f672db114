//! The statements of the key book on PostgreSQL.

use async_trait::async_trait;
use sqlx::{query, query_as};

use super::binding::zoned;
use super::{Postgres, errors};
use crate::store::StoreError;
use crate::store::columns::{KnownKeyColumns, SightingColumns};
use crate::store::keys::{KeyBook, KnownKey, NewKey, Sighting};

#[async_trait]
impl KeyBook for Postgres {
    async fn known_keys(&self) -> Result<Vec<KnownKey>, StoreError> {
        let rows: Vec<KnownKeyColumns> = query_as(
            "select purpose, id, canary, first_seen_at, primary_at, retired_at from sealing_key order by purpose, id",
        )
        .fetch_all(&self.pool)
        .await
        .map_err(errors::of("load the known keys"))?;
        rows.into_iter().map(KnownKeyColumns::read).collect()
    }

    async fn enter_keys(&self, keys: &[NewKey]) -> Result<(), StoreError> {
        query(
            "insert into sealing_key (purpose, id, canary, first_seen_at)
             select new.purpose, new.id, new.canary, $4
             from unnest($1::text[], $2::bigint[], $3::text[]) as new (purpose, id, canary)
             on conflict (purpose, id) do nothing",
        )
        .bind(keys.iter().map(|key| key.purpose.as_str()).collect::<Vec<_>>())
        .bind(keys.iter().map(|key| i64::from(key.id)).collect::<Vec<_>>())
        .bind(keys.iter().map(|key| key.canary.as_str()).collect::<Vec<_>>())
        .bind(zoned(self.options.clock.now()))
        .execute(&self.pool)
        .await
        .map(drop)
        .map_err(errors::of("enter keys"))
    }

    async fn note_primary(&self, id: u32) -> Result<(), StoreError> {
        query(
            "update sealing_key set primary_at = $2
             where purpose = 'ring' and id = $1
                 and (primary_at is null or exists (
                     select 1 from sealing_key other
                     where other.purpose = 'ring' and other.primary_at > sealing_key.primary_at))",
        )
        .bind(i64::from(id))
        .bind(zoned(self.options.clock.now()))
        .execute(&self.pool)
        .await
        .map(drop)
        .map_err(errors::of("note the primary key"))
    }

    async fn note_retired(&self, id: u32) -> Result<(), StoreError> {
        query("update sealing_key set retired_at = $2 where purpose = 'ring' and id = $1 and retired_at is null")
            .bind(i64::from(id))
            .bind(zoned(self.options.clock.now()))
            .execute(&self.pool)
            .await
            .map(drop)
            .map_err(errors::of("note a retired key"))
    }

    async fn note_sightings(&self, sightings: &[Sighting]) -> Result<(), StoreError> {
        // Sorted, so that two workers that note the same ones do not wait for each other in a circle.
        query(
            "insert into delivery_key (queue, key_id, received_at, noted_at)
             select new.queue, new.key_id, new.received_at, $4
             from unnest($1::text[], $2::bigint[], $3::timestamptz[]) as new (queue, key_id, received_at)
             order by new.queue, new.key_id
             on conflict (queue, key_id) do update
             set received_at = excluded.received_at, noted_at = excluded.noted_at
             where delivery_key.received_at < excluded.received_at",
        )
        .bind(sightings.iter().map(|sighting| sighting.queue.as_str()).collect::<Vec<_>>())
        .bind(sightings.iter().map(|sighting| i64::from(sighting.key)).collect::<Vec<_>>())
        .bind(sightings.iter().map(|sighting| zoned(sighting.received_at)).collect::<Vec<_>>())
        .bind(zoned(self.options.clock.now()))
        .execute(&self.pool)
        .await
        .map(drop)
        .map_err(errors::of("note deliveries' keys"))
    }

    async fn sightings(&self) -> Result<Vec<Sighting>, StoreError> {
        let rows: Vec<SightingColumns> =
            query_as("select queue, key_id, received_at from delivery_key order by queue, key_id")
                .fetch_all(&self.pool)
                .await
                .map_err(errors::of("load deliveries' keys"))?;
        rows.into_iter().map(SightingColumns::read).collect()
    }
}

//! The statements of the key book on SQLite.

use async_trait::async_trait;
use sqlx::{query, query_as};

use super::{Sqlite, errors};
use crate::store::StoreError;
use crate::store::columns::{KnownKeyColumns, SightingColumns};
use crate::store::keys::{KeyBook, KnownKey, NewKey, Sighting};

#[async_trait]
impl KeyBook for Sqlite {
    async fn known_keys(&self) -> Result<Vec<KnownKey>, StoreError> {
        let rows: Vec<KnownKeyColumns> = query_as(
            "select purpose, id, canary, first_seen_at, primary_at, retired_at from sealing_key order by purpose, id",
        )
        .fetch_all(&self.readers)
        .await
        .map_err(errors::of("load the known keys"))?;
        rows.into_iter().map(KnownKeyColumns::read).collect()
    }

    async fn enter_keys(&self, keys: &[NewKey]) -> Result<(), StoreError> {
        // A handful of keys, once in their life: a statement for each.
        for key in keys {
            query(
                "insert into sealing_key (purpose, id, canary, first_seen_at) values ($1, $2, $3, $4)
                 on conflict (purpose, id) do nothing",
            )
            .bind(key.purpose.as_str())
            .bind(i64::from(key.id))
            .bind(&key.canary)
            .bind(self.options.clock.now().micros())
            .execute(&self.writer)
            .await
            .map_err(errors::of("enter keys"))?;
        }
        Ok(())
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
        .bind(self.options.clock.now().micros())
        .execute(&self.writer)
        .await
        .map(drop)
        .map_err(errors::of("note the primary key"))
    }

    async fn note_retired(&self, id: u32) -> Result<(), StoreError> {
        query("update sealing_key set retired_at = $2 where purpose = 'ring' and id = $1 and retired_at is null")
            .bind(i64::from(id))
            .bind(self.options.clock.now().micros())
            .execute(&self.writer)
            .await
            .map(drop)
            .map_err(errors::of("note a retired key"))
    }

    async fn note_sightings(&self, sightings: &[Sighting]) -> Result<(), StoreError> {
        // As few as there are queues and keys, every few seconds.
        for sighting in sightings {
            query(
                "insert into delivery_key (queue, key_id, received_at, noted_at) values ($1, $2, $3, $4)
                 on conflict (queue, key_id) do update
                 set received_at = excluded.received_at, noted_at = excluded.noted_at
                 where delivery_key.received_at < excluded.received_at",
            )
            .bind(&sighting.queue)
            .bind(i64::from(sighting.key))
            .bind(sighting.received_at.micros())
            .bind(self.options.clock.now().micros())
            .execute(&self.writer)
            .await
            .map_err(errors::of("note deliveries' keys"))?;
        }
        Ok(())
    }

    async fn sightings(&self) -> Result<Vec<Sighting>, StoreError> {
        let rows: Vec<SightingColumns> =
            query_as("select queue, key_id, received_at from delivery_key order by queue, key_id")
                .fetch_all(&self.readers)
                .await
                .map_err(errors::of("load deliveries' keys"))?;
        rows.into_iter().map(SightingColumns::read).collect()
    }
}

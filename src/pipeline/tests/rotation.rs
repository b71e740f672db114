//! A rotation over real rows: everything under the first key, the same as before, and nobody disturbed.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::bench::{Bench, about, delivery, rings, vault};
use crate::domain::{EventState, UserId};
use crate::pipeline::rotate::{ByKey, Rotated, Rotation, Survey, survey};
use crate::store::contract::database::{Db, Raw};
use crate::store::contract::on_both;
use crate::store::rotation::{NewPayload, NewText, Page, Shelf};
use crate::store::{Batch, Link, Store, StoredEvent, Vault};

/// The ring after the switch: key 2 first.
fn switched() -> Arc<Vault> {
    let [usual, other, _] = rings();
    vault(&format!("{other},{usual}"))
}

/// Accounts, their ledger's ids, an access token and payloads, all under key 1.
async fn filled(db: &Arc<Db>, events: usize) -> Bench {
    let bench = Bench::new(db).await;
    bench.take(&(0..events).map(|n| about(n, "created", 0)).collect::<Vec<_>>()).await;
    let link = Link {
        provider: super::bench::UNIT,
        subject: "c0".into(),
        user: UserId("u1".into()),
        email: None,
        authorization_id: Some("access-token".to_owned().into()),
        at: db.options.clock.now(),
    };
    let batch = Batch { links: vec![link], ..Batch::default() };
    db.store.commit(&batch, bench.desk().as_ref()).await.unwrap();
    bench
}

async fn rotate(bench: &Bench, vault: Arc<Vault>) -> Rotated {
    let rotation = Rotation::new(bench.tables.clone(), vault, None, CancellationToken::new());
    rotation.in_batches_of(7).run(&|_| {}).await.unwrap()
}

async fn stored(bench: &Bench, key: &str) -> StoredEvent {
    let (row, payload) = bench.tables.event(bench.row(key).await.id).await.unwrap().unwrap();
    StoredEvent { id: row.id, provider: row.provider, dedup_key: row.dedup_key, attempts: row.attempts, payload }
}

fn total(survey: &Survey, key: u32) -> [u64; 4] {
    let of = |shelf| survey.columns.iter().find(|(it, _)| *it == shelf).and_then(|(_, by_key)| by_key.get(&Some(key)));
    Shelf::ALL.map(|shelf| of(shelf).copied().unwrap_or(0))
}

/// Everything of the rows but what is sealed: nothing of it may change.
async fn in_the_clear(db: &Db) -> Vec<(String, String)> {
    let cast = |column: &str| format!("coalesce(cast({column} as text), '-')");
    let mut rows = Vec::new();
    let tables = [
        ("integration", vec!["status", "user_id", "created_at", "updated_at", "observed_at", "authorization_at"]),
        ("account", vec!["status", "user_id", "integration_id", "created_at", "updated_at", "observed_at"]),
        ("event", vec!["state", "reason", "attempts", "kind", "subject", "occurred_at", "received_at", "processed_at"]),
    ];
    for (table, columns) in tables {
        let shown = columns.into_iter().map(cast).collect::<Vec<_>>().join(" || '|' || ");
        rows.extend(
            db.fetch::<(String, String)>(&format!("select cast(id as text), {shown} from {table} order by id")).await,
        );
    }
    rows
}

on_both! {
    async fn everything_is_under_the_first_key_afterwards_and_the_same_as_before(db) {
        let bench = filled(&db, 50).await;
        let (before, clear) = (db.rows().await, in_the_clear(&db).await);
        let counted = survey(db.store.as_ref(), &switched()).await.unwrap();
        assert_eq!((total(&counted, 1), total(&counted, 2)), ([1, 50, 50, 50], [0; 4]));
        let rotated = rotate(&bench, switched()).await;
        assert_eq!((rotated.resealed, rotated.stopped, rotated.survey.elsewhere(2)), (151, false, 0));
        assert_eq!((total(&rotated.survey, 1), total(&rotated.survey, 2)), ([0; 4], [1, 50, 50, 50]));
        assert_eq!(in_the_clear(&db).await, clear, "nothing else of a row changes");
        assert_eq!(rotate(&bench, switched()).await.resealed, 0, "the second time there is nothing to do");
        // Back, so that the reader of these tests can open it.
        let [_, _, both] = rings();
        assert_eq!(rotate(&bench, vault(&both)).await.resealed, 151);
        assert_eq!(db.rows().await, before);
        assert_eq!(bench.desk().again(&stored(&bench, "created-1").await).err(), None);
    }

    async fn one_that_was_interrupted_goes_on_where_it_was(db) {
        let bench = filled(&db, 40).await;
        let mut resealed = 0;
        for _ in 0..200 {
            let stop = CancellationToken::new();
            let rotation = Rotation::new(bench.tables.clone(), switched(), None, stop.clone()).in_batches_of(3);
            // Stopped in the first batch: what follows is another one's.
            let rotated = rotation.run(&|progress| if progress.resealed > 0 { stop.cancel() }).await.unwrap();
            resealed += rotated.resealed;
            if !rotated.stopped && rotated.survey.elsewhere(2) == 0 {
                break;
            }
        }
        assert_eq!(resealed, 121);
        assert_eq!(total(&survey(db.store.as_ref(), &switched()).await.unwrap(), 1), [0; 4]);
    }

    async fn two_at_once_end_in_the_same(db) {
        let bench = filled(&db, 60).await;
        let (one, two) = tokio::join!(rotate(&bench, switched()), rotate(&bench, switched()));
        assert_eq!(one.resealed + two.resealed, 181, "no value is replaced twice");
        assert_eq!(one.survey.elsewhere(2) + two.survey.elsewhere(2), 0);
    }

    async fn what_is_committed_meanwhile_stays_as_it_is(db) {
        let bench = filled(&db, 60).await;
        let committing = async {
            for round in 1..=5 {
                // The same accounts again, sealed by a worker that was not started anew.
                bench.take(&(0..60).map(|n| about(n, "closed", round)).collect::<Vec<_>>()).await;
            }
        };
        tokio::join!(committing, rotate(&bench, switched()));
        let rotated = rotate(&bench, switched()).await;
        assert_eq!(rotated.survey.elsewhere(2), 0);
        let [_, _, both] = rings();
        rotate(&bench, vault(&both)).await;
        let rows = db.rows().await;
        assert_eq!(rows.accounts.len(), 60);
        assert!(rows.accounts.values().all(|account| account.status.status == "closed"), "no change was lost");
    }

    async fn a_value_that_was_written_since_it_was_read_is_not_replaced(db) {
        let _bench = filled(&db, 3).await;
        let (shelves, all) = (db.store.shelves(), Page { after: Uuid::nil(), to: Uuid::max() });
        let texts = shelves.texts(Shelf::ExternalId, all, 2).await.unwrap();
        let ring = &switched().ring;
        let new = |text: &crate::store::rotation::SealedText| {
            text.in_place(Shelf::ExternalId, |place| ring.reseal_column(place, &text.value)).unwrap().unwrap()
        };
        let stale: Vec<NewText> =
            texts.iter().map(|text| NewText { id: text.id, old: format!("{}x", text.value), new: new(text) }).collect();
        assert_eq!(shelves.replace_texts(Shelf::ExternalId, &stale).await.unwrap(), 0);
        let ids: Vec<Uuid> = shelves.payload_sizes(all, 2).await.unwrap().into_iter().map(|(id, _)| id).collect();
        let events = shelves.payloads(&ids).await.unwrap();
        assert_eq!((texts.len(), events.len()), (3, 3));
        let stale: Vec<NewPayload> = events
            .iter()
            .map(|event| NewPayload {
                id: event.id,
                header: vec![9; 29],
                new: ring.reseal_payload(&event.provider, &event.dedup_key, &event.payload).unwrap().unwrap(),
            })
            .collect();
        assert_eq!(shelves.replace_payloads(&stale).await.unwrap(), 0);
        assert_eq!((shelves.replace_payloads(&[]).await.unwrap(), shelves.payloads(&[]).await.unwrap().len()), (0, 0));
        assert_eq!(total(&survey(db.store.as_ref(), &switched()).await.unwrap(), 1), [1, 3, 3, 3]);
    }

    async fn a_row_that_another_transaction_holds_is_left_for_the_next_round(db) {
        let Raw::Pg(pool) = &db.raw else { return }; // SQLite has one writer, and nothing to hold.
        let bench = filled(&db, 5).await;
        let mut held = pool.begin().await.unwrap();
        sqlx::query("select id from account for update").fetch_all(&mut *held).await.unwrap();
        let rotated = rotate(&bench, switched()).await;
        assert_eq!(total(&rotated.survey, 1), [0, 5, 5, 0], "nobody waited for it");
        held.rollback().await.unwrap();
        assert_eq!(rotate(&bench, switched()).await.survey.elsewhere(2), 0);
    }

    async fn what_is_not_ours_and_what_does_not_open_is_left_alone(db) {
        let bench = filled(&db, 4).await;
        db.sql("update account set baas_id = 'U2FsdGVkX1 of the product'").await;
        let moved = "(select min(external_id) from account)";
        db.sql(&format!("update account set external_id = {moved} where external_id = (select max(external_id) from account)"))
            .await;
        let rotated = rotate(&bench, switched()).await;
        assert_eq!(total(&rotated.survey, 1), [0, 1, 0, 0], "sealed for another row");
        assert_eq!(total(&rotated.survey, 2), [1, 3, 0, 4]);
        let theirs: Vec<(String,)> = db.fetch("select distinct baas_id from account").await;
        assert_eq!(theirs, [("U2FsdGVkX1 of the product".to_owned(),)]);
    }

    async fn a_delivery_that_was_kept_because_its_key_was_missing_is_taken_over_when_the_key_is_there(db) {
        let bench = Bench::new(&db).await;
        let [usual, other, _] = rings();
        let third = "3:AwECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        // Sealed by a receiver with key 3, met by a worker that has only key 2.
        let message = vault(third).ring.seal_delivery(&delivery(super::bench::body(&[about(1, "created", 0)])));
        bench.publish_raw("unit", message.message.bytes()).await;
        bench.work(Arc::new(bench.desk_with(&other))).await;
        assert_eq!(bench.count(EventState::Dead).await, 1);
        let kept = async |ring: &str| survey(db.store.as_ref(), &vault(ring)).await.unwrap().kept;
        assert_eq!(kept(&other).await, ByKey::from([(Some(3), 1)]));
        // Without key 3 it stays what it is; with it, it is under key 1 inside and outside.
        assert_eq!(rotate(&bench, vault(&format!("{usual},{other}"))).await.survey.kept, ByKey::from([(Some(3), 1)]));
        let rotated = rotate(&bench, vault(&format!("{usual},{other},{third}"))).await;
        assert_eq!((rotated.survey.elsewhere(1), kept(&usual).await), (0, ByKey::from([(Some(1), 1)])));
        bench.sweeper(Arc::new(bench.desk_with(&usual))).held().await.unwrap();
        assert_eq!(bench.state("created-1").await.0, "applied");
    }
}

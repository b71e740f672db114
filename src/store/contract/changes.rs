//! Which rows changed is kept in the same transaction, once for each row, until it is told.

use std::collections::BTreeSet;
use std::time::Duration;

use sqlx::postgres::PgListener;
use uuid::Uuid;

use super::database::{Db, on_postgres};
use super::{Saying, at, event, on_both};
use crate::domain::{ChangedRow, Meaning, Rank};
use crate::store::{Batch, Store, Telling};

const EXCHANGE: Telling = Telling { notify: false, exchange: true };
const NOTIFY: Telling = Telling { notify: true, exchange: false };

/// One event of customer `c1`, which belongs to `u_1`, with one account.
async fn commit(db: &Db, store: &dyn Store, key: &str, seconds: i64) {
    let event = event(key, seconds).claiming("u_1", Rank::Payload).account("a1", None);
    let batch = Batch { events: vec![db.archive.arriving(event, false)], ..Batch::default() };
    store.commit(&batch, &db.archive).await.unwrap();
}

fn rows(changed: &[ChangedRow]) -> BTreeSet<(&str, Uuid)> {
    let rows: BTreeSet<_> = changed.iter().map(|row| (row.table.as_str(), row.id)).collect();
    assert_eq!(rows.len(), changed.len(), "a row is there twice");
    rows
}

async fn ids(db: &Db) -> BTreeSet<Uuid> {
    let mut ids = BTreeSet::new();
    for table in ["user", "integration", "account"] {
        let found: Vec<(crate::store::columns::Id,)> = db.fetch(&format!(r#"select id from "{table}""#)).await;
        ids.extend(found.into_iter().map(|(id,)| id.0));
    }
    ids
}

on_both! {
    async fn the_rows_of_a_commit_are_kept_until_they_are_told(db) {
        let store = db.telling(EXCHANGE).await;
        commit(&db, store.as_ref(), "e1", 0).await;
        let taken = store.take_changed(at(0), at(30), 100).await.unwrap();
        let tables: Vec<&str> = rows(&taken).into_iter().map(|(table, _)| table).collect();
        assert_eq!(tables, ["account", "integration", "user"]);
        assert_eq!(taken.iter().map(|row| row.id).collect::<BTreeSet<_>>(), ids(&db).await);
        assert!(store.take_changed(at(29), at(59), 100).await.unwrap().is_empty(), "somebody has them");
        assert_eq!(rows(&store.take_changed(at(31), at(60), 100).await.unwrap()), rows(&taken), "nobody told them");
        store.forget_changed(&taken.iter().map(|row| row.seq).collect::<Vec<_>>()).await.unwrap();
        assert!(store.take_changed(at(1_000), at(1_030), 100).await.unwrap().is_empty());
    }

    async fn a_row_that_changes_again_is_told_once_if_it_was_not_taken_and_again_if_it_was(db) {
        let store = db.telling(EXCHANGE).await;
        for (key, seconds) in [("e1", 0), ("e2", 1), ("e3", 2)] {
            commit(&db, store.as_ref(), key, seconds).await;
        }
        let taken = store.take_changed(at(0), at(30), 100).await.unwrap();
        assert_eq!(rows(&taken).len(), 3);
        commit(&db, store.as_ref(), "e4", 3).await;
        let again = store.take_changed(at(0), at(30), 100).await.unwrap();
        assert!(rows(&again).is_subset(&rows(&taken)) && !again.is_empty(), "whoever was told may have read the row before");
    }

    async fn what_changes_nothing_or_is_not_to_be_told_leaves_nothing(db) {
        let store = db.telling(EXCHANGE).await;
        let recorded = event("e0", 0).meaning(Meaning::Record(None));
        let batch = Batch { events: vec![db.archive.arriving(recorded, false)], ..Batch::default() };
        store.commit(&batch, &db.archive).await.unwrap();
        commit(&db, db.store.as_ref(), "e1", 0).await;
        assert!(store.take_changed(at(0), at(30), 100).await.unwrap().is_empty());
        commit(&db, store.as_ref(), "e1", 0).await;
        assert!(store.take_changed(at(0), at(30), 100).await.unwrap().is_empty(), "a duplicate changes nothing");
    }

    async fn workers_share_what_there_is(db) {
        let store = db.telling(EXCHANGE).await;
        commit(&db, store.as_ref(), "e1", 0).await;
        let (one, other) = tokio::join!(store.take_changed(at(0), at(30), 2), store.take_changed(at(0), at(30), 2));
        let all = [one.unwrap(), other.unwrap(), store.take_changed(at(0), at(30), 2).await.unwrap()].concat();
        assert_eq!(rows(&all).len(), 3);
    }
}

/// What a listener hears until nothing comes any more that was sent before `last`.
async fn heard(listener: &mut PgListener, db: &Db) -> Vec<serde_json::Value> {
    db.sql("notify finhook_changes, 'last'").await;
    let mut heard = Vec::new();
    loop {
        let next = tokio::time::timeout(Duration::from_secs(20), listener.recv()).await.unwrap().unwrap();
        if next.payload() == "last" {
            return heard;
        }
        heard.push(serde_json::from_str(next.payload()).unwrap());
    }
}

#[tokio::test]
async fn postgresql_tells_its_listeners_which_rows_changed_and_nothing_else() {
    on_postgres(|db| async move {
        let mut listener = db.listener().await;
        listener.listen("finhook_changes").await.unwrap();
        commit(&db, db.store.as_ref(), "e0", 0).await;
        assert!(heard(&mut listener, &db).await.is_empty(), "it is off");
        let store = db.telling(NOTIFY).await;
        commit(&db, store.as_ref(), "e1", 1).await;
        let heard_of = heard(&mut listener, &db).await;
        let known = ids(&db).await;
        assert!(!heard_of.is_empty());
        for message in &heard_of {
            let fields = message.as_object().unwrap();
            assert_eq!(fields.len(), 2, "{message}");
            assert!(["user", "integration", "account"].contains(&fields["table"].as_str().unwrap()));
            assert!(known.contains(&fields["id"].as_str().unwrap().parse().unwrap()));
        }
        commit(&db, store.as_ref(), "e1", 1).await;
        assert!(heard(&mut listener, &db).await.is_empty(), "a duplicate changes nothing");
        assert!(store.take_changed(at(0), at(30), 100).await.unwrap().is_empty(), "nothing is kept for an exchange");
    })
    .await;
}

#[tokio::test]
async fn a_transaction_that_fails_tells_nobody() {
    on_postgres(|db| async move {
        let mut listener = db.listener().await;
        listener.listen("finhook_changes").await.unwrap();
        let store = db.telling(Telling { notify: true, exchange: true }).await;
        db.sql("create function refuse() returns trigger language plpgsql as $$ begin raise exception 'no'; end $$").await;
        db.sql("create constraint trigger refused after insert on account deferrable initially deferred for each row execute function refuse()")
            .await;
        let event = event("e1", 0).claiming("u_1", Rank::Payload).account("a1", None);
        let batch = Batch { events: vec![db.archive.arriving(event, false)], ..Batch::default() };
        store.commit(&batch, &db.archive).await.unwrap_err();
        assert!(heard(&mut listener, &db).await.is_empty());
        assert!(store.take_changed(at(0), at(30), 100).await.unwrap().is_empty());
    })
    .await;
}

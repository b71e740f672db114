//! Rows that the product wrote: found by events before they are moved in, and without the users that ours always have.

use secrecy::ExposeSecret;

use super::database::{Db, Raw, on_postgres, theirs};
use super::{Outcome, Saying, event, link, on_both, token};
use crate::domain::{EventState, Rank, StatusChange, UserId};
use crate::pipeline::moving::{Report, Sealer};

impl Db {
    /// Ids in the form that this database keeps them in.
    fn id(number: u32) -> String {
        format!("00000000-0000-4000-8000-{number:012}")
    }

    /// User `u1`, customer `c1`, and an account of it as the product wrote it.
    async fn as_the_product_wrote(&self, account: &str, baas_id: &str) {
        let [user, integration, row] = [1, 2, 3].map(Self::id);
        let [account, baas_id] = [account, baas_id].map(|id| theirs().seal(id));
        self.sql(&format!(
            r#"insert into "user" (id, external_id) values ('{user}', 'u1');
            insert into integration (id, service, external_id, user_id) values ('{integration}', 'unit', 'c1', '{user}');
            insert into account (id, external_id, baas_id, integration_id, user_id)
                values ('{row}', '{account}', '{baas_id}', '{integration}', '{user}')"#
        ))
        .await;
    }
}

on_both! {
    async fn an_event_finds_the_account_that_the_product_wrote_and_seals_it(db) {
        db.as_the_product_wrote("a1", "b1").await;
        let closed = Some(StatusChange::closing("closed"));
        db.take([event("e1", 1).account("a1", closed), event("e2", 2).account("a2", None)]).await;
        let rows = db.rows().await;
        assert_eq!(rows.accounts.len(), 2, "no second row for a1: {:?}", rows.accounts.keys());
        assert_eq!(db.account("a1").await.status.status, "closed");
        let stored: Vec<(String, String)> =
            db.fetch("select external_id, baas_id from account where deleted_at is not null").await;
        assert!(stored[0].0.starts_with("fh1.") && stored[0].1.starts_with("fh1."));
        let kept: Vec<(String, String)> = db.fetch("select external_id, baas_id from moved_in").await;
        let opened: Vec<_> = kept.iter().map(|(a, b)| [a, b].map(|text| theirs().open(text).unwrap())).collect();
        assert_eq!((opened[0][0].expose_secret(), opened[0][1].expose_secret()), ("a1", "b1"));
        assert_eq!(kept.len(), 1);
        db.take([event("e3", 3).account("a1", None)]).await;
        assert_eq!(db.rows().await.accounts.len(), 2);
    }

    async fn an_account_that_no_event_names_stays_as_the_product_wrote_it(db) {
        db.as_the_product_wrote("a1", "b1").await;
        db.take([event("e1", 1).account("a2", None)]).await;
        db.link([link("u2", 5)]).await;
        let untouched: Vec<(i64,)> = db
            .fetch("select count(*) from account where external_id not like 'fh1.%' and external_id_index is null")
            .await;
        assert_eq!(untouched[0].0, 1);
        let opened = db.store.accounts(&UserId("u2".into())).await.unwrap();
        assert_eq!(opened.len(), 2, "it follows its integration's owner all the same");
    }

    async fn an_integration_without_a_user_waits_for_one_like_any_other(db) {
        if matches!(db.raw, Raw::Lite(_)) {
            return; // Only the product makes such rows, and it has no SQLite database.
        }
        db.sql("alter table integration alter column user_id drop not null;
            insert into integration (service, external_id) values ('unit', 'c1')").await;
        let waiting = event("e1", 1).account("a1", None);
        assert_eq!(db.take_one(waiting).await, Outcome::Stored(EventState::Unlinked));
        assert_eq!(db.sweep().await, 0, "nothing to link yet, and no endless sweep");
        let mut linked = link("u1", 2);
        linked.authorization_id = token("t");
        assert_eq!(db.link([linked]).await.relinked, 1);
        assert_eq!(db.account("a1").await.user, "u1");
        let owners: Vec<(i64,)> = db.fetch("select count(*) from integration where user_id is not null").await;
        assert_eq!(owners[0].0, 1);
    }

    async fn an_integration_of_a_user_without_our_id_keeps_that_user(db) {
        if matches!(db.raw, Raw::Lite(_)) {
            return; // As above.
        }
        db.sql(r#"alter table "user" alter column external_id drop not null;
            insert into "user" (id) values ('00000000-0000-4000-8000-000000000009');
            insert into integration (service, external_id, user_id)
                select 'unit', 'c1', id from "user""#).await;
        db.take([event("e1", 1).claiming("u1", Rank::BoundUrl).account("a1", None)]).await;
        let users: Vec<(bool,)> = db
            .fetch(r#"select u.external_id is null from account a join "user" u on u.id = a.user_id"#)
            .await;
        assert_eq!(users, [(true,)]);
        db.link([link("u1", 2)]).await;
        assert_eq!(db.store.accounts(&UserId("u1".into())).await.unwrap().len(), 1);
    }

    async fn a_surplus_integration_gets_no_events(db) {
        db.as_the_product_wrote("a1", "b1").await;
        let [counts, surplus] = [2, 4].map(Db::id);
        db.sql("drop index integration_service_external_id").await;
        db.sql(&format!(
            "insert into integration (id, service, external_id, user_id, duplicate_of)
             select '{surplus}', service, external_id, user_id, '{counts}' from integration"
        ))
        .await;
        db.take([event("e1", 1).status(StatusChange::closing("archived"))]).await;
        let closed: Vec<(String,)> =
            db.fetch("select cast(id as text) from integration where deleted_at is not null").await;
        assert_eq!(closed, [(counts,)]);
        assert_eq!(db.store.integration("unit", "c1").await.unwrap().unwrap().status, "archived");
    }
}

/// How many subjects the two sides meet over.
const MANY: u32 = 40;

#[tokio::test]
async fn a_move_and_commits_over_the_same_rows_end_in_every_account_once() {
    on_postgres(|db| async move {
        let user = Db::id(1);
        db.sql(&format!(r#"insert into "user" (id, external_id) values ('{user}', 'u1')"#)).await;
        for n in 0..MANY {
            let (integration, token) = (Db::id(100 + n), theirs().seal("token"));
            db.sql(&format!(
                "insert into integration (id, service, external_id, authorization_id, user_id)
                 values ('{integration}', 'unit', 'c{n}', '{token}', '{user}')"
            ))
            .await;
            for (place, account) in [("a", 1_000 + n), ("b", 2_000 + n)] {
                let (account, sealed) = (Db::id(account), theirs().seal(&format!("{place}{n}")));
                db.sql(&format!(
                    "insert into account (id, external_id, baas_id, integration_id, user_id)
                     values ('{account}', '{sealed}', '{sealed}', '{integration}', '{user}')"
                ))
                .await;
            }
        }
        let seal = async {
            let now = super::at(9);
            let mut mover = Sealer { vault: &db.options.vault, merge: true, now, report: Report::default() };
            let mut last = None;
            while let Some(next) =
                db.store.moving().unwrap().move_subjects(last.as_ref(), 3, &mut mover, true).await.unwrap()
            {
                last = Some(next);
            }
            mover.report
        };
        let commits = async {
            // From the other end, so that they meet.
            for n in (0..MANY).rev() {
                let closed = Some(StatusChange::closing("closed"));
                let about = |key: String| event(&key, 1).about(&format!("c{n}"));
                db.take([
                    about(format!("a{n}")).account(&format!("a{n}"), closed.clone()),
                    about(format!("b{n}")).account(&format!("b{n}"), closed),
                ])
                .await;
            }
        };
        let (report, ()) = tokio::join!(seal, commits);
        assert_eq!((report.unreadable, report.duplicates), (0, 0));
        let rows = db.rows().await;
        assert_eq!(rows.accounts.len(), 2 * MANY as usize);
        assert!(rows.accounts.values().all(|account| account.status.status == "closed" && account.baas_id.is_some()));
        let counts = db.store.moving().unwrap().move_counts().await.unwrap();
        assert_eq!((counts.theirs, counts.rows), (0, 3 * u64::from(MANY)));
    })
    .await;
}

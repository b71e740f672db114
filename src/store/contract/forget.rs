//! Forgetting a user: what is gone at once, what is dropped when it comes again, and what stays of others.

use super::{Saying, at, event, link, on_both, token};
use crate::domain::{Cause, EventState, Meaning, Rank, StatusChange, UserId};
use crate::store::audit::{About, Act, AuditEntry, AuditFilter};
use crate::store::contract::database::Db;
use crate::store::forget::Forgot;
use crate::store::{Batch, Outcome, StoreTrouble};

fn user(id: &str) -> UserId {
    UserId(id.into())
}

fn by_ada(act: Act) -> AuditEntry {
    AuditEntry::new("os:ada", act).about(About::User(user("u1"))).because(Some("u1 asked for it".into()))
}

impl Db {
    /// Forgets a user and everything stored about them, in steps of two events; how many steps it took.
    pub async fn forget(&self, id: &str) -> (Forgot, usize) {
        let entry = AuditEntry::new("os:ada", Act::Forget).about(About::User(user(id)));
        let forgot = self.store.forget(&user(id), &entry).await.unwrap();
        (forgot, self.forget_events().await)
    }

    async fn forget_events(&self) -> usize {
        let mut steps = 0;
        while self.store.forget_events(2).await.unwrap().is_some() {
            steps += 1;
            assert!(steps < 1_000, "it ends");
        }
        steps
    }

    /// Every text and every key that is stored anywhere in the clear, tombstones and audit trail too.
    async fn everything(&self) -> String {
        let mut text = format!("{:?}", self.rows().await);
        let queries = [
            "select coalesce(target, '') || coalesce(reason, '') || coalesce(detail, '') from audit",
            "select coalesce(service, '') || coalesce(subject, '') from tombstone",
        ];
        for query in queries {
            let rows: Vec<(String,)> = self.fetch(query).await;
            text.extend(rows.into_iter().map(|(row,)| row));
        }
        text
    }
}

on_both! {
    async fn a_forgotten_user_leaves_no_row_and_no_event(db) {
        db.store.audit(&by_ada(Act::Reveal)).await.unwrap();
        let mine = (0..5).map(|n| event(&format!("e{n}"), n).claiming("u1", Rank::Payload).account("a1", None));
        db.take(mine).await;
        db.take([event("t1", 1).meaning(Meaning::Record(None)), event("d1", 1).meaning(Meaning::Dead(Cause::NotJson.into()))]).await;
        db.set_aside(event("r1", 1), EventState::Retrying, 1, Some(9_999)).await;
        db.take([event("other", 1).about("c2").claiming("u2", Rank::Payload).account("a1", None)]).await;
        let counted = db.store.forget_preview(&user("u1")).await.unwrap();
        assert_eq!(counted, Forgot { user: 1, integration: 1, account: 1, event: 8, before: false });
        let (forgot, steps) = db.forget("u1").await;
        assert_eq!(forgot, Forgot { event: 0, ..counted });
        assert!(steps > 4, "in bounded steps");
        let rows = db.rows().await;
        assert_eq!(rows.users.keys().collect::<Vec<_>>(), ["u2"]);
        assert_eq!((rows.integrations.len(), rows.accounts.len(), rows.events.len()), (1, 1, 1));
        let left = db.everything().await;
        assert!(!left.contains("u1") && !left.contains("\"c1\""), "{left}");
        assert_eq!(db.store.forget_preview(&user("u1")).await.unwrap(), Forgot { before: true, ..Forgot::default() });
    }

    async fn the_audit_trail_is_still_found_by_the_id_that_is_gone_from_it(db) {
        db.store.audit(&by_ada(Act::Reveal)).await.unwrap();
        db.forget("u1").await;
        let filter = AuditFilter { about: Some(About::User(user("u1"))), limit: 9, ..AuditFilter::default() };
        let trail = db.store.audits(&filter).await.unwrap();
        assert_eq!(trail.iter().map(|row| row.act.as_str()).collect::<Vec<_>>(), ["forget", "reveal"]);
        assert_eq!(trail[1].reason.as_deref(), Some("… asked for it"));
        assert!(trail.iter().all(|row| row.target.is_none()));
        assert!(trail[0].detail.as_ref().unwrap().contains("\"again\":false"));
    }

    async fn what_still_arrives_about_a_forgotten_user_is_dropped(db) {
        db.take([event("e1", 1).claiming("u1", Rank::Payload)]).await;
        db.forget("u1").await;
        let late = [
            event("e1", 1).claiming("u1", Rank::Payload),
            event("e2", 2).account("a1", Some(StatusChange::open("open"))),
            event("e3", 3).meaning(Meaning::Record(None)),
            event("e4", 4).meaning(Meaning::Dead(Cause::MissingField.into())),
            event("e5", 5).claiming("u3", Rank::BoundUrl),
        ];
        assert_eq!(db.take(late.clone()).await.outcomes, [Outcome::Forgotten; 5]);
        assert_eq!(db.commit(late, [], true).await.outcomes, [Outcome::Forgotten; 5], "nor if it is forced");
        db.set_aside(event("r1", 1), EventState::Retrying, 1, Some(50)).await;
        let rows = db.rows().await;
        assert!(rows.users.is_empty() && rows.integrations.is_empty() && rows.events.is_empty(), "{rows:?}");
    }

    async fn a_retry_that_a_worker_holds_while_its_user_is_forgotten_writes_nothing(db) {
        let mine = event("e1", 1).claiming("u1", Rank::Payload);
        db.take([event("e0", 0).claiming("u1", Rank::Payload)]).await;
        db.set_aside(mine.clone(), EventState::Retrying, 1, Some(50)).await;
        assert_eq!(db.store.take_due(at(50), at(100), 10).await.unwrap().len(), 1);
        db.forget("u1").await;
        assert_eq!(db.force(mine.clone()).await, Outcome::Forgotten);
        db.set_aside(mine, EventState::Retrying, 2, Some(60)).await;
        assert!(db.rows().await.events.is_empty());
    }

    async fn a_user_of_whom_nothing_has_arrived_yet_is_forgotten_with_the_subjects_that_come(db) {
        db.take([event("e0", 0).account("a1", None)]).await;
        let (forgot, _) = db.forget("u1").await;
        assert_eq!(forgot, Forgot::default());
        assert_eq!(db.state("e0").await.0, "unlinked", "nobody knows yet whose it is");
        let batch = [event("e2", 2).account("a2", None), event("e1", 1).claiming("u1", Rank::Payload)];
        assert_eq!(db.take(batch).await.outcomes, [Outcome::Forgotten; 2]);
        assert_eq!(db.take_one(event("e3", 3)).await, Outcome::Forgotten);
        db.forget_events().await;
        let rows = db.rows().await;
        assert!(rows.users.is_empty() && rows.events.is_empty(), "{rows:?}");
    }

    async fn an_event_that_only_its_webhook_url_gives_to_a_user_is_forgotten_with_them(db) {
        let bound = |key: &str| {
            let mut subjectless = event(key, 1).meaning(Meaning::Record(None));
            subjectless.subject = None;
            let mut arriving = db.archive.arriving(subjectless, false);
            arriving.bound = Some(user("u1"));
            Batch { events: vec![arriving], ..Batch::default() }
        };
        db.store.commit(&bound("e1"), &db.archive).await.unwrap();
        assert_eq!(db.state("e1").await.0, "recorded");
        assert_eq!(db.store.forget_preview(&user("u1")).await.unwrap().event, 1);
        db.forget("u1").await;
        assert!(db.rows().await.events.is_empty());
        let late = db.store.commit(&bound("e2"), &db.archive).await.unwrap();
        assert_eq!(late.outcomes, [Outcome::Forgotten]);
    }

    async fn a_joint_account_stays_with_the_other_customer(db) {
        let joint = event("e1", 1).account("a1", None).claiming("u1", Rank::Payload);
        let other = event("e1-c2", 1).about("c2").account("a1", None).claiming("u2", Rank::Payload);
        db.take([joint, other.clone()]).await;
        db.forget("u1").await;
        let rows = db.rows().await;
        assert_eq!(rows.accounts.values().map(|account| account.user.as_str()).collect::<Vec<_>>(), ["u2"]);
        assert_eq!(db.take_one(other).await, Outcome::Duplicate);
    }

    async fn a_claim_of_a_forgotten_user_makes_nobody_and_leaves_an_owned_subject_to_its_user(db) {
        db.forget("u1").await;
        db.take([event("e1", 1).about("c2").claiming("u2", Rank::Payload)]).await;
        let claimed = event("e2", 2).about("c2").account("a1", None).claiming("u1", Rank::BoundUrl);
        assert_eq!(db.take_one(claimed).await, Outcome::Stored(EventState::Applied));
        let rows = db.rows().await;
        assert_eq!(rows.users.keys().collect::<Vec<_>>(), ["u2"]);
        assert_eq!(rows.accounts.values().next().unwrap().user, "u2");
        let kept: Vec<(String, i64)> =
            db.fetch("select subject, length(payload) * 1 from event where length(payload) = 0").await.into_iter()
                .map(|(subject, length): (String, i32)| (subject, i64::from(length))).collect();
        assert_eq!(kept, [("c2".to_owned(), 0)], "what names them is not kept");
    }

    async fn a_link_of_a_forgotten_user_is_refused_until_the_tombstone_is_lifted(db) {
        db.take([event("e1", 1).claiming("u1", Rank::Payload)]).await;
        db.forget("u1").await;
        assert!(db.store.is_forgotten(&user("u1")).await.unwrap());
        let links = || Batch { links: vec![link("u1", 9)], ..Batch::default() };
        let refused = db.store.commit(&links(), &db.archive).await.unwrap_err();
        assert_eq!(refused.trouble, StoreTrouble::Forgotten, "{refused}");
        let refused = db.store.put_user(&user("u1"), None).await.unwrap_err();
        assert_eq!(refused.trouble, StoreTrouble::Forgotten, "{refused}");
        assert!(db.rows().await.users.is_empty());
        assert_eq!(db.store.lift(&user("u1"), &by_ada(Act::Remember)).await.unwrap(), 2);
        assert!(!db.store.is_forgotten(&user("u1")).await.unwrap());
        db.store.commit(&links(), &db.archive).await.unwrap();
        assert_eq!(db.take_one(event("e2", 2)).await, Outcome::Stored(EventState::Applied));
        assert_eq!(db.store.lift(&user("u1"), &by_ada(Act::Remember)).await.unwrap(), 0);
    }

    async fn what_was_stored_before_does_not_come_back_with_a_user_who_is_taken_again_early(db) {
        db.take([event("e1", 1).claiming("u1", Rank::Payload)]).await;
        let entry = AuditEntry::new("os:ada", Act::Forget).about(About::User(user("u1")));
        db.store.forget(&user("u1"), &entry).await.unwrap();
        db.store.lift(&user("u1"), &by_ada(Act::Remember)).await.unwrap();
        assert!(db.rows().await.events.is_empty());
        assert_eq!(db.store.forget_events(9).await.unwrap(), None);
    }

    async fn a_link_to_somebody_else_takes_the_subject_of_a_forgotten_user_anew(db) {
        db.take([event("e1", 1).claiming("u1", Rank::Payload)]).await;
        let entry = AuditEntry::new("os:ada", Act::Forget).about(About::User(user("u1")));
        db.store.forget(&user("u1"), &entry).await.unwrap();
        // Before the stored events are deleted: the link must not find them.
        let mut taken = link("u2", 9);
        taken.authorization_id = token("secret");
        assert_eq!(db.link([taken]).await.relinked, 0);
        assert_eq!(db.take_one(event("e2", 2)).await, Outcome::Stored(EventState::Applied));
        db.forget_events().await;
        let rows = db.rows().await;
        assert_eq!((rows.users.len(), rows.events.len()), (1, 1), "{rows:?}");
        assert!(rows.users.contains_key("u2"));
    }

    async fn forgetting_twice_and_dying_in_between_end_the_same(db) {
        db.take((0..7).map(|n| event(&format!("e{n}"), n).claiming("u1", Rank::Payload))).await;
        let entry = AuditEntry::new("os:ada", Act::Forget).about(About::User(user("u1")));
        db.store.forget(&user("u1"), &entry).await.unwrap();
        assert!(db.store.forget_events(2).await.unwrap().is_some());
        // Whoever did this is dead: somebody else forgets again, and goes on.
        let (again, _) = db.forget("u1").await;
        assert_eq!(again, Forgot { before: true, ..Forgot::default() });
        assert!(db.rows().await.events.is_empty());
        let settled: Vec<(i64,)> = db.fetch("select count(*) from tombstone where subject is not null").await;
        assert_eq!(settled[0].0, 0, "no id is left in the tombstones");
    }

    async fn commits_beside_a_forgetting_leave_nothing_behind(db) {
        for round in 0..10 {
            let name = format!("u{round}");
            let mine = |n: i64| {
                event(&format!("e{round}-{n}"), n).about(&format!("s{round}")).claiming(&name, Rank::Payload).account("a", None)
            };
            db.take([mine(0)]).await;
            let committing = async {
                for n in 1..6 {
                    db.take([mine(n), mine(n + 10).meaning(Meaning::Record(None))]).await;
                }
            };
            tokio::join!(committing, db.forget(&name));
            db.forget_events().await;
        }
        let rows = db.rows().await;
        assert!(rows.users.is_empty() && rows.integrations.is_empty() && rows.events.is_empty(), "{rows:?}");
    }
}

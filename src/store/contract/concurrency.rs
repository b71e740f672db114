//! Several committers over the same subjects and users: nothing is lost, and what waits in a circle is a conflict that the
//! same batch gets over.

use std::sync::Arc;
use std::time::Duration;

use super::database::Db;
use super::{Saying, at, event, on_both};
use crate::domain::{Email, Event, Rank, StatusChange, UserId};
use crate::store::postgres::Postgres;
use crate::store::{Batch, Link, Store, StoreTrouble};

/// Commits until the answer is yes; only a conflict may come before that.
async fn insist(db: &Db, batch: Batch) {
    for _ in 0..100 {
        match db.store.commit(&batch, &db.archive).await {
            Ok(_) => return,
            Err(error) => assert_eq!(error.trouble, StoreTrouble::Conflict, "{error}"),
        }
    }
    panic!("a hundred conflicts");
}

/// Sixty batches that all touch the same few subjects, accounts and users, in different orders.
fn busy(number: i64) -> (Vec<Event>, Vec<Link>) {
    let events = (0..6).map(|position| {
        let n = number * 6 + position;
        let subject = format!("c{}", (n * 7 + number) % 5);
        let account = format!("a{}", n % 3);
        let status = if n % 2 == 0 { StatusChange::open("open") } else { StatusChange::closing("closed") };
        let event = event(&format!("e{:03}", n % 200), n % 17).about(&subject).account(&account, Some(status));
        match n % 4 {
            0 => event.claiming(&format!("u{}", n % 3), Rank::Payload).email(&format!("m{n}@example.com")),
            1 => event.status(StatusChange::closing("archived")),
            2 => event.claiming(&format!("u{}", n % 5), Rank::Inferred),
            _ => event,
        }
    });
    let link = Link {
        provider: super::UNIT,
        subject: format!("c{}", number % 5),
        user: UserId(format!("u{}", number % 4)),
        email: Email::parse(&format!("l{number}@example.com"), true),
        authorization_id: None,
        at: at(number),
    };
    (events.collect(), if number % 10 == 0 { vec![link] } else { Vec::new() })
}

fn batch(db: &Db, number: i64) -> Batch {
    let (events, links) = busy(number);
    Batch {
        events: events.into_iter().map(|event| db.archive.arriving(event, false)).collect(),
        links,
        ..Batch::default()
    }
}

on_both! {
    async fn committers_beside_each_other_end_in_the_rows_of_one_after_the_other(db) {
        for number in 0..60 {
            insist(&db, batch(&db, number)).await;
        }
        db.sweep().await;
        let expected = db.rows().await;
        for _ in 0..3 {
            db.clear().await;
            let mut workers = tokio::task::JoinSet::new();
            for worker in 0..4 {
                let db: Arc<Db> = db.clone();
                workers.spawn(async move {
                    for number in (0..60).filter(|number| number % 4 == worker) {
                        insist(&db, batch(&db, number)).await;
                        // A redelivery of what another worker has in hand.
                        insist(&db, batch(&db, (number + 1) % 60)).await;
                    }
                });
            }
            workers.join_all().await;
            db.sweep().await;
            assert_eq!(db.rows().await, expected);
        }
    }

    async fn a_link_and_an_unlinked_event_at_the_same_time_find_each_other(db) {
        for round in 0..20 {
            let subject = format!("c{round}");
            let (one, two) = (db.clone(), db.clone());
            let waiting = event(&format!("e{round}"), 1).about(&subject);
            let mut link = super::link("u1", 1);
            link.subject = subject;
            let events = Batch { events: vec![db.archive.arriving(waiting, false)], ..Batch::default() };
            let links = Batch { links: vec![link], ..Batch::default() };
            tokio::join!(insist(&one, events), insist(&two, links));
        }
        assert!(db.store.linkable(None, 10).await.unwrap().is_empty());
        assert!(db.rows().await.events.values().all(|event| event.state == "applied"));
    }

    async fn workers_that_poll_at_once_never_take_the_same_event(db) {
        for n in 0..20 {
            db.set_aside(event(&format!("e{n}"), 1), crate::domain::EventState::Retrying, 1, Some(1)).await;
        }
        let take = || db.store.take_due(at(1), at(100), 10);
        let (one, two, three) = tokio::join!(take(), take(), take());
        let mut ids: Vec<_> = [one, two, three].into_iter().flat_map(Result::unwrap).map(|event| event.id).collect();
        // Skipping what another one holds, the three may leave some for the next poll.
        ids.extend(take().await.unwrap().into_iter().map(|event| event.id));
        ids.extend(take().await.unwrap().into_iter().map(|event| event.id));
        let taken = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!((taken, ids.len()), (20, 20));
    }

    async fn a_commit_that_gets_no_answer_is_given_up_and_leaves_nothing_behind(db) {
        let super::database::Raw::Pg(pool) = &db.raw else { return };
        let name: (String,) = sqlx::query_as("select current_database()::text").fetch_one(pool).await.unwrap();
        let server = std::env::var("FINHOOK_TEST_DATABASE_URL").unwrap();
        let url = format!("{}/{}", server.rsplit_once('/').unwrap().0, name.0);
        let mut store = Postgres::open(&url.into(), 1, db.options.clone()).unwrap();
        store.commit_timeout = Duration::from_millis(300);
        let batch = Batch {
            events: vec![db.archive.arriving(event("e1", 1).claiming("u1", Rank::Payload), false)],
            ..Batch::default()
        };
        let mut other = pool.begin().await.unwrap();
        sqlx::query("lock table event").execute(&mut *other).await.unwrap();
        let error = store.commit(&batch, &db.archive).await.unwrap_err();
        assert_eq!(error.trouble, StoreTrouble::Unavailable, "{error}");
        other.rollback().await.unwrap();
        // Its only connection was closed, so this needs a new one; the old transaction may hold its locks a moment longer.
        let done = loop {
            match store.commit(&batch, &db.archive).await {
                Ok(done) => break done,
                Err(error) => assert!(error.is_transient(), "{error}"),
            }
        };
        assert_eq!(done.outcomes, [crate::store::Outcome::Stored(crate::domain::EventState::Applied)]);
        store.close().await;
    }
}

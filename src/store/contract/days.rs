//! Events of a subject and of a user are found whatever day they came on, and through the indexes that begin with it.

use sqlx::AssertSqlSafe;

use super::database::{Db, Raw};
use super::{Saying, event, on_both};
use crate::domain::{Rank, UserId};
use crate::store::EventFilter;
use crate::store::postgres::statements as on_postgres;
use crate::store::sqlite::statements as on_sqlite;

const DAY: i64 = 86_400;

/// Days after the tests' beginning with events in them; other days have none.
const DAYS: [i64; 5] = [0, 1, 2, 40, 400];

/// One event about `c1` and one about `c2` on each day; one in two names its user.
async fn on_all_days(db: &Db) {
    for (number, day) in DAYS.into_iter().enumerate() {
        for (subject, user) in [("c1", "u1"), ("c2", "u2")] {
            let event = event(&format!("{subject}-{number}"), 1).about(subject).received(day * DAY);
            db.take([if number % 2 == 0 { event.claiming(user, Rank::Payload) } else { event }]).await;
        }
    }
}

impl Db {
    async fn subject(&self, subject: &str) -> usize {
        let filter = EventFilter { subject: Some(subject.into()), limit: 100, ..EventFilter::default() };
        let counted = self.store.events_count(&filter).await.unwrap();
        let listed = self.store.events(&filter).await.unwrap();
        assert!(listed.iter().all(|event| event.subject.as_deref() == Some(subject)));
        assert_eq!(listed.len() as u64, counted);
        listed.len()
    }

    /// How the database would look for events, without blanks.
    async fn plan(&self, condition_on: [&str; 2], condition: &str) -> String {
        let [postgres, sqlite] = condition_on.map(|days| format!("select id from event where {condition} and {days}"));
        match &self.raw {
            Raw::Pg(pool) => {
                let mut connection = pool.acquire().await.unwrap();
                // So few rows are read faster without any index.
                sqlx::query("set enable_seqscan = off").execute(&mut *connection).await.unwrap();
                let explain = AssertSqlSafe(format!("explain {postgres}"));
                let lines: Vec<(String,)> = sqlx::query_as(explain).fetch_all(&mut *connection).await.unwrap();
                lines.into_iter().map(|(line,)| line.replace(' ', "") + "\n").collect()
            }
            Raw::Lite(pool) => {
                let explain = AssertSqlSafe(format!("explain query plan {sqlite}"));
                let lines: Vec<(i64, i64, i64, String)> = sqlx::query_as(explain).fetch_all(pool).await.unwrap();
                lines.into_iter().map(|(_, _, _, line)| line.replace(' ', "") + "\n").collect()
            }
        }
    }
}

on_both! {
    async fn the_events_of_a_subject_are_found_whatever_day_they_came_on(db) {
        on_all_days(&db).await;
        assert_eq!((db.subject("c1").await, db.subject("c2").await, db.subject("c3").await), (5, 5, 0));
    }

    async fn a_user_is_forgotten_with_the_events_of_all_days(db) {
        on_all_days(&db).await;
        let counted = db.store.forget_preview(&UserId("u1".into())).await.unwrap();
        assert_eq!(counted.event, 5);
        db.forget("u1").await;
        assert_eq!((db.subject("c1").await, db.subject("c2").await), (0, 5));
    }

    async fn a_look_up_goes_through_the_index_that_begins_with_the_day(db) {
        on_all_days(&db).await;
        let days = [on_postgres::SUBJECT_DAYS, on_sqlite::SUBJECT_DAYS];
        let plan = db.plan(days, "subject = 'c1'").await;
        assert!(plan.contains("event_subject") && plan.contains("subject="), "{plan}");
        let days = [on_postgres::USER_DAYS, on_sqlite::USER_DAYS];
        let plan = db.plan(days, "user_mark = ''").await;
        assert!(plan.contains("event_user_mark") && plan.contains("user_mark="), "{plan}");
    }
}

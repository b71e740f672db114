//! The audit trail: written, listed, found again by whom it is about.

use super::{at, on_both};
use crate::domain::UserId;
use crate::store::audit::{About, Act, AuditEntry, AuditFilter};

fn about_user(act: Act, user: &str) -> AuditEntry {
    AuditEntry::new("os:ada", act).about(About::User(UserId(user.into()))).because(Some("case 7".into()))
}

on_both! {
    async fn entries_are_listed_newest_first_by_pages_and_by_every_filter(db) {
        db.store.audit(&about_user(Act::Reveal, "u1")).await.unwrap();
        db.store.audit(&about_user(Act::Link, "u2").saying(&serde_json::json!({ "accounts": 3 }))).await.unwrap();
        let discarded = AuditEntry::new("ops:1a2b3c4d", Act::Discard).about(About::Thing("event 1".into()));
        db.store.audit(&discarded).await.unwrap();
        let list = async |filter: AuditFilter| {
            db.store.audits(&AuditFilter { limit: 2, ..filter }).await.unwrap()
        };
        let page = list(AuditFilter::default()).await;
        assert_eq!(page.iter().map(|row| row.act.as_str()).collect::<Vec<_>>(), ["discard", "link"]);
        assert_eq!((page[1].target.as_deref(), page[1].reason.as_deref()), (Some("user u2"), Some("case 7")));
        assert_eq!((page[1].detail.as_deref(), page[1].at), (Some(r#"{"accounts":3}"#), at(5_000)));
        let before = AuditFilter { before: Some(page[1].id), ..AuditFilter::default() };
        assert_eq!(list(before).await[0].act, "reveal");
        let user = Some(About::User(UserId("u1".into())));
        let filters = [
            AuditFilter { act: Some("reveal".into()), ..AuditFilter::default() },
            AuditFilter { about: user, actor: Some("os:ada".into()), ..AuditFilter::default() },
        ];
        for filter in filters {
            let found = list(filter).await;
            assert_eq!((found.len(), found[0].target.as_deref()), (1, Some("user u1")));
        }
        let thing = Some(About::Thing("event 1".into()));
        assert_eq!(list(AuditFilter { about: thing, ..AuditFilter::default() }).await.len(), 1);
        assert!(list(AuditFilter { since: Some(at(5_001)), ..AuditFilter::default() }).await.is_empty());
        assert!(list(AuditFilter { until: Some(at(5_000)), ..AuditFilter::default() }).await.is_empty());
    }

    async fn text_that_no_column_takes_is_stored_all_the_same(db) {
        let entry = AuditEntry::new("os:a\0b", Act::Reveal).because(Some("é".repeat(5_000)));
        db.store.audit(&entry).await.unwrap();
        let row = db.store.audits(&AuditFilter { limit: 1, ..AuditFilter::default() }).await.unwrap().remove(0);
        assert_eq!((row.actor.as_str(), row.reason.unwrap().chars().count()), ("os:a\u{fffd}b", 1_000));
    }
}

//! Whose an integration is, and what follows for its accounts and for users' addresses.

use super::{Saying, at, event, link, on_both};
use crate::domain::{Email, Event, Rank, UserId};
use crate::store::Batch;

fn claim(key: &str, seconds: i64, user: &str, rank: Rank) -> Event {
    event(key, seconds).claiming(user, rank)
}

on_both! {
    async fn a_larger_rank_wins_whatever_its_clock(db) {
        db.take([claim("e1", 1, "bound", Rank::BoundUrl)]).await;
        db.take([claim("e2", 9, "payload", Rank::Payload)]).await;
        db.take([claim("e3", 9, "inferred", Rank::Inferred)]).await;
        assert_eq!(db.c1().await.owner.unwrap().user.as_str(), "bound");
        db.link([link("linked", -9)]).await;
        db.take([claim("e4", 99, "bound", Rank::BoundUrl)]).await;
        assert_eq!(db.c1().await.owner.unwrap().user.as_str(), "linked");
    }

    async fn among_equal_ranks_the_larger_clock_wins(db) {
        db.take([claim("e2", 2, "later", Rank::Payload)]).await;
        db.take([claim("e1", 1, "earlier", Rank::Payload)]).await;
        assert_eq!(db.c1().await.owner.unwrap().user.as_str(), "later");
        db.link([link("b", 5)]).await;
        db.link([link("a", 4)]).await;
        assert_eq!(db.c1().await.owner.unwrap().user.as_str(), "b");
    }

    async fn at_an_equal_clock_the_larger_user_wins(db) {
        for order in [["a", "b"], ["b", "a"]] {
            db.clear().await;
            for user in order {
                db.link([link(user, 5)]).await;
            }
            assert_eq!(db.c1().await.owner.unwrap().user.as_str(), "b");
        }
    }

    async fn every_user_whom_a_claim_names_is_created(db) {
        db.take([claim("e1", 1, "winner", Rank::BoundUrl), claim("e2", 2, "loser", Rank::Inferred)]).await;
        db.take([claim("e1", 1, "claimed by a duplicate", Rank::Inferred)]).await;
        let users: Vec<String> = db.rows().await.users.into_keys().collect();
        assert_eq!(users, ["claimed by a duplicate", "loser", "winner"]);
    }

    async fn accounts_move_with_their_integration(db) {
        db.take([claim("e1", 1, "u1", Rank::Inferred).account("a1", None).account("a2", None)]).await;
        db.link([link("u2", 2)]).await;
        assert_eq!((db.account("a1").await.user, db.account("a2").await.user), ("u2".into(), "u2".into()));
        assert!(db.store.accounts(&UserId("u1".into())).await.unwrap().is_empty());
    }

    async fn an_account_that_comes_with_the_claim_that_moves_it_is_the_new_owners(db) {
        db.take([claim("e1", 1, "u1", Rank::Inferred).account("a1", None)]).await;
        db.take([claim("e2", 2, "u2", Rank::Payload).account("a2", None)]).await;
        assert_eq!((db.account("a1").await.user, db.account("a2").await.user), ("u2".into(), "u2".into()));
    }

    async fn an_account_that_the_product_made_itself_moves_too(db) {
        db.take([claim("e1", 1, "u1", Rank::Inferred)]).await;
        db.sql(
            "insert into account (id, integration_id, user_id)
             select '018f0000-0000-7000-8000-000000000001', id, user_id from integration",
        ).await;
        db.link([link("u2", 2)]).await;
        assert_eq!(db.account("").await.user, "u2");
    }

    async fn a_row_that_the_product_inserted_counts_as_an_explicit_link(db) {
        db.sql(
            r#"insert into "user" (id, external_id) values ('018f0000-0000-7000-8000-000000000001', 'product');
               insert into integration (id, service, external_id, user_id) values
               ('018f0000-0000-7000-8000-000000000002', 'unit', 'c1', '018f0000-0000-7000-8000-000000000001')"#,
        ).await;
        db.take([claim("e1", 9, "bound", Rank::BoundUrl).account("a1", None)]).await;
        assert_eq!(db.c1().await.owner.unwrap().user.as_str(), "product");
        assert_eq!(db.account("a1").await.user, "product");
        db.link([link("linked", 1)]).await;
        assert_eq!(db.c1().await.owner.unwrap().user.as_str(), "linked");
    }

    async fn users_that_may_not_be_created_leave_their_claims_out(db) {
        let store = db.without_creating_users().await;
        let take = async |event: Event| {
            let batch = Batch { events: vec![db.archive.arriving(event, false)], ..Batch::default() };
            store.commit(&batch, &db.archive).await.unwrap()
        };
        take(claim("e1", 1, "u1", Rank::Payload)).await;
        assert_eq!(db.state("e1").await.0, "unlinked");
        assert!(store.user(&UserId("u1".into())).await.unwrap().is_none());
        db.sql(r#"insert into "user" (id, external_id) values ('018f0000-0000-7000-8000-000000000001', 'u1')"#).await;
        take(claim("e2", 2, "u1", Rank::Payload)).await;
        assert_eq!((db.state("e1").await.0, db.state("e2").await.0), ("applied", "applied"));
        assert_eq!(db.c1().await.owner.unwrap().clock.at, at(2));
        store.close().await;
    }

    async fn a_claim_left_out_counts_once_its_unlinked_event_applies(db) {
        let store = db.without_creating_users().await;
        let early = Batch {
            events: vec![db.archive.arriving(claim("e1", 1, "u1", Rank::BoundUrl), false)],
            ..Batch::default()
        };
        store.commit(&early, &db.archive).await.unwrap();
        db.sql(r#"insert into "user" (id, external_id) values ('018f0000-0000-7000-8000-000000000001', 'u1')"#).await;
        db.take([claim("e2", 2, "u2", Rank::Inferred)]).await;
        assert_eq!(db.c1().await.owner.unwrap().user.as_str(), "u1");
        store.close().await;
    }

    async fn a_soft_deleted_user_is_never_revived(db) {
        db.take([claim("e1", 1, "u1", Rank::Payload)]).await;
        db.sql(r#"update "user" set deleted_at = created_at"#).await;
        db.take([claim("e2", 2, "u1", Rank::Payload).email("ada@example.com").account("a1", None)]).await;
        db.link([link("u1", 3)]).await;
        assert!(db.user("u1").await.deleted);
        assert_eq!(db.rows().await.users.len(), 1);
    }

    async fn a_user_has_the_address_of_the_largest_clock_among_the_integrations_they_own(db) {
        db.take([claim("e1", 5, "u1", Rank::Payload).email("five@example.com")]).await;
        db.take([claim("e2", 3, "u1", Rank::Payload).about("c2").email("three@example.com")]).await;
        assert_eq!(db.user("u1").await.email.as_deref(), Some("five@example.com"));
        db.take([claim("e3", 7, "u1", Rank::Payload).about("c2").email("seven@example.com")]).await;
        let user = db.user("u1").await;
        assert_eq!((user.email.as_deref(), user.verified), (Some("seven@example.com"), Some(true)));
        assert_eq!(user.clock.unwrap().at, at(7));
    }

    async fn addresses_follow_a_change_of_owner(db) {
        db.take([claim("e1", 5, "u1", Rank::Payload).email("five@example.com")]).await;
        db.take([claim("e2", 3, "u1", Rank::Payload).about("c2").email("three@example.com")]).await;
        db.link([link("u2", 9)]).await;
        assert_eq!(db.user("u1").await.email.as_deref(), Some("three@example.com"));
        assert_eq!(db.user("u2").await.email.as_deref(), Some("five@example.com"));
        let mut other = link("u2", 9);
        other.subject = "c2".into();
        db.link([other]).await;
        let user = db.user("u1").await;
        assert_eq!((user.email, user.verified, user.clock), (None, None, None));
    }

    async fn at_an_equal_clock_the_larger_address_wins(db) {
        for order in [["a@example.com", "b@example.com"], ["b@example.com", "a@example.com"]] {
            db.clear().await;
            for address in order {
                let mut link = link("u1", 5);
                link.email = Email::parse(address, false);
                db.link([link]).await;
            }
            let user = db.user("u1").await;
            assert_eq!((user.email.as_deref(), user.verified), (Some("b@example.com"), Some(false)));
        }
    }

    async fn an_address_that_the_product_wrote_is_never_touched(db) {
        db.sql(
            r#"insert into "user" (id, external_id, email) values
               ('018f0000-0000-7000-8000-000000000001', 'u1', 'own@example.com')"#,
        ).await;
        db.take([claim("e1", 5, "u1", Rank::Payload).email("five@example.com")]).await;
        assert_eq!(db.user("u1").await.email.as_deref(), Some("own@example.com"));
        db.take([claim("e2", 5, "u2", Rank::Payload).about("c2").email("two@example.com")]).await;
        db.sql(r#"update "user" set email = 'changed@example.com' where external_id = 'u2'"#).await;
        db.take([claim("e3", 6, "u2", Rank::Payload).about("c2").email("three@example.com")]).await;
        assert_eq!(db.user("u2").await.email.as_deref(), Some("changed@example.com"));
    }

    async fn a_user_and_an_integration_are_shown_to_a_reader(db) {
        assert!(db.store.user(&UserId("u1".into())).await.unwrap().is_none());
        assert!(db.store.integration("unit", "c1").await.unwrap().is_none());
        db.take([claim("e1", 5, "u1", Rank::Payload).email("five@example.com")]).await;
        let user = db.store.user(&UserId("u1".into())).await.unwrap().unwrap();
        assert_eq!((user.email.as_deref(), user.email_verified), (Some("five@example.com"), Some(true)));
        let integration = db.store.integration("unit", "c1").await.unwrap().unwrap();
        assert_eq!((integration.user.as_str(), integration.status.as_str()), ("u1", "active"));
        db.sql(r#"update "user" set email = 'own@example.com'"#).await;
        let user = db.store.user(&UserId("u1".into())).await.unwrap().unwrap();
        assert_eq!((user.email.as_deref(), user.email_verified), (Some("own@example.com"), None));
    }
}

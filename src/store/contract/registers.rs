//! Status, closing, account and observed_at: the same rows in every order.

use super::database::Db;
use super::{Saying, at, event, link, on_both, token};
use crate::domain::{Event, Rank, StatusChange};

fn owned(key: &str, seconds: i64) -> Event {
    event(key, seconds).claiming("u1", Rank::Payload)
}

/// Commits the events one by one in every order (of at most four); all orders end in the same rows, which are left.
async fn in_every_order(db: &Db, events: &[Event]) {
    let mut rows = None;
    for order in orders(events.len()) {
        db.clear().await;
        for position in &order {
            db.take([events[*position].clone()]).await;
        }
        let now = db.rows().await;
        match &rows {
            None => rows = Some(now),
            Some(rows) => assert_eq!(&now, rows, "order {order:?}"),
        }
    }
}

fn orders(count: usize) -> Vec<Vec<usize>> {
    if count == 0 {
        return vec![Vec::new()];
    }
    let shorter = orders(count - 1);
    let inserted = |order: &Vec<usize>, place: usize| {
        let mut order = order.clone();
        order.insert(place, count - 1);
        order
    };
    shorter.iter().flat_map(|order| (0..count).map(|place| inserted(order, place)).collect::<Vec<_>>()).collect()
}

on_both! {
    async fn the_later_status_wins_in_every_order(db) {
        in_every_order(&db, &[
            owned("e1", 1).status(StatusChange::open("active")),
            owned("e2", 2).status(StatusChange::closing("archived").because(Some("Deceased"))),
            owned("e3", 3).status(StatusChange::open("locked")),
        ]).await;
        let row = db.c1().await;
        assert_eq!((row.status.status.as_str(), row.status.reason, row.status.deleted_at), ("locked", None, None));
        assert_eq!(row.closing.unwrap().status, "archived");
    }

    async fn at_the_same_time_the_longer_key_wins_and_then_the_larger(db) {
        in_every_order(&db, &[
            owned("9", 1).status(StatusChange::open("first")),
            owned("10", 1).status(StatusChange::open("second")),
            owned("11", 1).status(StatusChange::open("third")),
        ]).await;
        assert_eq!(db.c1().await.status.status, "third");
    }

    async fn a_touch_makes_the_row_and_leaves_its_status(db) {
        in_every_order(&db, &[owned("e9", 9), owned("e1", 1).status(StatusChange::open("error"))]).await;
        let row = db.c1().await;
        assert_eq!((row.status.status.as_str(), row.observed_at), ("error", Some(at(9))));
        db.clear().await;
        db.take([owned("e9", 9).account("a1", None)]).await;
        let (integration, account) = (db.c1().await.status, db.account("a1").await.status);
        assert_eq!((integration.status.as_str(), integration.clock), ("active", None));
        assert_eq!((account.status.as_str(), account.clock), ("open", None));
    }

    async fn a_final_status_beats_any_clock_and_sets_deleted_at_to_its_own_time(db) {
        in_every_order(&db, &[
            owned("e1", 1).status(StatusChange::closing_for_good("revoked")),
            owned("e2", 2).status(StatusChange::open("active")),
            owned("e3", 3).status(StatusChange::closing("archived")),
        ]).await;
        let row = db.c1().await;
        assert_eq!((row.status.status.as_str(), row.status.deleted_at), ("revoked", Some(at(1))));
        assert_eq!(row.closing.unwrap().status, "revoked");
    }

    async fn a_status_that_reopens_clears_deleted_at(db) {
        in_every_order(&db, &[
            owned("e1", 1).account("a1", Some(StatusChange::closing("closed").because(Some("Fraud")))),
            owned("e2", 2).account("a1", Some(StatusChange::open("open"))),
        ]).await;
        let status = db.account("a1").await.status;
        assert_eq!((status.status.as_str(), status.reason, status.deleted_at), ("open", None, None));
    }

    async fn a_closing_takes_the_accounts_that_are_older_with_it(db) {
        in_every_order(&db, &[
            owned("e1", 1).account("older", Some(StatusChange::open("frozen"))).account("touched", None),
            owned("e2", 2).status(StatusChange::closing("archived")),
            owned("e3", 3).account("younger", Some(StatusChange::open("open"))),
            owned("e4", 4).status(StatusChange::open("active")),
        ]).await;
        for id in ["older", "touched"] {
            let status = db.account(id).await.status;
            assert_eq!((status.status.as_str(), status.reason.as_deref()), ("closed", Some("archived")), "{id}");
            assert_eq!(status.deleted_at, Some(at(2)));
        }
        assert_eq!(db.account("younger").await.status.status, "open");
        assert_eq!(db.c1().await.status.status, "active");
    }

    async fn a_final_closing_takes_every_account_with_it(db) {
        in_every_order(&db, &[
            owned("e1", 1).status(StatusChange::closing_for_good("deleted")),
            owned("e2", 2).account("a1", Some(StatusChange::open("open"))),
            owned("e3", 3).status(StatusChange::closing("archived")),
        ]).await;
        let status = db.account("a1").await.status;
        assert_eq!((status.status.as_str(), status.reason.as_deref()), ("closed", Some("deleted")));
        assert_eq!(status.deleted_at, Some(at(1)));
    }

    async fn observed_at_is_the_newest_event_time_of_all(db) {
        in_every_order(&db, &[owned("e1", 7).account("a1", None), owned("e2", 3).account("a1", None)]).await;
        assert_eq!((db.c1().await.observed_at, db.account("a1").await.observed_at), (Some(at(7)), Some(at(7))));
    }

    async fn sealed_columns_open_with_their_place_and_are_sealed_once(db) {
        db.take([owned("e1", 1).account("a1", None)]).await;
        let sealed = "select external_id, baas_id from account";
        let before: Vec<(String, String)> = db.fetch(sealed).await;
        assert!(before[0].0.starts_with("fh1.") && before[0].1.starts_with("fh1."));
        db.take([owned("e2", 2).account("a1", Some(StatusChange::open("frozen")))]).await;
        let after: Vec<(String, String)> = db.fetch(sealed).await;
        assert_eq!(before, after, "a column that is equal by its index is not written again");
        let account = db.account("a1").await;
        assert_eq!((account.baas_id.as_deref(), account.status.status.as_str()), (Some("a1"), "frozen"));
    }

    async fn the_same_account_id_under_two_customers_is_two_rows(db) {
        db.take([owned("e1", 1).account("a1", None), owned("e2", 1).about("c2").account("a1", None)]).await;
        assert_eq!(db.rows().await.accounts.len(), 2);
        let views = db.store.accounts(&crate::domain::UserId("u1".into())).await.unwrap();
        assert_eq!(views.len(), 2);
        assert_eq!(views[0].external_id_index, views[1].external_id_index);
    }

    async fn a_token_is_sealed_and_the_later_link_says_which_it_is(db) {
        let links = [("old", 1), ("new", 2)].map(|(text, seconds)| {
            let mut link = link("u1", seconds);
            link.authorization_id = token(text);
            link
        });
        let [old, new] = links;
        db.link([new]).await;
        let sealed: Vec<(String,)> = db.fetch("select authorization_id from integration").await;
        assert!(sealed[0].0.starts_with("fh1."));
        db.link([old]).await;
        db.link([link("u1", 3)]).await;
        assert_eq!(db.c1().await.token.as_deref(), Some("new"));
        let after: Vec<(String,)> = db.fetch("select authorization_id from integration").await;
        assert_eq!(sealed, after);
    }

    async fn closed_accounts_are_shown_with_their_deleted_at(db) {
        db.take([owned("e1", 1).account("a1", Some(StatusChange::closing("closed")))]).await;
        let views = db.store.accounts(&crate::domain::UserId("u1".into())).await.unwrap();
        assert_eq!((views[0].status.as_str(), views[0].deleted_at), ("closed", Some(at(1))));
        assert_eq!((views[0].service.as_str(), views[0].integration_external_id.as_str()), ("unit", "c1"));
    }
}

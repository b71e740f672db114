//! What the product tells of users, and what it reads of their integrations.

use super::{Saying, event, link, on_both};
use crate::domain::{Email, UserId};
use crate::store::EventFilter;

fn mail(address: &str) -> Email {
    Email::parse(address, false).unwrap()
}

on_both! {
    async fn an_address_of_the_product_stays_whatever_events_say(db) {
        let user = UserId("u1".into());
        assert!(db.store.put_user(&user, None).await.unwrap(), "new");
        assert!(!db.store.put_user(&user, None).await.unwrap());
        db.link([link("u1", 1)]).await;
        db.take([event("e1", 2).email("ada@provider.example")]).await;
        let held = db.store.user(&user).await.unwrap().unwrap();
        assert_eq!((held.email.as_deref(), held.email_by_product), (Some("ada@provider.example"), false));
        for address in ["ada@provider.example", "ada@product.example"] {
            assert!(!db.store.put_user(&user, Some(&mail(address))).await.unwrap());
            db.take([event(&format!("e-{address}"), 3).email("ada@later.example")]).await;
            let held = db.store.user(&user).await.unwrap().unwrap();
            assert_eq!((held.email.as_deref(), held.email_by_product, held.email_verified), (Some(address), true, None));
        }
    }

    async fn a_new_user_with_an_address_has_it_from_the_product(db) {
        let user = UserId("u1".into());
        assert!(db.store.put_user(&user, Some(&mail("ada@product.example"))).await.unwrap());
        db.link([link("u1", 1)]).await;
        db.take([event("e1", 2).email("ada@provider.example")]).await;
        assert_eq!(db.store.user(&user).await.unwrap().unwrap().email.as_deref(), Some("ada@product.example"));
    }

    async fn a_users_integrations_are_those_that_they_own_now(db) {
        db.link([link("u1", 1)]).await;
        let of = async |user: &str| db.store.integrations(&UserId(user.into())).await.unwrap();
        let [held] = &of("u1").await[..] else { panic!("one integration") };
        assert!(held.linked && held.user.as_str() == "u1" && held.authorization_index.is_none());
        db.link([link("u2", 2)]).await;
        assert_eq!((of("u1").await.len(), of("u2").await.len(), of("nobody").await.len()), (0, 1, 0));
    }

    async fn events_are_found_by_their_ids(db) {
        db.take([event("e1", 1), event("e2", 2), event("e3", 3)]).await;
        let all = db.store.events(&EventFilter { limit: 10, ..EventFilter::default() }).await.unwrap();
        let ids: Vec<_> = all.iter().take(2).map(|row| row.id).collect();
        let filter = EventFilter { ids: Some(ids.clone()), limit: 10, ..EventFilter::default() };
        let found: Vec<_> = db.store.events(&filter).await.unwrap().iter().map(|row| row.id).collect();
        assert_eq!((found, db.store.events_count(&filter).await.unwrap()), (ids, 2));
        let none = EventFilter { ids: Some(Vec::new()), limit: 10, ..EventFilter::default() };
        assert_eq!(db.store.events_count(&none).await.unwrap(), 0);
    }
}

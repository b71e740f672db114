//! What the database knows of keys: entered once, and by whom a wrong one is noticed.

use std::sync::Arc;

use secrecy::SecretString;

use super::{at, on_both};
use crate::crypto::{BlindIndex, KeyRing};
use crate::store::Vault;
use crate::store::keys::{Misfit, Purpose, Sighting, compare, recognise};

const ONE: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const TWO: &str = "AQECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

fn vault(ring: &str, index: &str) -> Vault {
    let ring = KeyRing::parse(&SecretString::from(ring.to_owned())).unwrap();
    Vault { ring, index: BlindIndex::parse(&SecretString::from(index.to_owned())).unwrap(), theirs: None }
}

on_both! {
    async fn keys_are_entered_once_and_others_under_their_ids_are_told_apart(db) {
        let right = vault(&format!("1:{ONE}"), ONE);
        assert!(db.store.keys().known_keys().await.unwrap().is_empty());
        for _ in 0..2 {
            assert_eq!(recognise(db.store.keys(), &right).await.unwrap(), Ok(()));
        }
        let known = db.store.keys().known_keys().await.unwrap();
        assert_eq!(known.iter().map(|key| (key.purpose, key.id)).collect::<Vec<_>>(), [(Purpose::Index, 0), (Purpose::Ring, 1)]);
        let wrong = [
            (vault(&format!("1:{TWO}"), ONE), Misfit::Ring(1)),
            (vault(&format!("2:{ONE},1:{TWO}"), ONE), Misfit::Ring(1)),
            (vault(&format!("1:{ONE}"), TWO), Misfit::Index),
        ];
        for (vault, misfit) in wrong {
            assert_eq!(recognise(db.store.keys(), &vault).await.unwrap(), Err(misfit));
        }
        assert_eq!(db.store.keys().known_keys().await.unwrap().len(), 2, "nothing of a wrong ring is entered");
        let grown = vault(&format!("1:{ONE},2:{TWO}"), ONE);
        assert_eq!(recognise(db.store.keys(), &grown).await.unwrap(), Ok(()));
        // A ring without the key is not wrong: it only opens less.
        assert_eq!(recognise(db.store.keys(), &vault(&format!("2:{TWO}"), ONE)).await.unwrap(), Ok(()));
    }

    async fn of_two_processes_that_enter_different_keys_at_once_one_is_told(db) {
        let vaults = [ONE, TWO].map(|key| Arc::new(vault(&format!("1:{key}"), ONE)));
        let [one, two] = vaults.map(|vault| {
            let db = db.clone();
            tokio::spawn(async move { recognise(db.store.keys(), &vault).await.unwrap() })
        });
        let outcomes = [one.await.unwrap(), two.await.unwrap()];
        assert!(outcomes.contains(&Ok(())) && outcomes.contains(&Err(Misfit::Ring(1))), "{outcomes:?}");
    }

    async fn the_switch_of_the_primary_is_noted_once_and_a_restart_does_not_move_it(db) {
        let book = db.store.keys();
        recognise(book, &vault(&format!("1:{ONE},2:{TWO}"), ONE)).await.unwrap().unwrap();
        let primary_at = async || {
            let known = db.store.keys().known_keys().await.unwrap();
            known.into_iter().filter(|key| key.purpose == Purpose::Ring).map(|key| key.primary_at).collect::<Vec<_>>()
        };
        let now = |seconds: i64| db.options.clock.set(at(seconds));
        for (second, id) in [(10, 1), (20, 1), (30, 2), (40, 2)] {
            now(second);
            book.note_primary(id).await.unwrap();
        }
        assert_eq!(primary_at().await, [Some(at(10)), Some(at(30))]);
        now(50);
        book.note_primary(1).await.unwrap();
        assert_eq!(primary_at().await, [Some(at(50)), Some(at(30))]);
    }

    async fn a_retired_key_may_open_and_not_seal(db) {
        let book = db.store.keys();
        let (before, after) = (vault(&format!("1:{ONE},2:{TWO}"), ONE), vault(&format!("2:{TWO},1:{ONE}"), ONE));
        recognise(book, &before).await.unwrap().unwrap();
        book.note_retired(1).await.unwrap();
        let known = book.known_keys().await.unwrap();
        assert_eq!((compare(&known, &before), compare(&known, &after)), (Err(Misfit::Retired(1)), Ok(())));
    }

    async fn the_newest_delivery_of_each_queue_and_key_is_known(db) {
        let seen = |queue: &str, key, seconds| Sighting { queue: queue.to_owned(), key, received_at: at(seconds) };
        let book = db.store.keys();
        book.note_sightings(&[]).await.unwrap();
        book.note_sightings(&[seen("q", 1, 5), seen("q", 2, 6), seen("r", 1, 7)]).await.unwrap();
        book.note_sightings(&[seen("q", 1, 4), seen("q", 2, 9)]).await.unwrap();
        assert_eq!(book.sightings().await.unwrap(), [seen("q", 1, 5), seen("q", 2, 9), seen("r", 1, 7)]);
    }
}

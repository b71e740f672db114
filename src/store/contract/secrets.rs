//! When inbound secrets were used last.

use super::{at, on_both};
use crate::store::SecretUse;

fn used(provider: &str, fingerprint: &str, seconds: i64) -> SecretUse {
    SecretUse { provider: provider.into(), fingerprint: fingerprint.into(), last_verified_at: at(seconds) }
}

on_both! {
    async fn a_secret_keeps_the_later_time_of_its_use_whoever_says_it_first(db) {
        db.store.note_secrets(&[used("unit", "b", 5), used("unit", "a", 7), used("auth0", "a", 1)]).await.unwrap();
        db.store.note_secrets(&[used("unit", "b", 9), used("unit", "a", 6)]).await.unwrap();
        db.store.note_secrets(&[]).await.unwrap();
        let told = db.store.secrets_used().await.unwrap();
        assert_eq!(told, [used("auth0", "a", 1), used("unit", "a", 7), used("unit", "b", 9)]);
    }
}

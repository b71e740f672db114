//! Where bytes from outside enter finhook, on any bytes at all: what `fuzz/` runs for hours runs here for a moment.

#[path = "../fuzz/entry_points.rs"]
mod entry_points;

use proptest::collection::vec;
use proptest::prelude::*;

/// What JSON, tokens and settings are made of.
const WORDS: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\\",
    "\n",
    " ",
    "null",
    "1e9",
    "\"id\"",
    "\"type\"",
    "\"data\"",
    "\"included\"",
    "\"item_id\"",
    "\"webhook_type\"",
    "\"webhook_code\"",
    "\"ITEM\"",
    "\"ERROR\"",
    "\"logs\"",
    "\"attributes\"",
    "\"account.created\"",
    "\"relationships\"",
    "\"user_id\"",
    "\"_id\"",
    "\"$oid\"",
    "fh1.",
    "eyJhbGciOiJFUzI1NiIsImtpZCI6ImEifQ.e30.AAAA",
    "workers = 3\n",
    "http_bind = ",
    "é",
    "\u{0}",
    "\u{feff}",
];

/// Bytes of any kind, and text that looks a little like what is expected.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let text = vec(prop::sample::select(WORDS), 0..60).prop_map(|words| words.concat().into_bytes());
    let flagged = (0u8..8, text.clone()).prop_map(|(flags, text)| [vec![flags], text].concat());
    prop_oneof![vec(any::<u8>(), 0..300), text, flagged]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_proof_is_never_made_of_nothing(data in bytes()) {
        for provider in ["plaid", "unit", "synapse", "auth0"] {
            entry_points::verify(provider, &data);
        }
    }

    #[test]
    fn anything_is_read_into_events_that_read_again_are_the_same(data in bytes()) {
        for provider in ["plaid", "unit", "synapse", "auth0"] {
            entry_points::events(provider, &data);
        }
    }

    #[test]
    fn nothing_opens_but_what_was_sealed_for_its_place(data in bytes()) {
        entry_points::sealed(&data);
    }

    #[test]
    fn a_url_token_is_never_made_of_nothing(data in bytes()) {
        entry_points::url_token(&data);
    }

    #[test]
    fn any_configuration_is_taken_or_refused_in_words(data in bytes()) {
        entry_points::configuration(&data);
    }
}

//! Where bytes from outside enter finhook, on any bytes at all: what `fuzz/` runs for hours runs here for a moment, or for
//! as long as `PROPTEST_CASES` says.

#[path = "../fuzz/entry_points.rs"]
mod entry_points;

use std::sync::LazyLock;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

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

/// Every body of the fixtures, with its provider.
static BODIES: LazyLock<Vec<(String, Vec<u8>)>> = LazyLock::new(|| {
    let cases = finhook::fixtures::all().unwrap();
    let bodies = |case: finhook::fixtures::Case| {
        let provider = case.provider;
        case.bodies.into_iter().map(move |body| (provider.clone(), body.bytes.to_vec()))
    };
    cases.into_iter().flat_map(bodies).collect()
});

/// One thing that happens to a body on its way.
#[derive(Debug, Clone)]
enum Damage {
    Replaced(Index, u8),
    CutOut(Index, Index),
    Doubled(Index, Index),
    Word(Index, &'static str),
    From(Index, Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    let index = any::<Index>;
    prop_oneof![
        (index(), any::<u8>()).prop_map(|(at, byte)| Damage::Replaced(at, byte)),
        (index(), index()).prop_map(|(from, to)| Damage::CutOut(from, to)),
        (index(), index()).prop_map(|(from, to)| Damage::Doubled(from, to)),
        (index(), prop::sample::select(WORDS)).prop_map(|(at, word)| Damage::Word(at, word)),
        (index(), index()).prop_map(|(other, at)| Damage::From(other, at)),
    ]
}

/// A fixture's body after some of that, and its provider.
fn damaged() -> impl Strategy<Value = (&'static str, Vec<u8>)> {
    (any::<Index>(), vec(damage(), 0..5)).prop_map(|(which, damages)| {
        let (provider, body) = which.get(&BODIES);
        let mut body = body.clone();
        for damage in damages {
            // One more place than there are bytes, so that there is one in an empty body too.
            let place = |at: &Index, body: &[u8]| at.index(body.len() + 1);
            match damage {
                Damage::Replaced(at, byte) => {
                    let at = place(&at, &body);
                    body.splice(at..(at + 1).min(body.len()), [byte]);
                }
                Damage::CutOut(from, to) | Damage::Doubled(from, to) => {
                    let (from, to) = (place(&from, &body), place(&to, &body));
                    let range = from.min(to)..from.max(to);
                    let again = matches!(damage, Damage::Doubled(..)).then(|| body[range.clone()].repeat(2));
                    body.splice(range, again.unwrap_or_default());
                }
                Damage::Word(at, word) => {
                    let at = place(&at, &body);
                    body.splice(at..at, word.bytes());
                }
                Damage::From(other, at) => {
                    let (_, other) = other.get(&BODIES);
                    body.truncate(place(&at, &body));
                    body.extend_from_slice(&other[place(&at, other)..]);
                }
            }
        }
        (provider.as_str(), body)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

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
    fn a_damaged_fixture_is_read_into_events_that_read_again_are_the_same((provider, body) in damaged(), flags in 0u8..8) {
        entry_points::events(provider, &[&[flags], &body[..]].concat());
    }

    #[test]
    fn a_proof_beside_a_damaged_fixture_is_no_proof((provider, body) in damaged(), proof in "[ -~]{0,90}") {
        entry_points::verify(provider, &[proof.as_bytes(), b"\n", &body].concat());
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

//! Keys from the outside: where they come from, who notices a wrong one, and how one is changed.

use finhook::crypto::{KeyRing, fresh_key};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::app::SECRETS;
use crate::process::Finhook;

fn entry(id: u32) -> String {
    KeyRing::generate_entry(id).expose_secret().to_owned()
}

/// A folder of its own, with keys that are given and can be changed.
fn embedded(ring: &str, index: &str) -> Finhook {
    Finhook::new().with("FINHOOK_KEYS", ring).with("FINHOOK_INDEX_KEY", index)
}

/// The same folder with other keys.
fn with_keys(finhook: &Finhook, ring: &str, index: &str) -> Finhook {
    let data = finhook.folder().join("finhook-data").display().to_string();
    embedded(ring, index).with("FINHOOK_DATA_DIR", data)
}

fn link(finhook: &Finhook) {
    let token = finhook.file("token", "access-token-of-c1");
    let token = token.display().to_string();
    finhook.run(&["link", "unit", "c1", "--user", "u1", "--authorization-id-file", &token]).exits(0);
}

/// What `keys status` says of a key.
fn status(finhook: &Finhook, key: u32) -> Value {
    let lines = finhook.run(&["keys", "status", "--json"]).exits(0).json_lines();
    lines.into_iter().find(|line| line["key"] == key).unwrap_or(Value::Null)
}

#[test]
fn the_key_that_seals_is_changed_step_by_step() {
    let ([one, two], index) = ([1, 2].map(entry), fresh_key().expose_secret().to_owned());
    let first = embedded(&one, &index);
    link(&first);
    let sealed = |line: &Value| line["sealed"]["integration.authorization_id"].as_u64();
    assert_eq!((sealed(&status(&first, 1)), status(&first, 1)["seals"].clone()), (Some(1), json!(true)));

    let added = with_keys(&first, &format!("{one},{two}"), &index);
    let refused = added.run(&["keys", "retire", "1"]).exits(1);
    assert!(refused.err.contains("key 1 stands first in FINHOOK_KEYS"), "{}", refused.err);
    added.run(&["keys", "retire", "9"]).exits(64);

    let moved = with_keys(&first, &format!("{two},{one}"), &index);
    let refused = moved.run(&["keys", "retire", "1", "--json"]).exits(1).json();
    assert_eq!(refused["retired"], false);
    assert!(refused["needed_by"][0].as_str().unwrap().contains("integration.authorization_id"), "{refused}");

    let said = moved.run(&["keys", "rotate", "--json", "--reason", "yearly"]).exits(0).json_lines();
    let summary = said.last().unwrap();
    assert_eq!((&summary["resealed"], &summary["primary"], &summary["left"]), (&json!(1), &json!(2), &json!([])));
    let again = moved.run(&["keys", "rotate"]).exits(0);
    assert!(again.out.contains("0 value(s) sealed anew under key 2, 0 left"), "{}", again.out);
    assert_eq!((sealed(&status(&moved, 1)), sealed(&status(&moved, 2))), (Some(0), Some(1)));
    assert_eq!(moved.run(&["keys", "retire", "1", "--json"]).exits(0).json()["retired"], true);

    let back = with_keys(&first, &format!("{one},{two}"), &index).run(&["keys", "status"]).exits(64);
    assert!(back.err.contains("key 1 stands first, but it was retired"), "{}", back.err);
    let last = with_keys(&first, &two, &index);
    assert_eq!((status(&last, 1)["in_ring"].clone(), status(&last, 2)["seals"].clone()), (json!(false), json!(true)));
    assert!(status(&last, 1)["retired_at"].is_string());
    let acts: Vec<String> = last
        .run(&["audit", "list", "--json"])
        .exits(0)
        .json_lines()
        .iter()
        .map(|line| line["act"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(acts, ["keys.retire", "keys.rotate", "keys.rotate", "link"]);
}

#[test]
fn a_wrong_key_under_a_known_id_stops_whoever_would_seal_or_index_with_it_before_anything_binds() {
    let (index, other_index) = (fresh_key().expose_secret().to_owned(), fresh_key().expose_secret().to_owned());
    let first = embedded(&entry(1), &index);
    link(&first);
    let wrong_ring = with_keys(&first, &entry(1), &index);
    let wrong_index = with_keys(&first, &first_ring(&first), &other_index);
    for (finhook, name, says) in [
        (&wrong_ring, "FINHOOK_KEYS (environment)", "key 1 is not the key that this database was sealed with"),
        (
            &wrong_index,
            "FINHOOK_INDEX_KEY (environment)",
            "is not the key that this database's accounts were indexed with",
        ),
    ] {
        for args in [&["serve"][..], &["accounts", "--user", "u1"], &["keys", "rotate"], &["events", "list"]] {
            let said = finhook.run(args).exits(64);
            assert!(said.err.contains(name) && said.err.contains(says), "{args:?}: {}", said.err);
        }
        let checked = finhook.run(&["check"]).exits(1);
        assert!(checked.out.contains(says), "{}", checked.out);
    }
    // The database is as it was for whoever has the right keys.
    with_keys(&first, &first_ring(&first), &index).run(&["accounts", "--user", "u1"]).exits(0);
}

/// The ring that a folder's command line was made with.
fn first_ring(finhook: &Finhook) -> String {
    finhook.setting("FINHOOK_KEYS")
}

#[test]
fn keys_come_from_commands_too_and_one_that_fails_stops_the_start() {
    let (ring, index) = (entry(1), fresh_key().expose_secret().to_owned());
    let finhook = Finhook::new();
    let (ring_file, index_file) = (finhook.file("ring", format!("{ring}\n")), finhook.file("index", &index));
    let finhook = finhook
        .with("FINHOOK_KEYS", format!("exec:cat '{}'", ring_file.display()))
        .with("FINHOOK_INDEX_KEY", format!("exec:cat {}", index_file.display()));
    link(&finhook);
    assert_eq!(status(&finhook, 1)["seals"], true);
    let shown = finhook.run(&["check", "--json"]).exits(0).json();
    let keys = shown["settings"].as_array().unwrap().iter().find(|it| it["name"] == "FINHOOK_KEYS").unwrap();
    assert_eq!((&keys["origin"], &keys["value"]), (&json!("exec cat"), &json!("set")));
    let finhook = finhook.with("FINHOOK_KEYS", "exec:cat /nowhere/at/all");
    let said = finhook.run(&["serve"]).exits(64);
    assert!(said.err.contains("FINHOOK_KEYS (environment): exec: cat ended with exit code 1"), "{}", said.err);
    assert!(!said.err.contains("/nowhere/at/all"), "{}", said.err);
}

#[test]
fn keys_given_by_file_are_in_no_environment_argument_or_log_and_no_core_is_left() {
    let (ring, index, urls) =
        (entry(1), fresh_key().expose_secret().to_owned(), fresh_key().expose_secret().to_owned());
    let mut secrets = vec![
        ("FINHOOK_KEYS".to_owned(), ring.clone()),
        ("FINHOOK_INDEX_KEY".to_owned(), index.clone()),
        ("FINHOOK_URL_KEYS".to_owned(), urls.clone()),
    ];
    secrets.extend(
        SECRETS
            .iter()
            .filter(|(name, _)| *name != "FINHOOK_SYNAPSE_CLIENT_ID")
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
    );
    let mut finhook = Finhook::new().with("FINHOOK_LOG", "trace").with("FINHOOK_SYNAPSE_CLIENT_ID", SECRETS[1].1);
    for (name, value) in &secrets {
        let file = finhook.file(&name.to_lowercase(), format!("{value}\n"));
        finhook = finhook.with(&format!("{name}_FILE"), file.display().to_string());
    }
    let served = finhook.serve(&[]);
    let of = |what: &str| std::fs::read(format!("/proc/{}/{what}", served.id())).unwrap();
    let (environment, arguments) = (of("environ"), of("cmdline"));
    let limits = String::from_utf8(of("limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap().to_owned();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    let (status, log) = served.terminate();
    assert!(status.success() && log.contains("serving"), "{log}");
    let checked = finhook.run(&["check"]);
    let said = [environment, arguments, log.into_bytes(), checked.out.into_bytes(), checked.err.into_bytes()];
    let (_, key) = ring.split_once(':').unwrap();
    for (name, value) in secrets.iter().map(|(name, value)| (name.as_str(), value.as_str())).chain([("the key", key)]) {
        for (number, said) in said.iter().enumerate() {
            for entry in value.split(',') {
                let held = said.windows(entry.len()).any(|window| window == entry.as_bytes());
                assert!(!held, "{name} is in place {number}: {}", String::from_utf8_lossy(said));
            }
        }
    }
}

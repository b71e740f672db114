//! Settings as a process meets them: wrong ones are found before anything binds, and `finhook check` shows and tries the rest.

use std::net::TcpListener;

use secrecy::ExposeSecret;
use serde_json::json;

use crate::app::Keys;
use crate::process::Finhook;
use crate::servers::database_server;

/// A port that is taken, so that a process which binds before it looks at its settings is found out.
fn taken() -> (TcpListener, String) {
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = held.local_addr().unwrap().to_string();
    (held, address)
}

#[test]
fn wrong_settings_exit_64_and_name_the_variable_before_anything_binds() {
    let key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let postgres = ("DATABASE_URL", "postgres://127.0.0.1:9/x");
    let amqp = ("AMQP_URL", "amqp://127.0.0.1:9");
    let ring = format!("1:{key}");
    /// Settings, arguments, and the name that has to be said.
    type Wrong<'a> = (Vec<(&'a str, &'a str)>, &'a [&'a str], &'a str);
    let cases: Vec<Wrong<'_>> = vec![
        (vec![("FINHOOK_UNIT_TOKEN", "x")], &[], "FINHOOK_UNIT_TOKEN"),
        (vec![("FINHOOK_KEYS", "1:short")], &[], "FINHOOK_KEYS"),
        (vec![("FINHOOK_KEYS", key)], &[], "FINHOOK_KEYS"),
        (vec![("FINHOOK_INDEX_KEY", "hunter2")], &[], "FINHOOK_INDEX_KEY"),
        (vec![("FINHOOK_URL_KEYS", "hunter2")], &[], "FINHOOK_URL_KEYS"),
        (vec![("DATABASE_URL", "mysql://hunter2")], &[], "DATABASE_URL"),
        (vec![("AMQP_URL", "http://hunter2")], &[], "AMQP_URL"),
        (vec![postgres, ("FINHOOK_KEYS", &ring), ("FINHOOK_INDEX_KEY", key)], &[], "AMQP_URL"),
        (vec![postgres, amqp], &[], "FINHOOK_KEYS"),
        (vec![], &["--only", "receiver"], "AMQP_URL"),
        (vec![], &["--only", "worker"], "AMQP_URL"),
        (vec![("FINHOOK_WORKERS", "0")], &[], "FINHOOK_WORKERS"),
        (vec![("FINHOOK_HTTP_BIND", "nowhere")], &[], "FINHOOK_HTTP_BIND"),
        (vec![("FINHOOK_LOG", "=[hunter2")], &[], "FINHOOK_LOG"),
        (vec![("FINHOOK_PLAID_JWKS_FILE", "/no/such/file")], &[], "FINHOOK_PLAID_JWKS_FILE"),
        (vec![("FINHOOK_PLAID_CLIENT_ID", "x")], &[], "FINHOOK_PLAID_SECRET"),
        (vec![("FINHOOK_PLAID_MAX_AGE", "26h")], &[], "FINHOOK_PLAID_MAX_AGE"),
        (vec![("FINHOOK_SYNAPSE_CLIENT_SECRETS", "x")], &[], "FINHOOK_SYNAPSE_CLIENT_ID"),
        (vec![("FINHOOK_KEYS_FILE", "/no/such/file")], &[], "FINHOOK_KEYS"),
        (vec![("FINHOOK_CONFIG", "/no/such/file")], &[], "FINHOOK_CONFIG"),
    ];
    let (_held, address) = taken();
    for (settings, args, name) in cases {
        let finhook =
            Finhook::new().with("FINHOOK_HTTP_BIND", address.clone()).with("FINHOOK_OPS_BIND", address.clone());
        let finhook = settings.iter().fold(finhook, |all, (name, value)| all.with(name, *value));
        let args: Vec<&str> = ["serve"].into_iter().chain(args.iter().copied()).collect();
        let said = finhook.run(&args).exits(64);
        assert!(said.err.contains(name), "{settings:?}: {}", said.err);
        assert!(!said.err.contains("hunter2") || name == "FINHOOK_LOG", "{}", said.err);
        // The address that is taken was never tried.
        assert!(!said.err.contains(&address), "{settings:?}: {}", said.err);
    }
    let finhook = Finhook::new().with("FINHOOK_HTTP_BIND", "127.0.0.1:0").with("FINHOOK_OPS_BIND", address);
    let said = finhook.run(&["serve"]).exits(64);
    assert!(said.err.contains("FINHOOK_OPS_BIND"), "{}", said.err);
}

#[test]
fn a_configuration_file_counts_and_its_unknown_keys_are_errors() {
    let finhook = Finhook::new();
    finhook.file("finhook.toml", "unit_tokens = \"a,b\"\nworkers = 3\n");
    let check = finhook.run(&["check", "--json"]).exits(0).json();
    let setting =
        |name: &str| check["settings"].as_array().unwrap().iter().find(|it| it["name"] == name).cloned().unwrap();
    assert_eq!(setting("FINHOOK_WORKERS")["value"], json!("3"));
    assert!(!setting("FINHOOK_UNIT_TOKENS")["value"].as_str().unwrap().contains("a,b"));
    finhook.file("finhook.toml", "unit_token = \"a\"\n");
    assert!(finhook.run(&["check"]).exits(64).err.contains("unit_token"));
}

#[test]
fn check_tries_the_embedded_parts_and_shows_no_secret() {
    let finhook =
        Finhook::new().with("FINHOOK_UNIT_TOKENS", "hunter2-unit").with("FINHOOK_AUTH0_TOKENS", "hunter2-auth0");
    let said = finhook.run(&["check", "--json"]).exits(0);
    let check = said.json();
    assert_eq!(check["ok"], json!(true), "{check}");
    let said_of = |what: &str| {
        let found = check["checks"].as_array().unwrap().iter().find(|it| it["what"] == what).cloned();
        found.unwrap_or_else(|| panic!("{what} is not tried"))["said"].as_str().unwrap().to_owned()
    };
    assert!(said_of("synapse").contains("503") && said_of("unit").contains("takes"), "{check}");
    said_of("database");
    said_of("queue");
    let secrets = std::fs::read_to_string(finhook.folder().join("finhook-data/secrets.toml")).unwrap();
    let made = secrets
        .lines()
        .filter_map(|line| line.split_once(" = \""))
        .map(|(_, value)| value.trim_end_matches('"').to_owned());
    for secret in made.chain(["hunter2-unit".to_owned(), "hunter2-auth0".to_owned()]) {
        assert!(!said.out.contains(&secret) && !said.err.contains(&secret), "a secret is shown");
    }
    finhook.run(&["check"]).exits(0);
}

#[test]
fn check_exits_1_where_something_does_not_answer() {
    let finhook = Finhook::new();
    let keys = Keys::fresh(finhook.folder());
    let finhook = finhook.with_all(&keys.settings);
    let finhook =
        finhook.with("DATABASE_URL", "postgres://127.0.0.1:9/x").with("AMQP_URL", "amqp://guest:hunter2@127.0.0.1:9");
    let said = finhook.run(&["check", "--json"]).exits(1);
    assert_eq!(said.json()["ok"], json!(false));
    assert!(!said.out.contains("hunter2") && !said.err.contains("hunter2"));
}

#[tokio::test]
async fn the_development_key_is_refused_beside_postgresql() {
    let Some(server) = database_server("the development key beside PostgreSQL") else { return };
    let finhook = Finhook::new();
    let keys = Keys::fresh(finhook.folder());
    let finhook = finhook.with_all(&keys.settings).with("DATABASE_URL", server).with("AMQP_URL", "amqp://127.0.0.1:9");
    let finhook = finhook.with("FINHOOK_PLAID_DEVELOPMENT_KEY", keys.plaid.expose_secret());
    assert!(finhook.run(&["serve"]).exits(64).err.contains("FINHOOK_PLAID_DEVELOPMENT_KEY"));
}

//! The commands that ask and set: their output and their exit codes.

use std::time::Instant;

use serde_json::{Value, json};

use crate::app::{Keys, PATIENCE};
use crate::process::{Finhook, Said};
use crate::servers::{OwnBroker, OwnDatabase, servers};

/// Plays fixtures into the embedded store: `serve`, `replay`, SIGTERM.
pub fn played(finhook: &Finhook, what: &[&str]) {
    let serving = finhook.serve(&[]);
    let args: Vec<&str> = ["replay"].into_iter().chain(what.iter().copied()).chain(["--to", &serving.public]).collect();
    finhook.run(&args).exits(0);
    // What was accepted is durable; stopping and starting again must not lose it.
    assert!(serving.terminate().0.success());
}

/// Every event of the embedded store, when all of them are there: whoever serves goes on with what the last one left.
pub fn settled(finhook: &Finhook, events: usize) -> Vec<Value> {
    let listed = || finhook.run(&["events", "list", "--json"]).exits(0).json_lines();
    let mut all = listed();
    if all.len() < events {
        let serving = finhook.serve(&[]);
        let deadline = Instant::now() + PATIENCE;
        while all.len() < events {
            assert!(Instant::now() < deadline, "not all of {events} events come");
            all = listed();
        }
        assert!(serving.terminate().0.success());
    }
    assert_eq!(all.len(), events);
    all
}

#[test]
fn demo_prints_one_line_of_json_with_what_came_of_it_and_logs_beside_it() {
    let finhook =
        Finhook::new().with("DATABASE_URL", "postgres://127.0.0.1:9/never").with("AMQP_URL", "amqp://127.0.0.1:9");
    let said = finhook.run(&["demo", "--exit", "--json"]).exits(0);
    let report = said.json();
    assert_eq!(report["as_expected"], json!(true));
    for (group, fields) in [
        ("deliveries", &["accepted", "refused"][..]),
        ("events", &["applied", "recorded", "duplicate", "unlinked", "dead"]),
        ("rows", &["user", "integration", "account"]),
    ] {
        let object = report[group].as_object().unwrap();
        assert_eq!(object.len(), fields.len(), "{group}");
        assert!(fields.iter().all(|field| object[*field].is_u64()), "{group}: {object:?}");
    }
    assert_eq!(report.as_object().unwrap().len(), 4);
    assert_eq!(report["deliveries"]["refused"], json!(4));
    assert!(report["events"]["duplicate"].as_u64().unwrap() >= 4);
    assert!(said.err.contains("serving"), "{}", said.err);
    assert_eq!(std::fs::read_dir(finhook.folder()).unwrap().count(), 0, "it leaves nothing where it is called");
}

#[test]
fn demo_for_people_shows_tables_and_leaves_no_json() {
    let said = Finhook::new().run(&["demo", "--exit"]).exits(0);
    assert!(said.out.contains("as expected") && said.out.contains("fh1."), "{}", said.out);
}

#[test]
fn usage_errors_exit_64_and_help_and_version_0() {
    let finhook = Finhook::new();
    for wrong in [
        &[][..],
        &["no-such-command"],
        &["serve", "--only", "nobody"],
        &["serve", "--what"],
        &["explain"],
        &["explain", "unit"],
        &["events"],
        &["events", "list", "--state", "odd"],
        &["events", "show", "no-uuid"],
        &["replay"],
        &["replay", "unit", "--rate", "0"],
        &["keys", "generate", "--id", "x"],
        &["link", "unit"],
        &["accounts"],
        &["migrate", "sideways"],
        &["completions", "no-shell"],
        &["explain", "paypal", "--body", "x"],
        &["replay", "no-such-thing"],
        &["replay", "unit/no-such-case"],
        &["replay", "unit", "--set", "x"],
        &["replay", "unit", "--user", "u"],
        &["sign", "unit"],
        &["sign", "unit/customer.created", "--body", "9"],
        &["link", "paypal", "1", "--user", "u"],
        &["link", "unit", "", "--user", "u"],
        &["link", "unit", "1", "--user", ""],
        &["link", "unit", "1", "--user", "u", "--email", "no"],
        &["webhook-url", "--user", ""],
        &["replay", "unit", "--to", "ftp://x"],
    ] {
        let said = finhook.run(wrong).exits(64);
        assert!(said.out.is_empty() && !said.err.is_empty(), "{wrong:?}");
    }
    assert!(finhook.run(&["--help"]).exits(0).out.contains("Exit codes"));
    assert!(finhook.run(&["--version"]).exits(0).out.starts_with("finhook "));
    for command in [
        "demo",
        "serve",
        "replay",
        "sign",
        "explain",
        "link",
        "accounts",
        "webhook-url",
        "events",
        "keys",
        "migrate",
        "check",
        "completions",
        "man",
    ] {
        assert!(finhook.run(&[command, "--help"]).exits(0).out.contains("Usage: finhook"), "{command}");
    }
}

#[test]
fn generated_keys_are_a_configuration_that_works() {
    let finhook = Finhook::new();
    let printed = finhook.run(&["keys", "generate"]).exits(0).out;
    let settings: Vec<(String, String)> = printed
        .lines()
        .map(|line| line.split_once('=').unwrap())
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let names: Vec<&str> = settings.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["FINHOOK_KEYS", "FINHOOK_INDEX_KEY", "FINHOOK_URL_KEYS"]);
    let object = finhook.run(&["keys", "generate", "--json"]).exits(0).json();
    assert_eq!(object.as_object().unwrap().len(), 3);
    let second = finhook.run(&["keys", "generate", "--id", "2"]).exits(0).out;
    assert!(second.starts_with("2:"));
    assert_eq!(finhook.run(&["keys", "generate", "--bare"]).exits(0).out.trim().len(), 44);

    // The second key is rolled in: what the first sealed still opens.
    let finhook = finhook.with_all(&settings);
    played(&finhook, &["synapse/node.post"]);
    let events = settled(&finhook, 2);
    let user = owner(&events);
    let ring = format!("{},{}", second.trim(), settings[0].1);
    let finhook = finhook.with("FINHOOK_KEYS", ring);
    let accounts =
        finhook.run(&["accounts", "--user", &user, "--reveal", "--reason", "a test", "--json"]).exits(0).json_lines();
    assert!(accounts[0]["external_id"].is_string());
    // Without it they do not, and say so without quoting anything.
    let finhook = finhook.with("FINHOOK_KEYS", second.trim());
    let said = finhook.run(&["accounts", "--user", &user, "--reveal", "--reason", "a test", "--json"]).exits(1);
    assert!(said.out.is_empty() && !said.err.contains("fh1."), "{}", said.err);
}

/// The user of the fixture that was played.
fn owner(events: &[Value]) -> String {
    let provider = events[0]["provider"].as_str().unwrap();
    let subjects: Vec<&str> = events.iter().filter_map(|event| event["subject"].as_str()).collect();
    let cases = finhook::fixtures::select(provider).unwrap();
    let expected = cases.iter().filter_map(|case| case.expect.as_ref()).flat_map(|expect| &expect.integrations);
    let row = expected.into_iter().find(|row| subjects.contains(&row.external_id.as_str()));
    row.unwrap().user.clone()
}

#[test]
fn events_are_listed_one_object_a_line_with_the_fields_that_scripts_read() {
    let finhook = Finhook::new();
    played(&finhook, &["unit/batch", "unit/unlinked-then-linked", "auth0/recorded.sapi"]);
    let expected: u64 = ["unit/batch", "unit/unlinked-then-linked", "auth0/recorded.sapi"]
        .into_iter()
        .map(|path| finhook::fixtures::select(path).unwrap()[0].expect.clone().unwrap().events)
        .map(|events| events.applied + events.recorded + events.unlinked + events.dead)
        .sum();
    let events = settled(&finhook, usize::try_from(expected).unwrap());
    for event in &events {
        for field in ["id", "provider", "kind", "state", "reason", "subject", "occurred_at", "received_at"] {
            assert!(event.get(field).is_some(), "{field} is missing: {event}");
        }
        for time in ["occurred_at", "received_at"] {
            assert!(finhook::domain::Timestamp::parse(event[time].as_str().unwrap()).is_some());
        }
    }
    let ids: Vec<&str> = events.iter().map(|event| event["id"].as_str().unwrap()).collect();
    assert!(ids.is_sorted_by(|a, b| a > b), "newest first");
    let listed = |args: &[&str]| {
        let args: Vec<&str> = ["events", "list", "--json"].into_iter().chain(args.iter().copied()).collect();
        finhook.run(&args).exits(0).json_lines()
    };
    assert_eq!(listed(&["--provider", "auth0"]).len(), 1);
    assert_eq!(listed(&["--state", "recorded", "--provider", "auth0"])[0]["kind"], json!("sapi"));
    assert_eq!(listed(&["--kind", "sapi"]).len(), 1);
    assert_eq!(listed(&["--limit", "2"]).len(), 2);
    assert_eq!(listed(&["--since", "2100-01-01T00:00:00Z"]).len(), 0);
    assert_eq!(listed(&["--until", "2100-01-01T00:00:00Z"]).len(), events.len());
    let subject = events.iter().find_map(|event| event["subject"].as_str()).unwrap();
    assert!(listed(&["--subject", subject]).iter().all(|event| event["subject"] == subject));
    let shown = finhook.run(&["events", "show", ids[0], "--json"]).exits(0).json();
    assert_eq!(shown, events[0]);
    finhook.run(&["events", "show", "018f0000-0000-7000-8000-000000000000"]).exits(1);
    finhook.run(&["events", "list"]).exits(0);
}

#[test]
fn a_link_makes_waiting_events_apply_and_accounts_are_revealed_to_who_may_read() {
    let finhook = Finhook::new();
    let case = &finhook::fixtures::select("synapse/linked-by-hand").unwrap()[0];
    played(&finhook, &["synapse/linked-by-hand"]);
    let events = settled(&finhook, case.bodies.len());
    assert!(events.iter().any(|event| event["state"] == "unlinked"), "{events:?}");
    let (subject, user) = (&case.links[0].subject, "u it's \"linked\"");
    finhook.run(&["accounts", "--user", user, "--json"]).exits(1);
    let link = finhook
        .run_with_input(
            &[
                "link",
                "synapse",
                subject,
                "--user",
                user,
                "--email",
                "ada@example.com",
                "--authorization-id-file",
                "-",
                "--json",
            ],
            b"access-sandbox-piped\n",
        )
        .exits(0);
    assert_eq!(link.json()["service"], json!("synapse"));
    assert!(link.json()["applied_events"].as_u64().unwrap() > 0);
    assert!(!link.out.contains("access-sandbox") && !link.err.contains("access-sandbox"));

    let fields = ["service", "integration_external_id", "external_id", "baas_id", "status", "deleted_at"];
    let revealed =
        finhook.run(&["accounts", "--user", user, "--reveal", "--reason", "a test", "--json"]).exits(0).json_lines();
    let expected = case.expect.as_ref().unwrap();
    assert_eq!(revealed.len(), expected.accounts.len());
    for account in &revealed {
        assert!(fields.iter().all(|field| account.get(*field).is_some()), "{account}");
        let row = expected.accounts.iter().find(|row| account["external_id"] == json!(row.external_id)).unwrap();
        assert_eq!((&account["service"], &account["integration_external_id"]), (&json!("synapse"), &json!(subject)));
        assert_eq!((&account["baas_id"], &account["status"]), (&json!(row.baas_id), &json!(row.status)));
        assert_eq!(account["deleted_at"].is_string(), row.deleted);
    }
    // Nothing is opened without a reason, and who opened what is remembered.
    let unexplained = finhook.run(&["accounts", "--user", user, "--reveal", "--json"]).exits(64);
    assert!(unexplained.err.contains("--reason TEXT is needed") && unexplained.out.is_empty(), "{}", unexplained.err);
    let trail = finhook.run(&["audit", "list", "--user", user, "--json"]).exits(0).json_lines();
    assert_eq!(trail.iter().map(|entry| entry["act"].clone()).collect::<Vec<_>>(), [json!("reveal"), json!("link")]);
    assert_eq!((&trail[0]["reason"], &trail[0]["target"]), (&json!("a test"), &json!(format!("user {user}"))));
    assert_eq!(trail[0]["detail"], json!({ "accounts": revealed.len() }));
    assert!(trail[0]["actor"].as_str().unwrap().starts_with("os:"));
    finhook.run(&["audit", "list"]).exits(0);
    finhook.run(&["audit", "list", "--act", "nothing"]).exits(64);

    let hidden = finhook.run(&["accounts", "--user", user, "--json"]).exits(0).json_lines();
    assert!(hidden.iter().all(|account| account["external_id"].is_null() && account["baas_id"].is_null()));
    finhook.run(&["accounts", "--user", user]).exits(0);

    // Again, from a file and with another user: the later link wins.
    let token = finhook.file("token.txt", "access-sandbox-file");
    finhook
        .run(&["link", "synapse", subject, "--user", "u_second", "--authorization-id-file", token.to_str().unwrap()])
        .exits(0);
    assert_eq!(finhook.run(&["accounts", "--user", "u_second", "--json"]).exits(0).json_lines().len(), revealed.len());
    assert!(finhook.run(&["accounts", "--user", user, "--json"]).exits(0).out.is_empty());
    finhook.run(&["link", "synapse", subject, "--user", "u", "--authorization-id-file", "/no/such/file"]).exits(1);
    let closed = Finhook::new().with("FINHOOK_CREATE_USERS", "false");
    assert!(closed.run(&["link", "unit", "1", "--user", "u"]).exits(1).err.contains("FINHOOK_CREATE_USERS"));
}

#[test]
fn a_minted_webhook_url_binds_what_is_posted_to_it() {
    let finhook = Finhook::new();
    let url = finhook.run(&["webhook-url", "--user", "u_42", "--base", "https://hooks.example.com/"]).exits(0).out;
    assert!(url.starts_with("https://hooks.example.com/webhooks/plaid/") && url.ends_with('\n'), "{url}");
    assert!(!url.contains("u_42"));
    let object = finhook.run(&["webhook-url", "--user", "u_42", "--json"]).exits(0).json();
    let token = object["url"].as_str().unwrap().strip_prefix("/webhooks/plaid/").unwrap().to_owned();
    let body = finhook.file("body.json", r#"{"webhook_type":"ITEM","webhook_code":"LOGIN_REPAIRED","item_id":"i"}"#);
    let explain = |token: &str| {
        finhook.run(&["explain", "plaid", "--body", body.to_str().unwrap(), "--url-token", token, "--json"])
    };
    let said = explain(&token).exits(0).json();
    assert_eq!(
        said["events"][0]["changes"][0],
        json!({ "table": "user", "external_id": "u_42", "status": null, "user": "u_42" })
    );
    for cut in [&token[2..], &format!("-{}", &token[2..])] {
        assert_eq!(explain(cut).exits(1).json()["verified"], json!(false), "{cut}");
    }
}

#[test]
fn migrations_go_up_and_down_and_say_where_they_are() {
    up_and_down(&Finhook::new());
}

#[tokio::test]
async fn migrations_of_postgresql_go_up_and_down_and_serve_names_them_while_they_are_missing() {
    let Some(servers) = servers("migrations by command") else { return };
    let (database, broker) = (OwnDatabase::new(&servers.database).await, OwnBroker::new(&servers.amqp));
    let finhook = Finhook::new();
    let keys = Keys::fresh(finhook.folder());
    let finhook = finhook.with_all(&keys.settings).with("DATABASE_URL", database.url.clone());
    let finhook = finhook.with("AMQP_URL", broker.url.clone()).with("FINHOOK_AMQP_PREFIX", broker.prefix.clone());
    for args in [&["serve"][..], &["serve", "--only", "worker"], &["accounts", "--user", "u"], &["events", "list"]] {
        let said = finhook.run(args).exits(64);
        assert!(said.err.contains("finhook migrate up"), "{args:?}: {}", said.err);
    }
    assert!(finhook.run(&["check"]).exits(1).out.contains("finhook migrate up"));
    up_and_down(&finhook);
    finhook.run(&["migrate", "up"]).exits(0);
    finhook.run(&["check"]).exits(0);
    let serving = finhook.serve(&[]);
    assert!(serving.terminate().0.success());
}

fn up_and_down(finhook: &Finhook) {
    let applied =
        |said: Said| said.json_lines().iter().map(|line| line["applied"].as_bool().unwrap()).collect::<Vec<_>>();
    let before = applied(finhook.run(&["migrate", "status", "--json"]).exits(1));
    assert!(before.len() >= 3 && before.iter().all(|applied| !applied));
    assert!(finhook.run(&["migrate", "up"]).exits(0).out.starts_with(&before.len().to_string()));
    assert!(finhook.run(&["migrate", "up"]).exits(0).out.starts_with('0'));
    assert!(applied(finhook.run(&["migrate", "status", "--json"]).exits(0)).iter().all(|applied| *applied));
    finhook.run(&["migrate", "down"]).exits(1);
    finhook.run(&["migrate", "down", "--yes"]).exits(0);
    assert_eq!(applied(finhook.run(&["migrate", "status", "--json"]).exits(1)).iter().filter(|it| !**it).count(), 1);
    finhook.run(&["migrate", "down", "--to", "0", "--yes"]).exits(0);
    assert!(applied(finhook.run(&["migrate", "status", "--json"]).exits(1)).iter().all(|applied| !applied));
    finhook.run(&["migrate", "up"]).exits(0);
    finhook.run(&["migrate", "status"]).exits(0);
}

#[test]
fn completions_and_the_manual_cover_every_command() {
    let finhook = Finhook::new();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        assert!(finhook.run(&["completions", shell]).exits(0).out.contains("webhook-url"), "{shell}");
    }
    let manual = finhook.run(&["man"]).exits(0).out;
    assert!(manual.contains(".TH") && manual.contains("replay"));
    assert_eq!(std::fs::read_dir(finhook.folder()).unwrap().count(), 0);
}

//! The dashboard in a real browser: what an operator sees and does, on a phone and on a desk, by day and by night, and by
//! keyboard alone.

use std::time::Duration;

use finhook::cli::posting::{Answer, Post};
use finhook::config::Sources;
use finhook::domain::Timestamp;
use serde_json::json;

use crate::app::{Keys, SECRETS, TestApp, configured};
use crate::browser::Browser;
use crate::commands::played;
use crate::process::{Finhook, Served, eventually};
use crate::servers::{OwnBroker, OwnDatabase, servers};

/// For role `ops`.
const TOKEN: &str = "ops-token-of-the-tests";
const TOKENS: &str = "ops:ops-token-of-the-tests,app:app-token-of-the-tests";

/// How soon the page has to say what is so.
const SOON: Duration = Duration::from_secs(15);

/// What fixtures and deliveries hold that no page may show.
const SEALED: [&str; 2] = ["acc-9000000001", "Peter Parker of the tests"];

async fn log_in(browser: &Browser, ops: &str) {
    browser.go(ops).await;
    browser.write("#token", TOKEN).await;
    browser.click("#login button").await;
    browser.until("#stream", |text| text.contains("live")).await;
}

/// A number as the page writes it.
fn is(number: u64) -> impl Fn(&str) -> bool {
    move |text| text.replace(',', "").trim().parse() == Ok(number)
}

/// Keys, as WebDriver writes them.
const TAB: &str = "\u{e004}";
const ENTER: &str = "\u{e007}";
const LEFT: &str = "\u{e012}";
/// Shift is held, tab pressed, shift let go.
const BACK_TAB: &str = "\u{e008}\u{e004}\u{e008}";

/// What stands in the queues by the page: the first of its figures.
const WAITING: &str = "[data-key=waiting] .value";

/// An account that belongs to nobody until its customer is linked.
fn account(number: u64) -> String {
    json!({ "data": [{
        "id": format!("o{number}"), "type": "account.created",
        "attributes": { "createdAt": "2026-11-20T10:00:00.000Z", "name": SEALED[1] },
        "relationships": {
            "customer": { "data": { "id": format!("c{number}"), "type": "customer" } },
            "account": { "data": { "id": SEALED[0], "type": "depositAccount" } },
        },
    }] })
    .to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_sees_depth_rise_and_fall_and_a_dead_event_applied_after_its_requeue() {
    const TEST: &str = "the dashboard on PostgreSQL and RabbitMQ";
    let Some(servers) = servers(TEST) else { return };
    let Some(browser) = Browser::start(TEST).await else { return };
    let (database, broker) = (OwnDatabase::new(&servers.database).await, OwnBroker::new(&servers.amqp));
    let finhook = Finhook::new();
    let keys = Keys::fresh(finhook.folder());
    let signer = TestApp::embedded_with_keys(&keys).await;
    let settings = [
        ("DATABASE_URL", database.url.clone()),
        ("AMQP_URL", broker.url.clone()),
        ("FINHOOK_AMQP_PREFIX", broker.prefix.clone()),
        ("FINHOOK_OPS_TOKENS", TOKENS.to_owned()),
    ];
    let settings: Vec<(String, String)> =
        keys.settings.iter().cloned().chain(settings.map(|(name, value)| (name.to_owned(), value))).collect();
    let finhook = finhook.with_all(&settings);
    finhook.run(&["migrate", "up"]).exits(0);
    let receiver = finhook.serve(&["--only", "receiver"]);
    browser.look(1440, false).await;
    log_in(&browser, &receiver.ops).await;
    browser.until(WAITING, is(0)).await;

    // More than a page of the table holds.
    let sent = 57;
    let post = Post::new(&receiver.public).unwrap();
    for number in 0..sent {
        assert_eq!(post.send(&signer.signed("unit", account(number))).await, Answer::Accepted);
    }
    let took = browser.until(WAITING, is(sent)).await;
    assert!(took < SOON, "the page said so after {took:?}");
    let queue = format!("[data-key=\"{}.unit\"] td", broker.prefix);
    assert!(is(sent)(&browser.text(&queue).await), "the queue's row says so too");
    let printed = finhook.run(&["queues", "--json"]).exits(0).json_lines();
    let printed: u64 = printed.iter().filter_map(|queue| queue["ready"].as_u64()).sum();
    assert_eq!(printed, sent, "and so does the command");
    let metrics = reqwest::get(format!("{}/metrics", receiver.ops)).await.unwrap().text().await.unwrap();
    let ready =
        metrics.lines().filter(|line| line.starts_with("finhook_queue_messages{") && line.contains("\"ready\""));
    let ready: f64 = ready.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum();
    assert_eq!(ready as u64, sent, "and so do the metrics");
    browser.until("#depth .summary", |text| text.contains(&format!("Most: {sent} "))).await;
    browser.shoot("depth-risen").await;

    let worker = finhook.serve(&["--only", "worker"]);
    let took = browser.until(WAITING, is(0)).await;
    assert!(took < SOON, "the page said so after {took:?}");
    // Only who works looks at the tables; the session is good for every process with the same keys and tokens.
    browser.go(&worker.ops).await;
    browser.until("[data-key=unlinked] .value", is(sent)).await;

    let store = {
        let sources =
            settings.iter().fold(Sources::default(), |all, (name, value)| all.with(name.clone(), value.clone()));
        let configured = configured(sources);
        configured.store(configured.vault().unwrap()).await.unwrap()
    };
    let far = Timestamp::parse("2100-01-01T00:00:00Z").unwrap();
    assert_eq!(store.expire_unlinked(far, 1).await.unwrap(), 1);
    store.close().await;
    let dead = finhook.run(&["dead", "list", "--json"]).exits(0).json();
    let subject = dead["subject"].as_str().unwrap();
    finhook.run(&["link", "unit", subject, "--user", "u_42"]).exits(0);

    browser.until("[data-key=dead] .value", is(1)).await;
    browser.click("[data-key=dead] a").await;
    browser.until("#events tbody .state", |text| text == "dead").await;
    browser.click("#events tbody a").await;
    browser.until("#state", |text| text == "dead").await;
    assert!(browser.text("#facts").await.contains("unlinked_expired"));
    browser.click("#requeue").await;
    browser.until("#confirm-title", |text| text.starts_with("Requeue 1 event")).await;
    browser.shoot("requeue-asked").await;
    browser.click("#confirm-yes").await;
    browser.until("#state", |text| text == "applied").await;
    assert!(browser.text("#rows").await.contains("account"));
    browser.shoot("event-applied").await;
    assert!(worker.log().contains("audit.act"), "the act has its line in the log");

    // All that match, on every page: counted by the server, then discarded in one act.
    browser.go(&format!("{}/events?state=unlinked&provider=unit", worker.ops)).await;
    browser.until("#events tbody", |text| text.matches("unlinked").count() == 50).await;
    browser.click("#older").await;
    browser.until("#page", |text| text == "Page 2").await;
    browser.until("#events tbody", |text| text.matches("unlinked").count() == 6).await;
    browser.click("#select-page").await;
    browser.until("#selected", |text| text == "6 events selected").await;
    browser.click("#select-all").await;
    browser.until("#selected", |text| text == "56 events selected").await;
    browser.click("#discard").await;
    browser.until("#confirm-title", |text| text == "Discard 56 events?").await;
    browser.click("#confirm-yes").await;
    browser.until("#list-done", |text| text == "56 events discarded.").await;
    browser.until("#none", |text| text == "No event matches.").await;

    let complaints = browser.complaints().await;
    assert!(complaints.iter().all(|said| expected(said)), "{complaints:?}");
    browser.close().await;
    assert!(worker.terminate().0.success() && receiver.terminate().0.success());
}

/// A process with both halves that has events in every state a person looks at.
async fn with_events() -> (Finhook, Served) {
    let finhook = SECRETS.iter().fold(Finhook::new(), |all, (name, value)| all.with(name, *value));
    let finhook = finhook.with("FINHOOK_OPS_TOKENS", TOKENS);
    played(&finhook, &["unit/account.created.tagged"]);
    played(&finhook, &["unit/recorded.card.activated", "--set", "id="]);
    let serving = finhook.serve(&[]);
    let signer = TestApp::embedded_in(&finhook.folder().join("finhook-data"), &SECRETS).await;
    let post = Post::new(&serving.public).unwrap();
    for number in 0..3 {
        assert_eq!(post.send(&signer.signed("unit", account(number))).await, Answer::Accepted);
    }
    eventually("they wait for their user", async || {
        let unlinked = finhook.run(&["events", "list", "--state", "unlinked", "--json"]).exits(0);
        unlinked.json_lines().len() == 3
    })
    .await;
    (finhook, serving)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_view_is_usable_on_a_phone_and_on_a_desk_by_day_and_by_night_and_says_nothing_sealed() {
    let Some(browser) = Browser::start("every view of the dashboard").await else { return };
    let (_finhook, serving) = with_events().await;
    let ops = &serving.ops;
    for (width, night) in [(1440, false), (1440, true), (390, false), (390, true), (2560, true)] {
        let name = |view: &str| format!("{view}-{width}-{}", if night { "dark" } else { "light" });
        browser.look(width, night).await;
        browser.page.delete_all_cookies().await.unwrap();
        browser.go(ops).await;
        browser.until("h1", |text| text == "Log in").await;
        check(&browser, &name("login")).await;
        log_in(&browser, ops).await;
        browser.until("#people tbody", |text| text.contains("unit")).await;
        let beat = "return getComputedStyle(document.getElementById('stream'), '::before').animationName";
        assert_eq!(browser.run(beat).await, if night { "none" } else { "beat" }, "whether the dot beats");
        browser.run("document.querySelector('#depth details').open = true").await;
        browser.until("#depth details table", |text| text.contains("Time (UTC)")).await;
        let samples = browser.run("return fetch('/v1/queues/history').then((answer) => answer.json())").await;
        let held = samples["samples"].as_array().unwrap().len();
        let rows = browser.run("return document.querySelectorAll('#depth details tbody tr').length").await;
        assert!(held > 0 && rows.as_u64().unwrap() > 0, "the last hour is there: {held} samples, {rows} rows");
        check(&browser, &name("overview-with-table")).await;
        browser.run("document.querySelector('#depth details').open = false").await;
        check(&browser, &name("overview")).await;
        browser.go(&format!("{ops}/events")).await;
        browser.until("#events tbody", |text| text.contains("unlinked")).await;
        check(&browser, &name("events")).await;
        browser.go(&format!("{ops}/events?state=unlinked")).await;
        browser.click("#select-page").await;
        browser.until("#selected", |text| text == "3 events selected").await;
        browser.click("#discard").await;
        browser.until("#confirm-title", |text| text == "Discard 3 events?").await;
        check(&browser, &name("discard-asked")).await;
        browser.click("#confirm-no").await;
        browser.click("#events tbody a").await;
        browser.until("#state", |text| text == "unlinked").await;
        check(&browser, &name("event")).await;
    }
    browser.close().await;
    assert!(serving.terminate().0.success());
}

/// Asking who one is before the log-in is answered 401, and the browser says so.
fn expected(complaint: &str) -> bool {
    complaint.contains("/session")
}

async fn check(browser: &Browser, view: &str) {
    browser.is_usable(view).await;
    browser.shoot(view).await;
    let said = format!("{} {}", browser.page.current_url().await.unwrap(), browser.page.source().await.unwrap());
    for secret in SEALED.iter().chain([&TOKEN]) {
        assert!(!said.contains(secret), "{view} says {secret}");
    }
    let complaints: Vec<String> = browser.complaints().await.into_iter().filter(|said| !expected(said)).collect();
    assert!(complaints.is_empty(), "{view}: {complaints:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_done_by_keyboard_alone() {
    let Some(browser) = Browser::start("the dashboard by keyboard").await else { return };
    let (finhook, serving) = with_events().await;
    browser.look(1440, false).await;
    browser.go(&serving.ops).await;
    browser.until("h1", |text| text == "Log in").await;
    browser.press(&format!("{TOKEN}{ENTER}")).await;
    browser.until("[data-key=unlinked] .value", is(3)).await;

    assert_eq!(tab_to(&browser, "Skip to content", TAB).await, 1, "the first stop skips the bar");
    tab_to(&browser, "look at a time", TAB).await;
    browser.press(LEFT).await;
    browser.until("#depth .summary", |text| text.starts_with("At ")).await;
    tab_to(&browser, "3 unlinked of unit", TAB).await;
    browser.press(ENTER).await;
    browser.until("#events tbody", |text| text.contains("account.created")).await;
    tab_to(&browser, "Select all dead and unlinked", TAB).await;
    browser.press(" ").await;
    browser.until("#selected", |text| text == "3 events selected").await;
    // Back over the heading of the table to the buttons above it.
    tab_to(&browser, "Discard", BACK_TAB).await;
    browser.press(ENTER).await;
    browser.until("#confirm-title", |text| text == "Discard 3 events?").await;
    assert_eq!(focus(&browser).await, "Cancel", "the harmless answer has the focus");
    browser.press(ENTER).await;
    browser.until("#selected", |text| text == "3 events selected").await;
    assert_eq!(focus(&browser).await, "Discard…", "the focus comes back to where it was");
    browser.press(ENTER).await;
    tab_to(&browser, "Discard 3 events", TAB).await;
    browser.press(ENTER).await;
    browser.until("#list-done", |text| text == "3 events discarded.").await;
    assert_eq!(focus(&browser).await, "Newest first");
    let recorded = finhook.run(&["events", "list", "--state", "recorded", "--json"]).exits(0).json_lines();
    assert_eq!(recorded.iter().filter(|event| event["reason"] == json!("discarded")).count(), 3);
    let log = serving.log();
    assert!(log.lines().any(|line| line.contains("audit") && line.contains("discard")), "{log}");
    browser.close().await;
    assert!(serving.terminate().0.success());
}

/// What the focus is on, by its label or text.
async fn focus(browser: &Browser) -> String {
    let name = "const on = document.activeElement; return on.getAttribute('aria-label') ?? on.innerText ?? ''";
    browser.run(name).await.as_str().unwrap_or_default().to_owned()
}

/// Presses a key until the focus is on what is called so; how often.
async fn tab_to(browser: &Browser, name: &str, key: &str) -> usize {
    let mut met = Vec::new();
    for presses in 1..=120 {
        browser.press(key).await;
        let on = focus(browser).await;
        if on.contains(name) {
            return presses;
        }
        met.push(on);
    }
    panic!("the keyboard does not come to {name}: {met:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_no_longer_hears_says_since_when() {
    let Some(browser) = Browser::start("a broken stream").await else { return };
    let finhook = Finhook::new().with("FINHOOK_OPS_TOKENS", TOKENS);
    let serving = finhook.serve(&[]);
    browser.look(1440, false).await;
    log_in(&browser, &serving.ops).await;
    browser.until(WAITING, is(0)).await;
    serving.signal("STOP");
    browser.until("#stream", |text| text.contains("stale")).await;
    assert!(browser.text("#stale").await.starts_with("Stale since "));
    browser.shoot("stale").await;
    serving.signal("CONT");
    browser.until("#stream", |text| text.contains("live")).await;
    assert_eq!(browser.text("#stale").await, "");
    browser.close().await;
    assert!(serving.terminate().0.success());
}

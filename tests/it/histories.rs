//! Order does not matter, from the providers' bytes on: a history of all four of them ends in the same rows in any order,
//! doubled, and however its events share deliveries and transactions.

use std::sync::Arc;

use bytes::Bytes;
use finhook::domain::{Email, Proof, Timestamp, UserId};
use finhook::pipeline::sweep::Sweeper;
use finhook::providers;
use finhook::store::{Arriving, Batch, Link};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

use crate::app::TestApp;
use crate::payloads::{self, Copy, Draw, Element, FORMS, Form, begin, subject, user};
use crate::tables::Rows;

/// Somebody says whose an integration is.
#[derive(Debug, Clone)]
struct SaysLink {
    form: Form,
    subject: usize,
    user: usize,
    seconds: i64,
    email: Option<usize>,
    token: Option<usize>,
}

/// One thing that happens.
#[derive(Debug, Clone)]
enum Item {
    Element(Element),
    Link(SaysLink),
}

/// Everything that happens, in order.
#[derive(Debug, Clone)]
struct History {
    items: Vec<Item>,
    seed: u64,
}

fn draw() -> impl Strategy<Value = (Form, Draw)> {
    let copy = prop_oneof![
        6 => Just(Copy::Whole),
        2 => Just(Copy::Broken),
        1 => Just(Copy::Late),
        2 => (0..3_usize).prop_map(Copy::Bound),
    ];
    let copies = prop::collection::vec(copy, 1..4);
    (0..FORMS.len()).prop_flat_map(move |form| {
        let (form, kinds) = FORMS[form];
        let numbers = (0..kinds, 0..3_usize, 0..3_usize, 0..5_usize, 0..8_i64);
        (numbers, copies.clone()).prop_map(move |((kind, subject, account, user, seconds), copies)| {
            (form, Draw { kind, subject, account, user, seconds, copies })
        })
    })
}

fn link() -> impl Strategy<Value = SaysLink> {
    let to = (0..FORMS.len(), 0..3_usize, 0..3_usize, 0..6_i64);
    (to, prop::option::of(0..3_usize), prop::option::of(0..3_usize)).prop_map(
        |((form, subject, user, seconds), email, token)| SaysLink {
            form: FORMS[form].0,
            subject,
            user,
            seconds,
            email,
            token,
        },
    )
}

fn history() -> impl Strategy<Value = History> {
    let links = prop::collection::vec(link(), 0..4);
    (prop::collection::vec(draw(), 1..16), links, any::<u64>()).prop_map(|(draws, links, seed)| {
        let mut items: Vec<Item> = Vec::new();
        for (number, (form, draw)) in draws.iter().enumerate() {
            items.extend(payloads::elements(*form, number, draw).into_iter().map(Item::Element));
        }
        // The copies of an event do not come one right after the other.
        items.shuffle(&mut StdRng::seed_from_u64(seed));
        items.extend(links.into_iter().map(Item::Link));
        History { items, seed }
    })
}

/// A way through a history: transactions, each with the numbers of its items and whether each is forced.
type Way = Vec<Vec<(usize, bool)>>;

/// In order and one by one; backwards; then shuffled, some doubled, some replayed, in transactions of any size.
fn ways(history: &History) -> Vec<Way> {
    let count = history.items.len();
    let mut ways: Vec<Way> = vec![
        (0..count).map(|item| vec![(item, false)]).collect(),
        (0..count).rev().map(|item| vec![(item, false)]).collect(),
    ];
    let mut random = StdRng::seed_from_u64(history.seed);
    for largest in [3, 100] {
        let mut order: Vec<(usize, bool)> = (0..count).map(|item| (item, false)).collect();
        for item in 0..count {
            if random.random_bool(0.3) {
                order.push((item, random.random_bool(0.3)));
            }
        }
        order.shuffle(&mut random);
        let mut way = Vec::new();
        while !order.is_empty() {
            let size = random.random_range(1..=largest).min(order.len());
            way.push(order.drain(..size).collect());
        }
        ways.push(way);
    }
    ways
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_seconds(begin() + seconds).unwrap()
}

fn link_of(link: &SaysLink) -> Link {
    Link {
        provider: link.form.provider().name,
        subject: subject(link.form, link.subject),
        user: UserId(user(link.user).unwrap()),
        email: link.email.and_then(|number| Email::parse(&format!("linked{number}@example.com"), true)),
        authorization_id: link.token.map(|number| SecretString::from(format!("access-production-{number}"))),
        at: at(link.seconds),
    }
}

/// The body that elements of one form share.
fn body_of(elements: &[&Element], random: &mut StdRng) -> Bytes {
    let texts: Vec<&str> = elements.iter().map(|element| element.text.as_str()).collect();
    let joined = texts.join(", ");
    match elements[0].form {
        Form::Unit if random.random_bool(0.3) => {
            format!("{{\"data\":[{joined}],\"included\":[{{\"ssn\":\"123456789\"}}]}}")
        }
        Form::Unit => format!("{{\"data\": [{joined}]}}"),
        Form::LogEntry => match random.random_range(0..3) {
            0 => texts.join("\n"),
            1 => format!("[{joined}]"),
            _ => format!("{{\"logs\":[{joined}]}}"),
        },
        Form::Plaid | Form::Synapse | Form::CloudEvent => joined,
    }
    .into()
}

/// The events of one transaction: elements that can share a body do, as chance has it.
fn events_of(app: &TestApp, items: &[(&Element, bool)], random: &mut StdRng) -> Vec<Arriving> {
    let mut deliveries: Vec<(bool, Vec<&Element>)> = Vec::new();
    for (element, force) in items {
        let shares = matches!(element.form, Form::Unit | Form::LogEntry) && random.random_bool(0.8);
        let open = deliveries.iter_mut().find(|(forced, elements)| {
            let first = elements[0];
            shares && forced == force && first.form == element.form && first.received == element.received
        });
        match open {
            Some((_, elements)) => elements.push(element),
            None => deliveries.push((*force, vec![element])),
        }
    }
    let mut events = Vec::new();
    for (force, elements) in deliveries {
        let first = elements[0];
        let proof = Proof { iat: first.iat, user: first.bound.clone().map(UserId), ..Proof::default() };
        let body = body_of(&elements, random);
        let delivery = providers::unproved(first.form.provider(), at(first.received), proof, body);
        events.extend(app.desk.events_of(&delivery).into_iter().map(|arriving| Arriving { force, ..arriving }));
    }
    events
}

async fn walk(app: &TestApp, history: &History, way: &Way) -> Rows {
    app.tables.clear().await;
    let mut random = StdRng::seed_from_u64(history.seed ^ 1);
    for items in way {
        let mut batch = Batch::default();
        let mut elements = Vec::new();
        for (number, force) in items {
            match &history.items[*number] {
                Item::Link(link) => batch.links.push(link_of(link)),
                Item::Element(element) => elements.push((element, *force)),
            }
        }
        batch.events = events_of(app, &elements, &mut random);
        app.store.commit(&batch, app.desk.as_ref()).await.unwrap();
    }
    Sweeper::new(app.store.clone(), app.desk.clone(), 90, CancellationToken::new()).everything().await.unwrap();
    app.rows().await
}

async fn check(app: &TestApp, history: &History) -> Result<(), TestCaseError> {
    let mut ways = ways(history).into_iter();
    let in_order = walk(app, history, &ways.next().unwrap()).await;
    for way in ways {
        let rows = walk(app, history, &way).await;
        prop_assert_eq!(&rows.events, &in_order.events, "events by way {:?}", &way);
        prop_assert_eq!(&rows.integrations, &in_order.integrations, "integrations by way {:?}", &way);
        prop_assert_eq!(&rows.accounts, &in_order.accounts, "accounts by way {:?}", &way);
        prop_assert_eq!(&rows.users, &in_order.users, "users by way {:?}", &way);
    }
    Ok(())
}

async fn any_way_ends_in_the_same_rows(app: TestApp, cases: u32) {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(cases);
    let (runtime, app) = (tokio::runtime::Handle::current(), Arc::new(app));
    let run = move || {
        let config = Config { cases, failure_persistence: None, max_shrink_iters: 100, ..Config::default() };
        TestRunner::new(config).run(&history(), |history| runtime.block_on(check(&app, &history)))
    };
    if let Err(found) = tokio::task::spawn_blocking(run).await.unwrap() {
        panic!("{found}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_order_duplication_and_batching_of_deliveries_ends_in_the_same_rows_on_sqlite() {
    any_way_ends_in_the_same_rows(TestApp::embedded().await, 32).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_order_duplication_and_batching_of_deliveries_ends_in_the_same_rows_on_postgresql() {
    let Some(app) = TestApp::full("histories on PostgreSQL").await else { return };
    any_way_ends_in_the_same_rows(app, 16).await;
}

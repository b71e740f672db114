//! Order does not matter: random histories, one by one and in order, shuffled, doubled and batched, end in the rows that
//! the model says.

use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use super::database::Db;
use super::{PLAID, UNIT, at, model, on_both, token};
use crate::domain::{Email, ProviderName, Rank, StatusChange, UserId};
use crate::store::{Batch, Link};

/// What is fixed about an event: all its copies say the same.
#[derive(Debug, Clone)]
pub struct Content {
    pub number: usize,
    pub subject: usize,
    pub status: Option<Says>,
    pub claim: Option<(usize, Rank)>,
    pub email: Option<usize>,
    pub accounts: Vec<SaysOfAccount>,
}

/// What an event says of an account.
#[derive(Debug, Clone)]
pub struct SaysOfAccount {
    pub number: usize,
    pub status: Option<Says>,
    pub connected: bool,
}

/// A status.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Says {
    Open(&'static str),
    Closing(&'static str),
    Final(&'static str),
}

/// One delivery of an event: its time may differ where the provider states none, and only one of two URLs may be bound.
#[derive(Debug, Clone)]
pub struct Copy {
    pub content: usize,
    pub seconds: i64,
    pub claims: bool,
    pub weight: Weight,
}

/// What a copy could be read as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    Dead,
    Recorded,
    Applied,
}

#[derive(Debug, Clone)]
pub struct SaysLink {
    pub subject: usize,
    pub user: usize,
    pub seconds: i64,
    pub email: Option<usize>,
    pub token: Option<usize>,
}

#[derive(Debug, Clone)]
pub enum Item {
    Copy(Copy),
    Link(SaysLink),
}

/// Everything that happens, in order, and what was there before.
#[derive(Debug, Clone)]
pub struct History {
    pub contents: Vec<Content>,
    pub items: Vec<Item>,
    /// `u0` is there, with an address that the product wrote.
    pub product_address: bool,
    /// `u1` is there, soft-deleted.
    pub deleted_user: bool,
    pub seed: u64,
}

impl Content {
    pub fn key(&self) -> String {
        format!("k{}", self.number + 7)
    }
}

impl Says {
    pub fn change(self) -> StatusChange {
        match self {
            Self::Open(status) => StatusChange::open(status).because(Some("why")),
            Self::Closing(status) => StatusChange::closing(status),
            Self::Final(status) => StatusChange::closing_for_good(status),
        }
    }
}

impl Item {
    pub fn copy(&self) -> Option<&Copy> {
        if let Self::Copy(copy) = self { Some(copy) } else { None }
    }

    pub fn link(&self) -> Option<&SaysLink> {
        if let Self::Link(link) = self { Some(link) } else { None }
    }
}

pub fn subject(number: usize) -> (ProviderName, &'static str) {
    [(UNIT, "c1"), (UNIT, "c2"), (PLAID, "c1")][number]
}

pub fn user(number: usize) -> String {
    format!("u{number}")
}

pub fn address(number: usize) -> String {
    format!("a{number}@example.com")
}

pub fn token_text(number: usize) -> String {
    format!("token-{number}")
}

pub fn account_id(number: usize) -> String {
    format!("account-{number}")
}

fn says() -> impl Strategy<Value = Option<Says>> {
    prop_oneof![
        3 => Just(None),
        2 => Just(Some(Says::Open("active"))),
        1 => Just(Some(Says::Open("locked"))),
        2 => Just(Some(Says::Closing("archived"))),
        1 => Just(Some(Says::Closing("closed"))),
        1 => Just(Some(Says::Final("revoked"))),
    ]
}

fn says_of_account() -> impl Strategy<Value = SaysOfAccount> {
    let status = prop_oneof![
        Just(None),
        Just(Some(Says::Open("open"))),
        Just(Some(Says::Open("frozen"))),
        Just(Some(Says::Closing("closed"))),
    ];
    (0..3_usize, status, any::<bool>()).prop_map(|(number, status, connected)| SaysOfAccount {
        number,
        status,
        connected,
    })
}

fn content() -> impl Strategy<Value = Content> {
    let rank = prop_oneof![Just(Rank::Inferred), Just(Rank::Payload), Just(Rank::BoundUrl)];
    let accounts = prop::collection::vec(says_of_account(), 0..3);
    (
        0..3_usize,
        says(),
        prop::option::weighted(0.4, (0..3_usize, rank)),
        prop::option::weighted(0.4, 0..3_usize),
        accounts,
    )
        .prop_map(|(subject, status, claim, email, mut accounts)| {
            accounts.sort_by_key(|account| account.number);
            accounts.dedup_by_key(|account| account.number);
            Content { number: 0, subject, status, claim, email, accounts }
        })
}

fn item() -> impl Strategy<Value = (usize, Item)> {
    let weight = prop_oneof![10 => Just(Weight::Applied), 1 => Just(Weight::Recorded), 1 => Just(Weight::Dead)];
    let copy = (0..6_i64, prop::bool::weighted(0.7), weight)
        .prop_map(|(seconds, claims, weight)| Item::Copy(Copy { content: 0, seconds, claims, weight }));
    let link = (0..3_usize, 0..3_usize, 0..6_i64, prop::option::of(0..3_usize), prop::option::of(0..3_usize)).prop_map(
        |(subject, user, seconds, email, token)| Item::Link(SaysLink { subject, user, seconds, email, token }),
    );
    (any::<prop::sample::Index>().prop_map(|index| index.index(1 << 20)), prop_oneof![9 => copy, 1 => link])
}

fn history() -> impl Strategy<Value = History> {
    let contents = prop::collection::vec(content(), 1..10);
    let items = prop::collection::vec(item(), 1..25);
    (contents, items, any::<bool>(), any::<bool>(), any::<u64>()).prop_map(
        |(mut contents, items, product_address, deleted_user, seed)| {
            for (number, content) in contents.iter_mut().enumerate() {
                content.number = number;
            }
            let count = contents.len();
            let place = |(index, mut item)| {
                if let Item::Copy(copy) = &mut item {
                    copy.content = index % count;
                }
                item
            };
            let items = items.into_iter().map(place).collect();
            History { contents, items, product_address, deleted_user, seed }
        },
    )
}

/// A way through a history: batches of (item, whether it is forced).
type Way = Vec<Vec<(usize, bool)>>;

/// In order and one by one; then shuffled, some doubled, some replayed, in batches of any size.
fn ways(history: &History) -> Vec<Way> {
    let count = history.items.len();
    let mut ways: Vec<Way> = vec![(0..count).map(|item| vec![(item, false)]).collect()];
    let mut random = StdRng::seed_from_u64(history.seed);
    for largest in [1, 5, 100] {
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

async fn walk(db: &Db, history: &History, way: &Way) {
    db.clear().await;
    if history.product_address {
        db.sql(
            r#"insert into "user" (id, external_id, email) values
               ('018f0000-0000-7000-8000-000000000001', 'u0', 'own@example.com')"#,
        )
        .await;
    }
    if history.deleted_user {
        db.sql(
            r#"insert into "user" (id, external_id) values ('018f0000-0000-7000-8000-000000000002', 'u1');
               update "user" set deleted_at = created_at where external_id = 'u1'"#,
        )
        .await;
    }
    for items in way {
        let mut batch = Batch::default();
        for (number, force) in items {
            match &history.items[*number] {
                Item::Link(link) => batch.links.push(link_of(link)),
                Item::Copy(copy) => {
                    let received = 1_000 + i64::try_from(*number).unwrap();
                    let event = model::event_of(&history.contents[copy.content], copy, received);
                    batch.events.push(db.archive.arriving(event, *force));
                }
            }
        }
        db.store.commit(&batch, &db.archive).await.unwrap();
    }
    db.sweep().await;
}

pub fn link_of(link: &SaysLink) -> Link {
    let (provider, id) = subject(link.subject);
    Link {
        provider,
        subject: id.to_owned(),
        user: UserId(user(link.user)),
        email: link.email.and_then(|email| Email::parse(&address(email), true)),
        authorization_id: link.token.and_then(|number| token(&token_text(number))),
        at: at(link.seconds),
    }
}

async fn check(db: &Db, history: &History) -> Result<(), TestCaseError> {
    let index = |service: &str, text: &str| db.options.vault.index.of("authorization_id", service, text).to_vec();
    let expected = model::rows(history, &index);
    for way in ways(history) {
        walk(db, history, &way).await;
        let rows = db.rows().await;
        prop_assert_eq!(&rows.events, &expected.events, "events by way {:?}", &way);
        prop_assert_eq!(&rows.integrations, &expected.integrations, "integrations by way {:?}", &way);
        prop_assert_eq!(&rows.accounts, &expected.accounts, "accounts by way {:?}", &way);
        prop_assert_eq!(&rows.users, &expected.users, "users by way {:?}", &way);
    }
    Ok(())
}

on_both! {
    async fn any_order_duplication_and_batching_ends_in_the_rows_that_the_model_says(db) {
        let cases = match (&db.raw, std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok())) {
            (_, Some(cases)) => cases,
            (super::database::Raw::Lite(_), None) => 48,
            (super::database::Raw::Pg(_), None) => 16,
        };
        let runtime = tokio::runtime::Handle::current();
        let db: Arc<Db> = db;
        let run = move || {
            let config = Config { cases, failure_persistence: None, max_shrink_iters: 300, ..Config::default() };
            TestRunner::new(config).run(&history(), |history| runtime.block_on(check(&db, &history)))
        };
        if let Err(found) = tokio::task::spawn_blocking(run).await.unwrap() {
            panic!("{found}");
        }
    }
}

//! Every fixture is a test of its own: posted to the real application, it ends in its rows and in no others.

use std::collections::BTreeMap;

use finhook::fixtures::{self, Case};

use crate::app::TestApp;
use crate::tables::{Row, Rows};

/// A test for each line of the generated list.
macro_rules! fixture {
    ($name:ident, $path:literal) => {
        #[tokio::test]
        async fn $name() {
            let app = TestApp::embedded().await;
            let [case] = &fixtures::select($path).unwrap()[..] else { panic!("one case") };
            app.post_signed(case).await;
            app.drain().await;
            assert_ends(&[case], &app.rows().await);
        }
    };
}

include!(concat!(env!("OUT_DIR"), "/fixture_tests.rs"));

#[tokio::test]
async fn all_fixtures_at_once_end_in_their_rows_on_the_embedded_application() {
    let app = TestApp::embedded().await;
    all_of_them(&app).await;
}

#[tokio::test]
async fn all_fixtures_end_in_their_rows_on_postgresql_and_rabbitmq() {
    let Some(app) = TestApp::full("all fixtures on PostgreSQL and RabbitMQ").await else { return };
    all_of_them(&app).await;
}

async fn all_of_them(app: &TestApp) {
    let cases = fixtures::all().unwrap();
    for case in &cases {
        app.post_signed(case).await;
    }
    app.drain().await;
    assert_ends(&cases.iter().collect::<Vec<_>>(), &app.rows().await);
}

/// Fails unless the tables hold exactly what the cases say.
fn assert_ends(cases: &[&Case], rows: &Rows) {
    let (mut users, mut integrations, mut accounts) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    let mut states: BTreeMap<&str, u64> = BTreeMap::new();
    let flag = |set: bool| Some(set.to_string());
    for case in cases {
        let expect = case.expect.as_ref().expect("a fixture says what it ends in");
        for user in &expect.users {
            let is = [user.email.clone(), user.email_verified.map(|it| u8::from(it).to_string()), flag(false)];
            users.insert(user.external_id.clone(), is);
        }
        let mut owners = BTreeMap::new();
        for row in &expect.integrations {
            let is =
                [Some(row.user.clone()), Some(row.status.clone()), row.status_reason.clone(), flag(row.deleted), None];
            owners.insert(row.external_id.clone(), row.user.clone());
            integrations.insert((case.provider.clone(), row.external_id.clone()), is);
        }
        for row in &expect.accounts {
            let is = [
                Some(owners[&row.integration].clone()),
                row.baas_id.clone(),
                Some(row.status.clone()),
                row.status_reason.clone(),
                flag(row.deleted),
            ];
            accounts.insert((case.provider.clone(), row.integration.clone(), row.external_id.clone()), is);
        }
        let events = &expect.events;
        let counts = [
            ("applied", events.applied),
            ("recorded", events.recorded),
            ("unlinked", events.unlinked),
            ("dead", events.dead),
        ];
        counts.into_iter().for_each(|(state, count)| *states.entry(state).or_default() += count);
    }
    let deleted = |row: &Row| flag(row["deleted_at"].is_some());
    let is = |row: &Row| [row["email"].clone(), row["email_verified"].clone(), deleted(row)];
    assert_eq!(rows.users.iter().map(|(key, row)| (key.clone(), is(row))).collect::<BTreeMap<_, _>>(), users);
    let is = |row: &Row| {
        let [user, status, reason, token] =
            ["user", "status", "status_reason", "authorization_id"].map(|name| row.get(name).cloned().flatten());
        [user, status, reason, deleted(row), token]
    };
    assert_eq!(
        rows.integrations.iter().map(|(key, row)| (key.clone(), is(row))).collect::<BTreeMap<_, _>>(),
        integrations
    );
    let is = |row: &Row| {
        let [user, baas_id, status, reason] =
            ["user", "baas_id", "status", "status_reason"].map(|name| row[name].clone());
        [user, baas_id, status, reason, deleted(row)]
    };
    assert_eq!(rows.accounts.iter().map(|(key, row)| (key.clone(), is(row))).collect::<BTreeMap<_, _>>(), accounts);
    let mut is: BTreeMap<&str, u64> = ["applied", "recorded", "unlinked", "dead"].map(|state| (state, 0)).into();
    rows.events.values().for_each(|row| *is.entry(row["state"].as_deref().unwrap()).or_default() += 1);
    assert_eq!(is, states);
}

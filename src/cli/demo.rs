//! `finhook demo`: everything embedded in a new temporary folder; plays every fixture through the real HTTP way, shows the
//! rows, compares them with what the fixtures expect, and then serves until Ctrl-C.
//!
//! It reads no configuration, so that it can never touch a real database or broker.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;
use tokio::time::Instant;

use super::app::{App, Configured};
use super::expectation;
use super::posting::{Answer, Post, Press, Treatment};
use super::serving::Serving;
use super::{Done, output};
use crate::config::Sources;
use crate::domain::{EventState, UserId};
use crate::fixtures::{self, Case};
use crate::ops::metrics;
use crate::ops::shutdown::Shutdown;
use crate::pipeline::settle::Settler;
use crate::providers;
use crate::store::{Batch, Link, Store};

/// How long the worker may take for what was sent.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often we look whether it is done.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Arguments of `finhook demo`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Ignores DATABASE_URL, AMQP_URL and every other setting; works in a new temporary folder on free ports."
)]
pub struct Args {
    /// End when everything was shown, instead of serving on
    #[arg(long)]
    exit: bool,
    /// One JSON object on one line
    #[arg(long)]
    json: bool,
}

/// What the receiver answered.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
struct Deliveries {
    accepted: u64,
    refused: u64,
}

/// What became of the events.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
struct Events {
    applied: u64,
    recorded: u64,
    duplicate: u64,
    unlinked: u64,
    dead: u64,
}

/// How many rows there are.
#[derive(Debug, Default, Serialize)]
struct Rows {
    user: u64,
    integration: u64,
    account: u64,
}

/// The whole answer.
#[derive(Debug, Default, Serialize)]
struct Report {
    deliveries: Deliveries,
    events: Events,
    rows: Rows,
    as_expected: bool,
}

/// Plays the fixtures.
pub async fn run(args: Args) -> anyhow::Result<Done> {
    let folder = tempfile::Builder::new().prefix("finhook-demo-").tempdir().context("make a temporary folder")?;
    let sources = Sources::of([("FINHOOK_HTTP_BIND", "127.0.0.1:0"), ("FINHOOK_OPS_BIND", "127.0.0.1:0")])
        .with("FINHOOK_DATA_DIR", folder.path().display().to_string())
        .with("FINHOOK_LOG", if args.json { "info" } else { "warn" });
    let app = App::from_sources(sources)?.configured()?;
    app.start_log()?;
    let shutdown = Shutdown::new(app.settings.shutdown_timeout);
    shutdown.obey_signals().context("listen to signals")?;
    let serving = Serving::start(&app, None, &shutdown).await?;
    let (report, differences) = play(&app, &serving, args.json).await?;

    if args.json {
        output::json_line(&report)?;
    }
    for difference in &differences {
        eprintln!("finhook: not as expected: {difference}");
    }
    if !args.exit
        && !args.json
        && let Some(public) = serving.public
    {
        output::line(&format!(
            "\nServing on http://{public} (operators: http://{}) until Ctrl-C; the data goes with it.\n\
             Try: FINHOOK_DATA_DIR={} finhook replay unit --repeat 100 --to http://{public}",
            serving.ops,
            folder.path().display()
        ))?;
    }
    if !args.exit {
        shutdown.begun().await;
    }
    let stopped = serving.stop().await;
    Ok(if report.as_expected && stopped { Done::Yes } else { Done::No })
}

/// Sends every fixture, and one tampered and one repeated delivery per provider; waits; counts and compares.
async fn play(app: &Configured, serving: &Serving, quiet: bool) -> anyhow::Result<(Report, Vec<String>)> {
    let cases = fixtures::all()?;
    let public = serving.public.context("the demo receives")?;
    let store = serving.store.as_ref().context("the demo works")?;
    let vault = app.vault()?;
    link(app, store.clone(), &cases).await?;

    let post = Post::new(&format!("http://{public}"))?;
    let press = Press::new(app.setup()?)?;
    let before = duplicates();
    let started = Instant::now();
    let mut deliveries = Deliveries::default();
    let mut expected = Deliveries::default();
    let mut differences = Vec::new();
    let mut seen: BTreeMap<&str, ()> = BTreeMap::new();
    for case in &cases {
        for body in &case.bodies {
            let signed = press.request(case, body, &Treatment::default())?;
            deliveries.count(post.send(&signed).await);
            expected.accepted += 1;
            if seen.insert(&case.provider, ()).is_none() {
                deliveries.count(post.send(&signed).await);
                expected.accepted += 1;
                let tampered = Treatment { tamper: true, ..Treatment::default() };
                deliveries.count(post.send(&press.request(case, body, &tampered)?).await);
                expected.refused += 1;
            }
        }
    }
    let first = drained(serving, started + PATIENCE).await;
    for case in &cases {
        differences.extend(expectation::differences(case, store.as_ref(), &vault).await?);
    }
    let mut events = stored(store.as_ref()).await?;
    events.duplicate = duplicates().saturating_sub(before);
    let totals = expected_events(&cases);
    if deliveries != expected {
        differences.push(format!("answers were {deliveries:?}, expected {expected:?}"));
    }
    if (Events { duplicate: 0, ..events }) != totals || events.duplicate == 0 {
        differences.push(format!("events are {events:?}, expected {totals:?} and duplicates"));
    }
    if !first {
        differences.push("the worker did not finish in time".to_owned());
    }
    let counts = store.row_counts().await.context("count the rows")?;
    let rows = Rows { user: counts.user, integration: counts.integration, account: counts.account };
    let report = Report { deliveries, events, rows, as_expected: differences.is_empty() };
    if !quiet {
        show(&report, &cases, started.elapsed(), app, store.as_ref()).await?;
    }
    Ok((report, differences))
}

impl Deliveries {
    fn count(&mut self, answer: Answer) {
        match answer {
            Answer::Accepted => self.accepted += 1,
            Answer::Status(_) | Answer::Failed => self.refused += 1,
        }
    }
}

/// Makes the links that cases need before their first body.
async fn link(app: &Configured, store: std::sync::Arc<dyn Store>, cases: &[Case]) -> anyhow::Result<()> {
    let mut links = Vec::new();
    for case in cases {
        let provider = providers::find(&case.provider).context("a fixture of no provider")?;
        links.extend(case.links.iter().map(|link| Link {
            provider: provider.name,
            subject: link.subject.clone(),
            user: UserId(link.user.clone()),
            email: None,
            authorization_id: None,
            at: app.clock.now(),
        }));
    }
    let settler = Settler::new(store, app.desk(app.vault()?)?, Default::default());
    settler.commit(&Batch { links, ..Batch::default() }).await.context("link")?;
    Ok(())
}

/// Waits until nothing is queued or held by the worker.
async fn drained(serving: &Serving, deadline: Instant) -> bool {
    while Instant::now() < deadline {
        if let Ok(depths) = serving.queue.depths().await
            && depths.iter().all(|depth| depth.ready == 0 && depth.unacked.unwrap_or(0) == 0)
        {
            return true;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    false
}

/// The stored events, counted by state.
async fn stored(store: &dyn Store) -> anyhow::Result<Events> {
    let mut events = Events::default();
    for count in store.event_counts().await.context("count the events")? {
        match count.state {
            EventState::Applied => events.applied += count.count,
            EventState::Recorded => events.recorded += count.count,
            EventState::Unlinked => events.unlinked += count.count,
            EventState::Dead | EventState::Retrying => events.dead += count.count,
        }
    }
    Ok(events)
}

fn expected_events(cases: &[Case]) -> Events {
    cases.iter().filter_map(|case| case.expect.as_ref()).fold(Events::default(), |sum, expect| Events {
        applied: sum.applied + expect.events.applied,
        recorded: sum.recorded + expect.events.recorded,
        unlinked: sum.unlinked + expect.events.unlinked,
        dead: sum.dead + expect.events.dead,
        duplicate: 0,
    })
}

/// How many duplicates this process has counted: no row remembers them.
fn duplicates() -> u64 {
    metrics::install()
        .render()
        .lines()
        .filter(|line| line.starts_with("finhook_events_total{") && line.contains("state=\"duplicate\""))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .map(|count| count as u64)
        .sum()
}

/// The report for people, with a few of the rows.
async fn show(
    report: &Report,
    cases: &[Case],
    took: Duration,
    app: &Configured,
    store: &dyn Store,
) -> anyhow::Result<()> {
    let Report { deliveries, events, rows, as_expected } = report;
    output::line(&format!(
        "{} fixtures played in {:.1} s, really signed, through HTTP\n",
        cases.len(),
        took.as_secs_f64()
    ))?;
    let table = [
        vec!["deliveries".to_owned(), format!("{} accepted, {} refused", deliveries.accepted, deliveries.refused)],
        vec![
            "events".to_owned(),
            format!(
                "{} applied, {} recorded, {} unlinked, {} dead; {} duplicates",
                events.applied, events.recorded, events.unlinked, events.dead, events.duplicate
            ),
        ],
        vec![
            "rows".to_owned(),
            format!("{} users, {} integrations, {} accounts", rows.user, rows.integration, rows.account),
        ],
        vec!["as expected".to_owned(), if *as_expected { "yes" } else { "NO" }.to_owned()],
    ];
    output::table(&["", "what came of it"], table)?;
    output::line("\nSome of the accounts (the identifiers are sealed in the database and opened for you here):\n")?;
    let vault = app.vault()?;
    let mut shown = Vec::new();
    for (provider, case) in cases.iter().map(|case| (case.provider.as_str(), case)).collect::<BTreeMap<_, _>>() {
        let accounts = cases.iter().filter(|case| case.provider == provider).filter_map(|case| case.expect.as_ref());
        for expect in accounts.filter(|expect| !expect.accounts.is_empty()).take(2) {
            let Some(integration) = expect.integrations.first() else { continue };
            for account in store.accounts(&UserId(integration.user.clone())).await.context("read the accounts")? {
                let id = expectation::open(&vault, &account, "external_id", &account.external_id)?;
                let sealed: String = account.external_id.iter().flat_map(|text| text.chars().take(16)).collect();
                shown.push(vec![
                    case.provider.clone(),
                    integration.user.clone(),
                    account.integration_external_id,
                    format!("{sealed}…"),
                    id.unwrap_or_default(),
                    account.status,
                    account.status_reason.unwrap_or_default(),
                ]);
            }
        }
    }
    output::table(&["service", "user", "integration", "sealed", "opened", "status", "reason"], shown)
}

//! A replay as a command: counts, asks, shows how far it is, and says how to go on when it was interrupted.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::app::Configured;
use super::opening::open_queue;
use super::{Done, audit, output};
use crate::config::QueueSettings;
use crate::domain::EventState;
use crate::pipeline::console::acts::why_left;
use crate::pipeline::replay::{Replayed, Replayer, Which};
use crate::store::audit::{About, Act, AuditEntry};

/// How many events that could not be replayed are named one by one.
const NAMED: usize = 20;
/// Without a terminal, every how many events a line says how far it is.
const SAY_EVERY: u64 = 10_000;

/// How a replay is run.
#[derive(Debug, clap::Args)]
pub struct How {
    /// Say how many it would be, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Go on after this id, where an interrupted replay ended
    #[arg(long, value_name = "ID")]
    after: Option<Uuid>,
    /// Why; kept in the audit trail
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// One JSON object as the summary
    #[arg(long)]
    json: bool,
}

/// A replay that somebody asked for.
pub struct Order {
    /// Which events.
    pub which: Which,
    /// Events in another state than this are left alone.
    pub only: Option<EventState>,
    /// How.
    pub how: How,
}

#[derive(Serialize)]
struct Summary<'a> {
    selected: u64,
    replayed: u64,
    left: Vec<LeftLine>,
    interrupted: Option<&'a str>,
    after: Option<Uuid>,
}

#[derive(Serialize)]
struct LeftLine {
    id: Uuid,
    why: String,
}

/// Replays.
pub async fn run(order: Order, app: &Configured) -> anyhow::Result<Done> {
    let how = order.how;
    let which = resumed(order.which, how.after);
    let vault = app.vault()?;
    let store = app.store(vault.clone()).await?;
    let stop = CancellationToken::new();
    let desk = app.desk(vault)?;
    // Embedded, the queue's file is one process's, and there is nobody else to leave the work to.
    let published = matches!(app.settings.queue, QueueSettings::RabbitMq(_));
    let selected = Replayer::new(store.clone(), desk.clone(), None, stop.clone()).count(&which).await;
    let selected = selected.context("count the events")?;
    if how.dry_run || selected == 0 || !agreed(how.yes, &format!("replay {selected} event(s)"))? {
        let replayed = Replayed::default();
        store.close().await;
        report(selected, &replayed, how.json, "would be replayed", selected)?;
        return Ok(if how.dry_run || selected == 0 { Done::Yes } else { Done::No });
    }
    app.start_log()?;
    let act = if order.only == Some(EventState::Dead) { Act::Requeue } else { Act::Replay };
    let selection = serde_json::json!({ "events": selected });
    let entry = audit::entry(act).because(how.reason.clone()).saying(&selection);
    audit::write(store.as_ref(), &about(entry, &which)).await?;
    let queue = if published { Some(open_queue(app).await?) } else { None };
    let replayer = Replayer::new(store.clone(), desk, queue.clone(), stop.clone());
    let interrupt = stop.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            interrupt.cancel();
        }
        if tokio::signal::ctrl_c().await.is_ok() {
            std::process::exit(130);
        }
    });
    let bar = progress(selected);
    let told = AtomicU64::new(0);
    let went = |events: u64| {
        bar.inc(events);
        let before = told.fetch_add(events, Ordering::Relaxed);
        if !output::draws_progress() && before / SAY_EVERY != (before + events) / SAY_EVERY {
            eprintln!("{} of {selected}", before + events);
        }
    };
    let refused = async {
        match &queue {
            Some(queue) => queue.stopped().await,
            None => std::future::pending().await,
        }
    };
    let replayed = tokio::select! {
        replayed = replayer.run(which, order.only, &went) => replayed.context("replay"),
        sentence = refused => Err(anyhow::anyhow!("the broker turns us away: {sentence}")),
    };
    bar.finish_and_clear();
    if let Some(queue) = queue {
        queue.close().await;
    }
    store.close().await;
    let replayed = replayed?;
    let verb = if published { "handed to the workers" } else { "taken through again" };
    report(selected, &replayed, how.json, verb, replayed.replayed)?;
    Ok(if replayed.interrupted.is_none() && replayed.left.is_empty() { Done::Yes } else { Done::No })
}

/// Says which events, as far as that fits: one by its id, or those of one subject.
fn about(entry: AuditEntry, which: &Which) -> AuditEntry {
    match which {
        Which::Ids(ids) => match ids.as_slice() {
            [id] => entry.about(About::Thing(format!("event {id}"))),
            _ => entry,
        },
        Which::Filter(filter) => match (&filter.provider, &filter.subject) {
            (Some(provider), Some(subject)) => entry.about(About::Subject(provider.clone(), subject.clone())),
            _ => entry,
        },
    }
}

/// Whether it may be done: said already, or asked for on a terminal. Elsewhere it says what to add, and no is no.
pub fn agreed(yes: bool, what: &str) -> anyhow::Result<bool> {
    if yes {
        return Ok(true);
    }
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        eprintln!("finhook: this would {what}; say --yes to do it");
        return Ok(false);
    }
    eprint!("{what}? [y/N] ");
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn resumed(which: Which, after: Option<Uuid>) -> Which {
    match (which, after) {
        (which, None) => which,
        (Which::Ids(ids), Some(after)) => Which::Ids(ids.into_iter().filter(|id| *id > after).collect()),
        (Which::Filter(mut filter), after) => {
            filter.after = after;
            Which::Filter(filter)
        }
    }
}

fn report(selected: u64, replayed: &Replayed, json: bool, verb: &str, count: u64) -> anyhow::Result<()> {
    let left = replayed.left.iter().map(|(id, why)| LeftLine { id: *id, why: why_left(*why) });
    let after = replayed.interrupted.and(replayed.last);
    if json {
        let left = left.collect();
        let (interrupted, replayed) = (replayed.interrupted, replayed.replayed);
        return output::json_line(&Summary { selected, replayed, left, interrupted, after });
    }
    output::line(&format!("{count} event(s) {verb}"))?;
    if !replayed.left.is_empty() {
        output::line(&format!("{} left as they are:", replayed.left.len()))?;
        output::table(&["id", "why"], left.take(NAMED).map(|left| vec![left.id.to_string(), left.why]))?;
        if replayed.left.len() > NAMED {
            output::line(&format!("and {} more; --json names all of them", replayed.left.len() - NAMED))?;
        }
    }
    if let Some(why) = replayed.interrupted {
        let go_on = after.map_or(String::new(), |id| format!("; go on with --after {id}"));
        eprintln!("finhook: not finished: {why}{go_on}");
    }
    Ok(())
}

fn progress(total: u64) -> ProgressBar {
    let target = if output::draws_progress() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {per_sec} {eta}");
    ProgressBar::with_draw_target(Some(total), target)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

//! `finhook dead`: the events that could not be applied, why, and what a person decides: again, or never mind.

use std::time::Duration;

use anyhow::Context;
use clap::Subcommand;
use serde::Serialize;
use uuid::Uuid;

use super::app::{App, BadConfiguration, Configured};
use super::events::{Narrow, each};
use super::replaying::{self, Order};
use super::{Done, audit, output};
use crate::domain::{Cause, EventState, Reason, Timestamp};
use crate::pipeline::console::events::{help, parts};
use crate::pipeline::replay::Which;
use crate::store::audit::{About, Act};
use crate::store::{EventRow, Store};

/// Arguments of `finhook dead`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List dead events, newest first, with reason and age
    List(List),
    /// Show why one event is dead and what helps
    Show(Show),
    /// Take dead events through finhook again
    Requeue(Requeue),
    /// Settle dead events: they stay as recorded, and another copy that cannot be read either stays a duplicate
    Discard(Discard),
}

#[derive(Debug, clap::Args)]
struct List {
    #[command(flatten)]
    narrow: Narrow,
    /// At most so many [default: 100 for people, all with --json]
    #[arg(long)]
    limit: Option<u64>,
    /// One JSON object per event
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct Show {
    /// The event's id
    id: Uuid,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "The same as `finhook events replay` for events that are dead, and for no others.\n\
                        Example: finhook dead requeue --provider unit --since 2026-01-31T00:00:00Z --yes")]
struct Requeue {
    /// The events' ids
    ids: Vec<Uuid>,
    /// All of them
    #[arg(long, conflicts_with_all = ["ids", "provider", "kind", "subject", "since", "until"])]
    all: bool,
    #[command(flatten)]
    narrow: Narrow,
    #[command(flatten)]
    how: replaying::How,
}

#[derive(Debug, clap::Args)]
struct Discard {
    /// The events' ids
    #[arg(required = true)]
    ids: Vec<Uuid>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Why; kept in the audit trail
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// What is printed of a dead event.
#[derive(Serialize)]
struct Line {
    id: Uuid,
    provider: String,
    kind: Option<String>,
    subject: Option<String>,
    reason: Option<String>,
    path: Option<String>,
    position: Option<u64>,
    attempts: u32,
    received_at: String,
    age_seconds: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_bytes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    help: Option<&'static str>,
}

impl Line {
    fn of(row: EventRow, now: Timestamp) -> Self {
        let stored = row.reason.unwrap_or_default();
        let (reason, path, position) = parts(&stored);
        Self {
            id: row.id,
            provider: row.provider,
            kind: row.kind,
            subject: row.subject,
            reason: Some(reason.to_owned()).filter(|reason| !reason.is_empty()),
            path: path.map(str::to_owned),
            position,
            attempts: row.attempts,
            received_at: row.received_at.to_string(),
            age_seconds: now.seconds() - row.received_at.seconds(),
            payload_bytes: None,
            help: None,
        }
    }

    fn place(&self) -> String {
        let path = self.path.clone();
        let position = self.position.map(|position| format!("byte {position}"));
        path.into_iter().chain(position).collect::<Vec<_>>().join(", ")
    }
}

/// Lists, shows, requeues or discards.
pub async fn run(args: Args, app: App) -> anyhow::Result<Done> {
    let app = app.configured()?;
    if let Command::Requeue(requeue) = args.command {
        return replaying::run(order(requeue)?, &app).await;
    }
    let store = app.store(app.vault()?).await?;
    let done = match args.command {
        Command::List(list) => self::list(list, store.as_ref(), app.clock.now()).await,
        Command::Show(show) => self::show(show, store.as_ref(), app.clock.now()).await,
        Command::Discard(discard) => self::discard(discard, store.as_ref(), &app).await,
        Command::Requeue(_) => Ok(Done::No),
    };
    store.close().await;
    done
}

async fn list(args: List, store: &dyn Store, now: Timestamp) -> anyhow::Result<Done> {
    let limit = args.limit.unwrap_or(if args.json { u64::MAX } else { 100 });
    let mut rows = Vec::new();
    each(store, args.narrow.filter(Some(EventState::Dead)), limit, &mut |row| {
        let line = Line::of(row, now);
        if args.json {
            return output::json_line(&line);
        }
        let (place, age) = (line.place(), age(line.age_seconds));
        rows.push(vec![
            line.id.to_string(),
            line.provider,
            line.kind.unwrap_or_default(),
            line.reason.unwrap_or_default(),
            place,
            line.subject.unwrap_or_default(),
            age,
        ]);
        Ok(())
    })
    .await?;
    if !args.json {
        output::table(&["id", "provider", "kind", "reason", "at", "subject", "age"], rows)?;
    }
    Ok(Done::Yes)
}

async fn show(args: Show, store: &dyn Store, now: Timestamp) -> anyhow::Result<Done> {
    let Some((row, payload)) = store.event(args.id).await.context("read the event")? else {
        eprintln!("finhook: there is no event {}", args.id);
        return Ok(Done::No);
    };
    if row.state != EventState::Dead {
        eprintln!("finhook: event {} is {}, not dead", args.id, row.state.as_str());
        return Ok(Done::No);
    }
    let help = Reason::cause_of(row.reason.as_deref().unwrap_or_default()).map(help);
    let line = Line { payload_bytes: Some(payload.len()), help, ..Line::of(row, now) };
    if args.json {
        output::json_line(&line)?;
        return Ok(Done::Yes);
    }
    let position = line.position.map_or(String::new(), |position| format!("byte {position}"));
    let fields = [
        ("id", line.id.to_string()),
        ("provider", line.provider),
        ("kind", line.kind.unwrap_or_default()),
        ("subject", line.subject.unwrap_or_default()),
        ("reason", line.reason.unwrap_or_default()),
        ("path", line.path.unwrap_or_default()),
        ("position", position),
        ("attempts", line.attempts.to_string()),
        ("received at", line.received_at),
        ("age", age(line.age_seconds)),
        ("payload", format!("{} bytes, sealed", payload.len())),
        ("what helps", help.unwrap_or_default().to_owned()),
    ];
    output::table(&["field", "value"], fields.into_iter().map(|(name, value)| vec![name.to_owned(), value]))?;
    Ok(Done::Yes)
}

fn order(args: Requeue) -> Result<Order, BadConfiguration> {
    if !args.all && args.ids.is_empty() && args.narrow.is_empty() {
        return Err(BadConfiguration::usage("name events by id, narrow them down, or say --all"));
    }
    if !args.ids.is_empty() && !args.narrow.is_empty() {
        return Err(BadConfiguration::usage("name events by id or narrow them down, not both"));
    }
    let dead = Some(EventState::Dead);
    let which = match args.ids.is_empty() {
        true => Which::Filter(Box::new(args.narrow.filter(dead))),
        false => Which::Ids(args.ids),
    };
    Ok(Order { which, only: dead, how: args.how })
}

async fn discard(args: Discard, store: &dyn Store, app: &Configured) -> anyhow::Result<Done> {
    if !replaying::agreed(args.yes, &format!("discard {} dead event(s)", args.ids.len()))? {
        return Ok(Done::No);
    }
    app.start_log()?;
    let ids: Vec<String> = args.ids.iter().map(Uuid::to_string).collect();
    let about = About::Thing(format!("event {}", ids.join(" ")));
    let entry = audit::entry(Act::Discard)
        .about(about)
        .because(args.reason)
        .saying(&serde_json::json!({ "events": ids.len() }));
    audit::write(store, &entry).await?;
    let done = store.conclude(&args.ids, EventState::Dead, EventState::Recorded, Cause::Discarded).await;
    let discarded = done.context("discard")?;
    for id in &discarded {
        tracing::info!(event.id = %id, "dead event discarded by hand");
    }
    let left: Vec<&Uuid> = args.ids.iter().filter(|id| !discarded.contains(id)).collect();
    if args.json {
        output::json_line(&serde_json::json!({ "discarded": discarded, "not_dead": left }))?;
    } else {
        output::line(&format!("{} event(s) discarded", discarded.len()))?;
        left.iter().for_each(|id| eprintln!("finhook: there is no dead event {id}"));
    }
    Ok(if left.is_empty() { Done::Yes } else { Done::No })
}

/// The two largest units of an age.
fn age(seconds: i64) -> String {
    let text = humantime::format_duration(Duration::from_secs(seconds.max(0).unsigned_abs())).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_has_two_units_at_most() {
        assert_eq!(age(0), "0s");
        assert_eq!(age(-5), "0s");
        assert_eq!(age(59), "59s");
        assert_eq!(age(3 * 86_400 + 4 * 3_600 + 5), "3days 4h");
    }
}

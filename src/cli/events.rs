//! `finhook events`: the stored events, without what is sealed in them, and their way through finhook again.

use anyhow::Context;
use clap::Subcommand;
use uuid::Uuid;

use super::app::{App, BadConfiguration};
use super::replaying::{self, Order};
use super::{Done, output};
use crate::domain::{EventState, Timestamp};
use crate::pipeline::console::events::EventView;
use crate::pipeline::replay::Which;
use crate::store::{EventFilter, EventRow, Store};

/// Rows read at a time.
const PAGE: u32 = 1_000;

/// Arguments of `finhook events`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List events, newest first
    List(List),
    /// Show one event
    Show(Show),
    /// Take stored events through finhook again, past the dedup and with their original time
    Replay(Replay),
}

/// Which events, by what their rows say.
#[derive(Debug, Clone, clap::Args)]
pub struct Narrow {
    /// Only this provider's
    #[arg(long)]
    provider: Option<String>,
    /// Only this kind, as the provider writes it
    #[arg(long)]
    kind: Option<String>,
    /// Only about this subject
    #[arg(long)]
    subject: Option<String>,
    /// Received at or after this RFC 3339 time
    #[arg(long, value_name = "RFC3339", value_parser = time)]
    since: Option<Timestamp>,
    /// Received before this RFC 3339 time
    #[arg(long, value_name = "RFC3339", value_parser = time)]
    until: Option<Timestamp>,
}

impl Narrow {
    /// The filter of the store.
    pub fn filter(self, state: Option<EventState>) -> EventFilter {
        EventFilter {
            provider: self.provider,
            kind: self.kind,
            state,
            subject: self.subject,
            since: self.since,
            until: self.until,
            limit: PAGE,
            ..EventFilter::default()
        }
    }

    /// Whether it lets everything through.
    pub fn is_empty(&self) -> bool {
        let texts = [&self.provider, &self.kind, &self.subject];
        texts.iter().all(|text| text.is_none()) && self.since.is_none() && self.until.is_none()
    }
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: finhook events list --provider unit --state dead --json")]
struct List {
    #[command(flatten)]
    narrow: Narrow,
    /// Only in this state
    #[arg(long, value_parser = state)]
    state: Option<EventState>,
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
#[command(
    after_help = "With RabbitMQ the events are published for the workers; embedded, they are applied at once, also beside a\n\
                        running `finhook serve`. A replay never moves a row backwards. Ctrl-C ends it and names the --after\n\
                        to go on with.\n\
                        Example: finhook events replay --provider unit --kind account.created --dry-run"
)]
struct Replay {
    /// The events' ids
    ids: Vec<Uuid>,
    #[command(flatten)]
    narrow: Narrow,
    /// Only in this state
    #[arg(long, value_parser = state)]
    state: Option<EventState>,
    /// Every stored event
    #[arg(long, conflicts_with_all = ["ids", "provider", "kind", "subject", "since", "until", "state"])]
    all: bool,
    #[command(flatten)]
    how: replaying::How,
}

fn state(text: &str) -> Result<EventState, String> {
    let names = || EventState::ALL.map(EventState::as_str).join(", ");
    EventState::parse(text).ok_or_else(|| format!("not a state: there are {}", names()))
}

/// Reads a time as people write it.
pub fn time(text: &str) -> Result<Timestamp, &'static str> {
    Timestamp::parse(text).ok_or("not an RFC 3339 time such as 2026-01-31T12:00:00Z")
}

/// Lists or shows.
pub async fn run(args: Args, app: App) -> anyhow::Result<Done> {
    let app = app.configured()?;
    if let Command::Replay(replay) = args.command {
        return replaying::run(order(replay)?, &app).await;
    }
    let store = app.store(app.vault()?).await?;
    let done = match args.command {
        Command::List(list) => self::list(list, store.as_ref()).await,
        Command::Show(show) => self::show(show, store.as_ref()).await,
        Command::Replay(_) => Ok(Done::No),
    };
    store.close().await;
    done
}

fn order(args: Replay) -> Result<Order, BadConfiguration> {
    if !args.all && args.ids.is_empty() && args.narrow.is_empty() && args.state.is_none() {
        return Err(BadConfiguration::usage("name events by id, narrow them down, or say --all"));
    }
    if !args.ids.is_empty() && !args.narrow.is_empty() {
        return Err(BadConfiguration::usage("name events by id or narrow them down, not both"));
    }
    let which = match args.ids.is_empty() {
        true => Which::Filter(Box::new(args.narrow.filter(args.state))),
        false => Which::Ids(args.ids),
    };
    Ok(Order { which, only: args.state, how: args.how })
}

async fn list(args: List, store: &dyn Store) -> anyhow::Result<Done> {
    let limit = args.limit.unwrap_or(if args.json { u64::MAX } else { 100 });
    let mut rows = Vec::new();
    each(store, args.narrow.filter(args.state), limit, &mut |row| {
        let line = EventView::from(row);
        if args.json {
            return output::json_line(&line);
        }
        rows.push(cells(line));
        Ok(())
    })
    .await?;
    if !args.json {
        output::table(&["id", "provider", "kind", "state", "reason", "subject", "occurred at", "received at"], rows)?;
    }
    Ok(Done::Yes)
}

/// The newest `left` events that a filter lets through, a page at a time.
pub async fn each(
    store: &dyn Store,
    mut filter: EventFilter,
    mut left: u64,
    take: &mut (dyn FnMut(EventRow) -> anyhow::Result<()> + Send),
) -> anyhow::Result<()> {
    while left > 0 {
        filter.limit = u32::try_from(left).unwrap_or(PAGE).min(PAGE);
        let page = store.events(&filter).await.context("read the events")?;
        let Some(last) = page.last() else { break };
        filter.before = Some(last.id);
        left = left.saturating_sub(page.len() as u64);
        page.into_iter().try_for_each(&mut *take)?;
    }
    Ok(())
}

fn cells(line: EventView) -> Vec<String> {
    vec![
        line.id.to_string(),
        line.provider,
        line.kind.unwrap_or_default(),
        line.state.to_owned(),
        line.reason.unwrap_or_default(),
        line.subject.unwrap_or_default(),
        line.occurred_at,
        line.received_at,
    ]
}

async fn show(args: Show, store: &dyn Store) -> anyhow::Result<Done> {
    let Some((row, payload)) = store.event(args.id).await.context("read the event")? else {
        eprintln!("finhook: there is no event {}", args.id);
        return Ok(Done::No);
    };
    let line = EventView::from(row);
    if args.json {
        output::json_line(&line)?;
        return Ok(Done::Yes);
    }
    let fields = serde_json::to_value(&line)?;
    let rows = fields.as_object().into_iter().flatten().map(|(name, value)| {
        let text = value
            .as_str()
            .map_or_else(|| if value.is_null() { String::new() } else { value.to_string() }, str::to_owned);
        vec![name.clone(), text]
    });
    let sealed = vec!["payload".to_owned(), format!("{} bytes, sealed", payload.len())];
    output::table(&["field", "value"], rows.chain([sealed]))?;
    Ok(Done::Yes)
}

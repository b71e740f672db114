//! `finhook audit`: the trail of who opened what was sealed or decided what becomes of rows; and how other commands add
//! to it.

use std::io::{self, IsTerminal, Write};

use anyhow::Context;
use clap::Subcommand;
use serde::Serialize;
use uuid::Uuid;

use super::app::{App, BadConfiguration};
use super::{Done, output};
use crate::config;
use crate::domain::{Timestamp, UserId};
use crate::store::Store;
use crate::store::audit::{About, Act, AuditEntry, AuditFilter, AuditRow};

/// Rows read at a time.
const PAGE: u32 = 1_000;

/// Arguments of `finhook audit`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List who did what, when and why, newest first
    List(List),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "--user finds entries about a forgotten user too: by a keyed mark, since their id is gone.\n\
                        Example: finhook audit list --act reveal --since 2026-01-01T00:00:00Z --json")]
struct List {
    /// Only this act (reveal, forget, remember, link, discard, requeue, replay, keys.rotate, …)
    #[arg(long, value_parser = act)]
    act: Option<Act>,
    /// Only by this actor, as it is listed
    #[arg(long)]
    actor: Option<String>,
    /// Only about this user, by our id
    #[arg(long, value_name = "ID")]
    user: Option<String>,
    /// At or after this RFC 3339 time
    #[arg(long, value_name = "RFC3339", value_parser = super::events::time)]
    since: Option<Timestamp>,
    /// Before this RFC 3339 time
    #[arg(long, value_name = "RFC3339", value_parser = super::events::time)]
    until: Option<Timestamp>,
    /// At most so many [default: 100 for people, all with --json]
    #[arg(long)]
    limit: Option<u64>,
    /// One JSON object per entry
    #[arg(long)]
    json: bool,
}

fn act(text: &str) -> Result<Act, String> {
    let found = Act::ALL.iter().copied().find(|act| act.as_str() == text);
    let names = || Act::ALL.iter().map(|act| act.as_str()).collect::<Vec<_>>().join(", ");
    found.ok_or_else(|| format!("not an act: there are {}", names()))
}

#[derive(Serialize)]
struct Line {
    id: Uuid,
    at: String,
    actor: String,
    act: String,
    target: Option<String>,
    reason: Option<String>,
    detail: Option<serde_json::Value>,
}

impl From<AuditRow> for Line {
    fn from(row: AuditRow) -> Self {
        let detail =
            row.detail.clone().map(|text| serde_json::from_str(&text).unwrap_or(serde_json::Value::String(text)));
        let AuditRow { id, at, actor, act, target, reason, .. } = row;
        Self { id, at: at.to_string(), actor, act, target, reason, detail }
    }
}

/// Lists.
pub async fn run(args: Args, app: App) -> anyhow::Result<Done> {
    let Command::List(list) = args.command;
    let app = app.configured()?;
    let store = app.store(app.vault()?).await?;
    let mut left = list.limit.unwrap_or(if list.json { u64::MAX } else { 100 });
    let mut filter = AuditFilter {
        act: list.act.map(|act| act.as_str().to_owned()),
        actor: list.actor,
        about: list.user.map(|user| About::User(UserId(user))),
        since: list.since,
        until: list.until,
        before: None,
        limit: PAGE,
    };
    let mut rows = Vec::new();
    while left > 0 {
        filter.limit = u32::try_from(left).unwrap_or(PAGE).min(PAGE);
        let page = store.audits(&filter).await.context("read the audit trail")?;
        let Some(last) = page.last() else { break };
        filter.before = Some(last.id);
        left = left.saturating_sub(page.len() as u64);
        for row in page {
            let line = Line::from(row);
            if list.json {
                output::json_line(&line)?;
            } else {
                rows.push(cells(line));
            }
        }
    }
    store.close().await;
    if !list.json {
        output::table(&["at", "actor", "act", "target", "reason", "detail"], rows)?;
    }
    Ok(Done::Yes)
}

fn cells(line: Line) -> Vec<String> {
    vec![
        line.at,
        line.actor,
        line.act,
        line.target.unwrap_or_default(),
        line.reason.unwrap_or_default(),
        line.detail.map(|detail| detail.to_string()).unwrap_or_default(),
    ]
}

/// Whoever runs this command does something: an entry of theirs.
pub fn entry(act: Act) -> AuditEntry {
    AuditEntry::new(config::caller(), act)
}

/// Writes an entry before the act that it is about: what cannot be audited is not done.
pub async fn write(store: &dyn Store, entry: &AuditEntry) -> anyhow::Result<()> {
    store.audit(entry).await.context("write the audit trail")
}

/// Why, for an act that needs a reason: given, or asked for on a terminal.
pub fn needed_reason(given: Option<String>) -> anyhow::Result<String> {
    let reason = match given {
        Some(reason) => reason,
        None if io::stdin().is_terminal() && io::stderr().is_terminal() => {
            eprint!("reason (it is kept in the audit trail): ");
            io::stderr().flush()?;
            let mut line = String::new();
            io::stdin().read_line(&mut line)?;
            line
        }
        None => String::new(),
    };
    let reason = reason.trim();
    if reason.is_empty() {
        return Err(BadConfiguration::usage("--reason TEXT is needed: it is kept in the audit trail").into());
    }
    Ok(reason.to_owned())
}

//! `finhook keys status`: which key sealed how much, in tables, queues and spool.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use serde::Serialize;

use super::waiting;
use crate::cli::app::App;
use crate::cli::{Done, output};
use crate::pipeline::retire::Waiting;
use crate::pipeline::rotate::{self, Survey};
use crate::store::Vault;
use crate::store::keys::{KnownKey, Purpose, Sighting};

/// Arguments of `finhook keys status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// One JSON object per key, then one per queue
    #[arg(long)]
    json: bool,
}

/// One key.
#[derive(Serialize)]
struct KeyLine {
    /// `None`: what stands there says of no key.
    key: Option<u32>,
    in_ring: bool,
    seals: bool,
    first_seen_at: Option<String>,
    first_since: Option<String>,
    retired_at: Option<String>,
    /// By column.
    sealed: BTreeMap<String, u64>,
    /// Messages kept as they came.
    kept: u64,
    /// In queues that can be looked into.
    waiting: u64,
    newest_delivery: Option<String>,
}

/// One queue.
#[derive(Serialize)]
struct QueueLine<'a> {
    queue: &'a str,
    waiting: u64,
    /// By key; `None`: it cannot be looked into.
    under: Option<BTreeMap<String, u64>>,
    newest_committed: Option<String>,
}

/// Shows it.
pub async fn run(args: Args, app: App) -> anyhow::Result<Done> {
    let app = app.configured()?;
    let vault = app.vault()?;
    let store = app.store(vault.clone()).await?;
    let known = store.keys().known_keys().await.context("load the known keys")?;
    let sightings = store.keys().sightings().await.context("load deliveries' keys")?;
    let survey = rotate::survey(store.as_ref(), &vault).await.context("count what is sealed")?;
    store.close().await;
    let queues = waiting::look(&app).await?;
    let keys = lines(&vault, &known, &survey, &queues, &sightings);
    let queues: Vec<QueueLine<'_>> = queues.iter().map(|queue| queue_line(queue, &sightings)).collect();
    if args.json {
        keys.iter().try_for_each(output::json_line)?;
        queues.iter().try_for_each(output::json_line)?;
        return Ok(Done::Yes);
    }
    let header = [
        "key",
        "state",
        "authorization_id",
        "account.external_id",
        "account.baas_id",
        "event.payload",
        "kept",
        "waiting",
        "newest delivery",
    ];
    output::table(&header, keys.iter().map(cells))?;
    output::line("")?;
    let rows = queues.iter().map(|queue| {
        let under = queue.under.as_ref().map_or("cannot be looked into".to_owned(), |under| {
            under.iter().map(|(key, count)| format!("{key}: {count}")).collect::<Vec<_>>().join(", ")
        });
        let newest = queue.newest_committed.clone().unwrap_or_default();
        vec![queue.queue.to_owned(), queue.waiting.to_string(), under, newest]
    });
    output::table(&["queue", "waiting", "by key", "newest committed"], rows)?;
    Ok(Done::Yes)
}

fn lines(
    vault: &Vault,
    known: &[KnownKey],
    survey: &Survey,
    queues: &[Waiting],
    sightings: &[Sighting],
) -> Vec<KeyLine> {
    let columns = survey.columns.iter().map(|(_, by_key)| by_key);
    let under = queues.iter().filter_map(|queue| queue.under.as_ref());
    let counted = columns.chain([&survey.kept]).chain(under).flat_map(|by_key| by_key.keys().copied());
    let ring = known.iter().filter(|key| key.purpose == Purpose::Ring);
    let ids: BTreeSet<Option<u32>> = counted
        .chain(vault.ring.ids().into_iter().map(Some))
        .chain(ring.map(|key| Some(key.id)))
        .chain(sightings.iter().map(|seen| Some(seen.key)))
        .collect();
    let line = |id: Option<u32>| {
        let known = known.iter().find(|key| key.purpose == Purpose::Ring && Some(key.id) == id);
        let newest = sightings.iter().filter(|seen| Some(seen.key) == id).map(|seen| seen.received_at).max();
        let of = |by_key: &rotate::ByKey| by_key.get(&id).copied().unwrap_or(0);
        KeyLine {
            key: id,
            in_ring: id.is_some_and(|id| vault.ring.holds(id)),
            seals: id == Some(vault.ring.primary()),
            first_seen_at: known.map(|key| key.first_seen_at.to_string()),
            first_since: known.and_then(|key| key.primary_at).map(|at| at.to_string()),
            retired_at: known.and_then(|key| key.retired_at).map(|at| at.to_string()),
            sealed: survey
                .columns
                .iter()
                .map(|(shelf, by_key)| (format!("{}.{}", shelf.table(), shelf.column()), of(by_key)))
                .collect(),
            kept: of(&survey.kept),
            waiting: queues.iter().filter_map(|queue| queue.under.as_ref()).map(of).sum(),
            newest_delivery: newest.map(|at| at.to_string()),
        }
    };
    ids.into_iter().map(line).collect()
}

fn queue_line<'a>(waiting: &'a Waiting, sightings: &[Sighting]) -> QueueLine<'a> {
    let newest = sightings.iter().filter(|seen| seen.queue == waiting.queue).map(|seen| seen.received_at).max();
    let name = |key: &Option<u32>| key.map_or("none".to_owned(), |key| key.to_string());
    let under = waiting.under.as_ref().map(|under| under.iter().map(|(key, count)| (name(key), *count)).collect());
    QueueLine {
        queue: &waiting.queue,
        waiting: waiting.count,
        under,
        newest_committed: newest.map(|at| at.to_string()),
    }
}

fn cells(line: &KeyLine) -> Vec<String> {
    let state = match (line.seals, line.in_ring, &line.retired_at) {
        (true, _, _) => line.first_since.as_ref().map_or("seals".to_owned(), |at| format!("seals since {at}")),
        (false, true, Some(at)) => format!("retired {at}, can be taken out"),
        (false, true, None) => "opens".to_owned(),
        (false, false, Some(at)) => format!("retired {at}"),
        (false, false, None) => "not in FINHOOK_KEYS".to_owned(),
    };
    let of = |column: &str| line.sealed.get(column).copied().unwrap_or(0).to_string();
    vec![
        line.key.map_or("none".to_owned(), |key| key.to_string()),
        state,
        of("integration.authorization_id"),
        of("account.external_id"),
        of("account.baas_id"),
        of("event.payload"),
        line.kept.to_string(),
        line.waiting.to_string(),
        line.newest_delivery.clone().unwrap_or_default(),
    ]
}

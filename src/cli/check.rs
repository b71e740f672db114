//! `finhook check`: the effective configuration, redacted, and whether database, broker and keys answer.

use std::time::Duration;

use serde::Serialize;

use super::app::{App, Configured};
use super::serving::{open_queue, spool};
use super::{Done, output};
use crate::config::{QueueSettings, StoreSettings};
use crate::crypto::Place;
use crate::providers::PROVIDERS;
use crate::queue::spool::{Contents, Spool, SpoolSettings};
use crate::queue::{Depth, Queue, QueueError};
use secrecy::ExposeSecret;

/// How long each thing that is tried may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a broker is asked that is not connected yet.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Arguments of `finhook check`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// Something that was tried.
#[derive(Serialize)]
struct Tried {
    what: String,
    ok: bool,
    said: String,
}

/// Prints and tries.
pub async fn run(args: Args) -> anyhow::Result<Done> {
    let app = App::load()?.configured()?;
    let effective = app.values().effective();
    let tried = try_everything(&app).await;
    let well = tried.iter().all(|tried| tried.ok);
    if args.json {
        let settings: Vec<_> = effective
            .into_iter()
            .map(|e| serde_json::json!({ "name": e.name, "origin": e.origin, "value": e.shown }))
            .collect();
        output::json_line(&serde_json::json!({ "settings": settings, "checks": tried, "ok": well }))?;
    } else {
        output::table(
            &["setting", "value", "from"],
            effective.into_iter().map(|e| vec![e.name.to_string(), e.shown, e.origin]),
        )?;
        output::line("")?;
        let rows = tried.into_iter().map(|t| vec![t.what, if t.ok { "ok" } else { "NOT OK" }.to_owned(), t.said]);
        output::table(&["tried", "", "says"], rows)?;
    }
    Ok(if well { Done::Yes } else { Done::No })
}

async fn try_everything(app: &Configured) -> Vec<Tried> {
    let mut tried = vec![tried("keys", keys(app)), tried("database", bounded(database(app)).await)];
    tried.push(self::tried("queue", bounded(queue(app)).await));
    if let Some(settings) = spool(app) {
        tried.push(self::tried("spool", bounded(look(&settings)).await));
    }
    tried.extend(PROVIDERS.iter().map(|provider| {
        let said = app.setup().map_err(|error| error.to_string()).and_then(|setup| {
            match (provider.verifier)(&setup).map_err(|error| error.to_string())? {
                Some(_) => Ok("takes deliveries".to_owned()),
                None => Ok("has no secret: answers 503".to_owned()),
            }
        });
        self::tried(provider.name.as_str(), said)
    }));
    let object_signatures = app.values().flag("FINHOOK_SYNAPSE_ALLOW_OBJECT_SIGNATURES").unwrap_or(false);
    if object_signatures {
        let said = "allowed: whoever saw one delivery can forge any body for that object".to_owned();
        tried.push(Tried { what: "synapse object signatures".to_owned(), ok: true, said });
    }
    tried
}

fn tried(what: &str, said: Result<String, String>) -> Tried {
    let ok = said.is_ok();
    Tried { what: what.to_owned(), ok, said: said.unwrap_or_else(|error| error) }
}

async fn bounded(attempt: impl Future<Output = Result<String, String>>) -> Result<String, String> {
    tokio::time::timeout(PATIENCE, attempt).await.unwrap_or_else(|_| Err("no answer within 10 s".to_owned()))
}

/// Keys can be read, and what they seal they open.
fn keys(app: &Configured) -> Result<String, String> {
    let vault = app.vault().map_err(|error| error.to_string())?;
    let place = Place { table: "check", column: "canary", key: &[] };
    let sealed = vault.ring.seal_column(&place, "canary");
    let opened = vault.ring.open_column(&place, sealed.as_str()).map_err(|error| error.to_string())?;
    let bound = if app.url_keys().map_err(|error| error.to_string())?.is_some() { "on" } else { "off" };
    if opened.expose_secret() != "canary" {
        return Err("a sealed value opens as another".to_owned());
    }
    let ids: Vec<String> = vault.ring.ids().iter().map(ToString::to_string).collect();
    Ok(format!("key {} seals, keys {} open, bound webhook URLs are {bound}", vault.ring.primary(), ids.join(", ")))
}

async fn database(app: &Configured) -> Result<String, String> {
    let vault = app.vault().map_err(|error| error.to_string())?;
    let store = app.store_as_it_is(vault).await.map_err(|error| format!("{error:#}"))?;
    store.ping().await.map_err(|error| error.to_string())?;
    let pending = store.migrations().await.map_err(|error| error.to_string())?;
    store.close().await;
    let pending = pending.iter().filter(|migration| !migration.applied).count();
    let embedded = matches!(app.settings.store, StoreSettings::Sqlite { .. });
    match pending {
        0 => Ok("answers, every migration applied".to_owned()),
        n if embedded => Ok(format!("answers; {n} migration(s) will be applied by `finhook serve`")),
        n => Err(format!("answers, but {n} migration(s) are missing: run `finhook migrate up`")),
    }
}

async fn look(settings: &SpoolSettings) -> Result<String, String> {
    let (path, contents) = Spool::look(settings).await.map_err(|error| error.to_string())?;
    let path = path.display();
    Ok(match contents {
        Contents::Absent => format!("{path}: `finhook serve` will make it"),
        Contents::InUse => format!("{path}: a running receiver has it open"),
        Contents::Waiting(0) => format!("{path}: empty"),
        Contents::Waiting(count) => format!("{path}: {count} delivery(ies) wait for a receiver to forward them"),
    })
}

async fn queue(app: &Configured) -> Result<String, String> {
    if let QueueSettings::Embedded { path, .. } = &app.settings.queue
        && !path.exists()
    {
        return Ok("embedded; `finhook serve` will make it".to_owned());
    }
    let queue = open_queue(app).await.map_err(|error| format!("{error:#}"))?;
    let depths = tokio::select! {
        depths = once_connected(queue.as_ref()) => depths.map_err(|error| error.to_string()),
        sentence = queue.stopped() => Err(sentence),
    };
    queue.close().await;
    let waiting: u64 = depths?.iter().map(|depth| depth.ready).sum();
    Ok(format!("answers, {waiting} message(s) wait"))
}

/// The depths, as soon as there is a connection: one to a broker is made in the background.
async fn once_connected(queue: &dyn Queue) -> Result<Vec<Depth>, QueueError> {
    loop {
        match queue.depths().await {
            Err(QueueError::Gone) => tokio::time::sleep(LOOK_EVERY).await,
            depths => return depths,
        }
    }
}

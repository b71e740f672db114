//! `finhook keys retire`: says that a key is needed no more, or everything that still needs it.

use anyhow::Context;

use super::waiting;
use crate::cli::app::{App, BadConfiguration};
use crate::cli::{Done, audit, output};
use crate::pipeline::retire::Evidence;
use crate::pipeline::rotate;
use crate::store::audit::{About, Act};
use crate::store::keys::Purpose;

/// Arguments of `finhook keys retire`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The key's id
    id: u32,
    /// Why; kept in the audit trail
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// Retires.
pub async fn run(args: Args, app: App) -> anyhow::Result<Done> {
    let app = app.configured()?;
    let vault = app.vault()?;
    let store = app.store(vault.clone()).await?;
    let known = store.keys().known_keys().await.context("load the known keys")?;
    if !known.iter().any(|key| key.purpose == Purpose::Ring && key.id == args.id) {
        return Err(BadConfiguration::usage(format!("key {}: this database knows no key of that id", args.id)).into());
    }
    let survey = rotate::survey(store.as_ref(), &vault).await.context("count what is sealed")?;
    let sightings = store.keys().sightings().await.context("load deliveries' keys")?;
    let queues = waiting::look(&app).await?;
    let evidence = Evidence {
        primary: vault.ring.primary(),
        known: &known,
        survey: &survey,
        queues: &queues,
        sightings: &sightings,
        now: app.clock.now(),
    };
    let reasons = evidence.against(args.id);
    if reasons.is_empty() {
        let about = About::Thing(format!("key {}", args.id));
        audit::write(store.as_ref(), &audit::entry(Act::RetireKey).about(about).because(args.reason)).await?;
        store.keys().note_retired(args.id).await.context("note the retired key")?;
    }
    store.close().await;
    if args.json {
        output::json_line(&serde_json::json!({ "key": args.id, "retired": reasons.is_empty(), "needed_by": reasons }))?;
    } else if reasons.is_empty() {
        output::line(&format!("key {} is retired: take it out of FINHOOK_KEYS, everywhere", args.id))?;
    } else {
        eprintln!("finhook: key {} cannot go yet:", args.id);
        reasons.iter().for_each(|reason| eprintln!("  - {reason}"));
    }
    Ok(if reasons.is_empty() { Done::Yes } else { Done::No })
}

//! `finhook secrets`: the providers' inbound secrets, by their place in the list, and when each last proved a delivery.

use anyhow::Context;
use serde::Serialize;

use super::app::{App, BadConfiguration, Configured};
use super::{Done, output};
use crate::providers::{PROVIDERS, Provider};
use crate::store::{SecretUse, Store, Vault, marks};

/// Arguments of `finhook secrets`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "To roll a secret: put the new one into the list, `kill -HUP` the receivers, change it at the provider, wait\n\
                        until only the new one is used, take the old one out, `kill -HUP` again. Never the secret itself is\n\
                        shown, only a keyed fingerprint. Workers write the times down every half minute."
)]
pub struct Args {
    /// One JSON object per secret
    #[arg(long)]
    json: bool,
}

/// One secret.
#[derive(Debug, Serialize)]
pub struct Line {
    /// Whose.
    pub provider: String,
    /// Its place in the list, from 1; `None` = it was used and is configured here no more.
    pub place: Option<usize>,
    /// Which one.
    pub fingerprint: String,
    /// When it last proved a delivery.
    pub last_verified_at: Option<String>,
}

/// Lists them.
pub async fn run(args: Args, app: App) -> anyhow::Result<Done> {
    let app = app.configured()?;
    let vault = app.vault()?;
    let store = app.store(vault.clone()).await?;
    let lines = lines(&app, &vault, store.as_ref()).await?;
    store.close().await;
    if args.json {
        lines.iter().try_for_each(output::json_line)?;
        return Ok(Done::Yes);
    }
    let rows = lines.into_iter().map(|line| {
        let place = line.place.map_or_else(|| "not configured here".to_owned(), |place| place.to_string());
        let used = line.last_verified_at.unwrap_or_else(|| "never".to_owned());
        vec![line.provider, place, line.fingerprint, used]
    });
    output::table(&["provider", "place", "fingerprint", "last verified"], rows)?;
    Ok(Done::Yes)
}

/// What is configured here, in its order, then what was used and is not.
pub async fn lines(app: &Configured, vault: &Vault, store: &dyn Store) -> anyhow::Result<Vec<Line>> {
    let used = store.secrets_used().await.context("read which secrets were used")?;
    let mut lines = Vec::new();
    for provider in PROVIDERS {
        lines.extend(of_provider(provider, app, vault, &used)?);
    }
    Ok(lines)
}

fn of_provider(
    provider: &Provider,
    app: &Configured,
    vault: &Vault,
    used: &[SecretUse],
) -> Result<Vec<Line>, BadConfiguration> {
    let verifier = (provider.verifier)(&app.setup()?)?;
    let secrets = verifier.as_deref().map_or(&[][..], |verifier| verifier.secrets());
    let name = provider.name.as_str();
    let fingerprints: Vec<String> =
        secrets.iter().map(|secret| marks::of_secret(&vault.index, provider.name, secret)).collect();
    let used: Vec<&SecretUse> = used.iter().filter(|used| used.provider == name).collect();
    let line = |place: Option<usize>, fingerprint: &str| Line {
        provider: name.to_owned(),
        place,
        fingerprint: fingerprint.to_owned(),
        last_verified_at: used
            .iter()
            .find(|used| used.fingerprint == fingerprint)
            .map(|used| used.last_verified_at.to_string()),
    };
    let configured = fingerprints.iter().enumerate().map(|(place, fingerprint)| line(Some(place + 1), fingerprint));
    let others = used.iter().filter(|used| !fingerprints.contains(&used.fingerprint));
    Ok(configured.chain(others.map(|used| line(None, &used.fingerprint))).collect())
}

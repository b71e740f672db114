//! `finhook check`: the effective configuration, redacted, and a look at everything that it names, each with what to do
//! about it.
//!
//! Law: it changes nothing at database and broker. What is missing there and is made by `serve` is said, and is no fault.

mod broker;
mod database;

use std::time::Duration;

use secrecy::ExposeSecret;
use serde::Serialize;

use super::app::{App, Configured};
use super::{Done, output, secrets};
use crate::crypto::Place;
use crate::domain::Timestamp;
use crate::providers::PROVIDERS;

/// How long each thing that is tried may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Clocks that differ by more make lag, ages and retries wrong, and signatures stale.
const MOST_SKEW: f64 = 5.0;

/// Arguments of `finhook check`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit code 0: all is well; 1: something is not, and what to do is said beside it; 64: the \
                        configuration cannot be read.")]
pub struct Args {
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// Something that was tried.
#[derive(Debug, Serialize)]
struct Tried {
    what: String,
    ok: bool,
    said: String,
    /// What to do, where there is something.
    #[serde(rename = "do", skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

/// What is wrong, and what to do about it.
struct Fault {
    said: String,
    advice: String,
}

/// How a try went: what is to be said, or what is wrong.
type Verdict = Result<String, Fault>;

impl Fault {
    fn new(said: impl ToString, advice: impl Into<String>) -> Self {
        Self { said: said.to_string(), advice: advice.into() }
    }
}

impl Tried {
    fn new(what: impl Into<String>, verdict: Verdict) -> Self {
        let (ok, said, advice) = match verdict {
            Ok(said) => (true, said, None),
            Err(fault) => (false, fault.said, Some(fault.advice)),
        };
        Self { what: what.into(), ok, said, advice }
    }

    /// Well, with something that a person may want to do all the same.
    fn advised(what: &str, said: impl Into<String>, advice: &str) -> Self {
        Self { what: what.to_owned(), ok: true, said: said.into(), advice: Some(advice.to_owned()) }
    }
}

/// Prints and tries.
pub async fn run(args: Args) -> anyhow::Result<Done> {
    let app = App::load()?.configured()?;
    let effective = app.values().effective();
    let given = effective.iter().filter(|setting| setting.origin != "default" && setting.origin != "not set").count();
    let mut tried = vec![Tried::new("configuration", Ok(format!("can be read; {given} settings are given")))];
    tried.extend(try_everything(&app).await);
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
        let rows = tried.into_iter().map(|tried| {
            let verdict = if tried.ok { "ok" } else { "NOT OK" };
            vec![tried.what, verdict.to_owned(), tried.said, tried.advice.unwrap_or_default()]
        });
        output::table(&["tried", "", "says", "what to do"], rows)?;
    }
    Ok(if well { Done::Yes } else { Done::No })
}

async fn try_everything(app: &Configured) -> Vec<Tried> {
    let mut tried = vec![Tried::new("keys", keys(app))];
    tried.extend(database::tried(app).await);
    tried.extend(broker::tried(app).await);
    let used = used_secrets(app).await;
    tried.extend(PROVIDERS.iter().map(|provider| {
        let secrets = provider.variables.iter().filter(|variable| variable.secret).map(|variable| variable.name);
        let advice = || format!("set {} where it posts to you", secrets.clone().collect::<Vec<_>>().join(" or "));
        let takes = app.setup().map_err(|error| error.to_string()).and_then(|setup| {
            (provider.verifier)(&setup).map(|verifier| verifier.is_some()).map_err(|error| error.to_string())
        });
        match takes {
            Ok(true) => {
                let said = format!("takes deliveries{}", said_of_secrets(&used, provider.name.as_str()));
                Tried::new(provider.name.as_str(), Ok(said))
            }
            Ok(false) => Tried::advised(provider.name.as_str(), "has no secret: answers 503", &advice()),
            Err(error) => Tried::new(provider.name.as_str(), Err(Fault::new(error, "correct that setting"))),
        }
    }));
    let object_signatures = app.values().flag("FINHOOK_SYNAPSE_ALLOW_OBJECT_SIGNATURES").unwrap_or(false);
    if object_signatures {
        let said = "allowed: whoever saw one delivery can forge any body for that object";
        let advice = "leave FINHOOK_SYNAPSE_ALLOW_OBJECT_SIGNATURES out as soon as Synapse signs whole bodies for you";
        tried.push(Tried::advised("synapse object signatures", said, advice));
    }
    tried
}

/// The inbound secrets with their last use; none where the database cannot say.
async fn used_secrets(app: &Configured) -> Vec<secrets::Line> {
    let asked = async {
        let vault = app.vault().map_err(|error| error.to_string())?;
        let store = app.store_as_it_is(vault.clone()).await.map_err(|error| error.to_string())?;
        let lines = secrets::lines(app, &vault, store.as_ref()).await.map_err(|error| error.to_string());
        store.close().await;
        lines
    };
    // Why not is said beside the database.
    tokio::time::timeout(PATIENCE, asked).await.ok().and_then(Result::ok).unwrap_or_default()
}

fn said_of_secrets(lines: &[secrets::Line], provider: &str) -> String {
    let of_provider = lines.iter().filter(|line| line.provider == provider);
    let said = of_provider.filter_map(|line| {
        let used = line.last_verified_at.as_deref().map_or("never used".to_owned(), |at| format!("last used {at}"));
        Some(format!("; secret {} ({}) {used}", line.place?, line.fingerprint))
    });
    said.collect()
}

async fn bounded(advice: &str, attempt: impl Future<Output = Verdict>) -> Verdict {
    tokio::time::timeout(PATIENCE, attempt)
        .await
        .unwrap_or_else(|_| Err(Fault::new(format!("no answer within {} s", PATIENCE.as_secs()), advice)))
}

/// Keys can be read, and what they seal they open.
fn keys(app: &Configured) -> Verdict {
    let advice = "give the keys that this database was sealed with; `finhook keys generate` makes keys for a new one";
    let wrong = |error: String| Fault::new(error, advice);
    let vault = app.vault().map_err(|error| wrong(error.to_string()))?;
    let place = Place { table: "check", column: "canary", key: &[] };
    let sealed = vault.ring.seal_column(&place, "canary");
    let opened = vault.ring.open_column(&place, sealed.as_str()).map_err(|error| wrong(error.to_string()))?;
    let urls = app.url_keys().map_err(|error| wrong(error.to_string()))?;
    if opened.expose_secret() != "canary" {
        return Err(wrong("a sealed value opens as another".to_owned()));
    }
    let ids: Vec<String> = vault.ring.ids().iter().map(ToString::to_string).collect();
    let bound = if urls.is_some() { "on" } else { "off" };
    Ok(format!("key {} seals, keys {} open, bound webhook URLs are {bound}", vault.ring.primary(), ids.join(", ")))
}

/// Compares another clock with ours, which said `before` and `after` around the question. `fraction` is what the other
/// one cuts off, in seconds.
fn clocks_agree(whose: &str, theirs: Timestamp, (before, after): (Timestamp, Timestamp), fraction: f64) -> Verdict {
    let ours = before.micros().midpoint(after.micros());
    let skew = theirs.micros().saturating_sub(ours) as f64 / 1e6 + fraction / 2.0;
    let said = match skew {
        skew if skew.abs() <= fraction.max(0.1) => format!("agrees with {whose}"),
        skew if skew > 0.0 => format!("is {skew:.1} s behind {whose}"),
        skew => format!("is {:.1} s ahead of {whose}", -skew),
    };
    if skew.abs() > MOST_SKEW {
        return Err(Fault::new(said, "let all machines take their time from one place (chrony, systemd-timesyncd)"));
    }
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_that_differ_by_more_than_five_seconds_are_a_fault_with_advice() {
        let ours = Timestamp::from_seconds(1_700_000_000).unwrap();
        let around = (ours.plus_micros(-20_000), ours.plus_micros(20_000));
        let said = |theirs, fraction| match clocks_agree("the database", theirs, around, fraction) {
            Ok(said) => (true, said),
            Err(fault) => (false, fault.said),
        };
        assert_eq!(said(ours, 0.0), (true, "agrees with the database".to_owned()));
        assert_eq!(said(ours.plus_seconds(3), 0.0), (true, "is 3.0 s behind the database".to_owned()));
        assert_eq!(said(ours.plus_seconds(-9), 0.0), (false, "is 9.0 s ahead of the database".to_owned()));
        // A date without fraction is on the mean half a second old.
        assert_eq!(said(ours.plus_micros(-500_000), 1.0), (true, "agrees with the database".to_owned()));
    }
}

//! `finhook explain`: what a delivery proves, its events, and the changes that they mean. Touches nothing.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Serialize;
use serde_json::{Value, json};

use super::app::{App, BadConfiguration, url_keys};
use super::{Done, output};
use crate::config::Values;
use crate::domain::{Change, Event, Meaning, Proof, StatusChange, Timestamp, UserId, WallClock};
use crate::providers::{self, Provider, Refusal, Request, Setup};

/// Arguments of `finhook explain`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Without --header nothing is verified, and no configuration or key is needed.\n\
                        Exit codes: 0 verified or not asked to, 1 refused.\n\
                        Example: finhook explain unit --body delivery.json --header 'X-Unit-Signature: UUNz8ch1Ovjg…'")]
pub struct Args {
    /// The provider
    provider: String,
    /// File with the raw body, `-` for standard input
    #[arg(long, value_name = "FILE")]
    body: PathBuf,
    /// A header field as it came; may be given more than once
    #[arg(long = "header", value_name = "K: V")]
    headers: Vec<OsString>,
    /// Plaid's key: one JWK, the answer of /webhook_verification_key/get, or a set
    #[arg(long, value_name = "FILE")]
    jwk: Option<PathBuf>,
    /// When it was received [default: now]
    #[arg(long, value_name = "RFC3339")]
    at: Option<String>,
    /// What followed /webhooks/plaid/ in the path
    #[arg(long, value_name = "TOKEN", allow_hyphen_values = true)]
    url_token: Option<String>,
    /// One JSON object on one line
    #[arg(long)]
    json: bool,
}

/// The whole answer.
#[derive(Serialize)]
struct Explanation {
    verified: Option<bool>,
    reason: Option<String>,
    events: Vec<Value>,
}

/// Explains.
pub async fn run(args: Args) -> anyhow::Result<Done> {
    let provider = providers::find(&args.provider)
        .ok_or_else(|| BadConfiguration::usage(format!("{}: not a provider", args.provider)))?;
    let now = match &args.at {
        None => WallClock::system().now(),
        Some(text) => Timestamp::parse(text)
            .ok_or_else(|| BadConfiguration::usage("--at must be an RFC 3339 time such as 2026-01-31T12:00:00Z"))?,
    };
    let body = read(&args.body)?;
    let (answer, values) = if args.headers.is_empty() && args.url_token.is_none() {
        // The reading can be configured (which tag is ours), but nothing has to be.
        (Ok(Proof::default()), App::load().and_then(App::as_given).unwrap_or_default())
    } else {
        verify(&args, provider, &body, now).await?
    };
    let explanation = match answer {
        Ok(proof) => {
            let proof = Proof { iat: proof.iat.or(Some(now.seconds())), ..proof };
            let delivery = providers::unproved(provider, now, proof, body);
            let events = (provider.reader)(&values).map_err(BadConfiguration::from)?.events(&delivery);
            let verified = (!args.headers.is_empty()).then_some(true);
            Explanation { verified, reason: None, events: events.iter().map(event).collect() }
        }
        Err(reason) => Explanation { verified: Some(false), reason: Some(reason), events: Vec::new() },
    };
    if args.json {
        output::json_line(&explanation)?;
    } else {
        print(provider, &explanation)?;
    }
    Ok(if explanation.verified == Some(false) { Done::No } else { Done::Yes })
}

/// What the headers prove, or why they do not.
async fn verify(
    args: &Args,
    provider: &Provider,
    body: &Bytes,
    now: Timestamp,
) -> anyhow::Result<(Result<Proof, String>, Arc<Values>)> {
    let mut app = App::load()?;
    if let Some(jwk) = &args.jwk {
        app = app.with_setting("FINHOOK_PLAID_JWKS_FILE", &jwk.to_string_lossy())?;
    }
    let values = app.as_given()?;
    let keys = url_keys(&values)?;
    if args.headers.is_empty() {
        // Only the token is to be read: whose delivery would it be?
        let token = args.url_token.as_deref().unwrap_or_default();
        let keys = keys.ok_or_else(|| BadConfiguration::usage("--url-token needs FINHOOK_URL_KEYS"))?;
        let proof = keys.open(token).map(|user: UserId| Proof { user: Some(user), ..Proof::default() });
        return Ok((proof.map_err(|_| Refusal::Unbound.to_string()), values));
    }
    let setup = Setup { values: &values, url_keys: keys, clock: WallClock::held(now) };
    let verifier = (provider.verifier)(&setup).map_err(BadConfiguration::from)?.ok_or_else(|| {
        let names: Vec<&str> = provider.variables.iter().filter(|v| v.secret).map(|v| v.name).collect();
        BadConfiguration::usage(format!("{} has no secret to verify with; set {}", provider.title, names.join(" or ")))
    })?;
    let proof = match header_map(&args.headers)? {
        None => Err(Refusal::Malformed.to_string()),
        Some(headers) => {
            let request = Request { headers: &headers, body, token: args.url_token.as_deref() };
            let verified = verifier.verify(&request, now).await;
            verified.map(|verified| verified.proof().clone()).map_err(|refusal| refusal.to_string())
        }
    };
    Ok((proof, values))
}

/// The header fields; `None` if a value is one that no HTTP message can carry, which a receiver never sees.
fn header_map(fields: &[OsString]) -> anyhow::Result<Option<HeaderMap>> {
    let mut headers = HeaderMap::new();
    for field in fields {
        let bytes = field.as_bytes();
        let mut parts = bytes.splitn(2, |byte| *byte == b':');
        let (Some(name), Some(value)) = (parts.next(), parts.next()) else {
            return Err(BadConfiguration::usage("--header must look like 'Name: value'").into());
        };
        let name = HeaderName::from_bytes(name.trim_ascii())
            .map_err(|_| BadConfiguration::usage("--header: that is not the name of a header field"))?;
        let Ok(value) = HeaderValue::from_bytes(value.trim_ascii()) else { return Ok(None) };
        headers.append(name, value);
    }
    Ok(Some(headers))
}

fn read(path: &Path) -> anyhow::Result<Bytes> {
    let bytes = if path == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut std::io::stdin(), &mut bytes).map(|_| bytes)
    } else {
        std::fs::read(path)
    };
    Ok(Bytes::from(bytes.with_context(|| format!("read the body from {}", path.display()))?))
}

/// One event as JSON.
fn event(event: &Event) -> Value {
    let (changes, dead, recorded) = match &event.meaning {
        Meaning::Apply(changes) => (rows(event, changes), None, None),
        Meaning::Record(reason) => (Vec::new(), None, reason.as_ref().map(ToString::to_string)),
        Meaning::Dead(reason) => (Vec::new(), Some(reason.to_string()), None),
    };
    json!({
        "kind": event.kind,
        "dedup_key": event.dedup_key.to_string(),
        "subject": event.subject,
        "occurred_at": event.occurred_at.to_string(),
        "changes": changes,
        "recorded": recorded,
        "dead": dead,
    })
}

/// The rows that the changes are for, parents first.
fn rows(event: &Event, changes: &[Change]) -> Vec<Value> {
    let mut rows = Vec::new();
    let mut owner = None;
    for change in changes {
        match change {
            Change::Integration { status, owner: claim, email } => {
                if let Some(claim) = claim {
                    let user = claim.user.as_str();
                    rows.push(json!({ "table": "user", "external_id": user, "status": null, "user": user }));
                    owner = Some(user);
                }
                let mut row = row("integration", event.subject.as_deref(), status.as_ref(), event);
                row["user"] = json!(owner);
                row["owner_rank"] = json!(claim.as_ref().map(|claim| claim.rank.number()));
                row["email"] = json!(email.as_ref().map(|email| &email.address));
                row["email_verified"] = json!(email.as_ref().map(|email| email.verified));
                rows.push(row);
            }
            Change::Account { external_id, baas_id, status } => {
                let mut row = row("account", Some(external_id.expose()), status.as_ref(), event);
                row["integration"] = json!(event.subject);
                row["baas_id"] = json!(baas_id.as_ref().map(|id| id.expose()));
                row["user"] = json!(owner);
                rows.push(row);
            }
        }
    }
    rows
}

fn row(table: &str, external_id: Option<&str>, status: Option<&StatusChange>, event: &Event) -> Value {
    json!({
        "table": table,
        "external_id": external_id,
        "status": status.map(|status| status.status),
        "status_reason": status.and_then(|status| status.reason.as_deref()),
        "deleted_at": status.filter(|status| status.closing).map(|_| event.occurred_at.to_string()),
        "final": status.is_some_and(|status| status.is_final),
    })
}

/// The answer for people.
fn print(provider: &Provider, explanation: &Explanation) -> anyhow::Result<()> {
    let verdict = match (explanation.verified, &explanation.reason) {
        (None, _) => "not verified (no --header given)".to_owned(),
        (Some(true), _) => "verified".to_owned(),
        (Some(false), reason) => format!("refused: {}", reason.as_deref().unwrap_or("?")),
    };
    output::line(&format!("{}: {verdict}, {} event(s)", provider.title, explanation.events.len()))?;
    for event in &explanation.events {
        let text = |name: &str| output::plain(event[name].as_str().unwrap_or("-"));
        output::line(&format!("\n{}  subject {}  at {}", text("kind"), text("subject"), text("occurred_at")))?;
        output::line(&format!("  dedup key {}", text("dedup_key")))?;
        if let Some(why) = event["dead"].as_str() {
            output::line(&format!("  dead: {why}"))?;
        }
        let changes = event["changes"].as_array().map(Vec::as_slice).unwrap_or_default();
        if changes.is_empty() && event["dead"].is_null() {
            output::line("  recorded: it changes no row")?;
        }
        for change in changes {
            let fields = change.as_object().into_iter().flatten();
            let shown: Vec<String> = fields
                .filter(|(name, value)| *name != "table" && !value.is_null() && **value != json!(false))
                .map(|(name, value)| format!("{name}={}", value.as_str().map_or(value.to_string(), str::to_owned)))
                .collect();
            let table = change["table"].as_str().unwrap_or_default();
            output::line(&format!("  {table} {}", output::plain(&shown.join(" "))))?;
        }
    }
    Ok(())
}

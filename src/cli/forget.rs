//! `finhook forget`: a user's rows, events and payloads go, and what still arrives about them is dropped.

use std::time::Duration;

use anyhow::Context;
use serde::Serialize;

use super::app::{App, BadConfiguration};
use super::{Done, audit, output, replaying};
use crate::domain::UserId;
use crate::ops::delays::Delays;
use crate::store::audit::{About, Act, AuditEntry};
use crate::store::{Store, StoreError};

/// Events deleted in one transaction.
const PORTION: u32 = 500;
/// How often a step is tried again while the database is in trouble: about half a minute.
const TRIES: usize = 12;

/// Arguments of `finhook forget`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Rows of user, integration and account go at once, stored events and their payloads in bounded steps: after an\n\
                        interruption run it again, or leave the rest to the workers. A tombstone without the id stays: what\n\
                        queues, spools, retries and the providers still deliver about the user is dropped, and a link of them\n\
                        is refused until --lift. Accounts held jointly stay with the other customer.\n\
                        Example: finhook forget --user u_42 --reason 'request of 3 March' --dry-run"
)]
pub struct Args {
    /// Our id of the user ("user".external_id); they need not have a row
    #[arg(long, value_name = "ID")]
    user: String,
    /// Say how much it would be, and do nothing
    #[arg(long, conflicts_with = "lift")]
    dry_run: bool,
    /// Take the user again from now on; what is gone stays gone
    #[arg(long)]
    lift: bool,
    /// Why; kept in the audit trail, so without their id
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Summary {
    user: u64,
    integration: u64,
    account: u64,
    event: u64,
    forgotten_before: bool,
    done: bool,
}

/// Forgets, or lifts the tombstone.
pub async fn run(args: Args, app: App) -> anyhow::Result<Done> {
    if args.user.is_empty() || args.user.len() > 200 || args.user.contains('\0') {
        return Err(BadConfiguration::usage("--user must have 1 to 200 bytes and no NUL").into());
    }
    let app = app.configured()?;
    let store = app.store(app.vault()?).await?;
    let user = UserId(args.user.clone());
    let done =
        if args.lift { lift(&args, &user, store.as_ref()).await } else { forget(&args, &user, store.as_ref()).await };
    store.close().await;
    done
}

async fn forget(args: &Args, user: &UserId, store: &dyn Store) -> anyhow::Result<Done> {
    let counted = store.forget_preview(user).await.context("count what there is of the user")?;
    let mut summary = Summary {
        user: counted.user,
        integration: counted.integration,
        account: counted.account,
        event: counted.event,
        forgotten_before: counted.before,
        done: false,
    };
    if args.dry_run {
        report(&summary, args.json, "would be deleted")?;
        return Ok(Done::Yes);
    }
    let what = format!(
        "forget user {user}: delete {} integration(s), {} account(s) and {} event(s) for good",
        counted.integration, counted.account, counted.event
    );
    if !replaying::agreed(args.yes, &what)? {
        return Ok(Done::No);
    }
    let entry = entry(Act::Forget, args, user);
    let forgot = patiently(|| store.forget(user, &entry)).await.context(
        "forget the user; if other tables of the product refer to their row (SQLSTATE 23503), delete there first",
    )?;
    // Bounded steps, each durable: whoever dies here leaves the rest to the next `forget` or to a worker.
    let mut events = 0;
    while let Some(deleted) = patiently(|| store.forget_events(PORTION))
        .await
        .context("delete stored events; they are marked, so run this again or let a worker finish it")?
    {
        events += deleted;
    }
    (summary.user, summary.integration, summary.account) = (forgot.user, forgot.integration, forgot.account);
    summary.event = events;
    summary.done = true;
    report(&summary, args.json, "deleted; what still arrives about the user is dropped")?;
    Ok(Done::Yes)
}

/// Tries again for a while: whoever holds the gate, or the database, may take a moment under load.
async fn patiently<T, F, Fut>(mut call: F) -> Result<T, StoreError>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, StoreError>>,
{
    let mut delays = Delays::new(Duration::from_millis(100), Duration::from_secs(3));
    for _ in 0..TRIES {
        match call().await {
            Err(error) if error.is_transient() => tokio::time::sleep(delays.after_failure()).await,
            other => return other,
        }
    }
    call().await
}

async fn lift(args: &Args, user: &UserId, store: &dyn Store) -> anyhow::Result<Done> {
    if !replaying::agreed(args.yes, &format!("take user {user} again"))? {
        return Ok(Done::No);
    }
    let lifted = store.lift(user, &entry(Act::Remember, args, user)).await.context("lift the tombstones")?;
    if args.json {
        output::json_line(&serde_json::json!({ "lifted": lifted }))?;
    } else if lifted == 0 {
        eprintln!("finhook: user {user} was not forgotten");
    } else {
        output::line(&format!("{lifted} tombstone(s) lifted: what arrives from now on is taken"))?;
    }
    Ok(if lifted == 0 { Done::No } else { Done::Yes })
}

fn entry(act: Act, args: &Args, user: &UserId) -> AuditEntry {
    let reason = args.reason.as_ref().map(|reason| reason.replace(user.as_str(), "…"));
    audit::entry(act).about(About::User(user.clone())).because(reason)
}

fn report(summary: &Summary, json: bool, verb: &str) -> anyhow::Result<()> {
    if json {
        return output::json_line(summary);
    }
    if summary.user == 0 && summary.event == 0 {
        let again = if summary.forgotten_before { "; they were forgotten before" } else { "" };
        eprintln!("finhook: there is nothing stored about this user{again}");
    }
    output::line(&format!(
        "{} user, {} integration(s), {} account(s), {} event(s) {verb}",
        summary.user, summary.integration, summary.account, summary.event
    ))
}

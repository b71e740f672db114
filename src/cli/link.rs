//! `finhook link`: says which user an integration belongs to, and hands over its access token.

use std::io::Read;

use anyhow::Context;
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

use super::app::{App, BadConfiguration};
use super::{Done, audit, output};
use crate::domain::{Email, Timestamp, UserId};
use crate::pipeline::settle::Settler;
use crate::providers;
use crate::store::audit::{About, Act};
use crate::store::{Batch, Link};

/// The longest id that the tables take, in bytes.
const MAX_ID: usize = 200;

/// Arguments of `finhook link`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: finhook link plaid yxQbxDjnD8hr69pKbQpb --user u_42 --authorization-id-file token.txt"
)]
pub struct Args {
    /// The provider
    provider: String,
    /// The provider's id of the integration (Plaid item, Unit customer, Synapse user, Auth0 user)
    subject: String,
    /// Our id of the user; created if it is not there
    #[arg(long, value_name = "ID")]
    user: String,
    /// The address that the user has there
    #[arg(long, value_name = "ADDRESS")]
    email: Option<String>,
    /// File with the access token, `-` for standard input: secrets never on the command line
    #[arg(long, value_name = "FILE")]
    authorization_id_file: Option<String>,
    /// Why; kept in the audit trail
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// Links.
pub async fn run(args: Args, app: App) -> anyhow::Result<Done> {
    let link = link_of(&args, app.clock.now())?;
    let app = app.configured()?;
    let vault = app.vault()?;
    let store = app.store(vault.clone()).await?;
    if !app.settings.worker.create_users && store.user(&link.user).await.context("look the user up")?.is_none() {
        eprintln!("finhook: there is no user {} and FINHOOK_CREATE_USERS is false; create it first", link.user);
        return Ok(Done::No);
    }
    // Asked before the audit trail names them again; the commit asks once more, behind its lock.
    if store.is_forgotten(&link.user).await.context("ask whether the user was forgotten")? {
        eprintln!("finhook: user {} was forgotten; `finhook forget --user ID --lift` takes them again", link.user);
        return Ok(Done::No);
    }
    let service = serde_json::json!({ "service": args.provider, "authorization_id": link.authorization_id.is_some() });
    let about = About::User(link.user.clone());
    let entry = audit::entry(Act::Link).about(about).because(args.reason.clone()).saying(&service);
    audit::write(store.as_ref(), &entry).await?;
    let desk = app.desk(vault)?;
    let settler = Settler::new(store.clone(), desk, CancellationToken::new());
    let committed = settler.commit(&Batch { links: vec![link], ..Batch::default() }).await.context("write the link")?;
    store.close().await;
    if args.json {
        output::json_line(&serde_json::json!({
            "service": args.provider, "external_id": args.subject, "user": args.user,
            "applied_events": committed.relinked,
        }))?;
    } else {
        output::line(&format!(
            "{} {} belongs to {}; {} waiting event(s) applied",
            args.provider, args.subject, args.user, committed.relinked
        ))?;
    }
    Ok(Done::Yes)
}

fn link_of(args: &Args, at: Timestamp) -> anyhow::Result<Link> {
    let provider = providers::find(&args.provider)
        .ok_or_else(|| BadConfiguration::usage(format!("{}: not a provider", args.provider)))?;
    for (what, id) in [("SUBJECT", &args.subject), ("--user", &args.user)] {
        if id.is_empty() || id.len() > MAX_ID || id.contains('\0') {
            return Err(BadConfiguration::usage(format!("{what} must have 1 to {MAX_ID} bytes and no NUL")).into());
        }
    }
    let email = match &args.email {
        None => None,
        Some(address) => Some(
            Email::parse(address, false)
                .ok_or_else(|| BadConfiguration::usage("--email does not look like an address".to_owned()))?,
        ),
    };
    let authorization_id = args.authorization_id_file.as_deref().map(read_secret).transpose()?;
    Ok(Link {
        provider: provider.name,
        subject: args.subject.clone(),
        user: UserId(args.user.clone()),
        email,
        authorization_id,
        at,
    })
}

/// A secret from a file or standard input, without the newline at its end.
pub fn read_secret(path: &str) -> anyhow::Result<SecretString> {
    let mut text = String::new();
    match path {
        "-" => std::io::stdin().read_to_string(&mut text).context("read the secret from standard input")?,
        path => std::fs::File::open(path)
            .and_then(|mut file| file.read_to_string(&mut text))
            .with_context(|| format!("read the secret from {path}"))?,
    };
    let secret = SecretString::from(text.trim_end_matches(['\r', '\n']).to_owned());
    zeroize::Zeroize::zeroize(&mut text);
    Ok(secret)
}

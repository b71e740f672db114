//! `finhook webhook-url`: mints the webhook URL that binds a user's Plaid items to them.

use anyhow::Context;

use super::app::{App, BadConfiguration};
use super::{Done, output};
use crate::domain::UserId;

/// Arguments of `finhook webhook-url`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Give the URL to Plaid as the item's webhook (/link/token/create, /item/webhook/update).\n\
                        Example: finhook webhook-url --user u_42 --base https://hooks.example.com")]
pub struct Args {
    /// Our id of the user
    #[arg(long, value_name = "ID")]
    user: String,
    /// Scheme and host that Plaid reaches this finhook at; without it only the path is printed
    #[arg(long, value_name = "URL", default_value = "")]
    base: String,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// Mints.
pub fn run(args: Args, app: App) -> anyhow::Result<Done> {
    if args.user.is_empty() || args.user.len() > 200 || args.user.contains('\0') {
        return Err(BadConfiguration::usage("--user must have 1 to 200 bytes and no NUL".to_owned()).into());
    }
    let app = app.configured()?;
    let keys = app.url_keys()?.context("FINHOOK_URL_KEYS is not set, so bound webhook URLs are off")?;
    let token = keys.mint(&UserId(args.user.clone()));
    let url = format!("{}/webhooks/plaid/{token}", args.base.trim_end_matches('/'));
    if args.json {
        output::json_line(&serde_json::json!({ "user": args.user, "url": url }))?;
    } else {
        output::line(&url)?;
    }
    Ok(Done::Yes)
}

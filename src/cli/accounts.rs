//! `finhook accounts`: a user's accounts, with their identifiers opened if asked for.

use anyhow::Context;
use serde::Serialize;

use super::app::App;
use super::{Done, audit, expectation, output};
use crate::domain::UserId;
use crate::store::audit::{About, Act};
use crate::store::{AccountView, Vault};

/// Arguments of `finhook accounts`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: finhook accounts --user u_42 --reveal --reason 'support case 1234' --json")]
pub struct Args {
    /// Our id of the user ("user".external_id)
    #[arg(long, value_name = "ID")]
    user: String,
    /// Open the account identifiers; without it they are left out
    #[arg(long)]
    reveal: bool,
    /// Why they are opened; kept in the audit trail with who and when
    #[arg(long, value_name = "TEXT", requires = "reveal")]
    reason: Option<String>,
    /// One JSON object per account
    #[arg(long)]
    json: bool,
}

/// One line of the answer.
#[derive(Serialize)]
struct Line {
    service: String,
    integration_external_id: String,
    external_id: Option<String>,
    baas_id: Option<String>,
    status: String,
    status_reason: Option<String>,
    deleted_at: Option<String>,
}

/// Lists them.
pub async fn run(args: Args, app: App) -> anyhow::Result<Done> {
    let reason = if args.reveal { Some(audit::needed_reason(args.reason)?) } else { None };
    let app = app.configured()?;
    let vault = app.vault()?;
    let store = app.store(vault.clone()).await?;
    let user = UserId(args.user);
    let accounts = store.accounts(&user).await.context("read the accounts")?;
    if accounts.is_empty() && store.user(&user).await.context("look the user up")?.is_none() {
        eprintln!("finhook: there is no user with external_id {user}");
        return Ok(Done::No);
    }
    if reason.is_some() {
        let opened = serde_json::json!({ "accounts": accounts.len() });
        let entry = audit::entry(Act::Reveal).about(About::User(user)).because(reason).saying(&opened);
        audit::write(store.as_ref(), &entry).await?;
    }
    let lines = accounts
        .into_iter()
        .map(|account| reveal(account, args.reveal.then_some(&*vault)))
        .collect::<anyhow::Result<Vec<Line>>>()
        .context("open the identifiers")?;
    store.close().await;
    if args.json {
        lines.iter().try_for_each(output::json_line)?;
    } else {
        let header = ["service", "integration", "account", "baas id", "status", "reason", "deleted at"];
        output::table(&header, lines.into_iter().map(Line::cells))?;
    }
    Ok(Done::Yes)
}

impl Line {
    fn cells(self) -> Vec<String> {
        let hidden = || "·····".to_owned();
        vec![
            self.service,
            self.integration_external_id,
            self.external_id.unwrap_or_else(hidden),
            self.baas_id.unwrap_or_default(),
            self.status,
            self.status_reason.unwrap_or_default(),
            self.deleted_at.unwrap_or_default(),
        ]
    }
}

fn reveal(account: AccountView, vault: Option<&Vault>) -> anyhow::Result<Line> {
    let open = |column: &str, sealed: &Option<String>| match vault {
        Some(vault) => expectation::open(vault, &account, column, sealed),
        None => Ok(None),
    };
    Ok(Line {
        external_id: open("external_id", &account.external_id)?,
        baas_id: open("baas_id", &account.baas_id)?,
        service: account.service.clone(),
        integration_external_id: account.integration_external_id.clone(),
        status: account.status.clone(),
        status_reason: account.status_reason.clone(),
        deleted_at: account.deleted_at.map(|at| at.to_string()),
    })
}

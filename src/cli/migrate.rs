//! `finhook migrate`: brings the tables up or down, or shows where they are.

use anyhow::Context;
use clap::Subcommand;

use super::app::App;
use super::{Done, output};

/// Arguments of `finhook migrate`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Apply every migration that the database does not have
    Up,
    /// Revert migrations. Drops what they made
    Down {
        /// Down to this migration, which stays; 0 = everything goes. Without it only the newest goes
        #[arg(long, value_name = "NUMBER")]
        to: Option<i64>,
        /// Do it: reverting destroys what the migrations' tables and columns hold
        #[arg(long)]
        yes: bool,
    },
    /// Show every migration and whether the database has it
    Status {
        /// One JSON object per migration
        #[arg(long)]
        json: bool,
    },
}

/// Migrates.
pub async fn run(args: Args, app: App) -> anyhow::Result<Done> {
    let app = app.configured()?;
    let store = app.store_as_it_is(app.vault()?).await?;
    let done = match args.command {
        Command::Up => {
            let applied = store.migrate_up().await.context("migrate up")?;
            output::line(&format!("{applied} migration(s) applied"))?;
            Done::Yes
        }
        Command::Down { to, yes } => {
            let applied: Vec<i64> = store
                .migrations()
                .await
                .context("DATABASE_URL")?
                .into_iter()
                .filter(|migration| migration.applied)
                .map(|migration| migration.version)
                .collect();
            let target = to.unwrap_or_else(|| applied.iter().rev().nth(1).copied().unwrap_or(0));
            if !yes {
                eprintln!("finhook: this reverts to migration {target} and drops what came after; say --yes to do it");
                return Ok(Done::No);
            }
            let reverted = store.migrate_down(target).await.context("migrate down")?;
            output::line(&format!("{reverted} migration(s) reverted"))?;
            Done::Yes
        }
        Command::Status { json } => {
            let migrations = store.migrations().await.context("DATABASE_URL")?;
            let pending = migrations.iter().any(|migration| !migration.applied);
            if json {
                for m in &migrations {
                    output::json_line(&serde_json::json!({
                        "version": m.version, "description": m.description, "applied": m.applied,
                    }))?;
                }
            } else {
                let rows = migrations.into_iter().map(|m| {
                    vec![m.version.to_string(), m.description, if m.applied { "applied" } else { "pending" }.to_owned()]
                });
                output::table(&["number", "migration", "state"], rows)?;
            }
            if pending { Done::No } else { Done::Yes }
        }
    };
    store.close().await;
    Ok(done)
}

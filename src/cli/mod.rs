//! The commands: one file each, and the list of them.
//!
//! Law: exit codes are 0 done, 1 not, 64 bad usage or configuration (EX_USAGE of sysexits.h); what a machine reads goes to
//! stdout, everything else to stderr; a secret is never an argument.

pub mod accounts;
pub mod app;
pub mod audit;
pub mod check;
pub mod completions;
pub mod dead;
pub mod demo;
pub mod events;
pub mod expectation;
pub mod explain;
pub mod forget;
pub mod import;
pub mod keys;
pub mod link;
pub mod man;
pub mod migrate;
pub mod opening;
pub mod output;
pub mod posting;
pub mod queues;
pub mod reload;
pub mod replay;
pub mod replaying;
pub mod secrets;
pub mod serve;
pub mod serving;
pub mod sign;
mod starting;
pub mod topology;
pub mod webhook_url;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use self::app::{App, BadConfiguration};

/// How long tasks that nobody waits for any more may take at the end of a command.
const GOODBYE: Duration = Duration::from_secs(2);

/// finhook's command line.
#[derive(Debug, Parser)]
#[command(
    name = "finhook",
    version,
    about = "Webhooks of Plaid, Unit, Synapse and Auth0 become encrypted rows",
    long_about = "finhook receives webhooks of Plaid, Unit, Synapse and Auth0, checks each signature over the raw bytes, \
                  queues the sealed delivery, and turns it into rows of three tables: user, integration, account.\n\n\
                  Without configuration everything is embedded in ./finhook-data. Start with `finhook demo`.",
    after_help = "Configuration: environment variables over finhook.toml over defaults; `finhook check` shows what holds.\n\
                  Exit codes: 0 done, 1 not done, 64 bad usage or configuration.",
    max_term_width = 100
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Every command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Play every fixture through the whole way, embedded, and show the rows
    Demo(demo::Args),
    /// Receive webhooks and turn them into rows
    Serve(serve::Args),
    /// Post fixture deliveries, really signed, to a running finhook
    Replay(replay::Args),
    /// Print a signed request for a fixture
    Sign(sign::Args),
    /// Say what a delivery proves and what its events mean, without touching anything
    Explain(explain::Args),
    /// Say which user an integration belongs to
    Link(link::Args),
    /// List a user's accounts
    Accounts(accounts::Args),
    /// Delete everything about a user, and drop what still arrives about them
    Forget(forget::Args),
    /// Show when each of the providers' secrets last proved a delivery
    Secrets(secrets::Args),
    /// Show who opened or decided what, when and why
    Audit(audit::Args),
    /// Mint the webhook URL that binds a user's Plaid items
    WebhookUrl(webhook_url::Args),
    /// Look at stored events, and replay them
    Events(events::Args),
    /// Look at dead events, and decide what becomes of them
    Dead(dead::Args),
    /// Show how many deliveries wait in each queue
    Queues(queues::Args),
    /// Show, declare or export what finhook has at the broker
    Topology(topology::Args),
    /// Make keys, see what they seal, change the one that seals
    Keys(keys::Args),
    /// Bring the database's tables up, down, or show where they are
    Migrate(migrate::Args),
    /// Show the effective configuration and try everything it names
    Check(check::Args),
    /// Move a product's own tables in
    Import(import::Args),
    /// Print a completion script for a shell
    Completions(completions::Args),
    /// Print the manual page
    Man(man::Args),
}

/// How a command ended when nothing went wrong with running it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// What was asked for is done: 0.
    Yes,
    /// It is not, and the command has said why: 1.
    No,
}

/// Runs the command line; the only place that knows exit codes.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are not errors; clap's own code for usage errors is 2, ours is 64.
            let code = if error.use_stderr() { 64 } else { 0 };
            return if error.print().is_ok() { ExitCode::from(code) } else { ExitCode::from(1) };
        }
    };
    // Before any secret is read.
    crate::ops::limits::leave_no_core();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Command::Serve(args) = &cli.command
        && let Some(threads) = args.threads()
    {
        runtime.worker_threads(threads);
    }
    let runtime = match runtime.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("finhook: the runtime does not start: {error}");
            return ExitCode::from(1);
        }
    };
    let done = runtime.block_on(run(cli.command));
    // Commands finish what they began; what still runs now has nothing to say and must not hold the process up.
    runtime.shutdown_timeout(GOODBYE);
    match done {
        Ok(Done::Yes) => ExitCode::SUCCESS,
        Ok(Done::No) => ExitCode::from(1),
        Err(error) => {
            eprintln!("finhook: {error:#}");
            ExitCode::from(if error.is::<BadConfiguration>() { 64 } else { 1 })
        }
    }
}

async fn run(command: Command) -> anyhow::Result<Done> {
    match command {
        Command::Demo(args) => demo::run(args).await,
        Command::Explain(args) => explain::run(args).await,
        Command::Keys(args) => keys::run(args).await,
        Command::Completions(args) => completions::run(args),
        Command::Man(args) => man::run(args),
        Command::Check(args) => check::run(args).await,
        Command::Serve(args) => serve::run(args, App::load()?).await,
        Command::Replay(args) => replay::run(args, App::load()?).await,
        Command::Sign(args) => sign::run(args, App::load()?),
        Command::Link(args) => link::run(args, App::load()?).await,
        Command::Accounts(args) => accounts::run(args, App::load()?).await,
        Command::Forget(args) => forget::run(args, App::load()?).await,
        Command::Secrets(args) => secrets::run(args, App::load()?).await,
        Command::Audit(args) => audit::run(args, App::load()?).await,
        Command::WebhookUrl(args) => webhook_url::run(args, App::load()?),
        Command::Events(args) => events::run(args, App::load()?).await,
        Command::Dead(args) => dead::run(args, App::load()?).await,
        Command::Queues(args) => queues::run(args, App::load()?).await,
        Command::Topology(args) => topology::run(args, App::load()?).await,
        Command::Import(args) => import::run(args, App::load()?).await,
        Command::Migrate(args) => migrate::run(args, App::load()?).await,
    }
}

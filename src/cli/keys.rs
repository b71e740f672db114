//! `finhook keys`: makes keys, says what they seal, takes everything over to the first one, and lets one go.

mod generate;
mod retire;
mod rotate;
mod status;
mod waiting;

use clap::Subcommand;

use super::Done;
use super::app::App;

/// Arguments of `finhook keys`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Changing the key that seals, without a pause:\n  \
                        1. add the new key last in FINHOOK_KEYS, everywhere, and start everything anew: it can be opened now\n  \
                        2. move it first, everywhere, and start everything anew: it seals now\n  \
                        3. finhook keys rotate\n  \
                        4. finhook keys retire OLD, until it says that nothing needs it\n  \
                        5. take the old key out of FINHOOK_KEYS")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print fresh keys
    #[command(after_help = "Without an option it prints all three, as lines for an environment file.\n\
                            Example: (umask 077; finhook keys generate > finhook.env)")]
    Generate(generate::Args),
    /// Show which key sealed how much, and what waits in queues
    Status(status::Args),
    /// Seal everything in the tables anew under the first key, while receivers and workers run
    #[command(
        after_help = "It can be interrupted, started again and run twice at once: what is done is seen by its key.\n\
                            Exit code 1: something is left under another key; the last lines say what.\n\
                            Example: finhook keys rotate --rate 2000"
    )]
    Rotate(rotate::Args),
    /// Say that a key is needed no more, or what still needs it
    #[command(after_help = "Refused while anything in tables or queues is, or may be, sealed with it.\n\
                            Afterwards take the key out of FINHOOK_KEYS. Its id stays taken.\n\
                            Example: finhook keys retire 1")]
    Retire(retire::Args),
}

/// Runs it.
pub async fn run(args: Args) -> anyhow::Result<Done> {
    match args.command {
        Command::Generate(args) => generate::run(args),
        Command::Status(args) => status::run(args, App::load()?).await,
        Command::Rotate(args) => rotate::run(args, App::load()?).await,
        Command::Retire(args) => retire::run(args, App::load()?).await,
    }
}

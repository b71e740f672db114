//! `finhook completions SHELL`: a completion script on stdout.

use clap::CommandFactory;

use super::{Cli, Done};

/// Arguments of `finhook completions`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: finhook completions bash > /etc/bash_completion.d/finhook")]
pub struct Args {
    /// Which shell
    shell: clap_complete::Shell,
}

/// Prints the script.
pub fn run(args: Args) -> anyhow::Result<Done> {
    clap_complete::generate(args.shell, &mut Cli::command(), "finhook", &mut std::io::stdout());
    Ok(Done::Yes)
}

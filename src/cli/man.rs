//! `finhook man`: the manual page, from the same definitions as `--help`.

use clap::CommandFactory;

use super::{Cli, Done};

/// Arguments of `finhook man`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: finhook man | man -l -")]
pub struct Args {}

/// Prints the page and one for each command.
pub fn run(_: Args) -> anyhow::Result<Done> {
    let mut command = Cli::command();
    command.build();
    let mut out = std::io::stdout().lock();
    clap_mangen::Man::new(command.clone()).render(&mut out)?;
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        clap_mangen::Man::new(sub.clone()).render(&mut out)?;
    }
    Ok(Done::Yes)
}

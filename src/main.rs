//! Parse, run, exit code. Nothing else.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    finhook::cli::main()
}

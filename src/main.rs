//! Parse, run, exit code. Nothing else.

#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used)]

use std::process::ExitCode;

/// Ten thousand slow connections that come and go took 218 MiB with it and went back to 154; the system's allocator took
/// 327 and kept them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    finhook::cli::main()
}

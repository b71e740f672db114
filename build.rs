//! Fixtures and migrations are embedded: a new file there makes a new build, and every fixture a test of its own.
//!
//! Writes `fixture_tests.rs` with a line `fixture!(unit_account_closed, "unit/account.closed");` per case, for
//! `include!(concat!(env!("OUT_DIR"), "/fixture_tests.rs"))` behind a macro of that name.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=fixtures");
    println!("cargo::rerun-if-changed=migrations");
    let mut tests = String::new();
    for provider in folders(Path::new("fixtures"))? {
        for case in folders(&provider)? {
            let path = case.strip_prefix("fixtures").unwrap_or(&case).display().to_string();
            let name: String = path.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
            tests.push_str(&format!("fixture!({}, {path:?});\n", name.to_lowercase()));
        }
    }
    fs::write(PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("fixture_tests.rs"), tests)
}

/// The folders in a folder, sorted.
fn folders(of: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(of)? {
        found.push(entry?.path());
    }
    found.retain(|path| path.is_dir());
    found.sort();
    Ok(found)
}

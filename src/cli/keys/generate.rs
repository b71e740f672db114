//! `finhook keys generate`: fresh random keys, ready to be put into the configuration.

use secrecy::ExposeSecret;

use crate::cli::app::BadConfiguration;
use crate::cli::{Done, output};
use crate::crypto::KeyRing;

/// Arguments of `finhook keys generate`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only one entry ID:KEY for FINHOOK_KEYS, with this id (a decimal number that the list does not have yet)
    #[arg(long, value_name = "ID", conflicts_with = "bare")]
    id: Option<u32>,
    /// Only one bare key, for FINHOOK_INDEX_KEY or FINHOOK_URL_KEYS
    #[arg(long)]
    bare: bool,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// Prints keys.
pub fn run(args: Args) -> anyhow::Result<Done> {
    let bare = || -> anyhow::Result<String> {
        let entry = KeyRing::generate_entry(0);
        let (_, key) = entry
            .expose_secret()
            .split_once(':')
            .ok_or_else(|| BadConfiguration::usage("a generated key has no id".to_owned()))?;
        Ok(key.to_owned())
    };
    let lines: Vec<(&str, String)> = match (args.id, args.bare) {
        (Some(id), _) => vec![("FINHOOK_KEYS", KeyRing::generate_entry(id).expose_secret().to_owned())],
        (None, true) => vec![("key", bare()?)],
        (None, false) => vec![
            ("FINHOOK_KEYS", KeyRing::generate_entry(1).expose_secret().to_owned()),
            ("FINHOOK_INDEX_KEY", bare()?),
            ("FINHOOK_URL_KEYS", bare()?),
        ],
    };
    if args.json {
        let object: serde_json::Map<_, _> =
            lines.into_iter().map(|(name, key)| (name.to_owned(), serde_json::Value::String(key))).collect();
        output::json_line(&object)?;
    } else if let [(_, key)] = lines.as_slice() {
        output::line(key)?;
    } else {
        lines.iter().try_for_each(|(name, key)| output::line(&format!("{name}={key}")))?;
    }
    Ok(Done::Yes)
}

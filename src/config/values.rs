//! One lookup for every setting, which remembers where each value came from so that an error can name it.

use std::time::Duration;

use secrecy::SecretString;

/// One setting: declared once, next to what it configures; `finhook check`, the README's table and the tests read the list.
#[derive(Debug, Clone, Copy)]
pub struct Variable {
    /// The environment variable; in `finhook.toml` the same name in lower case without the prefix `FINHOOK_`.
    pub name: &'static str,
    /// Whether its value is never printed and `NAME_FILE` is accepted too.
    pub secret: bool,
    /// What holds when it is not given, as it would be written.
    pub default: Option<&'static str>,
    /// One sentence of help.
    pub help: &'static str,
}

/// A setting that cannot be used: which one, where it was given, what is wrong and what to do. Never its value if secret.
#[derive(Debug, thiserror::Error)]
#[error("{name} ({origin}): {problem}")]
pub struct ConfigError {
    /// The variable.
    pub name: String,
    /// `environment`, `finhook.toml:12`, `default`, `not set`.
    pub origin: String,
    /// What is wrong with it and what to do.
    pub problem: String,
}

/// Every setting that was given, with its origin.
#[derive(Default)]
pub struct Values {}

impl Values {
    /// The text of a setting or its default; `None` if it has neither. Blank counts as not given.
    pub fn text(&self, _name: &str) -> Option<String> {
        todo!()
    }

    /// A secret, also from `NAME_FILE`.
    pub fn secret(&self, _name: &str) -> Result<Option<SecretString>, ConfigError> {
        todo!()
    }

    /// A comma-separated list of secrets, so that one can be rolled without a gap; empty if not given.
    pub fn secrets(&self, _name: &str) -> Result<Vec<SecretString>, ConfigError> {
        todo!()
    }

    /// `true` or `false`.
    pub fn flag(&self, _name: &str) -> Result<bool, ConfigError> {
        todo!()
    }

    /// A whole number.
    pub fn number(&self, _name: &str) -> Result<u64, ConfigError> {
        todo!()
    }

    /// A duration as people write it (`300s`, `5m`, `25h`).
    pub fn duration(&self, _name: &str) -> Result<Duration, ConfigError> {
        todo!()
    }

    /// An error about a setting, with its origin filled in.
    pub fn error(&self, _name: &str, _problem: impl Into<String>) -> ConfigError {
        todo!()
    }
}

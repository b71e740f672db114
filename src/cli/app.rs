//! The application, put together from its configuration: what every command starts from.

use std::fmt;
use std::sync::Arc;

use anyhow::Context;

use crate::config::{self, ConfigError, Settings, Sources, StoreSettings, Values, Variable};
use crate::crypto::{BlindIndex, KeyRing, UrlKeys};
use crate::domain::WallClock;
use crate::pipeline::read::Desk;
use crate::providers::{PROVIDERS, Setup};
use crate::store::{Store, StoreOptions, Vault};

/// Bad usage or configuration: exit code 64. Every problem that was found, one a line.
#[derive(Debug)]
pub struct BadConfiguration(Vec<String>);

impl BadConfiguration {
    /// An argument that cannot be used.
    pub fn usage(problem: impl Into<String>) -> Self {
        Self(vec![problem.into()])
    }
}

impl fmt::Display for BadConfiguration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n         "))
    }
}

impl std::error::Error for BadConfiguration {}

impl From<ConfigError> for BadConfiguration {
    fn from(error: ConfigError) -> Self {
        Self(vec![error.to_string()])
    }
}

impl From<Vec<ConfigError>> for BadConfiguration {
    fn from(errors: Vec<ConfigError>) -> Self {
        Self(errors.iter().map(ToString::to_string).collect())
    }
}

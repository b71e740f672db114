//! finhook: webhooks of Plaid, Unit, Synapse and Auth0 become encrypted rows.

#![forbid(unsafe_code)]

pub mod cli;
pub mod config;
pub mod crypto;
pub mod domain;
pub mod fixtures;
pub mod http;
pub mod ops;
pub mod pipeline;
pub mod providers;
pub mod queue;
pub mod store;

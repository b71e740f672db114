//! HTTP: the public bind that providers post to, and the ops bind for health, metrics and people.
//!
//! ```text
//! server        accepts, bounds connections ─▶ connection   watches one: header, idle and first-request deadlines
//! webhooks      405 · 404 · 503 · 413 before a byte of the body ─▶ body (limit, room, time) ─▶ pipeline::receive
//! error         the only map from cause to status, for senders
//! ops_api       health and metrics, for everybody · api: `/v1`, sessions, the OpenAPI document; problem: its map
//! dashboard     the page at `/`, which asks `api` · live: what it shows as it happens
//! ```
//! Law: nothing is parsed, nothing waits for broker or disk to say no, and what is in flight is bounded in connections,
//! requests, deliveries and bytes. Where next: `webhooks.rs`.

pub mod api;
pub mod client;
pub mod dashboard;
pub mod error;
pub mod ops_api;
pub mod server;
pub mod tls;
pub mod webhooks;

mod body;
mod connection;
mod room;
mod shield;
#[cfg(test)]
mod tests;

//! finhook: webhooks of Plaid, Unit, Synapse and Auth0 become encrypted rows.
//!
//! # The way of one webhook
//!
//! ```text
//!  1 http::webhooks       raw bytes and headers, size limit; nothing parsed                         404, 413
//!  2 pipeline::receive    the name in the path picks one provider                                   404; without secret 503
//!  3 pipeline::receive    provider.verify: signature over the raw bytes, age, tenant binding        401; keys away 503
//!  4 providers            Verified becomes a Delivery: id (uuid v7), received_at, what was proved
//!  5 crypto               the envelope becomes ciphertext: from here no plaintext leaves the process
//!  6 pipeline::receive    queue.publish: persistent, mandatory, confirm awaited; only then 200       503 + Retry-After
//! ------------- the sender has our word: from here at least once in, at most one effect out -------------
//!  7 pipeline::work       batches of sealed deliveries, from all providers' queues
//!  8 crypto               open
//!  9 pipeline::read       provider.events: one delivery becomes events, events become changes; pure
//! 10 store::fold          changes of the batch merged per row and register, the larger clock wins
//! 11 store::commit        one transaction: event rows (insert-first dedup), users, integrations, sealed accounts
//! 12 pipeline::settle     ack after commit; retrying and dead are rows, committed like the rest
//! ```
//!
//! The lines marked `way: 7/12` in the code are these steps; read them in order and you have read finhook.
//!
//! # The rooms, lowest first
//!
//! | room | what is in it | may import |
//! |---|---|---|
//! | [`domain`] | the nouns: deliveries, events, changes, registers | nothing of ours |
//! | [`config`] | typed settings; the only reader of the environment | nothing of ours |
//! | [`fixtures`] | deliveries to replay, and the rows that they must end in | domain |
//! | [`ops`] | logs, metrics, spans, readiness, shutdown, delays | domain, config |
//! | [`crypto`] | key ring, sealed values, blind index, URL tokens | domain, config |
//! | [`providers`] | how each proves a delivery, what its events mean | domain, config, crypto |
//! | [`queue`] | RabbitMQ and the embedded log behind one trait | domain, config, crypto, ops |
//! | [`store`] | PostgreSQL and SQLite behind one trait; fold and commit | domain, config, crypto, ops |
//! | [`pipeline`] | receive, read, settle, work, sweep, replay: decisions, no driver | all above, by trait |
//! | [`http`] | the public port and the operators' port | domain, config, ops, pipeline |
//! | [`cli`] | one file per command; puts the application together | all |
//!
//! # Laws
//!
//! - A 200 is given only for what is durable; an ack only for what is committed.
//! - Nothing is parsed before its proof holds; nothing leaves the process unsealed.
//! - Types that prove something are made in one place: `providers::Verified`, `crypto::Sealed`, `store::Committed`.
//! - What an event means is pure: bytes and a clock in, values out. Every comparison that decides a row's state is in
//!   `domain::register`.
//! - Trouble with broker or database never counts against an event.
//!
//! `tests/tidy.rs` holds the table of imports, the owners of the drivers and the marks of the steps.
//!
//! # Adding something
//!
//! - A provider: a file in `providers/`, its `mod` line, its entry in `PROVIDERS`, a folder in `fixtures/`. Route, queue,
//!   settings, labels and fixture tests come from the list.
//! - A store or a queue: a file, an arm where it is opened, a line in the contract tests.
//! - A command: a file in `cli/` and a variant of `cli::Command`.

#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used)]

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

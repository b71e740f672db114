//! The real application, put together as `finhook` puts it together and tried from outside: over its port, its database,
//! its broker and its command line.
//!
//! Without servers nothing that needs one runs, and each such test says that it was left out and why; with
//! `FINHOOK_TEST_REQUIRED=1` (as `tests/run` sets it) leaving out is a failure.

mod app;
mod browser;
mod cut;
mod payloads;
mod planted;
mod process;
mod servers;
mod tables;

mod api;
mod bodies;
mod changes;
mod commands;
mod crashes;
mod dashboard;
mod explaining;
mod fixtures;
mod forgetting;
mod histories;
mod keeping;
mod keys;
mod operating;
mod page;
mod reloading;
mod replaying;
mod rotation;
mod secrecy;
mod settings;
mod starting;
mod surface;
mod terminal;
mod traces;
mod watching;

//! The way of one webhook, as decisions only: no driver is named here.
//!
//! [`receive`] takes a request to the queue (steps 2 to 6), [`work`] takes messages from it (7), [`read`] opens and
//! interprets them (8, 9), [`settle`] commits them whatever happens (10 to 12), [`sweep`] looks after what the tables hold
//! back: retries that are due, unlinked events, deliveries whose key was missing. [`replay`] takes what a person names through
//! the way again. [`observe`] looks at queues and tables every few seconds; [`watch`] is what it saw, for everybody who shows it.
//! [`console`] answers people and the product, whom [`access`] lets in. [`retention`] lets go of what was kept long enough.

pub mod access;
pub mod console;
pub mod moving;
pub mod observe;
pub mod read;
pub mod receive;
pub mod replay;
pub mod retention;
pub mod retire;
pub mod rotate;
pub mod settle;
pub mod sightings;
pub mod sweep;
pub mod tell;
pub mod watch;
pub mod work;

#[cfg(test)]
mod tests;

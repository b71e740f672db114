//! The nouns that every other room speaks of: deliveries, events, changes, registers. No I/O, no async, no driver.
//!
//! Law: nothing of ours is imported here, and the only call to the operating system is the wall clock in [`time`].
//! The words are one per thing: a *delivery* is one HTTP request, an *event* one thing that happened in it, a *change*
//! what the event means for our tables, a *register* a piece of a row's state with the clock that decides who wins.

pub mod change;
pub mod changed;
pub mod delivery;
pub mod event;
pub mod ids;
pub mod reason;
pub mod register;
pub mod time;
pub mod trace;

pub use change::{Change, Claim, Email, Rank, StatusChange};
pub use changed::ChangedRow;
pub use delivery::{Delivery, Proof, Scope};
pub use event::{Event, EventState, Meaning};
pub use ids::{AccountId, DedupKey, ProviderName, UserId};
pub use reason::{Cause, Reason};
pub use register::Clock;
pub use time::{Timestamp, WallClock};
pub use trace::TraceParent;

//! The worker's half against real tables and a real queue: what fails alone, what is away, what comes through again.

mod bench;
mod failure;
mod moving;
mod observing;
mod replay;
mod rotation;
mod telling;
mod waiting;

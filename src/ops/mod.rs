//! ops

pub mod delays;

//! pipeline

pub mod receive;

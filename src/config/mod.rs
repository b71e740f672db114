//! Settings: environment over `finhook.toml` over generated development secrets over defaults; the only reader of the environment.

pub mod values;

pub use values::{ConfigError, Values, Variable};

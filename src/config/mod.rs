//! Settings: environment over `finhook.toml` over generated development secrets over defaults; the only reader of the environment.
//!
//! The way of a setting: [`Sources`] holds what was given, as text; [`Values::load`] checks every name against the
//! declared [`Variable`]s, resolves precedence and remembers origins; in embedded mode [`Values::ensure_generated`] adds
//! secrets that nobody gave; [`Settings::from_values`] turns text into types, one struct per concern. Each step reports
//! every problem it finds, and no report contains a secret.

pub mod backends;
pub mod caller;
pub mod changes;
pub mod settings;
pub mod sources;
pub mod traces;
pub mod values;
pub mod variables;

mod exec;
mod file;
mod generated;
mod load;
mod shown;

pub use backends::{QueueSettings, RabbitMqSettings, SpoolSettings, StoreSettings, is_this_machine};
pub use caller::caller;
pub use changes::ChangesSettings;
pub use settings::{
    HttpSettings, KeySettings, LogFormat, LogSettings, OpsSettings, OpsToken, Role, Settings, TlsFiles, WorkerSettings,
};
pub use shown::Effective;
pub use sources::Sources;
pub use traces::{Sampling, TraceSettings};
pub use values::{ConfigError, Values, Variable};
pub use variables::VARIABLES;

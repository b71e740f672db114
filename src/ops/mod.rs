//! What keeps the process observable and stoppable: logs, metrics, spans, readiness, shutdown, limits of the system.
//!
//! Law: nothing here knows a provider, a queue or a table. Labels come in as bounded values, and a log line is made of
//! dotted fields (`delivery.id`, `provider.name`, `duration_ms`), never of a body, a header, a secret or a sealed value.

pub mod delays;
pub mod limits;
pub mod meter;
pub mod metrics;
pub mod readiness;
pub mod shutdown;
pub mod spans;
pub mod tally;
pub mod telemetry;
pub mod throttle;

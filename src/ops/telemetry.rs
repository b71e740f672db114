//! Logs: readable on a terminal, JSON elsewhere, always on standard error, so that a command's output stays its own.
//!
//! Law: dotted fields (`delivery.id`, `provider.name`), never a body, a header, a secret or a sealed value; a webhook
//! path is shown as `/webhooks/plaid/…`. Refusals and changes of state are `info`, deliveries `debug`, events none.

use std::io::IsTerminal;

use tracing::Subscriber;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

use crate::config::LogFormat;

/// A filter that cannot be read. Says what is wrong, for the variable that the caller names.
#[derive(Debug, thiserror::Error)]
#[error("not a log filter: {0}; write a level (`info`) or directives (`warn,finhook=debug`)")]
pub struct FilterError(String);

/// Starts logging with the filter of `FINHOOK_LOG`, whatever it says with the directives in `silent` last; from then on it
/// stays as it is: calling again changes nothing.
pub fn init(filter: &str, format: LogFormat, silent: &[&str]) -> Result<(), FilterError> {
    let terminal = std::io::stderr().is_terminal();
    let json = match format {
        LogFormat::Auto => !terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    // The only error is that a subscriber is set already, as it is from the second test on.
    let _ = Registry::default().with(layer(read_filter(filter, silent)?, json, terminal, std::io::stderr)).try_init();
    Ok(())
}

/// The filter, and what it lets through as lines.
fn layer<S, W>(filter: EnvFilter, json: bool, terminal: bool, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'span> tracing_subscriber::registry::LookupSpan<'span>,
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let lines = fmt::layer().with_writer(writer);
    let lines: Box<dyn Layer<S> + Send + Sync> = match (json, terminal) {
        (true, _) => lines.json().flatten_event(true).with_ansi(false).boxed(),
        // On a terminal the layer's own default stays: colours, unless NO_COLOR is set.
        (false, true) => lines.boxed(),
        (false, false) => lines.with_ansi(false).boxed(),
    };
    lines.with_filter(filter).boxed()
}

/// Reads a filter. A bare level is for finhook itself; what it is built on then says warnings only.
///
/// Who wants more has to name the library (`finhook=debug,hyper=trace`). What a library would print of messages and
/// credentials is in `silent`, and is not to be had at all.
fn read_filter(filter: &str, silent: &[&str]) -> Result<EnvFilter, FilterError> {
    let filter = filter.trim();
    let directives = match filter.to_ascii_lowercase().as_str() {
        "" => "warn,finhook=info".to_owned(),
        "off" => "off".to_owned(),
        "error" => "error".to_owned(),
        level @ ("warn" | "info" | "debug" | "trace") => format!("warn,finhook={level}"),
        _ => filter.to_owned(),
    };
    // The library's message names what it could not read, which is a setting and no secret.
    let filter = EnvFilter::try_new(directives).map_err(|error| FilterError(error.to_string()))?;
    silent.iter().try_fold(filter, |filter, directive| {
        let parsed = directive.parse().map_err(|_| FilterError(format!("no log directive: {directive}")))?;
        Ok(filter.add_directive(parsed))
    })
}

/// What is logged, kept instead of written: for tests that look for what must not be there.
#[cfg(test)]
#[derive(Clone, Default)]
pub(crate) struct Lines(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

#[cfg(test)]
impl Lines {
    /// Everything that was logged so far.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

#[cfg(test)]
impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logged(filter: &str, json: bool) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber =
            Registry::default().with(layer(read_filter(filter, &[]).unwrap(), json, false, move || writer.clone()));
        tracing::subscriber::with_default(subscriber, || {
            tracing::debug!(delivery.id = 7, "accepted");
            tracing::info!(target: "lapin", "a frame with a password");
        });
        lines.text()
    }

    #[test]
    fn json_lines_carry_dotted_fields_at_the_top() {
        let line: serde_json::Value = serde_json::from_str(logged("debug", true).trim()).unwrap();
        assert_eq!((&line["delivery.id"], &line["message"]), (&7.into(), &"accepted".into()));
    }

    #[test]
    fn a_bare_level_is_for_finhook_alone_and_text_has_no_colours_off_a_terminal() {
        let text = logged("trace", false);
        assert!(text.contains("accepted") && !text.contains("password") && !text.contains('\u{1b}'), "{text}");
        assert_eq!(logged("", false), "");
        assert!(logged("lapin=info", false).contains("password"), "a library that is named speaks");
    }

    #[test]
    fn what_is_silent_stays_so_whatever_the_filter_says() {
        for filter in ["trace,finhook=trace", "lapin=trace", "lapin::frames=trace"] {
            let lines = Lines::default();
            let writer = lines.clone();
            let filter = read_filter(filter, &["lapin=warn", "lapin::frames=warn"]).unwrap();
            let subscriber = Registry::default().with(layer(filter, false, false, move || writer.clone()));
            tracing::subscriber::with_default(subscriber, || {
                tracing::debug!(target: "lapin::frames", "a password");
                tracing::trace!(target: "lapin::other", "a password");
                tracing::warn!(target: "lapin::frames", "trouble");
            });
            assert!(!lines.text().contains("password") && lines.text().contains("trouble"), "{}", lines.text());
        }
    }

    #[test]
    fn a_filter_that_cannot_be_read_says_so() {
        let error = read_filter("finhook=loud", &[]).unwrap_err().to_string();
        assert!(error.starts_with("not a log filter"), "{error}");
    }

    #[test]
    fn starting_twice_is_no_error() {
        init("off", LogFormat::Auto, &[]).unwrap();
        init("off", LogFormat::Json, &[]).unwrap();
    }
}

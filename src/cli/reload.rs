//! SIGHUP: the configuration is read once more, and what can be exchanged under running requests is.
//!
//! Law: everything new is made before anything old is given up, so that a configuration that is wrong in any place changes
//! nothing: the old one goes on, and the log says so as an error. What is not exchanged is named: it takes a restart.

use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::app::{App, BadConfiguration, Configured};
use crate::config::Values;
use crate::ops::shutdown::Shutdown;
use crate::providers::PROVIDERS;

/// Takes the new over, once all parts have made theirs.
pub type Takeover = Box<dyn FnOnce() + Send>;

/// Makes a part anew from the settings, without touching what is there.
pub type Make = Box<dyn Fn(&Configured) -> Made + Send + Sync>;

/// A part that was made, or what is wrong with its settings.
pub type Made = Result<Takeover, BadConfiguration>;

/// A part of a running finhook that can be exchanged: makes its new self from the settings.
pub struct Part {
    /// Settings that it takes over.
    pub settings: Vec<&'static str>,
    /// Makes it, without touching what is there.
    pub make: Make,
}

/// Listens from now on: without it the signal would end the process.
pub fn listen() -> std::io::Result<Signal> {
    signal(SignalKind::hangup())
}

/// Reads the configuration again at each signal, until the shutdown begins.
pub async fn obey(mut hangups: Signal, app: &Configured, parts: &[Part], shutdown: &Shutdown) {
    let mut current = app.values().clone();
    loop {
        tokio::select! {
            heard = hangups.recv() => if heard.is_none() { return },
            () = shutdown.begun() => return,
        }
        // Files and commands are read, which may take a while: the other tasks go on.
        match tokio::task::block_in_place(|| again(&current, parts)) {
            Ok(values) => current = values,
            Err(error) => {
                tracing::error!(error = %error, "the new configuration is not taken: the old one holds until it is mended");
            }
        }
    }
}

/// Makes every part anew, then takes all of them over.
fn again(old: &Values, parts: &[Part]) -> Result<Arc<Values>, BadConfiguration> {
    let app = App::load()?.configured()?;
    // Not exchanged, but whoever rolls keys wants to hear of a mistake now and not at the next start.
    app.vault()?;
    let made = parts.iter().map(|part| (part.make)(&app)).collect::<Result<Vec<_>, _>>()?;
    made.into_iter().for_each(|takeover| takeover());
    let changed = old.changed(app.values());
    let is_taken = |name: &&str| parts.iter().any(|part| part.settings.contains(name));
    let (taken, left): (Vec<&str>, Vec<&str>) = changed.into_iter().partition(is_taken);
    tracing::info!(settings.changed = taken.join(" "), "configuration read again");
    if !left.is_empty() {
        tracing::warn!(settings.changed = left.join(" "), "these settings take a restart: the old ones hold");
    }
    Ok(app.values().clone())
}

/// The settings of the providers' proofs. A reader's are not among them: it belongs to the workers.
pub fn of_proofs() -> Vec<&'static str> {
    let all = PROVIDERS.iter().flat_map(|provider| provider.variables).map(|variable| variable.name);
    all.filter(|name| *name != "FINHOOK_UNIT_USER_TAG").chain(["FINHOOK_URL_KEYS"]).collect()
}

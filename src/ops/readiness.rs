//! Readiness: whether this process could do its work now, and if not, which check says so and since when.

use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

use crate::domain::{Timestamp, WallClock};

/// A question that can be answered at once, without waiting for broker or disk.
type Probe = Box<dyn Fn() -> Result<(), String> + Send + Sync>;

/// The registry. Clones share it. Checks are either told ([`Readiness::check`]) or asked ([`Readiness::probe`]).
#[derive(Clone)]
pub struct Readiness {
    checks: Arc<Mutex<Vec<Entry>>>,
    clock: WallClock,
}

struct Entry {
    state: CheckState,
    probe: Option<Probe>,
}

/// One check as `/readyz` shows it. The words are ours: never a library's text, which could quote an address or a value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckState {
    /// What is checked (`queue`, `store`, `keys`).
    pub name: &'static str,
    /// Whether it is well.
    pub ok: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Since when it is as it is, RFC 3339.
    #[serde(serialize_with = "as_text")]
    pub since: Timestamp,
}

fn as_text<S: serde::Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(at)
}

/// Tells one check how it is.
#[derive(Clone)]
pub struct Check {
    registry: Readiness,
    name: &'static str,
}

impl Readiness {
    /// A registry without checks: ready.
    pub fn new(clock: WallClock) -> Self {
        Self { checks: Arc::default(), clock }
    }

    /// Adds a check that is told how it is; until then it says `starting`.
    pub fn check(&self, name: &'static str) -> Check {
        self.add(name, Some("starting".to_owned()), None);
        Check { registry: self.clone(), name }
    }

    /// Adds a check that is asked whenever somebody wants to know. `since` is when the answer was first seen to change.
    pub fn probe(&self, name: &'static str, probe: impl Fn() -> Result<(), String> + Send + Sync + 'static) {
        self.add(name, probe().err(), Some(Box::new(probe)));
    }

    fn add(&self, name: &'static str, why: Option<String>, probe: Option<Probe>) {
        let state = CheckState { name, ok: why.is_none(), why, since: self.clock.now() };
        let mut checks = self.checks.lock().unwrap_or_else(PoisonError::into_inner);
        checks.retain(|entry| entry.state.name != name);
        checks.push(Entry { state, probe });
    }

    /// How every check is now.
    pub fn state(&self) -> Vec<CheckState> {
        let now = self.clock.now();
        let mut checks = self.checks.lock().unwrap_or_else(PoisonError::into_inner);
        for entry in checks.iter_mut() {
            if let Some(probe) = &entry.probe {
                let answer = probe();
                entry.turn(answer.err(), now);
            }
        }
        checks.iter().map(|entry| entry.state.clone()).collect()
    }
}

impl Entry {
    fn turn(&mut self, why: Option<String>, now: Timestamp) {
        let ok = why.is_none();
        if self.state.ok != ok {
            self.state.since = now;
            match &why {
                None => tracing::info!(check.name = self.state.name, "ready"),
                Some(why) => tracing::warn!(check.name = self.state.name, check.why = %why, "not ready"),
            }
        }
        (self.state.ok, self.state.why) = (ok, why);
    }
}

impl Check {
    /// All is well.
    pub fn ok(&self) {
        self.turn(None);
    }

    /// It is not, and why, in our own words.
    pub fn failed(&self, why: impl Into<String>) {
        self.turn(Some(why.into()));
    }

    fn turn(&self, why: Option<String>) {
        let now = self.registry.clock.now();
        let mut checks = self.registry.checks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = checks.iter_mut().find(|entry| entry.state.name == self.name) {
            entry.turn(why, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_seconds(seconds).unwrap()
    }

    #[test]
    fn a_check_says_since_when_it_is_as_it_is() {
        let clock = WallClock::held(at(100));
        let readiness = Readiness::new(clock.clone());
        let store = readiness.check("store");
        assert_eq!(readiness.state()[0].why.as_deref(), Some("starting"));
        clock.set(at(110));
        store.ok();
        clock.set(at(120));
        store.ok();
        assert_eq!((readiness.state()[0].ok, readiness.state()[0].since), (true, at(110)));
        clock.set(at(130));
        store.failed("the database is away");
        clock.set(at(140));
        store.failed("the database is still away");
        let state = readiness.state().remove(0);
        assert_eq!((state.ok, state.since), (false, at(130)));
        assert_eq!(state.why.as_deref(), Some("the database is still away"));
    }

    #[test]
    fn a_probe_is_asked_each_time() {
        let (readiness, well) = (Readiness::new(WallClock::held(at(1))), Arc::new(AtomicBool::new(true)));
        let asked = well.clone();
        readiness.probe("queue", move || if asked.load(Ordering::SeqCst) { Ok(()) } else { Err("blocked".to_owned()) });
        assert!(readiness.state()[0].ok);
        well.store(false, Ordering::SeqCst);
        assert_eq!(readiness.state()[0].why.as_deref(), Some("blocked"));
    }
}

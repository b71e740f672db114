//! Spans in a build without the feature `otlp`: none.

use super::{Kind, NotExporting};
use crate::config::TraceSettings;
use crate::domain::TraceParent;

/// There is none.
pub(super) enum Provider {}

/// There is none.
pub(super) enum Recorded {}

/// What an attribute would be.
pub(super) struct Value;

impl From<&str> for Value {
    fn from(_: &str) -> Self {
        Self
    }
}

impl From<String> for Value {
    fn from(_: String) -> Self {
        Self
    }
}

impl From<i64> for Value {
    fn from(_: i64) -> Self {
        Self
    }
}

pub(super) fn start(_: &TraceSettings, _: usize) -> Result<Provider, NotExporting> {
    Err(NotExporting("this finhook was built without the feature otlp: unset it, or build with the feature"))
}

pub(super) fn finish(provider: &Provider, _: std::time::Duration) -> bool {
    match *provider {}
}

pub(super) fn is_on() -> bool {
    false
}

pub(super) fn begin(_: Kind, _: Option<TraceParent>, _: &[TraceParent]) -> Option<Recorded> {
    None
}

impl Recorded {
    pub(super) fn context(&self) -> Option<TraceParent> {
        match *self {}
    }

    pub(super) fn say(&mut self, _: &'static str, _: Value) {
        match *self {}
    }

    pub(super) fn failed(&mut self) {
        match *self {}
    }
}

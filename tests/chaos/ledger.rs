//! What the providers know: every delivery, every answer, every event that finhook gave its word for.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use crate::world::{Outgoing, Planned};

/// An event's identity: its provider and its dedup key.
pub type EventId = (&'static str, Vec<u8>);

/// How one attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Answer {
    /// With this status.
    Status(u16),
    /// With nothing in time.
    Silence,
}

/// One attempt, in the past.
#[derive(Debug, Clone, Copy)]
pub struct Attempt {
    /// When it was sent.
    pub sent: Instant,
    /// When it was answered.
    pub answered: Instant,
    /// How.
    pub answer: Answer,
}

/// Everything the providers know.
pub struct Ledger {
    /// What every event that was ever signed should do.
    pub known: BTreeMap<EventId, Planned>,
    /// The events of deliveries that were answered 200.
    pub promised: BTreeMap<EventId, Instant>,
    /// Every attempt.
    pub attempts: Vec<Attempt>,
    /// Deliveries that were sent at least once, answered 200, and given up by their providers.
    pub deliveries: usize,
    /// Answered 200.
    pub accepted: usize,
    /// Given up without a 200.
    pub given_up: usize,
    /// Answers that no provider should ever have got, by what was wrong.
    pub wrong_answers: BTreeMap<String, usize>,
    /// Deliveries that are still to be answered 200.
    pub open: usize,
    /// What was waited for since something came back.
    pub recovery: Recovery,
    began: Instant,
    lines: BufWriter<File>,
}

impl Ledger {
    /// An empty one; every answer is also written to `path`, a JSON object a line.
    pub fn new(path: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            known: BTreeMap::new(),
            promised: BTreeMap::new(),
            attempts: Vec::new(),
            deliveries: 0,
            accepted: 0,
            given_up: 0,
            wrong_answers: BTreeMap::new(),
            open: 0,
            recovery: Recovery::default(),
            began: Instant::now(),
            lines: BufWriter::new(File::create(path)?),
        })
    }

    /// The events of a delivery are on their way.
    pub fn announce(&mut self, outgoing: &Outgoing) {
        for event in &outgoing.events {
            let id = (outgoing.sender.provider(), event.key.clone());
            match self.known.get_mut(&id) {
                // Plaid's key is made of second and body: a bound and a plain copy are one event, with both claims.
                Some(known) => {
                    let both: BTreeSet<_> = known.effects.iter().chain(&event.effects).flatten().cloned().collect();
                    known.effects = known.effects.is_some().then(|| both.into_iter().collect());
                }
                None => {
                    self.known.insert(id, event.clone());
                }
            }
        }
    }

    /// An attempt was answered, or not.
    pub fn answered(&mut self, number: usize, outgoing: &Outgoing, sent: Instant, answer: Answer) {
        let answered = Instant::now();
        self.attempts.push(Attempt { sent, answered, answer });
        let (status, provider) = (format!("{answer:?}"), outgoing.sender.provider());
        let keys: Vec<String> = outgoing.events.iter().map(|event| printable(&event.key)).collect();
        let line = serde_json::json!({"delivery": number, "provider": provider, "answer": status, "events": keys,
            "sent_ms": (sent - self.began).as_millis() as u64, "answered_ms": (answered - self.began).as_millis() as u64});
        let _ = writeln!(self.lines, "{line}");
        if answer == Answer::Status(200) {
            self.recovery.happened(Until::Accepted);
            for event in &outgoing.events {
                self.promised.entry((provider, event.key.clone())).or_insert(answered);
            }
        }
    }

    /// How often each answer was given.
    pub fn answers(&self) -> String {
        let mut counts: BTreeMap<Answer, usize> = BTreeMap::new();
        self.attempts.iter().for_each(|attempt| *counts.entry(attempt.answer).or_default() += 1);
        let texts = counts.into_iter().map(|(answer, count)| match answer {
            Answer::Status(status) => format!("{count} x {status}"),
            Answer::Silence => format!("{count} x no answer"),
        });
        texts.collect::<Vec<_>>().join(", ")
    }
}

/// A key as people can read it.
pub fn printable(key: &[u8]) -> String {
    match std::str::from_utf8(key) {
        Ok(text) if !text.contains(|c: char| c.is_control() && c != '\0') => text.replace('\0', "+"),
        _ => key.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

/// By what one sees that finhook is back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// The next 200.
    Accepted,
    /// The next event row.
    Committed,
}

/// How long finhook needed after something it depends on was back.
#[derive(Default)]
pub struct Recovery {
    waiting: Vec<(String, Until, Instant)>,
    /// The longest wait so far, and after what.
    pub longest: (Duration, String),
}

impl Recovery {
    /// Something is taken away: what is waited for cannot come.
    pub fn fault(&mut self) {
        self.waiting.clear();
    }

    /// Something is back.
    pub fn back(&mut self, what: &str, until: &[Until]) {
        let now = Instant::now();
        self.waiting.extend(until.iter().map(|until| (what.to_owned(), *until, now)));
    }

    /// What was waited for happened.
    pub fn happened(&mut self, seen: Until) {
        let over = self.waiting.extract_if(.., |(_, until, _)| *until == seen);
        for (what, until, since) in over.collect::<Vec<_>>() {
            let took = since.elapsed();
            if took > self.longest.0 {
                self.longest = (took, format!("{what} to the next {until:?}").to_lowercase());
            }
        }
    }

    /// What never came.
    pub fn outstanding(&self) -> Option<(Duration, String)> {
        let oldest = self.waiting.iter().min_by_key(|(_, _, since)| *since)?;
        Some((oldest.2.elapsed(), format!("{} to the next {:?}, which never came", oldest.0, oldest.1)))
    }
}

//! Steps 8 and 9: a message is opened, and its delivery becomes events with their envelopes sealed for their rows.
//!
//! Total: what cannot be opened or read becomes a dead event that keeps the message as it came, sealed again; a panic while
//! reading is that delivery's failure and nobody else's.

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::sightings::Sightings;
use crate::config::{ConfigError, Values};
use crate::crypto::{OpenError, SealedDelivery, frame_of, kept, key_of_message, key_of_payload};
use crate::domain::{
    Cause, DedupKey, Delivery, Event, Meaning, ProviderName, Reason, Scope, Timestamp, TraceParent, WallClock,
};
use crate::ops::throttle::Throttle;
use crate::providers::{self, Reader, keep};
use crate::queue::Received;
use crate::store::{Arriving, Reread, SecretUse, StoredEvent, Vault};

/// The most events of one delivery. The providers send up to some hundreds; beyond this the body is kept as it is, as one
/// dead event more, or a megabyte of commas would become half a million rows.
const MAX_EVENTS: usize = 20_000;

/// Lines about messages that do not open: a key that is missing makes all of them such.
static UNOPENED_LINES: Throttle<(ProviderName, Cause)> = Throttle::new(5);

/// The most secrets of a provider that are remembered between two times of writing them down.
const MOST_SECRETS: usize = 256;

/// Opens and interprets: the key ring, and one reader for each provider.
pub struct Desk {
    vault: Arc<Vault>,
    readers: HashMap<ProviderName, Box<dyn Reader>>,
    clock: WallClock,
    /// By provider and fingerprint, which inbound secrets proved what was opened here, until somebody writes it down.
    secrets: Mutex<BTreeMap<ProviderName, BTreeMap<String, Timestamp>>>,
    sightings: Sightings,
}

impl Desk {
    /// Makes every provider's reader from the settings.
    pub fn new(values: &Values, vault: Arc<Vault>, clock: WallClock) -> Result<Self, ConfigError> {
        let readers = providers::PROVIDERS
            .iter()
            .map(|provider| Ok((provider.name, (provider.reader)(values)?)))
            .collect::<Result<_, ConfigError>>()?;
        Ok(Self { vault, readers, clock, secrets: Mutex::default(), sightings: Sightings::default() })
    }

    /// The same with another reader of one provider.
    #[cfg(test)]
    pub(crate) fn reading_with(mut self, provider: ProviderName, reader: Box<dyn Reader>) -> Self {
        self.readers.insert(provider, reader);
        self
    }

    /// The events of one message, ready for the tables. way: 8/12
    pub fn arriving(&self, received: &Received) -> Vec<Arriving> {
        // Opening may panic as little as reading; if it does, this message is kept and the worker goes on.
        let read = catch_unwind(AssertUnwindSafe(|| {
            let delivery = self.open_message(&received.body)?;
            if let Some(secret) = &delivery.proof.secret {
                self.note_secret(delivery.provider, secret, delivery.received_at);
            }
            Ok(self.events_of(&delivery))
        }));
        match read.unwrap_or(Err(Cause::Panicked)) {
            Ok(events) => events,
            Err(cause) => vec![self.unopened(received, cause)],
        }
    }

    /// The events of an opened delivery, each with its own envelope. way: 9/12
    pub fn events_of(&self, delivery: &Delivery) -> Vec<Arriving> {
        self.interpret(delivery)
            .into_iter()
            .map(|mut event| {
                let envelope = keep::stored(delivery, &event);
                let payload = self.vault.ring.seal_payload(&event.dedup_key, &envelope);
                // All that is needed of it from here on is in the envelope: what waits for its commit is twice as small.
                event.bytes = Bytes::new();
                let bound = delivery.proof.user.clone();
                Arriving { event, payload, force: delivery.force, trace: delivery.trace, bound }
            })
            .collect()
    }

    /// Asks the provider's reader; a panic of it makes one dead event of the whole delivery.
    fn interpret(&self, delivery: &Delivery) -> Vec<Event> {
        let Some(reader) = self.readers.get(&delivery.provider) else {
            return vec![dead(delivery, Cause::UnknownProvider)];
        };
        // Readers hold no state that a panic could leave half changed.
        let mut events = catch_unwind(AssertUnwindSafe(|| reader.events(delivery)))
            .unwrap_or_else(|_| vec![dead(delivery, Cause::Panicked)]);
        if events.len() > MAX_EVENTS {
            events.truncate(MAX_EVENTS);
            events.push(dead(delivery, Cause::TooMany));
        }
        events
    }

    /// A message that cannot be opened: kept as it came, sealed again, as one dead event.
    fn unopened(&self, received: &Received, cause: Cause) -> Arriving {
        let (message, queue) = (&received.body, &received.queue);
        let now = self.clock.now();
        let frame = frame_of(message);
        let named = frame.as_ref().map(|(name, _)| name.as_str()).or_else(|| queue.rsplit('.').next());
        let provider = named.and_then(known).unwrap_or(ProviderName::UNKNOWN);
        if let Some(held_back) = UNOPENED_LINES.admit((provider, cause), now) {
            let reason = cause.as_str();
            tracing::error!(provider.name = %provider, reason, log.held_back = held_back, "message kept as it came");
        }
        // What the head says of its trace is not to be had; what stands beside the message is good enough for looking.
        let trace = received.traceparent.as_deref().and_then(TraceParent::parse);
        let delivery = kept(provider, now, message.clone()).traced(trace);
        let event = dead(&delivery, cause);
        let payload = self.vault.ring.seal_payload(&event.dedup_key, &delivery);
        Arriving { event, payload, force: false, trace, bound: None }
    }

    /// Opens a stored envelope.
    pub fn open(&self, stored: &StoredEvent) -> Result<Delivery, OpenError> {
        self.vault.ring.open_payload(&stored.provider, &stored.dedup_key, &stored.payload, &known)
    }

    /// The same; the cause says why not.
    fn opened(&self, stored: &StoredEvent) -> Result<Delivery, Cause> {
        self.open(stored).map_err(|error| self.cause_of(error, key_of_payload(&stored.payload)))
    }

    fn open_message(&self, message: &Bytes) -> Result<Delivery, Cause> {
        let opened = self.vault.ring.open_delivery(message, &known);
        opened.map_err(|error| self.cause_of(error, key_of_message(message)))
    }

    /// Why something could not be opened, as the row's reason. A key that is missing may come back, and is asked for in the
    /// clear; nothing else is told apart.
    fn cause_of(&self, error: OpenError, asks_for: Option<u32>) -> Cause {
        match error {
            OpenError::UnknownProvider => Cause::UnknownProvider,
            OpenError::Refused if asks_for.is_some_and(|id| !self.vault.ring.holds(id)) => Cause::UnknownKey,
            OpenError::Refused | OpenError::NotOurs => Cause::Unopenable,
        }
    }

    /// The event of a stored row as today's code reads it, ready to be applied past the dedup. The cause says why not:
    /// [`Cause::UnknownKey`] and [`Cause::UnknownProvider`] can pass, the others cannot.
    pub fn again(&self, stored: &StoredEvent) -> Result<Arriving, Cause> {
        match self.reading(stored)?.1 {
            Reading::Same(arriving) => Ok(*arriving),
            Reading::Others(_) => Err(Cause::ReadOtherwise),
        }
    }

    /// A stored row's delivery, forced, and its events as today's code reads them. A message that was kept as it came is
    /// opened, and read as it would have been then.
    pub fn reading(&self, stored: &StoredEvent) -> Result<(Delivery, Reading), Cause> {
        let mut delivery = self.opened(stored)?;
        if delivery.scope == Scope::Message {
            delivery = self.open_message(&delivery.bytes)?;
        } else {
            delivery.force = true;
        }
        let mut events = self.events_of(&delivery);
        let panicked = Meaning::Dead(Reason::new(Cause::Panicked));
        let itself = events.iter().position(|arriving| arriving.event.dedup_key == stored.dedup_key);
        let reading = match itself {
            Some(position) => Reading::Same(Box::new(events.swap_remove(position))),
            // Its key is of the bytes and not the event's own: the row must not be replaced by it.
            None if events.iter().any(|arriving| arriving.event.meaning == panicked) => return Err(Cause::Panicked),
            None => Reading::Others(events),
        };
        Ok((delivery, reading))
    }

    /// The events of a delivery that was held because its key was unknown; the cause says why it still is.
    pub fn released(&self, stored: &StoredEvent) -> Result<Vec<Arriving>, Cause> {
        let held = self.opened(stored)?;
        if held.scope != Scope::Message {
            return Err(Cause::ReadOtherwise);
        }
        let delivery = self.open_message(&held.bytes)?;
        Ok(self.events_of(&delivery))
    }

    /// Under which key of the ring a message came. What asks for any other is kept, and is no use of a key of ours.
    pub fn key_seen(&self, received: &Received) -> Option<u32> {
        key_of_message(&received.body).filter(|key| self.vault.ring.holds(*key))
    }

    /// Under which keys deliveries came that are committed.
    pub fn sightings(&self) -> &Sightings {
        &self.sightings
    }

    /// A stored event's delivery, sealed anew for the queue.
    pub fn sealed(&self, delivery: &Delivery) -> SealedDelivery {
        self.vault.ring.seal_delivery(delivery)
    }

    /// Remembers that a secret proved a delivery. Bounded: there are as many as are configured, at a few receivers.
    fn note_secret(&self, provider: ProviderName, secret: &str, at: Timestamp) {
        let mut secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        let known = secrets.entry(provider).or_default();
        if let Some(newest) = known.get_mut(secret) {
            *newest = at.max(*newest);
        } else if known.len() < MOST_SECRETS {
            known.insert(secret.to_owned(), at);
        }
    }

    /// The secrets that proved something since this was asked last, to be written down.
    pub fn take_secrets(&self) -> Vec<SecretUse> {
        let secrets = std::mem::take(&mut *self.secrets.lock().unwrap_or_else(PoisonError::into_inner));
        let used = |(provider, known): (ProviderName, BTreeMap<String, Timestamp>)| {
            known.into_iter().map(move |(fingerprint, last_verified_at)| SecretUse {
                provider: provider.as_str().to_owned(),
                fingerprint,
                last_verified_at,
            })
        };
        secrets.into_iter().flat_map(used).collect()
    }

    /// The time now, by the clock that everything here decides by.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

impl Reread for Desk {
    fn reread(&self, stored: &StoredEvent) -> Option<Event> {
        self.again(stored).ok().map(|arriving| arriving.event)
    }
}

/// What a stored row is read as.
pub enum Reading {
    /// Its own event.
    Same(Box<Arriving>),
    /// Other events than the row's own: it could not be read, or not be opened, when the row was written.
    Others(Vec<Arriving>),
}

fn known(name: &str) -> Option<ProviderName> {
    let provider = providers::find(name).map(|provider| provider.name);
    provider.or_else(|| (name == ProviderName::UNKNOWN.as_str()).then_some(ProviderName::UNKNOWN))
}

/// One dead event that stands for a whole delivery.
fn dead(delivery: &Delivery, cause: Cause) -> Event {
    Event {
        provider: delivery.provider,
        dedup_key: DedupKey::from_bytes_of(&delivery.bytes),
        kind: None,
        subject: None,
        occurred_at: delivery.received_at,
        received_at: delivery.received_at,
        meaning: Meaning::Dead(Reason::new(cause)),
        bytes: delivery.bytes.clone(),
        scope: delivery.scope,
    }
}

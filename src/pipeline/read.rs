//! Steps 8 and 9: a message is opened, and its delivery becomes events with their envelopes sealed for their rows.
//!
//! Total: what cannot be opened or read becomes a dead event that keeps the message as it came, sealed again; a panic while
//! reading is that delivery's failure and nobody else's.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;

use crate::config::{ConfigError, Values};
use crate::crypto::{OpenError, frame_of, kept};
use crate::domain::{Cause, DedupKey, Delivery, Event, Meaning, ProviderName, Reason, Scope, Timestamp, WallClock};
use crate::providers::{self, Reader};
use crate::queue::Received;
use crate::store::{Arriving, Reread, StoredEvent, Vault};

/// The most events of one delivery. The providers send up to some hundreds; beyond this the body is kept as it is, as one
/// dead event more, or a megabyte of commas would become half a million rows.
const MAX_EVENTS: usize = 20_000;

/// Opens and interprets: the key ring, and one reader for each provider.
pub struct Desk {
    vault: Arc<Vault>,
    readers: HashMap<ProviderName, Box<dyn Reader>>,
    clock: WallClock,
}

impl Desk {
    /// Makes every provider's reader from the settings.
    pub fn new(values: &Values, vault: Arc<Vault>, clock: WallClock) -> Result<Self, ConfigError> {
        let readers = providers::PROVIDERS
            .iter()
            .map(|provider| Ok((provider.name, (provider.reader)(values)?)))
            .collect::<Result<_, ConfigError>>()?;
        Ok(Self { vault, readers, clock })
    }

    /// The events of one message, ready for the tables. way: 8/12
    pub fn arriving(&self, received: &Received) -> Vec<Arriving> {
        match self.vault.ring.open_delivery(&received.body, &known) {
            Ok(delivery) => self.events_of(&delivery),
            Err(error) => vec![self.unopened(&received.body, &received.queue, error)],
        }
    }

    /// The events of an opened delivery, each with its own envelope. way: 9/12
    pub fn events_of(&self, delivery: &Delivery) -> Vec<Arriving> {
        self.interpret(delivery)
            .into_iter()
            .map(|event| {
                let envelope = delivery.narrowed(event.bytes.clone(), event.scope);
                let payload = self.vault.ring.seal_payload(&event.dedup_key, &envelope);
                Arriving { event, payload, force: delivery.force }
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
    fn unopened(&self, message: &Bytes, queue: &str, error: OpenError) -> Arriving {
        let now = self.clock.now();
        let frame = frame_of(message);
        let named = frame.as_ref().map(|(name, _)| name.as_str()).or_else(|| queue.rsplit('.').next());
        let provider = named.and_then(known).unwrap_or(ProviderName::UNKNOWN);
        let cause = match error {
            OpenError::UnknownKey(_) => Cause::UnknownKey,
            OpenError::UnknownProvider => Cause::UnknownProvider,
            OpenError::Refused => Cause::Unopenable,
        };
        tracing::error!(provider.name = %provider, reason = cause.as_str(), %error, "message kept as it came");
        let delivery = kept(provider, now, message.clone());
        let event = dead(&delivery, cause);
        let payload = self.vault.ring.seal_payload(&event.dedup_key, &delivery);
        Arriving { event, payload, force: false }
    }

    /// Opens a stored envelope.
    pub fn open(&self, stored: &StoredEvent) -> Result<Delivery, OpenError> {
        self.vault.ring.open_payload(&stored.provider, &stored.dedup_key, &stored.payload, &known)
    }

    /// The event of a stored row as today's code reads it, ready to be applied past the dedup.
    pub fn again(&self, stored: &StoredEvent) -> Option<Arriving> {
        let delivery = self.open(stored).ok()?;
        let mut events = self.events_of(&delivery);
        let position = events.iter().position(|arriving| arriving.event.dedup_key == stored.dedup_key)?;
        Some(Arriving { force: true, ..events.swap_remove(position) })
    }

    /// The events of a delivery that was held because its key was unknown; `None` while it still is.
    pub fn released(&self, stored: &StoredEvent) -> Option<Vec<Arriving>> {
        let held = self.open(stored).ok().filter(|delivery| delivery.scope == Scope::Message)?;
        let delivery = self.vault.ring.open_delivery(&held.bytes, &known).ok()?;
        Some(self.events_of(&delivery))
    }

    /// The time now, by the clock that everything here decides by.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

impl Reread for Desk {
    fn reread(&self, stored: &StoredEvent) -> Option<Event> {
        self.again(stored).map(|arriving| arriving.event)
    }
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

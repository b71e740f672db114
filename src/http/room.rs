//! Room: how many requests, deliveries and bytes may be in flight; what finds none is refused at once.
//!
//! A slow sender must not take what a good one needs, so the scarce permits are taken late: a delivery's when its body is
//! complete, bytes as they arrive and not as announced, and bytes of bodies that are still arriving from a share of their
//! own. One semaphore each, always `try_acquire`: nobody queues up.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::Cause;

/// What may be in flight.
#[derive(Debug, Clone)]
pub struct RoomLimits {
    /// Requests that are being read or answered. HTTP/1 has one per connection, HTTP/2 many.
    pub requests: usize,
    /// Deliveries that are read and wait for their proof or their confirm.
    pub deliveries: usize,
    /// Bytes of their bodies; at most 4 GiB.
    pub delivery_bytes: usize,
    /// Bytes of bodies that are still arriving; at most 4 GiB.
    pub arriving_bytes: usize,
}

impl Default for RoomLimits {
    /// Under 100 MiB in all, also with the largest bodies and a broker that reads none of them: buffers grow by doubling,
    /// a body is held beside its seal for a moment, and the broker's client copies once more.
    fn default() -> Self {
        Self { requests: 16_384, deliveries: 1_024, delivery_bytes: 16 << 20, arriving_bytes: 12 << 20 }
    }
}

/// The room that all requests share.
pub(super) struct Room {
    requests: Arc<Semaphore>,
    deliveries: Arc<Semaphore>,
    delivery_bytes: Arc<Semaphore>,
    arriving_bytes: Arc<Semaphore>,
}

impl Room {
    pub(super) fn new(limits: &RoomLimits) -> Self {
        let semaphore = |permits: usize| Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS)));
        Self {
            requests: semaphore(limits.requests),
            deliveries: semaphore(limits.deliveries),
            delivery_bytes: semaphore(limits.delivery_bytes),
            arriving_bytes: semaphore(limits.arriving_bytes),
        }
    }

    /// Room for a request to be read. Refused before reading if a delivery would find none afterwards.
    pub(super) fn request(&self) -> Result<OwnedSemaphorePermit, Cause> {
        if self.deliveries.available_permits() == 0 || self.delivery_bytes.available_permits() == 0 {
            return Err(Cause::Busy);
        }
        Arc::clone(&self.requests).try_acquire_owned().map_err(|_| Cause::Busy)
    }

    /// Room for a body that arrives in pieces.
    pub(super) fn arriving(&self) -> Arriving<'_> {
        Arriving { room: self, held: None }
    }

    /// Room for a complete delivery.
    pub(super) fn delivery(&self, body: Bytes) -> Result<Held, Cause> {
        let delivery = Arc::clone(&self.deliveries).try_acquire_owned().map_err(|_| Cause::Busy)?;
        let bytes = take(&self.delivery_bytes, body.len())?;
        Ok(Held { body, permits: (delivery, bytes) })
    }
}

fn take(semaphore: &Arc<Semaphore>, bytes: usize) -> Result<OwnedSemaphorePermit, Cause> {
    let bytes = u32::try_from(bytes).map_err(|_| Cause::Busy)?;
    Arc::clone(semaphore).try_acquire_many_owned(bytes).map_err(|_| Cause::Busy)
}

/// What a body that is still arriving holds; given back when dropped.
pub(super) struct Arriving<'a> {
    room: &'a Room,
    held: Option<OwnedSemaphorePermit>,
}

impl Arriving<'_> {
    /// So many bytes more.
    pub(super) fn grow(&mut self, bytes: usize) -> Result<(), Cause> {
        let more = take(&self.room.arriving_bytes, bytes)?;
        match &mut self.held {
            Some(held) => held.merge(more),
            None => self.held = Some(more),
        }
        Ok(())
    }
}

/// A complete body with its room, which is given back when this is dropped.
pub(super) struct Held {
    body: Bytes,
    permits: (OwnedSemaphorePermit, OwnedSemaphorePermit),
}

impl Held {
    /// The body, to be moved on, and what gives the room back when it is dropped.
    pub(super) fn into_parts(self) -> (Bytes, impl Send + use<>) {
        (self.body, self.permits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_given_back_when_its_holder_goes() {
        let room = Room::new(&RoomLimits { requests: 2, deliveries: 1, delivery_bytes: 10, arriving_bytes: 4 });
        let held = room.delivery(Bytes::from_static(b"0123456789")).ok().unwrap();
        assert_eq!(room.request().err(), Some(Cause::Busy), "no room for a delivery: not even read");
        assert_eq!(room.delivery(Bytes::new()).err(), Some(Cause::Busy));
        drop(held);
        assert_eq!(room.delivery(Bytes::from_static(b"0123456789a")).err(), Some(Cause::Busy));
        assert!(room.request().is_ok());
        let mut arriving = room.arriving();
        assert_eq!((arriving.grow(3), arriving.grow(2)), (Ok(()), Err(Cause::Busy)));
        drop(arriving);
        assert_eq!(room.arriving().grow(4), Ok(()));
        assert!(room.delivery(Bytes::from_static(b"0123456789")).is_ok());
    }
}

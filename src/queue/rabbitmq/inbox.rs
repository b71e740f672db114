//! What waits for a lane, bounded by what is in flight altogether, lanes included.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{Notify, oneshot, watch};

use super::publisher::Verdict;
use crate::crypto::SealedDelivery;
use crate::queue::PublishError;

/// Most messages of a window.
const WINDOW: usize = 256;

/// Most bytes of a window, its last message besides: the client library copies bodies into a queue that it does not bound,
/// and keeps them there for as long as the broker reads nothing.
const WINDOW_BYTES: usize = 1 << 20;

/// Deliveries between their callers and the lanes.
pub(super) struct Inbox {
    waiting: Mutex<Waiting>,
    arrived: Notify,
    released: Notify,
    /// Whether there are lanes.
    open: watch::Sender<bool>,
    in_flight: AtomicUsize,
    max_in_flight: usize,
}

struct Waiting {
    queue: VecDeque<Request>,
    shut: bool,
}

/// A delivery that waits for its answer.
pub(super) struct Request {
    pub(super) delivery: SealedDelivery,
    answer: oneshot::Sender<Verdict>,
    _slot: Slot,
}

/// One place in flight; dropping it frees the place.
struct Slot(Arc<Inbox>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
        self.0.released.notify_one();
    }
}

impl Request {
    /// Answers, and frees the place.
    pub(super) fn answer(self, verdict: Verdict) {
        // The slot is freed first: who reads the answer and publishes again must find the place.
        let Self { answer, _slot, .. } = self;
        drop(_slot);
        let _ = answer.send(verdict);
    }
}

impl Inbox {
    /// For at most `max_in_flight` at once; nothing is taken until [`Inbox::open`].
    pub(super) fn new(max_in_flight: usize) -> Self {
        Self {
            waiting: Mutex::new(Waiting { queue: VecDeque::new(), shut: false }),
            arrived: Notify::new(),
            released: Notify::new(),
            open: watch::Sender::new(false),
            in_flight: AtomicUsize::new(0),
            max_in_flight,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Whether a delivery could be taken now.
    pub(super) fn accepts(&self) -> Verdict {
        if !*self.open.borrow() {
            Err(PublishError::Disconnected)
        } else if self.in_flight.load(Ordering::Acquire) >= self.max_in_flight {
            Err(PublishError::Full)
        } else {
            Ok(())
        }
    }

    /// Takes a delivery in; the receiver gets its answer.
    pub(super) fn push(self: &Arc<Self>, delivery: SealedDelivery) -> Result<oneshot::Receiver<Verdict>, PublishError> {
        let (answer, receiver) = oneshot::channel();
        if self.in_flight.fetch_add(1, Ordering::AcqRel) >= self.max_in_flight {
            self.in_flight.fetch_sub(1, Ordering::AcqRel);
            return Err(PublishError::Full);
        }
        let request = Request { delivery, answer, _slot: Slot(Arc::clone(self)) };
        let mut waiting = self.lock();
        // Looked at under the lock: whoever closes it takes the lock afterwards, and finds what was let in.
        if !*self.open.borrow() || waiting.shut {
            drop(waiting);
            return Err(PublishError::Disconnected);
        }
        waiting.queue.push_back(request);
        drop(waiting);
        self.arrived.notify_one();
        Ok(receiver)
    }

    /// Waits for something, then takes what is there, up to a window. Who gave up waiting is left out.
    pub(super) async fn take(&self) -> Vec<Request> {
        loop {
            let arrived = self.arrived.notified();
            {
                let mut waiting = self.lock();
                let mut window = Vec::new();
                let mut bytes = 0;
                while window.len() < WINDOW && bytes < WINDOW_BYTES {
                    let Some(request) = waiting.queue.pop_front() else { break };
                    if !request.answer.is_closed() {
                        bytes += request.delivery.message.as_bytes().len();
                        window.push(request);
                    }
                }
                if !waiting.queue.is_empty() {
                    self.arrived.notify_one();
                }
                if !window.is_empty() {
                    return window;
                }
            }
            arrived.await;
            // Everybody whose request is here already goes first and shares the window; the runtime would otherwise turn to
            // this lane at the first of them, and send a window of one.
            tokio::task::yield_now().await;
        }
    }

    /// There are lanes.
    pub(super) fn open(&self) {
        self.open.send_replace(true);
    }

    /// Takes nothing more, ever.
    pub(super) fn shut(&self) {
        self.lock().shut = true;
        self.open.send_replace(false);
    }

    /// Takes nothing until the next session; what waits is told so.
    pub(super) fn interrupt(&self) {
        self.open.send_replace(false);
        self.refuse_waiting(PublishError::Disconnected);
    }

    /// Answers everything that no lane has taken yet.
    pub(super) fn refuse_waiting(&self, why: PublishError) {
        let waiting = std::mem::take(&mut self.lock().queue);
        waiting.into_iter().for_each(|request| request.answer(Err(why)));
    }

    /// Completes when there are lanes.
    pub(super) async fn opened(&self) {
        // An error cannot be: the sender is our own.
        let _ = self.open.subscribe().wait_for(|open| *open).await;
    }

    /// Completes when nothing is in flight.
    pub(super) async fn emptied(&self) {
        while self.in_flight.load(Ordering::Acquire) > 0 {
            self.released.notified().await;
        }
    }
}

//! A future that is finished even if nobody waits for it any more.
//!
//! When a sender goes away, hyper drops the handler. What is being published then must neither be forgotten half-way nor
//! give back its permits while the broker's client still holds the body. Spawning every delivery would do, and cost every
//! delivery a task; this spawns only what was dropped.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

/// The future, and where it goes when it is dropped before it is done.
pub(super) struct Shielded<T: Send + 'static> {
    future: Option<Pin<Box<dyn Future<Output = T> + Send>>>,
    tracker: TaskTracker,
}

/// Shields `future`; what is dropped unfinished goes on as a task of `tracker`.
pub(super) fn shield<T: Send + 'static>(
    tracker: &TaskTracker,
    future: impl Future<Output = T> + Send + 'static,
) -> Shielded<T> {
    Shielded { future: Some(Box::pin(future)), tracker: tracker.clone() }
}

impl<T: Send + 'static> Future for Shielded<T> {
    type Output = Option<T>;

    /// `None` only if it is polled again after it was done.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(future) = self.future.as_mut() else { return Poll::Ready(None) };
        let output = std::task::ready!(future.as_mut().poll(context));
        self.future = None;
        Poll::Ready(Some(output))
    }
}

impl<T: Send + 'static> Drop for Shielded<T> {
    fn drop(&mut self) {
        // A panic of the future itself unwinds through here: polling it again would panic again.
        if std::thread::panicking() {
            return;
        }
        // Without a runtime the process is ending, and nobody was told 200.
        if let (Some(future), Ok(runtime)) = (self.future.take(), Handle::try_current()) {
            self.tracker.spawn_on(
                async move {
                    future.await;
                },
                &runtime,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn what_is_dropped_half_way_is_finished_all_the_same() {
        let (tracker, gate, done) = (TaskTracker::new(), Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
        let (waits, says) = (gate.clone(), done.clone());
        let mut shielded = shield(&tracker, async move {
            waits.notified().await;
            says.store(true, Ordering::SeqCst);
        });
        assert!(futures_util::poll!(&mut shielded).is_pending());
        drop(shielded);
        assert_eq!(tracker.len(), 1);
        gate.notify_one();
        tracker.close();
        tracker.wait().await;
        assert!(done.load(Ordering::SeqCst));
    }

    #[tokio::test]
    async fn what_is_awaited_needs_no_task() {
        let tracker = TaskTracker::new();
        assert_eq!(shield(&tracker, async { 7 }).await, Some(7));
        assert!(tracker.is_empty());
    }
}

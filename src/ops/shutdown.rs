//! Shutdown: the first SIGTERM or SIGINT begins a graceful stop with a deadline, the second exits at once.
//!
//! ```text
//! running ── begin() or a signal ──▶ stopping ── everybody done, or the deadline ──▶ exit 0
//!                                        └────── a second signal ──▶ exit 130 (SIGINT) or 143 (SIGTERM)
//! ```
//! Nothing that was acknowledged is lost by either: a 200 is only given for what is durable already.

use std::future::pending;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The handle that everybody who must stop holds. Clones share it.
#[derive(Clone, Debug)]
pub struct Shutdown {
    token: CancellationToken,
    begun_at: Arc<OnceLock<Instant>>,
    patience: Duration,
}

impl Shutdown {
    /// A handle that has not begun; once begun, what is in flight has `patience` to finish.
    pub fn new(patience: Duration) -> Self {
        Self { token: CancellationToken::new(), begun_at: Arc::default(), patience }
    }

    /// Begins the stop. Again is the same as once: the deadline does not move.
    pub fn begin(&self) {
        self.begun_at.get_or_init(Instant::now);
        self.token.cancel();
    }

    /// Whether the stop has begun.
    pub fn has_begun(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Waits until the stop begins.
    pub async fn begun(&self) {
        self.token.cancelled().await;
    }

    /// Cancelled when the stop begins: for rooms that want no more than that.
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Waits until the stop has begun and its deadline has passed.
    pub async fn expired(&self) {
        self.begun().await;
        match self.begun_at.get() {
            Some(begun_at) => tokio::time::sleep_until(*begun_at + self.patience).await,
            // Cannot be: `begin` notes the time before it cancels.
            None => pending().await,
        }
    }

    /// Listens to SIGTERM and SIGINT from now on, for as long as the process lives.
    #[cfg(unix)]
    pub fn obey_signals(&self) -> std::io::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let shutdown = self.clone();
        tokio::spawn(async move {
            loop {
                let signal = tokio::select! {
                    _ = interrupt.recv() => Signal::Interrupt,
                    _ = terminate.recv() => Signal::Terminate,
                };
                if let Some(code) = shutdown.obey(signal) {
                    std::process::exit(code);
                }
            }
        });
        Ok(())
    }

    /// What a signal means now: the code to exit with at once, or nothing when it began the stop.
    fn obey(&self, signal: Signal) -> Option<i32> {
        if self.has_begun() {
            tracing::warn!(signal.name = signal.name(), "second signal: exiting at once");
            return Some(signal.exit_code());
        }
        tracing::info!(
            signal.name = signal.name(),
            shutdown.seconds = self.patience.as_secs(),
            "stopping: finishing what is in flight, a second signal exits at once"
        );
        self.begin();
        None
    }
}

#[derive(Clone, Copy)]
enum Signal {
    Interrupt,
    Terminate,
}

impl Signal {
    fn name(self) -> &'static str {
        match self {
            Signal::Interrupt => "SIGINT",
            Signal::Terminate => "SIGTERM",
        }
    }

    /// 128 and the signal's number, as shells report a process that a signal ended.
    fn exit_code(self) -> i32 {
        match self {
            Signal::Interrupt => 128 + 2,
            Signal::Terminate => 128 + 15,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_signal_begins_and_the_second_names_an_exit_code() {
        let shutdown = Shutdown::new(Duration::from_secs(25));
        assert_eq!(shutdown.obey(Signal::Terminate), None);
        shutdown.begun().await;
        assert_eq!(shutdown.obey(Signal::Terminate), Some(143));
        assert_eq!(shutdown.obey(Signal::Interrupt), Some(130));
    }

    #[tokio::test]
    async fn the_deadline_counts_from_the_first_beginning() {
        let shutdown = Shutdown::new(Duration::from_millis(40));
        let started = Instant::now();
        shutdown.begin();
        tokio::time::sleep(Duration::from_millis(40)).await;
        shutdown.begin();
        let second = Instant::now();
        shutdown.expired().await;
        assert!(started.elapsed() >= Duration::from_millis(40));
        assert!(second.elapsed() < Duration::from_millis(30), "the second beginning moved the deadline");
    }
}

//! The server: binds, accepts, bounds the number of connections, and stops gracefully with a deadline.
//!
//! It stands where `axum::serve` would, which has neither a limit of connections nor a timeout for heads. Where next:
//! `connection.rs`.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use super::connection::Peer;
use super::connection::{self, Patience, Protocol};
use super::tls::{OverTls, Tls};
use crate::ops::shutdown::Shutdown;

/// What a server may take.
#[derive(Debug, Clone)]
pub struct ServerLimits {
    /// Connections at once. One more is told 503 and closed.
    pub connections: usize,
    /// For a new connection's first request, and for every head from its first byte on.
    pub head_time: Duration,
    /// Between two requests of a connection.
    pub idle_time: Duration,
}

impl Default for ServerLimits {
    /// Room for ten thousand silent peers and the good ones besides, in under 320 MiB.
    fn default() -> Self {
        Self { connections: 12_288, head_time: Duration::from_secs(10), idle_time: Duration::from_secs(75) }
    }
}

/// An address that cannot be listened on, by the variable that gives it.
#[derive(Debug, thiserror::Error)]
#[error("{variable}: cannot listen on {address}: {}", reason(.source))]
pub struct BindError {
    /// The variable.
    pub variable: &'static str,
    /// What it says.
    pub address: String,
    /// The system's answer.
    pub source: io::Error,
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "something else listens there; stop it or choose another port".to_owned(),
        io::ErrorKind::AddrNotAvailable => "the address is none of this machine's".to_owned(),
        io::ErrorKind::PermissionDenied => "not allowed; ports below 1024 need privileges".to_owned(),
        io::ErrorKind::InvalidInput => "not an address; write HOST:PORT".to_owned(),
        _ => error.to_string(),
    }
}

/// Listens on `HOST:PORT`; port 0 takes a free one, which the listener's `local_addr` then says.
pub async fn bind(variable: &'static str, address: &str) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|source| BindError { variable, address: address.to_owned(), source })
}

/// How a server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Connections that were cut because the deadline had passed.
    pub cut: usize,
}

/// Where connections come from, in the clear or by TLS.
pub struct Entrance {
    tcp: TcpListener,
    tls: Option<Arc<Tls>>,
}

impl Entrance {
    /// A listener behind TLS, if there is one.
    pub fn new(tcp: TcpListener, tls: Option<Arc<Tls>>) -> Self {
        Self { tcp, tls }
    }
}

impl From<TcpListener> for Entrance {
    fn from(tcp: TcpListener) -> Self {
        Self { tcp, tls: None }
    }
}

/// Serves until the shutdown begins; then accepts nothing more, finishes what is in flight, and returns by its deadline.
pub async fn serve(entrance: impl Into<Entrance>, router: Router, limits: ServerLimits, shutdown: &Shutdown) -> Ended {
    let Entrance { tcp: listener, tls } = entrance.into();
    let mut router = router;
    if let Some(tls) = &tls {
        tokio::spawn(tls.clone().follow(shutdown.token()));
        router = router.layer(Extension(OverTls));
    }
    let protocol = Arc::new(connection::protocol());
    let patience = Patience { head_time: limits.head_time, idle_time: limits.idle_time };
    let turned_away = Arc::new(Semaphore::new(TURNED_AWAY_AT_ONCE));
    let mut connections = JoinSet::new();
    let mut full = false;
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.begun() => break,
            Some(ended) = connections.join_next(), if !connections.is_empty() => {
                report(ended);
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) if connections.len() >= limits.connections => {
                if !std::mem::replace(&mut full, true) {
                    tracing::warn!(connections.limit = limits.connections, "no room for more connections");
                }
                // Words in the clear are none to a client that waits for a handshake.
                if tls.is_none() {
                    turn_away(stream, &turned_away);
                }
            }
            Ok((stream, peer)) => {
                // Said once per flood: not again before a tenth of the places was free.
                full &= connections.len() >= limits.connections / 10 * 9;
                // Answers are one small segment: waiting to fill it would only delay them.
                let _ = stream.set_nodelay(true);
                let (protocol, stop) = (Arc::clone(&protocol), shutdown.token());
                let (router, tls, stream) = (router.clone(), tls.clone(), (stream, Peer(peer)));
                connections.spawn(async move {
                    match tls {
                        None => connection::serve(protocol, stream, router, patience, Instant::now(), stop).await,
                        Some(tls) => over_tls(&tls, protocol, stream, router, patience, stop).await,
                    }
                });
            }
            Err(error) => pause_after(&error).await,
        }
    }
    drop(listener);
    let finished = async { while connections.join_next().await.map(report).is_some() {} };
    tokio::select! {
        () = finished => {}
        () = shutdown.expired() => {}
    }
    let cut = connections.len();
    connections.shutdown().await;
    Ended { cut }
}

/// A connection behind a handshake, which takes of the time that the first head has.
async fn over_tls(
    tls: &Tls,
    protocol: Arc<Protocol>,
    (stream, peer): (TcpStream, Peer),
    router: Router,
    patience: Patience,
    stop: CancellationToken,
) {
    let since = Instant::now();
    let accepted = tokio::select! {
        accepted = tokio::time::timeout_at(since + patience.head_time, tls.accept(stream)) => accepted,
        () = stop.cancelled() => return,
    };
    match accepted {
        Ok(Ok(stream)) => connection::serve(protocol, (stream, peer), router, patience, since, stop).await,
        // The text is rustls's: which step failed, with no byte of what was sent.
        Ok(Err(error)) => tracing::trace!(error.text = %error, "no handshake"),
        Err(_) => tracing::trace!("no handshake in time"),
    }
}

fn report(ended: Result<(), JoinError>) {
    if ended.is_err_and(|error| error.is_panic()) {
        // The panic itself went to standard error; its payload could quote input.
        tracing::error!("a connection's task panicked");
    }
}

/// After a failed accept. A connection that was reset while it queued is nobody's trouble; out of files or memory, another
/// accept would fail at once and burn the processor that has to free them.
async fn pause_after(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    if !matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
        tracing::warn!(error.kind = %error.kind(), "cannot accept connections");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

const TURNED_AWAY_AT_ONCE: usize = 64;
const TURNED_AWAY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 5\r\nconnection: close\r\n\
    content-type: text/plain; charset=utf-8\r\ncontent-length: 5\r\n\r\nbusy\n";

/// Says 503 to a connection beyond the limit. A few at a time are read from for a moment, because closing with unread
/// bytes resets the connection and the answer with it; the rest are closed at once.
fn turn_away(mut stream: TcpStream, at_once: &Arc<Semaphore>) {
    let written = stream.try_write(TURNED_AWAY);
    if let (Ok(_), Ok(permit)) = (written, Arc::clone(at_once).try_acquire_owned()) {
        tokio::spawn(tokio::time::timeout(Duration::from_millis(500), async move {
            let _permit = permit;
            let _ = stream.shutdown().await;
            let mut unread = [0; 1024];
            while stream.read(&mut unread).await.is_ok_and(|length| length > 0) {}
        }));
    }
}

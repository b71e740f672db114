//! One connection: HTTP/1 or HTTP/2 over it, and the deadlines that keep a silent or slow peer from holding it.
//!
//! ```text
//! fresh ── first request within `head_time` ──▶ serving ── answered ──▶ idle ── a byte ──▶ head ── `head_time` ──▶ closed
//!   └── too late: closed                           ▲                     └── `idle_time` ──▶ closed   │
//!                                                  └──────────────── the request is there ────────────┘
//! ```
//! hyper alone has one timeout for idle connections and slow heads, none before it knows the version and none in an
//! HTTP/2 handshake; so its own is switched off and the state is kept here. While a request is served its handler keeps
//! the time, and afterwards each piece of its answer that the peer takes. HTTP/2 frames may come at any time: there only
//! requests and answers count.

use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// Either version of HTTP.
pub(super) type Protocol = auto::Builder<TokioExecutor>;

/// What HTTP/1 and HTTP/2 may take from us per connection.
pub(super) fn protocol() -> Protocol {
    let mut protocol = auto::Builder::new(TokioExecutor::new());
    protocol
        .http1()
        // The largest head, and so the most that a slow head can hold: four times what providers send. Beyond: 431.
        .max_buf_size(16 << 10)
        // The deadlines are kept in this file.
        .header_read_timeout(None);
    protocol
        .http2()
        // Each stream costs a task and its head before its body is asked for.
        .max_concurrent_streams(32)
        // Bodies are read at once or not at all, so windows need not hold more than a round trip's worth.
        .initial_stream_window_size(64 << 10)
        .initial_connection_window_size(256 << 10)
        .max_frame_size(16 << 10)
        .max_header_list_size(16 << 10)
        .max_send_buf_size(16 << 10);
    protocol
}

/// Who is at the other end, as the system says: an extension of every request. Never read from a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

/// How long a peer may be silent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// From the connection or the first byte of a head to its end.
    pub(super) head_time: Duration,
    /// Between requests.
    pub(super) idle_time: Duration,
}

/// How long an HTTP/2 peer has to take the news that its connection ends.
const GOODBYE_TIME: Duration = Duration::from_secs(1);

/// Serves one connection, accepted at `since`, until either side ends it, it is silent for too long, or `stop` is cancelled
/// and it is done.
pub(super) async fn serve<S>(
    protocol: Arc<Protocol>,
    (stream, peer): (S, Peer),
    router: Router,
    patience: Patience,
    since: Instant,
    stop: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let pulse = Arc::new(Pulse::new(patience, since));
    let served = Arc::clone(&pulse);
    let service = service_fn(move |request: http::Request<Incoming>| {
        let (router, serving, pulse) = (router.clone(), Serving::new(&served), Arc::clone(&served));
        async move {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(peer);
            let response = router.oneshot(request).await;
            drop(serving);
            response.map(|response| response.map(|body| Answering { body, pulse }))
        }
    });
    let io = TokioIo::new(Heard { stream, pulse: Arc::clone(&pulse) });
    let mut connection = pin!(protocol.serve_connection(io, service));
    let mut timer = pin!(tokio::time::sleep_until(since + patience.head_time));
    let (mut stopping, mut ending) = (false, false);
    loop {
        tokio::select! {
            biased;
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    // The text is hyper's: which step failed, with no byte of what was sent.
                    tracing::trace!(error.text = %error, "connection ended early");
                }
                return;
            }
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
            // Never moved while requests come and go, only looked at again when it fires: one timer per connection
            // instead of one per request. A head can begin meanwhile, so it fires at least that often.
            () = timer.as_mut() => match pulse.deadline() {
                Some(deadline) if deadline > Instant::now() => {
                    timer.as_mut().reset(deadline.min(Instant::now() + patience.head_time));
                }
                None => timer.as_mut().reset(Instant::now() + patience.head_time),
                Some(_) if pulse.speaks_http2() && !ending => {
                    ending = true;
                    connection.as_mut().graceful_shutdown();
                    timer.as_mut().reset(Instant::now() + GOODBYE_TIME);
                }
                Some(_) => {
                    tracing::trace!("connection silent for too long");
                    return;
                }
            },
        }
    }
}

/// What a connection is doing, shared by its bytes and its requests.
struct Pulse {
    patience: Patience,
    state: Mutex<State>,
}

#[derive(Clone, Copy)]
struct State {
    phase: Phase,
    since: Instant,
    serving: u32,
    http2: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    /// Nothing was heard yet.
    Fresh,
    /// A head has begun.
    Head,
    /// A request was answered, and nothing was heard since.
    Idle,
}

impl Pulse {
    fn new(patience: Patience, since: Instant) -> Self {
        let state = State { phase: Phase::Fresh, since, serving: 0, http2: false };
        Self { patience, state: Mutex::new(state) }
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn heard(&self, bytes: &[u8]) {
        self.with(|state| match state.phase {
            Phase::Fresh => {
                state.phase = Phase::Head;
                // No method of HTTP/1 begins like the preface of HTTP/2 (RFC 9113, 3.4). A preface that comes byte by
                // byte is taken for HTTP/1, which only means shorter patience.
                state.http2 = bytes.starts_with(b"PRI");
            }
            Phase::Idle if state.serving == 0 && !state.http2 => {
                (state.phase, state.since) = (Phase::Head, Instant::now())
            }
            Phase::Idle | Phase::Head => {}
        });
    }

    /// A piece of an answer was asked for, because the peer has taken what was before it.
    fn taken(&self) {
        self.with(|state| {
            if state.phase == Phase::Idle {
                state.since = Instant::now();
            }
        });
    }

    /// When the peer has been silent for too long; `None` while a request is served.
    fn deadline(&self) -> Option<Instant> {
        let State { phase, since, serving, .. } = self.with(|state| *state);
        let patience = if phase == Phase::Idle { self.patience.idle_time } else { self.patience.head_time };
        (serving == 0).then(|| since + patience)
    }

    fn speaks_http2(&self) -> bool {
        self.with(|state| state.http2)
    }
}

/// A request that is being served, until it is dropped.
struct Serving(Arc<Pulse>);

impl Serving {
    fn new(pulse: &Arc<Pulse>) -> Self {
        pulse.with(|state| state.serving += 1);
        Self(Arc::clone(pulse))
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.with(|state| {
            state.serving -= 1;
            (state.phase, state.since) = (Phase::Idle, Instant::now());
        });
    }
}

/// The body of an answer. A long one (events as they happen) keeps its connection for as long as the peer takes it.
struct Answering {
    body: Body,
    pulse: Arc<Pulse>,
}

impl hyper::body::Body for Answering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(context));
        self.pulse.taken();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The stream, telling the pulse what is heard.
struct Heard<S> {
    stream: S,
    pulse: Arc<Pulse>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Heard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.pulse.heard(&buffer.filled()[before..]);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heard<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

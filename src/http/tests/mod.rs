//! The real server on a free port, spoken to byte by byte.

mod bounds;
mod http2;
mod ops;
mod quiet;
mod statuses;
mod stop;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::server::{self, Ended, ServerLimits};
use super::webhooks::{RoomLimits, WebhookLimits, Webhooks};
use crate::ops::shutdown::Shutdown;
use crate::pipeline::receive::fakes::{FakeQueue, receiver};

/// Longer than anything here takes: a test that gets here has failed.
const TOO_LONG: Duration = Duration::from_secs(10);

/// A server that runs until it is dropped or stopped.
struct TestServer {
    address: SocketAddr,
    queue: Arc<FakeQueue>,
    webhooks: Arc<Webhooks>,
    shutdown: Shutdown,
    ended: JoinHandle<Ended>,
}

impl TestServer {
    async fn start(queue: Arc<FakeQueue>) -> Self {
        Self::limited(queue, WebhookLimits::default(), ServerLimits::default()).await
    }

    async fn limited(queue: Arc<FakeQueue>, webhook_limits: WebhookLimits, server_limits: ServerLimits) -> Self {
        let webhooks = Webhooks::new(receiver(&queue), webhook_limits);
        let listener = server::bind("FINHOOK_HTTP_BIND", "127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = Shutdown::new(Duration::from_millis(300));
        let (router, stop) = (webhooks.router(), shutdown.clone());
        let ended = tokio::spawn(async move { server::serve(listener, router, server_limits, &stop).await });
        Self { address, queue, webhooks, shutdown, ended }
    }

    async fn connect(&self) -> Client {
        Client { stream: TcpStream::connect(self.address).await.unwrap(), unread: Vec::new() }
    }

    /// The answer to one request on a connection of its own.
    async fn ask(&self, request: &str) -> Answer {
        let mut client = self.connect().await;
        client.send(request).await;
        client.answer().await.expect("an answer")
    }

    /// Waits until so many deliveries were handed to the queue.
    async fn handed_over(&self, deliveries: usize) {
        eventually(|| self.queue.published().len() >= deliveries).await;
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.ended.abort();
    }
}

/// Waits until something holds.
async fn eventually(holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(TOO_LONG, waiting).await.expect("it did not come to hold");
}

/// A connection.
struct Client<S = TcpStream> {
    stream: S,
    unread: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// The next answer; `None` if the connection was closed before it was complete.
    async fn answer(&mut self) -> Option<Answer> {
        loop {
            if let Some((answer, rest)) = Answer::parse(&self.unread) {
                self.unread = rest;
                return Some(answer);
            }
            let mut bytes = [0; 4096];
            match timeout(TOO_LONG, self.stream.read(&mut bytes)).await.expect("an answer or the end") {
                Ok(0) | Err(_) => return None,
                Ok(length) => self.unread.extend_from_slice(&bytes[..length]),
            }
        }
    }

    /// Whether the server closed, with nothing more to read.
    async fn is_closed(&mut self) -> bool {
        self.answer().await.is_none() && self.unread.is_empty()
    }
}

/// An answer with a known length.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn parse(bytes: &[u8]) -> Option<(Self, Vec<u8>)> {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_ascii_lowercase();
        let mut answer = Self { status: head[9..12].parse().unwrap(), head, body: String::new() };
        let length = answer.header("content-length").map_or(0, |length| length.parse().unwrap());
        let body = bytes.get(end..end + length)?;
        answer.body = String::from_utf8(body.to_vec()).unwrap();
        Some((answer, bytes[end + length..].to_vec()))
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// A POST with a proof.
fn post(path: &str, proof: &str, body: &str) -> String {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nhost: x\r\nx-proof: {proof}\r\ncontent-length: {length}\r\n\r\n{body}")
}

/// Everything small.
fn tight() -> WebhookLimits {
    WebhookLimits {
        body_bytes: 1_000,
        body_time: TOO_LONG,
        room: RoomLimits { requests: 100, deliveries: 2, delivery_bytes: 10_000, arriving_bytes: 10_000 },
        trusted_proxies: Vec::new(),
    }
}

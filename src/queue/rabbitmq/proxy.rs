//! A TCP proxy in front of the broker that tests cut, stall and speak through.

use std::net::SocketAddr;
use std::sync::Arc;

use lapin::uri::AMQPUri;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, watch};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::queue) enum Mode {
    /// Bytes pass.
    Through,
    /// Connections stand, bytes do not pass.
    Stalled,
    /// Connections are closed, new ones at once.
    Cut,
}

pub(in crate::queue) struct Proxy {
    address: SocketAddr,
    target: String,
    url: String,
    mode: Arc<watch::Sender<Mode>>,
    /// Frames for all clients, put between two of the broker's.
    say: broadcast::Sender<&'static [u8]>,
}

impl Proxy {
    /// In front of the broker that `url` names.
    pub(in crate::queue) async fn before(url: &str, mode: Mode) -> Self {
        let uri: AMQPUri = url.parse().unwrap();
        let target = format!("{}:{}", uri.authority.host, uri.authority.port);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let proxy = Self {
            address,
            target: target.clone(),
            url: url.to_owned(),
            mode: Arc::new(watch::Sender::new(mode)),
            say: broadcast::Sender::new(16),
        };
        let (mode, say) = (Arc::clone(&proxy.mode), proxy.say.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if *mode.borrow() == Mode::Cut {
                    continue;
                }
                let Ok(broker) = TcpStream::connect(&target).await else { continue };
                tokio::spawn(pass(client, broker, mode.subscribe(), say.subscribe()));
            }
        });
        proxy
    }

    /// The broker's address through the proxy.
    pub(in crate::queue) fn url(&self) -> String {
        let through = self.url.replacen(&self.target, &self.address.to_string(), 1);
        assert_ne!(through, self.url, "the broker's address names its port");
        through
    }

    pub(in crate::queue) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// `connection.blocked` with the reason "low".
    pub(in crate::queue) fn say_blocked(&self) {
        self.say.send(b"\x01\x00\x00\x00\x00\x00\x08\x00\x0a\x00\x3c\x03low\xce").unwrap();
    }

    /// `connection.close`, 320, as a broker says it that shuts down.
    pub(in crate::queue) fn say_goodbye(&self) {
        self.say.send(b"\x01\x00\x00\x00\x00\x00\x13\x00\x0a\x00\x32\x01\x40\x08shutdown\x00\x00\x00\x00\xce").unwrap();
    }

    /// `connection.unblocked`.
    pub(in crate::queue) fn say_unblocked(&self) {
        self.say.send(b"\x01\x00\x00\x00\x00\x00\x04\x00\x0a\x00\x3d\xce").unwrap();
    }
}

async fn pass(
    client: TcpStream,
    broker: TcpStream,
    mut mode: watch::Receiver<Mode>,
    say: broadcast::Receiver<&'static [u8]>,
) {
    let (from_client, to_client) = client.into_split();
    let (from_broker, to_broker) = broker.into_split();
    let mute = broadcast::Sender::new(1);
    tokio::select! {
        () = carry(from_client, to_broker, mode.clone(), mute.subscribe()) => {}
        () = carry(from_broker, to_client, mode.clone(), say) => {}
        _ = mode.wait_for(|mode| *mode == Mode::Cut) => {}
    }
}

async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut mode: watch::Receiver<Mode>,
    mut say: broadcast::Receiver<&'static [u8]>,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let bytes = tokio::select! {
            read = from.read(&mut buffer) => match read {
                Ok(length) if length > 0 => &buffer[..length],
                _ => return,
            },
            Ok(frame) = say.recv() => frame,
        };
        if mode.wait_for(|mode| *mode != Mode::Stalled).await.is_err() || to.write_all(bytes).await.is_err() {
            return;
        }
    }
}

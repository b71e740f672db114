//! A TCP proxy between finhook and a server, which cuts, stalls and delays the link.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// How the link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Bytes pass.
    Through,
    /// Connections are closed, new ones at once.
    Cut,
    /// Connections stand, nothing passes: what a firewall that forgot them does.
    Stalled,
    /// What finhook says arrives, the answers do not.
    Deaf,
    /// Every read is passed on this much later.
    Slow(Duration),
    /// Half open: connections up to this number stand for ever and nothing passes on them, new ones are fine.
    Forgotten(u64),
}

/// A link.
#[derive(Clone)]
pub struct Proxy {
    address: SocketAddr,
    mode: Rc<watch::Sender<Mode>>,
    opened: Rc<Cell<u64>>,
}

impl Proxy {
    /// In front of servers on these ports of this machine; a connection goes to the first that answers, and each
    /// new one starts looking at the next.
    pub async fn before(ports: Vec<u16>) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let mode = Rc::new(watch::Sender::new(Mode::Through));
        let proxy = Self { address: listener.local_addr()?, mode: mode.clone(), opened: Rc::default() };
        let opened = proxy.opened.clone();
        tokio::task::spawn_local(async move {
            loop {
                let Ok((client, _)) = listener.accept().await else { continue };
                if *mode.borrow() == Mode::Cut {
                    continue;
                }
                let number = opened.get() + 1;
                opened.set(number);
                let mut order = ports.clone();
                order.rotate_left(usize::try_from(number).unwrap_or(0) % ports.len().max(1));
                let mode = mode.subscribe();
                tokio::task::spawn_local(async move {
                    for port in order {
                        if let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await {
                            let _ = (client.set_nodelay(true), server.set_nodelay(true));
                            return pass(client, server, mode, number).await;
                        }
                    }
                });
            }
        });
        Ok(proxy)
    }

    /// Where finhook connects.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Forgets the connections that are open now.
    pub fn forget(&self) {
        self.set(Mode::Forgotten(self.opened.get()));
    }

    /// Changes the link for all connections, open and new.
    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

async fn pass(client: TcpStream, server: TcpStream, mut mode: watch::Receiver<Mode>, number: u64) {
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = carry(from_client, to_server, mode.clone(), number, false) => {}
        () = carry(from_server, to_client, mode.clone(), number, true) => {}
        _ = mode.wait_for(|mode| *mode == Mode::Cut) => {}
    }
}

async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut mode: watch::Receiver<Mode>,
    number: u64,
    answers: bool,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let bytes = match from.read(&mut buffer).await {
            Ok(length) if length > 0 => buffer.get(..length).unwrap_or_default(),
            _ => return,
        };
        let passes = |mode: &Mode| match *mode {
            Mode::Stalled => false,
            Mode::Deaf => !answers,
            Mode::Forgotten(last) => number > last,
            Mode::Through | Mode::Cut | Mode::Slow(_) => true,
        };
        let now = match mode.wait_for(passes).await {
            Ok(mode) => *mode,
            Err(_) => return,
        };
        if let Mode::Slow(delay) = now {
            tokio::time::sleep(delay).await;
        }
        if to.write_all(bytes).await.is_err() {
            return;
        }
    }
}

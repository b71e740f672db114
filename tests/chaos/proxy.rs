//! A TCP proxy between finhook and a server, which cuts, stalls and delays the link.
//!
//! It has a thread of its own: however busy the suite is with its reckoning, the link is as it was set.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
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
    mode: Arc<watch::Sender<Mode>>,
    opened: Arc<AtomicU64>,
}

impl Proxy {
    /// In front of servers on these ports of this machine; a connection goes to the first that answers, and each
    /// new one starts looking at the next.
    pub fn before(ports: Vec<u16>) -> anyhow::Result<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let mode = watch::Sender::new(Mode::Through);
        let (seen, opened) = (mode.subscribe(), Arc::new(AtomicU64::new(0)));
        let proxy = Self { address: listener.local_addr()?, mode: Arc::new(mode), opened: opened.clone() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::spawn(move || {
            runtime.block_on(async move {
                // The link goes with its last handle.
                let mut over = seen.clone();
                tokio::select! {
                    () = accept(listener, ports, seen, opened) => {}
                    () = async { while over.changed().await.is_ok() {} } => {}
                }
            });
        });
        Ok(proxy)
    }

    /// Where finhook connects.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Forgets the connections that are open now.
    pub fn forget(&self) {
        self.set(Mode::Forgotten(self.opened.load(Ordering::SeqCst)));
    }

    /// Changes the link for all connections, open and new.
    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

async fn accept(listener: std::net::TcpListener, ports: Vec<u16>, mode: watch::Receiver<Mode>, opened: Arc<AtomicU64>) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        if *mode.borrow() == Mode::Cut {
            continue;
        }
        let number = opened.fetch_add(1, Ordering::SeqCst) + 1;
        let mut order = ports.clone();
        order.rotate_left(usize::try_from(number).unwrap_or(0) % ports.len().max(1));
        let mode = mode.clone();
        tokio::spawn(async move {
            for port in order {
                if let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await {
                    let _ = (client.set_nodelay(true), server.set_nodelay(true));
                    return pass(client, server, mode, number).await;
                }
            }
        });
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

//! Too many senders, and too much from them: ten thousand connections that want nothing, or take their time to say it, and
//! the largest bodies for a broker that does not answer. Good deliveries go on, and memory stays within its bounds.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::broker::Alarm;
use crate::deployment::Half;
use crate::ledger::{Answer, Until};
use crate::proxy::Mode;
use crate::scenarios::during;
use crate::stage::{Servers, Stage};
use crate::world::World;

/// How many.
const CONNECTIONS: usize = 10_000;
/// The most memory that a receiver may have resident with them, in MiB.
const CROWDED: u64 = 320;
/// How many send the largest bodies.
const SENDERS: usize = 64;
/// The most memory that a receiver may have resident with those, in MiB.
const STALLED: u64 = 100;
/// The size of a body that is just not too large.
const LARGEST: usize = (1 << 20) - 200;

/// What such a connection does.
#[derive(Debug, Clone, Copy)]
enum Manner {
    Idle,
    SlowHead,
    SlowBody,
}

impl Manner {
    /// What it says at first.
    fn beginning(self) -> &'static str {
        match self {
            Self::Idle => "",
            Self::SlowHead => "POST /webhooks/unit HTTP/1.1\r\nhost: x\r\nx-unit-signature: ",
            Self::SlowBody => {
                "POST /webhooks/unit HTTP/1.1\r\nhost: x\r\nx-unit-signature: eA==\r\ncontent-length: 1000000\r\n\r\n{"
            }
        }
    }
}

/// Connections of one manner, on a thread of their own; they go with it.
struct Crowd {
    over: watch::Sender<bool>,
    standing: Arc<AtomicUsize>,
    thread: std::thread::JoinHandle<()>,
}

impl Crowd {
    fn gather(port: u16, manner: Manner) -> anyhow::Result<Self> {
        let (over, standing) = (watch::Sender::new(false), Arc::new(AtomicUsize::new(0)));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (seen, counted) = (over.subscribe(), standing.clone());
        let thread = std::thread::spawn(move || {
            runtime.block_on(async move {
                for number in 0..CONNECTIONS {
                    tokio::spawn(one(port, manner, seen.clone(), counted.clone()));
                    // Not all at once: the system's own queue of connections is shorter.
                    if number % 50 == 49 {
                        sleep(Duration::from_millis(10)).await;
                    }
                }
                let mut seen = seen;
                let _ = seen.wait_for(|over| *over).await;
            });
        });
        Ok(Self { over, standing, thread })
    }

    fn standing(&self) -> usize {
        self.standing.load(Ordering::SeqCst)
    }

    fn disperse(self) {
        self.over.send_replace(true);
        let _ = self.thread.join();
    }
}

/// One connection, and another whenever it is closed: a byte every few seconds, or none at all.
async fn one(port: u16, manner: Manner, over: watch::Receiver<bool>, standing: Arc<AtomicUsize>) {
    while !*over.borrow() {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)).await else {
            sleep(Duration::from_millis(500)).await;
            continue;
        };
        standing.fetch_add(1, Ordering::SeqCst);
        let _ = stream.write_all(manner.beginning().as_bytes()).await;
        let mut answer = [0; 512];
        while let Err(_still_open) = timeout(Duration::from_secs(3), stream.read(&mut answer)).await {
            if !matches!(manner, Manner::Idle) && stream.write_all(b"x").await.is_err() {
                break;
            }
        }
        standing.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Ten thousand connections of each manner, one after the other, while good deliveries go on.
pub async fn crowd(stage: &mut Stage) -> anyhow::Result<()> {
    let port = stage.finhook.doors().first().copied().unwrap_or_default();
    let span = stage.left() / 3;
    for manner in [Manner::Idle, Manner::SlowHead, Manner::SlowBody] {
        let crowd = Crowd::gather(port, manner)?;
        let until = Instant::now() + span;
        let mut most = 0;
        let mut full = None;
        while Instant::now() < until {
            most = most.max(crowd.standing());
            if most >= CONNECTIONS / 100 * 99 {
                full.get_or_insert_with(Instant::now);
            }
            sleep(Duration::from_millis(100)).await;
        }
        let now = Instant::now();
        match full {
            Some(full) => {
                if let Some(wrong) = during(stage, full, now, Answer::Status(200)) {
                    stage.problems.push(format!("beside {manner:?} connections {wrong}"));
                }
            }
            None => stage.problems.push(format!("only {most} {manner:?} connections stood at once")),
        }
        remember(stage, &format!("{most} {manner:?} connections at once"), CROWDED);
        crowd.disperse();
    }
    stage.back("the crowd's end", &[Until::Accepted, Until::Committed]);
    Ok(())
}

/// Notes the receivers' and the workers' memory, and that it is too much if it is.
fn remember(stage: &mut Stage, when: &str, most: u64) {
    let (receivers, workers) = (stage.finhook.peak_memory(Half::Receiver), stage.finhook.peak_memory(Half::Worker));
    stage.notes.push(format!("{when}: at most {receivers:?} MiB in receivers, {workers:?} in workers so far"));
    if receivers.is_empty() || receivers.iter().any(|peak| *peak > most) {
        stage.problems.push(format!("{when}: {receivers:?} MiB is more than {most}"));
    }
}

/// The largest bodies from many senders while the link to the broker stalls, then while it lets nothing back, then while
/// the broker is blocked. All of them come in in the end.
pub async fn stalled(stage: &mut Stage, servers: &mut Servers) -> anyhow::Result<()> {
    let machine = stage.machine.clone();
    let span = stage.left() / 4;
    sleep(Duration::from_secs(1)).await;
    remember(stage, "before", STALLED);
    let mut large = World::large(SENDERS * 3);
    for trouble in ["link to the broker stalled", "link to the broker deaf", "memory alarm"] {
        stage.fault(trouble);
        match trouble {
            "link to the broker stalled" => stage.to_broker.set(Mode::Stalled),
            "link to the broker deaf" => stage.to_broker.set(Mode::Deaf),
            _ => servers.brokers.only()?.alarm(&machine, Alarm::Memory, true).await?,
        }
        for outgoing in large.drain(..SENDERS) {
            let outgoing = outgoing.padded(LARGEST);
            tokio::task::spawn_local(stage.providers.clone().deliver(outgoing));
        }
        sleep(span).await;
        remember(stage, trouble, STALLED);
        match trouble {
            "memory alarm" => servers.brokers.only()?.alarm(&machine, Alarm::Memory, false).await?,
            _ => stage.to_broker.set(Mode::Through),
        }
        stage.back(trouble, &[Until::Accepted, Until::Committed]);
        sleep(Duration::from_secs(3)).await;
    }
    remember(stage, "after", STALLED);
    Ok(())
}

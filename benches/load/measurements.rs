//! What is measured, each against its floor in the same round: floor and finhook take turns, so that what the machine does
//! meanwhile happens to both.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use sqlx::{Connection, Executor, PgConnection};
use tokio::io::{AsyncBufReadExt, AsyncReadExt};

use super::drain::Drained;
use super::latencies::Latencies;
use super::pace::Found;
use super::process::{Finhook, Usage, finhook, role};
use super::report::{Report, Wanted};
use super::stage::Stage;

/// Connections of a sender.
const CONNECTIONS: usize = 64;
/// The rate of the open loop at which latency is judged.
const STEADY: f64 = 500.0;
/// The longest that a backlog may take.
const PATIENCE: Duration = Duration::from_secs(600);

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// Rounds, of which the median counts.
    pub rounds: usize,
    /// Deliveries of a closed loop.
    pub deliveries: u64,
    /// Seconds of an open loop.
    pub seconds: u64,
    /// Events that a worker drains.
    pub backlog: u64,
    /// Messages in the broker while memory is looked at.
    pub flood: u64,
    /// Events in the tables, the fewest first, when growth is looked at.
    pub grown: &'static [u64],
}

impl Scale {
    /// What the figures in the README are from.
    pub const FULL: Self = Self {
        rounds: 3,
        deliveries: 120_000,
        seconds: 15,
        backlog: 200_000,
        flood: 500_000,
        grown: &[10_000, 100_000, 1_000_000, 10_000_000],
    };
    /// A look, in about a minute.
    pub const QUICK: Self =
        Self { rounds: 1, deliveries: 30_000, seconds: 4, backlog: 20_000, flood: 30_000, grown: &[10_000, 100_000] };
}

/// A sender in a process of its own.
async fn send(to: &str, signer: &str, count: u64, first: u64, more: &[&str]) -> anyhow::Result<Found> {
    let arguments = [to, signer, &CONNECTIONS.to_string(), &count.to_string(), &first.to_string()];
    let arguments: Vec<String> = arguments.iter().chain(more).map(ToString::to_string).collect();
    let found: Found = role("sender", &arguments).await?;
    ensure!(found.refused == 0, "{} of {count} deliveries were refused", found.refused);
    Ok(found)
}

/// The same messages as the receiver's, on the same way.
async fn publish(stage: &Stage, count: u64, rate: Option<f64>) -> anyhow::Result<Found> {
    let rate = rate.map(|rate| rate.to_string());
    let arguments = [stage.broker.clone(), stage.prefix.clone(), "unit".to_owned(), count.to_string()];
    let found = role("publisher", &arguments.into_iter().chain(rate).collect::<Vec<_>>()).await;
    stage.purge("unit").await?;
    found
}

/// Bare messages, as fast as the broker takes them.
async fn publish_bare(stage: &Stage, count: u64) -> anyhow::Result<Found> {
    role("publisher", &[stage.broker.clone(), String::new(), stage.queue("floor"), count.to_string()]).await
}

/// Processor of a process for each of `count`, in microseconds.
fn each(before: Usage, after: Usage, count: u64) -> f64 {
    (after.processor - before.processor).as_secs_f64() * 1e6 / (count.max(1) as f64)
}

/// The receiver on RabbitMQ: how many it takes, what each costs, how long an answer takes.
pub async fn receiver(stage: &mut Stage, scale: Scale, report: &mut Report) -> anyhow::Result<()> {
    let database = stage.database().await?;
    let finhook = Finhook::serve(&["--only", "receiver"], &stage.settings(&database)).await?;
    // Both warm up: caches, allocators, the broker's files.
    send(&finhook.public, "unit", scale.deliveries / 10, 0, &[]).await?;
    stage.purge("unit").await?;
    let [mut floors, mut units, mut floor_costs, mut unit_costs, mut plaid_costs, mut plaid_floors] =
        [const { Vec::new() }; 6];
    let plaid_key = stage.plaid.clone();
    let (mut plaids, mut most) = (Vec::new(), Vec::new());
    for round in 1..=scale.rounds as u64 {
        let floor = publish(stage, scale.deliveries, None).await?;
        let before = finhook.usage()?;
        let unit = send(&finhook.public, "unit", scale.deliveries, round * 10_000_000, &[]).await?;
        let between = finhook.usage()?;
        stage.purge("unit").await?;
        let count = scale.deliveries / 2;
        let started = finhook.usage()?;
        // At the same time: where cores share what they compute with, each does less when the other is busy.
        let bare = tokio::task::spawn_blocking(verification);
        let plaid = send(&finhook.public, &plaid_key, count, round * 10_000_000, &[]).await?;
        let (after, bare) = (finhook.usage()?, bare.await??);
        stage.purge("plaid").await?;
        most.push(publish_bare(stage, scale.deliveries).await?.rate());
        floors.push(floor.rate());
        units.push(unit.rate());
        plaids.push(plaid.rate());
        floor_costs.push(floor.processor);
        unit_costs.push(each(before, between, unit.accepted));
        plaid_costs.push(each(started, after, plaid.accepted));
        plaid_floors.push(unit_costs.last().copied().unwrap_or_default() + bare);
    }
    report.add("receiver, Unit, 64 connections", "/s", &units, &floors, Wanted::RatioAtLeast(0.58));
    let what = "receiver, Unit (floor: bare messages, 512 at once, by the default exchange)";
    report.add(what, "/s", &units, &most, Wanted::Nothing);
    report.add("receiver, Plaid, 64 connections", "/s", &plaids, &floors, Wanted::Nothing);
    report.add("receiver, processor per Unit delivery", "us", &unit_costs, &floor_costs, Wanted::AtMostAbove(25.0));
    let what = "receiver, processor per Plaid delivery (floor: Unit and a bare ES256 verification)";
    report.add(what, "us", &plaid_costs, &plaid_floors, Wanted::AtMostAbove(25.0));

    let count = STEADY as u64 * scale.seconds;
    let [mut floor_50, mut floor_99, mut own_50, mut own_99, mut busy_99, mut busy_floor_99] =
        [const { Vec::new() }; 6];
    let busy = units.iter().copied().fold(f64::INFINITY, f64::min) * 0.7;
    for round in 1..=scale.rounds as u64 {
        let floor = publish(stage, count, Some(STEADY)).await?;
        let rate = STEADY.to_string();
        let own = send(&finhook.public, "unit", count, 100_000_000 * round, &[&rate]).await?;
        stage.purge("unit").await?;
        let (rate, count) = (busy.to_string(), scale.deliveries / 2);
        let busy_floor = publish(stage, count, Some(busy)).await?;
        let busy = send(&finhook.public, "unit", count, 100_000_000 * round + 50_000_000, &[&rate]).await?;
        stage.purge("unit").await?;
        busy_floor_99.push(busy_floor.p99);
        floor_50.push(floor.p50);
        floor_99.push(floor.p99);
        own_50.push(own.p50);
        own_99.push(own.p99);
        busy_99.push(busy.p99);
    }
    report.add("ack p50 at 500/s, open loop", "ms", &own_50, &floor_50, Wanted::AtMostAbove(0.5));
    report.add("ack p99 at 500/s, open loop", "ms", &own_99, &floor_99, Wanted::AtMostAbove(2.0));
    let what = format!("ack p99 at {busy:.0}/s (0.7 of its own most), open loop");
    report.add(&what, "ms", &busy_99, &busy_floor_99, Wanted::AtMost(20.0));
    finhook.stop().await?;
    stage.drop_database().await
}

/// What one ES256 verification costs by itself, in microseconds.
fn verification() -> anyhow::Result<f64> {
    const TIMES: u32 = 4_000;
    let wrong = |_| anyhow::anyhow!("the cryptography library refuses its own key");
    let random = SystemRandom::new();
    let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).map_err(wrong)?;
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.as_ref())
        .map_err(|_| anyhow::anyhow!("the cryptography library refuses its own key"))?;
    let signature = key.sign(&random, b"message").map_err(wrong)?;
    let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.public_key().as_ref());
    let began = Usage::of(std::process::id())?;
    for _ in 0..TIMES {
        public.verify(b"message", signature.as_ref()).map_err(wrong)?;
    }
    Ok(each(began, Usage::of(std::process::id())?, u64::from(TIMES)))
}

/// Puts a backlog into the broker, through the receiver.
pub async fn fill(stage: &Stage, database: &str, count: u64, first: u64, more: &[&str]) -> anyhow::Result<()> {
    let receiver = Finhook::serve(&["--only", "receiver"], &stage.settings(database)).await?;
    send(&receiver.public, "unit", count, first, more).await?;
    receiver.stop().await
}

/// Has the database's server write what was changed before: what one measurement leaves to be written would otherwise be
/// written during the next, at a moment that the size of the server's log decides.
pub async fn written(database: &str) -> anyhow::Result<()> {
    PgConnection::connect(database).await?.execute("checkpoint").await?;
    Ok(())
}

/// Lets a worker drain what waits; deliveries in a second, and the most that it had resident.
pub async fn worked(stage: &Stage, database: &str, count: u64) -> anyhow::Result<(f64, f64)> {
    written(database).await?;
    let worker = Finhook::serve(&["--only", "worker"], &stage.settings(database)).await?;
    // It works before it says that it is ready.
    let drained = until_committed(&worker, count, worker.started).await?;
    let peak = worker.usage()?.peak;
    worker.stop().await?;
    Ok((drained.rate(), peak))
}

/// Waits until so many events are in the tables.
async fn until_committed(worker: &Finhook, count: u64, began: Instant) -> anyhow::Result<Drained> {
    loop {
        let events = worker.sum("finhook_events_total", "").await?;
        if events >= count as f64 {
            return Ok(Drained { messages: count, seconds: began.elapsed().as_secs_f64() });
        }
        ensure!(began.elapsed() < PATIENCE, "{events} of {count} events were committed in time");
        // To be asked costs a worker some of the time that is measured; only near the end it matters when exactly.
        let pause = if events < count as f64 * 0.9 { 250 } else { 25 };
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
}

/// The worker on RabbitMQ and PostgreSQL: how fast it drains a backlog, and how long an event takes at a steady rate.
pub async fn worker(stage: &mut Stage, scale: Scale, report: &mut Report) -> anyhow::Result<()> {
    let [mut floors, mut plain, mut mixed, mut peaks] = [const { Vec::new() }; 4];
    for _ in 0..scale.rounds {
        let database = stage.database().await?;
        fill(stage, &database, scale.backlog, 0, &[]).await?;
        written(&database).await?;
        let arguments = [stage.broker.clone(), stage.queue("unit"), database, "0".to_owned()];
        let floor: Drained = role("drain", &arguments).await?;
        ensure!(floor.messages == scale.backlog, "the floor drained {} messages", floor.messages);
        floors.push(floor.rate());
        stage.drop_database().await?;

        for more in [&[][..], &["0", "mixed"]] {
            let database = stage.database().await?;
            fill(stage, &database, scale.backlog, 0, more).await?;
            let (rate, peak) = worked(stage, &database, scale.backlog).await?;
            if more.is_empty() {
                plain.push(rate)
            } else {
                mixed.push(rate)
            }
            peaks.push(peak);
            stage.drop_database().await?;
        }
    }
    report.add("worker, draining a backlog", "events/s", &plain, &floors, Wanted::RatioAtLeast(0.75));
    let what = "worker, 30 of 100 copies, 20 of 100 out of order (floor: its own speed)";
    report.add(what, "events/s", &mixed, &plain, Wanted::RatioAtLeast(1.0 / 1.1));
    report.add("worker, resident at most while draining", "MiB", &peaks, &[], Wanted::AtMost(60.0));

    let [mut halves, mut nineties] = [const { Vec::new() }; 2];
    for _ in 0..scale.rounds {
        let database = stage.database().await?;
        let latencies = steadily(stage, &database, scale.seconds, 0, &[]).await?;
        halves.push(latencies.quantile(0.5));
        nineties.push(latencies.quantile(0.99));
        stage.drop_database().await?;
    }
    report.add("received to committed at 500/s, p50", "ms", &halves, &[], Wanted::AtMost(15.0));
    report.add("received to committed at 500/s, p99", "ms", &nineties, &[], Wanted::AtMost(50.0));
    Ok(())
}

/// How long events take from receipt to commit at a steady rate. Those of the first second are not counted: in it both have
/// everything to ask and to prepare for the first time.
pub async fn steadily(
    stage: &Stage,
    database: &str,
    seconds: u64,
    first: u64,
    more: &[&str],
) -> anyhow::Result<Latencies> {
    let worker = Finhook::serve(&["--only", "worker"], &stage.settings(database)).await?;
    let receiver = Finhook::serve(&["--only", "receiver"], &stage.settings(database)).await?;
    let (a_second, count, rate) = (STEADY as u64, STEADY as u64 * seconds, STEADY.to_string());
    let more: Vec<&str> = [rate.as_str()].into_iter().chain(more.iter().copied()).collect();
    send(&receiver.public, "unit", a_second, first, &more).await?;
    until_committed(&worker, a_second, Instant::now()).await?;
    let before = Latencies::of(&worker.metrics().await?);
    send(&receiver.public, "unit", count, first + a_second, &more).await?;
    until_committed(&worker, a_second + count, Instant::now()).await?;
    let mut latencies = Latencies::of(&worker.metrics().await?);
    latencies.take_away(&before);
    receiver.stop().await?;
    worker.stop().await?;
    Ok(latencies)
}

/// The embedded default: the receiver alone, and both halves together.
pub async fn embedded(stage: &mut Stage, scale: Scale, report: &mut Report) -> anyhow::Result<()> {
    let [mut floors, mut alone, mut together] = [const { Vec::new() }; 3];
    for round in 0..scale.rounds {
        let file = stage.folder.path().join(format!("floor-{round}.db")).display().to_string();
        let arguments = [file.clone(), scale.deliveries.to_string(), CONNECTIONS.to_string()];
        let floor: Found = role("inserter", &arguments).await?;
        floors.push(floor.rate());
        std::fs::remove_file(&file)?;
        alone.push(received(stage, &format!("alone-{round}"), scale.deliveries).await?);

        let folder = format!("together-{round}");
        let finhook = Finhook::serve(&[], &stage.embedded(&folder)).await?;
        let began = Instant::now();
        send(&finhook.public, "unit", scale.deliveries, 0, &[]).await?;
        let both = until_committed(&finhook, scale.deliveries, began).await?;
        together.push(scale.deliveries as f64 / both.seconds);
        finhook.stop().await?;
        std::fs::remove_dir_all(stage.folder.path().join(folder))?;
    }
    report.add("embedded, receiver alone", "/s", &alone, &floors, Wanted::RatioAtLeast(0.5));
    report.add("embedded, both halves", "/s", &together, &floors, Wanted::RatioAtLeast(0.3));
    Ok(())
}

/// How many the receiver takes on the embedded queue while nothing works on them.
async fn received(stage: &Stage, folder: &str, count: u64) -> anyhow::Result<f64> {
    let folder = stage.folder.path().join(folder);
    let mut receiver = tokio::process::Command::new(std::env::current_exe()?)
        .args(["--role", "receiver"])
        .arg(&folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut output = tokio::io::BufReader::new(receiver.stdout.take().context("its output")?);
    let mut address = String::new();
    output.read_line(&mut address).await?;
    let found = send(address.trim(), "unit", count, 0, &[]).await?;
    drop(receiver.stdin.take());
    output.read_to_string(&mut String::new()).await?;
    ensure!(receiver.wait().await?.success(), "the receiver on the embedded queue failed");
    std::fs::remove_dir_all(folder)?;
    Ok(found.rate())
}

/// What is resident: idle, and at full load over a large backlog.
pub async fn memory(stage: &mut Stage, scale: Scale, report: &mut Report) -> anyhow::Result<()> {
    let database = stage.database().await?;
    let settings = stage.settings(&database);
    let receiver = Finhook::serve(&["--only", "receiver"], &settings).await?;
    let worker = Finhook::serve(&["--only", "worker"], &settings).await?;
    report.add("receiver, resident idle", "MiB", &[receiver.usage()?.resident], &[], Wanted::AtMost(25.0));
    report.add("worker, resident idle", "MiB", &[worker.usage()?.resident], &[], Wanted::AtMost(25.0));
    worker.stop().await?;
    send(&receiver.public, "unit", scale.flood, 0, &[]).await?;
    let worker = Finhook::serve(&["--only", "worker"], &settings).await?;
    let sending = send(&receiver.public, "unit", scale.deliveries, 1_000_000_000, &[]);
    sending.await?;
    let waiting = stage.waiting("unit").await?;
    let backlog = format!("backlog of {}, {waiting} left", scale.flood);
    let (receiving, working) = (receiver.usage()?.peak, worker.usage()?.peak);
    report.add(&format!("receiver, resident at most ({backlog})"), "MiB", &[receiving], &[], Wanted::AtMost(60.0));
    report.add(&format!("worker, resident at most ({backlog})"), "MiB", &[working], &[], Wanted::AtMost(60.0));
    worker.stop().await?;
    receiver.stop().await?;
    stage.purge("unit").await?;
    stage.drop_database().await
}

/// How long a start takes, and how large the program is.
pub async fn starting(stage: &mut Stage, scale: Scale, report: &mut Report) -> anyhow::Result<()> {
    let database = stage.database().await?;
    let [mut servers, mut own, mut demo] = [const { Vec::new() }; 3];
    for round in 0..scale.rounds.max(3) {
        let finhook = Finhook::serve(&[], &stage.settings(&database)).await?;
        servers.push(finhook.ready_after.as_secs_f64() * 1e3);
        finhook.stop().await?;
        let finhook = Finhook::serve(&[], &stage.embedded(&format!("start-{round}"))).await?;
        own.push(finhook.ready_after.as_secs_f64() * 1e3);
        finhook.stop().await?;
        demo.push(first_row()?.as_secs_f64() * 1e3);
    }
    report.add("serve, ready (RabbitMQ, PostgreSQL)", "ms", &servers, &[], Wanted::AtMost(300.0));
    report.add("serve, ready (embedded, a new folder)", "ms", &own, &[], Wanted::AtMost(300.0));
    report.add("demo, its first committed row", "ms", &demo, &[], Wanted::AtMost(1_000.0));
    let bytes = std::fs::metadata(env!("CARGO_BIN_EXE_finhook"))?.len();
    report.add("the binary", "MB", &[bytes as f64 / 1e6], &[], Wanted::AtMost(25.0));
    stage.drop_database().await
}

/// How long the demo takes to show a committed row.
fn first_row() -> anyhow::Result<Duration> {
    let mut demo = finhook();
    let began = Instant::now();
    let mut demo = demo.args(["demo", "--exit"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let output = demo.stdout.take().context("its output")?;
    let mut shown = None;
    for line in BufReader::new(output).lines() {
        // How many there are is said once they are committed.
        if line?.trim_start().starts_with("rows ") && shown.is_none() {
            shown = Some(began.elapsed());
        }
    }
    ensure!(demo.wait()?.success(), "the demo failed");
    shown.context("the demo showed no row")
}

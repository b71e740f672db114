//! The scenarios: what is taken away from finhook, when, and what must be seen meanwhile.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, bail};
use rand::RngExt;
use rand::seq::IndexedRandom;
use tokio::time::{Instant, sleep, timeout};

use crate::broker::{ACK_LIMIT, Alarm, Brokers};
use crate::deployment::{Environment, Half};
use crate::ledger::{Answer, Until};
use crate::machine::Machine;
use crate::proxy::{Mode, Proxy};
use crate::stage::{Outcome, Servers, Stage, Wants};
use crate::{crowds, outages, reconcile, world};

/// What finhook does again once everything is back.
const BOTH: &[Until] = &[Until::Accepted, Until::Committed];

/// A scenario.
pub struct Scenario {
    /// As `--scenario` takes it.
    pub name: &'static str,
    /// What happens in it.
    pub about: &'static str,
    /// Shorter than this it shows nothing.
    pub least: Duration,
    /// Whether it only runs when it is named.
    pub on_demand: bool,
}

const fn scenario(name: &'static str, least: u64, about: &'static str) -> Scenario {
    Scenario { name, about, least: Duration::from_secs(least), on_demand: false }
}

const fn on_demand(name: &'static str, least: u64, about: &'static str) -> Scenario {
    Scenario { on_demand: true, ..scenario(name, least, about) }
}

/// The programs that are tried.
pub struct Programs {
    /// This version.
    pub now: PathBuf,
    /// The one before it, if there is one to upgrade from.
    pub before: Option<PathBuf>,
}

/// All of them.
pub static SCENARIOS: &[Scenario] = &[
    scenario("kills", 10, "kill -9 and restart of receiver, worker, broker and database at random instants"),
    scenario("links", 10, "the links to broker and database are cut, stalled, forgotten and delayed"),
    scenario("alarm", 12, "memory and disk alarms on the broker"),
    scenario("outage", 8, "the broker is away, without a spool: only 503, and every retry comes in"),
    scenario("spool", 8, "the broker is away, with a spool: only 200"),
    scenario("embedded", 6, "embedded mode with kill -9"),
    scenario("spool-disk", 8, "the broker is away and the spool's disk full: 200 or 503, and nothing in between"),
    scenario("disk", 6, "embedded mode with the disk full"),
    scenario("clock", 6, "the clocks of receiver and worker jump"),
    scenario("ack-limit", 18, "the database is away for longer than the broker waits for an ack"),
    scenario("new-key", 8, "deliveries sealed with a key that the worker has not got yet"),
    scenario("scale", 8, "two receivers and three workers on the same queues, killed and stopped in turn"),
    scenario(
        "poison",
        16,
        "one subject whose rows the database refuses, in a backlog (10,000 events in 40 s): nobody else notices",
    ),
    scenario("stops", 8, "receivers and workers are told to stop under load, some of them twice"),
    scenario("upgrade", 6, "receivers of the new version before workers of the new version"),
    on_demand("cluster", 15, "three RabbitMQ nodes, the one that leads a queue killed under load"),
    on_demand("spool-long", 20, "one outage of the broker for all of --seconds at 200 deliveries/s, with a spool"),
    on_demand("outage-long", 20, "the same without: only 503, and every retry comes in"),
    on_demand("crowd", 45, "10,000 connections that are idle, or slow with their head, or with their body"),
    on_demand("stalled", 45, "64 senders of the largest bodies, and a broker that does not answer"),
];

/// Plays one.
pub async fn play(
    scenario: &Scenario,
    machine: &Rc<Machine>,
    servers: &mut Servers,
    seed: u64,
    span: Duration,
    programs: &Programs,
) -> anyhow::Result<Outcome> {
    let mut wants = Wants::default();
    let spool = |folder: PathBuf| vec![("FINHOOK_SPOOL".to_owned(), folder.join("spool").display().to_string())];
    match scenario.name {
        "embedded" => wants.embedded = true,
        "disk" => {
            wants.embedded = true;
            wants.data = Some(machine.small_disk("disk")?.join("data"));
        }
        "clock" => wants.clocks = true,
        "scale" => (wants.receivers, wants.workers) = (2, 3),
        "poison" => wants.rate = 300,
        "spool" => (wants.of_receivers, wants.rate) = (spool(machine.subfolder("spool-once")?), 160),
        "spool-disk" => wants.of_receivers = spool(machine.small_disk("spool-disk")?),
        "spool-long" => {
            wants.of_receivers = spool(machine.subfolder("spool-long")?);
            (wants.rate, wants.steadily) = (200, true);
        }
        "outage-long" => {
            (wants.rate, wants.steadily, wants.faster) = (200, true, outages::faster(span));
            // Plaid may not sign its retries anew: README.md says what is set for that.
            wants.of_receivers = vec![("FINHOOK_PLAID_MAX_AGE".to_owned(), "25h".to_owned())];
        }
        "stalled" => wants.rate = 4,
        "upgrade" => wants.before = programs.before.clone(),
        _ => {}
    }
    // Three nodes of its own, which go when it is over.
    let mut cluster = match scenario.name {
        "cluster" => Some(Brokers::start(machine, "cluster", 3).await?),
        _ => None,
    };
    let brokers = cluster.as_ref().unwrap_or(&servers.brokers);
    let ports = brokers.nodes.iter().map(|node| node.port).collect();
    let mut stage = Stage::set(machine, servers, ports, (scenario.name, seed, span), &programs.now, wants).await?;
    match scenario.name {
        "kills" => kills(&mut stage, servers).await?,
        "links" => links(&mut stage).await?,
        "alarm" => alarm(&mut stage, servers).await?,
        "outage" => away(&mut stage, servers, Answer::Status(503)).await?,
        "spool" => away(&mut stage, servers, Answer::Status(200)).await?,
        "embedded" => embedded(&mut stage).await?,
        "disk" => disk(&mut stage).await?,
        "clock" => clock(&mut stage).await?,
        "ack-limit" => ack_limit(&mut stage, servers).await?,
        "new-key" => new_key(&mut stage).await?,
        "scale" => scale(&mut stage).await?,
        "poison" => poison(&mut stage, servers).await?,
        "upgrade" => upgrade(&mut stage, programs).await?,
        "stops" => stops(&mut stage).await?,
        "spool-disk" => outages::spool_disk(&mut stage, servers).await?,
        "spool-long" => outages::long(&mut stage, servers, Answer::Status(200)).await?,
        "outage-long" => outages::long(&mut stage, servers, Answer::Status(503)).await?,
        "crowd" => crowds::crowd(&mut stage).await?,
        "stalled" => crowds::stalled(&mut stage, servers).await?,
        "cluster" => leader(&mut stage, cluster.as_mut().context("it was started")?).await?,
        other => bail!("{other} has no script"),
    }
    // On a slow machine a broker takes longer to start than the least patient sender waits.
    let unanswered = scenario.name == "outage" && stage.longest_absence < Duration::from_secs(10);
    if let Some(cluster) = cluster {
        // The reckoning asks this node for what is left in the queues.
        let own = std::mem::replace(&mut servers.brokers, cluster);
        let outcome = stage.finish(servers, 0).await;
        servers.brokers = own;
        return outcome;
    }
    let outcome = stage.finish(servers, 0).await;
    outcome.map(|mut outcome| {
        if unanswered && outcome.deliveries.2 > 0 {
            outcome.problems.push(format!("{} deliveries were given up by their senders", outcome.deliveries.2));
        }
        outcome
    })
}

impl Stage {
    /// A duration between two numbers of milliseconds.
    pub fn some(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.rng.random_range(from..=to))
    }

    async fn restart(&self, number: usize) -> anyhow::Result<()> {
        self.finhook.start(number)?;
        self.finhook.serves(number, Duration::from_secs(20)).await
    }
}

/// Starts the broker and waits until it takes messages.
pub async fn broker_again(stage: &Stage, servers: &mut Servers) -> anyhow::Result<()> {
    let node = servers.brokers.only()?;
    node.start(&stage.machine)?;
    // On a machine that is short of breath it takes its time, which is not finhook's.
    node.answers(Duration::from_secs(180)).await
}

async fn database_again(stage: &Stage, servers: &mut Servers) -> anyhow::Result<()> {
    servers.database.restart(&stage.machine)?;
    servers.database.answers(Duration::from_secs(30)).await
}

async fn kills(stage: &mut Stage, servers: &mut Servers) -> anyhow::Result<()> {
    let (receiver, worker) = (stage.finhook.of(Half::Receiver)[0], stage.finhook.of(Half::Worker)[0]);
    // Each of them at least once if there is time, in an order that the seed decides; then any.
    let mut bag: Vec<u32> = Vec::new();
    // A broker needs some seconds to start.
    while stage.left() > Duration::from_secs(1) {
        if bag.is_empty() {
            bag = (0..7).collect();
        }
        let what = bag.swap_remove(stage.rng.random_range(0..bag.len()));
        let (calm, down) = (stage.some(100, 1_500), stage.some(20, 1_500));
        if what >= 4 && stage.left() < Duration::from_secs(7) {
            continue;
        }
        sleep(calm).await;
        match what {
            0 => {
                stage.fault("receiver");
                stage.finhook.kill(receiver).await;
                sleep(down).await;
                stage.restart(receiver).await?;
                stage.back("receiver", &[Until::Accepted]);
            }
            1 => {
                stage.fault("worker");
                stage.finhook.kill(worker).await;
                sleep(down).await;
                stage.restart(worker).await?;
                stage.back("worker", &[Until::Committed]);
            }
            2 => {
                stage.fault("database");
                servers.database.kill().await;
                sleep(down).await;
                database_again(stage, servers).await?;
                stage.back("database", &[Until::Committed]);
            }
            3 => {
                stage.fault("receiver and worker");
                tokio::join!(stage.finhook.kill(receiver), stage.finhook.kill(worker));
                sleep(down).await;
                stage.restart(receiver).await?;
                stage.restart(worker).await?;
                stage.back("receiver and worker", BOTH);
            }
            4 => {
                stage.fault("broker");
                servers.brokers.only()?.kill().await;
                sleep(down).await;
                broker_again(stage, servers).await?;
                stage.back("broker", BOTH);
            }
            5 => {
                // They start before what they depend on is there.
                stage.fault("receiver, worker and broker");
                tokio::join!(stage.finhook.kill(receiver), stage.finhook.kill(worker));
                servers.brokers.only()?.kill().await;
                sleep(down).await;
                stage.finhook.start(receiver)?;
                stage.finhook.start(worker)?;
                sleep(Duration::from_millis(500)).await;
                broker_again(stage, servers).await?;
                stage.back("receiver, worker and broker", BOTH);
            }
            _ => {
                stage.fault("worker and database");
                stage.finhook.kill(worker).await;
                servers.database.kill().await;
                stage.finhook.start(worker)?;
                sleep(down + Duration::from_secs(1)).await;
                database_again(stage, servers).await?;
                stage.back("worker and database", &[Until::Committed]);
            }
        }
    }
    Ok(())
}

async fn links(stage: &mut Stage) -> anyhow::Result<()> {
    let mut bag: Vec<(bool, u32)> = Vec::new();
    while stage.left() > Duration::from_secs(1) {
        if bag.is_empty() {
            bag = (0..6).flat_map(|fault| [(true, fault), (false, fault)]).collect();
        }
        let (broker, fault) = bag.swap_remove(stage.rng.random_range(0..bag.len()));
        let (calm, short, long) = (stage.some(100, 1_000), stage.some(50, 2_000), stage.some(1_000, 9_000));
        sleep(calm).await;
        let (link, name, until): (Proxy, _, &[Until]) = match broker {
            true => (stage.to_broker.clone(), "link to the broker", BOTH),
            false => (stage.to_database.clone(), "link to the database", &[Until::Committed]),
        };
        let long = long.min(stage.left());
        match fault {
            0 => {
                stage.fault(&format!("{name} cut"));
                link.set(Mode::Cut);
                sleep(short).await;
            }
            1 => {
                stage.fault(&format!("{name} stalled"));
                link.set(Mode::Stalled);
                sleep(long).await;
            }
            2 => {
                stage.fault(&format!("{name} stalled, then cut"));
                link.set(Mode::Stalled);
                sleep(long).await;
                link.set(Mode::Cut);
                sleep(Duration::from_millis(100)).await;
            }
            3 => {
                stage.fault(&format!("{name} deaf"));
                link.set(Mode::Deaf);
                sleep(long).await;
                link.set(Mode::Cut);
                sleep(Duration::from_millis(100)).await;
            }
            4 => {
                // Nothing is away: connections are half open, and that has to be noticed.
                stage.fault(&format!("{name} forgotten"));
                link.forget();
                stage.back(&format!("{name} forgotten"), until);
                sleep(Duration::from_secs(12)).await;
                link.set(Mode::Cut);
                sleep(Duration::from_millis(100)).await;
                link.set(Mode::Through);
                continue;
            }
            _ => {
                let delay = stage.some(5, 80);
                stage.fault(&format!("{name} slow by {} ms", delay.as_millis()));
                link.set(Mode::Slow(delay));
                sleep(short * 2).await;
            }
        }
        link.set(Mode::Through);
        stage.back(name, until);
    }
    Ok(())
}

async fn alarm(stage: &mut Stage, servers: &mut Servers) -> anyhow::Result<()> {
    let machine = stage.machine.clone();
    let node = servers.brokers.only()?;
    let mut alarms = [Alarm::Memory, Alarm::Disk];
    if stage.rng.random_bool(0.5) {
        alarms.reverse();
    }
    for alarm in alarms.into_iter().cycle() {
        let (calm, raised) = (stage.some(200, 1_500), stage.some(500, 4_000));
        let name = format!("{alarm:?} alarm").to_lowercase();
        sleep(calm).await;
        stage.fault(&name);
        node.alarm(&machine, alarm, true).await?;
        let alarmed = Instant::now();
        sleep(raised).await;
        let (before, cleared) = (Instant::now(), node.alarm(&machine, alarm, false).await);
        cleared?;
        stage.back(&name, BOTH);
        // What was on its way when the alarm came may be confirmed once it is over.
        let wrong = during(stage, alarmed + Duration::from_secs(1), before, Answer::Status(503));
        if let Some(wrong) = wrong {
            stage.problems.push(format!("during a {name} {wrong}"));
        }
        if stage.left() < Duration::from_secs(5) {
            break;
        }
    }
    Ok(())
}

/// What was wrong with the answers to what was sent and answered between two instants; `None` if all were as `expected`.
pub fn during(stage: &Stage, from: Instant, to: Instant, expected: Answer) -> Option<String> {
    let ledger = stage.providers.ledger.borrow();
    let within = ledger.attempts.iter().filter(|attempt| attempt.sent >= from && attempt.answered <= to);
    let all: Vec<_> = within.collect();
    let others: Vec<_> = all.iter().filter(|attempt| attempt.answer != expected).collect();
    let other = others.first()?;
    Some(format!("{} of {} answers were not {expected:?}, the first {:?}", others.len(), all.len(), other.answer))
}

/// The broker is away, as often as there is time; every delivery meanwhile gets the same answer.
async fn away(stage: &mut Stage, servers: &mut Servers, expected: Answer) -> anyhow::Result<()> {
    loop {
        // The shortest patience, that of event streams, is about 12 s here; a broker needs up to 6 to start.
        let spooling = expected == Answer::Status(200);
        let longest = if spooling { stage.left().as_millis() as u64 * 2 / 3 } else { 2_500 };
        // Their last wait is 9.6 s long: whoever was refused in one outage must not meet another one after it.
        let least = if spooling || stage.longest_absence.is_zero() { 500 } else { 10_500 };
        let (calm, down) = (stage.some(least, least + 1_000), stage.some(500, longest.max(1_000)));
        sleep(calm).await;
        stage.fault("broker");
        let killed = Instant::now();
        servers.brokers.only()?.kill().await;
        sleep(down).await;
        let starting = Instant::now();
        broker_again(stage, servers).await?;
        stage.longest_absence = stage.longest_absence.max(killed.elapsed());
        stage.back("broker", BOTH);
        // Whoever is refused until finhook has taken up again is refused in this outage, and not in a calm.
        while stage.recovers() && !stage.left().is_zero() {
            sleep(Duration::from_millis(20)).await;
        }
        // What was on its way when the broker died is not yet sent during its absence.
        let from = if spooling { killed } else { killed + Duration::from_millis(200) };
        if let Some(wrong) = during(stage, from, starting, expected) {
            stage.problems.push(format!("while the broker was away {wrong}"));
        }
        let least = if spooling { 8 } else { 18 };
        if stage.left() < Duration::from_secs(least) {
            return Ok(());
        }
    }
}

async fn embedded(stage: &mut Stage) -> anyhow::Result<()> {
    while stage.left() > Duration::from_millis(500) {
        let (calm, down) = (stage.some(50, 2_000), stage.some(20, 500));
        sleep(calm).await;
        stage.fault("the process");
        stage.finhook.kill(0).await;
        sleep(down).await;
        stage.restart(0).await?;
        stage.back("the process", BOTH);
    }
    Ok(())
}

async fn disk(stage: &mut Stage) -> anyhow::Result<()> {
    let ballast = stage.machine.folder.join("disk/ballast");
    loop {
        let (calm, full) = (stage.some(300, 1_500), stage.some(500, 5_000).min(stage.left()));
        sleep(calm).await;
        stage.fault("room on the disk");
        filled(&ballast, full).await?;
        stage.back("room on the disk", BOTH);
        let refused = stage.providers.ledger.borrow().attempts.iter().any(|a| a.answer == Answer::Status(503));
        if stage.left() < Duration::from_secs(2) {
            if !refused {
                stage.problems.push("the full disk was never noticed".to_owned());
            }
            return Ok(());
        }
    }
}

/// Leaves no room on a disk for so long.
pub async fn filled(ballast: &Path, full: Duration) -> anyhow::Result<()> {
    fill(ballast)?;
    let since = Instant::now();
    // What is freed by a checkpoint is taken too.
    while since.elapsed() < full {
        sleep(Duration::from_millis(200)).await;
        fill(ballast)?;
    }
    Ok(std::fs::remove_file(ballast)?)
}

/// Writes until nothing fits any more.
fn fill(path: &Path) -> anyhow::Result<()> {
    use std::io::Write;
    let mut file = std::fs::File::options().create(true).append(true).open(path)?;
    for size in [1 << 20, 1 << 12] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
    Ok(())
}

async fn clock(stage: &mut Stage) -> anyhow::Result<()> {
    let all = [stage.finhook.of(Half::Receiver), stage.finhook.of(Half::Worker)].concat();
    while stage.left() > Duration::from_millis(500) {
        let calm = stage.some(300, 2_000);
        sleep(calm).await;
        let number = *all.choose(&mut stage.rng).context("there are processes")?;
        let far = *[40_i64, 240, 7_200, 86_400].choose(&mut stage.rng).context("there are distances")?;
        let seconds = stage.rng.random_range(-far..=far);
        stage.fault(&format!("clock of process {number} off by {seconds} s"));
        stage.finhook.jump(number, seconds)?;
    }
    for number in all {
        stage.finhook.jump(number, 0)?;
    }
    stage.back("clock", BOTH);
    Ok(())
}

async fn ack_limit(stage: &mut Stage, servers: &mut Servers) -> anyhow::Result<()> {
    sleep(Duration::from_secs(1)).await;
    stage.fault("database, for longer than the broker's ack limit");
    servers.database.kill().await;
    sleep((ACK_LIMIT + Duration::from_secs(5)).max(stage.left())).await;
    database_again(stage, servers).await?;
    stage.back("database", &[Until::Committed]);
    Ok(())
}

fn ring(keys: &str) -> Environment {
    vec![("FINHOOK_KEYS".to_owned(), keys.to_owned())]
}

async fn new_key(stage: &mut Stage) -> anyhow::Result<()> {
    let (receivers, workers) = (stage.finhook.of(Half::Receiver), stage.finhook.of(Half::Worker));
    let both = stage.secrets().both(1);
    sleep(stage.left() / 4).await;
    stage.fault("the new key, at the worker");
    for (name, value) in ring(&both) {
        receivers.iter().chain(&workers).for_each(|number| stage.finhook.set(*number, &name, &value));
    }
    for number in &receivers {
        stage.finhook.stop(*number).await?;
        stage.restart(*number).await?;
    }
    let until = Instant::now() + (stage.left() / 2).max(Duration::from_secs(2));
    sleep(until - Instant::now()).await;
    if stage.found().await?.in_state("dead") == 0 {
        stage.problems.push("no delivery was held for its key".to_owned());
    }
    for number in &workers {
        stage.finhook.stop(*number).await?;
        stage.restart(*number).await?;
    }
    stage.back("the new key", &[Until::Committed]);
    sleep(stage.left()).await;
    Ok(())
}

async fn upgrade(stage: &mut Stage, programs: &Programs) -> anyhow::Result<()> {
    let (receivers, workers) = (stage.finhook.of(Half::Receiver), stage.finhook.of(Half::Worker));
    // The old version opens what the new one seals, and goes on sealing as it did; then it becomes the new one. The
    // tables are the new version's before either is, as `finhook migrate up` has it.
    for (first, processes, new) in [(0, &workers, false), (1, &receivers, true), (1, &workers, true)] {
        if new {
            stage.finhook.run(&["migrate", "up"]).await?;
        }
        for (name, value) in ring(&stage.secrets().both(first)) {
            processes.iter().for_each(|number| stage.finhook.set(*number, &name, &value));
        }
        processes.iter().filter(|_| new).for_each(|number| stage.finhook.replace(*number, &programs.now));
        for number in processes {
            stage.fault("one process, stopped for its upgrade");
            stage.finhook.stop(*number).await?;
            stage.restart(*number).await?;
            stage.back("the process", BOTH);
        }
        let calm = (stage.left() / 3).max(Duration::from_millis(500));
        sleep(calm).await;
    }
    Ok(())
}

async fn scale(stage: &mut Stage) -> anyhow::Result<()> {
    let all = [stage.finhook.of(Half::Receiver), stage.finhook.of(Half::Worker)].concat();
    while stage.left() > Duration::from_secs(1) {
        let (calm, down) = (stage.some(100, 1_000), stage.some(20, 1_000));
        let number = *all.choose(&mut stage.rng).context("there are processes")?;
        let gently = stage.rng.random_bool(0.4);
        sleep(calm).await;
        stage.fault(&format!("process {number}, {}", if gently { "stopped" } else { "killed" }));
        if gently {
            stage.finhook.stop(number).await?;
        } else {
            stage.finhook.kill(number).await;
        }
        sleep(down).await;
        stage.restart(number).await?;
        stage.back("the process", BOTH);
    }
    Ok(())
}

async fn stops(stage: &mut Stage) -> anyhow::Result<()> {
    let all = [stage.finhook.of(Half::Receiver), stage.finhook.of(Half::Worker)].concat();
    while stage.left() > Duration::from_millis(500) {
        let (calm, down, between) = (stage.some(100, 1_200), stage.some(20, 500), stage.some(0, 150));
        let mut told: Vec<usize> = all.iter().copied().filter(|_| stage.rng.random_bool(0.6)).collect();
        if told.is_empty() {
            told = all.clone();
        }
        let twice = stage.rng.random_bool(0.5);
        sleep(calm).await;
        stage.fault(&format!("processes {told:?}, told to stop{}", if twice { " twice" } else { "" }));
        for number in &told {
            if twice {
                stage.finhook.stop_at_once(*number, between).await?;
            } else {
                stage.finhook.stop(*number).await?;
            }
        }
        sleep(down).await;
        for number in &told {
            stage.restart(*number).await?;
        }
        stage.back("the processes", BOTH);
    }
    Ok(())
}

async fn poison(stage: &mut Stage, servers: &mut Servers) -> anyhow::Result<()> {
    // One delivery of two hundred is about it.
    let victim = world::synapse_user(7);
    let raise = format!(
        "create function chaos_poison() returns trigger language plpgsql as $$
         begin if new.external_id = '{victim}' then raise exception 'poison'; end if; return new; end $$;
         create trigger chaos_poison before insert or update on integration
         for each row execute function chaos_poison()"
    );
    servers.database.run(&stage.place, &raise).await?;
    // A backlog first, so that the victim's events are in the middle of whole batches of others.
    let workers = stage.finhook.of(Half::Worker);
    for number in &workers {
        stage.finhook.stop(*number).await?;
    }
    let half = Instant::now() + stage.left() / 2;
    while stage.providers.ledger.borrow().promised.len() < 10_000 && Instant::now() < half {
        sleep(Duration::from_millis(50)).await;
    }
    let backlog = stage.providers.ledger.borrow().promised.len();
    for number in &workers {
        stage.restart(*number).await?;
    }
    stage.notes.push(format!("{backlog} events waited when the worker came to them"));
    stage.fault(&format!("the rows of {victim}"));
    // No longer than two attempts of an event last: the next ones would be minutes apart.
    sleep(stage.left().clamp(Duration::from_secs(7), Duration::from_secs(20))).await;
    // A backlog takes a slow machine a while; the third attempt comes 35 s after the first.
    let patience = Instant::now() + Duration::from_secs(12);
    let (found, late) = loop {
        let found = stage.found().await?;
        let before = Instant::now() - Duration::from_secs(5);
        let late = reconcile::overdue(&stage.providers.ledger.borrow(), &found, before, &victim);
        if late == 0 || Instant::now() > patience {
            break (found, late);
        }
        sleep(Duration::from_millis(500)).await;
    };
    if found.in_state("retrying") == 0 {
        stage.problems.push("no event was set aside".to_owned());
    }
    if late > 0 {
        stage.problems.push(format!("{late} events of others had no row after 5 s"));
    }
    servers.database.run(&stage.place, "drop trigger chaos_poison on integration").await?;
    stage.back("the rows of the victim", &[Until::Committed]);
    sleep(stage.left()).await;
    Ok(())
}

async fn leader(stage: &mut Stage, cluster: &mut Brokers) -> anyhow::Result<()> {
    let machine = stage.machine.clone();
    loop {
        let calm = stage.some(1_000, 3_000);
        sleep(calm).await;
        let queue = format!(
            "{}.{}",
            stage.place,
            ["unit", "plaid", "synapse", "auth0"].choose(&mut stage.rng).unwrap_or(&"unit")
        );
        let number = cluster.leader_of(&machine, &queue).await?;
        let node = cluster.nodes.get_mut(number).context("it was found there")?;
        stage.fault(&format!("node {number}, which leads {queue}"));
        node.kill().await;
        // The others are still a majority: what is waited for is not the node.
        stage.back("the leader's death", BOTH);
        let down = stage.some(1_000, 6_000);
        sleep(down).await;
        node.start(&machine)?;
        node.answers(Duration::from_secs(60)).await?;
        timeout(Duration::from_secs(30), node.control(&machine, &["await_startup"]))
            .await
            .context("a node starts")??;
        if stage.left() < Duration::from_secs(8) {
            return Ok(());
        }
    }
}

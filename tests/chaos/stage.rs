//! A stage: one finhook with a broker, a database and links of its own, under load, for one scenario.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context;
use finhook::domain::WallClock;
use rand::SeedableRng;
use rand::rngs::StdRng;
use sqlx::{ConnectOptions, Connection, SqliteConnection};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::broker::Brokers;
use crate::database::Database;
use crate::deployment::{Deployment, Environment, Half, Secrets};
use crate::ledger::{Ledger, Until};
use crate::machine::Machine;
use crate::model::Subject;
use crate::provider::Providers;
use crate::proxy::Proxy;
use crate::reconcile::{Found, Reckoning, reckon};
use crate::world::{self, LINKED_BY_HAND, World};

/// How long everything may take to become a row after the last fault.
const DRAIN: Duration = Duration::from_secs(60);
/// How long the load goes on after the last fault: at least, and at most if finhook does not recover.
const TAIL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// How far back events happened: far from every clock that jumps.
const LONG_AGO_SECONDS: i64 = 30 * 86_400;

/// The servers that scenarios share.
pub struct Servers {
    /// One node.
    pub brokers: Brokers,
    /// The cluster.
    pub database: Database,
}

/// What a scenario wants of its finhook.
#[derive(Debug, Clone)]
pub struct Wants {
    /// How many receivers.
    pub receivers: usize,
    /// How many workers.
    pub workers: usize,
    /// One process with everything embedded instead.
    pub embedded: bool,
    /// Where the embedded files are, if not in the run's folder.
    pub data: Option<PathBuf>,
    /// More settings of the receivers.
    pub of_receivers: Environment,
    /// More settings of the workers.
    pub of_workers: Environment,
    /// Whether the processes' clocks can jump.
    pub clocks: bool,
    /// Deliveries per second.
    pub rate: u32,
    /// Whether that is kept up on a machine that is short of breath.
    pub steadily: bool,
    /// How many times faster than theirs the senders' time goes.
    pub faster: u32,
    /// The program that runs at first, if it is another one.
    pub before: Option<PathBuf>,
}

impl Default for Wants {
    fn default() -> Self {
        let (of_receivers, of_workers) = (Vec::new(), Vec::new());
        Self {
            receivers: 1,
            workers: 1,
            embedded: false,
            data: None,
            of_receivers,
            of_workers,
            clocks: false,
            rate: 60,
            steadily: false,
            faster: 100,
            before: None,
        }
    }
}

/// Where the tables are.
#[derive(Clone)]
enum Tables {
    Postgres { port: u16, name: String },
    Sqlite { path: PathBuf },
}

/// The stage.
pub struct Stage {
    /// The machine.
    pub machine: Rc<Machine>,
    /// finhook.
    pub finhook: Rc<Deployment>,
    /// The senders.
    pub providers: Rc<Providers>,
    /// The link to the broker.
    pub to_broker: Proxy,
    /// The link to the database.
    pub to_database: Proxy,
    /// What the schedule is drawn from.
    pub rng: StdRng,
    /// When the faults should be over.
    pub until: Instant,
    /// The longest that the broker was away.
    pub longest_absence: Duration,
    /// What a scenario found that the reckoning cannot see.
    pub problems: Vec<String>,
    /// What it measured.
    pub notes: Vec<String>,
    /// Since when everything is there again, and how long the last row may take from then on.
    pub drains: Option<(Instant, Duration)>,
    /// The name of its database, and the start of its queues' names.
    pub place: String,
    tables: Tables,
    secrets: Rc<Secrets>,
    links: Vec<(Subject, String)>,
    loading: Rc<Cell<bool>>,
    loader: Option<tokio::task::JoinHandle<World>>,
}

/// How a scenario went.
pub struct Outcome {
    /// The reckoning.
    pub reckoning: Reckoning,
    /// Deliveries sent, answered 200, given up by their senders.
    pub deliveries: (usize, usize, usize),
    /// Every answer, counted.
    pub answers: String,
    /// Processes that ended by themselves, and answers that should not be.
    pub problems: Vec<String>,
    /// What was measured.
    pub notes: Vec<String>,
    /// How many processes ended by themselves.
    pub restarts: usize,
    /// The longest recovery.
    pub recovery: (Duration, String),
}

impl Stage {
    /// Puts up a finhook and starts the load.
    pub async fn set(
        machine: &Rc<Machine>,
        servers: &Servers,
        ports: Vec<u16>,
        (name, seed, span): (&str, u64, Duration),
        binary: &Path,
        wants: Wants,
    ) -> anyhow::Result<Self> {
        let place = format!("chaos_{}", name.replace('-', "_"));
        let to_broker = Proxy::before(ports)?;
        let to_database = Proxy::before(vec![servers.database.port])?;
        let secrets = Rc::new(Secrets::fresh(machine, name)?);
        let (tables, shared) = if wants.embedded {
            let data = wants.data.clone().unwrap_or(machine.folder.join(format!("{place}-data")));
            let shared = vec![("FINHOOK_DATA_DIR".to_owned(), data.display().to_string())];
            (Tables::Sqlite { path: data.join("finhook.db") }, shared)
        } else {
            servers.database.run("postgres", &format!("create database {place}")).await?;
            let shared = [
                ("DATABASE_URL", format!("postgres://postgres@{}/{place}?sslmode=disable", to_database.address())),
                ("AMQP_URL", format!("amqp://guest:guest@{}/%2f", to_broker.address())),
                ("FINHOOK_AMQP_PREFIX", place.clone()),
            ];
            let shared = shared.map(|(name, value)| (name.to_owned(), value)).to_vec();
            (Tables::Postgres { port: servers.database.port, name: place.clone() }, shared)
        };
        let finhook = Rc::new(Deployment::new(machine, name, binary, &secrets, shared));
        let first = wants.before.as_deref().unwrap_or(binary);
        if wants.embedded {
            finhook.add(Half::Both, wants.of_receivers, wants.clocks)?;
        } else {
            finhook.run_as(first, &["migrate", "up"]).await?;
            for _ in 0..wants.workers {
                finhook.add(Half::Worker, wants.of_workers.clone(), wants.clocks)?;
            }
            for _ in 0..wants.receivers {
                finhook.add(Half::Receiver, wants.of_receivers.clone(), wants.clocks)?;
            }
        }
        for number in [Half::Receiver, Half::Worker].map(|half| finhook.of(half)).concat() {
            finhook.replace(number, first);
        }
        let (signers, url_keys) = secrets.signers()?;
        let ledger = Ledger::new(&machine.folder.join(format!("{name}-ledger.jsonl")))?;
        let providers = Providers::new(signers, url_keys, finhook.doors(), ledger)?;
        let providers = providers.forgiving(wants.clocks).faster(wants.faster);
        let mut stage = Self {
            machine: machine.clone(),
            finhook,
            providers: Rc::new(providers),
            to_broker,
            to_database,
            rng: StdRng::seed_from_u64(seed),
            until: Instant::now() + span,
            longest_absence: Duration::ZERO,
            problems: Vec::new(),
            notes: Vec::new(),
            drains: None,
            place,
            tables,
            secrets,
            links: Vec::new(),
            loading: Rc::new(Cell::new(true)),
            loader: None,
        };
        stage.start(seed, wants.rate, wants.steadily).await?;
        stage.until = Instant::now() + span;
        Ok(stage)
    }

    async fn start(&mut self, seed: u64, rate: u32, steadily: bool) -> anyhow::Result<()> {
        let all: Vec<usize> = [Half::Both, Half::Worker, Half::Receiver].map(|half| self.finhook.of(half)).concat();
        for number in &all {
            self.finhook.start(*number)?;
        }
        for number in &all {
            self.finhook.serves(*number, Duration::from_secs(20)).await?;
        }
        for number in 0..LINKED_BY_HAND {
            let (item, user) = (world::item(number), format!("linked_{number}"));
            self.finhook.run(&["link", "plaid", &item, "--user", &user]).await?;
            self.links.push((("plaid".to_owned(), item), user));
        }
        self.accepting().await?;
        self.watch_commits();
        let (providers, loading) = (self.providers.clone(), self.loading.clone());
        let start = (WallClock::system().now().seconds() - LONG_AGO_SECONDS) * 1_000_000;
        let mut world = World::new(seed, start);
        self.loader = Some(tokio::task::spawn_local(async move {
            let mut pace = interval(Duration::from_secs(1) / rate);
            // What was late is left out: a machine that is short of breath is not to be hit harder.
            pace.set_missed_tick_behavior(if steadily { MissedTickBehavior::Burst } else { MissedTickBehavior::Delay });
            while loading.get() {
                pace.tick().await;
                let outgoing = world.next();
                // Some senders send twice without having been asked to.
                if outgoing.events.first().is_some_and(|event| event.key.last().is_some_and(|end| end % 16 == 0)) {
                    tokio::task::spawn_local(providers.clone().deliver(outgoing.clone()));
                }
                tokio::task::spawn_local(providers.clone().deliver(outgoing));
            }
            world
        }));
        Ok(())
    }

    /// Waits until a receiver has the broker: the scenario begins with everything in order.
    async fn accepting(&self) -> anyhow::Result<()> {
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(2)).build()?;
        let until = Instant::now() + Duration::from_secs(20);
        for door in self.finhook.doors() {
            // Without a proof it is 401; nothing is known about the queue from that, so a batch of nothing is sent.
            while Instant::now() < until {
                let body = br#"{"data":[]}"#.to_vec();
                let headers = self.providers.proof("unit", &body);
                let mut request = client.post(format!("http://127.0.0.1:{door}/webhooks/unit")).body(body);
                for (name, value) in headers {
                    request = request.header(name, value);
                }
                if request.send().await.is_ok_and(|response| response.status() == 200) {
                    break;
                }
                sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }

    /// Sees when event rows become more.
    fn watch_commits(&self) {
        let (tables, ledger) = (self.tables.clone(), Rc::downgrade(&self.providers));
        tokio::task::spawn_local(async move {
            let mut before = 0;
            while let Some(providers) = ledger.upgrade() {
                let now = tables.count().await.unwrap_or(before);
                if now > before {
                    providers.ledger.borrow_mut().recovery.happened(Until::Committed);
                    before = now;
                }
                drop(providers);
                sleep(Duration::from_millis(150)).await;
            }
        });
    }

    /// What is in the tables now.
    pub async fn found(&self) -> anyhow::Result<Found> {
        self.tables.found().await
    }

    /// The keys.
    pub fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// Something is taken away from finhook.
    pub fn fault(&self, what: &str) {
        self.providers.ledger.borrow_mut().recovery.fault();
        say(&format!("  {:>8.1} s before the end: {what}", self.left().as_secs_f64()));
    }

    /// It has it again.
    pub fn back(&self, what: &str, until: &[Until]) {
        self.providers.ledger.borrow_mut().recovery.back(what, until);
        say(&format!("  {:>8.1} s before the end: {what} is back", self.left().as_secs_f64()));
    }

    /// Whether something is back and finhook has not taken up again yet.
    pub fn recovers(&self) -> bool {
        self.providers.ledger.borrow().recovery.outstanding().is_some()
    }

    /// How much time is left for faults.
    pub fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    /// Ends the load, lets everything drain, reckons, stops the processes.
    pub async fn finish(mut self, servers: &Servers, node: usize) -> anyhow::Result<Outcome> {
        let (least, most) = (Instant::now() + TAIL.0, Instant::now() + TAIL.1);
        while Instant::now() < least || (Instant::now() < most && self.recovers()) {
            sleep(Duration::from_millis(50)).await;
        }
        self.loading.set(false);
        if let Some(loader) = self.loader.take() {
            let mut world = loader.await.context("the load ended early")?;
            // A claim of Plaid's can turn out to be one that is only recorded: then there is one more.
            for _ in 0..20 {
                for outgoing in world.claims() {
                    tokio::task::spawn_local(self.providers.clone().deliver(outgoing));
                }
            }
        }
        let until = Instant::now() + self.providers.hurry() + DRAIN;
        let index = self.secrets.index()?;
        let node = servers.brokers.nodes.get(node);
        let reckoning = loop {
            let promised = i64::try_from(self.providers.ledger.borrow().promised.len())?;
            // Reading all of them takes long where they are many, and nobody is answered meanwhile.
            let sending = self.providers.ledger.borrow().open > 0;
            if Instant::now() < until && (sending || self.tables.count().await.is_ok_and(|rows| rows < promised)) {
                sleep(Duration::from_millis(200)).await;
                continue;
            }
            let counted = Instant::now();
            let reckoning = match self.found().await {
                Ok(found) => {
                    let ledger = self.providers.ledger.borrow();
                    let mut reckoning = reckon(&ledger, &self.links, &index, &found);
                    if ledger.open > 0 {
                        reckoning.stuck.push(format!("{} deliveries are still not accepted", ledger.open));
                    }
                    reckoning
                }
                Err(error) => {
                    Reckoning { stuck: vec![format!("the tables cannot be read: {error:#}")], ..Default::default() }
                }
            };
            let mut reckoning = reckoning;
            let queued = matches!(self.tables, Tables::Postgres { .. }) && reckoning.is_clean();
            if let Some(node) = node.filter(|_| queued) {
                let left = node.left(&self.machine, &self.place).await?;
                reckoning.stuck.extend(left.into_iter().map(|queue| format!("queue not empty: {queue}")));
            }
            if reckoning.is_clean() || Instant::now() > until {
                self.drained(counted);
                break reckoning;
            }
            let (lost, first) = (reckoning.lost.len(), reckoning.stuck.first());
            say(&format!("  draining: {lost} without a row, {} waiting, {first:?}", reckoning.stuck.len()));
            sleep(Duration::from_secs(1)).await;
        };
        self.outcome(reckoning).await
    }

    /// Notes how long the last row took after the return of what was away.
    fn drained(&mut self, at: Instant) {
        let Some((since, within)) = self.drains else { return };
        let took = at.saturating_duration_since(since).as_secs_f64();
        self.notes.push(format!("every row was there {took:.1} s after the return"));
        if took > within.as_secs_f64() {
            self.problems.push(format!("the last row took {took:.1} s from the return"));
        }
    }

    async fn outcome(mut self, reckoning: Reckoning) -> anyhow::Result<Outcome> {
        let all: Vec<usize> = [Half::Both, Half::Receiver, Half::Worker].map(|half| self.finhook.of(half)).concat();
        for number in all {
            if let Err(error) = self.finhook.stop(number).await {
                self.problems.push(error.to_string());
            }
        }
        let ended = std::mem::take(&mut *self.finhook.ended.borrow_mut());
        let ledger = self.providers.ledger.borrow();
        let mut recovery = ledger.recovery.longest.clone();
        if let Some(outstanding) = ledger.recovery.outstanding().filter(|(wait, _)| *wait > recovery.0) {
            recovery = outstanding;
        }
        let mut problems = self.problems;
        problems.extend(ledger.wrong_answers.iter().map(|(what, times)| format!("{what}, {times} times")));
        let restarts = ended.len();
        problems.extend(ended);
        Ok(Outcome {
            reckoning,
            deliveries: (ledger.deliveries, ledger.accepted, ledger.given_up),
            answers: ledger.answers(),
            problems,
            notes: self.notes,
            restarts,
            recovery,
        })
    }
}

impl Tables {
    async fn count(&self) -> anyhow::Result<i64> {
        const COUNT: &str = "select count(*) from event";
        Ok(match self {
            Self::Postgres { port, name } => {
                sqlx::query_scalar(COUNT).fetch_one(&mut crate::database::connect(*port, name).await?).await?
            }
            Self::Sqlite { path } => sqlx::query_scalar(COUNT).fetch_one(&mut open(path).await?).await?,
        })
    }

    async fn found(&self) -> anyhow::Result<Found> {
        match self {
            Self::Postgres { port, name } => {
                Found::in_postgres(&mut crate::database::connect(*port, name).await?).await
            }
            Self::Sqlite { path } => Found::in_sqlite(&mut open(path).await?).await,
        }
    }
}

async fn open(path: &Path) -> anyhow::Result<SqliteConnection> {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path).read_only(true);
    Ok(SqliteConnection::connect_with(&options.disable_statement_logging()).await?)
}

thread_local! {
    static VERBOSE: RefCell<bool> = const { RefCell::new(false) };
}

/// Whether every fault is printed as it happens.
pub fn speak(aloud: bool) {
    VERBOSE.set(aloud);
}

/// Prints, if it is to be heard.
pub fn say(text: &str) {
    if VERBOSE.with_borrow(|aloud| *aloud) {
        eprintln!("{text}");
    }
}

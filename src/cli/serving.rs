//! A running finhook: both halves or one, put together from the settings, started and stopped as one thing.
//!
//! `serve`, `demo` and the tests all run this. Everything that can be wrong with the configuration is found before
//! anything binds; broker and database may be away and are waited for. What is put together: `opening.rs`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::app::{BadConfiguration, Configured};
use super::opening::{
    changes_exchange, connected, open_for_receiving, open_queue, store_if_it_answers, store_when_it_answers, verifiers,
};
use super::reload::{self, Part, Takeover};
use super::starting::Starting;
use crate::config::{QueueSettings, StoreSettings, TlsFiles};
use crate::http::api::auth::Doorkeeper;
use crate::http::dashboard::live;
use crate::http::server::Entrance;
use crate::http::tls::Tls;
use crate::http::{api, dashboard, ops_api, server, webhooks};
use crate::ops::readiness::Readiness;
use crate::ops::shutdown::Shutdown;
use crate::ops::{limits, metrics};
use crate::pipeline::access::Gate;
use crate::pipeline::console::{Console, Parts};
use crate::pipeline::observe::Observer;
use crate::pipeline::read::Desk;
use crate::pipeline::receive::{Doors, Proving, Receiver};
use crate::pipeline::retention::{Keeper, Retention};
use crate::pipeline::sweep::Sweeper;
use crate::pipeline::tell::Teller;
use crate::pipeline::watch::Watch;
use crate::pipeline::work::{BatchSize, Worker};
use crate::providers::{PROVIDERS, Refusal};
use crate::queue::{Queue, QueueError};
use crate::store::{Store, Vault};

/// How long a worker waits for more deliveries after the first of a batch.
const LINGER: Duration = Duration::from_millis(1);
/// How long the last answers on the operators' port may take when everything else has stopped.
const OPS_GOODBYE: Duration = Duration::from_millis(500);

/// How often it is written under which keys deliveries came.
const WRITE_EVERY: Duration = Duration::from_secs(5);

/// One half of the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Half {
    /// From the request to the queue
    Receiver,
    /// From the queue to the rows
    Worker,
}

/// A running finhook.
pub struct Serving {
    /// Where providers post; `None` without the receiver.
    pub public: Option<SocketAddr>,
    /// Where operators look.
    pub ops: SocketAddr,
    /// The queue.
    pub queue: Arc<dyn Queue>,
    /// The tables; `None` without the worker.
    pub store: Option<Arc<dyn Store>>,
    /// What this process knows of itself.
    pub watch: Arc<Watch>,
    /// What SIGHUP exchanges.
    pub parts: Vec<Part>,
    tasks: Vec<JoinHandle<()>>,
    /// The operators' server, which says that we are stopping until everything else has stopped.
    observed: (JoinHandle<()>, Shutdown),
    shutdown: Shutdown,
    failed: CancellationToken,
}

impl Serving {
    /// Starts both halves, or one. Returns when the listeners are bound; nothing is bound if a setting is wrong.
    pub async fn start(app: &Configured, only: Option<Half>, shutdown: &Shutdown) -> anyhow::Result<Self> {
        let (receives, works) = (only != Some(Half::Worker), only != Some(Half::Receiver));
        if only.is_some() && matches!(app.settings.queue, QueueSettings::Embedded { .. }) {
            return Err(BadConfiguration::usage(
                "--only needs AMQP_URL: with the embedded queue both halves run in one process",
            )
            .into());
        }
        let vault = app.vault()?;
        let desk = app.desk(vault.clone())?;
        let doors = verifiers(app)?;
        // Another key than the database was sealed with stops the start here, before anything binds. Only a database that is
        // away is waited for behind the operators' port.
        let early = if works { store_if_it_answers(app, &vault).await? } else { None };
        if !works {
            app.compare_keys_if_possible(&vault).await?;
        }
        let metrics = metrics::install();
        metrics::start_at_zero(PROVIDERS.iter().map(|provider| provider.name), &Refusal::ALL);
        let readiness = Readiness::new(app.clock.clone());
        let ops_tls = certificate("FINHOOK_OPS_TLS_CERT", app.settings.ops.tls.as_ref())?;
        let ops_bind = app.settings.ops.bind.to_string();
        let ops = server::bind("FINHOOK_OPS_BIND", &ops_bind).await.map_err(BadConfiguration::from_display)?;
        let ops_address = ops.local_addr().context("the ops address")?;
        let starting = Starting::serve((&ops, ops_tls.clone()), &readiness, metrics.clone())
            .context("serve on FINHOOK_OPS_BIND")?;

        let store = match (works, early) {
            (true, None) => Some(store_when_it_answers(app, &vault, &readiness.check("store"), shutdown).await?),
            (_, early) => early,
        };
        if let Some(moving) = store.as_ref().and_then(|store| store.moving())
            && vault.theirs.is_none()
            && moving.has_unmoved_accounts().await.context("look at the accounts")?
        {
            tracing::warn!(
                "there are accounts that the product wrote and events do not find: an event about one makes it a second \
                 time. Give FINHOOK_TYPEORM_KEY, or run `finhook import typeorm`"
            );
        }
        // Only a receiver publishes; a spool that a worker opened would be locked against the receiver beside it.
        let queue = if receives { open_for_receiving(app).await? } else { open_queue(app).await? };
        if receives {
            connected(queue.as_ref(), shutdown).await;
        }
        let failed = CancellationToken::new();
        let (mut tasks, mut parts) = (Vec::new(), Vec::new());

        let watch = Watch::new(app.clock.now());
        let console = console(app, &vault, &desk, store.as_ref(), &queue, &watch, shutdown).await?;
        let gate = Gate::new(&app.settings.ops.tokens, vault.clone(), app.clock.clone());
        parts.push(tokens(gate.clone()));
        let public = if receives {
            let received = receive(app, doors, vault.clone(), queue.clone(), &readiness, shutdown).await?;
            tasks.push(received.task);
            parts.push(proofs(received.doors, vault.clone()));
            Some(received.address)
        } else {
            None
        };
        let mut observer = Observer::new(watch.clone(), queue.clone(), receives, readiness.clone(), app.clock.clone());
        if let Some(store) = &store {
            for rank in (0_u16..).take(app.settings.worker.workers) {
                let size = BatchSize { max: app.settings.worker.batch_max, linger: LINGER };
                let worker = Worker::new(queue.clone(), store.clone(), desk.clone(), size, shutdown.token())
                    .of_rank(rank)
                    .watched_by(watch.clone());
                tasks.push(tokio::spawn(work(worker, shutdown.clone(), failed.clone())));
            }
            let days = i64::from(app.settings.worker.unlinked_days);
            let sweeper = Sweeper::new(store.clone(), desk.clone(), days, shutdown.token())
                .creating_users(app.settings.worker.create_users);
            tasks.push(tokio::spawn(async move { sweeper.run().await }));
            if let Some(exchange) = changes_exchange(app) {
                let teller = Teller::new(store.clone(), exchange, app.clock.clone(), shutdown.token());
                tasks.push(tokio::spawn(async move { teller.run().await }));
            }
            observer = observer.working(store.clone(), vault.clone(), app.settings.worker.stalled_after);
            let retention = Retention {
                payload_days: app.settings.worker.payload_days,
                event_days: app.settings.worker.event_days,
            };
            let keeper = Keeper::new(store.clone(), app.clock.clone(), retention, shutdown.token());
            tasks.push(tokio::spawn(async move { keeper.run().await }));
            tasks.push(tokio::spawn(write_sightings(store.clone(), desk.clone(), shutdown.token())));
        }
        let stop = shutdown.token();
        tasks.push(tokio::spawn(async move { observer.run(stop).await }));
        tasks.push(tokio::spawn(stop_loudly(queue.clone(), shutdown.clone(), failed.clone())));
        let stopping = shutdown.clone();
        readiness.probe("running", move || if stopping.has_begun() { Err("stopping".to_owned()) } else { Ok(()) });
        let keeper = Doorkeeper::new(gate, app.clock.clone());
        let live = live::Live {
            watch: watch.clone(),
            readiness: readiness.clone(),
            keeper: keeper.clone(),
            stop: shutdown.token(),
        };
        let router = ops_api::router(ops_api::OpsState { readiness, metrics })
            .merge(api::router(console, keeper))
            .merge(dashboard::router())
            .merge(live::router(live));
        starting.over().await;
        let ops_stop = Shutdown::new(OPS_GOODBYE);
        let stop = ops_stop.clone();
        let ops = tokio::spawn(async move {
            server::serve(
                Entrance::new(ops, ops_tls),
                router,
                server::ServerLimits { connections: 256, ..Default::default() },
                &stop,
            )
            .await;
        });
        match public {
            Some(public) => tracing::info!(http.address = %public, ops.address = %ops_address, "serving"),
            None => tracing::info!(ops.address = %ops_address, "working"),
        }
        let observed = (ops, ops_stop);
        Ok(Self {
            public,
            ops: ops_address,
            queue,
            store,
            watch,
            parts,
            tasks,
            observed,
            shutdown: shutdown.clone(),
            failed,
        })
    }

    /// Stops: finishes what is in flight, makes confirms, commits and acks arrive, closes. Whether all of it was done by
    /// the deadline and nothing had failed for good.
    pub async fn stop(self) -> bool {
        self.shutdown.begin();
        let finish = async {
            for task in self.tasks {
                // A task that panicked has said so in the log.
                let _ = task.await;
            }
            self.queue.close().await;
            if let Some(store) = &self.store {
                store.close().await;
            }
        };
        let in_time = tokio::select! {
            () = finish => true,
            () = self.shutdown.expired() => false,
        };
        if !in_time {
            tracing::error!("stopped before everything was finished: what was not acked comes again");
        }
        let (ops, ops_stop) = self.observed;
        ops_stop.begin();
        let _ = ops.await;
        in_time && !self.failed.is_cancelled()
    }
}

/// What answers people and the product. A process that only receives asks the database too if there is one to ask: it
/// connects when the first question comes, so that receiving depends on no database.
async fn console(
    app: &Configured,
    vault: &Arc<Vault>,
    desk: &Arc<Desk>,
    store: Option<&Arc<dyn Store>>,
    queue: &Arc<dyn Queue>,
    watch: &Arc<Watch>,
    shutdown: &Shutdown,
) -> anyhow::Result<Arc<Console>> {
    let store = match (store, &app.settings.store) {
        (Some(store), _) => Some(store.clone()),
        (None, StoreSettings::Postgres { .. }) => Some(app.store_as_it_is(vault.clone()).await?),
        (None, StoreSettings::Sqlite { .. }) => None,
    };
    // Embedded, the workers are in this process, and a replay can as well be applied where it is asked for.
    let queue = matches!(app.settings.queue, QueueSettings::RabbitMq(_)).then(|| queue.clone());
    Ok(Console::new(Parts {
        store,
        desk: desk.clone(),
        vault: vault.clone(),
        queue,
        url_keys: app.url_keys()?,
        create_users: app.settings.worker.create_users,
        watch: watch.clone(),
        stop: shutdown.token(),
    }))
}

/// The public port, served.
pub struct Receiving {
    /// Where it listens.
    pub address: SocketAddr,
    /// Ends when it has served everything.
    pub task: JoinHandle<()>,
    /// What proves deliveries there.
    pub doors: Doors,
}

/// Binds the public port and serves webhooks on it. Tests call this and step a worker of their own.
pub async fn receive(
    app: &Configured,
    doors: Vec<Proving>,
    vault: Arc<Vault>,
    queue: Arc<dyn Queue>,
    readiness: &Readiness,
    shutdown: &Shutdown,
) -> anyhow::Result<Receiving> {
    let http = &app.settings.http;
    let tls = certificate("FINHOOK_HTTP_TLS_CERT", http.tls.as_ref())?;
    let bind = http.bind.to_string();
    let listener = server::bind("FINHOOK_HTTP_BIND", &bind).await.map_err(BadConfiguration::from_display)?;
    let address = listener.local_addr().context("the public address")?;
    let accepting = queue.clone();
    readiness.probe("queue", move || accepting.accepts().map_err(|error| error.to_string()));
    let usual = webhooks::RoomLimits::default();
    let room = webhooks::RoomLimits {
        deliveries: http.max_in_flight,
        delivery_bytes: http.max_in_flight_bytes,
        // Or the largest body would never be taken.
        arriving_bytes: usual.arriving_bytes.max(http.max_body_bytes),
        ..usual
    };
    let trusted_proxies = http.trusted_proxies.clone();
    let limits =
        webhooks::WebhookLimits { body_bytes: http.max_body_bytes, room, trusted_proxies, ..Default::default() };
    let receiver = Receiver::new(doors, vault, queue, app.clock.clone());
    let doors = receiver.doors();
    let webhooks = webhooks::Webhooks::new(receiver, limits);
    // Each is an open file; those that the system does not allow would fail one by one and not be told 503.
    let connections = limits::connections(http.max_connections, limits::raise_open_files());
    if connections < http.max_connections {
        tracing::warn!(
            connections.limit = connections,
            "FINHOOK_MAX_CONNECTIONS is more than the limit of open files (ulimit -Hn) has room for"
        );
    }
    let limits = server::ServerLimits { connections, ..Default::default() };
    let stop = shutdown.clone();
    let task = tokio::spawn(async move {
        server::serve(Entrance::new(listener, tls), webhooks.router(), limits, &stop).await;
        webhooks.settled().await;
    });
    Ok(Receiving { address, task, doors })
}

/// Who may use the operators' port, as SIGHUP exchanges them.
fn tokens(gate: Arc<Gate>) -> Part {
    let make = move |app: &Configured| {
        let (gate, tokens) = (gate.clone(), app.settings.ops.tokens.clone());
        Ok(Box::new(move || gate.trust(&tokens)) as Takeover)
    };
    Part { settings: vec!["FINHOOK_OPS_TOKENS"], make: Box::new(make) }
}

/// The providers' proofs, as SIGHUP exchanges them.
fn proofs(doors: Doors, vault: Arc<Vault>) -> Part {
    let make = move |app: &Configured| {
        let (proving, doors, vault) = (verifiers(app)?, doors.clone(), vault.clone());
        Ok(Box::new(move || doors.replace(proving, &vault)) as Takeover)
    };
    Part { settings: reload::of_proofs(), make: Box::new(make) }
}

/// The certificate of a bind, if it has one.
fn certificate(variable: &str, files: Option<&TlsFiles>) -> Result<Option<Arc<Tls>>, BadConfiguration> {
    let load = |files: &TlsFiles| {
        let unusable = |error| BadConfiguration::usage(format!("{variable}: {error}"));
        Tls::load(files.clone()).map(Arc::new).map_err(unusable)
    };
    files.map(load).transpose()
}

/// Runs a worker until the stop. One that panics is started again; one that the broker turns away for good ends the process.
async fn work(worker: Worker, shutdown: Shutdown, failed: CancellationToken) {
    let worker = Arc::new(worker);
    while !shutdown.has_begun() {
        let running = worker.clone();
        match tokio::spawn(async move { running.run().await }).await {
            Ok(Ok(())) => {}
            Ok(Err(QueueError::Fatal(sentence))) => {
                tracing::error!(why = %sentence, "the broker turns the worker away: stopping");
                failed.cancel();
                shutdown.begin();
            }
            Ok(Err(error)) => tracing::warn!(error = %error, "the worker ended; starting it again"),
            Err(_) => tracing::error!("a worker panicked; what it held comes again"),
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
            () = shutdown.begun() => {}
        }
    }
}

/// Ends the process when the broker says what no reconnect mends.
async fn stop_loudly(queue: Arc<dyn Queue>, shutdown: Shutdown, failed: CancellationToken) {
    tokio::select! {
        sentence = queue.stopped() => {
            tracing::error!(why = %sentence, "the broker says what no reconnect mends: stopping");
            failed.cancel();
            shutdown.begin();
        }
        () = shutdown.begun() => {}
    }
}

/// Writes under which keys deliveries came, now and then and once more at the end.
async fn write_sightings(store: Arc<dyn Store>, desk: Arc<Desk>, stop: CancellationToken) {
    loop {
        let last = tokio::select! {
            () = tokio::time::sleep(WRITE_EVERY) => false,
            () = stop.cancelled() => true,
        };
        if let Err(error) = desk.sightings().write(store.keys()).await {
            tracing::debug!(error = %error, "under which keys deliveries came is written later");
        }
        if last {
            return;
        }
    }
}

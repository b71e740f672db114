//! What the settings name, opened: the queue, the store, the providers' doors.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use super::app::{BadConfiguration, Configured};
use crate::config::{self, QueueSettings, StoreSettings};
use crate::ops::delays::Delays;
use crate::ops::readiness::Check;
use crate::ops::shutdown::Shutdown;
use crate::pipeline::receive::Proving;
use crate::providers::PROVIDERS;
use crate::providers::addresses::Addresses;
use crate::queue::Queue;
use crate::queue::changes::ChangesExchange;
use crate::queue::embedded::{Embedded, EmbeddedSettings};
use crate::queue::rabbitmq::{Management, RabbitChanges, RabbitMq, RabbitMqSettings};
use crate::queue::spool::{self, Spool, SpoolSettings};
use crate::store::{Store, StoreError, Vault};

/// How long a start waits for the broker before it serves without it.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
/// How often it looks meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How long a database has to answer before the operators' port says that it is waited for.
const EARLY_PATIENCE: Duration = Duration::from_secs(2);

/// Waits a moment for the broker, so that whoever sees us serve does not meet a 503 first. One that stays away is not
/// waited for: its deliveries get 503, or go to the spool, until it is there.
pub(super) async fn connected(queue: &dyn Queue, shutdown: &Shutdown) {
    let patience = tokio::time::sleep(CONNECT_PATIENCE);
    tokio::pin!(patience);
    while queue.accepts().is_err() {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = &mut patience => {
                tracing::warn!("the broker is not there yet: deliveries cannot be taken until it is");
                return;
            }
            () = shutdown.begun() => return,
        }
    }
}

/// The store. A server that is away at the start is waited for, like one that goes away later: whoever starts everything at
/// once after a power cut must not have to start the workers again.
pub(super) async fn store_when_it_answers(
    app: &Configured,
    vault: &Arc<Vault>,
    check: &Check,
    shutdown: &Shutdown,
) -> anyhow::Result<Arc<dyn Store>> {
    let mut delays = Delays::new(Duration::from_millis(100), Duration::from_secs(3));
    loop {
        let error = match store_of_a_worker(app, vault).await {
            Err(error) if matches!(app.settings.store, StoreSettings::Postgres { .. }) => error,
            other => return other,
        };
        if !error.downcast_ref::<StoreError>().is_some_and(StoreError::is_transient) {
            return Err(error);
        }
        check.failed("the database does not answer yet");
        tracing::warn!(error = %format!("{error:#}"), "the database does not answer yet; waiting for it");
        tokio::select! {
            () = tokio::time::sleep(delays.after_failure()) => {}
            () = shutdown.begun() => return Err(error),
        }
    }
}

/// The store, if the database answers now; `None` if it is a server that is away.
pub(super) async fn store_if_it_answers(
    app: &Configured,
    vault: &Arc<Vault>,
) -> anyhow::Result<Option<Arc<dyn Store>>> {
    if matches!(app.settings.store, StoreSettings::Sqlite { .. }) {
        return store_of_a_worker(app, vault).await.map(Some);
    }
    match tokio::time::timeout(EARLY_PATIENCE, store_of_a_worker(app, vault)).await {
        Ok(Ok(store)) => Ok(Some(store)),
        Ok(Err(error)) if !error.downcast_ref::<StoreError>().is_some_and(StoreError::is_transient) => Err(error),
        _ => Ok(None),
    }
}

/// The store, and in it since when this ring's primary seals.
async fn store_of_a_worker(app: &Configured, vault: &Arc<Vault>) -> anyhow::Result<Arc<dyn Store>> {
    let store = app.store(vault.clone()).await?;
    store.keys().note_primary(vault.ring.primary()).await.context("note the primary key")?;
    Ok(store)
}

/// Every provider's door.
pub fn verifiers(app: &Configured) -> Result<Vec<Proving>, BadConfiguration> {
    let setup = app.setup()?;
    PROVIDERS
        .iter()
        .map(|provider| {
            let verifier = (provider.verifier)(&setup)?;
            if verifier.is_none() {
                tracing::info!(provider.name = %provider.name, "no secret configured: its deliveries get 503");
            }
            Ok(Proving { provider, verifier, allow_from: Addresses::read(provider, app.values())? })
        })
        .collect()
}

/// What a receiver publishes to: the queue, with the spool before it if there is one.
pub(super) async fn open_for_receiving(app: &Configured) -> anyhow::Result<Arc<dyn Queue>> {
    let queue = open_queue(app).await?;
    Ok(match spool(app) {
        Some(spool) => Spool::open(queue, spool).await.map_err(BadConfiguration::from_display)?,
        None => queue,
    })
}

/// The settings of the spool, if there is one.
pub fn spool(app: &Configured) -> Option<SpoolSettings> {
    let QueueSettings::RabbitMq(rabbit) = &app.settings.queue else { return None };
    rabbit.spool.as_ref().map(|spool| SpoolSettings {
        path: spool.path.clone(),
        max_bytes: spool.max_bytes,
        max_in_flight: app.settings.http.max_in_flight,
        providers: providers(),
        patience: rabbit.confirm_timeout.min(spool::PATIENCE),
    })
}

/// Whose queues there are.
pub fn providers() -> Vec<&'static str> {
    PROVIDERS.iter().map(|provider| provider.name.as_str()).collect()
}

/// The queue that the settings name. A broker that is away is waited for in the background.
pub async fn open_queue(app: &Configured) -> anyhow::Result<Arc<dyn Queue>> {
    let max_in_flight = app.settings.http.max_in_flight;
    Ok(match &app.settings.queue {
        QueueSettings::RabbitMq(rabbit) => RabbitMq::connect(broker(app, rabbit)?),
        QueueSettings::Embedded { path, .. } => {
            let settings =
                EmbeddedSettings { path: path.clone(), max_bytes: None, max_in_flight, providers: providers() };
            Embedded::open(settings).await.context("open the embedded queue")?
        }
    })
}

/// Where changed rows are told, if anywhere.
pub(super) fn changes_exchange(app: &Configured) -> Option<Arc<dyn ChangesExchange>> {
    let (QueueSettings::RabbitMq(rabbit), Some(exchange)) = (&app.settings.queue, &app.settings.changes.exchange)
    else {
        return None;
    };
    Some(Arc::new(RabbitChanges::new(rabbit.url.clone(), exchange.clone())))
}

/// How to reach the broker, and what is ours there.
pub fn broker(app: &Configured, rabbit: &config::RabbitMqSettings) -> Result<RabbitMqSettings, BadConfiguration> {
    let management = rabbit.management.as_ref().map(|url| Management::new(url, &rabbit.url, &rabbit.prefix));
    Ok(RabbitMqSettings {
        url: rabbit.url.clone(),
        prefix: rabbit.prefix.clone(),
        providers: providers(),
        confirm_timeout: rabbit.confirm_timeout,
        // What the spool forwards takes no room from what senders wait for.
        max_in_flight: app.settings.http.max_in_flight + rabbit.spool.as_ref().map_or(0, |_| spool::FORWARDED_AT_ONCE),
        management: management.transpose().map_err(BadConfiguration::usage)?.map(Arc::new),
    })
}

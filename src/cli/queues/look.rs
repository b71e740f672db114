//! One look from outside a running finhook: the broker or the queue file, the spool's file, and the tables.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::time::timeout;

use crate::cli::app::Configured;
use crate::cli::opening::{broker, providers, spool};
use crate::config::{QueueSettings, StoreSettings};
use crate::domain::Timestamp;
use crate::pipeline::observe;
use crate::pipeline::watch::QueueNow;
use crate::queue::embedded::Embedded;
use crate::queue::rabbitmq::RabbitMq;
use crate::queue::spool::Spool;
use crate::queue::{Depth, Queue};
use crate::store::{Pending, Progress, Store, StoreError};

/// How long the broker may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long the tables may take: the queues are shown without them.
const STORE_PATIENCE: Duration = Duration::from_secs(5);

/// What was seen.
pub(super) struct Look {
    pub(super) at: Timestamp,
    pub(super) queues: Vec<QueueNow>,
    /// What could not be asked, a sentence each.
    pub(super) left_out: Vec<String>,
}

impl Look {
    /// Nothing was seen, and why.
    pub(super) fn failed(at: Timestamp, error: &anyhow::Error) -> Self {
        Self { at, queues: Vec::new(), left_out: vec![format!("{error:#}")] }
    }
}

/// Looks, as often as wanted, over the same connections.
pub(super) struct Looker {
    app: Configured,
    broker: Option<Arc<RabbitMq>>,
    store: Option<Arc<dyn Store>>,
}

impl Looker {
    pub(super) async fn new(app: Configured) -> anyhow::Result<Self> {
        let broker = match &app.settings.queue {
            QueueSettings::RabbitMq(rabbit) => Some(RabbitMq::connect(broker(&app, rabbit)?)),
            QueueSettings::Embedded { .. } => None,
        };
        Ok(Self { app, broker, store: None })
    }

    pub(super) fn now(&self) -> Timestamp {
        self.app.clock.now()
    }

    /// Fails if the queues themselves cannot be asked; what goes with them may be left out.
    pub(super) async fn look(&mut self) -> anyhow::Result<Look> {
        let mut left_out = Vec::new();
        let mut depths = self.depths().await?;
        if let Some(settings) = spool(&self.app) {
            match Spool::depth(&settings).await {
                Ok(depth) => depths.extend(depth),
                Err(error) => left_out.push(format!("the spool is left out: {error}")),
            }
        }
        let tables = self.tables().await.unwrap_or_else(|why| {
            left_out.push(format!("lag and retrying events are left out: {why}"));
            None
        });
        let now = self.now();
        let (pending, progress) = tables.unzip();
        let newest: BTreeMap<_, _> = progress.unwrap_or_default().into_iter().collect();
        let mut queues = observe::queues(&depths, &newest, |_| None, now);
        queues.extend(pending.and_then(|rows| observe::retrying(&observe::pending(&rows, now), None)));
        Ok(Look { at: now, queues, left_out })
    }

    async fn depths(&self) -> anyhow::Result<Vec<Depth>> {
        match (&self.broker, &self.app.settings.queue) {
            (Some(queue), _) => tokio::select! {
                depths = async { queue.ready(PATIENCE).await?; queue.depths().await } => depths.context("ask the broker"),
                sentence = queue.stopped() => Err(anyhow!(sentence).context("ask the broker")),
            },
            // Its file is one process's to open, and anybody's to look at.
            (None, QueueSettings::Embedded { path, .. }) => {
                Embedded::look(path, &providers()).await.context("look at the embedded queue")
            }
            (None, QueueSettings::RabbitMq(_)) => Ok(Vec::new()),
        }
    }

    /// What waits in the tables, and how far the queues are worked off; nothing where there are no tables yet; else why not.
    async fn tables(&mut self) -> Result<Option<(Vec<Pending>, Vec<Progress>)>, String> {
        if matches!(&self.app.settings.store, StoreSettings::Sqlite { path } if !path.exists()) {
            return Ok(None);
        }
        let asked = async {
            let store = match &self.store {
                Some(store) => store.clone(),
                None => {
                    let vault = self.app.vault().map_err(|error| error.to_string())?;
                    let store = self.app.store_as_it_is(vault).await.map_err(|error| format!("{error:#}"))?;
                    let migrations = store.migrations().await.map_err(|error| error.to_string())?;
                    if migrations.iter().any(|migration| !migration.applied) {
                        store.close().await;
                        return Err(
                            "the database lacks migrations of this version; run `finhook migrate up`".to_owned()
                        );
                    }
                    self.store.insert(store).clone()
                }
            };
            let words = |error: StoreError| error.to_string();
            Ok(Some((store.pending().await.map_err(words)?, store.progress(&[]).await.map_err(words)?)))
        };
        timeout(STORE_PATIENCE, asked).await.unwrap_or_else(|_| Err("the database does not answer".to_owned()))
    }

    pub(super) async fn close(self) {
        if let Some(queue) = self.broker {
            queue.close().await;
        }
        if let Some(store) = self.store {
            store.close().await;
        }
    }
}

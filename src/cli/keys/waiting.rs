//! What waits in queues and in the spool of this place, and under which keys where they can be looked into.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;

use crate::cli::app::Configured;
use crate::cli::opening::{broker, spool};
use crate::config::QueueSettings;
use crate::pipeline::retire::Waiting;
use crate::pipeline::rotate::ByKey;
use crate::providers;
use crate::queue::Queue;
use crate::queue::embedded::{StoredKeys, stored_keys};
use crate::queue::rabbitmq::RabbitMq;
use crate::queue::spool::Spool;

/// How long the broker may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Looks at all of them.
pub async fn look(app: &Configured) -> anyhow::Result<Vec<Waiting>> {
    let QueueSettings::RabbitMq(rabbit) = &app.settings.queue else {
        let QueueSettings::Embedded { path, .. } = &app.settings.queue else { return Ok(Vec::new()) };
        return Ok(looked_into(stored_keys(path).await.context("look at the embedded queue")?));
    };
    let queue = RabbitMq::connect(broker(app, rabbit)?);
    let depths = async {
        queue.ready(PATIENCE).await?;
        anyhow::Ok(queue.depths().await?)
    };
    let depths = tokio::select! {
        depths = depths => depths,
        sentence = queue.stopped() => Err(anyhow::anyhow!(sentence)),
    };
    queue.close().await;
    let mut waiting: Vec<Waiting> = depths
        .context("ask the broker")?
        .into_iter()
        .map(|depth| Waiting {
            in_order: depth.queue.rsplit('.').next().is_some_and(|name| providers::find(name).is_some()),
            count: depth.ready + depth.unacked.unwrap_or(0),
            queue: depth.queue,
            under: None,
        })
        .collect();
    if let Some(settings) = spool(app) {
        let stored = Spool::stored_keys(&settings).await.context("look at the spool")?;
        let mut under = ByKey::new();
        stored.into_iter().for_each(|((_, key), count)| *under.entry(key).or_default() += count);
        waiting.push(Waiting {
            queue: "spool".to_owned(),
            count: under.values().sum(),
            under: Some(under),
            in_order: false,
        });
    }
    Ok(waiting)
}

fn looked_into(stored: StoredKeys) -> Vec<Waiting> {
    let mut queues: BTreeMap<String, ByKey> = BTreeMap::new();
    for ((queue, key), count) in stored {
        *queues.entry(queue).or_default().entry(key).or_default() += count;
    }
    let waiting = |(queue, under): (String, ByKey)| Waiting {
        queue,
        count: under.values().sum(),
        under: Some(under),
        in_order: false,
    };
    queues.into_iter().map(waiting).collect()
}

//! `finhook queues`: how many deliveries wait, in each queue.

use std::time::Duration;

use anyhow::Context;
use serde::Serialize;

use super::app::App;
use super::serving::broker;
use super::{Done, output};
use crate::config::QueueSettings;
use crate::queue::embedded::Embedded;
use crate::queue::rabbitmq::RabbitMq;
use crate::queue::{Depth, Queue};

/// How long the broker may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Arguments of `finhook queues`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// One JSON object per queue
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Line {
    queue: String,
    ready: u64,
    consumers: Option<u64>,
}

/// Shows the depths.
pub async fn run(args: Args, app: App) -> anyhow::Result<Done> {
    let app = app.configured()?;
    let depths = match &app.settings.queue {
        // Its file is one process's to open, and anybody's to look at.
        QueueSettings::Embedded { path, .. } => Embedded::look(path).await.context("look at the embedded queue")?,
        QueueSettings::RabbitMq(rabbit) => {
            let queue = RabbitMq::connect(broker(&app, rabbit)?);
            let depths = tokio::select! {
                depths = depths(&queue) => depths,
                sentence = queue.stopped() => Err(anyhow::anyhow!(sentence)),
            };
            queue.close().await;
            depths.context("ask the broker")?
        }
    };
    let lines =
        depths.into_iter().map(|depth| Line { queue: depth.queue, ready: depth.ready, consumers: depth.consumers });
    if args.json {
        lines.into_iter().try_for_each(|line| output::json_line(&line))?;
        return Ok(Done::Yes);
    }
    let rows = lines.map(|line| {
        let consumers = line.consumers.map_or(String::new(), |consumers| consumers.to_string());
        vec![line.queue, line.ready.to_string(), consumers]
    });
    output::table(&["queue", "waiting", "consumers"], rows)?;
    Ok(Done::Yes)
}

async fn depths(queue: &RabbitMq) -> anyhow::Result<Vec<Depth>> {
    queue.ready(PATIENCE).await?;
    Ok(queue.depths().await?)
}

//! `finhook serve`: receives webhooks and turns them into rows, both halves or one.

use std::num::NonZero;
use std::time::Duration;

use anyhow::Context;

use super::app::{App, BadConfiguration};
use super::serving::{Half, Serving};
use super::{Done, reload};
use crate::ops::shutdown::Shutdown;
use crate::ops::{limits, spans};

/// How long the last spans may take to be exported when everything else has stopped.
const LAST_SPANS: Duration = Duration::from_secs(3);

/// Arguments of `finhook serve`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Without DATABASE_URL and AMQP_URL both halves run in this process on ./finhook-data.\n\
                        At scale run as many receivers and workers as wanted on one RabbitMQ and one PostgreSQL.\n\
                        Example: finhook serve --only receiver")]
pub struct Args {
    /// Run one half only
    #[arg(long, value_name = "HALF")]
    only: Option<Half>,
}

impl Args {
    /// How many threads run tasks, where that should not be one for each core: a receiver's connection to the broker has a
    /// thread of its own beside them, and threads that take turns on a core cost more than they do.
    pub fn threads(&self) -> Option<usize> {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        (self.only == Some(Half::Receiver)).then(|| cores.saturating_sub(1).max(1))
    }
}

/// Serves until SIGTERM or SIGINT; SIGHUP has it read its configuration again.
pub async fn run(args: Args, app: App) -> anyhow::Result<Done> {
    let app = app.configured()?;
    app.start_log()?;
    let spans = spans::start(app.settings.traces.as_ref()).map_err(|error| {
        BadConfiguration::from(app.values().error("OTEL_EXPORTER_OTLP_ENDPOINT", error.to_string()))
    })?;
    limits::raise_open_files();
    let hangups = reload::listen().context("listen to signals")?;
    let shutdown = Shutdown::new(app.settings.shutdown_timeout);
    shutdown.obey_signals().context("listen to signals")?;
    let serving = match Serving::start(&app, args.only, &shutdown).await {
        // Told to stop while it waited for the database: nothing was begun that would have to be finished.
        Err(_) if shutdown.has_begun() => return Ok(Done::Yes),
        started => started?,
    };
    reload::obey(hangups, &app, &serving.parts, &shutdown).await;
    shutdown.begun().await;
    tracing::info!("stopping: finishing what is in flight");
    let stopped = serving.stop().await;
    if !spans.finish(LAST_SPANS).await {
        tracing::warn!("the last spans were not exported: the collector did not take them in time");
    }
    Ok(if stopped { Done::Yes } else { Done::No })
}

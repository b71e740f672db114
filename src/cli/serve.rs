//! `finhook serve`: receives webhooks and turns them into rows, both halves or one.

use anyhow::Context;

use super::Done;
use super::app::{App, BadConfiguration};
use super::serving::{Half, Serving};
use crate::ops::shutdown::Shutdown;
use crate::ops::{limits, telemetry};
use crate::queue;

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

/// Serves until SIGTERM or SIGINT.
pub async fn run(args: Args, app: App) -> anyhow::Result<Done> {
    let app = app.configured()?;
    telemetry::init(&app.settings.log.filter, app.settings.log.format, queue::SILENT_LOG_TARGETS)
        .map_err(|error| BadConfiguration::from(app.values().error("FINHOOK_LOG", error.to_string())))?;
    limits::raise_open_files();
    let shutdown = Shutdown::new(app.settings.shutdown_timeout);
    shutdown.obey_signals().context("listen to signals")?;
    let serving = Serving::start(&app, args.only, &shutdown).await?;
    shutdown.begun().await;
    tracing::info!("stopping: finishing what is in flight");
    Ok(if serving.stop().await { Done::Yes } else { Done::No })
}

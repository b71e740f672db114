//! `finhook queues`: how much waits in each queue, retrying events and the spool included; once, or again and again.
//!
//! What can be asked from outside is: the broker (with its management API also for what is held and for rates), the queue
//! file, the spool's file, and the tables for lag and retries. Where next: `look.rs`, then `screen.rs` for a terminal.

mod look;
mod screen;

use std::io::IsTerminal;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;

use self::look::{Look, Looker};
use super::app::{App, BadConfiguration};
use super::{Done, output};
use crate::domain::Timestamp;
use crate::ops::shutdown::Shutdown;
use crate::pipeline::watch::QueueNow;

/// Arguments of `finhook queues`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "READY waits; UNACKED is held by a worker; LAG is how long ago the newest delivery that was worked off \
                        had been received. A dash is what nobody says: unacked and rates need FINHOOK_RABBITMQ_MANAGEMENT_URL, \
                        or /metrics of the running finhook where the queue is embedded.\n\
                        Examples:\n  finhook queues --watch\n  finhook queues --json | jq -r 'select(.ready > 1000) | .queue'"
)]
pub struct Args {
    /// Look again and again, until q or Ctrl-C; on a terminal with the course of each queue
    #[arg(long)]
    watch: bool,
    /// How often with --watch
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = humantime::parse_duration)]
    every: Duration,
    /// One JSON object per queue, on one line each
    #[arg(long)]
    json: bool,
}

/// One queue, as a machine reads it.
#[derive(Serialize)]
struct Line<'a> {
    at: String,
    #[serde(flatten)]
    queue: &'a QueueNow,
}

/// Shows the queues.
pub async fn run(args: Args, app: App) -> anyhow::Result<Done> {
    if args.every < Duration::from_millis(100) {
        return Err(BadConfiguration::usage("--every takes 100ms or more").into());
    }
    let mut looker = Looker::new(app.configured()?).await?;
    let done = if args.watch { watch(&args, &mut looker).await } else { once(&args, &mut looker).await };
    looker.close().await;
    done
}

async fn once(args: &Args, looker: &mut Looker) -> anyhow::Result<Done> {
    let look = looker.look().await?;
    for trouble in &look.left_out {
        eprintln!("finhook: {trouble}");
    }
    if args.json {
        print_json(&look)?;
    } else {
        output::table(&HEADER, look.queues.iter().map(|queue| cells(queue).into()))?;
    }
    Ok(Done::Yes)
}

async fn watch(args: &Args, looker: &mut Looker) -> anyhow::Result<Done> {
    if !args.json && std::io::stdout().is_terminal() {
        return screen::watch(looker, args.every).await;
    }
    let mut ticks = tokio::time::interval(args.every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let stop = stop()?;
    let mut said = Vec::new();
    loop {
        let looked = tokio::select! {
            looked = async { ticks.tick().await; looker.look().await } => looked,
            () = stop.begun() => return Ok(Done::Yes),
        };
        // Whatever is away may come back: that is what watching is for.
        let look = looked.unwrap_or_else(|error| Look::failed(looker.now(), &error));
        if said != look.left_out {
            look.left_out.iter().for_each(|trouble| eprintln!("finhook: {trouble}"));
            said.clone_from(&look.left_out);
        }
        let printed = if args.json { print_json(&look)? } else { print_lines(&look)? };
        if !printed {
            return Ok(Done::Yes);
        }
    }
}

/// Begins with Ctrl-C or SIGTERM, also with one that comes while something is printed.
fn stop() -> anyhow::Result<Shutdown> {
    let stop = Shutdown::new(Duration::ZERO);
    stop.obey_signals().context("listen to signals")?;
    Ok(stop)
}

fn print_json(look: &Look) -> anyhow::Result<bool> {
    for queue in &look.queues {
        let line = serde_json::to_string(&Line { at: look.at.to_string(), queue })?;
        if !output::still_read(&line)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// One line a queue, each of which says when: for a log or a pipe.
fn print_lines(look: &Look) -> anyhow::Result<bool> {
    let width = look.queues.iter().map(|queue| queue.queue.len()).max().unwrap_or(0);
    for queue in &look.queues {
        let [name, rest @ ..] = cells(queue);
        let mut line = format!("{}  {name:width$}", seconds(look.at));
        for (header, cell) in HEADER.iter().skip(1).zip(rest) {
            line.push_str(&format!("  {header} {cell}"));
        }
        if !output::still_read(&line)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The time without its fraction.
fn seconds(at: Timestamp) -> Timestamp {
    at.plus_micros(-at.micros().rem_euclid(1_000_000))
}

const HEADER: [&str; 7] = ["queue", "ready", "unacked", "consumers", "in/s", "out/s", "lag"];

/// A queue in the columns of [`HEADER`].
fn cells(queue: &QueueNow) -> [String; HEADER.len()] {
    let number = |number: Option<u64>| number.map_or("-".to_owned(), |number| number.to_string());
    let rate = |rate: Option<f64>| rate.map_or("-".to_owned(), |rate| format!("{rate:.1}"));
    [
        output::plain(&queue.queue),
        queue.ready.to_string(),
        number(queue.unacked),
        number(queue.consumers),
        rate(queue.in_per_second),
        rate(queue.out_per_second),
        queue.lag_seconds.map_or("-".to_owned(), lag),
    ]
}

/// A lag as a person reads it: the two largest units.
fn lag(seconds: f64) -> String {
    let whole = Duration::from_secs(seconds.max(0.0) as u64);
    let text = humantime::format_duration(whole).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn queue(name: &str, ready: u64) -> QueueNow {
        QueueNow {
            queue: name.into(),
            ready,
            unacked: Some(2),
            consumers: None,
            in_per_second: Some(3.25),
            out_per_second: None,
            lag_seconds: Some(93_784.0),
        }
    }

    #[test]
    fn a_queue_is_shown_in_columns_with_a_dash_for_what_nobody_says() {
        assert_eq!(cells(&queue("finhook.unit", 7)), ["finhook.unit", "7", "2", "-", "3.2", "-", "1day 2h"]);
    }

    #[test]
    fn a_lag_has_two_units_at_most() {
        assert_eq!([0.0, 0.9, 61.0, 3_600.0].map(lag), ["0s", "0s", "1m 1s", "1h"]);
    }
}

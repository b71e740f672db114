//! `finhook keys rotate`: seals everything in the tables anew under the first key, and shows how far it is.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use tokio_util::sync::CancellationToken;

use crate::cli::app::App;
use crate::cli::{Done, audit, output};
use crate::pipeline::rotate::{Progress, Rotated, Rotation};
use crate::store::audit::{About, Act};

/// Without a terminal, how often a line says how far it is.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// Arguments of `finhook keys rotate`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// At most so many values a second
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Why; kept in the audit trail
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// One JSON object per step, the last one as the summary
    #[arg(long)]
    json: bool,
}

/// Rotates.
pub async fn run(args: Args, app: App) -> anyhow::Result<Done> {
    let app = app.configured()?;
    app.start_log()?;
    let vault = app.vault()?;
    let primary = vault.ring.primary();
    let store = app.store(vault.clone()).await?;
    let about = About::Thing(format!("key {primary}"));
    audit::write(store.as_ref(), &audit::entry(Act::RotateKeys).about(about).because(args.reason)).await?;
    store.keys().note_primary(primary).await.context("note the primary key")?;
    let stop = CancellationToken::new();
    let interrupted = stop.clone();
    tokio::spawn(async move {
        // The batch that is on its way is finished; a second Ctrl-C ends the process, which loses nothing either.
        if tokio::signal::ctrl_c().await.is_ok() {
            interrupted.cancel();
            if tokio::signal::ctrl_c().await.is_ok() {
                std::process::exit(130);
            }
        }
    });
    let teller = Teller::new(args.json);
    let rotation = Rotation::new(store.clone(), vault, args.rate, stop);
    let rotated = rotation.run(&|progress| teller.tell(progress)).await;
    teller.bar.finish_and_clear();
    store.close().await;
    let rotated = rotated.context("rotate; what is done stays done: run it again")?;
    let left = rotated.survey.elsewhere(primary);
    summary(&rotated, primary, left, args.json)?;
    Ok(if left == 0 { Done::Yes } else { Done::No })
}

fn summary(rotated: &Rotated, primary: u32, left: u64, json: bool) -> anyhow::Result<()> {
    let Rotated { resealed, survey, stopped } = rotated;
    let columns =
        survey.columns.iter().map(|(shelf, by_key)| (format!("{}.{}", shelf.table(), shelf.column()), by_key));
    let counted = columns.chain([("kept delivery".to_owned(), &survey.kept)]);
    let lines: Vec<(String, Option<u32>, u64)> = counted
        .flat_map(|(what, by_key)| by_key.iter().map(move |(key, count)| (what.clone(), *key, *count)))
        .filter(|(_, key, _)| *key != Some(primary))
        .collect();
    if json {
        let left: Vec<_> = lines
            .iter()
            .map(|(what, key, count)| serde_json::json!({ "what": what, "key": key, "count": count }))
            .collect();
        return output::json_line(
            &serde_json::json!({ "resealed": resealed, "primary": primary, "left": left, "interrupted": stopped }),
        );
    }
    output::line(&format!("{resealed} value(s) sealed anew under key {primary}, {left} left under others"))?;
    for (what, key, count) in lines {
        let key = key.map_or("no key that this version knows".to_owned(), |key| format!("key {key}"));
        output::line(&format!("  {count} × {what} under {key}"))?;
    }
    if *stopped {
        eprintln!("finhook: interrupted; run it again to go on");
    } else if left > 0 {
        eprintln!(
            "finhook: what is left does not open with FINHOOK_KEYS, or a worker still seals with another key: \
             `finhook keys status` shows which"
        );
    }
    Ok(())
}

/// Tells a person or a program how far it is.
struct Teller {
    bar: ProgressBar,
    json: bool,
    said: Mutex<Option<Instant>>,
    began: Instant,
}

impl Teller {
    fn new(json: bool) -> Self {
        let bar = if output::draws_progress() && !json { ProgressBar::new(0) } else { ProgressBar::hidden() };
        // Falls back to the bar's own style, should a later version of the library read the template otherwise.
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {per_sec} {eta}") {
            bar.set_style(style);
        }
        Self { bar, json, said: Mutex::new(None), began: Instant::now() }
    }

    fn tell(&self, Progress { resealed, of }: Progress) {
        self.bar.set_length(of.max(resealed));
        self.bar.set_position(resealed);
        if std::io::stderr().is_terminal() && !self.json {
            return;
        }
        let mut said = self.said.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if said.is_some_and(|at| at.elapsed() < SAY_EVERY) {
            return;
        }
        *said = Some(Instant::now());
        drop(said);
        let seconds = self.began.elapsed().as_secs();
        if self.json {
            // A reader that went away is told by the last line.
            let _ = output::json_line(&serde_json::json!({ "resealed": resealed, "of": of, "seconds": seconds }));
        } else {
            eprintln!("{resealed} of {of} value(s) sealed anew after {seconds} s");
        }
    }
}

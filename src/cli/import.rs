//! `finhook import typeorm`: moves the product's own tables in, whose columns typeorm-encrypted wrote.
//!
//! Every run begins with a look at all rows, and writes nothing if a value does not open. What was written is found again by
//! its form, so a run that was killed is simply started again.

use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Subcommand;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::app::{App, BadConfiguration, Configured};
use super::link::read_secret;
use super::{Done, audit, output};
use crate::domain::WallClock;
use crate::pipeline::moving::{Report, Reverter, Sealer};
use crate::store::audit::Act;
use crate::store::moving::{MoveCounts, Mover, Moving};
use crate::store::{Store, StoreError, Vault};

/// How many subjects one transaction takes.
const PAGE: u32 = 200;
/// How often a subject's locks are waited for in vain before the run ends.
const TRIES: u32 = 5;
/// How many rows are named on a terminal; `--json` names more.
const SHOWN: usize = 20;

/// Arguments of `finhook import`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Seal anew what typeorm-encrypted wrote into user, integration and account
    #[command(
        long_about = "Seals anew what typeorm-encrypted wrote into integration.authorization_id, account.external_id and \
                      account.baas_id, and gives every account its blind index. Receivers and workers may run meanwhile. \
                      What was there is kept until --finish; until then --revert puts it back.",
        after_help = "In this order:\n  \
                      finhook migrate up\n  \
                      finhook import typeorm --key-file key.hex --dry-run\n  \
                      finhook import typeorm --key-file key.hex [--merge-duplicates]\n  \
                      finhook import typeorm --key-file key.hex --finish\n\
                      Without --key-file the key is FINHOOK_TYPEORM_KEY, which receivers and workers need too until the end."
    )]
    Typeorm(Typeorm),
}

#[derive(Debug, clap::Args)]
struct Typeorm {
    /// File with the key as typeorm-encrypted has it (64 hex digits), `-` for standard input: never on the command line
    #[arg(long, value_name = "FILE")]
    key_file: Option<String>,
    /// The IV (32 hex digits), where it is fixed and not in front of the values
    #[arg(long, value_name = "HEX")]
    iv: Option<String>,
    /// How the values are written: base64 (as typeorm-encrypted does) or hex
    #[arg(long, value_name = "ENCODING")]
    encoding: Option<String>,
    /// The cipher; only this one
    #[arg(long, value_name = "NAME", default_value = "aes-256-cbc", value_parser = ["aes-256-cbc"])]
    algorithm: String,
    /// Only look: what would be sealed, what does not open, which rows repeat another
    #[arg(long)]
    dry_run: bool,
    /// Merge rows that repeat another: the surplus row is closed, and deleted with --finish
    #[arg(long, conflicts_with = "revert")]
    merge_duplicates: bool,
    /// Go on although some values do not open; they stay as they are
    #[arg(long)]
    leave_unreadable: bool,
    /// When everything is sealed: delete merged rows and drop what was kept. There is no way back from this
    #[arg(long, conflicts_with_all = ["revert", "dry_run"])]
    finish: bool,
    /// Go back: write everything as typeorm-encrypted did. Stop the workers first
    #[arg(long, conflicts_with = "dry_run")]
    revert: bool,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// Moves in.
pub async fn run(args: Args, app: App) -> anyhow::Result<Done> {
    let Command::Typeorm(args) = args.command;
    let app = configured(&args, app)?;
    let vault = app.vault()?;
    let store = app.store(vault.clone()).await?;
    let done = Run { args: &args, vault: &vault, store: store.as_ref(), clock: app.clock.clone() }.run().await;
    store.close().await;
    done
}

fn configured(args: &Typeorm, mut app: App) -> anyhow::Result<Configured> {
    if let Some(path) = &args.key_file {
        let key = read_secret(path).context("read the key")?;
        app = app.with_secret("FINHOOK_TYPEORM_KEY", key)?;
    }
    if let Some(iv) = &args.iv {
        app = app.with_setting("FINHOOK_TYPEORM_IV", iv)?;
    }
    if let Some(encoding) = &args.encoding {
        app = app.with_setting("FINHOOK_TYPEORM_ENCODING", encoding)?;
    }
    Ok(app.configured()?)
}

struct Run<'a> {
    args: &'a Typeorm,
    vault: &'a Vault,
    store: &'a dyn Store,
    clock: WallClock,
}

impl Run<'_> {
    async fn run(&self) -> anyhow::Result<Done> {
        let Some(moving) = self.store.moving() else {
            let problem = "DATABASE_URL: the product's tables are moved in on PostgreSQL; this is an embedded store";
            return Err(BadConfiguration::usage(problem).into());
        };
        let counts = moving.move_counts().await.context("count")?;
        let Some(theirs) = &self.vault.theirs else {
            if self.args.finish {
                return self.finish(moving, &Report::default()).await;
            }
            let problem = "the key is needed: give --key-file FILE, or FINHOOK_TYPEORM_KEY";
            return Err(BadConfiguration::usage(problem).into());
        };
        if self.args.revert {
            self.audit("revert").await?;
            let mut mover = Reverter { vault: self.vault, theirs, report: Report::default() };
            self.pass(moving, &mut mover, "going back", counts.rows, true).await?;
            return self.answer("reverted", &mover.report, moving.move_counts().await.context("count")?);
        }
        let mut look = self.sealer(true);
        self.pass(moving, &mut look, "looking", counts.rows, false).await?;
        let in_the_way = self.in_the_way(moving, &look.report).await?;
        if self.args.dry_run {
            let done = self.answer("dry_run", &look.report, counts)?;
            return Ok(if in_the_way { Done::No } else { done });
        }
        if in_the_way && !self.args.leave_unreadable {
            eprintln!("finhook: nothing was written. Is the key right? --leave-unreadable goes on without these");
            self.answer("refused", &look.report, counts)?;
            return Ok(Done::No);
        }
        self.audit(if self.args.merge_duplicates { "seal and merge" } else { "seal" }).await?;
        let mut mover = self.sealer(self.args.merge_duplicates);
        self.pass(moving, &mut mover, "sealing", counts.rows, true).await?;
        if self.args.finish {
            return self.finish(moving, &mover.report).await;
        }
        let counts = moving.move_counts().await.context("count")?;
        self.answer("moved", &mover.report, counts)
    }

    /// Writes down what is going to be done, before it is.
    async fn audit(&self, act: &str) -> anyhow::Result<()> {
        let entry = audit::entry(Act::Import).saying(&json!({ "typeorm": act }));
        audit::write(self.store, &entry).await
    }

    fn sealer(&self, merge: bool) -> Sealer<'_> {
        Sealer { vault: self.vault, merge, now: self.clock.now(), report: Report::default() }
    }

    /// Takes all subjects through a mover, in short transactions.
    async fn pass(
        &self,
        moving: &dyn Moving,
        mover: &mut dyn ReportingMover,
        doing: &'static str,
        rows: u64,
        write: bool,
    ) -> anyhow::Result<()> {
        let mut progress = Progress::new(doing, rows);
        let mut last = None;
        let mut tries = 0;
        loop {
            // The report counts what was decided: a page that is tried again would be counted again.
            let before = mover.snapshot();
            match moving.move_subjects(last.as_ref(), PAGE, mover.as_mover(), write).await {
                Ok(None) => break,
                Ok(next) => (last, tries) = (next, 0),
                Err(error) if error.is_transient() && tries < TRIES => {
                    tries += 1;
                    mover.restore(before);
                    tokio::time::sleep(Duration::from_millis(200) * tries).await;
                }
                Err(error) => return Err(error).context(doing),
            }
            progress.at(mover.seen());
        }
        progress.done();
        Ok(())
    }

    /// Says what keeps a run from writing; whether there is anything.
    async fn in_the_way(&self, moving: &dyn Moving, report: &Report) -> anyhow::Result<bool> {
        for spot in report.unreadable_at.iter().take(SHOWN) {
            eprintln!("finhook: {}.{} of {} does not open", spot.table, spot.column, spot.id);
        }
        let short = moving.short_columns().await.context("look at the columns")?;
        for column in &short {
            eprintln!(
                "finhook: {column} is too short for a sealed value; make it `character varying` without a length"
            );
        }
        let placeless = moving.placeless(SHOWN as u32).await.context("look for rows without a place")?;
        for row in &placeless {
            eprintln!("finhook: {} {}: its integration has no service or no external_id", row.table, row.id);
        }
        Ok(report.unreadable > 0 || !short.is_empty() || !placeless.is_empty())
    }

    async fn finish(&self, moving: &dyn Moving, report: &Report) -> anyhow::Result<Done> {
        self.audit("finish").await?;
        match moving.finish().await {
            Ok(counts) => self.answer("finished", report, counts),
            Err(StoreError { what, .. }) => {
                eprintln!("finhook: not finished, nothing was dropped: {what}");
                Ok(Done::No)
            }
        }
    }

    fn answer(&self, what: &str, report: &Report, counts: MoveCounts) -> anyhow::Result<Done> {
        if self.args.json {
            let mut object = serde_json::to_value(report)?;
            if let Some(object) = object.as_object_mut() {
                object.insert("outcome".into(), json!(what));
                object.insert("left".into(), json!(counts.theirs));
                object.insert("kept".into(), json!(counts.kept));
            }
            output::json_line(&object)?;
            return Ok(Done::Yes);
        }
        for row in report.duplicate_rows.iter().take(SHOWN) {
            let apart = row.apart.map(|why| format!("; not merged: {why}")).unwrap_or_default();
            let integration = output::plain(&row.integration);
            output::line(&format!(
                "{} {} repeats {} ({} {integration}){apart}",
                row.table, row.id, row.of, row.service
            ))?;
        }
        if report.duplicate_rows.len() > SHOWN {
            output::line(&format!("… and {} more; --json names them", report.duplicates - SHOWN as u64))?;
        }
        let Report { integrations, accounts, theirs, ours, rewritten, unreadable, duplicates, merged, .. } = report;
        let seen = format!("{integrations} integration(s), {accounts} account(s): {theirs} value(s) of the product's");
        let left = counts.theirs;
        output::line(&match what {
            "dry_run" => format!(
                "{seen}, {ours} sealed already, {unreadable} that do(es) not open; {duplicates} row(s) repeat another, \
                 {merged} of them can be merged. Nothing was written"
            ),
            "moved" => format!(
                "{seen}, {rewritten} sealed, {left} left; {duplicates} row(s) repeat another, {merged} merged. \
                 What was there is kept until --finish"
            ),
            "reverted" => format!("{seen}, {rewritten} written as the product did"),
            "finished" => {
                format!("finished: {} merged row(s) deleted, {} original(s) dropped", counts.merged, counts.kept)
            }
            _ => seen,
        })?;
        Ok(Done::Yes)
    }
}

/// A mover whose report can be taken back.
trait ReportingMover: Mover {
    fn snapshot(&self) -> Report;
    fn restore(&mut self, report: Report);
    fn seen(&self) -> u64;
    fn as_mover(&mut self) -> &mut dyn Mover;
}

macro_rules! reporting {
    ($mover:ident) => {
        impl ReportingMover for $mover<'_> {
            fn snapshot(&self) -> Report {
                self.report.clone()
            }
            fn restore(&mut self, report: Report) {
                self.report = report;
            }
            fn seen(&self) -> u64 {
                self.report.integrations + self.report.accounts
            }
            fn as_mover(&mut self) -> &mut dyn Mover {
                self
            }
        }
    };
}
reporting!(Sealer);
reporting!(Reverter);

/// A bar on a terminal, a line every few seconds elsewhere.
struct Progress {
    bar: ProgressBar,
    doing: &'static str,
    rows: u64,
    said: Instant,
}

impl Progress {
    fn new(doing: &'static str, rows: u64) -> Self {
        let bar = if output::draws_progress() { ProgressBar::new(rows) } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template("{msg} {bar:30} {pos}/{len} rows {eta}") {
            bar.set_style(style);
        }
        bar.set_message(doing);
        Self { bar, doing, rows, said: Instant::now() }
    }

    fn at(&mut self, seen: u64) {
        self.bar.set_position(seen);
        if self.bar.is_hidden() && self.said.elapsed() > Duration::from_secs(5) {
            self.said = Instant::now();
            eprintln!("finhook: {}: {seen} of {} rows", self.doing, self.rows);
        }
    }

    fn done(self) {
        self.bar.finish_and_clear();
    }
}

//! The chaos suite: real processes under every kind of failure, and a reckoning of what was promised against what is there.
//!
//! `tests/chaos/run` builds and runs it. It starts a RabbitMQ node and a PostgreSQL cluster of its own, and for each
//! scenario a finhook with links that it can cut. Providers send and try again by their own rules. When the faults are over
//! everything has a minute to drain; then every event of every delivery that got a 200 must be exactly one row, with the
//! effects that DESIGN.md says, nothing may wait, and no process may have ended by itself.
//!
//! | file | what is in it |
//! |---|---|
//! | `scenarios` | what is taken away, and when |
//! | `outages`, `crowds` | those that last long, and those of too many senders |
//! | `stage` | one finhook under load, from its start to the reckoning |
//! | `world`, `provider`, `ledger` | deliveries, who sends them, what was answered |
//! | `model`, `reconcile` | the rows that must be there, and those that are |
//! | `deployment`, `broker`, `database`, `proxy`, `machine` | processes and links |

#![forbid(unsafe_code)]

mod broker;
mod crowds;
mod database;
mod deployment;
mod ledger;
mod machine;
mod model;
mod outages;
mod provider;
mod proxy;
mod reconcile;
mod scenarios;
mod stage;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, bail};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, timeout};

use crate::broker::Brokers;
use crate::database::Database;
use crate::machine::Machine;
use crate::scenarios::{Programs, SCENARIOS, Scenario, play};
use crate::stage::{Outcome, Servers, speak};

/// The longest that finhook may need after what it depends on is back.
const LONGEST_RECOVERY: Duration = Duration::from_secs(10);
/// How long starting, draining and stopping a scenario may take besides its faults.
const AROUND: Duration = Duration::from_secs(240);
/// How much longer the senders' retries may take after an outage, in parts of it.
const RETRIES: u32 = 1;
/// How much of what is wrong is printed.
const SHOWN: usize = 5;

const USAGE: &str = "tests/chaos/run [--seconds N] [--seed S] [--scenario NAME]... [--verbose] [--keep FOLDER]
                [--finhook FILE] [--old FILE] [--list]

  --seconds N      how long faults go on, split over the scenarios (120)
  --seed S         repeats the schedule of faults and deliveries that this seed makes
  --scenario NAME  only this one; may be given several times
  --verbose        say every fault as it happens
  --keep FOLDER    leave logs and ledgers there
  --finhook FILE   try this one instead of the one that was built with the suite
  --old FILE       the finhook that `upgrade` begins with (this one, with another key)
  --list           name the scenarios";

struct Args {
    seconds: u64,
    seed: u64,
    only: Vec<String>,
    keep: Option<PathBuf>,
    finhook: Option<PathBuf>,
    old: Option<PathBuf>,
    verbose: bool,
    list: bool,
}

fn main() -> ExitCode {
    if std::env::var_os("FINHOOK_CHAOS").is_none() {
        println!("chaos: left out; tests/chaos/run runs it");
        return ExitCode::SUCCESS;
    }
    let args = match args() {
        Ok(args) => args,
        Err(error) => {
            eprintln!("chaos: {error:#}\n\n{USAGE}");
            return ExitCode::from(64);
        }
    };
    if args.list {
        SCENARIOS.iter().for_each(|scenario| println!("{:<11} {}", scenario.name, scenario.about));
        return ExitCode::SUCCESS;
    }
    // One thread: it is the parent of every process, and they die with it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.context("start the runtime").and_then(|runtime| {
        let tasks = tokio::task::LocalSet::new();
        let done = runtime.block_on(tasks.run_until(until_interrupted(args)));
        drop(tasks);
        done
    });
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("chaos: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn args() -> anyhow::Result<Args> {
    let seed = u64::from(rand::random::<u32>());
    let mut args = Args {
        seconds: 120,
        seed,
        only: Vec::new(),
        keep: None,
        finhook: None,
        old: None,
        verbose: false,
        list: false,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} needs a value"));
        match word.as_str() {
            "--seconds" => args.seconds = value()?.parse().context("--seconds takes a number")?,
            "--seed" => args.seed = value()?.parse().context("--seed takes a number")?,
            "--scenario" => args.only.push(value()?),
            "--keep" => args.keep = Some(value()?.into()),
            "--finhook" => args.finhook = Some(std::fs::canonicalize(value()?).context("--finhook")?),
            "--old" => args.old = Some(std::fs::canonicalize(value()?).context("--old")?),
            "--verbose" => args.verbose = true,
            "--list" => args.list = true,
            other => bail!("{other} is no option"),
        }
    }
    for name in &args.only {
        SCENARIOS.iter().find(|scenario| scenario.name == name).with_context(|| format!("{name} is no scenario"))?;
    }
    Ok(args)
}

async fn until_interrupted(args: Args) -> anyhow::Result<bool> {
    let (mut terminated, mut interrupted) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        done = run(args) => done,
        _ = terminated.recv() => bail!("terminated"),
        _ = interrupted.recv() => bail!("interrupted"),
    }
}

/// Runs what was asked for; whether all of it passed.
async fn run(args: Args) -> anyhow::Result<bool> {
    speak(args.verbose);
    let (scenarios, left_out) = chosen(&args);
    println!("chaos: seed {}, {} s over {} scenarios", args.seed, args.seconds, scenarios.len());
    if !left_out.is_empty() {
        println!("chaos: no time for {}; the seed decides which", left_out.join(", "));
    }
    let span = Duration::from_secs(args.seconds) / u32::try_from(scenarios.len().max(1))?;
    let machine = Rc::new(Machine::new(args.keep)?);
    let built = || PathBuf::from(env!("CARGO_BIN_EXE_finhook"));
    let programs = Programs { now: args.finhook.unwrap_or_else(built), before: args.old };
    let (brokers, database) = tokio::try_join!(Brokers::start(&machine, "rabbit", 1), Database::start(&machine))?;
    let mut servers = Servers { brokers, database };
    let (mut passed, mut failed) = (0, 0);
    for scenario in scenarios {
        let span = span.max(scenario.least);
        let seed = scenario.name.bytes().fold(args.seed, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
        let began = Instant::now();
        let played =
            timeout(span * (1 + RETRIES) + AROUND, play(scenario, &machine, &mut servers, seed, span, &programs)).await;
        let problems = match played {
            Ok(Ok(outcome)) => report(scenario, &outcome, began.elapsed()),
            Ok(Err(error)) => vec![format!("{error:#}")],
            Err(_) => vec!["it did not come to an end".to_owned()],
        };
        if problems.is_empty() {
            passed += 1;
        } else {
            failed += 1;
            println!(
                "{:<11} FAILED; again with --scenario {} --seed {} --seconds {}",
                scenario.name,
                scenario.name,
                args.seed,
                span.as_secs()
            );
            problems.iter().for_each(|problem| println!("{:<11} - {problem}", ""));
        }
    }
    println!("{passed} passed, {failed} failed");
    Ok(failed == 0)
}

/// The scenarios to run, and those for which there is no time: the seed decides which of them.
fn chosen(args: &Args) -> (Vec<&'static Scenario>, Vec<&'static str>) {
    if !args.only.is_empty() {
        let only = SCENARIOS.iter().filter(|scenario| args.only.iter().any(|name| name == scenario.name));
        return (only.collect(), Vec::new());
    }
    let mut order: Vec<&Scenario> = SCENARIOS.iter().filter(|scenario| !scenario.on_demand).collect();
    order.shuffle(&mut StdRng::seed_from_u64(args.seed));
    let mut rest = Duration::from_secs(args.seconds);
    let (mut chosen, mut left_out) = (Vec::new(), Vec::new());
    for scenario in order {
        match rest.checked_sub(scenario.least) {
            Some(less) => {
                rest = less;
                chosen.push(scenario);
            }
            None => left_out.push(scenario.name),
        }
    }
    (chosen, left_out)
}

/// Prints how a scenario went; what was wrong with it.
fn report(scenario: &Scenario, outcome: &Outcome, took: Duration) -> Vec<String> {
    let reckoning = &outcome.reckoning;
    let (deliveries, accepted, given_up) = outcome.deliveries;
    println!(
        "{:<11} {:>3} s  acked {accepted} of {deliveries} (given up {given_up}), event rows {}, lost {}, doubled {}, \
         stuck {}, manual restarts {}, longest recovery {:.1} s{}",
        scenario.name,
        took.as_secs(),
        reckoning.rows,
        reckoning.lost.len(),
        reckoning.doubled.len(),
        reckoning.stuck.len(),
        outcome.restarts,
        outcome.recovery.0.as_secs_f64(),
        if outcome.recovery.1.is_empty() { String::new() } else { format!(" ({})", outcome.recovery.1) },
    );
    println!("{:<11} answers: {}", "", outcome.answers);
    outcome.notes.iter().for_each(|note| println!("{:<11} {note}", ""));
    let mut problems = Vec::new();
    for (what, found) in [("lost", &reckoning.lost), ("doubled", &reckoning.doubled), ("stuck", &reckoning.stuck)] {
        problems.extend(found.iter().take(SHOWN).map(|it| format!("{what}: {it}")));
        if found.len() > SHOWN {
            problems.push(format!("{what}: {} more", found.len() - SHOWN));
        }
    }
    problems.extend(outcome.problems.iter().take(2 * SHOWN).cloned());
    if reckoning.rows == 0 || accepted == 0 {
        problems.push("nothing happened at all".to_owned());
    }
    if outcome.recovery.0 > LONGEST_RECOVERY {
        problems.push(format!("recovery took {:.1} s: {}", outcome.recovery.0.as_secs_f64(), outcome.recovery.1));
    }
    problems
}

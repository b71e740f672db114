//! How fast finhook is, as ratios to what broker, disk and processor allow, both measured in one run.
//!
//! `benches/run` builds and starts it. It needs a PostgreSQL and a RabbitMQ on this machine, makes a database and a prefix
//! of its own there, and takes them away again. Every sender, floor and finhook is a process of its own, so that what each
//! uses can be told apart; this one only starts them and reads what they found.
//!
//! | file | what is in it |
//! |---|---|
//! | `measurements`, `growth` | what is measured, in which order |
//! | `latencies` | how long events took |
//! | `traffic`, `pace`, `sender` | deliveries, when they are sent, who sends them |
//! | `publisher`, `drain`, `group` | the floors: bare publishes, bare statements, bare SQLite |
//! | `stage`, `process`, `report` | servers, processes, the table |

#![forbid(unsafe_code)]

mod drain;
mod group;
mod growth;
mod latencies;
mod measurements;
mod pace;
mod process;
mod publisher;
mod report;
mod sender;
mod stage;
mod traffic;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use serde::Serialize;
use tokio::runtime::Builder;
use tokio::task::LocalSet;

use self::measurements::Scale;
use self::pace::Pace;
use self::report::Report;
use self::sender::Sending;
use self::stage::Stage;
use self::traffic::{Signer, UNIT_TOKEN};

const USAGE: &str = "benches/run [--quick] [--only NAME]… [--json FILE]

  --quick      one short round of everything, in about a minute: a look, no judgement
  --only NAME  receiver, worker, embedded, memory, starting; may be given several times
               growth: into tables of 10,000 to 10,000,000 events, which takes a quarter of an hour and 12 GB
  --json FILE  where the figures go (target/benches.json)";

/// Only when it is asked for.
const GROWTH: &str = "growth";

const ALL: [&str; 5] = ["starting", "receiver", "worker", "embedded", "memory"];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let done = match arguments.split_first() {
        Some((first, rest)) if first == "--role" => play(rest),
        _ => measure(&arguments),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("benches: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What a process of the benches other than the first does.
fn play(arguments: &[String]) -> anyhow::Result<bool> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let one = || Builder::new_current_thread().enable_all().build();
    let many = || Builder::new_multi_thread().worker_threads(2).enable_all().build();
    match words.as_slice() {
        ["sender", to, signer, connections, count, first, more @ ..] => {
            let signer = if *signer == "unit" { Signer::unit() } else { Signer::plaid(signer)? };
            let rate = more.first().map(|rate| rate.parse::<f64>()).transpose()?.filter(|rate| *rate > 0.0);
            let sending = Sending {
                to: (*to).to_owned(),
                signer,
                connections: connections.parse()?,
                first: first.parse()?,
                mixed: more.contains(&"mixed"),
                customers: more.get(1).and_then(|word| word.strip_prefix("among:")?.parse().ok()),
                pace: Pace::new(count.parse()?, rate),
            };
            say(&one()?.block_on(LocalSet::new().run_until(sender::send(sending)))?)
        }
        ["publisher", url, exchange, key, count, more @ ..] => {
            let rate = more.first().map(|rate| rate.parse()).transpose()?;
            let to = publisher::To { exchange: (*exchange).to_owned(), key: (*key).to_owned() };
            say(&many()?.block_on(publisher::publish(url, to, count.parse()?, rate))?)
        }
        ["drain", url, queue, database, first] => {
            say(&many()?.block_on(drain::drain(url, queue, database, first.parse()?))?)
        }
        ["inserter", path, count, at_once] => {
            say(&many()?.block_on(group::insert(Path::new(path), count.parse()?, at_once.parse()?))?)
        }
        ["receiver", folder] => {
            many()?.block_on(group::receive(PathBuf::from(folder), UNIT_TOKEN))?;
            Ok(true)
        }
        _ => bail!("no such role"),
    }
}

fn say(found: &impl Serialize) -> anyhow::Result<bool> {
    println!("{}", serde_json::to_string(found)?);
    Ok(true)
}

/// Measures what was asked for; whether every line was kept.
fn measure(arguments: &[String]) -> anyhow::Result<bool> {
    let (mut scale, mut only, mut file) = (Scale::FULL, Vec::new(), PathBuf::from("target/benches.json"));
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().cloned().with_context(|| format!("{word} needs a value\n\n{USAGE}"));
        match word.as_str() {
            "--quick" => scale = Scale::QUICK,
            "--only" => only.push(value()?),
            "--json" => file = value()?.into(),
            "--help" => {
                println!("{USAGE}");
                return Ok(true);
            }
            other => bail!("{other} is no option\n\n{USAGE}"),
        }
    }
    if let Some(unknown) = only.iter().find(|name| *name != GROWTH && !ALL.contains(&name.as_str())) {
        bail!("{unknown} is nothing that is measured\n\n{USAGE}");
    }
    let asked = |name: &str| only.iter().any(|given| given == name);
    let chosen = ALL.into_iter().filter(|name| only.is_empty() || asked(name));
    let chosen: Vec<&str> = chosen.chain(asked(GROWTH).then_some(GROWTH)).collect();
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let report = runtime.block_on(async {
        let mut stage = Stage::open().await?;
        let measured = run(&mut stage, scale, &chosen).await;
        let closed = stage.close().await;
        let report = measured?;
        closed.map(|()| report)
    })?;
    std::fs::write(&file, serde_json::to_vec_pretty(&report)?).with_context(|| file.display().to_string())?;
    println!("\n{}\n\nfigures: {}", report.table(), file.display());
    Ok(report.lines.iter().all(|line| line.kept != Some(false)))
}

async fn run(stage: &mut Stage, scale: Scale, chosen: &[&str]) -> anyhow::Result<Report> {
    let mut report = Report::default();
    for name in chosen {
        println!("{name}");
        match *name {
            "starting" => measurements::starting(stage, scale, &mut report).await?,
            "receiver" => measurements::receiver(stage, scale, &mut report).await?,
            "worker" => measurements::worker(stage, scale, &mut report).await?,
            "embedded" => measurements::embedded(stage, scale, &mut report).await?,
            GROWTH => growth::growth(stage, scale, &mut report).await?,
            _ => measurements::memory(stage, scale, &mut report).await?,
        }
    }
    Ok(report)
}

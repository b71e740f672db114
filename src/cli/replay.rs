//! `finhook replay`: posts fixture deliveries, really signed, to a running finhook, as fast as asked.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rand::seq::SliceRandom;
use serde::Serialize;
use tokio::sync::Mutex;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::app::{App, BadConfiguration};
use super::posting::{Answer, Post, Press, Signed, Treatment};
use super::{Done, output};
use crate::domain::UserId;
use crate::fixtures::{self, Case};

/// Arguments of `finhook replay`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "In embedded mode the secrets are those that `finhook serve` made; nothing has to be configured.\n\
                        Exit codes: 0 every answer as expected (200; 401 with --tamper or --stale), 1 not.\n\
                        Examples: finhook replay unit\n          \
                        finhook replay plaid/item.error --user u_42\n          \
                        finhook replay unit synapse --repeat 100 --shuffle --duplicate --rate 500"
)]
pub struct Args {
    /// PROVIDER, PROVIDER/CASE, or a path to a folder of cases, a case's folder or a body
    #[arg(required = true, value_name = "PATH|PROVIDER[/CASE]")]
    what: Vec<String>,
    /// Where to [default: FINHOOK_HTTP_BIND, by https if it has a certificate]
    #[arg(long, value_name = "URL")]
    to: Option<String>,
    /// At most so many deliveries a second
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: Option<u32>,
    /// So many cases at the same time
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=4096))]
    concurrency: u16,
    /// Each case so often; from the second time on with fresh ids
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    repeat: u64,
    /// In any order
    #[arg(long)]
    shuffle: bool,
    /// Each delivery twice
    #[arg(long)]
    duplicate: bool,
    /// Change each delivery after signing: every answer has to be 401
    #[arg(long)]
    tamper: bool,
    /// Sign each delivery two days ago: Plaid's have to be refused
    #[arg(long)]
    stale: bool,
    /// Set a JSON field in every body; a dotted path or a bare name
    #[arg(long = "set", value_name = "K=V")]
    set: Vec<String>,
    /// Post Plaid's to the webhook URL of this user
    #[arg(long, value_name = "ID")]
    user: Option<String>,
    /// One JSON object as the summary
    #[arg(long)]
    json: bool,
}

/// What came of it.
#[derive(Debug, Default, Serialize)]
struct Summary {
    sent: u64,
    accepted: u64,
    refused: u64,
    unavailable: u64,
    other: u64,
    failed: u64,
    seconds: f64,
    as_expected: bool,
}

/// Posts.
pub async fn run(args: Args, app: App) -> anyhow::Result<Done> {
    let app = app.configured()?;
    let cases = cases(&args)?;
    for case in &cases {
        for link in &case.links {
            eprintln!(
                "note: {} is complete once you `finhook link {} {} --user {}`",
                case.path(),
                case.provider,
                link.subject,
                link.user
            );
        }
    }
    let post = Post::new(&args.to.clone().unwrap_or_else(|| app.settings.http.own_url()))?;
    let press = Press::new(app.setup()?)?;
    let treatment = Treatment { tamper: args.tamper, stale: args.stale, user: args.user.clone().map(UserId) };

    let copies = if args.duplicate { 2 } else { 1 };
    let total: u64 = cases.iter().map(|case| case.bodies.len() as u64).sum::<u64>() * args.repeat * copies;
    let bar = progress(total);
    let pace = pace(args.rate);
    let started = Instant::now();
    let mut summary = Summary { as_expected: true, ..Summary::default() };
    // Requests are made as they are sent, so that their signing time is now and a long run needs no more memory.
    let runs = runs(&cases, &args).map(|run| requests(&press, run, &treatment, copies));
    let mut answers = stream::iter(runs)
        .map(|run| send(run, &post, &pace))
        .buffer_unordered(usize::from(args.concurrency))
        .flat_map(stream::iter);
    while let Some(answer) = answers.next().await {
        let (name, stale_counts, answer) = answer?;
        bar.inc(1);
        summary.count(&name, answer, args.tamper || stale_counts);
    }
    bar.finish_and_clear();
    summary.seconds = started.elapsed().as_secs_f64();
    if args.json {
        output::json_line(&summary)?;
    } else {
        output::line(&format!(
            "{} sent in {:.1} s: {} accepted, {} refused, {} unavailable, {} other, {} without answer",
            summary.sent,
            summary.seconds,
            summary.accepted,
            summary.refused,
            summary.unavailable,
            summary.other,
            summary.failed
        ))?;
    }
    Ok(if summary.as_expected { Done::Yes } else { Done::No })
}

/// One unit of work: requests of one case that keep their order.
type Run<'a> = (&'a Case, u64, Vec<usize>);

/// What is sent and in which order: whole cases in their order, or single bodies in any.
fn runs<'a>(cases: &'a [Case], args: &Args) -> Box<dyn Iterator<Item = Run<'a>> + Send + 'a> {
    let repeat = args.repeat;
    if !args.shuffle {
        return Box::new(
            (0..repeat).flat_map(move |n| cases.iter().map(move |case| (case, n, (0..case.bodies.len()).collect()))),
        );
    }
    let mut single: Vec<Run<'a>> = (0..repeat)
        .flat_map(|n| cases.iter().flat_map(move |case| (0..case.bodies.len()).map(move |at| (case, n, vec![at]))))
        .collect();
    single.shuffle(&mut rand::rng());
    Box::new(single.into_iter())
}

/// The signed requests of a run, each as often as asked, with whether a stale signature matters to its provider.
fn requests(
    press: &Press<'_>,
    (case, n, bodies): Run<'_>,
    treatment: &Treatment,
    copies: u64,
) -> anyhow::Result<Vec<(Signed, bool)>> {
    let fresh = if n == 0 { case.clone() } else { case.fresh(n)? };
    let signs_time = treatment.stale && case.provider == "plaid";
    let mut requests = Vec::new();
    for body in bodies.into_iter().filter_map(|at| fresh.bodies.get(at)) {
        let signed = press.request(&fresh, body, treatment)?;
        requests.extend((0..copies).map(|_| (signed.clone(), signs_time)));
    }
    Ok(requests)
}

/// Posts a run in its order.
async fn send(
    run: anyhow::Result<Vec<(Signed, bool)>>,
    post: &Post,
    pace: &Option<Arc<Mutex<Interval>>>,
) -> Vec<anyhow::Result<(String, bool, Answer)>> {
    let requests = match run {
        Ok(requests) => requests,
        Err(error) => return vec![Err(error)],
    };
    let mut answers = Vec::with_capacity(requests.len());
    for (signed, signs_time) in requests {
        if let Some(pace) = pace {
            pace.lock().await.tick().await;
        }
        let answer = post.send(&signed).await;
        answers.push(Ok((signed.name, signs_time, answer)));
    }
    answers
}

impl Summary {
    fn count(&mut self, name: &str, answer: Answer, refusal_expected: bool) {
        self.sent += 1;
        match answer {
            Answer::Accepted => self.accepted += 1,
            Answer::Status(401) => self.refused += 1,
            Answer::Status(503) => self.unavailable += 1,
            Answer::Status(_) => self.other += 1,
            Answer::Failed => self.failed += 1,
        }
        let expected = if refusal_expected { Answer::Status(401) } else { Answer::Accepted };
        if answer != expected {
            if self.as_expected {
                eprintln!("finhook: {name}: {answer:?}, expected {expected:?} (further ones are only counted)");
            }
            self.as_expected = false;
        }
    }
}

fn cases(args: &Args) -> anyhow::Result<Vec<Case>> {
    let mut cases = Vec::new();
    for what in &args.what {
        cases.extend(fixtures::select(what).map_err(|error| BadConfiguration::usage(error.to_string()))?);
    }
    for set in &args.set {
        let (field, value) =
            set.split_once('=').ok_or_else(|| BadConfiguration::usage(format!("--set {set}: must be K=V")))?;
        let found: usize = cases.iter_mut().map(|case| case.set(field, value)).sum();
        if found == 0 {
            return Err(BadConfiguration::usage(format!("--set {field}: no body has such a field")).into());
        }
    }
    if args.user.is_some() && cases.iter().all(|case| case.provider != "plaid") {
        return Err(
            BadConfiguration::usage("--user binds Plaid's webhook URL, and nothing of Plaid is replayed").into()
        );
    }
    Ok(cases)
}

fn progress(total: u64) -> ProgressBar {
    let target = if output::draws_progress() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {per_sec} {eta}");
    ProgressBar::with_draw_target(Some(total), target)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn pace(rate: Option<u32>) -> Option<Arc<Mutex<Interval>>> {
    let mut pace = tokio::time::interval(Duration::from_secs(1) / rate?);
    // A stalled receiver must not be hit by everything that it held up.
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    Some(Arc::new(Mutex::new(pace)))
}

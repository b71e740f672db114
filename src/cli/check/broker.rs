//! The queue: the embedded file, or the broker with what is ours there, its management API, and the spool.

use super::{Fault, Tried, Verdict, bounded, clocks_agree};
use crate::cli::app::Configured;
use crate::cli::opening::{broker, providers, spool};
use crate::config::QueueSettings;
use crate::domain::Timestamp;
use crate::queue::embedded::{self, Embedded};
use crate::queue::rabbitmq::{Inspection, RabbitMq, RabbitMqSettings};
use crate::queue::spool::{Contents, Spool, SpoolSettings};

const AWAY: &str = "see that AMQP_URL is right, that the broker runs, and that nothing between us cuts the connection";
const FILE: &str = "see that the folder FINHOOK_DATA_DIR can be written and that nobody else made that file";

pub(super) async fn tried(app: &Configured) -> Vec<Tried> {
    let QueueSettings::RabbitMq(rabbit) = &app.settings.queue else {
        return vec![Tried::new("queue", bounded(FILE, file(app)).await)];
    };
    let settings = match broker(app, rabbit) {
        Ok(settings) => settings,
        Err(error) => return vec![Tried::new("queue", Err(Fault::new(error, "correct that setting")))],
    };
    let mut tried = at_broker(&settings).await;
    tried.extend(management(app, &settings).await);
    if let Some(settings) = spool(app) {
        let advice = "see that FINHOOK_SPOOL is on a disk that is mounted and can be written";
        tried.push(Tried::new("spool", bounded(advice, look(&settings)).await));
    }
    tried
}

/// The embedded queue's file.
async fn file(app: &Configured) -> Verdict {
    let QueueSettings::Embedded { path, .. } = &app.settings.queue else {
        return Ok(String::new());
    };
    if !path.exists() {
        return Ok("embedded; `finhook serve` will make it".to_owned());
    }
    let wrong = |error: crate::queue::QueueError| Fault::new(error, FILE);
    let depths = Embedded::look(path, &providers()).await.map_err(wrong)?;
    let waiting: u64 = depths.iter().map(|depth| depth.ready).sum();
    let open =
        if embedded::is_in_use(path).map_err(wrong)? { "a running finhook has it open" } else { "nobody has it open" };
    Ok(format!("embedded; {waiting} message(s) wait, {open}"))
}

/// Whether the broker answers, and has what is ours as we need it.
async fn at_broker(settings: &RabbitMqSettings) -> Vec<Tried> {
    let shown = tokio::time::timeout(super::PATIENCE, RabbitMq::show_topology(settings)).await;
    let standing = match shown {
        Ok(Ok(standing)) => standing,
        Ok(Err(error)) => return vec![Tried::new("queue", Err(Fault::new(error, AWAY)))],
        Err(_) => return vec![Tried::new("queue", Err(Fault::new("no answer within 10 s", AWAY)))],
    };
    let answers = Tried::new("queue", Ok("the broker answers".to_owned()));
    let missing = standing.iter().filter(|it| !it.present).count();
    let topology = if missing > 0 {
        let said = format!("{missing} of {} exchanges and queues are not there yet", standing.len());
        let advice =
            "`finhook serve` declares them if its user may; else run `finhook topology apply` with one that may";
        Tried::advised("topology", said, advice)
    } else {
        // Declaring what is there changes nothing, and is refused where its arguments are others.
        let advice = "drain and delete that queue, then run `finhook topology apply`; tuning belongs in a policy";
        let declared = async {
            RabbitMq::apply_topology(settings).await.map_err(|error| Fault::new(error, advice))?;
            Ok(format!("all {} exchanges and queues are there, with our arguments", standing.len()))
        };
        Tried::new("topology", bounded(AWAY, declared).await)
    };
    vec![answers, topology]
}

/// What the management API says: policies that lose messages, and the broker's clock.
async fn management(app: &Configured, settings: &RabbitMqSettings) -> Vec<Tried> {
    let before = app.clock.now();
    let Some(inspected) = RabbitMq::inspect(settings).await else {
        let said = "not configured: unacked messages and rates are not shown, policies are not looked at";
        return vec![Tried::advised("management API", said, "set FINHOOK_RABBITMQ_MANAGEMENT_URL")];
    };
    let after = app.clock.now();
    match inspected {
        Ok(inspection) => inspection_said(&inspection, (before, after)),
        Err(error) => {
            let advice = "see that FINHOOK_RABBITMQ_MANAGEMENT_URL is right, the plugin enabled, and its user tagged `monitoring`";
            vec![Tried::new("management API", Err(Fault::new(error, advice)))]
        }
    }
}

fn inspection_said(inspection: &Inspection, around: (Timestamp, Timestamp)) -> Vec<Tried> {
    let answers = format!("answers, RabbitMQ {}", inspection.version);
    let mut tried = vec![Tried::new("management API", Ok(answers))];
    match &inspection.objections[..] {
        [] => tried.push(Tried::new("policies", Ok("none loses messages".to_owned()))),
        all => tried.extend(all.iter().map(|objection| {
            let (said, advice) = objection.split_once("; ").unwrap_or((objection, "look at the broker's policies"));
            Tried::new("policies", Err(Fault::new(said, advice)))
        })),
    }
    // A date has no fraction: a second is cut off at most.
    let theirs = inspection.date.as_deref().and_then(Timestamp::parse_http);
    tried.extend(theirs.map(|theirs| Tried::new("clock", clocks_agree("the broker", theirs, around, 1.0))));
    tried
}

async fn look(settings: &SpoolSettings) -> Verdict {
    let advice = "make or mount that folder, and let this user write there";
    let (path, contents) = Spool::look(settings).await.map_err(|error| Fault::new(error, advice))?;
    let path = path.display();
    Ok(match contents {
        Contents::Absent => format!("{path}: `finhook serve` will make it"),
        Contents::InUse => format!("{path}: a running receiver has it open"),
        Contents::Waiting(0) => format!("{path}: empty"),
        Contents::Waiting(count) => format!("{path}: {count} delivery(ies) wait for a receiver to forward them"),
    })
}

//! Outages of the broker that last, and one that meets a full disk.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::ledger::{Answer, Until};
use crate::scenarios::{broker_again, during, filled};
use crate::stage::{Servers, Stage};

/// How long the last row may take after the broker's return.
const AFTER_RETURN: Duration = Duration::from_secs(60);

/// The least patient sender gives up after 21 minutes; a shorter outage takes so much less of the real rules' time that
/// it is as hard.
pub fn faster(span: Duration) -> u32 {
    let patience = 21 * 60 * 3 / 4;
    u32::try_from(patience / (span.as_secs() + 30)).unwrap_or(1).max(1)
}

/// The broker is away once, for all the time there is; every delivery meanwhile gets the same answer.
pub async fn long(stage: &mut Stage, servers: &mut Servers, expected: Answer) -> anyhow::Result<()> {
    let away = stage.left();
    sleep(Duration::from_secs(2)).await;
    let killed = Instant::now();
    stage.until = killed + away;
    stage.fault("broker");
    servers.brokers.only()?.kill().await;
    sleep(away).await;
    let starting = Instant::now();
    broker_again(stage, servers).await?;
    let back = Instant::now();
    stage.back("broker", &[Until::Accepted, Until::Committed]);
    // What was on its way when the broker died was not sent during its absence; with a spool that makes no difference.
    let spooling = expected == Answer::Status(200);
    let from = if spooling { killed } else { killed + Duration::from_millis(200) };
    if let Some(wrong) = during(stage, from, starting, expected) {
        stage.problems.push(format!("while the broker was away {wrong}"));
    }
    let (sent, slowest) = {
        let ledger = stage.providers.ledger.borrow();
        let meanwhile = ledger.attempts.iter().filter(|attempt| attempt.sent >= killed && attempt.sent <= starting);
        let slowest = meanwhile.clone().map(|attempt| attempt.answered - attempt.sent).max();
        (meanwhile.count(), slowest.unwrap_or_default())
    };
    let per_second = sent as f64 / (starting - killed).as_secs_f64();
    stage.notes.push(format!(
        "the broker was away for {} s, in which {sent} requests were answered ({per_second:.0}/s), the slowest after {} ms",
        (back - killed).as_secs(),
        slowest.as_millis()
    ));
    if spooling {
        stage.drains = Some((back, AFTER_RETURN));
    }
    Ok(())
}

/// The broker is away, and then the spool has no room either: whoever gets a 200 is in it, everybody else gets a 503.
pub async fn spool_disk(stage: &mut Stage, servers: &mut Servers) -> anyhow::Result<()> {
    let ballast = stage.machine.folder.join("spool-disk/ballast");
    let mut refused = false;
    loop {
        let (calm, spooling, full) = (stage.some(300, 1_000), stage.some(300, 1_000), stage.some(1_000, 2_500));
        sleep(calm).await;
        stage.fault("broker");
        servers.brokers.only()?.kill().await;
        sleep(spooling).await;
        let since = Instant::now();
        filled(&ballast, full).await?;
        let until = Instant::now();
        stage.fault("broker, with room in the spool");
        sleep(spooling).await;
        broker_again(stage, servers).await?;
        stage.back("broker", &[Until::Accepted, Until::Committed]);
        let taken = {
            let ledger = stage.providers.ledger.borrow();
            let of =
                |answer, from, to| ledger.attempts.iter().any(|a| a.answer == answer && a.sent >= from && a.sent <= to);
            // Not in every round: a journal that is long already has room without the disk.
            refused |= of(Answer::Status(503), since, until);
            of(Answer::Status(200), until, until + spooling)
        };
        if !taken {
            stage.problems.push("nothing went to the spool once it had room again".to_owned());
        }
        if stage.left() < Duration::from_secs(8) {
            if !refused {
                stage.problems.push("the full disk was never noticed".to_owned());
            }
            return Ok(());
        }
    }
}

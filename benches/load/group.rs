//! The floor of the embedded queue: group-committed inserts of the same bytes into SQLite, without HTTP; and the receiver
//! alone on the embedded queue, which no command starts because nothing would work on what it takes.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use finhook::cli::app::App;
use finhook::cli::{opening, serving};
use finhook::config::Sources;
use finhook::ops::readiness::Readiness;
use finhook::ops::shutdown::Shutdown;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions, query};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};

use super::pace::{Found, Pace, Tally};
use super::publisher::MESSAGE_BYTES;

/// Rows of one statement; a few fixed lengths, so that each is prepared once.
const LENGTHS: [usize; 4] = [64, 16, 4, 1];

type Waiting = oneshot::Sender<()>;

/// Inserts `count` messages, `at_once` of them in flight, each transaction taking whatever waits.
pub async fn insert(path: &Path, count: u64, at_once: usize) -> anyhow::Result<Found> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .disable_statement_logging();
    let mut connection = options.connect().await?;
    let table = "create table message (seq integer primary key, id blob not null, provider text not null,
        received_at integer not null, traceparent text, message blob not null)";
    query(table).execute(&mut connection).await?;
    let (requests, waiting) = mpsc::channel::<Waiting>(1_024);
    let writer = tokio::spawn(write(connection, waiting));
    let pace = Pace::new(count, None);
    let mut tasks = Vec::new();
    for _ in 0..at_once {
        let (requests, pace) = (requests.clone(), pace.clone());
        tasks.push(tokio::spawn(async move {
            let mut tally = Tally::default();
            while let Some((_, due)) = pace.next().await {
                let (answer, answered) = oneshot::channel();
                requests.send(answer).await.context("the writer ended")?;
                answered.await?;
                tally.answer(due, true);
            }
            anyhow::Ok(tally)
        }));
    }
    drop(requests);
    let mut tallies = Vec::new();
    for task in tasks {
        tallies.push(task.await??);
    }
    writer.await??;
    Tally::found(tallies)
}

async fn write(mut connection: SqliteConnection, mut waiting: mpsc::Receiver<Waiting>) -> anyhow::Result<()> {
    let (message, id) = (vec![7_u8; MESSAGE_BYTES], vec![7_u8; 16]);
    let (mut group, mut seq) = (Vec::new(), 0_i64);
    while waiting.recv_many(&mut group, 1_024).await > 0 {
        query("begin immediate").execute(&mut connection).await?;
        let mut rest = group.len();
        for rows in LENGTHS {
            while rest >= rows {
                let values = vec!["(?, ?, 'unit', 0, null, ?)"; rows].join(", ");
                let sql = format!("insert into message values {values}");
                let mut insert = query(AssertSqlSafe(sql));
                for _ in 0..rows {
                    seq += 1;
                    insert = insert.bind(seq).bind(&id).bind(&message);
                }
                insert.execute(&mut connection).await?;
                rest -= rows;
            }
        }
        query("commit").execute(&mut connection).await?;
        group.drain(..).for_each(|answer| answer.send(()).unwrap_or_default());
    }
    Ok(())
}

/// Receives on the embedded queue of a folder until standard input ends; prints its address first, and at the end what it
/// used of the processor in microseconds.
pub async fn receive(folder: PathBuf, token: &str) -> anyhow::Result<()> {
    let sources = Sources::of([("FINHOOK_DATA_DIR", folder.display().to_string())])
        .with("FINHOOK_UNIT_TOKENS", token)
        .with("FINHOOK_HTTP_BIND", "127.0.0.1:0");
    let app = App::from_sources(sources)?.configured()?;
    let queue = opening::open_queue(&app).await?;
    let (readiness, shutdown) = (Readiness::new(app.clock.clone()), Shutdown::new(Duration::from_secs(5)));
    let doors = opening::verifiers(&app)?;
    let began = Instant::now();
    let receiving = serving::receive(&app, doors, app.vault()?, queue.clone(), &readiness, &shutdown).await?;
    let mut output = tokio::io::stdout();
    output.write_all(format!("{}\n", receiving.address).as_bytes()).await?;
    output.flush().await?;
    tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
    shutdown.begin();
    receiving.task.await?;
    queue.close().await;
    let used = super::process::Usage::of(std::process::id())?.processor;
    output.write_all(format!("{} {}\n", used.as_micros(), began.elapsed().as_micros()).as_bytes()).await?;
    output.flush().await?;
    Ok(())
}

//! Whether a worker stays as fast as its tables grow: the same work, in turn, into tables of each size.
//!
//! The tables are filled by statements alone, ten events about each customer as the traffic has them, and the deliveries
//! are about customers anywhere among those. Every ten of them make three accounts, so that a round is the same rows at
//! every size. The first round of each is not counted: what filling left in memory is not what a table has there that grew
//! by the same traffic.

use anyhow::Context;
use sqlx::{AssertSqlSafe, Connection as _, Executor, PgConnection};

use super::latencies::Latencies;
use super::measurements::{Scale, fill, steadily, worked, written};
use super::report::{Report, Wanted};
use super::stage::Stage;
use super::traffic::{FIRST_CUSTOMER, FIRST_EVENT, PER_CUSTOMER};

/// Rows of one statement that fills a table.
const CHUNK: u64 = 1_000_000;
/// How often each size comes in a round: an fsync that takes long, or a log that the broker takes over, falls into one slice.
const SLICES: u64 = 3;
/// Deliveries that a worker drains in each of them.
const BACKLOG: u64 = 60_000;
/// Seconds of a steady rate.
const SECONDS: u64 = 10;
/// Deliveries between the first ones of two rounds.
const APART: u64 = 400_000;
/// Deliveries between the first ones of two slices of a steady rate.
const SLICE_APART: u64 = 50_000;

/// Draining and latency at every size.
pub async fn growth(stage: &mut Stage, scale: Scale, report: &mut Report) -> anyhow::Result<()> {
    let mut tables = Vec::new();
    for size in scale.grown.iter().copied() {
        let database = stage.database().await?;
        preload(&database, size).await.with_context(|| format!("fill tables with {size} events"))?;
        tables.push((size, database, Vec::new(), Vec::new()));
    }
    for round in 0..=scale.rounds as u64 {
        let place = |size: u64| (size + round * APART, format!("among:{}", size / PER_CUSTOMER));
        let mut drained_in: Vec<f64> = vec![0.0; tables.len()];
        for slice in 0..SLICES {
            for ((size, database, ..), seconds) in tables.iter().zip(&mut drained_in) {
                let (first, among) = place(*size);
                fill(stage, database, BACKLOG, first + slice * BACKLOG, &["0", &among]).await?;
                *seconds += BACKLOG as f64 / worked(stage, database, BACKLOG).await?.0;
            }
        }
        if round == 0 {
            continue;
        }
        let seconds = SECONDS.min(scale.seconds);
        let mut latencies: Vec<Latencies> = tables.iter().map(|_| Latencies::default()).collect();
        for slice in 0..SLICES {
            for ((size, database, ..), latencies) in tables.iter().zip(&mut latencies) {
                let (first, among) = place(*size);
                let first = first + SLICES * BACKLOG + slice * SLICE_APART;
                // Draining leaves more to be written the larger the tables are, a steady rate leaves little.
                written(database).await?;
                latencies.add(&steadily(stage, database, seconds, first, &[&among]).await?);
            }
        }
        for ((.., rates, nineties), (drained_in, latencies)) in tables.iter_mut().zip(drained_in.iter().zip(latencies))
        {
            rates.push((SLICES * BACKLOG) as f64 / drained_in);
            nineties.push(latencies.quantile(0.99));
        }
    }
    let (few_rates, few_nineties) =
        tables.first().map(|(_, _, rates, nineties)| (rates.clone(), nineties.clone())).context("no size")?;
    for (size, _, rates, nineties) in &tables {
        let what = format!("worker, into tables of {size} events (floor: the fewest)");
        report.add(&what, "events/s", rates, &few_rates, Wanted::RatioAtLeast(1.0 / 1.25));
        let what = format!("received to committed at 500/s, p99, {size} events (floor: the fewest)");
        report.add(&what, "ms", nineties, &few_nineties, Wanted::RatioAtMost(1.25));
    }
    for _ in tables {
        stage.drop_database().await?;
    }
    Ok(())
}

/// Users, integrations, accounts and events as they would be after so many deliveries.
async fn preload(database: &str, events: u64) -> anyhow::Result<()> {
    let mut connection = PgConnection::connect(database).await?;
    connection.execute("set synchronous_commit = off").await?;
    let id =
        |kind: u8, number: &str| format!("('01900000-0000-7000-8{kind}00-' || lpad(to_hex({number}), 12, '0'))::uuid");
    let customer = format!("({FIRST_CUSTOMER} + n)::text");
    let statements = [
        (
            events / PER_CUSTOMER,
            format!(
                r#"insert into "user" (id, external_id) select {user}, 'u_' || {customer} from generate_series($1, $2) n"#,
                user = id(1, "n"),
            ),
        ),
        (
            events / PER_CUSTOMER,
            format!(
                "insert into integration (id, service, external_id, user_id, owner_rank)
                 select {integration}, 'unit', {customer}, {user}, 2 from generate_series($1, $2) n",
                integration = id(2, "n"),
                user = id(1, "n"),
            ),
        ),
        (
            events / PER_CUSTOMER * 3,
            format!(
                "insert into account (id, integration_id, user_id, external_id_index, baas_id_index, external_id, baas_id)
                 select {account}, {integration}, {user}, sha256(n::text::bytea), sha256(n::text::bytea), sealed, sealed
                 from generate_series($1, $2) n, repeat('f', 83) sealed",
                account = id(3, "n"),
                integration = id(2, "n / 3"),
                user = id(1, "n / 3"),
            ),
        ),
        (
            events,
            format!(
                "insert into event (id, occurred_at, received_at, processed_at, provider, state, dedup_key, kind, subject,
                    payload)
                 select {event}, t, t, t, 'unit', 'applied', ({FIRST_EVENT} + n)::text::bytea, 'account.updated',
                    ({FIRST_CUSTOMER} + n / {PER_CUSTOMER})::text, decode(repeat(md5(n::text), 28), 'hex')
                 from generate_series($1, $2) n, (select timestamptz '2026-01-01' as t) long_ago",
                event = id(4, "n"),
            ),
        ),
    ];
    for (rows, statement) in statements {
        for first in (0..rows).step_by(CHUNK as usize) {
            let last = rows.min(first + CHUNK) - 1;
            let chunk =
                sqlx::query(AssertSqlSafe(statement.clone())).bind(i64::try_from(first)?).bind(i64::try_from(last)?);
            chunk.execute(&mut connection).await?;
        }
    }
    // As the server itself would have done by the time that there is so much.
    connection.execute("vacuum analyze").await?;
    written(database).await?;
    println!("  tables of {events} events are filled");
    Ok(())
}

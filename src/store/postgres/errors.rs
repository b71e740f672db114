//! What a PostgreSQL error means for the events of a batch, by SQLSTATE. The driver's text is never kept: it can quote
//! values of a row.

use sqlx::Error;

use crate::store::{StoreError, StoreTrouble};

/// Puts what was being done and the kind of trouble together.
pub fn of(doing: &'static str) -> impl Fn(Error) -> StoreError {
    move |error| {
        let (trouble, code) = kind(&error);
        StoreError { trouble, what: format!("{doing}: {code}") }
    }
}

/// Before a connection is there, no event can be at fault, whatever the server's reason.
pub fn connecting(error: Error) -> StoreError {
    StoreError { trouble: StoreTrouble::Unavailable, ..of("connect")(error) }
}

fn kind(error: &Error) -> (StoreTrouble, String) {
    use StoreTrouble::{Failed, Unavailable};
    match error {
        Error::Database(database) => {
            let state = database.code().unwrap_or_default().into_owned();
            // invalid_authorization_specification: also what pg_hba.conf says to who comes without TLS.
            let hint =
                if state == "28000" { "; a server that wants TLS needs sslmode=require in DATABASE_URL" } else { "" };
            (by_sqlstate(&state), format!("SQLSTATE {state}{hint}"))
        }
        Error::Io(io) => (Unavailable, format!("connection: {:?}", io.kind())),
        Error::Tls(_) => (Unavailable, "connection: TLS".into()),
        // What a connection that broke in the middle of an answer looks like.
        Error::Protocol(_) | Error::WorkerCrashed => (Unavailable, "connection: broken answer".into()),
        Error::PoolTimedOut => (Unavailable, "no connection within the acquire timeout".into()),
        Error::PoolClosed => (Unavailable, "the pool is closed".into()),
        Error::RowNotFound => (Failed, "no row".into()),
        _ => (Failed, "the answer could not be read".into()),
    }
}

/// PostgreSQL, appendix A. What no event can be at fault for is `Unavailable`: hold and retry.
pub fn by_sqlstate(state: &str) -> StoreTrouble {
    match state {
        // serialization_failure, deadlock_detected, lock_not_available (lock_timeout)
        "40001" | "40P01" | "55P03" => StoreTrouble::Conflict,
        // query_canceled (statement_timeout), admin and crash shutdown, cannot_connect_now, database_dropped
        "57014" | "57P01" | "57P02" | "57P03" | "57P04" | "57P05" => StoreTrouble::Unavailable,
        // read_only_sql_transaction (a standby after a failover), idle_in_transaction_session_timeout
        "25006" | "25P03" | "25P04" => StoreTrouble::Unavailable,
        // undefined_table, undefined_column (not migrated), insufficient_privilege
        "42P01" | "42703" | "42501" => StoreTrouble::Unavailable,
        // program_limit_exceeded: a value too large for an index
        "54000" => StoreTrouble::Refused,
        _ => match state.get(..2) {
            // connection exception, invalid authorization, invalid catalog, insufficient resources, system error
            Some("08" | "28" | "3D" | "53" | "58") => StoreTrouble::Unavailable,
            Some("22") => StoreTrouble::Refused,
            _ => StoreTrouble::Failed,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sqlstate_has_its_kind_and_an_unknown_one_isolates_the_event() {
        for (state, trouble) in [
            ("08006", StoreTrouble::Unavailable),
            ("57P01", StoreTrouble::Unavailable),
            ("57014", StoreTrouble::Unavailable),
            ("53300", StoreTrouble::Unavailable),
            ("25006", StoreTrouble::Unavailable),
            ("42P01", StoreTrouble::Unavailable),
            ("40P01", StoreTrouble::Conflict),
            ("55P03", StoreTrouble::Conflict),
            ("22021", StoreTrouble::Refused),
            ("54000", StoreTrouble::Refused),
            ("23505", StoreTrouble::Failed),
            ("XX000", StoreTrouble::Failed),
            ("", StoreTrouble::Failed),
        ] {
            assert_eq!(by_sqlstate(state), trouble, "{state}");
        }
    }
}

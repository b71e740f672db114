//! What a SQLite error means for the events of a batch, by result code. The driver's text is never kept: it can quote
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

fn kind(error: &Error) -> (StoreTrouble, String) {
    use StoreTrouble::{Failed, Unavailable};
    match error {
        Error::Database(database) => {
            let code: i64 = database.code().and_then(|code| code.parse().ok()).unwrap_or(0);
            (by_code(code), format!("SQLite result code {code}"))
        }
        Error::Io(io) => (Unavailable, format!("file: {:?}", io.kind())),
        Error::WorkerCrashed => (Unavailable, "the connection's thread ended".into()),
        Error::PoolTimedOut => (Unavailable, "no connection within the acquire timeout".into()),
        Error::PoolClosed => (Unavailable, "the pool is closed".into()),
        _ => (Failed, "the answer could not be read".into()),
    }
}

/// <https://www.sqlite.org/rescode.html>; the low byte of an extended code is its primary one.
pub fn by_code(code: i64) -> StoreTrouble {
    match code & 0xff {
        // BUSY after busy_timeout, LOCKED: another process writes.
        5 | 6 => StoreTrouble::Conflict,
        // NOMEM, READONLY, INTERRUPT, IOERR, CORRUPT, FULL, CANTOPEN, NOTADB: no event is at fault for these.
        7 | 8 | 9 | 10 | 11 | 13 | 14 | 26 => StoreTrouble::Unavailable,
        // TOOBIG, MISMATCH: what the event contains.
        18 | 20 => StoreTrouble::Refused,
        _ => StoreTrouble::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extended_result_code_counts_as_its_primary_one() {
        for (code, trouble) in [
            (5, StoreTrouble::Conflict),
            (261, StoreTrouble::Conflict),
            (13, StoreTrouble::Unavailable),
            (778, StoreTrouble::Unavailable),
            (8, StoreTrouble::Unavailable),
            (18, StoreTrouble::Refused),
            (787, StoreTrouble::Failed),
            (2067, StoreTrouble::Failed),
        ] {
            assert_eq!(by_code(code), trouble, "{code}");
        }
    }
}

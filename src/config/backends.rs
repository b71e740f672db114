//! Which store and which queue: PostgreSQL or SQLite, RabbitMQ or embedded, and where the embedded ones live.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::{ConfigError, Values};

/// The database behind the store.
#[derive(Debug, Clone)]
pub enum StoreSettings {
    /// A PostgreSQL server.
    Postgres {
        /// `postgres://…`, with the password that may stand in it.
        url: SecretString,
    },
    /// An embedded SQLite file.
    Sqlite {
        /// The file.
        path: PathBuf,
    },
}

impl StoreSettings {
    /// Reads `DATABASE_URL`; unset, the embedded store in `FINHOOK_DATA_DIR`.
    pub fn from_values(values: &Values) -> Result<Self, ConfigError> {
        const ACCEPTED: &str = "takes postgres://…, sqlite://relative/path or sqlite:///absolute/path";
        let Some(url) = values.secret("DATABASE_URL")? else {
            return Ok(Self::Sqlite { path: data_folder(values)?.join("finhook.db") });
        };
        match url.expose_secret().trim().split_once("://") {
            Some(("postgres" | "postgresql", rest)) if !rest.is_empty() => Ok(Self::Postgres { url }),
            Some(("sqlite", path)) if path.contains(":memory:") => {
                Err(values.error("DATABASE_URL", "takes a file: what lives in memory alone cannot keep a promise"))
            }
            Some(("sqlite", path)) if path.contains(['?', '#']) => {
                Err(values.error("DATABASE_URL", "takes no options behind the path of an sqlite store"))
            }
            // A path that ends so names a folder.
            Some(("sqlite", path)) if !path.is_empty() && !path.ends_with('/') => {
                Ok(Self::Sqlite { path: path.into() })
            }
            _ => Err(values.error("DATABASE_URL", ACCEPTED)),
        }
    }

    /// The folder of an embedded store, where the embedded queue and the generated secrets live too; `None` with
    /// PostgreSQL, for which nothing is ever generated.
    pub fn folder(&self) -> Option<PathBuf> {
        match self {
            Self::Postgres { .. } => None,
            // The parent of a bare file name is the empty path, which not every system call takes for this folder.
            Self::Sqlite { path } => {
                Some(path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new(".")).to_owned())
            }
        }
    }
}

fn data_folder(values: &Values) -> Result<PathBuf, ConfigError> {
    let folder = values.text("FINHOOK_DATA_DIR");
    folder.map(PathBuf::from).ok_or_else(|| values.error("FINHOOK_DATA_DIR", "is needed and has no default"))
}

/// Whether a host is this machine by its name alone: what is sent there crosses no network.
pub fn is_this_machine(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || host.parse().is_ok_and(|address: IpAddr| address.to_canonical().is_loopback())
}

/// The queue between receiver and worker.
#[derive(Debug, Clone)]
pub enum QueueSettings {
    /// A RabbitMQ broker.
    RabbitMq(RabbitMqSettings),
    /// An embedded, durable log; both halves in one process.
    Embedded {
        /// The file.
        path: PathBuf,
        /// How long a publish waits until it is durable.
        confirm_timeout: Duration,
    },
}

/// A RabbitMQ broker, and what is ours on it.
#[derive(Debug, Clone)]
pub struct RabbitMqSettings {
    /// `amqp://…` or `amqps://…`, with the password that may stand in it.
    pub url: SecretString,
    /// What the names of exchange and queues start with.
    pub prefix: String,
    /// How long a publish waits for the broker's confirm.
    pub confirm_timeout: Duration,
    /// Where a receiver keeps what the broker does not take; `None`: nowhere.
    pub spool: Option<SpoolSettings>,
    /// The broker's management API, with the password that may stand in it.
    pub management: Option<SecretString>,
}

/// The spool of a receiver.
#[derive(Debug, Clone)]
pub struct SpoolSettings {
    /// A file, or a folder for it.
    pub path: PathBuf,
    /// Most bytes of deliveries in it.
    pub max_bytes: u64,
}

impl SpoolSettings {
    /// Reads them; `None` without `FINHOOK_SPOOL`.
    fn from_values(values: &Values) -> Result<Option<Self>, ConfigError> {
        let max_bytes = values.number_in("FINHOOK_SPOOL_MAX_BYTES", 1 << 20..=1 << 50)?;
        Ok(values.text("FINHOOK_SPOOL").map(|path| Self { path: path.into(), max_bytes }))
    }
}

/// The variable that names the management API.
const MANAGEMENT: &str = "FINHOOK_RABBITMQ_MANAGEMENT_URL";

impl QueueSettings {
    /// Reads `AMQP_URL` and what goes with it; unset, the embedded queue beside the embedded `store`.
    pub fn from_values(values: &Values, store: &StoreSettings) -> Result<Self, ConfigError> {
        let bounds = Duration::from_millis(100)..=Duration::from_secs(60);
        let confirm_timeout = values.duration_in("FINHOOK_CONFIRM_TIMEOUT", bounds)?;
        let spool = SpoolSettings::from_values(values)?;
        let management = values.secret(MANAGEMENT)?;
        match (values.secret("AMQP_URL")?, store.folder()) {
            (Some(url), _) => match url.expose_secret().trim().split_once("://") {
                Some(("amqp" | "amqps", rest)) if !rest.is_empty() => {
                    let prefix = prefix(values)?;
                    Ok(Self::RabbitMq(RabbitMqSettings { prefix, url, confirm_timeout, spool, management }))
                }
                _ => Err(values.error("AMQP_URL", "takes amqp://… or amqps://…")),
            },
            (None, _) if spool.is_some() => {
                Err(values.error("FINHOOK_SPOOL", "is for AMQP_URL: the embedded queue is on disk already; leave it out"))
            }
            (None, _) if management.is_some() => {
                Err(values.error(MANAGEMENT, "is for AMQP_URL: the embedded queue says everything itself; leave it out"))
            }
            (None, Some(folder)) => Ok(Self::Embedded { path: folder.join("queue.db"), confirm_timeout }),
            (None, None) => Err(values.error(
                "AMQP_URL",
                "the embedded queue needs the sqlite store: with PostgreSQL give amqp://… too, or leave out DATABASE_URL",
            )),
        }
    }
}

/// RabbitMQ keeps names that start with `amq.` for itself; the rest is what needs no escaping anywhere.
fn prefix(values: &Values) -> Result<String, ConfigError> {
    let prefix = values.text("FINHOOK_AMQP_PREFIX").unwrap_or_default();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if prefix.bytes().all(plain) && (1..=100).contains(&prefix.len()) && !prefix.starts_with("amq.") {
        return Ok(prefix);
    }
    Err(values.error("FINHOOK_AMQP_PREFIX", "takes up to 100 letters, digits, -, _ and ., not starting with amq."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    fn read(given: &[(&str, &str)]) -> Result<(StoreSettings, QueueSettings), String> {
        let values = Values::load(&Sources::of(given.iter().copied()), &[]).unwrap();
        let store = StoreSettings::from_values(&values).map_err(|error| error.to_string())?;
        let queue = QueueSettings::from_values(&values, &store).map_err(|error| error.to_string())?;
        Ok((store, queue))
    }

    fn paths(given: &[(&str, &str)]) -> (PathBuf, PathBuf, PathBuf) {
        match read(given).unwrap() {
            (store @ StoreSettings::Sqlite { .. }, QueueSettings::Embedded { path: queue, .. }) => {
                let folder = store.folder().unwrap();
                let StoreSettings::Sqlite { path } = store else { unreachable!() };
                (path, queue, folder)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn without_urls_everything_is_embedded_in_the_data_folder() {
        let expected = |folder: &str| {
            let folder = PathBuf::from(folder);
            (folder.join("finhook.db"), folder.join("queue.db"), folder)
        };
        assert_eq!(paths(&[]), expected("./finhook-data"));
        assert_eq!(paths(&[("FINHOOK_DATA_DIR", "/srv/finhook")]), expected("/srv/finhook"));
    }

    #[test]
    fn an_sqlite_url_names_a_relative_or_an_absolute_file() {
        let (store, queue, folder) = paths(&[("DATABASE_URL", "sqlite:///srv/own.db")]);
        assert_eq!((store, queue, folder), ("/srv/own.db".into(), "/srv/queue.db".into(), "/srv".into()));
        let (store, queue, folder) = paths(&[("DATABASE_URL", "sqlite://own.db")]);
        assert_eq!((store, queue, folder), ("own.db".into(), "./queue.db".into(), ".".into()));
    }

    #[test]
    fn servers_are_taken_as_given() {
        for url in ["postgres://u:p@db/app", "postgresql://db/app"] {
            let given = [("DATABASE_URL", url), ("AMQP_URL", "amqps://u:p@mq/%2f"), ("FINHOOK_AMQP_PREFIX", "t-1.x_y")];
            let (store, queue) = read(&given).unwrap();
            assert!(store.folder().is_none());
            let QueueSettings::RabbitMq(queue) = queue else { panic!("{queue:?}") };
            assert_eq!((queue.prefix.as_str(), queue.confirm_timeout), ("t-1.x_y", Duration::from_secs(5)));
        }
        assert!(read(&[("AMQP_URL", "amqp://localhost")]).is_ok());
    }

    #[test]
    fn a_spool_stands_before_a_broker_and_nowhere_else() {
        let spool = |given: &[(&str, &str)]| match read(given)?.1 {
            QueueSettings::RabbitMq(rabbit) => Ok(rabbit.spool.map(|spool| (spool.path, spool.max_bytes))),
            QueueSettings::Embedded { .. } => Err("embedded".to_owned()),
        };
        let broker = ("AMQP_URL", "amqp://localhost");
        assert_eq!(spool(&[broker]), Ok(None));
        assert_eq!(spool(&[broker, ("FINHOOK_SPOOL", "/srv/spool")]), Ok(Some(("/srv/spool".into(), 1 << 30))));
        let given = [broker, ("FINHOOK_SPOOL", "s.db"), ("FINHOOK_SPOOL_MAX_BYTES", "1048576")];
        assert_eq!(spool(&given), Ok(Some(("s.db".into(), 1 << 20))));
        assert!(spool(&[broker, ("FINHOOK_SPOOL", "s.db"), ("FINHOOK_SPOOL_MAX_BYTES", "1")]).is_err());
        let problem = spool(&[("FINHOOK_SPOOL", "/srv/spool")]).unwrap_err();
        assert!(problem.starts_with("FINHOOK_SPOOL") && problem.contains("AMQP_URL"), "{problem}");
    }

    #[test]
    fn the_management_api_belongs_to_a_broker() {
        let given = [("AMQP_URL", "amqp://localhost"), (MANAGEMENT, "http://u:hunter2@localhost:15672")];
        let QueueSettings::RabbitMq(rabbit) = read(&given).unwrap().1 else { panic!("a broker is given") };
        assert!(rabbit.management.is_some());
        let problem = read(&given[1..]).unwrap_err();
        assert!(problem.starts_with(MANAGEMENT) && problem.contains("AMQP_URL"), "{problem}");
        assert!(!problem.contains("hunter2"), "{problem}");
    }

    #[test]
    fn postgresql_without_a_broker_is_an_error_that_says_what_to_do() {
        let problem = read(&[("DATABASE_URL", "postgres://u:hunter2@db/app")]).unwrap_err();
        assert!(problem.starts_with("AMQP_URL (not set): the embedded queue needs the sqlite store"), "{problem}");
    }

    #[test]
    fn any_other_url_is_an_error_that_says_what_is_accepted_and_quotes_nothing() {
        let stores = [
            "mysql://hunter2",
            "hunter2",
            "sqlite:hunter2",
            "sqlite://",
            "sqlite://hunter2/",
            "postgres://",
            "Postgres://hunter2",
        ];
        for url in stores {
            let problem = read(&[("DATABASE_URL", url)]).unwrap_err();
            assert!(problem.contains("takes postgres://…, sqlite://") && !problem.contains("hunter2"), "{problem}");
        }
        for url in ["sqlite://:memory:", "sqlite::memory:", "sqlite://x.db?mode=memory"] {
            assert!(read(&[("DATABASE_URL", url)]).is_err());
        }
        for url in ["http://hunter2", "hunter2", "amqp://"] {
            let problem = read(&[("AMQP_URL", url)]).unwrap_err();
            assert!(problem.contains("takes amqp://… or amqps://…") && !problem.contains("hunter2"), "{problem}");
        }
        for prefix in ["a b", "amq.x", "ä"] {
            assert!(read(&[("AMQP_URL", "amqp://x"), ("FINHOOK_AMQP_PREFIX", prefix)]).is_err());
        }
    }

    #[test]
    fn passwords_do_not_show_in_debug_output() {
        let given = [("DATABASE_URL", "postgres://u:hunter2@db/app"), ("AMQP_URL", "amqp://u:hunter2@mq")];
        assert!(!format!("{:?}", read(&given).unwrap()).contains("hunter2"));
    }
}

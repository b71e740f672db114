//! The typed settings, one struct per concern, so that no other room reads text or names a variable.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use secrecy::{ExposeSecret, SecretString};

use super::{ChangesSettings, ConfigError, QueueSettings, StoreSettings, TraceSettings, Values};

/// Every setting that is not a provider's.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The database.
    pub store: StoreSettings,
    /// The queue.
    pub queue: QueueSettings,
    /// How the product is told of changes.
    pub changes: ChangesSettings,
    /// The public port.
    pub http: HttpSettings,
    /// The operators' port.
    pub ops: OpsSettings,
    /// The workers.
    pub worker: WorkerSettings,
    /// The keys, as text: `crypto` reads them.
    pub keys: KeySettings,
    /// The log.
    pub log: LogSettings,
    /// The export of spans; `None`: none.
    pub traces: Option<TraceSettings>,
    /// How long a stopping process finishes what it began.
    pub shutdown_timeout: Duration,
}

impl Settings {
    /// Reads all of them, and reports every problem. In embedded mode call [`Values::ensure_generated`] first.
    pub fn from_values(values: &Values) -> Result<Self, Vec<ConfigError>> {
        let store = StoreSettings::from_values(values);
        let queue = store.as_ref().ok().map(|store| QueueSettings::from_values(values, store)).transpose();
        let changes = match &queue {
            Ok(Some(queue)) => ChangesSettings::from_values(values, queue),
            // What is wrong with the queue is said already.
            _ => Ok(ChangesSettings::default()),
        };
        let http = HttpSettings::from_values(values);
        let ops = OpsSettings::from_values(values);
        let worker = WorkerSettings::from_values(values);
        let keys = KeySettings::from_values(values);
        let log = LogSettings::from_values(values);
        let traces = TraceSettings::from_values(values);
        let shutdown =
            values.duration_in("FINHOOK_SHUTDOWN_TIMEOUT", Duration::from_secs(1)..=Duration::from_secs(3600));
        match (store, queue, changes, http, ops, worker, keys, log, traces, shutdown) {
            (
                Ok(store),
                Ok(Some(queue)),
                Ok(changes),
                Ok(http),
                Ok(ops),
                Ok(worker),
                Ok(keys),
                Ok(log),
                Ok(traces),
                Ok(shutdown_timeout),
            ) => Ok(Self { store, queue, changes, http, ops, worker, keys, log, traces, shutdown_timeout }),
            (store, queue, changes, http, ops, worker, keys, log, traces, shutdown) => {
                let problems = [store.err(), queue.err(), http.err(), ops.err(), worker.err(), keys.err(), log.err()];
                Err(problems.into_iter().chain([changes.err(), traces.err(), shutdown.err()]).flatten().collect())
            }
        }
    }
}

/// Where a certificate and its key are.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The chain, PEM, the server's own certificate first.
    pub certificate: PathBuf,
    /// The key, PEM.
    pub key: PathBuf,
}

impl TlsFiles {
    /// Reads both names; `None` without either.
    fn from_values(values: &Values, certificate: &str, key: &str) -> Result<Option<Self>, ConfigError> {
        match (values.text(certificate), values.text(key)) {
            (None, None) => Ok(None),
            (Some(certificate), Some(key)) => Ok(Some(Self { certificate: certificate.into(), key: key.into() })),
            (None, Some(_)) => Err(values.error(certificate, format!("is needed beside {key}"))),
            (Some(_), None) => Err(values.error(key, format!("is needed beside {certificate}"))),
        }
    }
}

/// The public port, where providers post, and what it takes at once.
#[derive(Debug, Clone)]
pub struct HttpSettings {
    /// Where it listens.
    pub bind: SocketAddr,
    /// Its certificate; `None`: plain HTTP.
    pub tls: Option<TlsFiles>,
    /// The largest body; larger ones get 413.
    pub max_body_bytes: usize,
    /// How many deliveries are handled at once; more get 503.
    pub max_in_flight: usize,
    /// How many bytes of bodies are held at once; more get 503.
    pub max_in_flight_bytes: usize,
    /// How many connections are held open.
    pub max_connections: usize,
    /// Whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
}

impl HttpSettings {
    /// Reads them.
    pub fn from_values(values: &Values) -> Result<Self, ConfigError> {
        // The queue carries a body in one message, for which RabbitMQ's own limit is 128 MiB (16 MiB from 4.0).
        let max_body_bytes = size(values, "FINHOOK_MAX_BODY_BYTES", 1, 15 << 20)?;
        let max_in_flight_bytes = size(values, "FINHOOK_MAX_IN_FLIGHT_BYTES", 1, 1 << 40)?;
        if max_in_flight_bytes < max_body_bytes {
            let problem = "is smaller than FINHOOK_MAX_BODY_BYTES, so the largest body would never be taken";
            return Err(values.error("FINHOOK_MAX_IN_FLIGHT_BYTES", problem));
        }
        Ok(Self {
            bind: address(values, "FINHOOK_HTTP_BIND")?,
            tls: TlsFiles::from_values(values, "FINHOOK_HTTP_TLS_CERT", "FINHOOK_HTTP_TLS_KEY")?,
            max_body_bytes,
            max_in_flight: size(values, "FINHOOK_MAX_IN_FLIGHT", 1, 1 << 20)?,
            max_in_flight_bytes,
            max_connections: size(values, "FINHOOK_MAX_CONNECTIONS", 1, 1 << 20)?,
            trusted_proxies: values.networks("FINHOOK_TRUSTED_PROXIES", &[])?,
        })
    }

    /// Where a command on this machine posts to.
    pub fn own_url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.bind)
    }
}

/// The operators' port.
#[derive(Debug, Clone)]
pub struct OpsSettings {
    /// Where it listens.
    pub bind: SocketAddr,
    /// Its certificate; `None`: plain HTTP.
    pub tls: Option<TlsFiles>,
    /// Who may use `/v1` and the dashboard; empty: whoever comes from loopback.
    pub tokens: Vec<OpsToken>,
}

/// One bearer token.
#[derive(Debug, Clone)]
pub struct OpsToken {
    /// What it allows.
    pub role: Role,
    /// The token itself.
    pub token: SecretString,
}

/// What a bearer token allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Queues, events, replay.
    Ops,
    /// Users, integrations, accounts.
    App,
}

impl OpsSettings {
    /// Reads them.
    pub fn from_values(values: &Values) -> Result<Self, ConfigError> {
        const TOKENS: &str = "FINHOOK_OPS_TOKENS";
        let token = |(place, entry): (usize, &SecretString)| {
            let (role, token) = match entry.expose_secret().split_once(':') {
                Some(("ops", token)) => (Role::Ops, token.trim()),
                Some(("app", token)) => (Role::App, token.trim()),
                _ => (Role::App, ""),
            };
            if token.is_empty() {
                let problem = format!("entry {} is not ops:TOKEN or app:TOKEN", place + 1);
                return Err(values.error(TOKENS, problem));
            }
            Ok(OpsToken { role, token: SecretString::from(token) })
        };
        let tokens = values.secrets(TOKENS)?.iter().enumerate().map(token).collect::<Result<_, ConfigError>>()?;
        let tls = TlsFiles::from_values(values, "FINHOOK_OPS_TLS_CERT", "FINHOOK_OPS_TLS_KEY")?;
        Ok(Self { bind: address(values, "FINHOOK_OPS_BIND")?, tls, tokens })
    }
}

/// The workers.
#[derive(Debug, Clone)]
pub struct WorkerSettings {
    /// How many one process runs.
    pub workers: usize,
    /// How many deliveries are committed together at most.
    pub batch_max: usize,
    /// Whether a user that a verified event names is created.
    pub create_users: bool,
    /// How many days an event waits for its subject's user.
    pub unlinked_days: u32,
    /// How long there may be work and nothing be committed before the process is not ready.
    pub stalled_after: Duration,
    /// How many days payloads that nothing needs any more are kept.
    pub payload_days: Option<u32>,
    /// How many days rows of events are kept.
    pub event_days: Option<u32>,
}

impl WorkerSettings {
    /// Reads them.
    pub fn from_values(values: &Values) -> Result<Self, ConfigError> {
        let days = values.number_in("FINHOOK_UNLINKED_DAYS", 1..=36_500)?;
        Ok(Self {
            workers: size(values, "FINHOOK_WORKERS", 1, 64)?,
            batch_max: size(values, "FINHOOK_BATCH_MAX", 1, 10_000)?,
            create_users: values.flag("FINHOOK_CREATE_USERS")?,
            unlinked_days: u32::try_from(days).unwrap_or(u32::MAX),
            stalled_after: values
                .duration_in("FINHOOK_STALLED_AFTER", Duration::from_secs(5)..=Duration::from_secs(3600))?,
            payload_days: kept_days(values, "FINHOOK_PAYLOAD_DAYS", 1, "")?,
            event_days: kept_days(
                values,
                "FINHOOK_EVENT_DAYS",
                LEAST_EVENT_DAYS,
                ": providers send events again for so long, and without its row a copy counts as new",
            )?,
        })
    }
}

/// The dedup has to know an event for as long as its provider may send it again: 90 days (Unit).
const LEAST_EVENT_DAYS: u64 = 90;

fn kept_days(values: &Values, name: &str, least: u64, why: &str) -> Result<Option<u32>, ConfigError> {
    if values.text(name).is_none() {
        return Ok(None);
    }
    let days = values.number(name)?;
    if !(least..=36_500).contains(&days) {
        return Err(values.error(name, format!("takes a number of days from {least} to 36500, not {days}{why}")));
    }
    Ok(u32::try_from(days).ok())
}

/// The keys, as text: `crypto` reads them.
#[derive(Debug, Clone)]
pub struct KeySettings {
    /// The ring: `ID:KEY[,ID:KEY…]`.
    pub ring: SecretString,
    /// The blind indexes' key.
    pub index: SecretString,
    /// The keys of bound webhook URLs; empty: they are off.
    pub urls: Vec<SecretString>,
}

impl KeySettings {
    /// Reads them. No key, no start.
    pub fn from_values(values: &Values) -> Result<Self, ConfigError> {
        let needed = |name: &str| {
            let missing = || values.error(name, "is needed: `finhook keys generate` prints new keys; keep them safe");
            values.secret(name)?.ok_or_else(missing)
        };
        Ok(Self {
            ring: needed("FINHOOK_KEYS")?,
            index: needed("FINHOOK_INDEX_KEY")?,
            urls: values.secrets("FINHOOK_URL_KEYS")?,
        })
    }
}

/// The log.
#[derive(Debug, Clone)]
pub struct LogSettings {
    /// A tracing filter.
    pub filter: String,
    /// Its form.
    pub format: LogFormat,
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, else JSON.
    Auto,
    /// For people.
    Text,
    /// For machines.
    Json,
}

impl LogSettings {
    /// Reads them.
    pub fn from_values(values: &Values) -> Result<Self, ConfigError> {
        let format = match values.text("FINHOOK_LOG_FORMAT").as_deref().map(str::trim) {
            Some("auto") | None => LogFormat::Auto,
            Some("text") => LogFormat::Text,
            Some("json") => LogFormat::Json,
            Some(_) => return Err(values.error("FINHOOK_LOG_FORMAT", "takes auto, text or json")),
        };
        Ok(Self { filter: values.text("FINHOOK_LOG").unwrap_or_default(), format })
    }
}

fn size(values: &Values, name: &str, least: u64, most: u64) -> Result<usize, ConfigError> {
    let number = values.number_in(name, least..=most)?;
    usize::try_from(number).map_err(|_| values.error(name, "is more than this machine can count"))
}

fn address(values: &Values, name: &str) -> Result<SocketAddr, ConfigError> {
    let problem = || values.error(name, "takes an address and a port, such as 127.0.0.1:8080 or [::]:8080");
    values.text(name).and_then(|text| text.trim().parse().ok()).ok_or_else(problem)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    const KEYS: [(&str, &str); 2] = [("FINHOOK_KEYS", "1:x"), ("FINHOOK_INDEX_KEY", "x")];

    fn read(given: &[(&str, &str)]) -> Result<Settings, String> {
        let values = Values::load(&Sources::of(given.iter().copied()), &[]).unwrap();
        Settings::from_values(&values)
            .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join(" | "))
    }

    fn with_keys(given: &[(&'static str, &'static str)]) -> Result<Settings, String> {
        read(&[&KEYS, given].concat())
    }

    #[test]
    fn with_keys_alone_everything_else_has_a_default() {
        let settings = with_keys(&[]).unwrap();
        assert_eq!(settings.http.bind, "127.0.0.1:8080".parse().unwrap());
        assert_eq!(settings.ops.bind, "127.0.0.1:9090".parse().unwrap());
        assert_eq!((settings.http.max_body_bytes, settings.http.max_in_flight_bytes), (1 << 20, 16 << 20));
        assert_eq!((settings.worker.create_users, settings.worker.unlinked_days), (true, 90));
        assert_eq!((settings.log.filter.as_str(), settings.log.format), ("info", LogFormat::Auto));
        assert_eq!(settings.shutdown_timeout, Duration::from_secs(25));
        assert!(settings.ops.tokens.is_empty() && settings.keys.urls.is_empty());
    }

    #[test]
    fn missing_keys_are_an_error_that_names_the_command() {
        let problem = read(&[("FINHOOK_KEYS", "1:x")]).unwrap_err();
        assert!(problem.starts_with("FINHOOK_INDEX_KEY (not set): is needed: `finhook keys generate`"), "{problem}");
        assert!(read(&[]).unwrap_err().starts_with("FINHOOK_KEYS (not set)"));
    }

    #[test]
    fn problems_of_all_concerns_are_reported_at_once() {
        let given = [
            ("FINHOOK_HTTP_BIND", "localhost"),
            ("FINHOOK_WORKERS", "0"),
            ("FINHOOK_LOG_FORMAT", "xml"),
            ("FINHOOK_SHUTDOWN_TIMEOUT", "0s"),
            ("DATABASE_URL", "mysql://x"),
        ];
        let problem = with_keys(&given).unwrap_err();
        assert_eq!(problem.matches(" | ").count(), given.len() - 1, "{problem}");
        for (name, _) in given {
            assert!(problem.contains(name), "{problem}");
        }
    }

    #[test]
    fn tokens_have_a_role_and_a_bad_one_is_named_by_its_place() {
        let settings = with_keys(&[("FINHOOK_OPS_TOKENS", "ops:hunter2, app:with:colon")]).unwrap();
        let tokens: Vec<_> =
            settings.ops.tokens.iter().map(|token| (token.role, token.token.expose_secret())).collect();
        assert_eq!(tokens, [(Role::Ops, "hunter2"), (Role::App, "with:colon")]);
        assert!(!format!("{settings:?}").contains("hunter2"));
        for list in ["ops:a,hunter2", "ops:a,root:hunter2", "ops:a,app:"] {
            let problem = with_keys(&[("FINHOOK_OPS_TOKENS", list)]).unwrap_err();
            assert!(problem.contains("entry 2 is not ops:TOKEN or app:TOKEN"), "{problem}");
            assert!(!problem.contains("hunter2"), "{problem}");
        }
    }

    #[test]
    fn rows_are_kept_for_ever_or_at_least_as_long_as_they_may_come_again() {
        let settings = with_keys(&[]).unwrap();
        assert_eq!((settings.worker.payload_days, settings.worker.event_days), (None, None));
        let settings = with_keys(&[("FINHOOK_PAYLOAD_DAYS", "30"), ("FINHOOK_EVENT_DAYS", "90")]).unwrap();
        assert_eq!((settings.worker.payload_days, settings.worker.event_days), (Some(30), Some(90)));
        let problem = with_keys(&[("FINHOOK_EVENT_DAYS", "89")]).unwrap_err();
        assert!(problem.contains("from 90 to 36500, not 89: providers send events again"), "{problem}");
        assert!(with_keys(&[("FINHOOK_PAYLOAD_DAYS", "0")]).unwrap_err().contains("FINHOOK_PAYLOAD_DAYS"));
    }

    #[test]
    fn a_certificate_comes_with_its_key() {
        let both = [("FINHOOK_HTTP_TLS_CERT", "c.pem"), ("FINHOOK_HTTP_TLS_KEY", "k.pem")];
        assert_eq!(with_keys(&both).unwrap().http.tls.unwrap().key, PathBuf::from("k.pem"));
        assert!(with_keys(&[]).unwrap().ops.tls.is_none());
        let problem = with_keys(&both[..1]).unwrap_err();
        assert!(
            problem.contains("FINHOOK_HTTP_TLS_KEY (not set): is needed beside FINHOOK_HTTP_TLS_CERT"),
            "{problem}"
        );
        let problem = with_keys(&[("FINHOOK_OPS_TLS_KEY", "k.pem")]).unwrap_err();
        assert!(problem.contains("FINHOOK_OPS_TLS_CERT (not set)"), "{problem}");
    }

    #[test]
    fn a_budget_that_could_never_hold_the_largest_body_is_an_error() {
        let problem = with_keys(&[("FINHOOK_MAX_IN_FLIGHT_BYTES", "1000")]).unwrap_err();
        assert!(problem.contains("smaller than FINHOOK_MAX_BODY_BYTES"), "{problem}");
    }
}

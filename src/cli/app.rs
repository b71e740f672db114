//! The application, put together from its configuration: what every command starts from.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use secrecy::{ExposeSecret, SecretString};

use crate::config::{ConfigError, QueueSettings, Settings, Sources, StoreSettings, Values, Variable, is_this_machine};
use crate::crypto::{BlindIndex, Encoding, KeyRing, TypeormCipher, UrlKeys, fresh_key};
use crate::domain::WallClock;
use crate::ops::telemetry;
use crate::pipeline::read::Desk;
use crate::providers::{PROVIDERS, Setup};
use crate::queue;
use crate::store::keys::{Misfit, compare, recognise};
use crate::store::{self, Store, StoreOptions, Telling, Vault};

/// Bad usage or configuration: exit code 64. Every problem that was found, one a line.
#[derive(Debug)]
pub struct BadConfiguration(Vec<String>);

impl BadConfiguration {
    /// An argument that cannot be used.
    pub fn usage(problem: impl Into<String>) -> Self {
        Self(vec![problem.into()])
    }

    /// An error that names the variable itself.
    pub fn from_display(error: impl fmt::Display) -> Self {
        Self(vec![error.to_string()])
    }
}

impl fmt::Display for BadConfiguration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n         "))
    }
}

impl std::error::Error for BadConfiguration {}

impl From<ConfigError> for BadConfiguration {
    fn from(error: ConfigError) -> Self {
        Self(vec![error.to_string()])
    }
}

impl From<Vec<ConfigError>> for BadConfiguration {
    fn from(errors: Vec<ConfigError>) -> Self {
        Self(errors.iter().map(ToString::to_string).collect())
    }
}

/// How long a receiver waits for the database that it only looks its keys up in.
const COMPARE_PATIENCE: Duration = Duration::from_secs(5);

/// What all commands share.
pub struct App {
    sources: Sources,
    /// The wall clock.
    pub clock: WallClock,
}

/// An application whose settings are complete.
pub struct Configured {
    values: Arc<Values>,
    /// The typed settings.
    pub settings: Settings,
    /// The wall clock.
    pub clock: WallClock,
}

/// Plaid's development key: a Plaid signature cannot be had otherwise, and only embedded mode trusts one of our own.
const DEVELOPMENT_KEY: &str = "FINHOOK_PLAID_DEVELOPMENT_KEY";

fn declared() -> Vec<&'static [Variable]> {
    PROVIDERS.iter().map(|provider| provider.variables).collect()
}

impl App {
    /// Reads the process's configuration.
    pub fn load() -> Result<Self, BadConfiguration> {
        Self::from_sources(Sources::from_process()?)
    }

    /// Reads a configuration that is handed in; what is wrong with it is said now.
    pub fn from_sources(sources: Sources) -> Result<Self, BadConfiguration> {
        Values::load(&sources, &declared())?;
        Ok(Self { sources, clock: WallClock::system() })
    }

    /// The same by another clock.
    pub fn with_clock(self, clock: WallClock) -> Self {
        Self { clock, ..self }
    }

    /// The same with a setting that an option of the command gives.
    pub fn with_setting(self, name: &str, value: &str) -> Result<Self, BadConfiguration> {
        Ok(Self::from_sources(self.sources.with(name, value))?.with_clock(self.clock))
    }

    /// The same with a secret that an option of the command names a file for.
    pub fn with_secret(self, name: &str, value: SecretString) -> Result<Self, BadConfiguration> {
        Ok(Self::from_sources(self.sources.with_secret(name, value))?.with_clock(self.clock))
    }

    /// The settings, with what embedded mode generated before, but making nothing new: for commands that touch nothing.
    pub fn as_given(self) -> Result<Arc<Values>, BadConfiguration> {
        let mut values = Values::load(&self.sources, &declared())?;
        if let Some(folder) = StoreSettings::from_values(&values)?.folder()
            && folder.join("secrets.toml").exists()
        {
            complete(&mut values, &folder, false)?;
        }
        Ok(Arc::new(values))
    }

    /// The complete settings. Embedded mode makes the keys that nobody gave; with PostgreSQL a missing one is an error.
    pub fn configured(self) -> Result<Configured, BadConfiguration> {
        let mut values = Values::load(&self.sources, &declared())?;
        match StoreSettings::from_values(&values)?.folder() {
            Some(folder) => complete(&mut values, &folder, true)?,
            None if values.is_given(DEVELOPMENT_KEY) => {
                let problem = "is for embedded mode alone: whoever holds it can sign as Plaid; unset it";
                return Err(values.error(DEVELOPMENT_KEY, problem).into());
            }
            None => {}
        }
        let settings = Settings::from_values(&values)?;
        crosses_no_network(&values, &settings)?;
        Ok(Configured { values: Arc::new(values), settings, clock: self.clock })
    }
}

/// Refuses a database or broker on another machine that is not reached by verified TLS, unless the network is trusted.
fn crosses_no_network(values: &Values, settings: &Settings) -> Result<(), BadConfiguration> {
    const TRUSTED: &str = "FINHOOK_TRUST_NETWORK";
    if values.flag(TRUSTED)? {
        return Ok(());
    }
    let mut problems = Vec::new();
    if let StoreSettings::Postgres { url } = &settings.store
        && store::postgres::is_exposed(url)
    {
        problems.push(values.error(
            "DATABASE_URL",
            format!(
                "is on another machine without verified TLS: add sslmode=verify-full (and sslrootcert=FILE for a CA of \
                 your own) to its query, or set {TRUSTED}=true if nobody else is on that network"
            ),
        ));
    }
    if let QueueSettings::RabbitMq(rabbit) = &settings.queue
        && queue::rabbitmq::is_exposed(&rabbit.url)
    {
        problems.push(values.error(
            "AMQP_URL",
            format!(
                "is on another machine without TLS: use amqps:// (with cacertfile=FILE in its query for a CA of your \
                 own), or set {TRUSTED}=true if nobody else is on that network"
            ),
        ));
    }
    const MANAGEMENT: &str = "FINHOOK_RABBITMQ_MANAGEMENT_URL";
    if values.secret(MANAGEMENT)?.is_some_and(|url| is_plain_elsewhere(&url)) {
        let problem = format!(
            "is on another machine without TLS: use https:// (AMQP_URL's cacertfile counts), or set {TRUSTED}=true if nobody else is on that network"
        );
        problems.push(values.error(MANAGEMENT, problem));
    }
    if problems.is_empty() { Ok(()) } else { Err(problems.into()) }
}

/// Whether a URL sends its password in the clear to another machine. One that cannot be read is not judged here.
fn is_plain_elsewhere(url: &SecretString) -> bool {
    let elsewhere = |uri: ::http::Uri| uri.scheme_str() == Some("http") && !uri.host().is_some_and(is_this_machine);
    url.expose_secret().trim().parse().is_ok_and(elsewhere)
}

/// Adds what embedded mode generates: keys, and secrets to develop with. Those of the providers stand in only as long as
/// no provider is really configured, so that one without its secret answers 503 as it does in production.
fn complete(values: &mut Values, folder: &std::path::Path, make: bool) -> Result<(), BadConfiguration> {
    let secrets = PROVIDERS.iter().flat_map(|provider| provider.variables).filter(|variable| variable.secret);
    let real = secrets.clone().any(|variable| variable.name != DEVELOPMENT_KEY && values.is_given(variable.name));
    let mut generators = Vec::new();
    if make {
        generators.extend([
            ("FINHOOK_KEYS", KeyRing::generate_entry(1)),
            ("FINHOOK_INDEX_KEY", fresh_key()),
            ("FINHOOK_URL_KEYS", fresh_key()),
        ]);
        let development = PROVIDERS.iter().flat_map(|provider| (provider.development)());
        generators.extend(development.filter(|(name, _)| !real || *name == DEVELOPMENT_KEY));
    }
    values.ensure_generated(folder, &generators)?;
    if real {
        let development = PROVIDERS.iter().flat_map(|provider| (provider.development)());
        let names: Vec<_> = development.map(|(name, _)| name).filter(|name| *name != DEVELOPMENT_KEY).collect();
        values.leave_out_generated(folder, &names);
    }
    Ok(())
}

impl Configured {
    /// Every value with its origin.
    pub fn values(&self) -> &Arc<Values> {
        &self.values
    }

    /// Starts the log, without what the libraries below would say of messages and credentials.
    pub fn start_log(&self) -> Result<(), BadConfiguration> {
        let silent = [queue::SILENT_LOG_TARGETS, store::SILENT_LOG_TARGETS].concat();
        let log = &self.settings.log;
        telemetry::init(&log.filter, log.format, &silent)
            .map_err(|error| self.values.error("FINHOOK_LOG", error.to_string()).into())
    }

    /// The key ring and the index key.
    pub fn vault(&self) -> Result<Arc<Vault>, BadConfiguration> {
        let keys = &self.settings.keys;
        let wrong = |name: &str, error: crate::crypto::KeyError| self.values.error(name, error.to_string());
        let ring = KeyRing::parse(&keys.ring).map_err(|error| wrong("FINHOOK_KEYS", error))?;
        let index = BlindIndex::parse(&keys.index).map_err(|error| wrong("FINHOOK_INDEX_KEY", error))?;
        Ok(Arc::new(Vault { ring, index, theirs: self.theirs()? }))
    }

    /// What opens the columns that typeorm-encrypted wrote, as long as there are any.
    fn theirs(&self) -> Result<Option<TypeormCipher>, BadConfiguration> {
        const KEY: &str = "FINHOOK_TYPEORM_KEY";
        let Some(key) = self.values.secret(KEY)? else { return Ok(None) };
        let encoding = self.values.text("FINHOOK_TYPEORM_ENCODING").unwrap_or_default();
        let unknown = || self.values.error("FINHOOK_TYPEORM_ENCODING", "takes base64 or hex");
        let encoding = Encoding::parse(&encoding).ok_or_else(unknown)?;
        let cipher = TypeormCipher::parse(&key, self.values.text("FINHOOK_TYPEORM_IV").as_deref(), encoding);
        Ok(Some(cipher.map_err(|error| self.values.error(KEY, error.to_string()))?))
    }

    /// The keys of bound webhook URLs.
    pub fn url_keys(&self) -> Result<Option<Arc<UrlKeys>>, BadConfiguration> {
        url_keys(&self.values)
    }

    /// What providers are made from.
    pub fn setup(&self) -> Result<Setup<'_>, BadConfiguration> {
        Ok(Setup { values: &self.values, url_keys: self.url_keys()?, clock: self.clock.clone() })
    }

    /// What opens and reads.
    pub fn desk(&self, vault: Arc<Vault>) -> Result<Arc<Desk>, BadConfiguration> {
        Ok(Arc::new(Desk::new(&self.values, vault, self.clock.clone())?))
    }

    /// The store, whatever migrations it has.
    pub async fn store_as_it_is(&self, vault: Arc<Vault>) -> anyhow::Result<Arc<dyn Store>> {
        let create_users = self.settings.worker.create_users;
        let changes = &self.settings.changes;
        let telling = Telling { notify: changes.notify, exchange: changes.exchange.is_some() };
        let options = StoreOptions { create_users, telling, vault, clock: self.clock.clone() };
        store::open(&self.settings.store, self.settings.worker.workers, options).await.context("open the database")
    }

    /// The store with every migration: an embedded one is brought up, of another it is said what to do.
    pub async fn store(&self, vault: Arc<Vault>) -> anyhow::Result<Arc<dyn Store>> {
        let store = self.store_as_it_is(vault.clone()).await?;
        if matches!(self.settings.store, StoreSettings::Sqlite { .. }) {
            store.migrate_up().await.context("bring the embedded database up")?;
        } else if store.migrations().await.context("DATABASE_URL")?.iter().any(|m| !m.applied) {
            return Err(BadConfiguration::usage(
                "DATABASE_URL: the database lacks migrations of this version; run `finhook migrate up`",
            )
            .into());
        }
        self.recognise(store.as_ref(), &vault).await?;
        Ok(store)
    }

    /// The same for a process that has no database of its own to work with, a receiver: if DATABASE_URL is given, its keys are
    /// compared (reading `sealing_key` is enough) and nothing is written. A database that does not answer keeps no receiver
    /// from taking deliveries, and one without DATABASE_URL has nothing to compare with: its workers notice.
    pub async fn compare_keys_if_possible(&self, vault: &Arc<Vault>) -> anyhow::Result<()> {
        if !self.values.is_given("DATABASE_URL") {
            if self.values.is_generated("FINHOOK_KEYS") {
                let origin = self.values.origin("FINHOOK_KEYS");
                tracing::warn!(
                    keys.origin = origin,
                    "these keys were made here: workers on other machines open nothing without them; set FINHOOK_KEYS on all"
                );
            }
            tracing::info!("keys are not compared: a receiver without DATABASE_URL has nothing to compare them with");
            return Ok(());
        }
        let look = async {
            let store = self.store_as_it_is(vault.clone()).await?;
            let known = store.keys().known_keys().await;
            store.close().await;
            Ok::<_, anyhow::Error>(known?)
        };
        match tokio::time::timeout(COMPARE_PATIENCE, look).await {
            Ok(Ok(known)) => self.misfit(compare(&known, vault)),
            _ => {
                tracing::warn!("keys are not compared: the database does not answer");
                Ok(())
            }
        }
    }

    fn misfit(&self, outcome: Result<(), Misfit>) -> anyhow::Result<()> {
        let error = |misfit: Misfit| self.values.error(misfit.variable(), misfit.to_string());
        Ok(outcome.map_err(|misfit| BadConfiguration::from(error(misfit)))?)
    }

    /// Stops whoever holds other keys than those that the database was sealed and indexed with, before anything is written
    /// or bound; enters keys that it does not know.
    async fn recognise(&self, store: &dyn Store, vault: &Vault) -> anyhow::Result<()> {
        let outcome = recognise(store.keys(), vault).await.context("compare the keys with the database's")?;
        self.misfit(outcome)
    }
}

/// The keys of bound webhook URLs, from any settings.
pub fn url_keys(values: &Values) -> Result<Option<Arc<UrlKeys>>, BadConfiguration> {
    let keys = UrlKeys::parse(&values.secrets("FINHOOK_URL_KEYS")?);
    let keys = keys.map_err(|error| values.error("FINHOOK_URL_KEYS", error.to_string()))?;
    Ok(keys.map(Arc::new))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(given: &[(&str, &str)]) -> Option<String> {
        let keys = [("FINHOOK_KEYS", KeyRing::generate_entry(1)), ("FINHOOK_INDEX_KEY", fresh_key())];
        let keys = keys.iter().map(|(name, key)| (*name, key.expose_secret()));
        let sources = Sources::of(keys.chain(given.iter().copied()));
        App::from_sources(sources).unwrap().configured().err().map(|error| error.to_string())
    }

    #[test]
    fn servers_on_this_machine_are_reached_in_the_clear() {
        for (database, broker) in [
            ("postgres://u@127.0.0.1/app", "amqp://127.0.0.1"),
            ("postgres://u@localhost:5433/app", "amqp://u:p@LOCALHOST:5673/%2f"),
            ("postgres://u@[::1]/app", "amqp://[::1]"),
            ("postgres:///app?host=/var/run/postgresql", "amqp://127.8.8.8"),
        ] {
            assert_eq!(problem(&[("DATABASE_URL", database), ("AMQP_URL", broker)]), None, "{database}");
        }
    }

    #[test]
    fn servers_elsewhere_are_reached_by_verified_tls_or_not_at_all() {
        let safe = [
            ("DATABASE_URL", "postgres://u:hunter2@db.example/app?sslmode=verify-full"),
            ("AMQP_URL", "amqps://u:hunter2@mq.example/%2f"),
        ];
        assert_eq!(problem(&safe), None);
        for database in ["", "?sslmode=require", "?sslmode=verify-ca", "?sslmode=disable"] {
            let database = format!("postgres://u:hunter2@db.example/app{database}");
            let problem = problem(&[("DATABASE_URL", &database), safe[1]]).expect(&database);
            assert!(problem.starts_with("DATABASE_URL (environment): is on another machine"), "{problem}");
            assert!(problem.contains("sslmode=verify-full") && problem.contains("FINHOOK_TRUST_NETWORK=true"));
            assert!(!problem.contains("hunter2") && !problem.contains("AMQP_URL"), "{problem}");
        }
        for broker in ["amqp://u:hunter2@10.0.0.1", "amqp://u:hunter2@localhost.example:5672/%2f"] {
            let problem = problem(&[safe[0], ("AMQP_URL", broker)]).expect(broker);
            assert!(problem.starts_with("AMQP_URL (environment): is on another machine"), "{problem}");
            assert!(problem.contains("amqps://") && !problem.contains("hunter2"), "{problem}");
        }
    }

    #[test]
    fn a_network_is_trusted_when_somebody_says_so() {
        let servers = [("DATABASE_URL", "postgres://u@db.example/app"), ("AMQP_URL", "amqp://mq.example")];
        let management = |host| [servers[0], servers[1], ("FINHOOK_RABBITMQ_MANAGEMENT_URL", host)];
        let all = management("http://u:hunter2@mq.example:15672");
        let said = problem(&all).unwrap();
        assert!(said.lines().count() == 3 && !said.contains("hunter2"), "all are named at once: {said}");
        for host in ["https://mq.example:15671", "http://127.0.0.1:15672", "http://localhost:15672"] {
            assert_eq!(problem(&management(host)).unwrap().lines().count(), 2, "{host}");
        }
        let trusted = [all.as_slice(), &[("FINHOOK_TRUST_NETWORK", "true")]].concat();
        assert_eq!(problem(&trusted), None);
    }
}

//! Plaid's verification keys: fetched, cached and bounded; the only I/O among the providers.
//!
//! ```text
//!  kid ── in the file? ──────────────────────────► key (or 401 if it is expired there)
//!   │no
//!   ├─ known, fetched within 24 h ───────────────► key
//!   ├─ known, older ── fetch ── fails ───────────► the old key, next try in a minute
//!   ├─ said to be unknown within a minute ───────► 401
//!   └─ never seen ─── budget left? ── fetch ─────► key, 401, or 503 if Plaid cannot be asked
//!                          └ no ─────────────────► 503
//! ```
//! Law: `kid` is chosen by the caller before anything is proved. Junk costs at most the budget of unknown kids, takes
//! no place of a known key, and one kid is asked for once at a time, however many deliveries wait for it.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::Shared;
use reqwest::{StatusCode, Url};
use secrecy::{ExposeSecret, SecretString};

use super::Refusal;
use super::elements::Json;
use super::plaid_jws::{Key, parse_jwks};
use crate::domain::{Timestamp, WallClock};

/// How long a fetched key is served without asking again.
const FRESH_SECONDS: i64 = 24 * 3600;
/// How long "unknown" is believed, and how long a failed refresh is not tried again.
const PAUSE_SECONDS: i64 = 60;
/// The most keys that are kept. Plaid has had a handful in all; only keys that Plaid vouched for get in.
const KNOWN: usize = 64;
/// The most unknown kids that are remembered; beyond them the budget alone protects.
const UNKNOWN: usize = 1024;
/// Unknown kids that may be asked for at once; one more each second.
const BURST: i64 = 10;
/// The longest answer that is read. Plaid's has 344 bytes.
const ANSWER_BYTES: usize = 64 * 1024;
/// For connecting, and for the whole exchange: Plaid itself waits 10 s for our answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What keys are fetched with.
pub struct Credential {
    /// Scheme and host, from [`base_url`].
    pub base: Url,
    /// Plaid's client id.
    pub client_id: String,
    /// Plaid's secret of the same environment.
    pub secret: SecretString,
}

/// Reads the base URL: https, or http to this machine alone (tests), since the secret travels in the request.
pub fn base_url(text: &str) -> Result<Url, &'static str> {
    let mut url = Url::parse(text).map_err(|_| "is not a URL: give https://host")?;
    let loopback = match url.host_str() {
        Some("localhost" | "[::1]") => true,
        Some(host) => host.parse::<std::net::Ipv4Addr>().is_ok_and(|address| address.is_loopback()),
        None => false,
    };
    if url.scheme() != "https" && !(url.scheme() == "http" && loopback) {
        return Err("is not https:// (http:// is for loopback hosts only)");
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return Err("has more than scheme, host and path");
    }
    let path = format!("{}/webhook_verification_key/get", url.path().trim_end_matches('/'));
    url.set_path(&path);
    Ok(url)
}

/// Reads a file of keys, in any form that [`parse_jwks`] takes.
pub fn read_file(path: &str) -> Result<Vec<Key>, String> {
    let file =
        std::fs::read(path).map_err(|error| format!("cannot be read ({}): name a readable file", error.kind()))?;
    parse_jwks(&file).map_err(|error| format!("the file {error}"))
}

/// Where verification keys come from: given ones, fetched ones, or both.
pub struct PlaidKeys {
    fixed: HashMap<String, Key>,
    fetched: Option<Arc<Fetched>>,
}

impl PlaidKeys {
    /// Only these keys: any other kid is unknown.
    pub fn fixed(keys: Vec<Key>) -> Self {
        Self { fixed: keys.into_iter().map(|key| (key.kid().to_owned(), key)).collect(), fetched: None }
    }

    /// The same, and other kids are asked of Plaid. Fails if no HTTPS client can be made.
    pub fn fetching(self, credential: Credential, clock: WallClock) -> Result<Self, reqwest::Error> {
        let mut builder = reqwest::Client::builder()
            .connect_timeout(PATIENCE)
            .timeout(PATIENCE)
            // The request carries the secret: it goes where it was told to and nowhere else.
            .redirect(reqwest::redirect::Policy::none());
        if credential.base.scheme() == "http" {
            builder = builder.no_proxy();
        }
        let client = builder.build()?;
        let cache = Mutex::new(Cache::new(clock.now()));
        Ok(Self { fetched: Some(Arc::new(Fetched { client, credential, clock, cache })), ..self })
    }

    /// The key of a kid, as far as it is trusted.
    pub async fn find(&self, kid: &str) -> Result<Key, Refusal> {
        if let Some(key) = self.fixed.get(kid) {
            return if key.is_expired() { Err(Refusal::UnknownKey) } else { Ok(key.clone()) };
        }
        match &self.fetched {
            Some(fetched) => fetched.find(kid).await,
            None => Err(Refusal::UnknownKey),
        }
    }
}

/// What asking Plaid came to.
#[derive(Clone)]
enum Answer {
    Key(Key),
    Unknown,
    Unavailable,
}

type Flight = Shared<Pin<Box<dyn Future<Output = Result<Key, Refusal>> + Send>>>;

struct Fetched {
    client: reqwest::Client,
    credential: Credential,
    clock: WallClock,
    cache: Mutex<Cache>,
}

impl Fetched {
    async fn find(self: &Arc<Self>, kid: &str) -> Result<Key, Refusal> {
        let flight = {
            let mut cache = self.cache();
            let now = self.clock.now();
            if let Some(decided) = cache.decided(kid, now) {
                return decided;
            }
            // One that ended but is still listed (its task panicked) is not joined again.
            let flying = cache.flights.get(kid).filter(|flight| flight.peek().is_none()).cloned();
            match flying {
                Some(flight) => flight,
                None if !cache.known.contains_key(kid) && !cache.take_token(now) => {
                    return Err(Refusal::KeysUnavailable);
                }
                None => {
                    let flight = self.start(kid.to_owned());
                    cache.flights.insert(kid.to_owned(), flight.clone());
                    flight
                }
            }
        };
        flight.await
    }

    /// Asks in a task of its own, so that a sender that hangs up does not take the answer from the others that wait.
    fn start(self: &Arc<Self>, kid: String) -> Flight {
        let fetched = Arc::clone(self);
        let task = tokio::spawn(async move {
            let answer = fetched.ask(&kid).await;
            let now = fetched.clock.now();
            fetched.cache().settle(&kid, answer, now)
        });
        task.map(|ended| ended.unwrap_or(Err(Refusal::KeysUnavailable))).boxed().shared()
    }

    async fn ask(&self, kid: &str) -> Answer {
        match self.exchange(kid).await {
            Ok((status, body)) => read_answer(kid, status, &body),
            // The error's text names the URL, which holds no secret, and never the request's body.
            Err(error) => {
                tracing::warn!(error = %error, "Plaid's key endpoint cannot be reached");
                Answer::Unavailable
            }
        }
    }

    async fn exchange(&self, kid: &str) -> Result<(StatusCode, Vec<u8>), reqwest::Error> {
        let request = serde_json::json!({
            "client_id": self.credential.client_id,
            "secret": self.credential.secret.expose_secret(),
            "key_id": kid,
        });
        let mut response = self.client.post(self.credential.base.clone()).json(&request).send().await?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            body.extend_from_slice(&chunk);
            if body.len() > ANSWER_BYTES {
                body.clear();
                break;
            }
        }
        Ok((response.status(), body))
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        // What is behind the lock is whole at every step: a panic elsewhere is no reason to stop serving keys.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What Plaid's answer says about a kid.
fn read_answer(kid: &str, status: StatusCode, body: &[u8]) -> Answer {
    if status.is_success() {
        let key = parse_jwks(body).ok().and_then(|keys| keys.into_iter().find(|key| key.kid() == kid));
        return key.map_or(Answer::Unavailable, Answer::Key);
    }
    let code = Json::parse(body).ok().and_then(|json| json.get(&["error_code"])?.text().map(|code| code.into_owned()));
    let unknown = status == StatusCode::NOT_FOUND
        || (status == StatusCode::BAD_REQUEST && code.as_deref() == Some("INVALID_WEBHOOK_VERIFICATION_KEY_ID"));
    if unknown {
        return Answer::Unknown;
    }
    tracing::warn!(
        status = status.as_u16(),
        "Plaid's key endpoint refuses us: check the client id, secret and base URL"
    );
    Answer::Unavailable
}

struct Known {
    key: Key,
    fetched_at: Timestamp,
    /// When a refresh failed last.
    failed_at: Option<Timestamp>,
}

struct Cache {
    known: HashMap<String, Known>,
    unknown: HashMap<String, Timestamp>,
    flights: HashMap<String, Flight>,
    tokens: i64,
    counted_at: Timestamp,
}

impl Cache {
    fn new(now: Timestamp) -> Self {
        let (known, unknown, flights) = (HashMap::new(), HashMap::new(), HashMap::new());
        Self { known, unknown, flights, tokens: BURST, counted_at: now }
    }

    /// What needs no asking.
    fn decided(&self, kid: &str, now: Timestamp) -> Option<Result<Key, Refusal>> {
        if let Some(known) = self.known.get(kid) {
            let paused = known.failed_at.is_some_and(|at| within(at, now, PAUSE_SECONDS));
            let serves = paused || within(known.fetched_at, now, FRESH_SECONDS);
            return serves.then(|| Ok(known.key.clone()));
        }
        let unknown = self.unknown.get(kid).is_some_and(|at| within(*at, now, PAUSE_SECONDS));
        unknown.then_some(Err(Refusal::UnknownKey))
    }

    /// Takes one from the budget of unknown kids.
    fn take_token(&mut self, now: Timestamp) -> bool {
        let elapsed = now.seconds().saturating_sub(self.counted_at.seconds());
        if elapsed != 0 {
            self.tokens = self.tokens.saturating_add(elapsed.max(0)).min(BURST);
            self.counted_at = now;
        }
        let left = self.tokens > 0;
        self.tokens -= i64::from(left);
        left
    }

    /// Keeps an answer, ends the flight, and says what those who wait get.
    fn settle(&mut self, kid: &str, answer: Answer, now: Timestamp) -> Result<Key, Refusal> {
        self.flights.remove(kid);
        match answer {
            Answer::Key(key) if !key.is_expired() => {
                if self.known.len() >= KNOWN && !self.known.contains_key(kid) {
                    let oldest = self.known.iter().min_by_key(|(_, known)| known.fetched_at);
                    if let Some(oldest) = oldest.map(|(kid, _)| kid.clone()) {
                        self.known.remove(&oldest);
                    }
                }
                self.unknown.remove(kid);
                self.known.insert(kid.to_owned(), Known { key: key.clone(), fetched_at: now, failed_at: None });
                Ok(key)
            }
            Answer::Key(_) | Answer::Unknown => {
                self.known.remove(kid);
                if self.unknown.len() >= UNKNOWN {
                    self.unknown.retain(|_, at| within(*at, now, PAUSE_SECONDS));
                }
                if self.unknown.len() < UNKNOWN {
                    self.unknown.insert(kid.to_owned(), now);
                }
                Err(Refusal::UnknownKey)
            }
            Answer::Unavailable => match self.known.get_mut(kid) {
                Some(known) => {
                    known.failed_at = Some(now);
                    Ok(known.key.clone())
                }
                None => Err(Refusal::KeysUnavailable),
            },
        }
    }
}

/// Whether `at` is less than `seconds` ago. A clock that was set back makes it no longer so, and the key is asked again.
fn within(at: Timestamp, now: Timestamp, seconds: i64) -> bool {
    (0..seconds).contains(&(now.seconds() - at.seconds()))
}

#[cfg(test)]
mod tests;

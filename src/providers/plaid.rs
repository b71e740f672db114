//! Plaid: a JWS over the body's hash and the signing time, and webhook URLs that are bound to a user.
//!
//! A Plaid signature says "from Plaid", not "for us": any other customer's delivery verifies too. That is what bound
//! URLs are for. The order of the checks is header, key, signature, age, body, binding. What the events mean is in
//! `plaid_events`, the token's format in [`super::plaid_jws`], where keys come from in [`super::plaid_keys`].

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::{HeaderName, HeaderValue};

use super::addresses;
use super::keep::Keep;
use super::plaid_events;
use super::plaid_jws::{DevelopmentKey, Key, Token};
use super::plaid_keys::{Credential, PlaidKeys, base_url, read_file};
use super::signature::{header, value};
use super::{Provider, Refusal, Request, Setup, Signer, Verified, Verifier};
use crate::config::{ConfigError, Variable};
use crate::crypto::UrlKeys;
use crate::domain::{Proof, ProviderName, Timestamp};

pub(super) const NAME: ProviderName = ProviderName::new("plaid");
const HEADER: &str = "plaid-verification";
const CLIENT_ID: &str = "FINHOOK_PLAID_CLIENT_ID";
const SECRET: &str = "FINHOOK_PLAID_SECRET";
const BASE_URL: &str = "FINHOOK_PLAID_BASE_URL";
const JWKS_FILE: &str = "FINHOOK_PLAID_JWKS_FILE";
const MAX_AGE: &str = "FINHOOK_PLAID_MAX_AGE";
const MAX_AHEAD: &str = "FINHOOK_PLAID_MAX_AHEAD";
const REQUIRE_BOUND_URL: &str = "FINHOOK_PLAID_REQUIRE_BOUND_URL";
const ALLOW_FROM: &str = "FINHOOK_PLAID_ALLOW_FROM";
const DEVELOPMENT_KEY: &str = "FINHOOK_PLAID_DEVELOPMENT_KEY";

/// The oldest signature that can be allowed: Plaid retries for up to 24 hours, and may not sign again.
const OLDEST: Duration = Duration::from_secs(25 * 3600);
/// The furthest ahead that can be allowed: as far as an event time may lie ahead of its receipt.
const FURTHEST: Duration = Duration::from_secs(300);

/// Plaid's entry in the list.
pub static PROVIDER: Provider = Provider {
    name: NAME,
    title: "Plaid",
    variables: &[
        variable(CLIENT_ID, false, None, "Plaid's client id, with which verification keys are fetched."),
        variable(
            SECRET,
            true,
            None,
            "Plaid's secret of the same environment, with which verification keys are fetched.",
        ),
        variable(
            BASE_URL,
            false,
            Some("https://production.plaid.com"),
            "Where verification keys are fetched; https://sandbox.plaid.com for the sandbox.",
        ),
        variable(
            JWKS_FILE,
            false,
            None,
            "A file with verification keys (a JWK, Plaid's {\"key\":…} answer or a set); alone it is enough, and no key is fetched.",
        ),
        variable(
            MAX_AGE,
            false,
            Some("300s"),
            "How old a signature may be, up to 25h; more than 5 minutes lets retries through that Plaid did not sign again.",
        ),
        variable(
            MAX_AHEAD,
            false,
            Some("60s"),
            "How far in the future a signature may be, for clocks that differ, up to 5m.",
        ),
        variable(
            REQUIRE_BOUND_URL,
            false,
            Some("false"),
            "Whether only bound webhook URLs are accepted (`finhook webhook-url`); needs FINHOOK_URL_KEYS.",
        ),
        addresses::variable(
            ALLOW_FROM,
            "Addresses and networks that Plaid may post from, comma-separated; `plaid` stands for those that it documents; unset, any.",
        ),
        variable(
            DEVELOPMENT_KEY,
            true,
            None,
            "For embedded mode and development only: a base64 PKCS#8 P-256 key that signs fixtures and is trusted like Plaid's.",
        ),
    ],
    binds_urls: true,
    verifier: |setup| Ok(verifier(setup)?.map(|plaid| Box::new(plaid) as Box<dyn Verifier>)),
    reader: |_| Ok(Box::new(plaid_events::PlaidReader)),
    signer: |setup| Ok(development_key(setup)?.map(|key| Box::new(PlaidSigner { key }) as Box<dyn Signer>)),
    allow_from: ALLOW_FROM,
    presets: &[
        // https://plaid.com/docs/api/webhooks/
        ("plaid", &["52.21.26.131", "52.21.47.157", "52.41.247.19", "52.88.82.239"]),
    ],
    resends_refused: true,
    keeps: plaid_events::KEEPS,
    keeps_unread: Keep::Whole,
    development: || DevelopmentKey::generate().map(|key| (DEVELOPMENT_KEY, key)).into_iter().collect(),
};

const fn variable(name: &'static str, secret: bool, default: Option<&'static str>, help: &'static str) -> Variable {
    Variable { name, secret, default, help }
}

fn verifier(setup: &Setup<'_>) -> Result<Option<Plaid>, ConfigError> {
    let values = setup.values;
    let mut fixed: Vec<Key> = Vec::new();
    if let Some(path) = values.text(JWKS_FILE) {
        fixed.extend(read_file(&path).map_err(|problem| values.error(JWKS_FILE, problem))?);
    }
    if let Some(key) = development_key(setup)? {
        let public = key.public().map_err(|error| values.error(DEVELOPMENT_KEY, error.to_string()))?;
        fixed.push(public);
    }
    let credential = match (values.text(CLIENT_ID), values.secret(SECRET)?) {
        (Some(client_id), Some(secret)) => {
            let base = values.text(BASE_URL).unwrap_or_else(|| "https://production.plaid.com".to_owned());
            let base = base_url(&base).map_err(|problem| values.error(BASE_URL, problem))?;
            Some(Credential { base, client_id, secret })
        }
        (None, None) => None,
        (Some(_), None) => return Err(values.error(SECRET, format!("is needed because {CLIENT_ID} is set: give both"))),
        (None, Some(_)) => return Err(values.error(CLIENT_ID, format!("is needed because {SECRET} is set: give both"))),
    };
    let require_bound_url = values.flag(REQUIRE_BOUND_URL)?;
    let max_age = values.duration_in(MAX_AGE, Duration::from_secs(1)..=OLDEST)?;
    let max_ahead = values.duration_in(MAX_AHEAD, Duration::ZERO..=FURTHEST)?;
    if fixed.is_empty() && credential.is_none() {
        return Ok(None);
    }
    if require_bound_url && setup.url_keys.is_none() {
        return Err(values.error(REQUIRE_BOUND_URL, "needs FINHOOK_URL_KEYS: without them no URL can be bound"));
    }
    let mut keys = PlaidKeys::fixed(fixed);
    if let Some(credential) = credential {
        keys = keys
            .fetching(credential, setup.clock.clone())
            .map_err(|_| values.error(BASE_URL, "no HTTPS client can be made on this system"))?;
    }
    let url_keys = setup.url_keys.clone();
    Ok(Some(Plaid { keys, max_age, max_ahead, url_keys, require_bound_url }))
}

fn development_key(setup: &Setup<'_>) -> Result<Option<DevelopmentKey>, ConfigError> {
    let Some(secret) = setup.values.secret(DEVELOPMENT_KEY)? else { return Ok(None) };
    match DevelopmentKey::parse(&secret) {
        Some(key) => Ok(Some(key)),
        None => Err(setup.values.error(DEVELOPMENT_KEY, "is not standard base64 of a PKCS#8 P-256 private key")),
    }
}

/// Proves deliveries of Plaid.
pub struct Plaid {
    /// Where verification keys come from.
    pub keys: PlaidKeys,
    /// How old a signature may be.
    pub max_age: Duration,
    /// How far in the future it may be.
    pub max_ahead: Duration,
    /// What opens the tokens of bound URLs.
    pub url_keys: Option<Arc<UrlKeys>>,
    /// Whether the plain path is refused.
    pub require_bound_url: bool,
}

impl Plaid {
    /// What `finhook explain --jwk` asks: these keys and no network, the usual clock tolerance, any path.
    pub fn offline(keys: Vec<Key>, max_age: Duration, url_keys: Option<Arc<UrlKeys>>) -> Self {
        let max_ahead = Duration::from_secs(60);
        Self { keys: PlaidKeys::fixed(keys), max_age, max_ahead, url_keys, require_bound_url: false }
    }
}

#[async_trait]
impl Verifier for Plaid {
    async fn verify(&self, request: &Request<'_>, now: Timestamp) -> Result<Verified, Refusal> {
        let token = Token::read(header(request.headers, HEADER)?.ok_or(Refusal::Missing)?)?;
        let key = self.keys.find(&token.kid).await?;
        let claims = token.verify(&key)?;
        let signed_at = claims.signed_at().ok_or(Refusal::Malformed)?;
        let age = now.micros().saturating_sub(signed_at.micros());
        if age > micros(self.max_age) {
            return Err(Refusal::Stale);
        }
        if age.saturating_neg() > micros(self.max_ahead) {
            return Err(Refusal::Future);
        }
        if !claims.cover(request.body) {
            return Err(Refusal::Mismatch);
        }
        let user = match (request.token, &self.url_keys) {
            (Some(token), Some(keys)) => Some(keys.open(token).map_err(|_| Refusal::Unbound)?),
            // The sender did nothing wrong: it is our keys that are missing, and it may try again.
            (Some(_), None) => return Err(Refusal::KeysUnavailable),
            (None, _) if self.require_bound_url => return Err(Refusal::Unbound),
            (None, _) => None,
        };
        let proof = Proof { scheme: "es256".to_owned(), iat: Some(claims.iat), user, secret: None };
        Ok(Verified { provider: NAME, proof, place: None })
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// Signs as Plaid does, with the development key.
pub struct PlaidSigner {
    /// The key.
    pub key: DevelopmentKey,
}

impl Signer for PlaidSigner {
    fn sign(&self, body: &[u8], now: Timestamp) -> Vec<(HeaderName, HeaderValue)> {
        let token = self.key.sign(body, now);
        token.map(|token| (HeaderName::from_static(HEADER), value(&token))).into_iter().collect()
    }
}

#[cfg(test)]
mod tests;

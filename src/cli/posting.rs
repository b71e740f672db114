//! Signed requests made from fixtures, and how they are posted: what `replay`, `sign` and `demo` share.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, anyhow};
use bytes::Bytes;
use http::{HeaderName, HeaderValue};

use super::app::BadConfiguration;
use crate::domain::{Timestamp, UserId, WallClock};
use crate::fixtures::{Body, Case};
use crate::providers::{PROVIDERS, Setup, Signer};

/// How long one request may take: longer than any provider waits.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How far back `--stale` signs: beyond the longest age that can be configured (25 h).
const STALE_SECONDS: i64 = 2 * 86_400;

/// How a body is turned into a request.
#[derive(Debug, Clone, Default)]
pub struct Treatment {
    /// Change the request after signing, so that its proof does not hold.
    pub tamper: bool,
    /// Sign it two days ago.
    pub stale: bool,
    /// Post to this user's bound URL, whatever the case says.
    pub user: Option<UserId>,
}

/// A request, ready to be posted.
#[derive(Clone)]
pub struct Signed {
    /// `provider/case/1.json`.
    pub name: String,
    /// `/webhooks/unit`.
    pub path: String,
    /// The proof, and the content type.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body as it goes over the wire.
    pub body: Bytes,
}

/// Signs as the providers would.
pub struct Press<'a> {
    setup: Setup<'a>,
    signers: HashMap<&'static str, Box<dyn Signer>>,
    clock: WallClock,
}

impl<'a> Press<'a> {
    /// Takes the secrets from the settings.
    pub fn new(setup: Setup<'a>) -> Result<Self, BadConfiguration> {
        let mut signers = HashMap::new();
        for provider in PROVIDERS {
            if let Some(signer) = (provider.signer)(&setup)? {
                signers.insert(provider.name.as_str(), signer);
            }
        }
        let clock = setup.clock.clone();
        Ok(Self { setup, signers, clock })
    }

    /// One body of a case as a signed request.
    pub fn request(&self, case: &Case, body: &Body, treatment: &Treatment) -> anyhow::Result<Signed> {
        let signer = self.signers.get(case.provider.as_str()).ok_or_else(|| self.unsigned(&case.provider))?;
        let mut path = format!("/webhooks/{}", case.provider);
        let bound = treatment.user.clone().or_else(|| case.bound_user.clone().map(UserId));
        if let Some(user) = bound.filter(|_| binds_urls(&case.provider)) {
            let keys = self.setup.url_keys.as_ref().context("FINHOOK_URL_KEYS is not set, so URLs cannot be bound")?;
            path = format!("{path}/{}", keys.mint(&user));
        }
        let now = self.signing_time(body, treatment);
        let mut headers = signer.sign(&body.bytes, now);
        let mut bytes = body.bytes.clone();
        if treatment.tamper {
            bytes = tampered(&bytes);
            // A scheme that does not cover the body (a static token) has the proof itself changed instead.
            if signer.sign(&bytes, now) == headers {
                headers.iter_mut().for_each(|(_, value)| *value = tampered_value(value));
            }
        }
        headers.push((http::header::CONTENT_TYPE, HeaderValue::from_static("application/json")));
        Ok(Signed { name: format!("{}/{}", case.path(), body.name), path, headers, body: bytes })
    }

    /// Bodies of one case are signed in their order, a little apart: Plaid's signing time is its event time.
    fn signing_time(&self, body: &Body, treatment: &Treatment) -> Timestamp {
        let ago = i64::try_from(body.signed_ago.as_secs()).unwrap_or(0);
        self.clock.now().plus_seconds(-ago - if treatment.stale { STALE_SECONDS } else { 0 })
    }

    fn unsigned(&self, provider: &str) -> anyhow::Error {
        match crate::providers::find(provider) {
            None => anyhow!("{provider}: not a provider"),
            Some(provider) => {
                let names: Vec<&str> = provider.variables.iter().filter(|v| v.secret).map(|v| v.name).collect();
                BadConfiguration::usage(format!(
                    "{}: nothing to sign with; set {} (embedded mode makes secrets to develop with as long as no provider has one)",
                    provider.title,
                    names.join(" or ")
                ))
                .into()
            }
        }
    }
}

fn binds_urls(provider: &str) -> bool {
    crate::providers::find(provider).is_some_and(|provider| provider.binds_urls)
}

/// The body with one bit of its last byte changed; a blank body gets one byte more.
fn tampered(body: &Bytes) -> Bytes {
    let mut bytes = body.to_vec();
    match bytes.last_mut() {
        Some(last) => *last ^= 1,
        None => bytes.push(b' '),
    }
    Bytes::from(bytes)
}

/// The header value with its last character exchanged.
fn tampered_value(value: &HeaderValue) -> HeaderValue {
    let mut bytes = value.as_bytes().to_vec();
    if let Some(last) = bytes.last_mut() {
        *last = if *last == b'A' { b'B' } else { b'A' };
    }
    HeaderValue::from_bytes(&bytes).unwrap_or_else(|_| HeaderValue::from_static("tampered"))
}

/// How the receiver answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// 200: it is durable.
    Accepted,
    /// Another status.
    Status(u16),
    /// No answer at all.
    Failed,
}

/// Posts requests to one finhook.
#[derive(Clone)]
pub struct Post {
    client: reqwest::Client,
    to: String,
}

impl Post {
    /// Posts to `to`, scheme and authority.
    pub fn new(to: &str) -> anyhow::Result<Self> {
        let to = to.trim_end_matches('/').to_owned();
        if !to.starts_with("http://") && !to.starts_with("https://") {
            return Err(BadConfiguration::usage("--to must start with http:// or https://").into());
        }
        let client = reqwest::Client::builder().timeout(TIMEOUT).no_proxy().build().context("make an HTTP client")?;
        Ok(Self { client, to })
    }

    /// Posts one request.
    pub async fn send(&self, signed: &Signed) -> Answer {
        let mut request = self.client.post(format!("{}{}", self.to, signed.path)).body(signed.body.clone());
        for (name, value) in &signed.headers {
            request = request.header(name, value);
        }
        match request.send().await.map(|response| response.status().as_u16()) {
            Ok(200) => Answer::Accepted,
            Ok(status) => Answer::Status(status),
            Err(_) => Answer::Failed,
        }
    }
}

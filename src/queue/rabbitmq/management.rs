//! The broker's management API, asked for what AMQP does not say: messages that consumers hold, rates, policies.
//!
//! Law: it is a second witness and never needed. Without it, or while it does not answer, depths come from the broker
//! itself and these figures are left out. What it says is a few seconds old (`collect_statistics_interval`).

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::header::DATE;
use reqwest::{Certificate, Client, StatusCode, Url};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tracing::{info, warn};

use super::link::{address, authority};
use super::topology::{Argument, Topology};
use crate::queue::Depth;

/// How long one question may take: less than an observation has, so that the depths are never lost with it.
const PATIENCE: Duration = Duration::from_secs(2);

/// The largest answer that is read; ours has a few hundred bytes a queue.
const ANSWER_BYTES: usize = 1 << 20;

/// What of a queue is asked for.
const COLUMNS: &str = "name,messages_unacknowledged,message_stats.publish_details.rate,message_stats.ack_details.rate";

/// The same for [`Management::inspect`].
const STANDING_COLUMNS: &str = "name,policy,effective_policy_definition,arguments";

/// The API of one broker, for one virtual host.
pub struct Management {
    client: Client,
    base: Url,
    user: String,
    password: SecretString,
    vhost: String,
    prefix: String,
    /// Whether the broker counts rates at all (`management.rates_mode`), once it said so.
    counts: OnceLock<bool>,
    failing: AtomicBool,
}

/// What the API says of one queue.
struct Figures {
    unacked: u64,
    /// In and out.
    rates: Option<(f64, f64)>,
}

/// What a person wants to know of a broker.
#[derive(Debug, Clone, PartialEq)]
pub struct Inspection {
    /// RabbitMQ's version.
    pub version: String,
    /// What its clock says, as HTTP has it (RFC 9110, 5.6.7).
    pub date: Option<String>,
    /// What is not as we need it, a sentence each, with what to do.
    pub objections: Vec<String>,
}

#[derive(Deserialize)]
struct Page<T> {
    items: Vec<T>,
}

#[derive(Deserialize)]
struct QueueFigures {
    name: String,
    #[serde(default)]
    messages_unacknowledged: u64,
    #[serde(default)]
    message_stats: Stats,
}

#[derive(Deserialize, Default)]
struct Stats {
    #[serde(default)]
    publish_details: Details,
    #[serde(default)]
    ack_details: Details,
}

/// Absent as long as nothing happened.
#[derive(Deserialize, Default)]
struct Details {
    #[serde(default)]
    rate: f64,
}

#[derive(Deserialize)]
struct Overview {
    #[serde(default)]
    rabbitmq_version: String,
    #[serde(default)]
    rates_mode: String,
}

#[derive(Deserialize)]
struct QueueStanding {
    name: String,
    #[serde(default)]
    policy: Option<String>,
    /// An object; in some versions an empty list where there is none.
    #[serde(default)]
    effective_policy_definition: Value,
    #[serde(default)]
    arguments: Value,
}

impl Management {
    /// The API at `url`, which may carry user and password; else they and the virtual host are those of the broker's URL.
    /// The sentence says what cannot be used.
    pub fn new(url: &SecretString, broker: &SecretString, prefix: &str) -> Result<Self, String> {
        const ACCEPTED: &str =
            "FINHOOK_RABBITMQ_MANAGEMENT_URL takes http://… or https://…, such as http://broker:15672";
        let base = Url::parse(url.expose_secret().trim()).map_err(|_| ACCEPTED.to_owned())?;
        if !matches!(base.scheme(), "http" | "https") || base.cannot_be_a_base() {
            return Err(ACCEPTED.to_owned());
        }
        let trusted = authority(broker).map_err(|trouble| trouble.sentence().to_owned())?;
        let broker = address(broker).map_err(|trouble| trouble.sentence().to_owned())?;
        // Whoever vouches for the broker vouches for its API.
        let trusted = trusted.map(|pem| Certificate::from_pem_bundle(pem.as_bytes())).transpose();
        let trusted = trusted.map_err(|_| "AMQP_URL: its cacertfile holds no certificates".to_owned())?;
        let client = Client::builder()
            .connect_timeout(PATIENCE)
            .timeout(PATIENCE)
            .no_proxy()
            // The request carries a password: it goes where it was told to and nowhere else.
            .redirect(reqwest::redirect::Policy::none())
            .tls_certs_merge(trusted.unwrap_or_default())
            .build()
            .map_err(|_| "no HTTP client can be made for the management API".to_owned())?;
        Ok(Self {
            client,
            base,
            user: broker.authority.userinfo.username,
            password: SecretString::from(broker.authority.userinfo.password),
            vhost: broker.vhost,
            prefix: prefix.to_owned(),
            counts: OnceLock::new(),
            failing: AtomicBool::new(false),
        })
    }

    /// Adds what the API knows to depths that the broker told; nothing if it does not answer.
    pub(super) fn complete(depths: &mut [Depth], figures: Option<Known>) {
        let Some(Known(mut figures)) = figures else { return };
        for depth in depths {
            if let Some(known) = figures.remove(&depth.queue) {
                depth.unacked = Some(known.unacked);
                (depth.in_per_second, depth.out_per_second) = known.rates.unzip();
            }
        }
    }

    /// What the API knows of our queues. Its failure is logged when it begins and when it ends, not every time.
    pub(super) async fn known(&self) -> Option<Known> {
        match self.figures().await {
            Ok(figures) => {
                if self.failing.swap(false, Ordering::Relaxed) {
                    info!("the management API answers again");
                }
                Some(Known(figures))
            }
            Err(why) => {
                if !self.failing.swap(true, Ordering::Relaxed) {
                    warn!("{why}: unacked messages and rates are left out until it answers");
                }
                None
            }
        }
    }

    async fn figures(&self) -> Result<BTreeMap<String, Figures>, String> {
        let counts = match self.counts.get() {
            Some(counts) => *counts,
            None => {
                let (overview, _): (Overview, _) = self.get(&["overview"], &[("columns", "rates_mode")]).await?;
                *self.counts.get_or_init(|| overview.rates_mode != "none")
            }
        };
        let queues: Vec<QueueFigures> = self.queues(COLUMNS).await?;
        let figures = queues.into_iter().map(|queue| {
            let stats = queue.message_stats;
            let rates = counts.then_some((stats.publish_details.rate, stats.ack_details.rate));
            (queue.name, Figures { unacked: queue.messages_unacknowledged, rates })
        });
        Ok(figures.collect())
    }

    /// Looks at the broker for a person: version, clock, and what stands against our queues.
    pub(super) async fn inspect(&self, topology: &Topology) -> Result<Inspection, String> {
        let columns = [("columns", "rabbitmq_version,rates_mode")];
        let (overview, date): (Overview, _) = self.get(&["overview"], &columns).await?;
        let standing: Vec<QueueStanding> = self.queues(STANDING_COLUMNS).await?;
        let ours = topology.queues();
        let objections = standing.iter().flat_map(|queue| {
            let declared = ours.iter().find(|ours| ours.name == queue.name);
            declared.into_iter().flat_map(|declared| objections(queue, &declared.arguments))
        });
        Ok(Inspection { version: overview.rabbitmq_version, date, objections: objections.collect() })
    }

    /// Every queue whose name starts with ours, with these columns.
    async fn queues<T: DeserializeOwned>(&self, columns: &str) -> Result<Vec<T>, String> {
        // A prefix holds letters, digits, `-`, `_` and `.`; of these only the dot means something in a pattern.
        let name = format!("^{}\\.", self.prefix.replace('.', "\\."));
        let query = [("columns", columns), ("name", &name), ("use_regex", "true"), ("page", "1"), ("page_size", "500")];
        let (page, _): (Page<T>, _) = self.get(&["queues", &self.vhost], &query).await?;
        Ok(page.items)
    }

    /// One question; the answer and the broker's clock. Errors are sentences of ours: a library's could quote the URL.
    async fn get<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
    ) -> Result<(T, Option<String>), String> {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            // The virtual host `/` becomes `%2F`.
            segments.pop_if_empty().push("api").extend(path);
        }
        url.query_pairs_mut().extend_pairs(query);
        // Credentials in the URL itself are used by the client.
        let own = !url.username().is_empty();
        let request = self.client.get(url);
        let request = if own { request } else { request.basic_auth(&self.user, Some(self.password.expose_secret())) };
        let away =
            || "the management API does not answer; see that FINHOOK_RABBITMQ_MANAGEMENT_URL is right".to_owned();
        let mut response = request.send().await.map_err(|_| away())?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED => {
                return Err(
                    "the management API refuses user and password; its user needs the tag `monitoring`".to_owned()
                );
            }
            StatusCode::NOT_FOUND => {
                return Err("the management API does not know this virtual host or path".to_owned());
            }
            status => return Err(format!("the management API answers {}", status.as_u16())),
        }
        let date = response.headers().get(DATE).and_then(|date| date.to_str().ok()).map(str::to_owned);
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|_| away())? {
            if body.len() + chunk.len() > ANSWER_BYTES {
                return Err("the management API answers with more than 1 MiB".to_owned());
            }
            body.extend_from_slice(&chunk);
        }
        let answer = serde_json::from_slice(&body);
        Ok((answer.map_err(|_| "the management API answers something else than expected".to_owned())?, date))
    }
}

/// What the API knows of our queues, by name.
pub(super) struct Known(BTreeMap<String, Figures>);

/// What about a queue keeps less than we promise, or was declared otherwise.
fn objections(queue: &QueueStanding, declared: &BTreeMap<&'static str, Argument>) -> Vec<String> {
    let name = &queue.name;
    let policy = queue.policy.as_deref().unwrap_or("a policy");
    let loses = [
        ("message-ttl", "messages expire before they are worked off"),
        ("expires", "the queue is deleted when nobody consumes it"),
        ("delivery-limit", "messages are given up after fewer deliveries than finhook asks for"),
    ];
    let by_policy = loses
        .iter()
        .filter(|(key, _)| queue.effective_policy_definition.get(key).is_some())
        .map(|(key, why)| format!("{name}: {policy} sets {key}, so {why}; take that key out of the policy"));
    let by_argument = declared.iter().filter_map(|(key, wanted)| {
        let has = queue.arguments.get(key);
        let same = match wanted {
            Argument::Text(text) => has.and_then(Value::as_str) == Some(text),
            Argument::Number(number) => has.and_then(Value::as_i64) == Some(*number),
        };
        (!same).then(|| {
            format!(
                "{name}: was declared with another {key}; empty and delete the queue, then run `finhook topology apply`"
            )
        })
    });
    by_policy.chain(by_argument).collect()
}

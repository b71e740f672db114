//! Stand-ins for tests of the receiving half: a queue that confirms when it is told to, and a proof made of one header.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use secrecy::SecretString;
use tokio::sync::Semaphore;

use super::{Proving, Receiver};
use crate::crypto::{BlindIndex, KeyRing, SealedDelivery};
use crate::domain::{ProviderName, Timestamp, WallClock};
use crate::providers::addresses::Addresses;
use crate::providers::keep::Keep;
use crate::providers::{Provider, Refusal, Request, Verified, Verifier};
use crate::queue::{Consumer, Depth, PublishError, Queue, QueueError};
use crate::store::Vault;

/// A queue in memory.
pub(crate) struct FakeQueue {
    published: Mutex<Vec<SealedDelivery>>,
    confirms: Semaphore,
    failure: Option<PublishError>,
    away: Mutex<Option<PublishError>>,
}

impl FakeQueue {
    /// Confirms everything at once.
    pub(crate) fn confirming() -> Arc<Self> {
        Self::with(Semaphore::MAX_PERMITS, None)
    }

    /// Confirms nothing until [`FakeQueue::confirm`].
    pub(crate) fn holding() -> Arc<Self> {
        Self::with(0, None)
    }

    /// Fails every publish.
    pub(crate) fn failing(failure: PublishError) -> Arc<Self> {
        Self::with(Semaphore::MAX_PERMITS, Some(failure))
    }

    fn with(confirms: usize, failure: Option<PublishError>) -> Arc<Self> {
        let (published, away) = (Mutex::default(), Mutex::default());
        Arc::new(Self { published, confirms: Semaphore::new(confirms), failure, away })
    }

    /// Confirms `n` that were held.
    pub(crate) fn confirm(&self, n: usize) {
        self.confirms.add_permits(n);
    }

    /// From now on nothing can be accepted.
    pub(crate) fn go_away(&self, why: PublishError) {
        *self.away.lock().unwrap() = Some(why);
    }

    /// Everything that was handed over, confirmed or not.
    pub(crate) fn published(&self) -> Vec<SealedDelivery> {
        self.published.lock().unwrap().clone()
    }
}

#[async_trait]
impl Queue for FakeQueue {
    async fn publish(&self, delivery: SealedDelivery) -> Result<(), PublishError> {
        self.published.lock().unwrap().push(delivery);
        self.confirms.acquire().await.unwrap().forget();
        self.failure.map_or(Ok(()), Err)
    }

    fn accepts(&self) -> Result<(), PublishError> {
        self.away.lock().unwrap().map_or(Ok(()), Err)
    }

    async fn consume(&self, _prefetch: u16, _rank: u16) -> Result<Box<dyn Consumer>, QueueError> {
        Err(QueueError::Gone)
    }

    async fn depths(&self) -> Result<Vec<Depth>, QueueError> {
        Ok(Vec::new())
    }

    async fn close(&self) {}
}

/// Takes `x-proof: good`; `slow` takes a while, `panic` panics. The URL's token `wrong` is not bound.
struct FakeVerifier(ProviderName);

#[async_trait]
impl Verifier for FakeVerifier {
    async fn verify(&self, request: &Request<'_>, _now: Timestamp) -> Result<Verified, Refusal> {
        if request.token == Some("wrong") {
            return Err(Refusal::Unbound);
        }
        match request.headers.get("x-proof").map(|value| value.as_bytes()) {
            None => Err(Refusal::Missing),
            Some(b"good") => Ok(Verified::pretended(self.0)),
            Some(b"slow") => {
                tokio::time::sleep(Duration::from_millis(50)).await;
                Ok(Verified::pretended(self.0))
            }
            Some(b"panic") => panic!("a defect"),
            Some(b"stale") => Err(Refusal::Stale),
            Some(b"garbled") => Err(Refusal::Malformed),
            Some(b"keys") => Err(Refusal::KeysUnavailable),
            Some(_) => Err(Refusal::Mismatch),
        }
    }
}

const fn provider(name: &'static str, binds_urls: bool) -> Provider {
    Provider {
        name: ProviderName::new(name),
        title: name,
        variables: &[],
        binds_urls,
        verifier: |_| unreachable!(),
        reader: |_| unreachable!(),
        signer: |_| unreachable!(),
        allow_from: "",
        presets: &[],
        resends_refused: true,
        keeps: Keep::Whole,
        keeps_unread: Keep::Whole,
        development: Vec::new,
    }
}

static PLAID: Provider = provider("plaid", true);
static UNIT: Provider = provider("unit", false);
static SYNAPSE: Provider = provider("synapse", false);

/// A receiver of plaid, which binds URLs, unit, which does not, and synapse, which has no secret.
pub(crate) fn receiver(queue: &Arc<FakeQueue>) -> Receiver {
    let proves = |provider: &Provider| Some(Box::new(FakeVerifier(provider.name)) as Box<dyn Verifier>);
    let providers = [(&PLAID, proves(&PLAID)), (&UNIT, proves(&UNIT)), (&SYNAPSE, None)];
    let allow_from = Addresses::everywhere();
    let providers =
        providers.map(|(provider, verifier)| Proving { provider, verifier, allow_from: allow_from.clone() });
    let key = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
    let vault = Vault {
        ring: KeyRing::parse(&SecretString::from(format!("1:{key}"))).unwrap(),
        index: BlindIndex::parse(&SecretString::from(key)).unwrap(),
        theirs: None,
    };
    let clock = WallClock::held(Timestamp::from_seconds(1_700_000_000).unwrap());
    Receiver::new(providers, Arc::new(vault), Arc::clone(queue) as Arc<dyn Queue>, clock)
}

//! The receiver's half of the way: one provider is found, its proof checked, the delivery sealed and handed to the queue.
//!
//! Law: `Ok` means that the delivery is durable, and only then may the sender get its 200. Nothing unverified is sealed,
//! nothing is parsed, and the body is not copied. Where next: `http/webhooks.rs` calls this, `work` takes what it published.

#[cfg(test)]
pub(crate) mod fakes;

use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::HeaderMap;
use uuid::Uuid;

use crate::domain::{ProviderName, Timestamp, TraceParent, WallClock};
use crate::ops::spans::Span;
use crate::providers::addresses::Addresses;
use crate::providers::{Provider, Request, Verifier};
use crate::queue::Queue;
use crate::store::{Vault, marks};

/// Why not, as `http` needs it without knowing providers or queues.
pub use crate::providers::Refusal;
pub use crate::queue::PublishError;

/// What receives deliveries: who may send, what seals, where they go.
pub struct Receiver {
    doors: Doors,
    vault: Arc<Vault>,
    queue: Arc<dyn Queue>,
    clock: WallClock,
}

/// The entrances, which can be exchanged while requests go through them: each request keeps those that it began with.
#[derive(Clone)]
pub struct Doors(Arc<ArcSwap<Vec<Door>>>);

/// A provider with what is asked of its deliveries.
pub struct Proving {
    /// Whose.
    pub provider: &'static Provider,
    /// What proves them, `None` without its secret.
    pub verifier: Option<Box<dyn Verifier>>,
    /// Where they are taken from.
    pub allow_from: Addresses,
}

impl Doors {
    fn new(providers: impl IntoIterator<Item = Proving>, vault: &Vault) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(doors(providers, vault))))
    }

    /// Exchanges them: new secrets, from the next request on.
    pub fn replace(&self, providers: impl IntoIterator<Item = Proving>, vault: &Vault) {
        self.0.store(Arc::new(doors(providers, vault)));
    }

    fn now(&self) -> Arc<Vec<Door>> {
        self.0.load_full()
    }
}

fn doors(providers: impl IntoIterator<Item = Proving>, vault: &Vault) -> Vec<Door> {
    let door = |Proving { provider, verifier, allow_from }: Proving| {
        let secrets = verifier.as_deref().map_or(&[][..], Verifier::secrets);
        let fingerprints = secrets.iter().map(|secret| marks::of_secret(&vault.index, provider.name, secret)).collect();
        Door {
            provider: provider.name,
            binds_urls: provider.binds_urls,
            resends_refused: provider.resends_refused,
            allow_from,
            verifier,
            fingerprints,
        }
    };
    providers.into_iter().map(door).collect()
}

/// One provider's entrance.
struct Door {
    provider: ProviderName,
    binds_urls: bool,
    resends_refused: bool,
    allow_from: Addresses,
    /// `None` = its secrets are not configured.
    verifier: Option<Box<dyn Verifier>>,
    /// Of its secrets, in their order.
    fingerprints: Vec<String>,
}

/// Why a delivery was not accepted. `http/error.rs` turns it into a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAccepted {
    /// No provider has this name.
    #[error("unknown provider")]
    UnknownProvider,
    /// The provider is known, and its secrets are not configured here.
    #[error("the provider's secrets are not configured")]
    NoSecret,
    /// Something follows the name of a provider whose URL cannot be bound.
    #[error("this provider's webhook URL carries no token")]
    TokenNotSupported,
    /// It comes from an address that is not on the provider's list.
    #[error("refused: address")]
    Address {
        /// Whether the provider sends again what is answered 403.
        resends: bool,
    },
    /// The proof did not hold, or could not be checked now.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// It could not be made durable.
    #[error("not published: {0}")]
    Queue(PublishError),
}

impl Receiver {
    /// A receiver for these providers, each with what proves its deliveries, `None` where it has no secret.
    pub fn new(
        providers: impl IntoIterator<Item = Proving>,
        vault: Arc<Vault>,
        queue: Arc<dyn Queue>,
        clock: WallClock,
    ) -> Self {
        Self { doors: Doors::new(providers, &vault), vault, queue, clock }
    }

    /// The entrances, to exchange them while it receives.
    pub fn doors(&self) -> Doors {
        self.doors.clone()
    }

    /// The provider of a name as it stands in a path.
    pub fn named(&self, name: &str) -> Option<ProviderName> {
        self.doors.now().iter().map(|door| door.provider).find(|provider| provider.as_str() == name)
    }

    /// The clock that deliveries are stamped with.
    pub fn clock(&self) -> &WallClock {
        &self.clock
    }

    /// Who is meant by a path, and whether that may come from there: decided before a byte of the body is read.
    pub fn find(&self, provider: &str, bound: bool, client: Option<IpAddr>) -> Result<ProviderName, NotAccepted> {
        let doors = self.doors.now();
        let (door, _) = open(&doors, provider, bound)?;
        if door.allow_from.admit(client) {
            Ok(door.provider)
        } else {
            Err(NotAccepted::Address { resends: door.resends_refused })
        }
    }

    /// Whether the queue could take a delivery now, answered without waiting.
    pub fn accepts(&self) -> Result<(), NotAccepted> {
        self.queue.accepts().map_err(NotAccepted::Queue)
    }

    /// Takes one delivery the whole way to the queue; its id, and the trace it is in, once it is durable.
    pub async fn receive(
        &self,
        provider: &str,
        token: Option<&str>,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<(Uuid, TraceParent), NotAccepted> {
        let doors = self.doors.now();
        let (door, verifier) = open(&doors, provider, token.is_some())?;
        let mut span = Span::receive(door.provider, traceparent(headers));
        let accepted = self.accept((door, verifier), &mut span, headers, token, body).await;
        if accepted.is_err() {
            span.failed();
        }
        accepted.map(|id| (id, span.context()))
    }

    async fn accept(
        &self,
        (door, verifier): (&Door, &dyn Verifier),
        span: &mut Span,
        headers: &HeaderMap,
        token: Option<&str>,
        body: Bytes,
    ) -> Result<Uuid, NotAccepted> {
        let received_at = self.clock.now();
        let request = Request { headers, body: &body, token };
        let verified = verifier.verify(&request, received_at).await.map_err(NotAccepted::Refused)?; // way: 3/12
        let sealed = {
            let secret = verified.place().and_then(|place| door.fingerprints.get(place).cloned());
            let mut delivery = verified.into_delivery(fresh_id(received_at), received_at, body);
            delivery.proof.secret = secret;
            // The plaintext ends with this block: while the broker's confirm is awaited, only the seal is held.
            self.vault.ring.seal_delivery(&delivery.traced(Some(span.context())))
        };
        let id = sealed.id;
        span.delivery(id);
        let mut publishing = Span::publish(sealed.provider, id, span);
        let published = self.queue.publish(sealed).await.map_err(NotAccepted::Queue); // way: 6/12
        if published.is_err() {
            publishing.failed();
        }
        published.map(|()| id)
    }
}

fn open<'d>(doors: &'d [Door], provider: &str, bound: bool) -> Result<(&'d Door, &'d dyn Verifier), NotAccepted> {
    let door = doors.iter().find(|door| door.provider.as_str() == provider).ok_or(NotAccepted::UnknownProvider)?; // way: 2/12
    if bound && !door.binds_urls {
        return Err(NotAccepted::TokenNotSupported);
    }
    let verifier = door.verifier.as_deref().ok_or(NotAccepted::NoSecret)?;
    Ok((door, verifier))
}

/// A version 7 id of that time: the clock is handed in, so that a test's ids agree with its times.
fn fresh_id(at: Timestamp) -> Uuid {
    let since_epoch = u64::try_from(at.micros()).unwrap_or(0);
    let (seconds, micros) = (since_epoch / 1_000_000, since_epoch % 1_000_000);
    Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, seconds, micros as u32 * 1_000))
}

/// The sender's trace context; of several none is taken.
fn traceparent(headers: &HeaderMap) -> Option<TraceParent> {
    let mut given = headers.get_all("traceparent").iter();
    let (value, None) = (given.next()?, given.next()) else { return None };
    TraceParent::parse(value.to_str().ok()?)
}

#[cfg(test)]
mod tests {
    use super::fakes::{FakeQueue, receiver};
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    async fn receive(
        queue: &Arc<FakeQueue>,
        path: (&str, Option<&str>),
        proof: &'static str,
    ) -> Result<Uuid, NotAccepted> {
        let headers = headers(&[("x-proof", proof)]);
        receiver(queue).receive(path.0, path.1, &headers, Bytes::from_static(b"{\"data\":[]}")).await.map(|(id, _)| id)
    }

    #[tokio::test]
    async fn a_verified_delivery_is_published_sealed_under_the_id_that_is_returned() {
        let queue = FakeQueue::confirming();
        let id = receive(&queue, ("unit", None), "good").await.unwrap();
        let published = queue.published();
        assert_eq!((published.len(), published[0].id, id.get_version_num()), (1, id, 7));
        let message = published[0].message.as_bytes();
        assert!(!message.windows(6).any(|window| window == b"\"data\""), "the body is in the clear");
    }

    #[tokio::test]
    async fn nothing_unverified_reaches_the_queue() {
        let queue = FakeQueue::confirming();
        for (proof, refusal) in [("", Refusal::Mismatch), ("stale", Refusal::Stale), ("keys", Refusal::KeysUnavailable)]
        {
            assert_eq!(receive(&queue, ("unit", None), proof).await, Err(NotAccepted::Refused(refusal)));
        }
        assert!(queue.published().is_empty());
    }

    #[tokio::test]
    async fn paths_that_are_nobodys_are_told_from_providers_without_secret() {
        let queue = FakeQueue::confirming();
        for (path, why) in [
            (("stripe", None), NotAccepted::UnknownProvider),
            (("Unit", None), NotAccepted::UnknownProvider),
            (("synapse", None), NotAccepted::NoSecret),
            (("unit", Some("token")), NotAccepted::TokenNotSupported),
            (("synapse", Some("token")), NotAccepted::TokenNotSupported),
            (("plaid", Some("wrong")), NotAccepted::Refused(Refusal::Unbound)),
        ] {
            assert_eq!(receive(&queue, path, "good").await, Err(why), "{path:?}");
        }
        assert!(receive(&queue, ("plaid", Some("right")), "good").await.is_ok());
    }

    #[tokio::test]
    async fn a_queue_that_does_not_confirm_means_not_accepted() {
        let queue = FakeQueue::failing(PublishError::Timeout);
        assert_eq!(receive(&queue, ("unit", None), "good").await, Err(NotAccepted::Queue(PublishError::Timeout)));
    }

    #[tokio::test]
    async fn a_delivery_keeps_the_trace_of_its_request_and_has_a_new_one_where_that_says_none() {
        const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        for (given, kept) in
            [(&[GOOD][..], true), (&[GOOD, GOOD], false), (&["00-4111111111111111"], false), (&[], false)]
        {
            let queue = FakeQueue::confirming();
            let receiver = receiver(&queue);
            let pairs = given.iter().map(|value| ("traceparent", *value)).chain([("x-proof", "good")]);
            let mut sent = HeaderMap::new();
            for (name, value) in pairs {
                sent.append(name, value.parse().unwrap());
            }
            let (id, trace) = receiver.receive("unit", None, &sent, Bytes::from_static(b"{}")).await.unwrap();
            let published = &queue.published()[0];
            assert_eq!((published.id, published.traceparent.clone()), (id, Some(trace.to_string())));
            assert_eq!(trace.to_string() == GOOD, kept, "{given:?}");
            let known = |name: &str| (name == "unit").then_some(ProviderName::new("unit"));
            let opened = receiver.vault.ring.open_delivery(&published.message.bytes(), &known).unwrap();
            assert_eq!(opened.trace, Some(trace), "it travels inside the seal");
        }
    }
}

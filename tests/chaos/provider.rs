//! The providers: they sign with finhook's own signers, post, and try again by each provider's rules, time so many times
//! faster (a hundred, unless the outage is a long one). What ends their patience is kept: see `after`.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use finhook::crypto::UrlKeys;
use finhook::domain::{UserId, WallClock};
use finhook::providers::PROVIDERS;
use rand::RngExt;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep};

use crate::deployment::Signers;
use crate::ledger::{Answer, Ledger};
use crate::world::{Outgoing, Sender};

/// How long a sender waits for an answer. Not scaled: finhook's own limits are not either.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a sender does after an answer.
#[derive(Debug, PartialEq, Eq)]
enum After {
    /// It counts as delivered.
    Done,
    /// It is sent again after this time.
    Again(Duration),
    /// It is never sent again.
    Never,
}

/// How many deliveries are sent again in a second once everybody hurries.
const HURRIED: usize = 400;

/// Requests of all providers together: fewer than a receiver takes at once, so that a 503 says something of what is behind
/// it and nothing of a driver that was held up and caught up.
const AT_ONCE: usize = 800;

/// Over how long those are sent again that are put off once more.
const HURRIED_AGAIN: Duration = Duration::from_secs(10);

/// The rules of PROVIDERS.md, time `faster` times faster; `attempts` were made so far, this one included.
fn after(sender: Sender, answer: Answer, attempts: u32, faster: u32) -> After {
    let scaled = |seconds: u64| After::Again(Duration::from_secs(seconds) / faster);
    match (sender, answer) {
        (Sender::Plaid { .. }, Answer::Status(200)) => After::Done,
        // 30 s, four times as long after each, for up to 24 hours: six more attempts.
        (Sender::Plaid { .. }, _) if attempts <= 6 => scaled(30 * 4_u64.pow(attempts - 1)),
        (Sender::Plaid { .. }, _) => After::Never,
        (Sender::Unit, Answer::Status(200)) => After::Done,
        // Minutes by Fibonacci, up to an hour, for seven days: longer than any run.
        (Sender::Unit, _) => scaled(60 * fibonacci(attempts).min(60)),
        // It takes these for its own mistake.
        (Sender::Synapse, Answer::Status(200 | 204 | 400 | 404 | 405 | 408)) => After::Done,
        // About five within 24 hours.
        (Sender::Synapse, _) if attempts <= 5 => scaled(60 * 3_u64.pow(attempts - 1)),
        (Sender::Synapse, _) => After::Never,
        (Sender::LogStream | Sender::EventStream, Answer::Status(200..=299)) => After::Done,
        // Until resolved.
        (Sender::LogStream, _) => scaled(60 * u64::from(attempts.min(5))),
        (Sender::EventStream, Answer::Status(400..=499)) => After::Never,
        (Sender::EventStream, _) if attempts <= 3 => scaled(60 * 4_u64.pow(attempts - 1)),
        (Sender::EventStream, _) => After::Never,
    }
}

fn fibonacci(n: u32) -> u64 {
    (0..n.min(40)).fold((0_u64, 1_u64), |(a, b), _| (b, a + b)).0
}

/// Signs and posts.
pub struct Providers {
    signers: Signers,
    url_keys: UrlKeys,
    clock: WallClock,
    client: reqwest::Client,
    /// Where the receivers listen; a load balancer picks one of them for each attempt.
    doors: Vec<u16>,
    /// Whether a 401 can be our own doing: clocks that jump make signatures stale.
    stale_is_fine: bool,
    faster: u32,
    /// Over how long what waits is sent again, once it is to hurry.
    hurry: watch::Sender<Option<Duration>>,
    at_once: Semaphore,
    /// What they know.
    pub ledger: Rc<RefCell<Ledger>>,
}

impl Providers {
    /// Signs with what finhook's settings say.
    pub fn new(signers: Signers, url_keys: UrlKeys, doors: Vec<u16>, ledger: Ledger) -> anyhow::Result<Self> {
        debug_assert_eq!(signers.len(), PROVIDERS.len(), "every provider signs");
        let client = reqwest::Client::builder().timeout(PATIENCE).no_proxy().build()?;
        Ok(Self {
            signers,
            url_keys,
            clock: WallClock::system(),
            client,
            doors,
            stale_is_fine: false,
            faster: 100,
            hurry: watch::Sender::new(None),
            at_once: Semaphore::new(AT_ONCE),
            ledger: Rc::new(RefCell::new(ledger)),
        })
    }

    /// The same for receivers whose clocks jump.
    pub fn forgiving(self, stale_is_fine: bool) -> Self {
        Self { stale_is_fine, ..self }
    }

    /// The same with time so many times faster.
    pub fn faster(self, faster: u32) -> Self {
        Self { faster: faster.max(1), ..self }
    }

    /// What waits for its next attempt is sent soon from now on, not all of it at once; over how long.
    pub fn hurry(&self) -> Duration {
        let waiting = u32::try_from(self.ledger.borrow().open / HURRIED).unwrap_or(u32::MAX);
        let over = Duration::from_secs(waiting.max(1).into());
        self.hurry.send_replace(Some(over));
        over
    }

    /// The header fields that prove a body.
    pub fn proof(&self, provider: &str, body: &[u8]) -> Vec<(http::HeaderName, http::HeaderValue)> {
        self.signers.get(provider).map(|signer| signer.sign(body, self.clock.now())).unwrap_or_default()
    }

    /// Sends a delivery until its provider's rules say that it is over.
    pub async fn deliver(self: Rc<Self>, mut outgoing: Outgoing) {
        let number = {
            let mut ledger = self.ledger.borrow_mut();
            ledger.deliveries += 1;
            ledger.open += 1;
            ledger.deliveries
        };
        let (mut signed, mut hurried) = (None, false);
        for attempts in 1.. {
            let signs_anew = matches!(outgoing.sender, Sender::Plaid { signs_anew: true });
            let headers = match signed.take().filter(|_| !signs_anew) {
                Some(headers) => headers,
                None => self.sign(&mut outgoing),
            };
            // It is never closed.
            let place = self.at_once.acquire().await.expect("an open semaphore");
            let sent = Instant::now();
            let answer = self.post(&outgoing, &headers).await;
            drop(place);
            signed = Some(headers);
            self.ledger.borrow_mut().answered(number, &outgoing, sent, answer);
            self.judge(outgoing.sender, answer);
            let wait = match after(outgoing.sender, answer, attempts, self.faster) {
                After::Done if answer == Answer::Status(200) => {
                    let mut ledger = self.ledger.borrow_mut();
                    (ledger.accepted, ledger.open) = (ledger.accepted + 1, ledger.open - 1);
                    return;
                }
                After::Done | After::Never => {
                    let mut ledger = self.ledger.borrow_mut();
                    (ledger.given_up, ledger.open) = (ledger.given_up + 1, ledger.open - 1);
                    return;
                }
                After::Again(wait) => wait,
            };
            let mut hurry = self.hurry.subscribe();
            tokio::select! {
                () = sleep(wait) => {}
                over = async { hurry.wait_for(Option::is_some).await.ok().and_then(|over| *over) } => {
                    // Who is put off once more is few by then, and need not wait for all the others again.
                    let most = if std::mem::replace(&mut hurried, true) { HURRIED_AGAIN } else { Duration::MAX };
                    let over = over.unwrap_or(Duration::from_secs(1)).min(most);
                    sleep(over.mul_f64(rand::rng().random_range(0.2..1.0)).min(wait)).await;
                }
            }
        }
    }

    /// A good delivery may be put off, never turned away: some senders would not come again.
    fn judge(&self, sender: Sender, answer: Answer) {
        let expected = match answer {
            Answer::Status(200 | 503) | Answer::Silence => true,
            Answer::Status(401) => self.stale_is_fine && matches!(sender, Sender::Plaid { .. }),
            Answer::Status(_) => false,
        };
        if !expected {
            let what = format!("{answer:?} to {sender:?}");
            *self.ledger.borrow_mut().wrong_answers.entry(what).or_default() += 1;
        }
    }

    fn sign(&self, outgoing: &mut Outgoing) -> Vec<(http::HeaderName, http::HeaderValue)> {
        let now = self.clock.now();
        if let (Sender::Plaid { .. }, [event]) = (outgoing.sender, outgoing.events.as_mut_slice()) {
            let key = finhook::domain::DedupKey::from_signing_time(now.seconds(), &outgoing.body);
            (event.key, event.at) = (key.as_bytes().to_vec(), now.seconds() * 1_000_000);
        }
        self.ledger.borrow_mut().announce(outgoing);
        match self.signers.get(outgoing.sender.provider()) {
            Some(signer) => signer.sign(&outgoing.body, now),
            None => Vec::new(),
        }
    }

    async fn post(&self, outgoing: &Outgoing, headers: &[(http::HeaderName, http::HeaderValue)]) -> Answer {
        let door = self.doors.get(rand::rng().random_range(0..self.doors.len())).copied().unwrap_or_default();
        let mut url = format!("http://127.0.0.1:{door}/webhooks/{}", outgoing.sender.provider());
        if let Some(user) = &outgoing.bound {
            url = format!("{url}/{}", self.url_keys.mint(&UserId(user.clone())));
        }
        let mut request = self.client.post(url).body(outgoing.body.clone());
        for (name, value) in headers {
            request = request.header(name, value);
        }
        // The whole response has to be there: half of one is none.
        let response = async {
            let response = request.send().await?;
            let status = response.status().as_u16();
            response.bytes().await.map(|_| status)
        };
        response.await.map_or(Answer::Silence, Answer::Status)
    }
}

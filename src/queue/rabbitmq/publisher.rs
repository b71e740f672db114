//! Publishing: pipelined confirms in windows, one window in flight on each of a few channels.
//!
//! A lane (one channel, one task) takes whatever waits, publishes it all at once (`gate`), drains all its confirms and only
//! then releases the results. At low load that is a window of one, released as soon as its confirm is there; under load
//! windows form by themselves, of what came while all lanes were busy.
//!
//! Law: the client library attaches a returned message to whichever confirm comes next, so a window is drained to its end
//! and returns are matched by message id before anybody is told anything. Nobody waits without an end: a session that is
//! over, a confirm that does not come and a caller that gave up all end in an answer.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::warn;

use super::gate::Gate;
use super::inbox::{Inbox, Request};
use super::link::{Link, Session, tend};
use super::refusal::{Trouble, call};
use crate::crypto::SealedDelivery;
use crate::queue::PublishError;

/// Channels, and so windows in flight: while one waits for the broker's disk, the other is filled. More would only make the
/// windows smaller, and what the broker does for each window is dear.
const LANES: usize = 2;

/// How often a lane looks whether the broker is, or still is, blocked.
const BLOCKED_GLANCE: Duration = Duration::from_millis(50);

/// The `type` property: what a consumer of another version goes by.
pub(super) const MESSAGE_TYPE: &str = "finhook.delivery.v1";

pub(super) type Verdict = Result<(), PublishError>;

/// Hands deliveries to the lanes.
pub(super) struct Publisher {
    link: Arc<Link>,
    inbox: Arc<Inbox>,
    confirm_timeout: Duration,
}

impl Publisher {
    /// Starts the lanes' supervision on a link.
    pub(super) fn start(link: Arc<Link>, exchange: &str, confirm_timeout: Duration, max_in_flight: usize) -> Self {
        let inbox = Arc::new(Inbox::new(max_in_flight));
        let way = Way { exchange: exchange.into(), confirm_timeout };
        let tended = (Arc::clone(&link), Arc::clone(&inbox));
        tokio::spawn(tend("publishing", move || run(Arc::clone(&tended.0), Arc::clone(&tended.1), way.clone())));
        Self { link, inbox, confirm_timeout }
    }

    /// Whether a delivery could be taken now.
    pub(super) fn accepts(&self) -> Verdict {
        match self.link.with_session(Session::blocked) {
            None => Err(PublishError::Disconnected),
            Some(true) => Err(PublishError::Blocked),
            Some(false) => self.inbox.accepts(),
        }
    }

    /// Completes when the lanes of a session are there.
    pub(super) async fn open(&self) {
        self.inbox.opened().await;
    }

    /// Publishes and waits for the confirm.
    pub(super) async fn publish(&self, delivery: SealedDelivery) -> Verdict {
        self.accepts()?;
        let answer = self.inbox.push(delivery)?;
        match timeout(self.confirm_timeout, answer).await {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(_)) => Err(PublishError::Disconnected),
            Err(_) => Err(PublishError::Timeout),
        }
    }

    /// Takes nothing more, and waits until everything in flight has its answer.
    pub(super) async fn drain(&self) {
        self.inbox.shut();
        let _ = timeout(self.confirm_timeout, self.inbox.emptied()).await;
    }
}

#[derive(Clone)]
struct Way {
    exchange: ShortString,
    confirm_timeout: Duration,
}

/// Runs the lanes on one session after the other.
async fn run(link: Arc<Link>, inbox: Arc<Inbox>, way: Way) {
    while let Ok(session) = link.wait().await {
        inbox.open();
        let mut lanes = JoinSet::new();
        for _ in 0..LANES {
            lanes.spawn(lane(session.clone(), Arc::clone(&inbox), way.clone()));
        }
        tokio::select! {
            () = session.over() => {}
            // A lane ends with its session and not before; one that panicked would leave its share waiting.
            _ = lanes.join_next() => session.abandon(),
        }
        inbox.interrupt();
        // Each of them sees the same end, answers what it holds, and returns.
        while lanes.join_next().await.is_some() {}
        inbox.interrupt();
    }
    inbox.interrupt();
}

async fn lane(session: Session, inbox: Arc<Inbox>, way: Way) {
    while session.up() {
        if session.blocked() {
            // Nothing is written, so no channel can be opened either.
            inbox.refuse_waiting(PublishError::Blocked);
            tokio::time::sleep(BLOCKED_GLANCE).await;
            continue;
        }
        let channel = match confirming(&session).await {
            Ok(channel) => channel,
            Err(_) if session.blocked() => continue,
            Err(trouble) => {
                warn!("{}", trouble.sentence());
                return session.abandon();
            }
        };
        loop {
            let window = tokio::select! {
                window = inbox.take() => window,
                () = session.over() => return,
            };
            if session.blocked() {
                window.into_iter().for_each(|request| request.answer(Err(PublishError::Blocked)));
                continue;
            }
            if !send(&session, &channel, window, &way).await {
                break;
            }
        }
    }
}

async fn confirming(session: &Session) -> Result<Channel, Trouble> {
    let channel = session.channel().await?;
    call("ask for confirms", channel.confirm_select(ConfirmSelectOptions::default())).await?;
    Ok(channel)
}

/// Publishes a window and answers all of it; whether the channel can go on.
async fn send(session: &Session, channel: &Channel, window: Vec<Request>, way: &Way) -> bool {
    let confirmed = {
        let deliveries: Vec<_> = window.iter().map(|request| &request.delivery).collect();
        let confirmed = publish_window(channel, session.gate(), &way.exchange, &deliveries);
        tokio::select! {
            confirmed = timeout(way.confirm_timeout, confirmed) => confirmed.map_err(|_| PublishError::Timeout),
            () = session.over() => Err(PublishError::Disconnected),
            // The broker says so after it has stopped reading, so this window is behind the alarm: it may be taken when
            // that ends, and nobody is made to wait for it.
            () = blocked(session) => Err(PublishError::Blocked),
        }
    };
    let failure = match confirmed {
        Ok(Ok(verdicts)) => {
            for (request, verdict) in window.into_iter().zip(verdicts) {
                request.answer(verdict);
            }
            return true;
        }
        Ok(Err(error)) => {
            // A channel of ours dies when its exchange is gone or forbidden: connecting anew declares, and says what is wrong.
            warn!("the broker ended a publishing channel: {error}");
            session.abandon();
            PublishError::Disconnected
        }
        Err(failure) => failure,
    };
    // Some of the window may have been confirmed. Which, cannot be told for sure while returns are outstanding, and "no"
    // to something that is in the queue only makes the sender repeat it.
    window.into_iter().for_each(|request| request.answer(Err(failure)));
    if failure == PublishError::Timeout {
        session.doubt();
    }
    false
}

/// Completes while an alarm stops the connection.
async fn blocked(session: &Session) {
    while !session.blocked() {
        tokio::time::sleep(BLOCKED_GLANCE).await;
    }
}

/// Publishes all, waits for all confirms, matches returns by message id.
pub(super) async fn publish_window(
    channel: &Channel,
    gate: &Gate,
    exchange: &ShortString,
    deliveries: &[&SealedDelivery],
) -> lapin::Result<Vec<Verdict>> {
    let options = BasicPublishOptions { mandatory: true, ..Default::default() };
    let writes = deliveries.iter().map(|delivery| {
        let (key, body) = (delivery.provider.as_str().into(), delivery.message.as_bytes());
        Box::pin(channel.basic_publish(exchange.clone(), key, options, body, properties(delivery)))
    });
    let writes: Vec<_> = writes.collect();
    let writes: Vec<_> = {
        let _held = gate.hold();
        // The first poll queues the frames; waiting for each to be written would make one system call of every message.
        let queued = writes.into_iter().map(|mut write| {
            let written = write.as_mut().now_or_never();
            (write, written)
        });
        queued.collect()
    };
    let mut confirms = Vec::with_capacity(writes.len());
    for (write, written) in writes {
        confirms.push(match written {
            Some(confirm) => confirm?,
            None => write.await?,
        });
    }
    let mut returned = HashSet::new();
    let mut verdicts = Vec::with_capacity(confirms.len());
    for confirm in confirms {
        let confirmation = confirm.await?;
        verdicts.push(match &confirmation {
            Confirmation::Ack(_) => Ok(()),
            // `NotRequested` would mean that we forgot to ask for confirms: then nothing is known to be on disk.
            Confirmation::Nack(_) | Confirmation::NotRequested => Err(PublishError::Refused),
        });
        if let Some(message) = confirmation.take_message() {
            match message.properties.message_id() {
                Some(id) => returned.insert(id.as_str().to_owned()),
                // Every message of ours has an id. If the broker lost it, nobody can say whose it was.
                None => return Ok(vec![Err(PublishError::Refused); deliveries.len()]),
            };
        }
    }
    if !returned.is_empty() {
        for (delivery, verdict) in deliveries.iter().zip(&mut verdicts) {
            if returned.contains(&delivery.id.to_string()) {
                *verdict = Err(PublishError::Refused);
            }
        }
    }
    Ok(verdicts)
}

fn properties(delivery: &SealedDelivery) -> BasicProperties {
    let text = |text: &str| AMQPValue::LongString(text.into());
    let mut headers = FieldTable::default();
    headers.insert("provider".into(), text(delivery.provider.as_str()));
    headers.insert("received-at".into(), text(&delivery.received_at.to_string()));
    if let Some(traceparent) = &delivery.traceparent {
        headers.insert("traceparent".into(), text(traceparent));
    }
    BasicProperties::default()
        // Persistent. A quorum queue keeps everything; a queue that an operator puts in its place might not.
        .with_delivery_mode(2)
        .with_content_type("application/octet-stream".into())
        .with_type(MESSAGE_TYPE.into())
        .with_message_id(delivery.id.to_string().into())
        .with_timestamp(u64::try_from(delivery.received_at.seconds()).unwrap_or(0))
        .with_headers(headers)
}

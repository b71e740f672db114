//! One supervised connection: opened, watched, lost and opened again for ever, with the topology declared each time.
//!
//! ```text
//!            topology declared                        lost, abandoned, silent
//! Connecting ────────────────▶ Up(session) ─────────────────────────────────▶ Connecting …
//!     │ 403 · 404 · 406                         close()
//!     └──────────────▶ Stopped(sentence)   ────────────▶ Closed
//! ```
//!
//! The client library's own recovery is off: it gives up after 16 attempts, takes 403 for recoverable and cannot be told
//! to stop. A session's token says to all who use its channels that it is over, so that nobody waits for a dead socket.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use lapin::tcp::OwnedTLSConfig;
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Channel, Connection, ConnectionProperties, Event};
use secrecy::{ExposeSecret, SecretString};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::gate::Gate;
use super::refusal::{CALL_TIMEOUT, Trouble, call, judge};
use super::topology::Topology;
use crate::config::is_this_machine;
use crate::ops::delays::Delays;
use crate::queue::QueueError;

/// Both sides hang up after two silent intervals; the broker's own default of 60 s would leave a half-open socket
/// unnoticed for two minutes (<https://www.rabbitmq.com/docs/heartbeats>). The library looks every half interval, so it
/// notices after two and a half at the latest: with three seconds, a link that was forgotten on the way is replaced within
/// the 10 s in which everything has to work again.
const HEARTBEAT_SECONDS: u16 = 3;

/// 32 frames of this size are buffered in each direction; the default of 128 KiB would be 8 MiB for each connection.
const FRAME_BYTES: u32 = 32 * 1024;

/// How long opening may take, name lookup and TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(6);

const FIRST_DELAY: Duration = Duration::from_millis(100);

/// With an attempt that runs into its timeout just before the broker is back, still less than the 10 s within which
/// everything has to work again.
const LONGEST_DELAY: Duration = Duration::from_secs(3);

/// A connection that stood shorter than this does not start the delays over.
const STABLE: Duration = Duration::from_secs(10);

/// How often the connection's state is looked at; most losses are told at once, a close by the broker is not.
const GLANCE: Duration = Duration::from_millis(100);

/// A connection that is up, until `gone` is cancelled.
#[derive(Clone)]
pub(super) struct Session {
    connection: Arc<Connection>,
    gate: Gate,
    gone: CancellationToken,
    doubts: Arc<Notify>,
}

impl Session {
    /// Opens a channel.
    pub(super) async fn channel(&self) -> Result<Channel, Trouble> {
        call("open a channel", self.connection.create_channel()).await
    }

    /// Whether the broker takes nothing at the moment: a memory or disk alarm. It stops every write on the connection.
    pub(super) fn blocked(&self) -> bool {
        self.connection.status().blocked()
    }

    /// Whether it is still up.
    pub(super) fn up(&self) -> bool {
        !self.gone.is_cancelled() && self.connection.status().connected()
    }

    /// Completes when the session is over.
    pub(super) async fn over(&self) {
        self.gone.cancelled().await;
    }

    /// Gives the session up: something is wrong that a new connection mends (an exchange that is not there any more).
    pub(super) fn abandon(&self) {
        self.gone.cancel();
    }

    /// An answer did not come: have it tried whether anybody is there.
    pub(super) fn doubt(&self) {
        self.doubts.notify_one();
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Before its socket.
    pub(super) fn gate(&self) -> &Gate {
        &self.gate
    }
}

/// What a link is doing.
#[derive(Clone)]
pub(super) enum State {
    /// Trying.
    Connecting,
    /// Usable.
    Up(Session),
    /// Stopped for a reason that a person has to mend.
    Stopped(Arc<str>),
    /// Closed on purpose.
    Closed,
}

/// One connection's supervision.
pub(super) struct Link {
    role: &'static str,
    url: SecretString,
    topology: Arc<Topology>,
    state: watch::Sender<State>,
    /// Where all links of a queue say for what they stopped.
    alarm: Alarm,
    closing: CancellationToken,
}

/// The sentence for which a queue's links stopped, if one did.
pub(super) type Alarm = Arc<watch::Sender<Option<Arc<str>>>>;

impl Link {
    /// Starts to connect.
    pub(super) fn start(role: &'static str, url: SecretString, topology: Arc<Topology>, alarm: Alarm) -> Arc<Self> {
        let link = Arc::new(Self {
            role,
            url,
            topology,
            alarm,
            state: watch::Sender::new(State::Connecting),
            closing: CancellationToken::new(),
        });
        let tended = Arc::clone(&link);
        tokio::spawn(tend("a connection's supervision", move || Arc::clone(&tended).supervise()));
        link
    }

    /// The session, if there is one now.
    pub(super) fn session(&self) -> Option<Session> {
        match &*self.state.borrow() {
            State::Up(session) if session.up() => Some(session.clone()),
            _ => None,
        }
    }

    /// Runs `look` on the session without cloning it; `None` if there is none.
    pub(super) fn with_session<T>(&self, look: impl FnOnce(&Session) -> T) -> Option<T> {
        match &*self.state.borrow() {
            State::Up(session) if session.up() => Some(look(session)),
            _ => None,
        }
    }

    /// Waits for a session, reconnecting as long as it takes.
    pub(super) async fn wait(&self) -> Result<Session, QueueError> {
        let mut state = self.state.subscribe();
        loop {
            match &*state.borrow_and_update() {
                State::Up(session) if session.up() => return Ok(session.clone()),
                State::Stopped(sentence) => return Err(QueueError::Fatal(sentence.to_string())),
                State::Closed => return Err(QueueError::Gone),
                State::Up(_) | State::Connecting => {}
            }
            if state.changed().await.is_err() {
                return Err(QueueError::Gone);
            }
        }
    }

    /// Whether it was closed on purpose.
    pub(super) fn closed(&self) -> bool {
        self.closing.is_cancelled()
    }

    /// Stops for a reason that a person has to mend.
    pub(super) fn stop(&self, sentence: &str) {
        error!(connection.role = self.role, "stopped: {sentence}");
        let sentence: Arc<str> = sentence.into();
        self.alarm.send_replace(Some(Arc::clone(&sentence)));
        let before = self.state.send_replace(State::Stopped(sentence));
        if let State::Up(session) = before {
            session.abandon();
        }
    }

    /// Closes the connection, and waits a moment for the broker to agree.
    pub(super) async fn close(&self) {
        self.closing.cancel();
        let mut state = self.state.subscribe();
        let over = state.wait_for(|state| matches!(state, State::Closed | State::Stopped(_)));
        let _ = timeout(CALL_TIMEOUT, over).await;
    }

    /// Makes the supervisor end without waiting for it.
    pub(super) fn let_go(&self) {
        self.closing.cancel();
    }

    async fn supervise(self: Arc<Self>) {
        // Not there unless the supervision before this one panicked.
        self.state.send_if_modified(|state| {
            let State::Up(session) = state else { return false };
            session.abandon();
            *state = State::Connecting;
            true
        });
        let mut delays = Delays::new(FIRST_DELAY, LONGEST_DELAY);
        let mut silent = false;
        loop {
            let opened = tokio::select! {
                opened = open(&self.url, self.role, &self.topology, silent) => opened,
                () = self.closing.cancelled() => break,
            };
            silent = false;
            match opened {
                Ok((connection, gate)) => {
                    info!(connection.role = self.role, "connected to the broker");
                    let since = Instant::now();
                    if !self.stand(Arc::new(connection), gate).await {
                        return;
                    }
                    if since.elapsed() > STABLE {
                        delays.reset();
                    }
                }
                Err(Attempt::Judged(Trouble::Standing { sentence, .. })) => return self.stop(&sentence),
                Err(Attempt::Judged(trouble)) => warn!(connection.role = self.role, "{}", trouble.sentence()),
                Err(Attempt::Silent) => {
                    silent = true;
                    warn!(connection.role = self.role, "could not connect to the broker: no answer in time");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(delays.after_failure()) => {}
                () = self.closing.cancelled() => break,
            }
        }
        self.state.send_replace(State::Closed);
    }

    /// Keeps a session up until it is over; false if that ends the supervision.
    async fn stand(&self, connection: Arc<Connection>, gate: Gate) -> bool {
        let session = Session {
            connection: Arc::clone(&connection),
            gate,
            gone: CancellationToken::new(),
            doubts: Arc::new(Notify::new()),
        };
        self.state.send_replace(State::Up(session.clone()));
        self.watch(&session).await;
        session.abandon();
        if matches!(&*self.state.borrow(), State::Stopped(_)) {
            return false;
        }
        let closing = self.closing.is_cancelled();
        self.state.send_replace(State::Connecting);
        // Polite, so that the broker logs no abrupt end; pointless if nobody is there, hence not waited for unless asked to.
        let goodbye = async move {
            let _ = timeout(CALL_TIMEOUT, connection.close(200, "done".into())).await;
        };
        if closing {
            goodbye.await;
            self.state.send_replace(State::Closed);
        } else {
            warn!(connection.role = self.role, "lost the broker");
            tokio::spawn(goodbye);
        }
        !closing
    }

    async fn watch(&self, session: &Session) {
        let mut events = session.connection.events_listener();
        let mut glance = interval(GLANCE);
        glance.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while session.up() {
            tokio::select! {
                Some(event) = events.next() => match event {
                    // Whatever the reason says is the broker's own text about its alarms.
                    Event::ConnectionBlocked(reason) => warn!(connection.role = self.role, "the broker is blocked: {reason}"),
                    Event::ConnectionUnblocked => info!(connection.role = self.role, "the broker takes messages again"),
                    _ => {}
                },
                _ = glance.tick() => {}
                () = session.over() => return,
                () = self.closing.cancelled() => return,
                () = session.doubts.notified() => {
                    // While blocked nothing is written, so nothing can be asked; the heartbeats the broker sends go on.
                    if !session.blocked() && session.channel().await.is_err() && !session.blocked() {
                        return;
                    }
                }
            }
        }
    }
}

/// Runs a task that has to go on: one that panics is started again, after a moment.
pub(super) async fn tend<F: Future<Output = ()>>(what: &str, task: impl Fn() -> F) {
    while AssertUnwindSafe(task()).catch_unwind().await.is_err() {
        error!("{what} panicked and starts over");
        tokio::time::sleep(FIRST_DELAY).await;
    }
}

enum Attempt {
    Judged(Trouble),
    Silent,
}

impl From<Trouble> for Attempt {
    fn from(trouble: Trouble) -> Self {
        Self::Judged(trouble)
    }
}

/// Connects and declares the topology.
async fn open(url: &SecretString, role: &str, topology: &Topology, knock: bool) -> Result<(Connection, Gate), Attempt> {
    let uri = address(url)?;
    if knock {
        self::knock(&uri).await?;
    }
    let gate = Gate::default();
    let connection = connect(uri, authority(url)?, role, &gate).await?;
    topology.declare(&connection).await?;
    Ok((connection, gate))
}

/// One connection without supervision, for commands that ask or declare once.
pub(super) async fn connect_once(url: &SecretString) -> Result<Connection, Trouble> {
    connect(address(url)?, authority(url)?, "topology", &Gate::default()).await.map_err(|attempt| match attempt {
        Attempt::Judged(trouble) => trouble,
        Attempt::Silent => {
            Trouble::Passing { code: None, sentence: "could not connect to the broker: no answer in time".into() }
        }
    })
}

async fn connect(uri: AMQPUri, authority: Option<String>, role: &str, gate: &Gate) -> Result<Connection, Attempt> {
    let properties = ConnectionProperties::default().with_connection_name(format!("finhook {role}").into());
    let tls = OwnedTLSConfig { identity: None, cert_chain: authority };
    let connecting = Connection::connect_uri_with_config(uri, properties, tls, gate.runtime());
    match timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) => Err(judge("connect to the broker", &error).into()),
        Err(_) => Err(Attempt::Silent),
    }
}

/// Whether what is sent to an address could be read or changed on the way. One that cannot be read is not judged here.
pub fn is_exposed(url: &SecretString) -> bool {
    let plain = |uri: AMQPUri| matches!(uri.scheme, AMQPScheme::AMQP) && !is_this_machine(&uri.authority.host);
    url.expose_secret().trim().parse().is_ok_and(plain)
}

/// The CA that is trusted besides the system's: `cacertfile` in the address, as RabbitMQ's own clients name it. Read at
/// every connection, so that a new one is taken up.
pub(super) fn authority(url: &SecretString) -> Result<Option<String>, Trouble> {
    let Some((_, query)) = url.expose_secret().split_once('?') else { return Ok(None) };
    let Some(path) = query.split('&').find_map(|pair| pair.strip_prefix("cacertfile=")) else { return Ok(None) };
    std::fs::read_to_string(path.trim()).map(Some).map_err(|error| Trouble::Standing {
        code: 0,
        sentence: format!("AMQP_URL: its cacertfile {path} cannot be read: {}", error.kind()),
    })
}

/// The address with our settings; a person's own in its query (`?heartbeat=20`) win.
pub(super) fn address(url: &SecretString) -> Result<AMQPUri, Trouble> {
    // The parser's error would quote the address, password included.
    let mut uri: AMQPUri = url.expose_secret().parse().map_err(|_| Trouble::Standing {
        code: 0,
        sentence: "AMQP_URL is not an address of the form amqp://user:password@host:5672/vhost".into(),
    })?;
    uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
    uri.query.frame_max.get_or_insert(FRAME_BYTES);
    if uri.vhost.is_empty() {
        // "amqp://host/" names the vhost "" by the letter; whoever writes it means the default one.
        uri.vhost = "/".into();
    }
    Ok(uri)
}

/// Tries, after a connection attempt that nobody answered, whether anybody answers now. The library cannot be told to
/// give a handshake up: its thread stays with the socket until that ends, so it must not be sent against a wall again and
/// again. (TLS would need the whole handshake to know: there the accepted socket has to do.)
async fn knock(uri: &AMQPUri) -> Result<(), Attempt> {
    let answered = async {
        let mut stream = TcpStream::connect((uri.authority.host.as_str(), uri.authority.port)).await?;
        if matches!(uri.scheme, AMQPScheme::AMQP) {
            stream.write_all(b"AMQP\x00\x00\x09\x01").await?;
            stream.read_u8().await?;
        }
        Ok::<_, std::io::Error>(())
    };
    match timeout(CALL_TIMEOUT, answered).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => {
            Err(Trouble::Passing { code: None, sentence: format!("could not connect to the broker: {error}") }.into())
        }
        Err(_) => Err(Attempt::Silent),
    }
}

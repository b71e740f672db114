//! How `finhook serve` stops: the real binary under load, on the embedded backends and on RabbitMQ with PostgreSQL.
//!
//! The servers are named by `FINHOOK_TEST_AMQP_URL` and `FINHOOK_TEST_DATABASE_URL`; without them the second half is left
//! out and says so, and with `FINHOOK_TEST_REQUIRED=1` leaving out is a failure.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use reqwest::{Client, StatusCode};
use sqlx::{AssertSqlSafe, Connection, PgConnection, SqliteConnection};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout};

/// Longer than anything that works takes.
const PATIENCE: Duration = Duration::from_secs(60);

const TOKEN: &str = "test-token";
const KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

type Settings = Vec<(&'static str, String)>;

/// Where a process works.
struct Place {
    folder: TempDir,
    settings: Settings,
    servers: Option<Servers>,
}

struct Servers {
    amqp: String,
    prefix: String,
    database: String,
    administration: String,
}

impl Place {
    fn embedded() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), settings: Vec::new(), servers: None }
    }

    /// A database and names of its own; `None` where the servers are missing.
    async fn at_servers(test: &str) -> Option<Self> {
        let given = |name| std::env::var(name).ok();
        let (Some(amqp), Some(administration)) = (given("FINHOOK_TEST_AMQP_URL"), given("FINHOOK_TEST_DATABASE_URL"))
        else {
            assert!(given("FINHOOK_TEST_REQUIRED").as_deref() != Some("1"), "{test} needs a broker and a database");
            eprintln!("left out: {test}: FINHOOK_TEST_AMQP_URL or FINHOOK_TEST_DATABASE_URL is not set");
            return None;
        };
        let name = format!("finhook_stop_{}", uuid::Uuid::new_v4().simple());
        let mut connection = PgConnection::connect(&administration).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(format!("create database {name}"))).execute(&mut connection).await.unwrap();
        let (server, _) = administration.rsplit_once('/').unwrap();
        let database = format!("{server}/{name}");
        let prefix = name.replace('_', "-");
        let settings = vec![
            ("DATABASE_URL", database.clone()),
            ("AMQP_URL", amqp.clone()),
            ("FINHOOK_AMQP_PREFIX", prefix.clone()),
            ("FINHOOK_KEYS", format!("1:{KEY}")),
            ("FINHOOK_INDEX_KEY", KEY.to_owned()),
        ];
        let servers = Some(Servers { amqp, prefix, database, administration });
        let place = Self { folder: tempfile::tempdir().unwrap(), settings, servers };
        let migrated = place.command("migrate").arg("up").stdout(Stdio::null()).status().await.unwrap();
        assert!(migrated.success());
        Some(place)
    }

    fn command(&self, command: &str) -> Command {
        let mut finhook = Command::new(env!("CARGO_BIN_EXE_finhook"));
        finhook
            .arg(command)
            .env_clear()
            .envs(self.settings.iter().cloned())
            .env("FINHOOK_DATA_DIR", self.folder.path().join("data"))
            .env("FINHOOK_AUTH0_TOKENS", TOKEN)
            .env("FINHOOK_HTTP_BIND", "127.0.0.1:0")
            .env("FINHOOK_OPS_BIND", "127.0.0.1:0")
            .current_dir(self.folder.path())
            .kill_on_drop(true);
        finhook
    }

    async fn serve(&self, more: &[(&'static str, &str)]) -> Serving {
        let mut command = self.command("serve");
        command.envs(more.iter().copied()).stdout(Stdio::null()).stderr(Stdio::piped());
        Serving::start(command.spawn().unwrap()).await
    }

    /// The keys of all event rows.
    async fn rows(&self) -> HashSet<String> {
        let sql = "select dedup_key from event";
        let keys: Vec<Vec<u8>> = match &self.servers {
            Some(servers) => {
                let mut connection = PgConnection::connect(&servers.database).await.unwrap();
                sqlx::query_scalar(sql).fetch_all(&mut connection).await.unwrap()
            }
            None => {
                let file = format!("sqlite://{}", self.folder.path().join("data/finhook.db").display());
                let mut connection = SqliteConnection::connect(&file).await.unwrap();
                sqlx::query_scalar(sql).fetch_all(&mut connection).await.unwrap()
            }
        };
        let count = keys.len();
        let rows: HashSet<_> = keys.into_iter().map(|key| String::from_utf8(key).unwrap()).collect();
        assert_eq!(rows.len(), count, "an event has two rows");
        rows
    }

    async fn clean(self) {
        let Some(servers) = self.servers else { return };
        let mut connection = PgConnection::connect(&servers.administration).await.unwrap();
        let (_, name) = servers.database.rsplit_once('/').unwrap();
        let drop = format!("drop database {name} with (force)");
        sqlx::raw_sql(AssertSqlSafe(drop)).execute(&mut connection).await.unwrap();
        let connection = lapin::Connection::connect(&servers.amqp, Default::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        for queue in ["plaid", "unit", "synapse", "auth0", "unrouted", "dead"] {
            let queue = format!("{}.{queue}", servers.prefix);
            channel.queue_delete(queue.as_str().into(), Default::default()).await.unwrap();
        }
        for exchange in ["", ".unrouted", ".dead"] {
            let exchange = format!("{}{exchange}", servers.prefix);
            channel.exchange_delete(exchange.as_str().into(), Default::default()).await.unwrap();
        }
    }
}

/// A running process.
struct Serving {
    process: Child,
    public: SocketAddr,
    ops: SocketAddr,
}

impl Serving {
    async fn start(mut process: Child) -> Self {
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let started = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                let Ok(line) = serde_json::from_str::<serde_json::Value>(&line) else { panic!("{line}") };
                let address = |field: &str| line[field].as_str().and_then(|address| address.parse().ok());
                if let (Some(public), Some(ops)) = (address("http.address"), address("ops.address")) {
                    return (public, ops);
                }
            }
            panic!("it ended before it served");
        };
        let (public, ops) = timeout(PATIENCE, started).await.expect("it serves");
        // Read on, or the process would wait for us.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self { process, public, ops }
    }

    fn signal(&self) {
        let process = self.process.id().unwrap().to_string();
        assert!(std::process::Command::new("kill").args(["-TERM", &process]).status().unwrap().success());
    }

    async fn ended(&mut self) -> ExitStatus {
        timeout(PATIENCE, self.process.wait()).await.expect("it ends").unwrap()
    }

    /// Waits until `/readyz` answers so.
    async fn readyz(&self, status: StatusCode) -> String {
        let client = client();
        let asking = async {
            loop {
                let answer = client.get(format!("http://{}/readyz", self.ops)).send().await;
                let answer = answer.expect("the operators' port answers");
                if answer.status() == status {
                    return answer.text().await.unwrap();
                }
            }
        };
        timeout(PATIENCE, asking).await.expect("readiness changes")
    }

    /// A request whose body is not complete yet.
    async fn half_a_delivery(&self, key: &str) -> (TcpStream, String) {
        let body = body(key);
        let (first, rest) = body.split_at(body.len() / 2);
        let mut stream = TcpStream::connect(self.public).await.unwrap();
        let head = format!(
            "POST /webhooks/auth0 HTTP/1.1\r\nhost: finhook\r\nauthorization: {TOKEN}\r\ncontent-length: {}\r\n\
             expect: 100-continue\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        // Asked for its body: the request is being served.
        let mut answer = [0; 25];
        stream.read_exact(&mut answer).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 100"));
        stream.write_all(first.as_bytes()).await.unwrap();
        (stream, rest.to_owned())
    }
}

fn client() -> Client {
    Client::builder().no_proxy().build().unwrap()
}

/// One event of a kind that is only recorded: a row, and nothing that it needs.
fn body(key: &str) -> String {
    format!(
        r#"[{{"log_id":"{key}","data":{{"log_id":"{key}","date":"2026-04-01T11:48:39.913Z","type":"f","user_id":"auth0|1"}}}}]"#
    )
}

/// Posts from many connections until none gets through; the keys that got a 200.
async fn post_until_it_stops(public: SocketAddr, posted: Arc<AtomicU64>) -> HashSet<String> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let client = client();
    let posters = (0..16).map(|_| {
        let (client, posted) = (client.clone(), Arc::clone(&posted));
        tokio::spawn(async move {
            let mut acked = Vec::new();
            loop {
                let key = format!("stop-{:08}", NEXT.fetch_add(1, Ordering::Relaxed));
                let url = format!("http://{public}/webhooks/auth0");
                let sent = client.post(url).header("authorization", TOKEN).body(body(&key)).send().await;
                match sent {
                    Ok(answer) if answer.status() == StatusCode::OK => acked.push(key),
                    Ok(answer) => assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE),
                    Err(_) => return acked,
                }
                posted.fetch_add(1, Ordering::Relaxed);
            }
        })
    });
    let mut acked = HashSet::new();
    for poster in posters.collect::<Vec<_>>() {
        acked.extend(timeout(PATIENCE, poster).await.expect("the port closes").unwrap());
    }
    acked
}

async fn a_stop_under_load_loses_nothing_and_exits_with_0(place: &Place) {
    let mut serving = place.serve(&[]).await;
    serving.readyz(StatusCode::OK).await;
    let posted = Arc::new(AtomicU64::new(0));
    let posting = tokio::spawn(post_until_it_stops(serving.public, Arc::clone(&posted)));
    while posted.load(Ordering::Relaxed) < 500 {
        tokio::task::yield_now().await;
    }
    serving.signal();
    let stopping = Instant::now();
    assert_eq!(serving.ended().await.code(), Some(0));
    assert!(stopping.elapsed() < Duration::from_secs(20), "{:?}", stopping.elapsed());
    let acked = posting.await.unwrap();
    assert!(acked.len() >= 400, "{}", acked.len());

    let again = place.serve(&[]).await;
    let all = async {
        while !acked.is_subset(&place.rows().await) {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, all).await.expect("everything that got a 200 becomes a row");
    drop(again);
}

async fn what_is_in_flight_is_finished_while_readiness_is_off(place: &Place) {
    let mut serving = place.serve(&[]).await;
    serving.readyz(StatusCode::OK).await;
    let (mut stream, rest) = serving.half_a_delivery("stop-in-flight").await;
    serving.signal();
    let why = serving.readyz(StatusCode::SERVICE_UNAVAILABLE).await;
    assert!(why.contains("stopping"), "{why}");
    let refused = async { while TcpStream::connect(serving.public).await.is_ok() {} };
    timeout(PATIENCE, refused).await.expect("nothing more is accepted");
    serving.readyz(StatusCode::SERVICE_UNAVAILABLE).await;
    stream.write_all(rest.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("\r\nHTTP/1.1 200") || answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(serving.ended().await.code(), Some(0));
}

async fn a_second_signal_exits_at_once(place: &Place) {
    let mut serving = place.serve(&[]).await;
    serving.readyz(StatusCode::OK).await;
    let (_stream, _) = serving.half_a_delivery("stop-unfinished").await;
    serving.signal();
    serving.readyz(StatusCode::SERVICE_UNAVAILABLE).await;
    serving.signal();
    let since = Instant::now();
    assert_eq!(serving.ended().await.code(), Some(143));
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
}

async fn the_deadline_ends_what_does_not_finish(place: &Place) {
    let mut serving = place.serve(&[("FINHOOK_SHUTDOWN_TIMEOUT", "1s")]).await;
    serving.readyz(StatusCode::OK).await;
    let (_stream, _) = serving.half_a_delivery("stop-late").await;
    serving.signal();
    let since = Instant::now();
    serving.ended().await;
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
}

macro_rules! for_both {
    ($($test:ident),+ $(,)?) => {
        mod embedded {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::$test(&super::Place::embedded()).await;
                }
            )+
        }

        mod at_servers {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    let Some(place) = super::Place::at_servers(stringify!($test)).await else { return };
                    super::$test(&place).await;
                    place.clean().await;
                }
            )+
        }
    };
}

for_both!(
    a_stop_under_load_loses_nothing_and_exits_with_0,
    what_is_in_flight_is_finished_while_readiness_is_off,
    a_second_signal_exits_at_once,
    the_deadline_ends_what_does_not_finish,
);

/// The receiver alone, with a spool, and no broker from the very start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_with_a_spool_takes_deliveries_without_its_broker_and_keeps_them_over_a_stop() {
    let mut place = Place::embedded();
    // Nobody listens there: the port was just given back.
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let spool = place.folder.path().join("spool.db");
    place.settings.extend([
        ("AMQP_URL", format!("amqp://guest:guest@{unused}/%2f")),
        ("FINHOOK_SPOOL", spool.display().to_string()),
    ]);
    let mut command = place.command("serve");
    command.args(["--only", "receiver"]).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut serving = Serving::start(command.spawn().unwrap()).await;
    serving.readyz(StatusCode::OK).await;
    let posted = Arc::new(AtomicU64::new(0));
    let posting = tokio::spawn(post_until_it_stops(serving.public, Arc::clone(&posted)));
    while posted.load(Ordering::Relaxed) < 200 {
        tokio::task::yield_now().await;
    }
    let taken = place.command("serve").args(["--only", "receiver"]).stderr(Stdio::null()).status().await.unwrap();
    assert_eq!(taken.code(), Some(64), "two receivers share a spool");
    serving.signal();
    assert_eq!(serving.ended().await.code(), Some(0));
    let acked = posting.await.unwrap();
    assert!(acked.len() >= 200, "not one is refused: {}", acked.len());
    assert_eq!(stored(&spool).await, i64::try_from(acked.len()).unwrap());
}

async fn stored(spool: &Path) -> i64 {
    let mut connection = SqliteConnection::connect(&format!("sqlite://{}", spool.display())).await.unwrap();
    sqlx::query_scalar("select count(*) from message").fetch_one(&mut connection).await.unwrap()
}

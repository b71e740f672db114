//! A private PostgreSQL cluster: started, killed and restarted on the same folder.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use sqlx::{ConnectOptions, Connection, PgConnection};
use tokio::time::{Instant, sleep, timeout};

use crate::broker::newest;
use crate::machine::{Machine, Process, children, free_port, signal, tail};

/// The cluster.
pub struct Database {
    /// Where it listens.
    pub port: u16,
    bin: PathBuf,
    data: PathBuf,
    log: PathBuf,
    process: Option<Process>,
}

impl Database {
    /// Makes a cluster and starts it.
    pub async fn start(machine: &Machine) -> anyhow::Result<Self> {
        let initdb = newest("/usr/lib/postgresql", "", "bin/initdb")
            .context("PostgreSQL is not installed (Debian: apt-get install postgresql)")?;
        let data = machine.subfolder("postgres")?;
        let mut command = machine.server(&initdb)?;
        command.args(["--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C", "--no-sync", "--pgdata"]);
        let made = command.arg(&data).current_dir(&data).output().await?;
        if !made.status.success() {
            bail!("initdb: {}", String::from_utf8_lossy(&made.stderr).trim());
        }
        let bin = initdb.parent().context("a program is in a folder")?.to_owned();
        let log = machine.folder.join("postgres.log");
        let mut database = Self { port: free_port(), bin, data, log, process: None };
        database.restart(machine)?;
        database.answers(Duration::from_secs(30)).await?;
        Ok(database)
    }

    /// Starts it on the folder that it had.
    pub fn restart(&mut self, machine: &Machine) -> anyhow::Result<()> {
        let mut command = machine.server(self.bin.join("postgres"))?;
        command.arg("-D").arg(&self.data).args(["-p", &self.port.to_string()]).current_dir(&self.data);
        // Without fsync: processes are killed here, not the machine. Without a socket: nothing outside the folder.
        for setting in [
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "fsync=off",
            "full_page_writes=off",
            "max_connections=200",
        ] {
            command.args(["-c", setting]);
        }
        self.process = Some(Process::start(command, &self.log)?);
        Ok(())
    }

    /// kill -9, its children too, and what the dead postmaster would trip over.
    pub async fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            let mut pids = children(process.pid());
            signal("STOP", &[process.pid()]);
            pids.extend(children(process.pid()));
            process.kill().await;
            signal("KILL", &pids);
            sleep(Duration::from_millis(50)).await;
            let _ = std::fs::remove_file(self.data.join("postmaster.pid"));
        }
    }

    /// Waits until it answers a query.
    pub async fn answers(&self, within: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + within;
        while Instant::now() < until {
            if let Ok(mut connection) = self.connect("postgres").await
                && sqlx::query("select 1").execute(&mut connection).await.is_ok()
            {
                return Ok(());
            }
            sleep(Duration::from_millis(50)).await;
        }
        bail!("PostgreSQL does not answer; the end of its log:\n{}", tail(&self.log, 20))
    }

    /// A connection past every proxy.
    pub async fn connect(&self, name: &str) -> anyhow::Result<PgConnection> {
        connect(self.port, name).await
    }

    /// Runs statements in one of its databases.
    pub async fn run(&self, name: &str, statements: &str) -> anyhow::Result<()> {
        let mut connection = self.connect(name).await?;
        sqlx::raw_sql(sqlx::AssertSqlSafe(statements.to_owned())).execute(&mut connection).await?;
        Ok(())
    }
}

/// A connection to a database of the cluster on this port.
pub async fn connect(port: u16, name: &str) -> anyhow::Result<PgConnection> {
    let url = format!("postgres://postgres@127.0.0.1:{port}/{name}?sslmode=disable");
    let options = url.parse::<sqlx::postgres::PgConnectOptions>()?.disable_statement_logging();
    Ok(timeout(Duration::from_secs(3), PgConnection::connect_with(&options)).await??)
}

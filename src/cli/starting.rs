//! The operators' port while a start waits for what it needs: alive, not ready, and why not.
//!
//! A worker whose database is away waits for it, and whoever looks must be able to see that. The whole router needs the
//! database, so it takes the port over when that is there. Where next: `serving.rs`.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::http::ops_api;
use crate::http::server::{self, Entrance};
use crate::http::tls::Tls;
use crate::ops::metrics::PrometheusHandle;
use crate::ops::readiness::Readiness;
use crate::ops::shutdown::Shutdown;

/// How long an answer that was begun may take when the whole router takes over.
const HANDOVER: Duration = Duration::from_millis(500);

/// `/healthz`, `/readyz` and `/metrics` of a process that is starting.
pub struct Starting {
    task: Option<JoinHandle<()>>,
    stop: Shutdown,
}

impl Starting {
    /// Serves on the listener's socket until [`Starting::over`]; what comes meanwhile and is not taken waits in its queue.
    pub fn serve(
        (listener, tls): (&TcpListener, Option<Arc<Tls>>),
        readiness: &Readiness,
        metrics: PrometheusHandle,
    ) -> io::Result<Self> {
        let shared = std::net::TcpListener::from(listener.as_fd().try_clone_to_owned()?);
        let shared = TcpListener::from_std(shared)?;
        // Says `starting` until the serving process has its own answer.
        readiness.check("running");
        let router = ops_api::router(ops_api::OpsState { readiness: readiness.clone(), metrics });
        let stop = Shutdown::new(HANDOVER);
        let until = stop.clone();
        let limits = server::ServerLimits { connections: 64, ..Default::default() };
        let task = tokio::spawn(async move {
            server::serve(Entrance::new(shared, tls), router, limits, &until).await;
        });
        Ok(Self { task: Some(task), stop })
    }

    /// Leaves the port to the whole router.
    pub async fn over(mut self) {
        self.stop.begin();
        if let Some(task) = self.task.take() {
            // Its panics were said where they happened.
            let _ = task.await;
        }
    }
}

impl Drop for Starting {
    /// A start that fails leaves nothing behind that answers.
    fn drop(&mut self) {
        self.stop.begin();
    }
}

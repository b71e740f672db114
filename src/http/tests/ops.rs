//! The ops bind, as an orchestrator and Prometheus see it.

use super::*;
use crate::domain::{Timestamp, WallClock};
use crate::http::ops_api::{OpsState, router};
use crate::ops::metrics;
use crate::ops::readiness::Readiness;

async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let answer = reqwest::get(format!("http://{address}{path}")).await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

#[tokio::test]
async fn health_readiness_and_metrics_are_there_for_everybody() {
    let clock = WallClock::held(Timestamp::from_seconds(1_700_000_000).unwrap());
    let readiness = Readiness::new(clock);
    let store = readiness.check("store");
    let state = OpsState { readiness, metrics: metrics::install() };
    let listener = server::bind("FINHOOK_OPS_BIND", "127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = Shutdown::new(Duration::from_secs(1));
    let stop = shutdown.clone();
    let ended =
        tokio::spawn(async move { server::serve(listener, router(state), ServerLimits::default(), &stop).await });

    assert_eq!(get(address, "/healthz").await, (200, "ok\n".to_owned()));
    let (status, body) = get(address, "/readyz").await;
    assert_eq!(
        (status, body.as_str()),
        (
            503,
            r#"{"ready":false,"checks":[{"name":"store","ok":false,"why":"starting","since":"2023-11-14T22:13:20Z"}]}"#
        )
    );
    store.ok();
    assert_eq!(get(address, "/readyz").await.0, 200);
    store.failed("the database is away");
    assert!(get(address, "/readyz").await.1.contains("the database is away"));
    metrics::deliveries(None, metrics::Outcome::Misdirected);
    let (status, text) = get(address, "/metrics").await;
    assert!(status == 200 && text.contains("# TYPE finhook_deliveries_total counter"), "{text}");
    assert_eq!(get(address, "/v1/events").await.0, 404);
    shutdown.begin();
    assert_eq!(ended.await.unwrap(), Ended { cut: 0 });
}

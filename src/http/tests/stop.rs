//! How the server ends.

use super::*;

#[tokio::test]
async fn a_stop_finishes_what_is_in_flight_and_accepts_nothing_more() {
    let mut server = TestServer::start(FakeQueue::holding()).await;
    let (mut serving, mut idle) = (server.connect().await, server.connect().await);
    serving.send(post("/webhooks/unit", "good", "{}")).await;
    server.handed_over(1).await;
    server.shutdown.begin();
    assert!(idle.is_closed().await, "an idle connection is closed at once");
    assert!(TcpStream::connect(server.address).await.is_err(), "a new connection was accepted");
    server.queue.confirm(1);
    assert_eq!(serving.answer().await.unwrap().status, 200);
    assert!(serving.is_closed().await);
    assert_eq!(timeout(TOO_LONG, &mut server.ended).await.unwrap().unwrap(), Ended { cut: 0 });
}

#[tokio::test]
async fn a_stop_ends_at_its_deadline_and_says_what_it_cut() {
    let mut server = TestServer::start(FakeQueue::holding()).await;
    let mut client = server.connect().await;
    client.send(post("/webhooks/unit", "good", "{}")).await;
    server.handed_over(1).await;
    server.shutdown.begin();
    assert_eq!(timeout(TOO_LONG, &mut server.ended).await.unwrap().unwrap(), Ended { cut: 1 });
    assert!(client.answer().await.is_none(), "a 200 without a confirm");
}

#[tokio::test]
async fn an_address_in_use_is_an_error_that_names_the_variable() {
    let taken = server::bind("FINHOOK_HTTP_BIND", "127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let error = server::bind("FINHOOK_OPS_BIND", &address).await.unwrap_err().to_string();
    assert!(error.starts_with("FINHOOK_OPS_BIND: ") && error.contains("something else listens there"), "{error}");
    let error = server::bind("FINHOOK_OPS_BIND", "nonsense").await.unwrap_err().to_string();
    assert!(error.contains("HOST:PORT"), "{error}");
}

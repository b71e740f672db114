//! HTTP/2 without TLS, framed by hand: the preface, one request, what comes back.

use super::*;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Header fields as literals without index and without Huffman coding (RFC 7541, 6.2.2); all shorter than 127 bytes.
fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text.bytes());
        }
    }
    block
}

async fn next_frame(client: &mut Client) -> Option<(u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    timeout(TOO_LONG, client.stream.read_exact(&mut head)).await.expect("a frame or the end").ok()?;
    let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
    client.stream.read_exact(&mut payload).await.ok()?;
    let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
    Some((head[3], stream, payload))
}

async fn open(server: &TestServer) -> Client {
    let mut client = server.connect().await;
    client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    client.send(frame(SETTINGS, 0, 0, &[])).await;
    client
}

/// Posts on stream 1 of a new connection; the connection, once the answer's head is there, and that head's first byte.
pub(super) async fn ask(server: &TestServer, path: &str, more: &[(&str, &str)], body: &str) -> (Client, u8) {
    let mut client = open(server).await;
    let mut head = vec![(":method", "POST"), (":scheme", "http"), (":authority", "x"), (":path", path)];
    head.extend(more);
    client.send(frame(HEADERS, END_HEADERS, 1, &fields(&head))).await;
    client.send(frame(DATA, END_STREAM, 1, body.as_bytes())).await;
    loop {
        match next_frame(&mut client).await.expect("an answer") {
            (HEADERS, 1, block) => return (client, block[0]),
            (SETTINGS, ..) => client.send(frame(SETTINGS, ACK, 0, &[])).await,
            _ => {}
        }
    }
}

/// `:status 200` is entry 8 of HPACK's static table (RFC 7541, appendix A).
const STATUS_200: u8 = 0x80 | 8;

#[tokio::test]
async fn a_delivery_over_http_2_is_200_too() {
    let server = TestServer::start(FakeQueue::confirming()).await;
    assert_eq!(ask(&server, "/webhooks/unit", &[("x-proof", "good")], "{}").await.1, STATUS_200);
    assert_ne!(ask(&server, "/webhooks/unit", &[("x-proof", "bad")], "{}").await.1, STATUS_200);
    assert_eq!(server.queue.published().len(), 1);
}

#[tokio::test]
async fn an_idle_http_2_connection_is_told_goodbye() {
    let limits = ServerLimits { idle_time: Duration::from_millis(30), ..ServerLimits::default() };
    let limits = ServerLimits { head_time: Duration::from_millis(60), ..limits };
    let server = TestServer::limited(FakeQueue::confirming(), WebhookLimits::default(), limits).await;
    let (mut client, status) = ask(&server, "/webhooks/unit", &[("x-proof", "good")], "{}").await;
    assert_eq!(status, STATUS_200);
    let mut goodbye = false;
    while let Some((kind, ..)) = next_frame(&mut client).await {
        goodbye |= kind == GOAWAY;
    }
    assert!(goodbye);
}

#[tokio::test]
async fn an_http_2_connection_that_asks_nothing_is_closed() {
    let limits = ServerLimits { head_time: Duration::from_millis(60), ..ServerLimits::default() };
    let server = TestServer::limited(FakeQueue::confirming(), WebhookLimits::default(), limits).await;
    let mut client = open(&server).await;
    while next_frame(&mut client).await.is_some() {}
}

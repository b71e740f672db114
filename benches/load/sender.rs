//! A provider under load: keep-alive connections that post signed deliveries, one at a time each.

use std::rc::Rc;

use anyhow::{Context, ensure};
use finhook::domain::WallClock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::pace::{Found, Pace, Tally};
use super::traffic::{Signer, mixed, place, spread};

/// What is sent, and how.
pub struct Sending {
    /// `HOST:PORT`.
    pub to: String,
    /// Who signs.
    pub signer: Signer,
    /// Connections at once.
    pub connections: usize,
    /// The number of the first delivery.
    pub first: u64,
    /// Whether copies and disorder are among them.
    pub mixed: bool,
    /// Among how many customers deliveries are spread; `None`: they come one customer after the other.
    pub customers: Option<u64>,
    /// When.
    pub pace: Pace,
}

/// Sends all of it.
pub async fn send(sending: Sending) -> anyhow::Result<Found> {
    let sending = Rc::new(sending);
    let mut tasks = Vec::new();
    for _ in 0..sending.connections {
        let stream = TcpStream::connect(&sending.to).await.context("connect to the receiver")?;
        stream.set_nodelay(true)?;
        tasks.push(tokio::task::spawn_local(connection(Rc::clone(&sending), stream)));
    }
    let mut tallies = Vec::new();
    for task in tasks {
        tallies.push(task.await??);
    }
    Tally::found(tallies)
}

async fn connection(sending: Rc<Sending>, mut stream: TcpStream) -> anyhow::Result<Tally> {
    let (mut tally, clock, mut answer) = (Tally::default(), WallClock::system(), Vec::with_capacity(1_024));
    while let Some((at, due)) = sending.pace.next().await {
        let number = sending.first + if sending.mixed { mixed(at) } else { at };
        let customer = sending.customers.map_or_else(|| place(number), |customers| spread(number, customers));
        stream.write_all(&sending.signer.request(number, customer, clock.now())).await?;
        let status = status(&mut stream, &mut answer).await?;
        tally.answer(due, status == 200);
    }
    Ok(tally)
}

/// Reads one answer to its end.
async fn status(stream: &mut TcpStream, answer: &mut Vec<u8>) -> anyhow::Result<u16> {
    answer.clear();
    loop {
        ensure!(stream.read_buf(answer).await? > 0, "the receiver closed the connection");
        let mut headers = [httparse::EMPTY_HEADER; 16];
        let mut head = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(end) = head.parse(answer)? else { continue };
        let length = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
        let length = length.and_then(|header| std::str::from_utf8(header.value).ok()?.parse::<usize>().ok());
        if answer.len() >= end + length.context("an answer without a length")? {
            return head.code.context("an answer without a status");
        }
    }
}

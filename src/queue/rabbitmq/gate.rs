//! A gate in front of the broker's socket: nothing is written while a window is being handed to the client library.
//!
//! The library has a thread of its own for each connection, and every message wakes it. It would write what is there, one
//! or a few messages, and go back to sleep to be woken by the next: of one window many system calls here, many small packets
//! and as many wake-ups of the broker. While a lane holds the gate that thread stands before it, and then writes all at once.
//!
//! Law: the gate is held while messages are handed over and for nothing else, never across an await; and what is handed
//! over wants no lock that the library's thread has when it writes, so neither waits for the other.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_rs::traits::Reactor;
use async_rs::util::RuntimeParts;
use async_rs::{Runtime, Tokio};
use futures_util::Stream;
use futures_util::io::{AsyncRead, AsyncWrite};

/// One connection's gate.
#[derive(Clone, Default, Debug)]
pub(super) struct Gate(Arc<Mutex<()>>);

impl Gate {
    /// Holds back what the connection would write, until what this returns is dropped.
    pub(super) fn hold(&self) -> MutexGuard<'_, ()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nobody holds it.
    fn pass(&self) {
        drop(self.hold());
    }

    /// This runtime for the client library, with the gate before each socket.
    pub(super) fn runtime(&self) -> Runtime<RuntimeParts<Tokio, Gated>> {
        let tokio = Tokio::current();
        Runtime::new(RuntimeParts::new(tokio.clone(), Gated { tokio, gate: self.clone() }))
    }
}

/// Tokio's reactor, whose sockets stand behind a gate.
#[derive(Clone, Debug)]
pub(super) struct Gated {
    tokio: Tokio,
    gate: Gate,
}

impl Reactor for Gated {
    type TcpStream = Behind<<Tokio as Reactor>::TcpStream>;
    type Sleep = <Tokio as Reactor>::Sleep;

    /// Not there: the client library takes sockets that it connects, and none of somebody else.
    fn register<H: Send + 'static>(
        &self,
        _socket: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        Err::<Self::TcpStream, _>(io::ErrorKind::Unsupported.into())
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.tokio.sleep(duration)
    }

    fn interval(&self, duration: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.tokio.interval(duration)
    }

    fn tcp_connect_addr(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        let (connecting, gate) = (self.tokio.tcp_connect_addr(address), self.gate.clone());
        async move { Ok(Behind { stream: connecting.await?, gate }) }
    }
}

/// A socket behind a gate, through which only what is written goes.
pub(super) struct Behind<S> {
    stream: S,
    gate: Gate,
}

impl<S: AsyncRead + Unpin> AsyncRead for Behind<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }

    fn poll_read_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_read_vectored(context, buffers)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Behind<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.gate.pass();
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.gate.pass();
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    /// Comes before the library gathers what it will write: here it waits, so that the window is complete by then.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.gate.pass();
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(context)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use futures_util::FutureExt;
    use futures_util::io::{AsyncWriteExt, sink};

    use super::*;

    #[test]
    fn nothing_is_written_or_flushed_before_the_gate_is_let_go() {
        let gate = Gate::default();
        let mut behind = Behind { stream: sink(), gate: gate.clone() };
        // One that does not wait is caught sooner or later: often enough for the first.
        for round in 0..300 {
            let (says, said) = mpsc::channel();
            let held = gate.hold();
            thread::scope(|scope| {
                let (behind, tells) = (&mut behind, says.clone());
                scope.spawn(move || {
                    tells.send("comes").unwrap();
                    match round % 3 {
                        0 => behind.write(b"window").now_or_never().unwrap().map(drop).unwrap(),
                        1 => {
                            behind.write_vectored(&[IoSlice::new(b"window")]).now_or_never().unwrap().map(drop).unwrap()
                        }
                        _ => behind.flush().now_or_never().unwrap().unwrap(),
                    }
                    tells.send("is through").unwrap();
                });
                assert_eq!(said.recv(), Ok("comes"));
                says.send("let go").unwrap();
                drop(held);
                assert_eq!((said.recv(), said.recv()), (Ok("let go"), Ok("is through")), "round {round}");
            });
        }
    }
}

//! Reading a body: within a limit, within the room, and what to do with one that nobody wants.

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::EXPECT;
use http_body_util::BodyExt;
use hyper::body::Body as _;

use super::error::Cause;
use super::room::{Held, Room};

/// Reads a whole body of at most `limit` bytes. One that arrives in one piece is not copied.
pub(super) async fn read(body: &mut Body, limit: usize, room: &Room) -> Result<Held, Cause> {
    let Some(first) = next(body).await? else { return room.delivery(Bytes::new()) };
    if first.len() > limit {
        return Err(Cause::TooLarge);
    }
    if body.is_end_stream() {
        return room.delivery(first);
    }
    let mut arriving = room.arriving();
    arriving.grow(first.len())?;
    // Grows with what arrives, not with what was announced: a slow sender announces a megabyte and sends a byte.
    let mut gathered = BytesMut::from(first);
    while let Some(piece) = next(body).await? {
        if gathered.len() + piece.len() > limit {
            return Err(Cause::TooLarge);
        }
        arriving.grow(piece.len())?;
        gathered.extend_from_slice(&piece);
    }
    room.delivery(gathered.freeze())
}

/// The next piece that holds data; `None` at the end.
async fn next(body: &mut Body) -> Result<Option<Bytes>, Cause> {
    while let Some(frame) = body.frame().await {
        // Not told apart: the sender went away, or its chunks are not chunks. Neither waits for an answer.
        let frame = frame.map_err(|_| Cause::Broken)?;
        // Trailers say nothing that a provider would sign.
        match frame.into_data() {
            Ok(data) if !data.is_empty() => return Ok(Some(data)),
            _ => {}
        }
    }
    Ok(None)
}

/// How much of an unwanted body is read, and for how long.
const DRAIN_BYTES: usize = 4 << 20;
const DRAIN_TIME: Duration = Duration::from_secs(3);

/// Reads on behind an answer that was given early, and throws away what comes.
///
/// Closing a connection with unread bytes resets it, and the reset can overtake the answer: the sender would see a
/// broken connection where a 404 or 413 stands. A sender that waits for `100 Continue` has sent nothing yet. For HTTP/1:
/// an HTTP/2 stream is reset by itself.
pub(super) fn drain(headers: &HeaderMap, mut body: Body) {
    if body.is_end_stream() || headers.contains_key(EXPECT) {
        return;
    }
    tokio::spawn(tokio::time::timeout(DRAIN_TIME, async move {
        let mut left = DRAIN_BYTES;
        while let Ok(Some(piece)) = next(&mut body).await {
            let Some(less) = left.checked_sub(piece.len()) else { return };
            left = less;
        }
    }));
}

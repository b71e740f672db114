//! Under which keys the messages of a log are: asked of the file itself, also while another process has it open.

use std::collections::BTreeMap;
use std::path::Path;

use futures_util::TryStreamExt;
use sqlx::ConnectOptions;

use super::{options, queue_name, storage};
use crate::crypto::asked::{MESSAGE_HEAD, key_of_message_head};
use crate::queue::QueueError;

/// How many messages of one queue are under one key; `None` if a message says of no key.
pub type Stored = BTreeMap<(String, Option<u32>), u64>;

/// Counts by queue and key; nothing if there is no file. A message is not read further than to its key's id.
pub async fn stored_keys(path: &Path) -> Result<Stored, QueueError> {
    let mut stored = Stored::new();
    if !path.exists() {
        return Ok(stored);
    }
    let mut connection = options(path).create_if_missing(false).read_only(true).connect().await.map_err(storage)?;
    let head = i64::try_from(MESSAGE_HEAD).unwrap_or(i64::MAX);
    let mut rows = sqlx::query_as::<_, (String, Vec<u8>)>("select provider, substr(message, 1, $1) from message")
        .bind(head)
        .fetch(&mut connection);
    while let Some((provider, head)) = rows.try_next().await.map_err(storage)? {
        *stored.entry((queue_name(&provider), key_of_message_head(&head))).or_default() += 1;
    }
    Ok(stored)
}

//! What only a file can do to us: held by another, locked, full, larger than memory.

use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, SqliteConnection};
use tokio::time::timeout;

use super::{Embedded, EmbeddedSettings};
use crate::queue::contract::{
    OnDisk, PATIENCE, Place, bodies, delivery, nothing_comes, numbered, publish, take, tokens,
};
use crate::queue::{PublishError, Queue, QueueError};

async fn place() -> OnDisk {
    OnDisk::new("").await.unwrap()
}

fn settings(place: &OnDisk) -> EmbeddedSettings {
    EmbeddedSettings { path: place.path(), max_bytes: None, max_in_flight: 100, providers: vec!["plaid"] }
}

/// A connection beside the queue's own, as nobody should have.
async fn stranger(place: &OnDisk) -> SqliteConnection {
    SqliteConnectOptions::new().filename(place.path()).connect().await.unwrap()
}

#[tokio::test]
async fn a_second_process_is_refused_with_a_sentence_until_the_first_ends() {
    let place = place().await;
    let first = Embedded::open(settings(&place)).await.unwrap();
    let Err(QueueError::Fatal(sentence)) = Embedded::open(settings(&place)).await else { panic!("two at once") };
    assert!(sentence.contains("another finhook process"), "{sentence}");
    first.close().await;
    Embedded::open(settings(&place)).await.unwrap().close().await;
}

#[tokio::test]
async fn a_file_of_another_layout_is_refused_with_a_sentence() {
    let place = place().await;
    Embedded::open(settings(&place)).await.unwrap().close().await;
    sqlx::raw_sql("pragma user_version = 7").execute(&mut stranger(&place).await).await.unwrap();
    let Err(QueueError::Fatal(sentence)) = Embedded::open(settings(&place)).await else { panic!("it was read") };
    assert!(sentence.contains("layout 7"), "{sentence}");
}

#[tokio::test]
async fn a_full_log_refuses_until_something_is_settled_also_after_reopening() {
    let place = place().await;
    let bounded = EmbeddedSettings { max_bytes: Some(25), ..settings(&place) };
    let queue: Arc<dyn Queue> = Embedded::open(bounded.clone()).await.unwrap();
    publish(&queue, ["0123456789".into(), "abcdefghij".into()]).await;
    assert_eq!(queue.publish(delivery("0123456789")).await, Err(PublishError::Full));
    queue.publish(delivery("12345")).await.unwrap();
    assert_eq!(queue.accepts(), Err(PublishError::Full));
    queue.close().await;

    let queue = Embedded::open(bounded).await.unwrap();
    assert_eq!(queue.accepts(), Err(PublishError::Full));
    let mut consumer = queue.consume(10, 0).await.unwrap();
    let messages = take(&mut consumer, 3).await;
    consumer.ack(tokens(messages)).await.unwrap();
    assert_eq!(queue.accepts(), Ok(()));
    queue.publish(delivery("0123456789")).await.unwrap();
    queue.close().await;
}

#[tokio::test]
async fn a_file_that_cannot_be_written_refuses_and_recovers_by_itself() {
    let place = place().await;
    let queue: Arc<dyn Queue> = Embedded::open(settings(&place)).await.unwrap();
    publish(&queue, ["before".into()]).await;
    let mut consumer = queue.consume(10, 0).await.unwrap();
    let before = take(&mut consumer, 1).await;

    let mut stranger = stranger(&place).await;
    sqlx::raw_sql("begin immediate").execute(&mut stranger).await.unwrap();
    // Its delete cannot be written now, and must not be forgotten.
    consumer.ack(tokens(before)).await.unwrap();
    assert_eq!(queue.publish(delivery("meanwhile")).await, Err(PublishError::Storage));
    sqlx::raw_sql("rollback").execute(&mut stranger).await.unwrap();
    queue.publish(delivery("after")).await.unwrap();
    assert_eq!(bodies(&take(&mut consumer, 1).await), ["after"]);
    consumer.close().await;
    queue.close().await;

    let queue = Embedded::open(settings(&place)).await.unwrap();
    let mut consumer = queue.consume(10, 0).await.unwrap();
    assert_eq!(bodies(&take(&mut consumer, 1).await), ["after"]);
    nothing_comes(&mut consumer).await;
    queue.close().await;
}

#[tokio::test]
async fn an_insert_that_fails_takes_nothing_with_it() {
    let place = place().await;
    let queue: Arc<dyn Queue> = Embedded::open(settings(&place)).await.unwrap();
    publish(&queue, ["before".into()]).await;
    let mut stranger = stranger(&place).await;
    sqlx::raw_sql("create trigger refusal before insert on message begin select raise(rollback, 'no'); end")
        .execute(&mut stranger)
        .await
        .unwrap();
    assert_eq!(queue.publish(delivery("meanwhile")).await, Err(PublishError::Storage));
    sqlx::raw_sql("drop trigger refusal").execute(&mut stranger).await.unwrap();
    queue.publish(delivery("after")).await.unwrap();
    let mut consumer = queue.consume(10, 0).await.unwrap();
    assert_eq!(bodies(&take(&mut consumer, 2).await), ["after", "before"]);
    queue.close().await;
}

#[tokio::test]
async fn no_more_publishes_wait_than_allowed() {
    let place = place().await;
    let queue = Embedded::open(EmbeddedSettings { max_in_flight: 2, ..settings(&place) }).await.unwrap();
    let mut stranger = stranger(&place).await;
    sqlx::raw_sql("begin immediate").execute(&mut stranger).await.unwrap();
    // One group is stuck in its transaction, and as many again wait behind it.
    let publishers: Vec<_> = (0..20)
        .map(|number| {
            let queue = Arc::clone(&queue);
            tokio::spawn(async move { queue.publish(delivery(number.to_string())).await })
        })
        .collect();
    let mut verdicts = Vec::new();
    for publisher in publishers {
        verdicts.push(timeout(PATIENCE, publisher).await.unwrap().unwrap());
    }
    assert!(verdicts.contains(&Err(PublishError::Full)), "{verdicts:?}");
    sqlx::raw_sql("rollback").execute(&mut stranger).await.unwrap();
    queue.publish(delivery("after")).await.unwrap();
    queue.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_larger_than_memory_comes_out_whole_and_in_order() {
    const COUNT: usize = 5_000;
    let place = place().await;
    let queue = place.open().await;
    // More than the read-ahead holds, before anybody consumes and while somebody does.
    for chunk in numbered(COUNT).chunks(1_000) {
        publish(&queue, chunk.to_vec()).await;
    }
    let more = {
        let queue = Arc::clone(&queue);
        tokio::spawn(async move { publish(&queue, (COUNT..2 * COUNT - 1_000).map(|it| format!("{it:06}"))).await })
    };
    let mut consumer = queue.consume(700, 0).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 2 * COUNT - 1_000 {
        let messages = timeout(PATIENCE, consumer.next(300, Duration::ZERO)).await.unwrap().unwrap();
        seen.extend(messages.iter().map(|message| String::from_utf8(message.body.to_vec()).unwrap()));
        consumer.ack(tokens(messages)).await.unwrap();
    }
    more.await.unwrap();
    nothing_comes(&mut consumer).await;
    seen[COUNT..].sort();
    assert_eq!(seen, numbered(2 * COUNT - 1_000));
    assert_eq!(queue.depths().await.unwrap()[0].ready, 0);
    consumer.close().await;
    queue.close().await;
}

#[tokio::test]
async fn a_queue_that_was_dropped_without_closing_keeps_what_it_confirmed() {
    let place = place().await;
    let queue = place.open().await;
    publish(&queue, numbered(50)).await;
    drop(queue);
    let queue = loop {
        match Embedded::open(settings(&place)).await {
            Ok(queue) => break queue,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    let mut consumer = queue.consume(100, 0).await.unwrap();
    assert_eq!(bodies(&take(&mut consumer, 50).await), numbered(50));
    queue.close().await;
}

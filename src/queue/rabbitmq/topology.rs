//! Which exchanges and queues there are, as values, and how they are declared.
//!
//! ```text
//! publish ── <prefix> (topic) ── routing key = provider ──▶ <prefix>.<provider> ──┐ over the delivery limit
//!               │ no such provider                                                ▼
//!               └─ alternate exchange ──▶ <prefix>.unrouted ────────────▶ <prefix>.dead
//! ```
//!
//! Law: everything that keeps a message from being lost is an argument here, so that a broker without management
//! interface behaves alike on 3.10 and 4.x. What an operator may want to tune (lengths, memory) belongs in policies,
//! because an argument that changes later is a 406.

use std::collections::BTreeMap;

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ExchangeKind};

use super::refusal::{Trouble, call};

/// Redeliveries after which the broker gives a message up. The default is 20 from 4.0 on and every lost connection
/// counts; 3.10 refuses -1 for "never" (<https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling>).
const DELIVERY_LIMIT: i64 = 1_000;

/// The same for the dead queue, which has nowhere to pass a message on to: over its limit it would be dropped.
const DEAD_DELIVERY_LIMIT: i64 = 1_000_000_000;

/// Names of exchanges and queues under one prefix, for one list of providers.
#[derive(Debug, Clone)]
pub struct Topology {
    prefix: String,
    providers: Vec<&'static str>,
}

/// A durable exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// Its name.
    pub name: String,
    /// `topic` or `fanout`.
    pub kind: &'static str,
    /// Its arguments.
    pub arguments: BTreeMap<&'static str, Argument>,
}

/// A durable queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclaredQueue {
    /// Its name.
    pub name: String,
    /// The exchange that feeds it.
    pub source: String,
    /// By which routing key.
    pub routing_key: String,
    /// Its arguments.
    pub arguments: BTreeMap<&'static str, Argument>,
}

/// The value of an argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Argument {
    /// A string.
    Text(String),
    /// A 64-bit number.
    Number(i64),
}

/// An exchange or queue and whether the broker has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// `exchange` or `queue`.
    pub what: &'static str,
    /// Its name.
    pub name: String,
    /// Whether it is there.
    pub present: bool,
}

impl Topology {
    /// The topology of `providers` under `prefix`.
    pub fn new(prefix: impl Into<String>, providers: &[&'static str]) -> Self {
        Self { prefix: prefix.into(), providers: providers.to_vec() }
    }

    /// The exchange that deliveries are published to.
    pub fn exchange(&self) -> &str {
        &self.prefix
    }

    /// Where a message stands that no queue was bound for.
    pub fn unrouted(&self) -> String {
        format!("{}.unrouted", self.prefix)
    }

    /// Where a message stands that the broker gave up.
    pub fn dead(&self) -> String {
        format!("{}.dead", self.prefix)
    }

    /// The exchanges, in the order in which they have to be declared.
    pub fn exchanges(&self) -> Vec<Exchange> {
        let fanout = |name| Exchange { name, kind: "fanout", arguments: BTreeMap::new() };
        vec![
            fanout(self.unrouted()),
            fanout(self.dead()),
            Exchange {
                name: self.prefix.clone(),
                kind: "topic",
                // With it an unroutable publish is confirmed and not returned (measured): the unrouted queue has to be
                // consumed like the others.
                arguments: BTreeMap::from([("alternate-exchange", Argument::Text(self.unrouted()))]),
            },
        ]
    }

    /// The queues: every provider's, then the unrouted and the dead ones.
    pub fn queues(&self) -> Vec<DeclaredQueue> {
        let safe = BTreeMap::from([
            ("x-queue-type", Argument::Text("quorum".into())),
            ("x-delivery-limit", Argument::Number(DELIVERY_LIMIT)),
            ("x-dead-letter-exchange", Argument::Text(self.dead())),
            // The default is at-most-once: a dead letter is lost if the target is away. At-least-once needs the overflow
            // behaviour that refuses a publish instead of dropping the head
            // (<https://www.rabbitmq.com/blog/2022/03/29/at-least-once-dead-lettering>).
            ("x-dead-letter-strategy", Argument::Text("at-least-once".into())),
            ("x-overflow", Argument::Text("reject-publish".into())),
        ]);
        let fed = |name: String, source: String, key: &str, arguments: &BTreeMap<_, _>| DeclaredQueue {
            name,
            source,
            routing_key: key.to_owned(),
            arguments: arguments.clone(),
        };
        let last = BTreeMap::from([
            ("x-queue-type", Argument::Text("quorum".into())),
            ("x-delivery-limit", Argument::Number(DEAD_DELIVERY_LIMIT)),
            ("x-overflow", Argument::Text("reject-publish".into())),
        ]);
        let mut queues: Vec<_> = self
            .providers
            .iter()
            .map(|provider| fed(format!("{}.{provider}", self.prefix), self.prefix.clone(), provider, &safe))
            .collect();
        queues.push(fed(self.unrouted(), self.unrouted(), "", &safe));
        queues.push(fed(self.dead(), self.dead(), "", &last));
        queues
    }

    /// The same as a definitions file that a broker imports (`rabbitmqctl import_definitions`, `load_definitions`).
    pub fn definitions(&self, vhost: &str) -> serde_json::Value {
        let json = |arguments: &BTreeMap<&'static str, Argument>| {
            arguments
                .iter()
                .map(|(name, value)| {
                    let value = match value {
                        Argument::Text(text) => serde_json::Value::from(text.as_str()),
                        Argument::Number(number) => serde_json::Value::from(*number),
                    };
                    ((*name).to_owned(), value)
                })
                .collect::<serde_json::Map<_, _>>()
        };
        let exchanges: Vec<_> = self
            .exchanges()
            .iter()
            .map(|it| {
                serde_json::json!({
                    "name": it.name, "vhost": vhost, "type": it.kind, "durable": true, "auto_delete": false,
                    "internal": false, "arguments": json(&it.arguments),
                })
            })
            .collect();
        let queues: Vec<_> = self
            .queues()
            .iter()
            .map(|it| {
                serde_json::json!({
                    "name": it.name, "vhost": vhost, "durable": true, "auto_delete": false,
                    "arguments": json(&it.arguments),
                })
            })
            .collect();
        let bindings: Vec<_> = self
            .queues()
            .iter()
            .map(|it| {
                serde_json::json!({
                    "source": it.source, "vhost": vhost, "destination": it.name, "destination_type": "queue",
                    "routing_key": it.routing_key, "arguments": {},
                })
            })
            .collect();
        serde_json::json!({ "exchanges": exchanges, "queues": queues, "bindings": bindings })
    }

    /// Declares everything, on a channel of its own because a refusal closes the channel.
    pub(super) async fn declare(&self, connection: &Connection) -> Result<(), Trouble> {
        let channel = call("open a channel", connection.create_channel()).await?;
        for it in self.exchanges() {
            let kind = if it.kind == "topic" { ExchangeKind::Topic } else { ExchangeKind::Fanout };
            let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
            let declared = channel.exchange_declare(it.name.as_str().into(), kind, options, table(&it.arguments));
            call(&format!("declare exchange {}", it.name), declared).await?;
        }
        for it in self.queues() {
            let options = QueueDeclareOptions { durable: true, ..Default::default() };
            let declared = channel.queue_declare(it.name.as_str().into(), options, table(&it.arguments));
            call(&format!("declare queue {}", it.name), declared).await?;
            let bound = channel.queue_bind(
                it.name.as_str().into(),
                it.source.as_str().into(),
                it.routing_key.as_str().into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            );
            call(&format!("bind queue {} to exchange {}", it.name, it.source), bound).await?;
        }
        call("close a channel", channel.close(200, "done".into())).await
    }

    /// Which of it the broker has. A passive declare of what is not there closes its channel: one for each.
    pub(super) async fn inspect(&self, connection: &Connection) -> Result<Vec<Standing>, Trouble> {
        let mut all = Vec::new();
        for it in self.exchanges() {
            let channel = call("open a channel", connection.create_channel()).await?;
            let options = ExchangeDeclareOptions { passive: true, durable: true, ..Default::default() };
            let kind = if it.kind == "topic" { ExchangeKind::Topic } else { ExchangeKind::Fanout };
            let asked = channel.exchange_declare(it.name.as_str().into(), kind, options, FieldTable::default());
            let present = found(call(&format!("look for exchange {}", it.name), asked).await)?;
            all.push(Standing { what: "exchange", name: it.name, present });
        }
        for it in self.queues() {
            let channel = call("open a channel", connection.create_channel()).await?;
            let present = found(count(&channel, &it.name).await)?;
            all.push(Standing { what: "queue", name: it.name, present });
        }
        Ok(all)
    }
}

#[cfg(test)]
impl Topology {
    /// Deletes everything, after a test.
    pub(in crate::queue) async fn delete(&self, url: &str) {
        let connection = super::connect_once(&secrecy::SecretString::from(url)).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        for queue in self.queues() {
            channel.queue_delete(queue.name.as_str().into(), Default::default()).await.unwrap();
        }
        for exchange in self.exchanges() {
            channel.exchange_delete(exchange.name.as_str().into(), Default::default()).await.unwrap();
        }
        let _ = connection.close(200, "done".into()).await;
    }
}

/// Ready messages and consumers of one queue.
pub(super) async fn count(channel: &Channel, queue: &str) -> Result<(u64, u64), Trouble> {
    let options = QueueDeclareOptions { passive: true, durable: true, ..Default::default() };
    let asked = channel.queue_declare(queue.into(), options, FieldTable::default());
    let answer = call(&format!("look at queue {queue}"), asked).await?;
    Ok((u64::from(answer.message_count()), u64::from(answer.consumer_count())))
}

fn found<T>(answer: Result<T, Trouble>) -> Result<bool, Trouble> {
    match answer {
        Ok(_) => Ok(true),
        Err(trouble) if trouble.code() == Some(404) => Ok(false),
        Err(trouble) => Err(trouble),
    }
}

fn table(arguments: &BTreeMap<&'static str, Argument>) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in arguments {
        let value = match value {
            Argument::Text(text) => AMQPValue::LongString(text.as_str().into()),
            Argument::Number(number) => AMQPValue::LongLongInt(*number),
        };
        table.insert((*name).into(), value);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_queue_is_replicated_and_every_limit_is_said() {
        let topology = Topology::new("finhook", &["plaid", "unit"]);
        let queues = topology.queues();
        assert_eq!(
            queues.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(),
            ["finhook.plaid", "finhook.unit", "finhook.unrouted", "finhook.dead"]
        );
        for queue in &queues {
            assert_eq!(queue.arguments["x-queue-type"], Argument::Text("quorum".into()));
            assert!(queue.arguments.contains_key("x-delivery-limit"), "{} would drop at 20 on 4.x", queue.name);
        }
    }

    #[test]
    fn definitions_carry_what_is_declared() {
        let topology = Topology::new("finhook", &["plaid"]);
        let definitions = topology.definitions("/");
        assert_eq!(definitions["queues"].as_array().unwrap().len(), 3);
        assert_eq!(definitions["queues"][0]["arguments"]["x-delivery-limit"], 1_000);
        assert_eq!(definitions["exchanges"][2]["arguments"]["alternate-exchange"], "finhook.unrouted");
        assert_eq!(definitions["bindings"][0]["routing_key"], "plaid");
    }
}

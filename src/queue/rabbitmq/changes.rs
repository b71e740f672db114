//! The exchange that the product listens at: messages of changed rows, persistent, each confirmed.
//!
//! A connection of its own, opened when it is first needed, so that an exchange that is gone or forbidden never touches
//! deliveries. Nothing has to be bound to the exchange: what nobody wants is dropped by the broker.

use async_trait::async_trait;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Confirmation, Connection, ExchangeKind};
use secrecy::SecretString;
use tokio::sync::Mutex;

use super::goodbye;
use super::link::connect_once;
use super::refusal::{Trouble, call};
use crate::domain::{ChangedRow, changed};
use crate::queue::QueueError;
use crate::queue::changes::ChangesExchange;

/// The `type` property: what a consumer of another version goes by.
const MESSAGE_TYPE: &str = "finhook.change.v1";

/// Tells an exchange at a RabbitMQ broker.
pub struct RabbitChanges {
    url: SecretString,
    exchange: String,
    open: Mutex<Option<Open>>,
}

struct Open {
    connection: Connection,
    channel: Channel,
}

impl RabbitChanges {
    /// Connects when it is first asked to.
    pub fn new(url: SecretString, exchange: String) -> Self {
        Self { url, exchange, open: Mutex::new(None) }
    }

    async fn connect(&self) -> Result<Open, Trouble> {
        let connection = connect_once(&self.url).await?;
        match self.confirming(&connection).await {
            Ok(channel) => Ok(Open { connection, channel }),
            Err(trouble) => {
                goodbye(&connection).await;
                Err(trouble)
            }
        }
    }

    /// A channel that confirms, and the exchange: as it is if it is there, else a durable topic exchange.
    async fn confirming(&self, connection: &Connection) -> Result<Channel, Trouble> {
        let looking = call("open a channel", connection.create_channel()).await?;
        match self.declare(&looking, true).await {
            Ok(()) => {}
            // That closed the channel.
            Err(trouble) if trouble.code() == Some(404) => {
                let making = call("open a channel", connection.create_channel()).await?;
                self.declare(&making, false).await?;
            }
            Err(trouble) => return Err(trouble),
        }
        let channel = call("open a channel", connection.create_channel()).await?;
        call("ask for confirms", channel.confirm_select(ConfirmSelectOptions::default())).await?;
        Ok(channel)
    }

    async fn declare(&self, channel: &Channel, passive: bool) -> Result<(), Trouble> {
        let options = ExchangeDeclareOptions { passive, durable: true, ..Default::default() };
        let name = self.exchange.as_str();
        let declared = channel.exchange_declare(name.into(), ExchangeKind::Topic, options, FieldTable::default());
        call(&format!("declare exchange {name} (FINHOOK_CHANGES_EXCHANGE)"), declared).await
    }

    /// Publishes all, then waits for all confirms.
    async fn publish(&self, channel: &Channel, rows: &[ChangedRow]) -> lapin::Result<bool> {
        let mut confirms = Vec::with_capacity(rows.len());
        for row in rows {
            let properties = BasicProperties::default()
                .with_delivery_mode(2)
                .with_content_type("application/json".into())
                .with_type(MESSAGE_TYPE.into());
            let (key, body) = (row.table.as_str().into(), changed::message(&row.table, row.id));
            let (exchange, options) = (self.exchange.as_str().into(), BasicPublishOptions::default());
            confirms.push(channel.basic_publish(exchange, key, options, body.as_bytes(), properties).await?);
        }
        let mut all = true;
        for confirm in confirms {
            all &= matches!(confirm.await?, Confirmation::Ack(_));
        }
        Ok(all)
    }
}

#[async_trait]
impl ChangesExchange for RabbitChanges {
    async fn ready(&self) -> Result<(), QueueError> {
        let mut held = self.open.lock().await;
        if held.as_ref().is_some_and(|open| !open.connection.status().connected() || !open.channel.status().connected())
            && let Some(lost) = held.take()
        {
            goodbye(&lost.connection).await;
        }
        let open = match held.take() {
            Some(open) => open,
            None => self.connect().await.map_err(super::told)?,
        };
        let blocked = open.connection.status().blocked();
        *held = Some(open);
        if blocked {
            return Err(QueueError::Fatal("the broker is blocked".to_owned()));
        }
        Ok(())
    }

    async fn tell(&self, rows: &[ChangedRow]) -> Result<(), QueueError> {
        let mut held = self.open.lock().await;
        // Taken out: whatever ends this call on its way, what was not confirmed is not waited for on the same channel again.
        let open = held.take().ok_or(QueueError::Gone)?;
        match call("tell of changes", self.publish(&open.channel, rows)).await {
            Ok(true) => {
                *held = Some(open);
                Ok(())
            }
            Ok(false) => {
                goodbye(&open.connection).await;
                Err(QueueError::Fatal("the broker refused messages of changes".to_owned()))
            }
            Err(trouble) => {
                goodbye(&open.connection).await;
                Err(super::told(trouble))
            }
        }
    }

    async fn close(&self) {
        if let Some(open) = self.open.lock().await.take() {
            goodbye(&open.connection).await;
        }
    }
}

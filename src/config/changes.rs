//! How the product is told that its rows changed.

use super::{ConfigError, QueueSettings, Values};

const EXCHANGE: &str = "FINHOOK_CHANGES_EXCHANGE";

/// Who is told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChangesSettings {
    /// Whether whoever listens at PostgreSQL is.
    pub notify: bool,
    /// The exchange at the broker that is; `None`: none.
    pub exchange: Option<String>,
}

impl ChangesSettings {
    /// Reads them.
    pub fn from_values(values: &Values, queue: &QueueSettings) -> Result<Self, ConfigError> {
        let notify = values.flag("FINHOOK_NOTIFY")?;
        let Some(exchange) = values.text(EXCHANGE).map(|name| name.trim().to_owned()) else {
            return Ok(Self { notify, exchange: None });
        };
        let QueueSettings::RabbitMq(broker) = queue else {
            return Err(values
                .error(EXCHANGE, "is at the broker of AMQP_URL, which is not set: give it too, or leave this out"));
        };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':');
        if !exchange.bytes().all(plain) || exchange.len() > 127 {
            return Err(values.error(EXCHANGE, "takes up to 127 letters, digits, -, _, . and :"));
        }
        if exchange.strip_prefix(&broker.prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')) {
            let problem = "is one of finhook's own, where it would be taken for a delivery: choose another name";
            return Err(values.error(EXCHANGE, problem));
        }
        Ok(Self { notify, exchange: Some(exchange) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, StoreSettings};

    fn read(given: &[(&str, &str)]) -> Result<ChangesSettings, String> {
        let values = Values::load(&Sources::of(given.iter().copied()), &[]).unwrap();
        let store = StoreSettings::from_values(&values).unwrap();
        let queue = QueueSettings::from_values(&values, &store).unwrap();
        ChangesSettings::from_values(&values, &queue).map_err(|error| error.to_string())
    }

    #[test]
    fn listeners_are_told_unless_switched_off_and_an_exchange_where_one_is_named() {
        assert_eq!(read(&[]), Ok(ChangesSettings { notify: true, exchange: None }));
        assert!(!read(&[("FINHOOK_NOTIFY", "false")]).unwrap().notify);
        let named = [("AMQP_URL", "amqp://mq"), (EXCHANGE, "product.changes")];
        assert_eq!(read(&named).unwrap().exchange.as_deref(), Some("product.changes"));
    }

    #[test]
    fn an_exchange_needs_a_broker_and_a_name_of_its_own() {
        assert!(read(&[(EXCHANGE, "changes")]).unwrap_err().contains("AMQP_URL"));
        for bad in ["finhook", "finhook.dead", "a b", "ä"] {
            let problem = read(&[("AMQP_URL", "amqp://mq"), (EXCHANGE, bad)]).unwrap_err();
            assert!(problem.starts_with(EXCHANGE), "{problem}");
        }
        assert!(read(&[("AMQP_URL", "amqp://mq"), (EXCHANGE, "finhook-changes")]).is_ok());
    }
}

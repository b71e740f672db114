//! What is sent: deliveries of one kilobyte by number, made and signed on the fly, and the rows that each must become.
//!
//! Ten deliveries are about one Unit customer: created, three accounts created, three of them updated, and three that are
//! only recorded. Ids grow with the number, as the provider's do.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use finhook::domain::Timestamp;
use finhook::providers::plaid_jws::DevelopmentKey;
use secrecy::SecretString;

/// The token that signs as Unit.
pub const UNIT_TOKEN: &str = "unit-token-of-the-benches";
/// Bytes of a body.
pub const BODY_BYTES: usize = 1_024;
/// Deliveries about one customer.
pub const PER_CUSTOMER: u64 = 10;

/// The id of the first customer.
pub const FIRST_CUSTOMER: u64 = 2_000_000_000;
/// The id of the first event.
pub const FIRST_EVENT: u64 = 1_000_000_000;

/// Whose deliveries are sent.
pub enum Signer {
    /// HMAC-SHA1 over the body.
    Unit(Box<hmac::Key>),
    /// ES256 over the body's hash.
    Plaid(DevelopmentKey),
}

impl Signer {
    /// Unit's, by the token above.
    pub fn unit() -> Self {
        Self::Unit(Box::new(hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, UNIT_TOKEN.as_bytes())))
    }

    /// Plaid's, by a private key that the receiver was given the public half of.
    pub fn plaid(key: &str) -> anyhow::Result<Self> {
        let key = DevelopmentKey::parse(&SecretString::from(key));
        Ok(Self::Plaid(key.ok_or_else(|| anyhow::anyhow!("that is no development key"))?))
    }

    /// The whole HTTP request of a delivery about the customer in this place.
    pub fn request(&self, number: u64, customer: u64, now: Timestamp) -> Vec<u8> {
        let (path, header, body) = match self {
            Self::Unit(key) => {
                let body = unit_body(number, customer);
                let signature = STANDARD.encode(hmac::sign(key, body.as_bytes()));
                ("unit", format!("X-Unit-Signature: {signature}"), body)
            }
            Self::Plaid(key) => {
                let body = plaid_body(number, customer);
                let proof = key.sign(body.as_bytes(), now).unwrap_or_default();
                ("plaid", format!("Plaid-Verification: {proof}"), body)
            }
        };
        let length = body.len();
        format!(
            "POST /webhooks/{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n{header}\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        )
        .into_bytes()
    }
}

/// Which delivery comes at a place of a stream in which 30 of 100 are copies and 20 of the others come far out of order.
pub fn mixed(place: u64) -> u64 {
    let (block, at) = (place / 10, place % 10);
    let copies_before = at / 4 + u64::from(at % 4 == 3);
    let number = block * 7 + (at - copies_before.min(3));
    if matches!(at, 3 | 6 | 9) {
        return shuffled(number.saturating_sub(1 + place % 20));
    }
    shuffled(number)
}

/// Numbers of the first ten of every fifty change places with those fifty later.
fn shuffled(number: u64) -> u64 {
    let (block, at) = (number / 100 * 100, number % 100);
    if at % 50 < 10 { block + (at + 50) % 100 } else { number }
}

/// The place of the customer that a delivery is about: one after the other.
pub fn place(number: u64) -> u64 {
    number / PER_CUSTOMER
}

/// The same among so many customers, each as likely as any other.
pub fn spread(number: u64, customers: u64) -> u64 {
    place(number).wrapping_mul(0x9e37_79b9_7f4a_7c15) % customers.max(1)
}

/// The id of the customer that a delivery is about.
pub fn customer(number: u64) -> u64 {
    FIRST_CUSTOMER + place(number)
}

/// The id of the account that it is about, if it is about one: new ones come with every ten deliveries, whoever's they are.
pub fn account(number: u64) -> Option<u64> {
    let at = number % PER_CUSTOMER;
    (1..=6).contains(&at).then(|| 3_000_000_000 + place(number) * 3 + (at - 1) % 3)
}

/// The event's own id.
pub fn event(number: u64) -> u64 {
    FIRST_EVENT + number
}

/// Its kind.
pub fn kind(number: u64) -> &'static str {
    match number % PER_CUSTOMER {
        0 => "customer.created",
        1..=3 => "account.created",
        4..=6 => "account.updated",
        _ => "transaction.created",
    }
}

fn unit_body(number: u64, customer: u64) -> String {
    let (event, kind, customer) = (event(number), kind(number), FIRST_CUSTOMER + customer);
    let at = Timestamp::from_micros(1_767_225_600_000_000 + i64::try_from(number).unwrap_or(0) * 10_000);
    let at = at.map(|at| at.to_string()).unwrap_or_default();
    let account = account(number)
        .map(|id| format!(r#""account":{{"data":{{"id":"{id}","type":"depositAccount"}}}},"#))
        .unwrap_or_default();
    let tags = if number.is_multiple_of(PER_CUSTOMER) {
        format!(r#","tags":{{"userId":"u_{customer}"}}"#)
    } else {
        String::new()
    };
    let head = format!(
        r#"{{"data":[{{"id":"{event}","type":"{kind}","attributes":{{"createdAt":"{at}"{tags},"description":""#
    );
    let tail = format!(
        r#""}},"relationships":{{{account}"customer":{{"data":{{"id":"{customer}","type":"individualCustomer"}}}}}}}}]}}"#
    );
    let room = BODY_BYTES.saturating_sub(head.len() + tail.len());
    format!("{head}{:x<room$}{tail}", "")
}

fn plaid_body(number: u64, customer: u64) -> String {
    let item = FIRST_CUSTOMER + customer;
    let head = "{\n  \"environment\": \"production\",\n  \"error\": null,\n  \"historical_update_complete\": true,\n  \
                \"initial_update_complete\": true,\n";
    let tail = format!(
        "  \"item_id\": \"item{item}x{number}\",\n  \"webhook_code\": \"SYNC_UPDATES_AVAILABLE\",\n  \
         \"webhook_type\": \"TRANSACTIONS\"\n}}"
    );
    let room = BODY_BYTES.saturating_sub(head.len() + tail.len() + 14);
    format!("{head}  \"filler\": \"{:x<room$}\",\n{tail}", "")
}

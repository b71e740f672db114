//! The providers' customers: which deliveries happen to them, and what each event in these means, drawn from a seed.
//!
//! Meanings are written down here once more and on purpose not taken from finhook: the reconciliation compares the two.

use std::collections::BTreeSet;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

/// What an event does to the rows of its subject.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// Our user of this id owns the subject, by a claim of this rank.
    Owner(String, u8),
    /// The integration's status.
    Status(Status),
    /// The e-mail address.
    Email(String),
    /// An account exists, and has this status if there is one.
    Account(String, Option<Status>),
}

/// A status as an event writes it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Status {
    /// Beats any clock.
    pub is_final: bool,
    /// Closes the row.
    pub closing: bool,
    /// Its name.
    pub name: String,
    /// Why.
    pub reason: Option<String>,
}

impl Status {
    fn open(name: &str) -> Self {
        Self { is_final: false, closing: false, name: name.to_owned(), reason: None }
    }

    fn closing(name: &str) -> Self {
        Self { closing: true, ..Self::open(name) }
    }

    fn for_good(name: &str) -> Self {
        Self { is_final: true, ..Self::closing(name) }
    }

    fn because(self, reason: &str) -> Self {
        Self { reason: Some(reason.to_owned()), ..self }
    }
}

/// One event as it should end in the tables.
#[derive(Debug, Clone)]
pub struct Planned {
    /// Its dedup key; empty for Plaid, where signing makes it.
    pub key: Vec<u8>,
    /// What it is about, if that has rows.
    pub subject: Option<String>,
    /// Its time in microseconds; for Plaid that of signing.
    pub at: i64,
    /// What it does; `None` if it is only recorded.
    pub effects: Option<Vec<Effect>>,
}

/// By which rules a delivery is sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sender {
    /// Plaid, which may sign a retry anew or not.
    Plaid {
        /// Whether it does.
        signs_anew: bool,
    },
    /// Unit in its at-least-once mode.
    Unit,
    /// Synapse.
    Synapse,
    /// Auth0's log streams.
    LogStream,
    /// Auth0's event streams.
    EventStream,
}

impl Sender {
    /// The name in the path.
    pub fn provider(self) -> &'static str {
        match self {
            Self::Plaid { .. } => "plaid",
            Self::Unit => "unit",
            Self::Synapse => "synapse",
            Self::LogStream | Self::EventStream => "auth0",
        }
    }
}

/// One delivery, ready to be signed.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// Who sends it.
    pub sender: Sender,
    /// The user whose bound URL it goes to.
    pub bound: Option<String>,
    /// The body.
    pub body: Vec<u8>,
    /// What is in it.
    pub events: Vec<Planned>,
}

impl Outgoing {
    /// The same with white space behind it, which means nothing.
    pub fn padded(mut self, size: usize) -> Self {
        self.body.resize(size.max(self.body.len()), b' ');
        self
    }
}

/// How many subjects each provider has.
const SUBJECTS: usize = 40;
/// How many of Plaid's items nothing names the user of: they are linked by hand.
pub const LINKED_BY_HAND: usize = 2;

/// Where the deliveries come from.
pub struct World {
    rng: StdRng,
    /// The time of the next event, in microseconds.
    now: i64,
    serial: u64,
    /// The subjects that some event has named the user of, and those that were heard of.
    claimed: BTreeSet<(&'static str, usize)>,
    heard: BTreeSet<(&'static str, usize)>,
}

impl World {
    /// The deliveries of a seed; events happened from `start` on, in microseconds.
    pub fn new(seed: u64, start: i64) -> Self {
        let (claimed, heard) = (BTreeSet::new(), BTreeSet::new());
        Self { rng: StdRng::seed_from_u64(seed), now: start, serial: 0, claimed, heard }
    }

    /// So many deliveries of Unit's about customers that nobody else speaks of.
    pub fn large(count: usize) -> Vec<Outgoing> {
        let mut world = Self::new(0, 1_700_000_000_000_000);
        world.serial = 1 << 32;
        (0..count).map(|number| unit_batch(vec![world.customer_created(SUBJECTS + number)])).collect()
    }

    /// The next delivery.
    pub fn next(&mut self) -> Outgoing {
        match self.rng.random_range(0..10) {
            0..3 => self.plaid(),
            3..6 => self.unit(),
            6..8 => self.synapse(),
            8 => self.log_stream(),
            _ => self.event_stream(),
        }
    }

    /// What is missing so that every subject that was heard of has its user.
    pub fn claims(&mut self) -> Vec<Outgoing> {
        let missing: Vec<_> = self.heard.difference(&self.claimed).copied().collect();
        missing.into_iter().map(|(provider, number)| self.claim(provider, number)).collect()
    }

    fn claim(&mut self, provider: &'static str, number: usize) -> Outgoing {
        self.claimed.insert((provider, number));
        match provider {
            "plaid" => self.plaid_item(number, true),
            "unit" => {
                let element = self.customer_created(number);
                unit_batch(vec![element])
            }
            "synapse" => self.synapse_user(number),
            _ => self.user_created(number),
        }
    }

    fn subject(&mut self, provider: &'static str) -> usize {
        let number = self.rng.random_range(0..SUBJECTS);
        self.heard.insert((provider, number));
        number
    }

    /// An id that was never given before.
    fn fresh(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// A time after all before it, in whole milliseconds, and as text.
    fn time(&mut self) -> (i64, String) {
        self.now += 1_000 * self.rng.random_range(1..200_i64);
        let text = finhook::domain::Timestamp::from_micros(self.now)
            .and_then(|at| at.to_datetime().format(&time::format_description::well_known::Rfc3339).ok());
        (self.now, text.unwrap_or_default())
    }

    // --- Plaid ---------------------------------------------------------------------------------------------------------

    fn plaid(&mut self) -> Outgoing {
        let number = self.subject("plaid");
        let bound = number >= LINKED_BY_HAND && self.rng.random_bool(0.6);
        if number < LINKED_BY_HAND || bound {
            self.claimed.insert(("plaid", number));
        }
        self.plaid_item(number, bound)
    }

    fn plaid_item(&mut self, number: usize, bound: bool) -> Outgoing {
        let (item, user) = (item(number), user(number));
        let account = format!("acc{number}x{}", self.rng.random_range(0..3));
        let status = |status| vec![Effect::Status(status)];
        let of_account = |status| vec![Effect::Account(account.clone(), Some(status))];
        let (family, code, more, effects) = match self.rng.random_range(0..20) {
            0..3 => (
                "ITEM",
                "ERROR",
                json!({"error": {"error_code": "ITEM_LOGIN_REQUIRED"}}),
                Some(status(Status::open("error").because("ITEM_LOGIN_REQUIRED"))),
            ),
            3..5 => ("ITEM", "LOGIN_REPAIRED", json!({}), Some(status(Status::open("active")))),
            5 => (
                "ITEM",
                "PENDING_DISCONNECT",
                json!({"reason": "INSTITUTION_MIGRATION"}),
                Some(status(Status::open("expiring").because("INSTITUTION_MIGRATION"))),
            ),
            6 if number.is_multiple_of(5) => {
                ("ITEM", "USER_PERMISSION_REVOKED", json!({}), Some(status(Status::for_good("revoked"))))
            }
            6..8 => (
                "ITEM",
                "USER_ACCOUNT_REVOKED",
                json!({"account_id": account}),
                Some(of_account(Status::closing("revoked"))),
            ),
            8..11 => (
                "AUTH",
                "AUTOMATICALLY_VERIFIED",
                json!({"account_id": account}),
                Some(of_account(Status::open("verified"))),
            ),
            11..13 => {
                let other = format!("acc{number}x{}", self.rng.random_range(0..3));
                let named: BTreeSet<&String> = [&account, &other].into();
                let touched = named.into_iter().map(|account| Effect::Account(account.clone(), None)).collect();
                let more =
                    json!({"account_ids_with_new_auth": [account], "account_ids_with_updated_auth": {other: ["x"]}});
                ("AUTH", "DEFAULT_UPDATE", more, Some(touched))
            }
            13..18 => ("TRANSACTIONS", "SYNC_UPDATES_AVAILABLE", json!({}), Some(Vec::new())),
            _ => ("LINK", "SESSION_FINISHED", json!({"status": "SUCCESS"}), None),
        };
        let mut body = json!({"webhook_type": family, "webhook_code": code, "environment": "sandbox",
            "request": self.fresh()});
        let recorded = effects.is_none();
        merge(&mut body, more);
        if !recorded {
            merge(&mut body, json!({"item_id": item}));
        }
        // An event that only gets recorded names no owner.
        let claim = bound.then(|| Effect::Owner(user.clone(), 3));
        let effects = effects.map(|effects| effects.into_iter().chain(claim).collect());
        if recorded && bound {
            self.claimed.remove(&("plaid", number));
        }
        Outgoing {
            sender: Sender::Plaid { signs_anew: self.rng.random_bool(0.5) },
            bound: bound.then_some(user),
            body: serde_json::to_vec_pretty(&body).unwrap_or_default(),
            events: vec![Planned { key: Vec::new(), subject: (!recorded).then_some(item), at: 0, effects }],
        }
    }

    // --- Unit ----------------------------------------------------------------------------------------------------------

    fn unit(&mut self) -> Outgoing {
        let count = if self.rng.random_bool(0.3) { self.rng.random_range(2..=16) } else { 1 };
        let elements = (0..count).map(|_| self.unit_element()).collect();
        unit_batch(elements)
    }

    fn unit_element(&mut self) -> (Value, Vec<Planned>) {
        let number = self.subject("unit");
        let account = format!("{}", 500_000 + number * 10 + self.rng.random_range(0..3));
        let closing = Status::closing("closed").because("ByCustomer");
        let frozen = Status::open("frozen").because("Other");
        let (kind, attributes, status) = match self.rng.random_range(0..20) {
            0..3 => return self.customer_created(number),
            3 if number.is_multiple_of(4) => {
                let attributes = json!({"archiveReason": "Inactive"});
                let effects = vec![Effect::Status(Status::closing("archived").because("Inactive"))];
                return self.unit_event("customer.archived", attributes, &[number], None, Some(effects));
            }
            3..6 => {
                let attributes = json!({"amount": 100, "direction": "Credit"});
                return self.unit_event("transaction.created", attributes, &[number], Some(account), None);
            }
            6..10 => ("account.created", json!({}), Some(Status::open("open"))),
            10..12 => ("account.frozen", json!({"freezeReason": "Other"}), Some(frozen)),
            12..14 => ("account.unfrozen", json!({}), Some(Status::open("open"))),
            14 => ("account.closed", json!({"closeReason": "ByCustomer"}), Some(closing)),
            15..17 => ("account.updated", json!({}), None),
            _ => {
                // A joint account: an id of its own, so that it is nobody else's.
                let other = (number + 1 + self.rng.random_range(0..2_usize)) % SUBJECTS;
                self.heard.insert(("unit", other));
                let account = format!("{}", 700_000 + number);
                let effects = vec![Effect::Account(account.clone(), Some(Status::open("open")))];
                return self.unit_event("account.created", json!({}), &[number, other], Some(account), Some(effects));
            }
        };
        let mut effects = vec![Effect::Account(account.clone(), status)];
        let mut attributes = attributes;
        if self.rng.random_bool(0.2) {
            merge(&mut attributes, json!({"tags": {"userId": user(number)}}));
            effects.push(Effect::Owner(user(number), 1));
            self.claimed.insert(("unit", number));
        }
        self.unit_event(kind, attributes, &[number], Some(account), Some(effects))
    }

    fn customer_created(&mut self, number: usize) -> (Value, Vec<Planned>) {
        self.claimed.insert(("unit", number));
        let effects = vec![Effect::Status(Status::open("active")), Effect::Owner(user(number), 2)];
        let attributes = json!({"tags": {"userId": user(number)}});
        self.unit_event("customer.created", attributes, &[number], None, Some(effects))
    }

    fn unit_event(
        &mut self,
        kind: &str,
        attributes: Value,
        customers: &[usize],
        account: Option<String>,
        effects: Option<Vec<Effect>>,
    ) -> (Value, Vec<Planned>) {
        let id = (9_000_000 + self.fresh()).to_string();
        let (at, text) = self.time();
        let mut attributes = attributes;
        merge(&mut attributes, json!({"createdAt": text}));
        let named = |number: &usize| json!({"id": customer(*number), "type": "individualCustomer"});
        let mut relationships = match customers {
            [one] => json!({"customer": {"data": named(one)}}),
            many => json!({"customers": {"data": many.iter().map(named).collect::<Vec<_>>()}}),
        };
        if let Some(account) = account {
            merge(&mut relationships, json!({"account": {"data": {"id": account, "type": "depositAccount"}}}));
        }
        let value = json!({"id": id, "type": kind, "attributes": attributes, "relationships": relationships});
        let sorted: BTreeSet<String> = customers.iter().map(|number| customer(*number)).collect();
        let events = sorted.into_iter().enumerate().map(|(index, customer)| {
            let key = if index == 0 { id.clone() } else { format!("{id}\0{customer}") };
            Planned { key: key.into_bytes(), subject: Some(customer), at, effects: effects.clone() }
        });
        (value, events.collect())
    }

    // --- Synapse -------------------------------------------------------------------------------------------------------

    fn synapse(&mut self) -> Outgoing {
        let number = self.subject("synapse");
        let node = format!("5f{number:04}{}", self.rng.random_range(0..3));
        let owner = synapse_user(number);
        let rest = |more: Value| {
            let mut rest = json!({"user_id": owner});
            merge(&mut rest, more);
            rest
        };
        let write = |status| Some(vec![Effect::Account(node.clone(), Some(status))]);
        let (function, id, object, effects) = match self.rng.random_range(0..10) {
            0..2 => return self.synapse_user(number),
            2..5 => {
                ("NODES|POST", node.clone(), rest(json!({"allowed": "CREDIT-AND-DEBIT"})), write(Status::open("open")))
            }
            5 => ("NODE|PATCH", node.clone(), rest(json!({"allowed": "LOCKED"})), write(Status::open("frozen"))),
            6 => ("NODE|DELETE", node.clone(), rest(json!({})), write(Status::closing("closed"))),
            7 => {
                let status = Status::open("locked").because("SUSPICIOUS");
                let object = json!({"permission": "LOCKED", "permission_code": "SUSPICIOUS"});
                ("USER|PATCH", owner.clone(), object, Some(vec![Effect::Status(status)]))
            }
            _ => ("TRANS|POST", "tr1".to_owned(), json!({"from": {"user": {"_id": owner}}}), None),
        };
        self.synapse_event(function, number, &id, object, effects)
    }

    fn synapse_user(&mut self, number: usize) -> Outgoing {
        self.claimed.insert(("synapse", number));
        let object = json!({"permission": "SEND-AND-RECEIVE", "extra": {"supp_id": user(number)}});
        let effects = vec![Effect::Status(Status::open("active")), Effect::Owner(user(number), 2)];
        self.synapse_event("USERS|POST", number, &synapse_user(number), object, Some(effects))
    }

    fn synapse_event(
        &mut self,
        function: &str,
        number: usize,
        id: &str,
        object: Value,
        effects: Option<Vec<Effect>>,
    ) -> Outgoing {
        let log = format!("log{:08}", self.fresh());
        let (at, _) = self.time();
        let mut rest = object;
        merge(&mut rest, json!({"_id": id}));
        let meta = json!({"function": function, "log_id": log, "date": {"$date": at / 1_000}});
        let body = json!({"_id": {"$oid": id}, "_rest": rest, "webhook_meta": meta});
        let event = Planned { key: log.into_bytes(), subject: Some(synapse_user(number)), at, effects };
        Outgoing { sender: Sender::Synapse, bound: None, body: body.to_string().into_bytes(), events: vec![event] }
    }

    // --- Auth0 ---------------------------------------------------------------------------------------------------------

    fn log_stream(&mut self) -> Outgoing {
        let count = self.rng.random_range(1..=6);
        let entries: Vec<(Value, Planned)> = (0..count).map(|_| self.log_entry()).collect();
        let lines: Vec<String> = entries.iter().map(|(entry, _)| entry.to_string()).collect();
        let events = entries.into_iter().map(|(_, event)| event).collect();
        Outgoing { sender: Sender::LogStream, bound: None, body: lines.join("\n").into_bytes(), events }
    }

    fn log_entry(&mut self) -> (Value, Planned) {
        let number = self.subject("auth0");
        let derived = Effect::Owner(derived_user(number), 1);
        let address = format!("user{number}.{}@example.com", self.rng.random_range(0..3));
        let (kind, more, effects) = match *[0, 0, 1, 2, 3].choose(&mut self.rng).unwrap_or(&0) {
            0 => ("s", json!({}), Some(vec![derived])),
            1 => {
                let effects = vec![Effect::Status(Status::open("active")), derived, Effect::Email(address.clone())];
                ("ss", json!({"user_name": address}), Some(effects))
            }
            2 => ("sv", json!({"user_name": address}), Some(vec![derived, Effect::Email(address.clone())])),
            _ => ("f", json!({}), None),
        };
        if effects.is_some() {
            self.claimed.insert(("auth0", number));
        }
        let id = format!("900{:020}", self.fresh());
        let (at, text) = self.time();
        let mut data = json!({"date": text, "type": kind, "user_id": auth0_user(number)});
        merge(&mut data, more);
        let event = Planned { key: id.clone().into_bytes(), subject: Some(auth0_user(number)), at, effects };
        (json!({"log_id": id, "data": data}), event)
    }

    fn event_stream(&mut self) -> Outgoing {
        let number = self.subject("auth0");
        match self.rng.random_range(0..10) {
            0..5 => self.user_created(number),
            5 if number.is_multiple_of(6) => {
                let effects = vec![Effect::Status(Status::for_good("deleted"))];
                self.cloud_event("user.deleted", number, json!({}), effects)
            }
            _ => {
                let address = format!("user{number}.{}@example.com", self.rng.random_range(0..3));
                let effects = vec![Effect::Email(address.clone())];
                self.cloud_event("user.updated", number, json!({"email": address}), effects)
            }
        }
    }

    fn user_created(&mut self, number: usize) -> Outgoing {
        self.claimed.insert(("auth0", number));
        let address = format!("user{number}@example.com");
        // Half of the tenant's users were made by our product, which told Auth0 its own id.
        let stated = number.is_multiple_of(2);
        let owner = if stated { Effect::Owner(user(number), 2) } else { Effect::Owner(derived_user(number), 1) };
        let mut object = json!({"email": address, "email_verified": true});
        if stated {
            merge(&mut object, json!({"app_metadata": {"external_user_id": user(number)}}));
        }
        let effects = vec![Effect::Status(Status::open("active")), owner, Effect::Email(address)];
        self.cloud_event("user.created", number, object, effects)
    }

    fn cloud_event(&mut self, kind: &str, number: usize, object: Value, effects: Vec<Effect>) -> Outgoing {
        let id = format!("evt_{:012}", self.fresh());
        let (at, text) = self.time();
        let mut object = object;
        merge(&mut object, json!({"user_id": auth0_user(number)}));
        let body = json!({"specversion": "1.0", "type": kind, "id": id, "time": text, "source": "urn:example",
            "data": {"object": object}});
        let event = Planned { key: id.into_bytes(), subject: Some(auth0_user(number)), at, effects: Some(effects) };
        Outgoing { sender: Sender::EventStream, bound: None, body: body.to_string().into_bytes(), events: vec![event] }
    }
}

fn unit_batch(elements: Vec<(Value, Vec<Planned>)>) -> Outgoing {
    let (values, events): (Vec<Value>, Vec<Vec<Planned>>) = elements.into_iter().unzip();
    let body = json!({"data": values}).to_string().into_bytes();
    Outgoing { sender: Sender::Unit, bound: None, body, events: events.into_iter().flatten().collect() }
}

fn merge(into: &mut Value, more: Value) {
    if let (Value::Object(into), Value::Object(more)) = (into, more) {
        into.extend(more);
    }
}

/// Our id of the user whose numbers these are everywhere.
pub fn user(number: usize) -> String {
    format!("u_{number}")
}

/// The Plaid item of this number.
pub fn item(number: usize) -> String {
    format!("item{number:06}")
}

/// The Unit customer of this number.
fn customer(number: usize) -> String {
    (100_000 + number).to_string()
}

/// The Synapse user of this number.
pub fn synapse_user(number: usize) -> String {
    format!("5e{number:022}")
}

fn auth0_user(number: usize) -> String {
    format!("auth0|{number:024}")
}

/// The user that finhook derives from an Auth0 user.
fn derived_user(number: usize) -> String {
    uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_URL, format!("auth0:{}", auth0_user(number)).as_bytes()).to_string()
}

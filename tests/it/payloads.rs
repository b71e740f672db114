//! Bodies as the four providers write them, from a few small numbers: few subjects, accounts and users, so that what is
//! drawn at random meets.

use finhook::providers::{self, Provider};
use serde_json::{Value, json};

use crate::app::noon;

/// What is drawn for one event.
#[derive(Debug, Clone)]
pub struct Draw {
    /// Which of the kinds below.
    pub kind: usize,
    /// Whose integration.
    pub subject: usize,
    /// Which account of it.
    pub account: usize,
    /// Which user is named; 3 and more = none.
    pub user: usize,
    /// When, in seconds; 6 = not stated, 7 = an hour ahead.
    pub seconds: i64,
    /// Its copies.
    pub copies: Vec<Copy>,
}

/// How a copy comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copy {
    /// As it is.
    Whole,
    /// Something is missing that it cannot do without; the provider sends it again once we can say so.
    Broken,
    /// As it is, received later.
    Late,
    /// Plaid: to the bound URL of a user.
    Bound(usize),
}

/// One element of a delivery, which may share its body with others of its form.
#[derive(Debug, Clone)]
pub struct Element {
    /// Whose and of which form.
    pub form: Form,
    /// Its own text.
    pub text: String,
    /// Seconds after the history began at which it is received.
    pub received: i64,
    /// Plaid: signed at.
    pub iat: Option<i64>,
    /// Plaid: the user of the URL.
    pub bound: Option<String>,
}

/// What bodies an element can stand in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Batches of Unit.
    Unit,
    /// Alone.
    Plaid,
    /// Alone.
    Synapse,
    /// Lines, arrays and `logs` of Auth0.
    LogEntry,
    /// Alone.
    CloudEvent,
}

impl Form {
    /// Who sends it.
    pub fn provider(self) -> &'static Provider {
        providers::find(match self {
            Self::Unit => "unit",
            Self::Plaid => "plaid",
            Self::Synapse => "synapse",
            Self::LogEntry | Self::CloudEvent => "auth0",
        })
        .unwrap()
    }
}

/// The forms with how many kinds of each are drawn.
pub const FORMS: [(Form, usize); 5] =
    [(Form::Unit, 13), (Form::Plaid, 12), (Form::Synapse, 12), (Form::LogEntry, 6), (Form::CloudEvent, 4)];

/// When the history begins: a while before noon, in seconds since 1970.
pub fn begin() -> i64 {
    noon().seconds() - 1_000
}

/// A user of ours.
pub fn user(number: usize) -> Option<String> {
    (number < 3).then(|| format!("u_{number}"))
}

/// The subject of a number, as its provider writes ids.
pub fn subject(form: Form, number: usize) -> String {
    match form {
        Form::Unit => format!("4900{number}"),
        Form::Plaid => format!("wz666MBjYWTp2PDzzggYhM6oWWmBb{number}"),
        Form::Synapse => format!("60b8d295f1c2a94d3e7a00a{number}"),
        Form::LogEntry | Form::CloudEvent => format!("auth0|5f7c8ec7c33c6c004bbafe8{number}"),
    }
}

fn rfc3339(draw: &Draw) -> Option<String> {
    stated(draw).map(|seconds| {
        let at = finhook::domain::Timestamp::from_seconds(seconds).unwrap();
        at.to_string().replace('Z', ".445Z")
    })
}

fn stated(draw: &Draw) -> Option<i64> {
    match draw.seconds {
        6 => None,
        7 => Some(begin() + 3_600),
        seconds => Some(begin() + seconds),
    }
}

/// The copies of the `number`th event of a history.
pub fn elements(form: Form, number: usize, draw: &Draw) -> Vec<Element> {
    draw.copies
        .iter()
        .filter(|copy| form == Form::Plaid || !matches!(copy, Copy::Bound(_)))
        .filter(|copy| form != Form::Plaid || **copy != Copy::Broken)
        .map(|copy| Element {
            form,
            text: text(form, number, draw, *copy == Copy::Broken),
            // Another copy is received at another time: by that a replay knows the copy that it is of.
            received: match copy {
                Copy::Whole | Copy::Bound(_) => 100,
                Copy::Broken => 120,
                Copy::Late => 150,
            },
            iat: (form == Form::Plaid).then(|| begin() + draw.seconds),
            bound: if let Copy::Bound(to) = copy { user(*to) } else { None },
        })
        .collect()
}

fn text(form: Form, number: usize, draw: &Draw, broken: bool) -> String {
    match form {
        Form::Unit => unit(number, draw, broken).to_string(),
        Form::Plaid => format!("{:#}", plaid(draw)),
        // What is recorded either way has no better copy.
        Form::Synapse => synapse(number, draw, broken && !matches!(draw.kind, 9 | 10)).to_string(),
        Form::LogEntry => log_entry(number, draw, broken).to_string(),
        Form::CloudEvent => cloud_event(number, draw, broken).to_string(),
    }
}

fn unit(number: usize, draw: &Draw, broken: bool) -> Value {
    let (kind, about_account, customers, why) = match draw.kind {
        0 => ("customer.created", false, 1, None),
        1 => ("application.approved", false, 1, None),
        2 => ("customer.updated", false, 1, None),
        3 => ("customer.archived", false, 1, Some(("archiveReason", "FraudACHActivity"))),
        4 => ("account.created", true, 1, None),
        5 => ("account.created", true, 2, None),
        6 => ("account.closed", true, 1, Some(("closeReason", "ByCustomer"))),
        7 => ("account.frozen", true, 2, Some(("freezeReason", "Other"))),
        8 => ("account.unfrozen", true, 2, None),
        9 => ("account.reopened", true, 1, None),
        10 => ("account.updated", true, 2, None),
        11 => ("card.activated", true, 1, None),
        _ => ("Account.Closed", true, 2, Some(("closeReason", "ByBank"))),
    };
    let customer =
        |offset: usize| json!({ "id": subject(Form::Unit, (draw.subject + offset) % 3), "type": "individualCustomer" });
    let mut attributes = json!({ "tags": { "userId": user(draw.user), "note": null } });
    if let Some(at) = rfc3339(draw) {
        attributes["createdAt"] = at.into();
    }
    if let Some((name, why)) = why {
        attributes[name] = why.into();
    }
    let mut related = json!({ "application": { "data": { "id": "7001", "type": "individualApplication" } } });
    if about_account && !broken {
        related["account"] = json!({ "data": { "id": format!("8800{}", draw.account), "type": "depositAccount" } });
    }
    if customers == 1 && (about_account || !broken) {
        related["customer"] = json!({ "data": customer(0) });
    } else if customers == 2 {
        related["customers"] = json!({ "data": [customer(0), customer(1)] });
    }
    json!({ "id": (97_000 + number).to_string(), "type": kind, "attributes": attributes, "relationships": related })
}

fn plaid(draw: &Draw) -> Value {
    let account = format!("BxBXxLj1m4HMXBm9WZZmCWVbPjX16EHwv9{}", draw.account);
    let other = format!("BxBXxLj1m4HMXBm9WZZmCWVbPjX16EHwv9{}", (draw.account + 1) % 3);
    let (family, code, more) = match draw.kind {
        0 => {
            let error = json!({ "error_type": "ITEM_ERROR", "error_code": "ITEM_LOGIN_REQUIRED", "status": 400 });
            ("ITEM", "ERROR", json!({ "error": error }))
        }
        1 => ("ITEM", "LOGIN_REPAIRED", json!({})),
        2 => ("ITEM", "PENDING_EXPIRATION", json!({ "consent_expiration_time": "2026-12-01T00:00:00Z" })),
        3 => ("ITEM", "PENDING_DISCONNECT", json!({ "reason": "INSTITUTION_MIGRATION" })),
        4 => ("ITEM", "USER_PERMISSION_REVOKED", json!({ "error": null })),
        5 => ("ITEM", "USER_ACCOUNT_REVOKED", json!({ "account_id": account })),
        6 => ("AUTH", "AUTOMATICALLY_VERIFIED", json!({ "account_id": account })),
        7 => ("AUTH", "VERIFICATION_EXPIRED", json!({ "account_id": account })),
        8 => {
            let updated = json!({ other: ["ACCOUNT_NUMBER"], &account: ["ROUTING_NUMBER"] });
            let more = json!({ "account_ids_with_new_auth": [account], "account_ids_with_updated_auth": updated });
            ("AUTH", "DEFAULT_UPDATE", more)
        }
        9 => ("TRANSACTIONS", "SYNC_UPDATES_AVAILABLE", json!({ "historical_update_complete": true })),
        10 => ("TRANSACTIONS", "RECURRING_TRANSACTIONS_UPDATE", json!({ "account_ids": [account, other] })),
        _ => ("ITEM", "SOMETHING_NEW", json!({ "account_id": account })),
    };
    let mut body = json!({
        "webhook_type": family, "webhook_code": code, "item_id": subject(Form::Plaid, draw.subject),
        "environment": "production",
    });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn synapse(number: usize, draw: &Draw, broken: bool) -> Value {
    let owner = subject(Form::Synapse, draw.subject);
    let node = format!("60b8d295f1c2a94d3e7a000{}", draw.account);
    let person = |permission: &str| {
        json!({
            "permission": permission, "permission_code": null, "refresh_token": "refresh_made_up",
            "extra": { "supp_id": user(draw.user).unwrap_or_default(), "cip_tag": 1 },
        })
    };
    let account = |allowed: &str, active: bool| {
        json!({
            "user_id": owner, "allowed": allowed, "is_active": active, "type": "DEPOSIT-US",
            "extra": { "supp_id": "names the node" },
        })
    };
    let (kind, id, object) = match draw.kind {
        0 => ("USERS|POST", &owner, person("UNVERIFIED")),
        1 => ("USER|PATCH", &owner, person("SEND-AND-RECEIVE")),
        2 => ("USERS|PATCH", &owner, person("LOCKED")),
        3 => ("USER|PATCH", &owner, person("CLOSED")),
        4 => ("USER|PATCH", &owner, person("SOMETHING-NEW")),
        5 => ("NODES|POST", &node, account("CREDIT-AND-DEBIT", true)),
        6 => ("NODE|PATCH", &node, account("LOCKED", true)),
        7 => ("NODES|PATCH", &node, account("INACTIVE", false)),
        8 => ("NODE|DELETE", &node, account("CREDIT", true)),
        9 => ("SUBNETS|POST", &node, account("CREDIT", true)),
        10 => ("USER|DELETE", &owner, person("CLOSED")),
        _ => ("NODE|PATCH", &node, account("CREDIT-AND-DEBIT", true)),
    };
    let mut meta = json!({ "function": kind, "updated_by": "SELF" });
    // Some carry no id, and what they say is all that names them.
    if number % 7 != 3 {
        meta["log_id"] = format!("60b8d295f1c2a94d3e7b{number:04}").into();
    }
    if let Some(seconds) = stated(draw) {
        meta["date"] = json!({ "$date": seconds * 1_000 + 123 });
    }
    let mut body = json!({ "_rest": object, "webhook_meta": meta });
    if !broken {
        body["_id"] = json!({ "$oid": id });
        body["_rest"]["_id"] = id.as_str().into();
    }
    body
}

fn log_entry(number: usize, draw: &Draw, broken: bool) -> Value {
    let kind = ["ss", "s", "sv", "sdu", "sapi", "fp"][draw.kind];
    let mut data = json!({
        "type": kind, "user_id": subject(Form::LogEntry, draw.subject), "connection": "Username-Password",
        "user_name": format!("a{}@example.com", draw.account), "ip": "203.0.113.7",
    });
    if let Some(at) = rfc3339(draw) {
        data["date"] = at.into();
    }
    if broken {
        data.as_object_mut().unwrap().remove("type");
    }
    json!({ "log_id": format!("900202611231200000000{number:04}"), "data": data })
}

fn cloud_event(number: usize, draw: &Draw, broken: bool) -> Value {
    let kind = ["user.created", "user.updated", "com.auth0.user.updated", "user.deleted"][draw.kind];
    let mut object = json!({
        "user_id": subject(Form::CloudEvent, draw.subject), "email": format!("a{}@example.com", draw.account),
        "email_verified": draw.account == 1,
    });
    if let Some(user) = user(draw.user) {
        object["app_metadata"] = json!({ "external_user_id": user });
    }
    if broken {
        object.as_object_mut().unwrap().remove("user_id");
    }
    let mut event = json!({
        "specversion": "1.0", "id": format!("evt_{number:04}"), "type": kind, "source": "urn:auth0:tests",
        "data": { "object": object },
    });
    if let Some(at) = rfc3339(draw) {
        event["time"] = at.into();
    }
    event
}

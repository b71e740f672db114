//! What Plaid's events mean. One delivery is one event, and the whole body, exactly as received, is its element.
//!
//! The only time that Plaid states is that of signing: a retried old delivery can look new. So ordinary traffic never
//! writes a status, and `revoked` is final (a bank that is linked again is a new item).

use std::collections::BTreeSet;

use super::Reader;
use super::draft::{Draft, Effect};
use super::elements::{Json, id, informative_id, required_id};
use super::keep::Keep;
use crate::domain::{Cause, Claim, DedupKey, Delivery, Event, Meaning, Rank, Reason, Scope, StatusChange, Timestamp};

/// What is read below, and what tells a person which event it was. Not `new_webhook_url`, which can carry a user's token,
/// nor public tokens.
pub const KEEPS: Keep = Keep::Members(&[
    ("webhook_type", Keep::Whole),
    ("webhook_code", Keep::Whole),
    ("environment", Keep::Whole),
    ("item_id", Keep::Whole),
    ("account_id", Keep::Whole),
    ("account_ids", Keep::Whole),
    ("account_ids_with_new_auth", Keep::Whole),
    ("account_ids_with_updated_auth", Keep::Whole),
    ("account_ids_with_new_liabilities", Keep::Whole),
    ("account_ids_with_updated_liabilities", Keep::Whole),
    ("account_ids_with_updated_identity", Keep::Whole),
    ("error", Keep::Members(&[("error_type", Keep::Whole), ("error_code", Keep::Whole)])),
    ("reason", Keep::Whole),
    ("status", Keep::Whole),
    ("consent_expiration_time", Keep::Whole),
]);

/// Reads deliveries of Plaid.
pub struct PlaidReader;

impl Reader for PlaidReader {
    fn events(&self, delivery: &Delivery) -> Vec<Event> {
        let bytes = &delivery.bytes;
        let iat = delivery.proof.iat;
        let draft = Draft {
            key: delivery.key.clone().or_else(|| iat.map(|iat| DedupKey::from_signing_time(iat, bytes))),
            stated: iat.and_then(Timestamp::from_seconds),
            ..Draft::element(bytes.clone())
        };
        let json = match Json::parse(bytes) {
            Ok(json) if json.is_object() => json,
            Ok(_) => return vec![Draft { scope: Scope::Body, ..draft }.dead(delivery, Cause::WrongShape.into())],
            Err(reason) => return vec![Draft { scope: Scope::Body, ..draft }.dead(delivery, reason)],
        };
        let [family, code, item_id] = json.pick(["webhook_type", "webhook_code", "item_id"]);
        let kind = required_id(family, "/webhook_type")
            .and_then(|family| Ok(format!("{family}.{}", required_id(code, "/webhook_code")?)))
            .and_then(
                |kind| if kind.len() > 200 { Err(Reason::at(Cause::TooLong, "/webhook_code")) } else { Ok(kind) },
            );
        let upper = kind.as_deref().unwrap_or_default().to_ascii_uppercase();
        let effect = effect(&upper, json);
        let subject = match &effect {
            Ok(None) => informative_id(item_id, "/item_id"),
            _ => id(item_id, "/item_id"),
        };
        let owner = delivery.proof.user.clone().map(|user| Claim { user, rank: Rank::BoundUrl });
        let meaning =
            kind.as_ref().map_err(Reason::clone).and_then(|_| subject.as_ref().map_err(Reason::clone)).and_then(
                |subject| {
                    let effect = effect?;
                    Ok(effect.map_or(Meaning::Record(None), |effect| effect.owned(owner).meaning(subject.as_ref())))
                },
            );
        vec![Draft { kind: kind.ok(), subject: subject.ok().flatten(), ..draft }.settle(delivery, meaning)]
    }
}

/// What a kind changes; `None` = recorded.
fn effect(kind: &str, body: Json<'_>) -> Result<Option<Effect>, Reason> {
    let text = |path: &[&str]| body.get(path).and_then(Json::text);
    let account = |status: Option<StatusChange>| {
        let account = required_id(body.get(&["account_id"]), "/account_id")?;
        Ok(Some(Effect::account(&account, status)))
    };
    let open = |status| account(Some(StatusChange::open(status)));
    let status = |status| Ok(Some(Effect::status(status)));
    match kind {
        "ITEM.ERROR" => status(StatusChange::open("error").because(text(&["error", "error_code"]).as_deref())),
        "ITEM.LOGIN_REPAIRED" => status(StatusChange::open("active")),
        "ITEM.PENDING_EXPIRATION" | "ITEM.PENDING_DISCONNECT" => {
            status(StatusChange::open("expiring").because(text(&["reason"]).as_deref()))
        }
        "ITEM.USER_PERMISSION_REVOKED" => status(StatusChange::closing_for_good("revoked")),
        "ITEM.USER_ACCOUNT_REVOKED" => account(Some(StatusChange::closing("revoked"))),
        "ITEM.NEW_ACCOUNTS_AVAILABLE" | "ITEM.WEBHOOK_UPDATE_ACKNOWLEDGED" => Ok(Some(Effect::touch())),
        "AUTH.AUTOMATICALLY_VERIFIED" => open("verified"),
        "AUTH.VERIFICATION_EXPIRED" => open("verification_expired"),
        "AUTH.SMS_MICRODEPOSITS_VERIFICATION" => {
            match text(&["status"]).unwrap_or_default().to_ascii_uppercase().as_str() {
                "MANUALLY_VERIFIED" => open("verified"),
                "VERIFICATION_FAILED" => open("verification_failed"),
                _ => account(None),
            }
        }
        "AUTH.DEFAULT_UPDATE" => accounts(
            body,
            [
                ("account_ids_with_new_auth", "/account_ids_with_new_auth"),
                ("account_ids_with_updated_auth", "/account_ids_with_updated_auth"),
            ],
        ),
        "LIABILITIES.DEFAULT_UPDATE" => accounts(
            body,
            [
                ("account_ids_with_new_liabilities", "/account_ids_with_new_liabilities"),
                ("account_ids_with_updated_liabilities", "/account_ids_with_updated_liabilities"),
            ],
        ),
        "IDENTITY.DEFAULT_UPDATE" => {
            accounts(body, [("account_ids_with_updated_identity", "/account_ids_with_updated_identity")])
        }
        "TRANSACTIONS.RECURRING_TRANSACTIONS_UPDATE" => accounts(body, [("account_ids", "/account_ids")]),
        _ => match kind.split_once('.') {
            Some(("TRANSACTIONS" | "HOLDINGS" | "INVESTMENTS_TRANSACTIONS" | "INCOME" | "STATEMENTS", _)) => {
                Ok(Some(Effect::touch()))
            }
            _ => Ok(None),
        },
    }
}

/// Touches every account that is named, in an array or as an object's key, each once.
fn accounts<const N: usize>(
    body: Json<'_>,
    fields: [(&'static str, &'static str); N],
) -> Result<Option<Effect>, Reason> {
    let mut ids = BTreeSet::new();
    let found = body.pick(fields.map(|(name, _)| name));
    for (value, (_, path)) in found.into_iter().zip(fields) {
        let Some(value) = value else { continue };
        for item in value.items().filter(|item| item.raw() != "null").chain(value.members().map(|(key, _)| key)) {
            ids.extend(id(Some(item), path)?);
        }
    }
    Ok(Some(Effect::touch_accounts(ids)))
}

#[cfg(test)]
mod tests;

//! What the product is told of a change: which row of which table. No payload, and of an account nothing but our own id of
//! its row.

use uuid::Uuid;

/// A row of the product's tables that changed, waiting to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangedRow {
    /// Its number among those that wait.
    pub seq: i64,
    /// `user`, `integration` or `account`.
    pub table: String,
    /// The row.
    pub id: Uuid,
}

/// The message, the same wherever it is told: `{"table":"account","id":"0192f0c4-…"}`.
pub fn message(table: &str, id: Uuid) -> String {
    // Names of our own tables need no escaping.
    format!(r#"{{"table":"{table}","id":"{id}"}}"#)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_json_with_table_and_id_alone() {
        let message: serde_json::Value = serde_json::from_str(&message("user", Uuid::nil())).unwrap();
        assert_eq!(message, serde_json::json!({ "table": "user", "id": "00000000-0000-0000-0000-000000000000" }));
    }
}

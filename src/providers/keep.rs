//! What is kept of an event when its envelope is stored: the members that something reads, by a list of each provider, and
//! nothing else. Unit's `included` with its social security numbers, Synapse's `refresh_token` and documents, names,
//! addresses and amounts are gone before anything is sealed for the tables.
//!
//! Law: what is kept reads like the whole. An event whose key is a hash of its bytes keeps that key beside them, because
//! the bytes that it was taken from are no longer there. An event that could not be read keeps what it came with, but for
//! what nobody will ever need: a later version may be able to read it.

use bytes::Bytes;

use super::elements::Json;
use crate::domain::{Delivery, Event, Meaning};

/// What is stored of an event's delivery.
pub fn stored(delivery: &Delivery, event: &Event) -> Delivery {
    let bytes = match super::find(delivery.provider.as_str()) {
        Some(provider) if matches!(event.meaning, Meaning::Dead(_)) => {
            provider.keeps_unread.of(&event.bytes, Json::parse(&event.bytes).ok())
        }
        // What was read is JSON.
        Some(provider) => provider.keeps.of(&event.bytes, Json::checked(&event.bytes)),
        None => event.bytes.clone(),
    };
    // A key that was a hash of the bytes can be made again only from all of them.
    let cut = delivery.key.is_some() || bytes.len() != event.bytes.len();
    let key = event.dedup_key.clone();
    delivery.narrowed(bytes, event.scope, (cut && key.is_made_here()).then_some(key))
}

/// Which members of a value are kept.
#[derive(Debug, Clone, Copy)]
pub enum Keep {
    /// The value as it stands.
    Whole,
    /// Of an object these members; of an array that of each object in it. Anything else is not kept.
    Members(&'static [(&'static str, Keep)]),
    /// The members of two lists.
    Both(&'static [(&'static str, Keep)], &'static [(&'static str, Keep)]),
    /// The same for every member, whatever its name.
    Every(&'static Keep),
    /// Every member but these, of which so much is kept; `None` = nothing. What is no object is kept as it stands.
    But(&'static [(&'static str, Option<Keep>)]),
}

impl Keep {
    /// What is kept of the bytes of one event, which are this JSON if they are any; the bytes themselves where nothing has
    /// to go.
    fn of(&self, bytes: &Bytes, json: Option<Json<'_>>) -> Bytes {
        let Some(json) = json else { return bytes.clone() };
        let mut kept = String::with_capacity(json.raw().len());
        if self.cut(json, &mut kept) && kept.len() < json.raw().len() { kept.into() } else { bytes.clone() }
    }

    /// Writes the kept text of a value; `false` if nothing of it is kept, and then nothing is written. Goes no deeper than
    /// the list does, and one array.
    fn cut(&self, value: Json<'_>, kept: &mut String) -> bool {
        if !value.is_array() || matches!(self, Keep::Whole | Keep::But(_)) {
            return self.cut_one(value, kept);
        }
        listed(kept, ['[', ']'], value.items(), |item, kept| self.cut_one(item, kept));
        true
    }

    fn cut_one(&self, value: Json<'_>, kept: &mut String) -> bool {
        if matches!(self, Keep::Whole) || (matches!(self, Keep::But(_)) && !value.is_object()) {
            kept.push_str(value.raw());
            return true;
        }
        if !value.is_object() {
            return false;
        }
        // Duplicates stay in their order: the last one counts, before and after.
        listed(kept, ['{', '}'], value.members(), |(key, value), kept| {
            let Some(keep) = key.text().and_then(|name| self.of_member(&name)) else { return false };
            kept.push_str(key.raw());
            kept.push(':');
            keep.cut(value, kept)
        });
        true
    }

    /// What is kept of a member.
    fn of_member(&self, name: &str) -> Option<&Keep> {
        let among = |list: &'static [(&str, Keep)]| list.iter().find(|(kept, _)| *kept == name).map(|(_, keep)| keep);
        match self {
            Keep::Whole => Some(&Keep::Whole),
            Keep::Members(list) => among(list),
            Keep::Both(one, two) => among(one).or_else(|| among(two)),
            Keep::Every(keep) => Some(keep),
            Keep::But(list) => match list.iter().find(|(named, _)| *named == name) {
                Some((_, keep)) => keep.as_ref(),
                None => Some(&Keep::Whole),
            },
        }
    }
}

/// Writes those items of a list that `write` says it has written, with commas between them.
fn listed<T>(
    kept: &mut String,
    [open, close]: [char; 2],
    items: impl Iterator<Item = T>,
    write: impl Fn(T, &mut String) -> bool,
) {
    kept.push(open);
    let start = kept.len();
    for item in items {
        let before = kept.len();
        if before > start {
            kept.push(',');
        }
        if !write(item, kept) {
            kept.truncate(before);
        }
    }
    kept.push(close);
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: Keep = Keep::Members(&[
        ("id", Keep::Whole),
        ("deep", Keep::Members(&[("id", Keep::Whole)])),
        ("any", Keep::Every(&Keep::Members(&[("id", Keep::Whole)]))),
    ]);
    const REST: Keep = Keep::But(&[("secret", None), ("deep", Some(Keep::But(&[("secret", None)])))]);

    fn kept(keep: Keep, json: &str) -> String {
        let bytes = Bytes::from(json.to_owned());
        String::from_utf8(keep.of(&bytes, Json::parse(&bytes).ok()).to_vec()).unwrap()
    }

    #[test]
    fn only_members_of_the_list_are_kept_as_they_are_written() {
        let json = r#"{ "ssn":"1", "id" : 1.0e2, "deep":{"id":null,"x":{"id":2}}, "any":{"a":{"id":3,"x":4},"b":5} }"#;
        assert_eq!(kept(LIST, json), r#"{"id":1.0e2,"deep":{"id":null},"any":{"a":{"id":3}}}"#);
        assert_eq!(kept(LIST, r#"{"deep":[{"id":1,"x":2},7,[{"id":8}]],"x":[]}"#), r#"{"deep":[{"id":1}]}"#);
        assert_eq!(kept(LIST, r#"{"deep":"ssn","x":1}"#), "{}");
        assert_eq!(kept(LIST, r#"{"id":1,"id":2,"i\u0064":3,"x":4}"#), r#"{"id":1,"id":2,"i\u0064":3}"#);
    }

    #[test]
    fn what_could_not_be_read_is_kept_but_for_what_nobody_needs() {
        let json = r#"{"a":[1],"secret":"s","deep":{"secret":2,"b":3}}"#;
        assert_eq!(kept(REST, json), r#"{"a":[1],"deep":{"b":3}}"#);
        assert_eq!(kept(REST, r#"["secret"]"#), r#"["secret"]"#);
    }

    #[test]
    fn what_is_no_json_or_has_nothing_to_lose_is_not_copied() {
        for bytes in ["", "{", "  {\"id\":1}\n", "{\"id\":1,}"] {
            assert_eq!(kept(LIST, bytes), bytes);
        }
        let deep = format!("{{\"deep\":{}1{},\"x\":1}}", "[".repeat(5_000), "]".repeat(5_000));
        assert_eq!(kept(LIST, &deep), r#"{"deep":[]}"#);
    }
}

//! Cursors: where a list goes on, opaque to whoever carries it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use uuid::Uuid;

/// A place in a list of events: the last id that was given, and the direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// The last id of the page before.
    pub last: Uuid,
    /// Whether the list goes from old to new.
    pub oldest_first: bool,
    /// Of an act: what was stored later than this is not meant.
    pub before: Option<Uuid>,
}

/// The first byte, so that another form can be told from this one.
const NEWEST_FIRST: u8 = 1;
const OLDEST_FIRST: u8 = 2;

impl Cursor {
    /// As it is carried.
    pub fn to_text(self) -> String {
        let mut bytes = vec![if self.oldest_first { OLDEST_FIRST } else { NEWEST_FIRST }];
        bytes.extend_from_slice(self.last.as_bytes());
        bytes.extend(self.before.iter().flat_map(|before| before.as_bytes()));
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads what [`Cursor::to_text`] wrote; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (form, rest) = bytes.split_first()?;
        let (last, before) = rest.split_at_checked(16)?;
        let oldest_first = match *form {
            NEWEST_FIRST => false,
            OLDEST_FIRST => true,
            _ => return None,
        };
        let before = if before.is_empty() { None } else { Some(Uuid::from_slice(before).ok()?) };
        Some(Self { last: Uuid::from_slice(last).ok()?, oldest_first, before })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_as_it_went_and_nothing_else_is_one() {
        for (oldest_first, before) in [(false, None), (true, None), (true, Some(Uuid::now_v7()))] {
            let cursor = Cursor { last: Uuid::now_v7(), oldest_first, before };
            assert_eq!(Cursor::parse(&cursor.to_text()), Some(cursor));
        }
        for wrong in ["", "A", "AAAA", "AwAAAAAAAAAAAAAAAAAAAAA", "AQAAAAAAAAAAAAAAAAAAAAAA", "not base64!"] {
            assert_eq!(Cursor::parse(wrong), None, "{wrong}");
        }
    }
}

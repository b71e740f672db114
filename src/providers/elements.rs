//! Splitting and viewing JSON without trusting it: one broken element of a batch must not take the others with it.
//!
//! Two layers over one small scanner that understands strings, brackets and commas and nothing else. [`batch`] splits
//! bytes that may not even be JSON; [`Json`] is a view of text that was checked to be. Law: no recursion (a body can nest
//! ten thousand deep), time linear in the body, memory at most one byte per open bracket, and a duplicate member counts
//! by its last occurrence instead of being an error.

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;
use memchr::{memchr, memchr2};
use serde::de::IgnoredAny;

use crate::domain::{Cause, Reason};

/// The most bytes of an id, a kind or a subject.
const ID_BYTES: usize = 200;

/// A value of checked JSON, as its text.
#[derive(Clone, Copy)]
pub struct Json<'a>(&'a str);

impl<'a> Json<'a> {
    /// Checks that bytes are one JSON value. The reason says what is wrong and where, in our own words.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Reason> {
        if trimmed(bytes, 0..bytes.len()).is_empty() {
            return Err(Cause::Empty.into());
        }
        let text =
            std::str::from_utf8(bytes).map_err(|error| Reason::at_byte(Cause::NotUtf8, error.valid_up_to() as u64))?;
        // IgnoredAny checks the grammar iteratively, takes numbers of any size, and keeps nothing.
        serde_json::from_str::<IgnoredAny>(text)
            .map_err(|error| Reason::at_byte(Cause::NotJson, position(text, &error)))?;
        Ok(Self(text.trim_matches(|c| matches!(c, ' ' | '\t' | '\n' | '\r'))))
    }

    /// What was checked before, as a whole or as a part of something whole: only its encoding is looked at again.
    pub fn checked(bytes: &'a [u8]) -> Option<Self> {
        std::str::from_utf8(bytes).ok().map(|text| Self(text.trim_matches(|c| matches!(c, ' ' | '\t' | '\n' | '\r'))))
    }

    /// The value's own text.
    pub fn raw(self) -> &'a str {
        self.0
    }

    /// Whether it is an object.
    pub fn is_object(self) -> bool {
        self.begins(b'{')
    }

    /// Whether it is an array.
    pub fn is_array(self) -> bool {
        self.begins(b'[')
    }

    fn is_string(self) -> bool {
        self.begins(b'"')
    }

    fn begins(self, with: u8) -> bool {
        self.0.as_bytes().first() == Some(&with)
    }

    /// The text of a string; `None` for anything else, and for a string that is no text (a lone surrogate).
    pub fn text(self) -> Option<Cow<'a, str>> {
        let [b'"', .., b'"'] = self.0.as_bytes() else { return None };
        let inner = self.0.get(1..self.0.len() - 1)?;
        if memchr(b'\\', inner.as_bytes()).is_some() {
            return serde_json::from_str::<String>(self.0).ok().map(Cow::Owned);
        }
        Some(Cow::Borrowed(inner))
    }

    /// `true` or `false`, also as a string.
    pub fn flag(self) -> Option<bool> {
        let text = self.text().unwrap_or(Cow::Borrowed(self.0));
        [true, false].into_iter().find(|flag| text.trim().eq_ignore_ascii_case(if *flag { "true" } else { "false" }))
    }

    /// The members of an object as they stand, duplicates included; nothing for anything else.
    pub fn members(self) -> impl Iterator<Item = (Json<'a>, Json<'a>)> {
        let text = if self.is_object() { self.0 } else { "" };
        let view = move |range: Range<usize>| text.get(range).map(Json);
        Pieces::inside(text.as_bytes(), 0)
            .filter_map(move |piece| member(text.as_bytes(), piece))
            .filter_map(move |(name, value)| Some((view(name)?, view(value)?)))
    }

    /// The values of an array; nothing for anything else.
    pub fn items(self) -> impl Iterator<Item = Json<'a>> {
        let text = if self.is_array() { self.0 } else { "" };
        Pieces::inside(text.as_bytes(), 0).filter_map(move |piece| text.get(piece).map(Json))
    }

    /// The named members in one pass: of duplicates the last, `None` where absent or null.
    pub fn pick<const N: usize>(self, names: [&str; N]) -> [Option<Json<'a>>; N] {
        let mut found = [None; N];
        for (key, value) in self.members() {
            let Some(key) = key.text() else { continue };
            for (name, slot) in names.iter().zip(found.iter_mut()) {
                if *name == key {
                    *slot = Some(value);
                }
            }
        }
        found.map(|value| value.filter(|value| value.0 != "null"))
    }

    /// What stands at the end of a path of member names; `None` where absent or null.
    pub fn get(self, path: &[&str]) -> Option<Json<'a>> {
        path.iter().try_fold(self, |value, name| {
            let [found] = value.pick([name]);
            found
        })
    }

    /// Whether an object has a member of this name, null or not.
    pub fn has(self, name: &str) -> bool {
        self.members().any(|(key, _)| key.text().is_some_and(|key| key == name))
    }
}

/// Reads an id: a JSON string of at most 200 bytes without NUL. Absent, null and `""` are missing: `Ok(None)`.
pub fn id(value: Option<Json<'_>>, path: &'static str) -> Result<Option<String>, Reason> {
    let Some(value) = value else { return Ok(None) };
    if !value.is_string() {
        return Err(Reason::at(Cause::WrongType, path));
    }
    let text = value.text().ok_or(Reason::at(Cause::NotJson, path))?;
    if text.contains('\0') {
        return Err(Reason::at(Cause::HasNul, path));
    }
    if text.len() > ID_BYTES {
        return Err(Reason::at(Cause::TooLong, path));
    }
    Ok(Some(text.into_owned()).filter(|text| !text.is_empty()))
}

/// Reads an id that must be there.
pub fn required_id(value: Option<Json<'_>>, path: &'static str) -> Result<String, Reason> {
    id(value, path)?.ok_or(Reason::at(Cause::MissingField, path))
}

/// Reads an id of ours that a provider carries for us: only a string that is not blank names a user.
pub fn user_id(value: Option<Json<'_>>, path: &'static str) -> Result<Option<String>, Reason> {
    let named = value.filter(|value| value.text().is_some_and(|text| !text.trim().is_empty()));
    id(named, path)
}

/// Reads an id for information only: what is not a string, or no text, counts as missing.
pub fn informative_id(value: Option<Json<'_>>, path: &'static str) -> Result<Option<String>, Reason> {
    id(value.filter(|value| value.text().is_some()), path)
}

/// A body split into its elements.
pub struct Batch {
    /// The elements, slices of the body without the white space around them.
    pub elements: Vec<Bytes>,
    /// Whether the body is JSON, and so each of them.
    pub whole: bool,
    /// What is left where the body around or behind the elements is broken. It starts at the closing bracket (or at the
    /// body's last byte), so that read alone it can never be taken for a body or an element.
    pub remainder: Option<Bytes>,
}

/// Splits the array whose bracket opens at `open`, broken or not. No copies.
pub fn batch(body: &Bytes, open: usize) -> Batch {
    let mut pieces = Pieces::inside(body, open);
    let elements: Vec<Bytes> = pieces.by_ref().map(|piece| body.slice(piece)).collect();
    let whole = Json::parse(body).is_ok();
    let remainder = if whole {
        None
    } else {
        let end = pieces.at;
        let around: Vec<u8> = [body.get(..=open), body.get(end..)].into_iter().flatten().flatten().copied().collect();
        let broken = elements.iter().any(|element| Json::parse(element).is_err());
        // An unclosed array whose last element is broken was cut off inside it: that element is the remainder.
        let cut_inside = end == body.len() && elements.last().is_some_and(|last| Json::parse(last).is_err());
        let lost = !broken || (Json::parse(&around).is_err() && !cut_inside);
        lost.then(|| body.slice(end.min(last_byte(body))..))
    };
    Batch { elements, whole, remainder }
}

/// Where the value of a top-level member opens, if it is an array; the body around it may be broken.
pub fn array_member(body: &[u8], name: &str) -> Option<usize> {
    let open = trimmed(body, 0..body.len()).start;
    if body.get(open) != Some(&b'{') {
        return None;
    }
    let (_, value) = top_members(body, open).filter(|(key, _)| names(body, key.clone(), name)).last()?;
    (body.get(value.start) == Some(&b'[')).then_some(value.start)
}

/// The string at a path of member names, found by scanning alone: for what has to be read before anything is proved.
pub fn scan_string<'a>(body: &'a [u8], path: &[&str]) -> Option<Cow<'a, str>> {
    let mut inside = trimmed(body, 0..body.len());
    for name in path {
        if body.get(inside.start) != Some(&b'{') {
            return None;
        }
        let part = body.get(..inside.end)?;
        (_, inside) = top_members(part, inside.start).filter(|(key, _)| names(part, key.clone(), name)).last()?;
    }
    Json::parse(body.get(inside)?).ok()?.text()
}

fn top_members(body: &[u8], open: usize) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
    Pieces::inside(body, open).filter_map(move |piece| member(body, piece))
}

fn names(body: &[u8], key: Range<usize>, name: &str) -> bool {
    body.get(key).and_then(|key| Json::parse(key).ok()?.text()).is_some_and(|key| key == name)
}

/// What stands between the commas of one array or object.
struct Pieces<'a> {
    bytes: &'a [u8],
    at: usize,
    closer: u8,
    done: bool,
}

impl<'a> Pieces<'a> {
    fn inside(bytes: &'a [u8], open: usize) -> Self {
        let closer = if bytes.get(open) == Some(&b'{') { b'}' } else { b']' };
        Self { bytes, at: open.saturating_add(1).min(bytes.len()), closer, done: open >= bytes.len() }
    }
}

impl Iterator for Pieces<'_> {
    type Item = Range<usize>;

    /// The next piece that is not blank. When there is none, `at` is the closing bracket's place or the end.
    fn next(&mut self) -> Option<Range<usize>> {
        while !self.done {
            let end = piece_end(self.bytes, self.at, self.closer);
            let piece = trimmed(self.bytes, self.at..end);
            self.done = self.bytes.get(end) != Some(&b',');
            self.at = if self.done { end } else { end + 1 };
            if !piece.is_empty() {
                return Some(piece);
            }
        }
        None
    }
}

/// Where the piece that starts at `at` ends: its comma, the bracket that closes around it, or the end of the bytes.
///
/// Brackets that were left open inside are taken as closed when one further out closes, so that a missing bracket does
/// not swallow more than it must.
fn piece_end(bytes: &[u8], mut at: usize, closer: u8) -> usize {
    let mut open: Vec<u8> = Vec::new();
    let mut waiting = [0_usize; 2];
    // 0 or 1: the two counts are always there.
    let slot = |bracket: u8| usize::from(bracket == b'}');
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => {
                at = string_end(bytes, at);
                continue;
            }
            b'[' | b'{' => {
                let closing = if byte == b'[' { b']' } else { b'}' };
                open.push(closing);
                waiting[slot(closing)] += 1;
            }
            // Each pop was pushed once and the counts say whether there is anything to find: linear overall.
            b']' | b'}' if waiting[slot(byte)] > 0 => {
                while let Some(closed) = open.pop() {
                    waiting[slot(closed)] -= 1;
                    if closed == byte {
                        break;
                    }
                }
            }
            b']' | b'}' if byte == closer => return at,
            b',' if open.is_empty() => return at,
            _ => {}
        }
        at += 1;
    }
    bytes.len()
}

/// Just past the string whose quote opens at `at`, or the end of the bytes.
fn string_end(bytes: &[u8], at: usize) -> usize {
    let mut at = at + 1;
    while let Some(found) = bytes.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
        at += found;
        if bytes.get(at) == Some(&b'"') {
            return at + 1;
        }
        at += 2;
    }
    bytes.len()
}

/// Name and value of an object's piece.
fn member(bytes: &[u8], piece: Range<usize>) -> Option<(Range<usize>, Range<usize>)> {
    if bytes.get(piece.start) != Some(&b'"') {
        return None;
    }
    let name = piece.start..string_end(bytes, piece.start).min(piece.end);
    let rest = trimmed(bytes, name.end..piece.end);
    if bytes.get(rest.start) != Some(&b':') || rest.is_empty() {
        return None;
    }
    Some((name, trimmed(bytes, rest.start + 1..rest.end)))
}

/// The range without JSON's white space at both ends.
fn trimmed(bytes: &[u8], range: Range<usize>) -> Range<usize> {
    let blank = |at: usize| bytes.get(at).is_some_and(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r'));
    let (mut start, mut end) = (range.start, range.end);
    while start < end && blank(start) {
        start += 1;
    }
    while start < end && blank(end - 1) {
        end -= 1;
    }
    start..end
}

fn last_byte(bytes: &[u8]) -> usize {
    trimmed(bytes, 0..bytes.len()).end.saturating_sub(1)
}

/// The byte at which the parser stopped, from its line and column (its text is not used: it can quote the input).
fn position(text: &str, error: &serde_json::Error) -> u64 {
    let line: usize = text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
    (line + error.column()).saturating_sub(1).min(text.len()) as u64
}

#[cfg(test)]
mod tests;

//! Markers in every field of every fixture, and in every header and path that a stranger can choose.
//!
//! One field is planted at a time, so that the rest of a delivery still means what it meant and goes the whole way; each
//! has ids of its own, so that none is a duplicate. What is looked for is a short text that stands nowhere else.

use std::collections::BTreeMap;

use bytes::Bytes;
use finhook::cli::posting::Signed;
use finhook::fixtures::{self, Body, Case};
use http::{HeaderName, HeaderValue};
use serde_json::Value;

use crate::app::TestApp;

/// The beginning of everything that is planted.
pub const MARK: &str = "pl4ntedm4rker";

/// How often a field of one name is planted in deliveries of one provider.
const TIMES: usize = 3;

/// Every place of a value in a document that is no object and no array.
fn leaves(value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, field)| {
            leaves(field, &format!("{path}/{}", name.replace('~', "~0").replace('/', "~1")), found)
        }),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(at, item)| leaves(item, &format!("{path}/{at}"), found))
        }
        _ => found.push(path.to_owned()),
    }
}

/// A field's name wherever it stands in lists: all items of one list are alike.
fn field(path: &str) -> String {
    path.split('/').map(|part| if part.parse::<usize>().is_ok() { "*" } else { part }).collect::<Vec<_>>().join("/")
}

/// The document with another value at one of its places.
fn planted(document: &Value, leaf: usize, number: usize) -> Value {
    let (mut planted, mut paths) = (document.clone(), Vec::new());
    leaves(document, "", &mut paths);
    let place = planted.pointer_mut(&paths[leaf]).unwrap();
    let mail = place.as_str().is_some_and(|text| text.contains('@'));
    *place = format!("{MARK}{number}{}", if mail { "@planted.example" } else { "" }).into();
    planted
}

/// Every delivery: one for each field, and one for each fixture with fields that nobody knows.
pub fn bodies() -> Vec<(Case, Body)> {
    let mut times: BTreeMap<(String, String), usize> = BTreeMap::new();
    let (mut all, mut number) = (Vec::new(), 0);
    for case in fixtures::all().unwrap() {
        for (at, body) in case.bodies.iter().enumerate() {
            // Lines of several documents have the same fields as the documents.
            let Ok(document) = serde_json::from_slice::<Value>(&body.bytes) else { continue };
            let mut paths = Vec::new();
            leaves(&document, "", &mut paths);
            let wanted = (0..paths.len()).filter(|leaf| {
                let planted = times.entry((case.provider.clone(), field(&paths[*leaf]))).or_default();
                *planted += 1;
                *planted <= TIMES
            });
            // Ids can be names of fields: a place is the same in a repetition, its path need not be.
            for leaf in wanted.map(Some).chain([None]) {
                number += 1;
                let fresh = case.fresh(number).unwrap();
                let body = fresh.bodies[at].clone();
                let document: Value = serde_json::from_slice(&body.bytes).unwrap();
                let document = match leaf {
                    Some(leaf) => planted(&document, leaf, number as usize),
                    None => unknown(document, number as usize),
                };
                all.push((fresh, Body { bytes: Bytes::from(document.to_string()), ..body }));
            }
        }
    }
    all
}

/// The document with a field that nobody knows, in every object of it.
fn unknown(document: Value, number: usize) -> Value {
    match document {
        Value::Object(fields) => {
            let fields = fields.into_iter().map(|(name, field)| (name, unknown(field, number)));
            let more = (format!("{MARK}{number}"), format!("{MARK}{number}").into());
            Value::Object(fields.chain([more]).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(|item| unknown(item, number)).collect()),
        other => other,
    }
}

/// The same delivery as strangers would send it: with every header, the path and the query planted, some of them so that
/// the proof does not hold.
pub fn strange(app: &TestApp, signed: &Signed) -> Vec<Signed> {
    let mark = HeaderValue::from_str(MARK).unwrap();
    let more =
        ["x-more", "user-agent", "cookie", "authorization", "traceparent", "tracestate", "forwarded", "x-request-id"];
    let mut with_more = signed.clone();
    let more = more.into_iter().map(HeaderName::from_static);
    let given: Vec<HeaderName> = signed.headers.iter().map(|(name, _)| name.clone()).collect();
    with_more.headers.extend(more.filter(|name| !given.contains(name)).map(|name| (name, mark.clone())));
    let broken = (0..signed.headers.len()).map(|at| {
        let mut broken = signed.clone();
        broken.headers[at].1 = mark.clone();
        broken
    });
    let elsewhere = ["/webhooks/plaid/", "/webhooks/", "/webhooks/unit/", "/", "/webhooks/plaid/x?"].into_iter();
    let elsewhere = elsewhere.map(|path| Signed { path: format!("{path}{MARK}"), ..signed.clone() });
    let bound = app.signed_for(MARK, signed.body.clone());
    [with_more, bound].into_iter().chain(broken).chain(elsewhere).collect()
}

//! Splitting and viewing JSON: what is broken stays by itself.

use proptest::prelude::*;

use super::*;

fn split(body: &'static str) -> (Vec<String>, Option<String>) {
    let body = Bytes::from_static(body.as_bytes());
    let open = body.iter().position(|byte| *byte == b'[').unwrap();
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    let batch = batch(&body, open);
    (batch.elements.iter().map(text).collect(), batch.remainder.as_ref().map(text))
}

#[test]
fn an_array_splits_at_its_own_commas_only() {
    let (elements, rest) = split(r#" [ {"a":"],}"} , [1,2] ,"\"," , 7 ] "#);
    assert_eq!(elements, [r#"{"a":"],}"}"#, "[1,2]", r#""\",""#, "7"]);
    assert_eq!(rest, None);
    assert_eq!(split("[]"), (vec![], None));
}

#[test]
fn a_broken_element_leaves_the_others_whole() {
    for broken in [r#"{"id": }"#, r#"{"id":[1,2}"#, r#"{"id":"a"}}"#, "{]x}", "nope", r#"{"a""b"}"#] {
        let body = Bytes::from(format!(r#"[{{"id":"1"}},{broken},{{"id":"3"}}]"#));
        let elements = batch(&body, 0).elements;
        assert_eq!(elements[0], r#"{"id":"1"}"#);
        assert!(elements.iter().any(|element| element == r#"{"id":"3"}"#) || broken == "{]x}", "{broken}");
    }
}

#[test]
fn what_is_cut_off_or_left_behind_is_one_remainder() {
    assert_eq!(split(r#"[{"a":1},{"b":"#), (vec![r#"{"a":1}"#.into(), r#"{"b":"#.into()], None));
    assert_eq!(split(r#"[{"a":1}"#), (vec![r#"{"a":1}"#.into()], Some("}".into())));
    assert_eq!(split(r#"[{"a":1}] {"a":2}"#), (vec![r#"{"a":1}"#.into()], Some(r#"] {"a":2}"#.into())));
    assert_eq!(split("[1,]"), (vec!["1".into()], Some("]".into())));
    assert_eq!(split("["), (vec![], Some("[".into())));
}

#[test]
fn of_duplicate_members_the_last_counts_and_names_are_read_through_escapes() {
    let json = Json::parse(br#" {"id":"1","\u0069d":"2","a":null,"b":{"c":[1]}} "#).unwrap();
    let [id, a, b] = json.pick(["id", "a", "b"]);
    assert_eq!(id.unwrap().text().unwrap(), "2");
    assert!(a.is_none() && json.has("a") && !json.has("z"));
    assert_eq!(b.unwrap().get(&["c"]).unwrap().raw(), "[1]");
    assert!(json.get(&["b", "c", "d"]).is_none());
}

#[test]
fn reasons_say_where_reading_stopped_and_never_quote() {
    let reason = |bytes: &[u8]| Json::parse(bytes).err().unwrap().to_string();
    assert_eq!(reason(b"  "), "empty");
    assert_eq!(reason(b"{\"a\":\"\xff\"}"), "not_utf8 at byte 6");
    assert_eq!(reason(b"{\"id\": }"), "not_json at byte 7");
    assert_eq!(reason(b"{\n\"id\":\n }"), "not_json at byte 9");
    assert_eq!(reason(b"{\"a\":\"\0\"}"), "not_json at byte 5");
}

#[test]
fn ids_are_strings_of_at_most_200_bytes_without_nul() {
    let read = |text: &str| {
        let json = Json::parse(text.as_bytes()).unwrap();
        id(Some(json), "/id").map_err(|reason| reason.to_string())
    };
    assert_eq!(read(r#""a\u00e9""#), Ok(Some("aé".into())));
    assert_eq!(read(r#""""#), Ok(None));
    assert_eq!(read("7"), Err("wrong_type at /id".into()));
    assert_eq!(read("{}"), Err("wrong_type at /id".into()));
    assert_eq!(read(r#""a\u0000""#), Err("has_nul at /id".into()));
    assert_eq!(read(r#""\ud800""#), Err("not_json at /id".into()));
    assert_eq!(read(&format!("\"{}\"", "x".repeat(200))).unwrap().unwrap().len(), 200);
    assert_eq!(read(&format!("\"{}\"", "é".repeat(101))), Err("too_long at /id".into()));
    assert_eq!(id(None, "/id"), Ok(None));
}

#[test]
fn odd_numbers_and_lone_surrogates_elsewhere_do_no_harm() {
    let json = Json::parse(br#"{"n":1e999,"m":-0.0E-99999,"s":"\ud800","id":"x"}"#).unwrap();
    assert_eq!(json.get(&["id"]).unwrap().text().unwrap(), "x");
    assert_eq!(json.get(&["s"]).unwrap().text(), None);
}

#[test]
fn the_scan_before_a_proof_finds_one_string_in_whatever_comes() {
    let found = |body: &'static str| scan_string(body.as_bytes(), &["_id", "$oid"]).map(Cow::into_owned);
    assert_eq!(found(r#"{"a":{"_id":{"$oid":"no"}},"_id":{"$oid":"yes"}}"#), Some("yes".into()));
    assert_eq!(found(r#"{"_id":{"$oid":"yes"},"x":{"#), Some("yes".into()));
    for none in ["", "{", "[]", r#"{"_id":"plain"}"#, r#"{"_id":{"$oid":7}}"#, r#"{"_id":{"$oid":"#, "{\"_id\":{}}"] {
        assert_eq!(found(none), None, "{none}");
    }
}

#[test]
fn a_megabyte_of_brackets_is_read_in_linear_time() {
    let half = 500_000;
    let bodies = ["[".repeat(2 * half), "[".repeat(half) + &"}".repeat(half), "[{".repeat(half), "[,".repeat(half)];
    for body in bodies {
        let body = Bytes::from(body);
        let _ = batch(&body, 0);
        let _ = array_member(&body, "data");
        let _ = Json::parse(&body);
    }
}

proptest! {
    #[test]
    fn what_serde_can_read_we_read_alike(value in json()) {
        let text = value.to_string();
        let json = Json::parse(text.as_bytes()).unwrap();
        if let Some(object) = value.as_object() {
            prop_assert_eq!(json.members().count(), object.len());
            for (key, value) in object {
                let found = json.get(&[key]);
                prop_assert_eq!(found.is_none(), value.is_null());
                if let Some(found) = found {
                    prop_assert_eq!(&serde_json::from_str::<serde_json::Value>(found.raw()).unwrap(), value);
                    let text = found.text();
                    prop_assert_eq!(text.as_deref(), value.as_str());
                }
            }
        }
        if let Some(array) = value.as_array() {
            let items: Vec<serde_json::Value> = json.items().map(|item| serde_json::from_str(item.raw()).unwrap()).collect();
            prop_assert_eq!(&items, array);
            let body = Bytes::from(text);
            let batch = batch(&body, 0);
            prop_assert_eq!(batch.elements.len(), array.len());
            prop_assert!(batch.remainder.is_none());
        }
    }

    #[test]
    fn arbitrary_bytes_split_without_a_panic(body in "[\\[\\]{},:\"\\\\ a1]{0,60}", open in 0..61_usize) {
        let body = Bytes::from(body);
        let _ = batch(&body, open);
        let _ = array_member(&body, "a");
        let _ = scan_string(&body, &["a", "1"]);
    }
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        ".{0,8}".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
            prop::collection::hash_map(".{0,5}", inner, 0..6)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

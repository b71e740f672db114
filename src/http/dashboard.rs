//! The dashboard at `/`: one page and its modules, the same for everybody and without a word of what finhook holds. What it
//! shows it asks `/v1` and `/live` for, by the session's cookie.
//!
//! ```text
//! /  /login  /events  /events/{id} ─▶ page/index.html ─▶ /assets/start.js ─▶ the view that the path names
//!                                                        /session · /v1/… · /live ─▶ 401: the log-in
//! ```
//! Law: nothing is built from text as markup (trusted types are off for everybody), nothing is loaded from elsewhere, and
//! the policy that every answer carries makes the browser hold us to both. Where next: `page/start.js`, `live.rs`.

pub mod live;

use axum::Router;
use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use http::{HeaderValue, StatusCode};

/// Scripts, styles and pictures of our own, requests to ourselves; no frame around us, no inline anything, no string that
/// becomes markup or code.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
    trusted-types 'none'";

const CROSS_ORIGIN_OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");
const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

/// Everything that is sent, by its name under `/assets`.
const ASSETS: &[(&str, &str, &str)] = &[
    ("style.css", "text/css; charset=utf-8", include_str!("dashboard/page/style.css")),
    ("icon.svg", "image/svg+xml", include_str!("dashboard/page/icon.svg")),
    ("start.js", JAVASCRIPT, include_str!("dashboard/page/start.js")),
    ("login.js", JAVASCRIPT, include_str!("dashboard/page/login.js")),
    ("overview.js", JAVASCRIPT, include_str!("dashboard/page/overview.js")),
    ("events.js", JAVASCRIPT, include_str!("dashboard/page/events.js")),
    ("event.js", JAVASCRIPT, include_str!("dashboard/page/event.js")),
    ("acts.js", JAVASCRIPT, include_str!("dashboard/page/acts.js")),
    ("confirm.js", JAVASCRIPT, include_str!("dashboard/page/confirm.js")),
    ("plot.js", JAVASCRIPT, include_str!("dashboard/page/plot.js")),
    ("live.js", JAVASCRIPT, include_str!("dashboard/page/live.js")),
    ("shapes.js", JAVASCRIPT, include_str!("dashboard/page/shapes.js")),
    ("ask.js", JAVASCRIPT, include_str!("dashboard/page/ask.js")),
    ("dom.js", JAVASCRIPT, include_str!("dashboard/page/dom.js")),
    ("words.js", JAVASCRIPT, include_str!("dashboard/page/words.js")),
];

const PAGE: &str = include_str!("dashboard/page/index.html");

/// The page's routes. They are for everybody, because they say nothing: without a session the page is a log-in.
pub fn router() -> Router {
    Router::new()
        .route("/", get(page))
        .route("/login", get(page))
        .route("/events", get(page))
        .route("/events/{id}", get(page))
        .route("/assets/{name}", get(asset))
}

async fn page() -> Response {
    answer("text/html; charset=utf-8", PAGE)
}

async fn asset(Path(name): Path<String>) -> Response {
    match ASSETS.iter().find(|(known, _, _)| *known == name) {
        Some((_, kind, text)) => answer(kind, text),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

fn answer(kind: &'static str, text: &'static str) -> Response {
    let mut response = text.into_response();
    let headers = [
        (CONTENT_TYPE, kind),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // For browsers that do not know `frame-ancestors`.
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (CROSS_ORIGIN_OPENER_POLICY, "same-origin"),
        (CROSS_ORIGIN_RESOURCE_POLICY, "same-origin"),
        // The files are small and of this version: a cache could only mix versions.
        (CACHE_CONTROL, "no-store"),
    ];
    for (name, value) in headers {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_file_of_the_page_is_sent_and_asked_for() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/http/dashboard/page");
        let on_disk: BTreeSet<String> =
            std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        let sent: BTreeSet<String> = ASSETS.iter().map(|(name, _, _)| (*name).to_owned()).collect();
        assert_eq!(on_disk, sent.iter().cloned().chain(["index.html".to_owned()]).collect());
        let asked_for = |name: &str| {
            PAGE.contains(&format!("\"/assets/{name}\""))
                || ASSETS.iter().any(|(_, _, text)| text.contains(&format!("from './{name}'")))
        };
        for name in &sent {
            assert!(asked_for(name), "{name} is loaded by nobody");
        }
    }

    #[test]
    fn the_page_holds_nothing_that_its_policy_forbids() {
        for text in ASSETS.iter().map(|(_, _, text)| *text).chain([PAGE]) {
            for forbidden in
                [" style=", " onclick=", "<style", "innerHTML", "insertAdjacentHTML", "eval(", "javascript:"]
            {
                assert!(!text.contains(forbidden), "{forbidden}");
            }
            let elsewhere = text.match_indices("://").filter(|(at, _)| !text[..*at].ends_with("http"));
            assert_eq!(elsewhere.count(), 0, "only the names of namespaces look like addresses");
            for (at, _) in text.match_indices("http://") {
                assert!(text[at..].starts_with("http://www.w3.org/2000/svg"));
            }
        }
    }
}

//! Who sends a request, and whether they may: before anything of it is read but its head.
//!
//! ```text
//! Authorization: Bearer … ─┐                 ┌─ no  ─▶ 401
//! Cookie: finhook_session ─┼─▶ Gate::caller ─┤        ┌─ no ─▶ 403          ┌─ no ─▶ 403
//! loopback peer and host ──┘                 └─ yes ─▶ has the role? ─ yes ─▶ same origin, where a browser would
//!                                                                            send it along by itself? ─ yes ─▶ handler
//! ```
//! A browser adds the cookie, and being on this machine, to requests of any page; so what changes something needs a sign
//! that a page of ours sent it. A bearer token is a sign in itself.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use cookie::Cookie;
use http::header::{AUTHORIZATION, COOKIE, FORWARDED, HOST, ORIGIN};
use http::{HeaderMap, HeaderName, Uri};

use super::input::refuse;
use super::problem::Cause;
use crate::config::Role;
use crate::domain::WallClock;
use crate::http::server::Peer;
use crate::ops::throttle::Throttle;
use crate::pipeline::access::{By, Caller, Credential, Gate};

/// The cookie with the session.
pub const SESSION_COOKIE: &str = "finhook_session";
/// Any value of this header says that a page of ours sent a request: a page of another site would have to ask first.
pub const CSRF_HEADER: HeaderName = HeaderName::from_static("x-finhook-csrf");
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// How many log lines per second say that somebody was not let in.
const LINES_PER_SECOND: u32 = 5;

/// The gate with what the log needs.
#[derive(Clone)]
pub struct Doorkeeper {
    gate: Arc<Gate>,
    clock: WallClock,
    lines: Arc<Throttle<&'static str>>,
}

/// What a route asks for.
#[derive(Clone)]
pub struct Guard {
    keeper: Doorkeeper,
    /// `None`: any role.
    role: Option<Role>,
}

impl Doorkeeper {
    /// Guards by this gate.
    pub fn new(gate: Arc<Gate>, clock: WallClock) -> Self {
        Self { gate, clock, lines: Arc::new(Throttle::new(LINES_PER_SECOND)) }
    }

    /// The gate.
    pub fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// A guard that lets this role through; `None` = whoever is known.
    pub fn guard(&self, role: Option<Role>) -> Guard {
        Guard { keeper: self.clone(), role }
    }

    /// Who sends this, and whether they may do it here. For pages and streams that answer in their own way.
    pub fn admit(&self, request: &Request, role: Option<Role>) -> Result<Caller, Cause> {
        let headers = request.headers();
        let caller = self.gate.caller(credential(headers)?, is_local(request))?;
        if role.is_some_and(|role| !caller.roles.has(role)) {
            return Err(Cause::Forbidden);
        }
        if caller.by != By::Token && !request.method().is_safe() {
            same_origin(request, matches!(caller.by, By::Session(_)))?;
        }
        Ok(caller)
    }

    /// Logs that somebody was not let in, at a bounded rate and without what they sent.
    pub fn note(&self, peer: Option<Peer>, what: &'static str) {
        if let Some(held_back) = self.lines.admit(what, self.clock.now()) {
            let peer = peer.map(|peer| peer.0.ip().to_string());
            tracing::info!(peer.address = peer, log.held_back = held_back, "{what}");
        }
    }
}

/// The middleware of every route that is not for everybody; leaves the caller in the request's extensions.
pub async fn guard(State(guard): State<Guard>, mut request: Request, next: Next) -> Response {
    match guard.keeper.admit(&request, guard.role) {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(cause) => {
            let what = match cause {
                Cause::Forbidden => "a request of the wrong role was refused",
                Cause::CrossSite => "a request of another site's page was refused",
                _ => "a request without a valid credential was refused",
            };
            guard.keeper.note(request.extensions().get().copied(), what);
            refuse(request, cause).into_response()
        }
    }
}

/// What a request brings along. Two different headers of a kind are nobody's.
fn credential(headers: &HeaderMap) -> Result<Credential<'_>, Cause> {
    let mut given = headers.get_all(AUTHORIZATION).iter();
    if let Some(value) = given.next() {
        let text = value.to_str().map_err(|_| Cause::Unauthenticated)?;
        let (scheme, token) = text.split_once(' ').ok_or(Cause::Unauthenticated)?;
        if given.next().is_some() || !scheme.eq_ignore_ascii_case("bearer") {
            return Err(Cause::Unauthenticated);
        }
        return Ok(Credential::Bearer(token.trim()));
    }
    let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let session = cookies
        .flat_map(Cookie::split_parse)
        .filter_map(Result::ok)
        .filter(|cookie| cookie.name() == SESSION_COOKIE)
        .find_map(|cookie| cookie.value_raw());
    Ok(session.map_or(Credential::None, Credential::Session))
}

/// Whether a request comes from this machine: the peer of its connection is loopback, its host is a name of this machine
/// (a page that had its own name point here would be let in else), and no proxy passed it on.
pub fn is_local(request: &Request) -> bool {
    let peer = request.extensions().get::<Peer>().is_some_and(|peer| peer.0.ip().to_canonical().is_loopback());
    let passed_on = [FORWARDED, X_FORWARDED_FOR].iter().any(|name| request.headers().contains_key(name));
    peer && !passed_on && host(request).is_some_and(|host| is_loopback_name(&host))
}

/// The host that a request is for, with its port as it was given.
fn host(request: &Request) -> Option<String> {
    if let Some(authority) = request.uri().authority() {
        return Some(authority.as_str().to_owned());
    }
    let mut given = request.headers().get_all(HOST).iter();
    let host = given.next()?.to_str().ok()?.to_owned();
    given.next().is_none().then_some(host)
}

fn is_loopback_name(host: &str) -> bool {
    let Ok(uri) = Uri::try_from(format!("http://{host}/")) else { return false };
    let Some(name) = uri.host() else { return false };
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.to_canonical().is_loopback())
}

/// Whether a page of ours sent it. Browsers say so themselves (Fetch Metadata); older ones send the origin. `strictly`:
/// what says nothing at all needs the header, because a browser added the cookie.
pub fn same_origin(request: &Request, strictly: bool) -> Result<(), Cause> {
    let headers = request.headers();
    let ours = if let Some(site) = headers.get(SEC_FETCH_SITE) {
        // `none`: typed by a person or a program, which no page can make it.
        site == "same-origin" || (site == "none" && !strictly)
    } else if let Some(origin) = headers.get(ORIGIN) {
        let origin = origin.to_str().unwrap_or_default();
        let authority = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
        authority.is_some() && authority == host(request).as_deref()
    } else {
        !strictly || headers.contains_key(CSRF_HEADER)
    };
    ours.then_some(()).ok_or(Cause::CrossSite)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn request(peer: &str, headers: &[(&str, &str)]) -> Request {
        let mut request = http::Request::post("/v1/dead/discard");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(axum::body::Body::empty()).unwrap();
        request.extensions_mut().insert(Peer(peer.parse::<SocketAddr>().unwrap()));
        request
    }

    #[test]
    fn local_is_a_loopback_peer_under_a_loopback_name_and_no_proxy() {
        let local = |peer, headers: &[(&str, &str)]| is_local(&request(peer, headers));
        for host in ["localhost", "LocalHost:9090", "127.0.0.1:9090", "127.1.2.3", "[::1]:9090", "[::ffff:127.0.0.1]"] {
            assert!(local("127.0.0.1:5000", &[("host", host)]), "{host}");
        }
        assert!(
            local("[::1]:5000", &[("host", "localhost")]) && local("[::ffff:127.0.0.1]:5000", &[("host", "[::1]")])
        );
        for host in ["finhook.example", "localhost.evil.example", "127.0.0.1.evil.example", "0.0.0.0", "192.0.2.1", ""]
        {
            assert!(!local("127.0.0.1:5000", &[("host", host)]), "{host}");
        }
        assert!(!local("192.0.2.1:5000", &[("host", "localhost")]));
        assert!(!local("127.0.0.1:5000", &[]));
        assert!(!local("127.0.0.1:5000", &[("host", "localhost"), ("host", "evil.example")]));
        assert!(!local("127.0.0.1:5000", &[("host", "localhost"), ("x-forwarded-for", "192.0.2.1")]));
    }

    #[test]
    fn a_credential_is_one_bearer_token_or_the_session_cookie() {
        let of = |headers: &[(&str, &str)]| {
            let request = request("127.0.0.1:5000", headers);
            credential(request.headers()).map(|credential| match credential {
                Credential::None => "-".to_owned(),
                Credential::Bearer(token) => format!("bearer {token}"),
                Credential::Session(value) => format!("session {value}"),
            })
        };
        assert_eq!(of(&[]).unwrap(), "-");
        assert_eq!(of(&[("authorization", "bearer a")]).unwrap(), "bearer a");
        assert_eq!(of(&[("cookie", "x=1; finhook_session=fh1.a-b_c")]).unwrap(), "session fh1.a-b_c");
        assert_eq!(of(&[("authorization", "Bearer a"), ("cookie", "finhook_session=b")]).unwrap(), "bearer a");
        for wrong in ["Basic YTpi", "Bearer", ""] {
            assert_eq!(of(&[("authorization", wrong)]), Err(Cause::Unauthenticated), "{wrong}");
        }
        assert_eq!(of(&[("authorization", "Bearer a"), ("authorization", "Bearer a")]), Err(Cause::Unauthenticated));
    }

    #[test]
    fn a_page_of_another_site_changes_nothing() {
        let ours = |headers: &[(&str, &str)], strictly| {
            let headers: Vec<_> = [("host", "finhook:9090")].iter().chain(headers).copied().collect();
            same_origin(&request("127.0.0.1:5000", &headers), strictly).is_ok()
        };
        assert!(ours(&[("sec-fetch-site", "same-origin")], true));
        for site in ["cross-site", "same-site", "none", "?"] {
            assert!(!ours(&[("sec-fetch-site", site), ("x-finhook-csrf", "1")], true), "{site}");
        }
        assert!(ours(&[("origin", "http://finhook:9090")], true) && ours(&[("origin", "https://finhook:9090")], true));
        for origin in ["null", "http://finhook", "http://evil.example", "http://finhook:9090.evil.example"] {
            assert!(!ours(&[("origin", origin)], true) && !ours(&[("origin", origin)], false), "{origin}");
        }
        assert!(!ours(&[], true) && ours(&[("x-finhook-csrf", "1")], true), "a cookie alone is not enough");
        assert!(ours(&[], false), "a program on this machine");
    }
}

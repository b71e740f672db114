//! Who sent a request: the peer, or behind a proxy that is trusted whom that names.
//!
//! `X-Forwarded-For` is read from its end, where the nearest proxy writes: the first address that is no trusted proxy's is the
//! client. What stands before it anybody can have written. Where something there cannot be read, nobody knows who it was.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;
use ipnet::IpNet;

use super::server::Peer;

/// The client's address; `None` where it cannot be known.
pub fn client(peer: Option<Peer>, headers: &HeaderMap, trusted: &[IpNet]) -> Option<IpAddr> {
    let trusts = |address: IpAddr| trusted.iter().any(|network| network.contains(&address));
    let mut client = peer?.0.ip().to_canonical();
    let fields: Vec<&str> =
        headers.get_all("x-forwarded-for").iter().map(|field| field.to_str()).collect::<Result<_, _>>().ok()?;
    let mut named = fields.iter().rev().flat_map(|field| field.rsplit(','));
    while trusts(client)
        && let Some(entry) = named.next()
    {
        client = address(entry.trim())?;
    }
    Some(client)
}

/// An address as proxies write it: alone, in brackets, or with a port.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().or_else(|_| text.parse::<SocketAddr>().map(|address| address.ip())).ok()?;
    Some(IpAddr::to_canonical(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(peer: &str, forwarded: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for field in forwarded {
            headers.append("x-forwarded-for", field.parse().unwrap());
        }
        let trusted = ["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
        client(Some(Peer(peer.parse().unwrap())), &headers, &trusted).map(|address| address.to_string())
    }

    #[test]
    fn only_a_trusted_proxy_is_believed_and_only_what_stands_last() {
        let is = |address: &str| Some(address.to_owned());
        assert_eq!(seen("192.0.2.1:5", &["198.51.100.7"]), is("192.0.2.1"));
        assert_eq!(seen("10.0.0.1:5", &["6.6.6.6, 198.51.100.7"]), is("198.51.100.7"));
        assert_eq!(seen("10.0.0.1:5", &["6.6.6.6", "198.51.100.7, 10.9.9.9"]), is("198.51.100.7"));
        assert_eq!(seen("[::1]:5", &["[2001:db8::7]:443"]), is("2001:db8::7"));
        assert_eq!(seen("[::ffff:10.0.0.1]:5", &["198.51.100.7:80"]), is("198.51.100.7"));
        assert_eq!(seen("10.0.0.1:5", &[]), is("10.0.0.1"));
        assert_eq!(seen("10.0.0.1:5", &["198.51.100.7, unknown"]), None);
        assert_eq!(client(None, &HeaderMap::new(), &[]), None);
    }
}

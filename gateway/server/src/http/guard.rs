//! Keeps web pages out. A browser on this machine can reach a loopback port on behalf of any page it shows:
//! by a name that resolves to 127.0.0.1 (DNS rebinding) or by a form posted across origins. Neither is let in.

use std::net::IpAddr;

use cx_api::{Code, Problem};
use warp::http::{HeaderMap, header};

/// Refuses what only a page of another origin would send.
pub(crate) fn check(headers: &HeaderMap, acts: bool, loopback: bool) -> Result<(), Problem> {
    let host = text(headers, &header::HOST);
    if loopback && !host.is_empty() && !is_this_machine(hostname(host)) {
        return Err(refused(format!("the request is for {host:?}, which is not this machine"))
            .fix("use http://127.0.0.1:PORT or http://localhost:PORT"));
    }
    let origin = text(headers, &header::ORIGIN);
    let same = origin.split_once("://").is_some_and(|(_, authority)| authority == host);
    if acts && !origin.is_empty() && !same {
        return Err(refused(format!("a page of {origin} may not act on this gateway"))
            .fix("act from the command line, or without an Origin header"));
    }
    Ok(())
}

fn text<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> &'a str {
    headers.get(name).map_or("", |value| value.to_str().unwrap_or("?"))
}

/// `host:port` without the port; brackets of an IPv6 address removed.
fn hostname(host: &str) -> &str {
    if let Some((address, _)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return address;
    }
    host.rsplit_once(':').map_or(host, |(name, _)| name)
}

fn is_this_machine(name: &str) -> bool {
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

fn refused(detail: String) -> Problem {
    Problem::new(Code::Forbidden, detail)
        .because("until tokens exist, requests that a browser may have been tricked into are refused")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(host: &str, origin: &str) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in [(header::HOST, host), (header::ORIGIN, origin)] {
            if !value.is_empty() {
                map.insert(name, value.parse().unwrap());
            }
        }
        map
    }

    #[test]
    fn a_rebound_name_is_refused_on_loopback() {
        for ok in ["", "127.0.0.1:7070", "localhost:7070", "LOCALHOST", "[::1]:7070", "127.0.0.2"] {
            assert!(check(&headers(ok, ""), false, true).is_ok(), "{ok}");
        }
        for bad in ["evil.example:7070", "192.0.2.1", "localhost.evil.example", "[2001:db8::1]:7070"] {
            assert!(check(&headers(bad, ""), false, true).is_err(), "{bad}");
            assert!(check(&headers(bad, ""), false, false).is_ok(), "{bad} on a trusted network");
        }
    }

    #[test]
    fn a_page_of_another_origin_may_read_nothing_into_being() {
        let host = "127.0.0.1:7070";
        assert!(check(&headers(host, "https://evil.example"), true, true).is_err());
        assert!(check(&headers(host, "null"), true, true).is_err());
        assert!(check(&headers(host, "http://127.0.0.1:7070"), true, true).is_ok());
        assert!(check(&headers(host, "https://evil.example"), false, true).is_ok());
    }
}

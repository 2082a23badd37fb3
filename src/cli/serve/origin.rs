//! Who a request says it is for, and where the page that sent it came from.
//!
//! A page elsewhere may have had its name rebound to this machine: so a request must name this machine, by an address or
//! by a name it is known to have. And a page elsewhere may send requests here: so what changes something must come from
//! the page itself, be that reached directly or through a proxy that speaks TLS or has a name of its own.

use std::net::{IpAddr, Ipv6Addr};

use super::http::Request;

/// Names by which this machine may be asked for, beside its addresses and `localhost`.
#[derive(Debug)]
pub struct Names {
    pub own: String,
    /// Those of `--allow-host`: also where pages may come from.
    pub allowed: Vec<String>,
}

/// A host and its port, if it names one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Authority<'a> {
    host: &'a str,
    port: Option<u16>,
}

impl<'a> Authority<'a> {
    /// `None`: it is none.
    fn parse(text: &'a str) -> Option<Self> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']')?;
                host.parse::<Ipv6Addr>().ok()?;
                (host, rest.strip_prefix(':').or_else(|| rest.is_empty().then_some(""))?)
            }
            None => text.split_once(':').unwrap_or((text, "")),
        };
        let named = !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:".contains(&b));
        let port = if port.is_empty() {
            None
        } else if port.bytes().all(|b| b.is_ascii_digit()) {
            Some(port.parse().ok()?)
        } else {
            return None;
        };
        named.then_some(Self { host, port })
    }

    fn is_host(&self, name: &str) -> bool {
        // A name may end in the root's dot.
        let bare = |name: &'a str| name.strip_suffix('.').unwrap_or(name);
        bare(self.host).eq_ignore_ascii_case(name.strip_suffix('.').unwrap_or(name))
    }
}

impl Names {
    /// Whether a `Host` is this machine: an address cannot be rebound; a name must be one of ours.
    pub fn are_of(&self, host: &str) -> bool {
        Authority::parse(host).is_some_and(|host| {
            host.host.parse::<IpAddr>().is_ok()
                || host.is_host("localhost")
                || host.is_host(&self.own)
                || self.allows(&host)
        })
    }

    fn allows(&self, host: &Authority<'_>) -> bool {
        // Somebody may have named it with its port.
        self.allowed.iter().filter_map(|name| Authority::parse(name)).any(|name| host.is_host(name.host))
    }

    /// Whether a request comes from the page itself, or from no page at all. What a browser says by `Sec-Fetch-Site` no
    /// page can change; an older one, or one without TLS, says by `Origin` where the page came from.
    pub fn sent_by_the_page(&self, request: &Request, host: &str) -> bool {
        if request.has("sec-fetch-site") && request.header("sec-fetch-site") != Some("same-origin") {
            return false;
        }
        match request.header("origin") {
            Some(origin) => self.is_origin(origin, host),
            None => !request.has("origin"),
        }
    }

    /// A proxy may have taken TLS off, left the port out of `Host`, or put the address it knows there; in that case it is
    /// `--allow-host` that tells the page's own name.
    fn is_origin(&self, origin: &str, host: &str) -> bool {
        let Some((scheme, origin)) = origin.split_once("://") else { return false };
        let (Some(origin), Some(host)) = (Authority::parse(origin), Authority::parse(host)) else { return false };
        if self.allows(&origin) {
            return matches!(scheme, "http" | "https");
        }
        if !origin.is_host(host.host) {
            return false;
        }
        match (scheme, host.port) {
            // Another port of this machine may be another user's page. Nothing here speaks TLS but a proxy.
            ("http", Some(port)) => origin.port.unwrap_or(80) == port,
            ("http", None) | ("https", _) => true,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        Names { own: "bench7".into(), allowed: vec!["runs.example.org".into(), "other.example:8443".into()] }
    }

    #[test]
    fn a_host_is_an_address_or_a_known_name() {
        let known = [
            "127.0.0.1",
            "127.0.0.1:80",
            "[::1]:7070",
            "[::1]",
            "10.0.0.7:1",
            "localhost",
            "LocalHost:7070",
            "bench7",
            "bench7.:7070",
            "runs.example.org",
            "RUNS.example.org:443",
            "other.example",
        ];
        for host in known {
            assert!(names().are_of(host), "{host}");
        }
        let foreign = [
            "",
            ":",
            ":80",
            "evil.example",
            "evil.example:80",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "bench7.evil.example",
            "xbench7",
            "runs.example.org.evil.example",
            "127.0.0.1:x",
            "127.0.0.1:99999",
            "127.0.0.1:80:80",
            "[::1",
            "[::1]x",
            "[evil.example]",
            "a b",
            "user@localhost",
            "localhost/x",
        ];
        for host in foreign {
            assert!(!names().are_of(host), "{host}");
        }
    }

    fn asked(host: &str, headers: &str) -> bool {
        let text = format!("POST /x/stop HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n");
        let request = Request::parse(text.as_bytes()).unwrap().unwrap();
        names().sent_by_the_page(&request, host)
    }

    #[test]
    fn only_the_page_itself_may_ask_whatever_proxy_is_between() {
        for (host, origin) in [
            ("127.0.0.1:7070", "http://127.0.0.1:7070"),
            ("bench7:80", "http://bench7"),
            ("bench7", "http://bench7:80"),
            ("[::1]:7070", "http://[::1]:7070"),
            // TLS at a proxy that passes the name, with or without its port, default or not.
            ("bench7", "https://bench7"),
            ("bench7:443", "https://bench7"),
            ("bench7", "https://bench7:8443"),
            ("BENCH7", "https://bench7"),
            // One that asks by the address it knows.
            ("127.0.0.1:7070", "https://runs.example.org"),
            ("127.0.0.1:7070", "https://runs.example.org:8443"),
            ("127.0.0.1:7070", "http://other.example:8443"),
        ] {
            assert!(asked(host, &format!("Origin: {origin}\r\n")), "{host} {origin}");
            assert!(
                asked(host, &format!("Origin: {origin}\r\nSec-Fetch-Site: same-origin\r\n")),
                "{host} {origin}"
            );
            for site in ["cross-site", "same-site", "none", "", "same-origin\r\nSec-Fetch-Site: same-origin"] {
                let headers = format!("Origin: {origin}\r\nSec-Fetch-Site: {site}\r\n");
                assert!(!asked(host, &headers), "{host} {headers}");
            }
        }
        for (host, origin) in [
            ("127.0.0.1:7070", "http://evil.example"),
            ("127.0.0.1:7070", "https://evil.example"),
            // An address is good enough to be asked by, not to come from.
            ("127.0.0.1:7070", "http://192.0.2.1"),
            ("127.0.0.1:7070", "https://192.0.2.1:7070"),
            ("127.0.0.1:7070", "http://127.0.0.1:7071"),
            ("127.0.0.1:7070", "http://127.0.0.1"),
            ("127.0.0.1:7070", "http://localhost:7070"),
            ("bench7", "https://bench7.evil.example"),
            ("bench7", "https://evil.example?bench7"),
            ("bench7", "https://bench7@evil.example"),
            ("bench7", "ftp://bench7"),
            ("bench7", "null"),
            ("bench7", ""),
            ("bench7", "bench7"),
            ("127.0.0.1:7070", "https://runs.example.org.evil.example"),
            ("127.0.0.1:7070", "file://runs.example.org"),
        ] {
            assert!(!asked(host, &format!("Origin: {origin}\r\n")), "{host} {origin}");
            let claimed = format!("Origin: {origin}\r\nSec-Fetch-Site: same-origin\r\n");
            assert!(!asked(host, &claimed), "{host} {origin}");
        }
        let twice = "Origin: https://bench7\r\nOrigin: https://bench7\r\n";
        assert!(!asked("bench7", twice));
        // No browser: a client that knows the token may ask.
        assert!(asked("bench7", ""));
    }
}

//! How Ray's Jobs API is asked: one request, one connection, over HTTP or HTTPS.
//!
//! The token goes to the address that was named and to no other: no redirect is followed, no proxy of the environment is
//! asked, and over HTTPS nothing is sent before the certificate is known to be good. Whoever answers may be anybody, so an
//! answer has a greatest size and a request a longest time.

use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Duration;

use ureq::http::{HeaderValue, Method, Request, header};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, AsSendBody};

use super::super::ClusterError;
use super::super::refusals::{Meaning, of_client, of_page};
use super::PATIENCE;
use super::head::is_ours;

/// A request lasts no longer.
const LIMIT: Duration = Duration::from_secs(20);
/// Longest answer, bytes: ten thousand jobs in Ray's list with the longest messages that it keeps are shorter.
const ANSWER_MAX: u64 = 256 << 20;

#[derive(Clone)]
pub(super) struct Api {
    pub(super) address: String,
    token: Option<String>,
    /// Of a head node of the study's own: who answers there must be this user's before it gets the token.
    own: Option<SocketAddrV4>,
    agent: Agent,
}

/// An answer: its status, and its text.
pub(super) type Answer = (u16, String);

impl Api {
    /// A cluster that somebody runs.
    ///
    /// # Errors
    /// There are no certificates to know it by, in words.
    pub(super) fn of_cluster(address: &str, token: Option<String>) -> Result<Self, String> {
        let tls = match address.starts_with("http://") {
            true => None,
            false => Some(trusted()?),
        };
        Ok(Self { address: address.trim_end_matches('/').to_owned(), token, own: None, agent: agent(tls, LIMIT) })
    }

    /// A head node of the study's own.
    pub(super) fn of_head(address: SocketAddrV4, token: String) -> Self {
        Self {
            address: format!("http://{address}"),
            token: Some(token),
            own: Some(address),
            agent: agent(None, LIMIT),
        }
    }

    /// Who does not know the token.
    pub(super) fn without_token(&self) -> Self {
        Self { token: None, ..self.clone() }
    }

    pub(super) fn ask(&self, method: Method, path: &str, body: Option<String>) -> Result<Answer, ClusterError> {
        if self.own.is_some_and(|address| !is_ours(address)) {
            return Err(ClusterError::Unreachable("nothing of this user's listens there".to_owned()));
        }
        let (status, text) = match body {
            Some(body) => self.send(method, path, body),
            None => self.send(method, path, ()),
        }?;
        match status {
            401 | 403 => Err(ClusterError::Refused(format!("it wants another token ({})", brief(&text)))),
            300..=399 => Err(ClusterError::Refused(format!(
                "it sends to another address (HTTP {status}), which gets no token: name the one where Ray's dashboard itself is"
            ))),
            status => match of_page(status, &text) {
                Some(why) => Err(self.trouble(Meaning::Stranger, why)),
                None => Ok((status, text)),
            },
        }
    }

    fn send(&self, method: Method, path: &str, body: impl AsSendBody) -> Result<Answer, ClusterError> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.address))
            .header(header::CONTENT_TYPE, "application/json");
        let request = match &self.token {
            None => request,
            Some(token) => {
                let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| {
                    ClusterError::Refused("the token holds characters that none can have".to_owned())
                })?;
                // Not for the log.
                value.set_sensitive(true);
                request.header(header::AUTHORIZATION, value)
            }
        };
        let answer = || {
            let mut answer = self.agent.run(request.body(body)?)?;
            let text = answer.body_mut().with_config().limit(ANSWER_MAX).read_to_vec()?;
            let text =
                String::from_utf8(text).unwrap_or_else(|text| String::from_utf8_lossy(text.as_bytes()).into());
            Ok((answer.status().as_u16(), text))
        };
        answer().map_err(|error: ureq::Error| {
            let (meaning, words) = of_client(&error);
            self.trouble(meaning, &words)
        })
    }

    /// There was no answer of Ray's.
    fn trouble(&self, meaning: Meaning, words: &str) -> ClusterError {
        let patience = if meaning == Meaning::Passing { PATIENCE } else { Duration::ZERO };
        ClusterError::Stranger(format!("`{}`: {words}", self.address), patience)
    }
}

/// Who asks, with what it knows others by.
fn agent(tls: Option<TlsConfig>, limit: Duration) -> Agent {
    Agent::config_builder()
        .tls_config(tls.unwrap_or_default())
        .timeout_global(Some(limit))
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None)
        // Whoever listens there is looked at before each connection.
        .max_idle_connections(0)
        .user_agent(concat!("piton/", env!("CARGO_PKG_VERSION")))
        .build()
        .into()
}

/// Whom this machine trusts, or `SSL_CERT_FILE` and `SSL_CERT_DIR` say.
fn trusted() -> Result<TlsConfig, String> {
    let found = rustls_native_certs::load_native_certs();
    let why: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
    if found.certs.is_empty() {
        let why = if why.is_empty() { "none was found".to_owned() } else { why.join("; ") };
        return Err(format!(
            "there are no certificates of authorities to know an `https://` address by ({why}): name a file of them in \
             `SSL_CERT_FILE`"
        ));
    }
    for why in why {
        log::warn!("certificates of authorities: {why}");
    }
    let roots: Vec<Certificate<'static>> =
        found.certs.iter().map(|cert| Certificate::from_der(cert).to_owned()).collect();
    Ok(TlsConfig::builder()
        .root_certs(RootCerts::new_with_certs(&roots))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build())
}

/// The start of what it says; some answers are pages of traceback, and only the last line matters.
pub(super) fn brief(text: &str) -> String {
    let line = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no reason given");
    line.trim().chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    /// Answers one request, whatever it is, with these bytes; the address without its scheme.
    fn answering(answer: impl Into<Vec<u8>>) -> std::net::SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let answer = answer.into();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // A request of HTTP is here in one piece, and so is the start of TLS.
            let read = stream.read(&mut [0; 4096]).unwrap();
            assert!(read > 0);
            // Who asked may have heard enough.
            drop(stream.write_all(&answer));
        });
        address
    }

    fn api(address: String, limit: Duration) -> Api {
        let tls = address.starts_with("https://").then(|| {
            TlsConfig::builder()
                .root_certs(RootCerts::new_with_certs(&[]))
                .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .build()
        });
        Api { address, token: Some("secret".into()), own: None, agent: agent(tls, limit) }
    }

    fn asked(address: String) -> Result<Answer, ClusterError> {
        api(address, LIMIT).ask(Method::GET, "/api/jobs/", None)
    }

    #[test]
    fn the_token_goes_nowhere_but_where_it_was_named() {
        let elsewhere = TcpListener::bind("127.0.0.2:0").unwrap();
        elsewhere.set_nonblocking(true).unwrap();
        let there = elsewhere.local_addr().unwrap();
        for status in [301, 302, 303, 307, 308] {
            let target = format!("http://{there}/api/jobs/");
            let server = answering(format!(
                "HTTP/1.1 {status} Moved\r\nLocation: {target}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            ));
            let answer = asked(format!("http://{server}"));
            let Err(ClusterError::Refused(why)) = answer else { panic!("{status}: {answer:?}") };
            assert!(why.contains(&status.to_string()), "{why}");
            assert!(!why.contains("secret") && !why.contains(&target), "{why}");
            assert_eq!(elsewhere.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "{status}");
        }
    }

    /// Whether asking again may help, and what is said.
    fn trouble(answer: Result<Answer, ClusterError>) -> (bool, String) {
        match answer {
            Err(ClusterError::Stranger(why, patience)) => (!patience.is_zero(), why),
            other => panic!("{:?}", other.map(|(status, text)| (status, brief(&text)))),
        }
    }

    #[test]
    fn what_passes_and_what_does_not_by_the_clients_own_words() {
        let page =
            |words: &str| format!("HTTP/1.1 400 Bad Request\r\nContent-Length: {}\r\n\r\n{words}", words.len());
        let of = |scheme: &str, answer: &[u8]| trouble(asked(format!("{scheme}://{}", answering(answer))));
        let never = [
            // Asked in plain HTTP: nginx, Go, and TLS itself.
            (
                "http",
                page("<center>The plain HTTP request was sent to HTTPS port</center>"),
                "begins with `https://`",
            ),
            ("http", page("Client sent an HTTP request to an HTTPS server.\n"), "begins with `https://`"),
            ("http", "\x15\x03\x01\0\x02\x02\x46".to_owned(), "is no HTTP"),
            ("http", "SSH-2.0-OpenSSH_9.2p1\r\n".to_owned(), "is no HTTP"),
            ("http", format!("HTTP/1.1 200 OK\r\nx: {}", "x".repeat(100_000)), "header"),
            // Asked over HTTPS: what speaks plain HTTP, and who wants a certificate, or another version.
            ("https", page("x"), "begins with `http://`"),
            ("https", "SSH-2.0-OpenSSH_9.2p1\r\n".to_owned(), "begins with `http://`"),
            ("https", "\x15\x03\x03\0\x02\x02\x74".to_owned(), "a certificate of whoever asks"),
            ("https", "\x15\x03\x03\0\x02\x02\x46".to_owned(), "ProtocolVersion"),
        ];
        for (scheme, answer, words) in never {
            let (passes, why) = of(scheme, answer.as_bytes());
            assert!(!passes && why.contains(words) && !why.contains("secret"), "{scheme} {words}: {why}");
        }
        let later = [
            ("http", "", "disconnected"),
            ("http", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[", "disconnected"),
            ("https", "", "unexpected end of file"),
            // An alert: internal error.
            ("https", "\x15\x03\x03\0\x02\x02\x50", "InternalError"),
        ];
        for (scheme, answer, words) in later {
            let (passes, why) = of(scheme, answer.as_bytes());
            assert!(passes && why.contains(words), "{scheme} {words}: {why}");
        }
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        for scheme in ["http", "https"] {
            let api = api(format!("{scheme}://{}", silent.local_addr().unwrap()), Duration::from_millis(100));
            assert!(trouble(api.ask(Method::GET, "/", None)).0, "{scheme}");
        }
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (passes, why) = trouble(asked(format!("http://{nobody}")));
        assert!(passes && why.contains("Connection refused"), "{why}");
    }

    #[test]
    fn an_answer_without_an_end_is_not_read_to_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
            stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").unwrap();
            while stream.write_all(&[b' '; 1 << 16]).is_ok() {}
        });
        let (passes, why) = trouble(asked(format!("http://{address}")));
        assert!(!passes && why.contains("longer than 256 MiB"), "{why}");
    }

    #[test]
    fn a_token_that_no_header_can_hold_goes_nowhere() {
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut api = api(format!("http://{nobody}"), LIMIT);
        for token in ["two\r\nX-Lines: 1", "nul\0"] {
            api.token = Some(token.to_owned());
            let Err(ClusterError::Refused(why)) = api.ask(Method::GET, "/", None) else { panic!() };
            assert!(why.contains("the token") && !why.contains("X-Lines"), "{why}");
        }
    }
}

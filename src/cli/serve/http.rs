//! As much of HTTP/1.1 as the live page needs: one request a connection, without a body, and one answer.
//!
//! A request is read within a time and a size, however slowly it comes; nothing of it is trusted, and nothing here may
//! panic. Parsing is `httparse`'s.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Largest head of a request, bytes.
const HEAD_MAX: usize = 16 << 10;
/// Most headers of a request.
const HEADERS_MAX: usize = 64;
/// How long a request may take to come.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a client may leave a part of an answer untaken.
const WRITE_PATIENCE: Duration = Duration::from_secs(30);

/// A request.
#[derive(Debug)]
pub struct Request {
    pub method: String,
    /// Up to the query.
    pub path: String,
    headers: Vec<(String, String)>,
}

impl Request {
    /// Reads one.
    ///
    /// # Errors
    /// The status to answer with; `None` when nobody waits for an answer.
    pub fn read(stream: &mut TcpStream) -> Result<Self, Option<u16>> {
        let until = Instant::now() + PATIENCE;
        drop(stream.set_write_timeout(Some(WRITE_PATIENCE)));
        let mut head = Vec::new();
        let mut chunk = [0; 2048];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Some(408));
            }
            drop(stream.set_read_timeout(Some(left)));
            let read = match stream.read(&mut chunk) {
                Ok(0) => return Err(None),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    return Err(Some(408));
                }
                Err(_) => return Err(None),
            };
            head.extend_from_slice(chunk.get(..read).unwrap_or_default());
            match Self::parse(&head) {
                Ok(Some(request)) => return Ok(request),
                Ok(None) if head.len() > HEAD_MAX => return Err(Some(431)),
                Ok(None) => {}
                Err(status) => return Err(Some(status)),
            }
        }
    }

    /// `None`: it is not whole yet.
    fn parse(head: &[u8]) -> Result<Option<Self>, u16> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(head) {
            Ok(httparse::Status::Complete(_)) => {}
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(httparse::Error::TooManyHeaders) => return Err(431),
            Err(_) => return Err(400),
        }
        let target = request.path.unwrap_or_default();
        let path = target.split_once('?').map_or(target, |(path, _)| path);
        let headers = request.headers.iter().map(|header| {
            let value = std::str::from_utf8(header.value).map_err(|_| 400_u16)?;
            Ok((header.name.to_ascii_lowercase(), value.trim().to_owned()))
        });
        Ok(Some(Self {
            method: request.method.unwrap_or_default().to_owned(),
            path: path.to_owned(),
            headers: headers.collect::<Result<_, u16>>()?,
        }))
    }

    /// A header by its name in lower case; `None` also if there is more than one, which no browser sends.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(header, _)| header == name);
        found.next().filter(|_| found.next().is_none()).map(|(_, value)| value.as_str())
    }
}

/// What an answer begins with.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    pub status: u16,
    pub content_type: &'a str,
    /// Bytes of the body; `None`: until the connection ends.
    pub length: Option<u64>,
    /// `Content-Security-Policy`.
    pub policy: &'a str,
    /// One more header, name and value.
    pub extra: Option<(&'a str, &'a str)>,
}

/// The policy of everything that is not the page.
const NOTHING: &str = "default-src 'none'; frame-ancestors 'none'; sandbox";

impl Head<'_> {
    /// Of a short text.
    pub const fn text(status: u16) -> Self {
        Head { status, content_type: "text/plain; charset=utf-8", length: None, policy: NOTHING, extra: None }
    }

    /// Sends it.
    pub fn send(self, out: &mut impl Write) -> io::Result<()> {
        let mut head = format!(
            "HTTP/1.1 {} {}\r\nConnection: close\r\nContent-Type: {}\r\nContent-Security-Policy: {}\r\n\
             X-Content-Type-Options: nosniff\r\nX-Frame-Options: DENY\r\nReferrer-Policy: no-referrer\r\n\
             Cross-Origin-Resource-Policy: same-origin\r\nCache-Control: no-store\r\n",
            self.status,
            reason(self.status),
            self.content_type,
            self.policy
        );
        if let Some(length) = self.length {
            head.push_str(&format!("Content-Length: {length}\r\n"));
        }
        if let Some((name, value)) = self.extra {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        out.write_all(head.as_bytes())
    }

    /// Sends it with its body; a request by HEAD gets none.
    pub fn send_with(self, body: &[u8], head_only: bool, out: &mut impl Write) -> io::Result<()> {
        Head { length: Some(body.len() as u64), ..self }.send(out)?;
        if !head_only {
            out.write_all(body)?;
        }
        out.flush()
    }
}

const fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        202 => "Accepted",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        421 => "Misdirected Request",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        _ => "Internal Server Error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_when_it_is_whole() {
        let text = b"GET /a/b?c=d HTTP/1.1\r\nHost: x:1\r\nOrigin: http://x:1 \r\n\r\n";
        for cut in 0..text.len() {
            assert!(Request::parse(&text[..cut]).unwrap().is_none(), "{cut}");
        }
        let request = Request::parse(text).unwrap().unwrap();
        assert_eq!((request.method.as_str(), request.path.as_str()), ("GET", "/a/b"));
        assert_eq!((request.header("host"), request.header("origin")), (Some("x:1"), Some("http://x:1")));
        assert_eq!(request.header("cookie"), None);
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(Request::parse(b"\x00\x01\r\n\r\n").unwrap_err(), 400);
        assert_eq!(Request::parse(b"GET / HTTP/1.1\r\nHost: \xff\r\n\r\n").unwrap_err(), 400);
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(HEADERS_MAX + 1));
        assert_eq!(Request::parse(many.as_bytes()).unwrap_err(), 431);
        let twice = Request::parse(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").unwrap().unwrap();
        assert_eq!(twice.header("host"), None);
    }
}

//! As much of HTTP/1.1 as the live page needs: one request a connection, without a body, and one answer.
//!
//! A head has a size, an answer has to be taken within a time; nothing of a request is trusted, and nothing here may
//! panic. Parsing is `httparse`'s.

use std::io::{self, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Largest head of a request, bytes.
const HEAD_MAX: usize = 16 << 10;
/// Most headers of a request.
const HEADERS_MAX: usize = 64;
/// How long a client may take nothing of an answer.
const STALL: Duration = Duration::from_secs(20);
/// How much of an answer a client has to take, bytes a second, beyond the first [`STALL`].
const PACE: u64 = 16 << 10;
/// Most bytes of an answer that are handed to the kernel at once.
const PART: usize = 64 << 10;

#[derive(Debug)]
pub struct Request {
    pub method: String,
    /// Up to the query.
    pub path: String,
    headers: Vec<(String, String)>,
}

impl Request {
    /// Reads one; `None`: it is not whole yet.
    ///
    /// # Errors
    /// The status to answer with.
    pub fn parse(head: &[u8]) -> Result<Option<Self>, u16> {
        match Self::parse_whole(head) {
            Ok(None) if head.len() > HEAD_MAX => Err(431),
            other => other,
        }
    }

    fn parse_whole(head: &[u8]) -> Result<Option<Self>, u16> {
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

    /// Whether there is such a header at all.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.headers.iter().any(|(header, _)| header == name)
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
    /// More headers, name and value.
    pub extra: &'a [(&'a str, &'a str)],
}

/// The policy of everything that is not the page.
const NOTHING: &str = "default-src 'none'; frame-ancestors 'none'; sandbox";

impl Head<'_> {
    /// Of a short text.
    pub const fn text(status: u16) -> Self {
        Head { status, content_type: "text/plain; charset=utf-8", length: None, policy: NOTHING, extra: &[] }
    }

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
        for (name, value) in self.extra {
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

/// Where an answer goes. A client that does not take it, or takes it too slowly, is given up.
#[derive(Debug)]
pub struct Answer {
    stream: TcpStream,
    /// When this part of it began, and how much of that was taken.
    since: Instant,
    taken: u64,
}

impl Answer {
    /// To this client, which has been read from without waiting.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn to(stream: TcpStream) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        Ok(Self { stream, since: Instant::now(), taken: 0 })
    }

    /// Waits so long; whether the client still listens.
    pub fn pause(&mut self, time: Duration) -> bool {
        use rustix::event::{PollFd, PollFlags, poll};
        let time = rustix::time::Timespec::try_from(time).ok();
        let mut client = [PollFd::new(&self.stream, PollFlags::RDHUP)];
        // The pause is over, the client is gone, or a signal came, which is early but no harm.
        let waited = poll(&mut client, time.as_ref());
        self.since = Instant::now();
        self.taken = 0;
        !waited.is_ok_and(|ready| ready > 0)
    }
}

impl Write for Answer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // What the kernel holds counts as taken, so this allows some minutes more than the pace does; it ends.
        let until = self.since + STALL + Duration::from_secs(self.taken / PACE);
        let left = until.saturating_duration_since(Instant::now()).min(STALL);
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_write_timeout(Some(left))?;
        let taken = self.stream.write(bytes.get(..PART).unwrap_or(bytes))?;
        self.taken = self.taken.saturating_add(taken as u64);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
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

    /// What a client takes byte by byte ends, too.
    #[test]
    fn an_answer_is_taken_in_time_or_not_at_all() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut answer = Answer::to(listener.accept().unwrap().0).unwrap();
        answer.write_all(b"x").unwrap();
        let Some(long_ago) = Instant::now().checked_sub(STALL) else { return };
        answer.since = long_ago;
        assert_eq!(answer.write(b"x").unwrap_err().kind(), io::ErrorKind::TimedOut);
        // As much as the pace asks for has been taken: it goes on.
        answer.taken = PACE * 300;
        answer.write_all(b"x").unwrap();
        // Each part of a stream has its own time.
        answer.taken = 0;
        assert!(answer.pause(Duration::ZERO), "the client listens");
        answer.write_all(b"x").unwrap();
        drop(client);
        assert!(!answer.pause(Duration::from_secs(300)), "it is gone");
    }

    #[test]
    fn an_endless_head_is_refused() {
        let endless = format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(HEAD_MAX));
        assert_eq!(Request::parse(endless.as_bytes()).unwrap_err(), 431);
    }

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

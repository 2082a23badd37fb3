//! Who may ask, and what is answered.
//!
//! Everything lies below a directory whose name is the token, so that whoever does not know it gets nothing, and two
//! pages on one machine share no cookie. Against DNS rebinding a request must name this machine, by address or by a
//! name it is known to have; what changes something must come from the page itself.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use piton::Error;
use piton::sys::clock::unix_ms;
use piton::views::logs::Watch;
use piton::views::report::{Options, Report};
use piton::views::status::Status;
use rustix::process::Signal;

use super::super::look::Look;
use super::super::stop::ask_to_stop;
use super::http::{Head, Request};
use super::{files, metrics};

/// Most pages that are kept up to date at once.
const STREAMS_MAX: usize = 16;
/// Shortest time between two looks of one of them.
const PAUSE: Duration = Duration::from_millis(250);
/// A stream that has nothing to say says so, because a client that went away is noticed only by writing to it.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// A page that took so long to make is kept so many times as long before it is made anew.
const KEPT_FOR: u32 = 5;

/// A study that is shown.
#[derive(Debug)]
pub struct Site {
    pub store: PathBuf,
    pub token: String,
    /// Names that this machine has, beside its addresses and `localhost`.
    pub names: Vec<String>,
    pub nonce: String,
    pub page: Mutex<Option<Made>>,
    pub streams: AtomicUsize,
}

/// The page as it was made last.
#[derive(Clone, Debug)]
pub struct Made {
    at: Instant,
    took: Duration,
    html: Arc<Vec<u8>>,
}

/// An answer that is no answer yet: a status, and words.
type Refused = (u16, &'static str);

impl Site {
    /// Answers one request. Whatever goes wrong while answering is the client's.
    pub fn answer(&self, request: &Request, out: &mut TcpStream) -> io::Result<()> {
        let head_only = request.method == "HEAD";
        match self.route(request) {
            Ok(route) => self.send(route, head_only, out),
            Err((405, allowed)) => {
                let head = Head { extra: Some(("Allow", allowed)), ..Head::text(405) };
                head.send_with(b"not so\n", head_only, out)
            }
            Err((status, words)) => Head::text(status).send_with(format!("{words}\n").as_bytes(), head_only, out),
        }
    }

    fn route(&self, request: &Request) -> Result<Route, Refused> {
        let host = request.header("host").ok_or((400, "one Host, please"))?;
        if !self.is_me(host) {
            return Err((421, "this is not that host"));
        }
        let path = if request.path == "/metrics" {
            // Scrapers send a header more easily than they keep an address secret.
            let bearer = request.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
            bearer
                .filter(|token| self.is_token(token))
                .map(|_| "metrics")
                .ok_or((403, "a bearer token, please"))?
        } else {
            let rest = request.path.strip_prefix('/').unwrap_or_default();
            let (token, path) = rest.split_once('/').map_or((rest, None), |(token, path)| (token, Some(path)));
            if !self.is_token(token) {
                return Err((
                    404,
                    "nothing here: the address is the one that `piton serve` printed, token and all",
                ));
            }
            path.ok_or((404, "the address ends in a slash"))?
        };
        let reads = matches!(request.method.as_str(), "GET" | "HEAD");
        match path {
            "stop" if request.method == "POST" => {
                let origin = request.header("origin").is_none_or(|origin| origin == format!("http://{host}"));
                let site = request.header("sec-fetch-site").is_none_or(|site| site == "same-origin");
                if origin && site { Ok(Route::Stop) } else { Err((403, "only the page itself may ask that")) }
            }
            "stop" => Err((405, "POST")),
            _ if !reads => Err((405, "GET, HEAD")),
            "" => Ok(Route::Page),
            "events" => Ok(Route::Events),
            "metrics" => Ok(Route::Metrics),
            path => {
                let below = path.strip_prefix("artifacts/").and_then(files::path_of);
                below.map(Route::File).ok_or((404, "nothing here"))
            }
        }
    }

    /// In constant time: blake3's comparison is.
    fn is_token(&self, token: &str) -> bool {
        blake3::hash(token.as_bytes()) == blake3::hash(self.token.as_bytes())
    }

    /// An address cannot be rebound; a name must be one of ours.
    fn is_me(&self, host: &str) -> bool {
        if host.parse::<SocketAddr>().is_ok() || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
            return true;
        }
        let name =
            host.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()).map_or(host, |(name, _)| name);
        name.eq_ignore_ascii_case("localhost") || self.names.iter().any(|known| name.eq_ignore_ascii_case(known))
    }

    fn send(&self, route: Route, head_only: bool, out: &mut TcpStream) -> io::Result<()> {
        let answered = match route {
            Route::Page => self.page().map(|html| {
                let policy = self.policy();
                let head = Head { content_type: "text/html; charset=utf-8", policy: &policy, ..Head::text(200) };
                head.send_with(&html, head_only, out)
            }),
            Route::Events => return self.events(out),
            Route::Metrics => self.metrics().map(|text| {
                let head = Head { content_type: metrics::CONTENT_TYPE, ..Head::text(200) };
                head.send_with(text.as_bytes(), head_only, out)
            }),
            Route::File(path) => self.artifacts().map(|artifacts| match files::open(&artifacts, &path) {
                Ok(file) => files::send(file, head_only, out),
                Err(_) => Head::text(404).send_with(b"there is no such file\n", head_only, out),
            }),
            Route::Stop => self.stop().map(|(status, words)| {
                Head::text(status).send_with(format!("{words}\n").as_bytes(), head_only, out)
            }),
        };
        answered.unwrap_or_else(|error| {
            Head::text(503).send_with(format!("{}\n", in_words(&error)).as_bytes(), head_only, out)
        })
    }

    fn policy(&self) -> String {
        format!(
            "default-src 'none'; style-src 'nonce-{0}'; script-src 'nonce-{0}'; connect-src 'self'; base-uri 'none'; \
             form-action 'none'; frame-ancestors 'none'",
            self.nonce
        )
    }

    fn page(&self) -> Result<Arc<Vec<u8>>, Error> {
        // Whoever comes meanwhile waits for it, rather than making another.
        let mut made = self.page.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = made.as_ref()
            && last.at.elapsed() < last.took.saturating_mul(KEPT_FOR)
        {
            return Ok(Arc::clone(&last.html));
        }
        let begun = Instant::now();
        let (_reader, look) = Look::at_store(&self.store)?;
        let options = Options {
            artifacts_link: Some("artifacts".into()),
            nonce: self.nonce.clone(),
            now_ms: unix_ms(),
            live: true,
        };
        let mut html = Vec::new();
        Report::load(&look.view, &look.snapshot)?.write_html(&options, &mut html)?;
        let html = Arc::new(html);
        *made = Some(Made { at: Instant::now(), took: begun.elapsed(), html: Arc::clone(&html) });
        Ok(html)
    }

    fn metrics(&self) -> Result<String, Error> {
        let (_reader, look) = Look::at_store(&self.store)?;
        let status = Status::load(&look.view, &look.snapshot, unix_ms())?;
        metrics::text(&status, look.view.progress.accounting)
            .map_err(|cause| Error::System { what: "write the metrics", cause: io::Error::other(cause) })
    }

    fn artifacts(&self) -> Result<PathBuf, Error> {
        let (_reader, look) = Look::at_store(&self.store)?;
        Ok(look.view.study_artifacts_dir())
    }

    fn stop(&self) -> Result<(u16, String), Error> {
        Ok(match ask_to_stop(&self.store, Signal::USR1)? {
            Some(engine) => (202, format!("asked engine {} to stop", engine.process.pid)),
            None => (409, "no engine runs the study".into()),
        })
    }

    /// How the study stands, for as long as the client listens.
    fn events(&self, out: &mut TcpStream) -> io::Result<()> {
        let _one = match Counted::below(&self.streams, STREAMS_MAX) {
            Some(one) => one,
            None => return Head::text(503).send_with(b"too many pages are open\n", false, out),
        };
        Head { content_type: "text/event-stream", ..Head::text(200) }.send(out)?;
        let mut commits = Watch::file(&self.store);
        let (mut said, mut said_at) = (String::new(), Instant::now());
        loop {
            let (event, data) = match self.status_json() {
                Ok(json) => ("status", json),
                Err(error) => {
                    // Another file may come in its place.
                    commits = Watch::file(&self.store);
                    ("trouble", in_words(&error))
                }
            };
            if data != said || said_at.elapsed() >= HEARTBEAT {
                write!(out, "event: {event}\ndata: {data}\n\n")?;
                out.flush()?;
                (said, said_at) = (data, Instant::now());
            }
            std::thread::sleep(PAUSE);
            commits.changed()?;
        }
    }

    fn status_json(&self) -> Result<String, Error> {
        let (_reader, look) = Look::at_store(&self.store)?;
        let mut json = Vec::new();
        Status::load(&look.view, &look.snapshot, unix_ms())?.write_json(&mut json)?;
        Ok(String::from_utf8_lossy(&json).trim_end().to_owned())
    }
}

/// An error on one line.
fn in_words(error: &Error) -> String {
    error.to_string().replace(['\r', '\n'], " ")
}

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
enum Route {
    Page,
    Events,
    Metrics,
    File(PathBuf),
    Stop,
}

/// One of a bounded number.
pub struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    /// `None`: there are so many already.
    pub fn below(count: &'a AtomicUsize, most: usize) -> Option<Self> {
        let one = Self(count);
        // Counted down again by the drop if it was one too many.
        (count.fetch_add(1, Ordering::SeqCst) < most).then_some(()).map(|()| one)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

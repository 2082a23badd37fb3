//! Who may ask, and what is answered.
//!
//! Everything lies below a directory whose name is the token, so that a client that does not know it gets nothing, and two
//! pages on one machine share no cookie. Whom a request asks for and where it comes from is `origin`'s. A study is served in one way, whether it
//! is shown alone or is one of many, which lie in directories of their own below the token.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use super::counted::Counted;
use super::http::{Answer, Head, Request};
use super::origin::Names;
use super::page::Html;
use super::source::{Source, in_words};
use super::studies::{Key, Studies};
use super::study::Study;
use super::{files, metrics};

/// Most pages that are kept up to date at once.
const STREAMS_MAX: usize = 16;
/// Shortest time between two looks of one of them.
const PAUSE: Duration = Duration::from_millis(250);
/// A stream that has nothing to say says so, because a client whose machine is gone is noticed only by writing to it.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// What is shown, and to whom.
#[derive(Debug)]
pub struct Site {
    pub shown: Shown,
    pub token: String,
    pub names: Names,
    pub nonce: String,
    pub streams: Arc<AtomicUsize>,
}

#[derive(Debug)]
pub enum Shown {
    One(Study),
    Many(Studies),
}

/// What a request may have, and of which study; `None`: of the one that is shown, or of all of them.
#[derive(Debug, PartialEq, Eq)]
pub struct Asked {
    of: Option<Key>,
    route: Route,
}

#[derive(Debug, PartialEq, Eq)]
enum Route {
    Page,
    Events,
    Metrics,
    File(PathBuf),
    Stop,
}

/// Why a request is turned away: a status, and words; for 405 what is allowed.
pub type Refused = (u16, &'static str);

const NOTHING_HERE: Refused = (404, "nothing here");

impl Site {
    /// What a request may have; asks nothing of any file.
    pub fn admit(&self, request: &Request) -> Result<Asked, Refused> {
        let host = request.header("host").ok_or((400, "one Host, please"))?;
        if !self.names.are_of(host) {
            return Err((421, "this is not that host; `piton serve --allow-host NAME` lets another name in"));
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
        let (of, path) = match &self.shown {
            Shown::One(_) => (None, path),
            Shown::Many(_) => match path.strip_prefix("study/") {
                None => (None, path),
                Some(rest) => {
                    let (key, path) = rest.split_once('/').ok_or((404, "the address ends in a slash"))?;
                    (Some(Key::parse(key).ok_or(NOTHING_HERE)?), path)
                }
            },
        };
        let of_one = of.is_some() || matches!(self.shown, Shown::One(_));
        let reads = matches!(request.method.as_str(), "GET" | "HEAD");
        let route = match path {
            "stop" if !of_one => return Err(NOTHING_HERE),
            "stop" if request.method == "POST" => {
                if !self.names.sent_by_the_page(request, host) {
                    return Err((403, NOT_THE_PAGE));
                }
                Route::Stop
            }
            "stop" => return Err((405, "POST")),
            _ if !reads => return Err((405, "GET, HEAD")),
            "" => Route::Page,
            "events" => Route::Events,
            "metrics" => Route::Metrics,
            path => {
                let below = path.strip_prefix("artifacts/").filter(|_| of_one).and_then(files::path_of);
                Route::File(below.ok_or(NOTHING_HERE)?)
            }
        };
        Ok(Asked { of, route })
    }

    /// In constant time: blake3's comparison is.
    fn is_token(&self, token: &str) -> bool {
        blake3::hash(token.as_bytes()) == blake3::hash(self.token.as_bytes())
    }

    /// Answers a request that was let in. Whatever goes wrong while answering is the client's.
    pub fn send(&self, Asked { of, route }: Asked, head_only: bool, out: &mut Answer) -> io::Result<()> {
        match (&self.shown, of) {
            (Shown::One(study), _) => self.send_of(study, route, head_only, out),
            (Shown::Many(studies), Some(key)) => match studies.study(key) {
                Ok(Some(study)) => self.send_of(&study, route, head_only, out),
                Ok(None) => Head::text(404).send_with(b"there is no such study, or no more\n", head_only, out),
                Err(words) => unavailable(&words, head_only, out),
            },
            (Shown::Many(studies), None) => match route {
                Route::Page => self.send_page(studies.page(&self.nonce), head_only, out),
                Route::Events => self.stream(&mut studies.source(), head_only, out),
                Route::Metrics => match studies.metrics() {
                    Ok(text) => send_metrics(&text, head_only, out),
                    Err(words) => unavailable(&words, head_only, out),
                },
                // Nobody is let in for these.
                Route::File(_) | Route::Stop => Head::text(404).send_with(b"nothing here\n", head_only, out),
            },
        }
    }

    fn send_of(&self, study: &Study, route: Route, head_only: bool, out: &mut Answer) -> io::Result<()> {
        let answered = match route {
            Route::Page => return self.send_page(study.page(&self.nonce), head_only, out),
            Route::Events => return self.stream(&mut study.source(), head_only, out),
            Route::Metrics => study.metrics().map(|text| send_metrics(text.as_bytes(), head_only, out)),
            Route::File(path) => study.artifacts().map(|(dir, study)| match files::open(&dir, study, &path) {
                Ok(file) => files::send(file, head_only, out),
                Err(_) => Head::text(404).send_with(b"there is no such file\n", head_only, out),
            }),
            Route::Stop => study.stop().map(|(status, words)| {
                Head::text(status).send_with(format!("{words}\n").as_bytes(), head_only, out)
            }),
        };
        answered.unwrap_or_else(|error| unavailable(&in_words(&error), head_only, out))
    }

    fn send_page(&self, page: Option<Html>, head_only: bool, out: &mut Answer) -> io::Result<()> {
        let policy = policy(&self.nonce);
        match page {
            Some(Ok(html)) => {
                let head = Head { content_type: "text/html; charset=utf-8", policy: &policy, ..Head::text(200) };
                head.send_with(&html, head_only, out)
            }
            Some(Err(words)) => unavailable(&words, head_only, out),
            None => {
                // A browser comes back by itself; a sandbox would keep it from that.
                let extra = &[("Retry-After", "5"), ("Refresh", "5")];
                let head = Head { extra, policy: "default-src 'none'; frame-ancestors 'none'", ..Head::text(503) };
                head.send_with(b"the page is being made; it comes by itself\n", head_only, out)
            }
        }
    }

    /// What there is to tell, for as long as the client listens.
    fn stream(&self, source: &mut dyn Source, head_only: bool, out: &mut Answer) -> io::Result<()> {
        // A proxy must not wait for more of it.
        let extra = &[("X-Accel-Buffering", "no")];
        let head = Head { content_type: "text/event-stream", extra, ..Head::text(200) };
        if head_only {
            return head.send(out);
        }
        let Some(_one) = Counted::below(&self.streams, STREAMS_MAX) else {
            return unavailable("too many pages are open", head_only, out);
        };
        head.send(out)?;
        let mut said_at = Instant::now();
        loop {
            if let Some((event, data)) = source.next(said_at.elapsed() >= HEARTBEAT) {
                out.write_all(format!("event: {event}\ndata: {data}\n\n").as_bytes())?;
                said_at = Instant::now();
            }
            if !out.pause(PAUSE) {
                return Ok(());
            }
            source.wait()?;
        }
    }
}

/// What a page that somebody else could have put elsewhere may not do, and what the person behind a proxy can do.
const NOT_THE_PAGE: &str = "only the page itself may ask that; if it is reached through a proxy or by another name, \
                            start `piton serve` with `--allow-host` and the name in the browser's address";

fn policy(nonce: &str) -> String {
    format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'"
    )
}

fn send_metrics(text: &[u8], head_only: bool, out: &mut Answer) -> io::Result<()> {
    let head = Head { content_type: metrics::CONTENT_TYPE, ..Head::text(200) };
    head.send_with(text, head_only, out)
}

fn unavailable(words: &str, head_only: bool, out: &mut Answer) -> io::Result<()> {
    let head = Head { extra: &[("Retry-After", "5")], ..Head::text(503) };
    head.send_with(format!("{words}\n").as_bytes(), head_only, out)
}

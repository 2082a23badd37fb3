//! Who may ask, and what is answered.
//!
//! Everything lies below a directory whose name is the token, so that a client that does not know it gets nothing, and two
//! pages on one machine share no cookie. Whom a request asks for and where it comes from is `origin`'s.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use piton::model::StudyId;
use piton::program::sys::clock::unix_ms;
use piton::views::logs::Watch;
use piton::views::report::{Options, Report};
use piton::views::status::Status;
use piton::{Error, Look, Stop, Store};

use super::door::Counted;
use super::http::{Answer, Head, Request};
use super::origin::Names;
use super::page::{self, Page};
use super::{files, metrics};

/// Most pages that are kept up to date at once.
const STREAMS_MAX: usize = 16;
/// Shortest time between two looks of one of them.
const PAUSE: Duration = Duration::from_millis(250);
/// A stream that has nothing to say says so, because a client whose machine is gone is noticed only by writing to it.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Largest page, bytes.
const PAGE_MAX: usize = 64 << 20;

/// A study that is shown.
#[derive(Debug)]
pub struct Site {
    pub store: PathBuf,
    pub token: String,
    pub names: Names,
    pub nonce: String,
    pub page: Arc<Page>,
    pub streams: Arc<AtomicUsize>,
}

/// Why a request is turned away: a status, and words; for 405 what is allowed.
pub type Refused = (u16, &'static str);

impl Site {
    /// What a request may have; asks nothing of any file.
    pub fn admit(&self, request: &Request) -> Result<Route, Refused> {
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
        let reads = matches!(request.method.as_str(), "GET" | "HEAD");
        match path {
            "stop" if request.method == "POST" => {
                if self.names.sent_by_the_page(request, host) {
                    Ok(Route::Stop)
                } else {
                    Err((403, NOT_THE_PAGE))
                }
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

    /// Answers a request that was let in. Whatever goes wrong while answering is the client's.
    pub fn send(&self, route: Route, head_only: bool, out: &mut Answer) -> io::Result<()> {
        let answered = match route {
            Route::Page => return self.send_page(head_only, out),
            Route::Events => return self.events(head_only, out),
            Route::Metrics => self.metrics().map(|text| {
                let head = Head { content_type: metrics::CONTENT_TYPE, ..Head::text(200) };
                head.send_with(text.as_bytes(), head_only, out)
            }),
            Route::File(path) => self.artifacts().map(|(dir, study)| match files::open(&dir, study, &path) {
                Ok(file) => files::send(file, head_only, out),
                Err(_) => Head::text(404).send_with(b"there is no such file\n", head_only, out),
            }),
            Route::Stop => self.stop().map(|(status, words)| {
                Head::text(status).send_with(format!("{words}\n").as_bytes(), head_only, out)
            }),
        };
        answered.unwrap_or_else(|error| unavailable(&in_words(&error), head_only, out))
    }

    fn send_page(&self, head_only: bool, out: &mut Answer) -> io::Result<()> {
        let policy = policy(&self.nonce);
        let (store, nonce) = (self.store.clone(), self.nonce.clone());
        match self.page.get(page::PATIENCE, move || make_page(&store, nonce)) {
            Some(Ok(html)) => {
                let head = Head { content_type: "text/html; charset=utf-8", policy: &policy, ..Head::text(200) };
                head.send_with(&html, head_only, out)
            }
            Some(Err(words)) => unavailable(&words, head_only, out),
            None => {
                // A browser comes back by itself; a sandbox would keep it from that.
                let extra = &[("Retry-After", "5"), ("Refresh", "5")];
                let head = Head { extra, policy: "default-src 'none'; frame-ancestors 'none'", ..Head::text(503) };
                head.send_with(b"the page of this study is being made; it comes by itself\n", head_only, out)
            }
        }
    }

    fn metrics(&self) -> Result<String, Error> {
        let (_reader, look) = Look::at_store(&self.store)?;
        let status = Status::load_listing(&look.view, &look.snapshot, unix_ms(), metrics::RUNNING_MAX)?;
        metrics::text(&status, look.view.progress.accounting)
            .map_err(|cause| Error::System { what: "write the metrics", cause: io::Error::other(cause) })
    }

    fn artifacts(&self) -> Result<(PathBuf, StudyId), Error> {
        let (_reader, look) = Look::at_store(&self.store)?;
        Ok((look.view.study_artifacts_dir(), look.view.study.study_id))
    }

    fn stop(&self) -> Result<(u16, String), Error> {
        Ok(match Store::at(&self.store).ask_to_stop(Stop::Drain)? {
            Some(asked) => (202, format!("asked {} to stop", asked.words())),
            None => (409, "no engine runs the study".into()),
        })
    }

    /// How the study stands, for as long as the client listens.
    fn events(&self, head_only: bool, out: &mut Answer) -> io::Result<()> {
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
                out.write_all(format!("event: {event}\ndata: {data}\n\n").as_bytes())?;
                (said, said_at) = (data, Instant::now());
            }
            if !out.pause(PAUSE) {
                return Ok(());
            }
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

/// What a page that somebody else could have put elsewhere may not do, and what the person behind a proxy can do.
const NOT_THE_PAGE: &str = "only the page itself may ask that; if it is reached through a proxy or by another name, \
                            start `piton serve` with `--allow-host` and the name in the browser's address";

fn policy(nonce: &str) -> String {
    format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'"
    )
}

fn make_page(store: &Path, nonce: String) -> Result<Arc<Vec<u8>>, String> {
    let options = Options { artifacts_link: Some("artifacts".into()), nonce, now_ms: unix_ms(), live: true };
    let html = Look::at_store(store).and_then(|(_reader, look)| {
        let mut html = Vec::new();
        Report::load(&look.view, &look.snapshot)?.write_html(&options, &mut html)?;
        Ok(html)
    });
    match html.map_err(|error| in_words(&error))? {
        html if html.len() > PAGE_MAX => Err("the page would be too large; `piton dump` has all of it".to_owned()),
        html => Ok(Arc::new(html)),
    }
}

fn unavailable(words: &str, head_only: bool, out: &mut Answer) -> io::Result<()> {
    let head = Head { extra: &[("Retry-After", "5")], ..Head::text(503) };
    head.send_with(format!("{words}\n").as_bytes(), head_only, out)
}

/// An error on one line.
fn in_words(error: &Error) -> String {
    error.to_string().replace(['\r', '\n'], " ")
}

#[derive(Debug, PartialEq, Eq)]
pub enum Route {
    Page,
    Events,
    Metrics,
    File(PathBuf),
    Stop,
}

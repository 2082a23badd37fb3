//! `piton serve`: the report as a live page, or all studies below a directory, each with that page; and `/metrics`.
//!
//! It is a reader like any other: it opens the store for each look, so an engine that crashes, starts again, or gives
//! way to a compaction is no event for it, and it never asks an engine for anything but to stop. One thread keeps the
//! [`door`]; a client that knows the token is answered by a thread of its own, a bounded number of them, each for a bounded time.

mod counted;
mod door;
mod files;
mod http;
mod metrics;
mod origin;
mod page;
mod site;
mod source;
mod studies;
mod study;

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;

use piton::{Error, Look};

use self::origin::Names;
use self::site::{Shown, Site};
use self::studies::Studies;
use self::study::Study;
use super::args::ServeArgs;
use super::outcome::print_line;
use super::terminal::note;
use piton::store::nonce;

/// Where a service's token comes from, so that its address stays the same.
const TOKEN: &str = "PITON_SERVE_TOKEN";

/// Shows a study until it is ended by a signal.
pub fn serve(args: &ServeArgs) -> Result<u8, Error> {
    let shown = shown(&args.what)?;
    let many = matches!(shown, Shown::Many(_));
    let listener =
        TcpListener::bind(args.listen).map_err(|cause| Error::System { what: "listen there", cause })?;
    let address = listener.local_addr().map_err(|cause| Error::System { what: "tell the address", cause })?;
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let site = Arc::new(Site {
        shown,
        token: token()?,
        names: Names { own: host.clone(), allowed: args.allow_host.clone() },
        nonce: nonce()?,
        streams: Arc::default(),
    });
    print_line(&format!("http://{}/{}/", called(address, &host), site.token))?;
    if !address.ip().is_loopback() {
        note(match many {
            false => {
                "whoever has this address can read the study's artifacts and stop its engine; it is not encrypted"
            }
            true => {
                "whoever has this address can read the studies' artifacts and stop their engines; it is not encrypted"
            }
        });
    }
    door::keep(&listener, &site).map_err(|cause| Error::System { what: "take connections", cause })?;
    Ok(0)
}

/// What cannot be shown is an error here, and not for every visitor.
fn shown(what: &Path) -> Result<Shown, Error> {
    if what.is_dir() {
        let unreadable = |cause| Error::File { what: "list", path: what.into(), cause };
        // Whatever becomes of the names that led here, and with commands that work anywhere.
        let dir = std::path::absolute(what).map_err(unreadable)?;
        drop(std::fs::read_dir(&dir).map_err(unreadable)?);
        return Ok(Shown::Many(Studies::below(&dir)));
    }
    drop(Look::at_store(what)?);
    Ok(Shown::One(Study::alone(what)))
}

/// The address as others call it.
fn called(address: SocketAddr, host: &str) -> String {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => format!("{host}:{}", address.port()),
        IpAddr::V6(ip) if ip.is_unspecified() => format!("{host}:{}", address.port()),
        _ => address.to_string(),
    }
}

/// The given one, or one that nobody can guess.
fn token() -> Result<String, Error> {
    match std::env::var(TOKEN) {
        Ok(token)
            if token.len() >= 16 && token.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') =>
        {
            Ok(token)
        }
        Ok(_) => Err(Error::Usage(format!("{TOKEN} must have at least 16 of A-Z, a-z, 0-9, - and _"))),
        Err(_) => nonce(),
    }
}

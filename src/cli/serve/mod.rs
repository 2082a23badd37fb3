//! `piton serve`: the report as a live page, and `/metrics`.
//!
//! It is a reader like any other: it opens the store for each look, so an engine that crashes, starts again, or gives
//! way to a compaction is no event for it, and it never asks an engine for anything but to stop. A thread a connection,
//! a bounded number of them: one client that is slow holds up nobody else.

mod files;
mod http;
mod metrics;
mod site;

use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use piton::Error;

use self::http::{Head, Request};
use self::site::{Counted, Site};
use super::args::ServeArgs;
use super::look::Look;
use super::report::nonce;
use super::result::print_line;
use super::terminal::note;

/// Most connections at once.
const CONNECTIONS_MAX: usize = 64;

/// Stack of a connection's thread: making the page needs some.
const STACK_BYTES: usize = 2 << 20;

/// Where a service's token comes from, so that its address stays the same.
const TOKEN: &str = "PITON_SERVE_TOKEN";

/// Shows a study until it is ended by a signal.
pub fn serve(args: &ServeArgs) -> Result<u8, Error> {
    // A store that cannot be shown is told here, and not to every visitor.
    drop(Look::at_store(&args.store.store)?);
    let listener =
        TcpListener::bind(args.listen).map_err(|cause| Error::System { what: "listen there", cause })?;
    let address = listener.local_addr().map_err(|cause| Error::System { what: "tell the address", cause })?;
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let site = Arc::new(Site {
        store: args.store.store.clone(),
        token: token()?,
        names: args.allow_host.iter().cloned().chain([host.clone()]).collect(),
        nonce: nonce()?,
        page: Mutex::new(None),
        streams: AtomicUsize::new(0),
    });
    print_line(&format!("http://{}/{}/", shown(address, &host), site.token))?;
    if !address.ip().is_loopback() {
        note("whoever has this address can read the study's artifacts and stop its engine; it is not encrypted");
    }
    accept(&listener, &site)
}

/// The address as others call it.
fn shown(address: SocketAddr, host: &str) -> String {
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

fn accept(listener: &TcpListener, site: &Arc<Site>) -> ! {
    let open = Arc::new(AtomicUsize::new(0));
    loop {
        let Ok((mut stream, _)) = listener.accept() else {
            // No descriptor is left, or the client is gone already.
            std::thread::sleep(Duration::from_millis(50));
            continue;
        };
        let (site, open) = (Arc::clone(site), Arc::clone(&open));
        let worker = move || match Counted::below(&open, CONNECTIONS_MAX) {
            Some(_one) => answer(&site, &mut stream),
            None => drop(Head::text(503).send_with(b"too many connections\n", false, &mut stream)),
        };
        if let Err(error) = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(worker) {
            log::warn!("cannot answer a request: {error}");
        }
    }
}

fn answer(site: &Site, stream: &mut TcpStream) {
    let answered = match Request::read(stream) {
        Ok(request) => site.answer(&request, stream),
        Err(Some(status)) => Head::text(status).send_with(b"", false, stream),
        Err(None) => Ok(()),
    };
    // A client that went away is nobody's concern.
    if let Err(error) = answered.and_then(|()| stream.flush()) {
        log::debug!("an answer was not taken: {error}");
    }
}

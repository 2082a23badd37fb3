//! The door: one thread that reads the heads of all requests, without ever waiting for one client.
//!
//! Whoever does not know the token gets no further: no thread, no seat, and an answer that is sent without waiting.
//! There is room for many who have not said what they want; when it is full, who has waited longest makes way. So
//! silent connections, however many, keep out nobody who speaks. A request with the token takes one of the seats and
//! is answered by a thread of its own.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;

use super::counted::Counted;
use super::http::{Answer, Head, Request};
use super::site::{Asked, Refused, Site};

/// Most connections that are answered at once.
const SEATS: usize = 64;
/// Most connections that wait at the door.
const WAITING_MAX: usize = 256;
/// How long a request may take to come.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a client that was turned away may take to notice.
const FAREWELL: Duration = Duration::from_secs(2);
/// Most connections that are taken on before those at the door are looked at again.
const ARRIVALS: usize = 64;
/// Stack of an answer's thread.
const STACK_BYTES: usize = 2 << 20;

/// A connection at the door.
#[derive(Debug)]
struct Waiting {
    stream: TcpStream,
    until: Instant,
    /// What came of the head; `None`: it was turned away, and what still comes is thrown away, since unread bytes
    /// would take the answer with them when the connection is closed.
    head: Option<Vec<u8>>,
}

/// What becomes of a connection.
enum Next {
    /// It stays at the door.
    Waits(Waiting),
    /// It may come in.
    Enters(TcpStream, Request, Asked),
    Gone,
}

/// Keeps the door for as long as the program runs.
pub fn keep(listener: &TcpListener, site: &Arc<Site>) -> std::io::Result<()> {
    listener.set_nonblocking(true)?;
    let seats = Arc::new(AtomicUsize::new(0));
    let mut waiting: VecDeque<Waiting> = VecDeque::new();
    loop {
        wait(listener, &waiting);
        let mut stay = VecDeque::with_capacity(waiting.len());
        let take = |one: Waiting, stay: &mut VecDeque<Waiting>| match look(one, site) {
            Next::Waits(one) => stay.push_back(one),
            Next::Enters(stream, request, asked) => {
                stay.extend(enter(stream, request, asked, site, &seats));
            }
            Next::Gone => {}
        };
        for one in waiting.drain(..) {
            take(one, &mut stay);
        }
        for _ in 0..ARRIVALS {
            match listener.accept() {
                // Most have said what they want already.
                Ok((stream, _)) => match Waiting::at(stream) {
                    Some(one) => take(one, &mut stay),
                    None => continue,
                },
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => {
                    log::warn!("cannot take a connection: {error}");
                    // No descriptor is left: somebody has to make way, or answers have to end.
                    if stay.pop_front().is_none() {
                        std::thread::sleep(Duration::from_millis(50));
                    }
                    break;
                }
            }
        }
        while stay.len() > WAITING_MAX {
            stay.pop_front();
        }
        waiting = stay;
    }
}

/// Until something happens at the door, or somebody's time is up.
fn wait(listener: &TcpListener, waiting: &VecDeque<Waiting>) {
    let now = Instant::now();
    let first = waiting.iter().map(|one| one.until.saturating_duration_since(now)).min();
    let time = first.and_then(|time| Timespec::try_from(time).ok());
    let mut all = vec![PollFd::new(listener, PollFlags::IN)];
    all.extend(waiting.iter().map(|one| PollFd::from_borrowed_fd(one.stream.as_fd(), PollFlags::IN)));
    // Interrupted or refused: everybody is looked at, which waits for nothing.
    if let Err(error) = poll(&mut all, time.as_ref())
        && error != rustix::io::Errno::INTR
    {
        log::warn!("cannot wait for connections: {error}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

impl Waiting {
    fn at(stream: TcpStream) -> Option<Self> {
        stream.set_nonblocking(true).ok()?;
        Some(Self { stream, until: Instant::now() + PATIENCE, head: Some(Vec::new()) })
    }

    /// Answers as far as the client takes it at once, and lets it go.
    fn turned_away(stream: TcpStream, (status, words): Refused, head_only: bool) -> Self {
        let mut text = Vec::new();
        let retry = [("Retry-After", "5")];
        let allowed = [("Allow", words)];
        let extra: &[(&str, &str)] = match status {
            405 => &allowed,
            503 => &retry,
            _ => &[],
        };
        // Into memory, which takes all.
        drop(Head { extra, ..Head::text(status) }.send_with(
            format!("{words}\n").as_bytes(),
            head_only,
            &mut text,
        ));
        drop((&stream).write(&text));
        drop(stream.shutdown(Shutdown::Write));
        Self { stream, until: Instant::now() + FAREWELL, head: None }
    }
}

fn look(mut one: Waiting, site: &Site) -> Next {
    if one.until <= Instant::now() {
        return match one.head {
            Some(_) => Next::Waits(Waiting::turned_away(one.stream, (408, "too slow"), false)),
            None => Next::Gone,
        };
    }
    let mut chunk = [0; 4096];
    let read = match one.stream.read(&mut chunk) {
        Ok(0) => return Next::Gone,
        Ok(read) => chunk.get(..read).unwrap_or_default(),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
            return Next::Waits(one);
        }
        Err(_) => return Next::Gone,
    };
    let Some(head) = &mut one.head else { return Next::Waits(one) };
    head.extend_from_slice(read);
    match Request::parse(head) {
        Ok(None) => Next::Waits(one),
        Ok(Some(request)) => match site.admit(&request) {
            Ok(asked) => Next::Enters(one.stream, request, asked),
            Err(refused) => Next::Waits(Waiting::turned_away(one.stream, refused, request.method == "HEAD")),
        },
        Err(status) => Next::Waits(Waiting::turned_away(one.stream, (status, "not so"), false)),
    }
}

/// Gives a request a seat and a thread; without a free one it is turned away.
fn enter(
    stream: TcpStream,
    request: Request,
    asked: Asked,
    site: &Arc<Site>,
    seats: &Arc<AtomicUsize>,
) -> Option<Waiting> {
    let head_only = request.method == "HEAD";
    let Some(seat) = Counted::below(seats, SEATS) else {
        return Some(Waiting::turned_away(stream, (503, "too many connections"), head_only));
    };
    let site = Arc::clone(site);
    let answer = move || {
        let _seat = seat;
        let answered = Answer::to(stream).and_then(|mut out| site.send(asked, head_only, &mut out));
        // A client that went away, or took too long, is nobody's concern.
        if let Err(error) = answered {
            log::debug!("an answer was not taken: {error}");
        }
    };
    if let Err(error) = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(answer) {
        log::warn!("cannot answer a request: {error}");
    }
    None
}

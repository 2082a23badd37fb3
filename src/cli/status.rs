//! `piton status`.

use std::io::Write;
use std::path::Path;

use piton::program::sys::clock::unix_ms;
use piton::views::status::Status;
use piton::{Error, Look};

use super::args::StatusArgs;
use super::sink::{self, Content};
use super::terminal;

/// `piton status`.
pub fn status(args: &StatusArgs) -> Result<u8, Error> {
    let store = &args.store.store;
    let (reader, look) = Look::at_store(store)?;
    if args.json {
        return print_status_json(store).map(|()| 0);
    }
    if args.watch {
        return super::watch::watch(&reader, look, store);
    }
    let mut out = sink::stdout(Content::Text);
    Status::load(&look.view, &look.snapshot, unix_ms())?.write_text(terminal::screen(), &mut out)?;
    out.flush().map_err(Error::Output)?;
    Ok(0)
}

/// The state as JSON.
pub fn print_status_json(store: &Path) -> Result<(), Error> {
    let (_reader, look) = Look::at_store(store)?;
    let mut out = sink::stdout(Content::Json);
    Status::load(&look.view, &look.snapshot, unix_ms())?.write_json(&mut out)?;
    out.flush().map_err(Error::Output)
}

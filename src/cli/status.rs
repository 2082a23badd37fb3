//! `piton status`.

use std::io::Write;
use std::path::Path;

use piton::{Error, Look, Store};

use super::args::StatusArgs;
use super::sink::{self, Content};
use super::terminal;

pub fn status(args: &StatusArgs) -> Result<u8, Error> {
    let store = &args.store.store;
    if args.json {
        return print_status_json(store).map(|()| 0);
    }
    if args.watch {
        let (reader, look) = Look::at_store(store)?;
        return super::watch::watch(&reader, look, store);
    }
    let status = Store::at(store).status()?;
    let mut out = sink::stdout(Content::Text);
    status.write_text(terminal::screen(), &mut out)?;
    out.flush().map_err(Error::Output)?;
    Ok(0)
}

/// The state as JSON.
pub fn print_status_json(store: &Path) -> Result<(), Error> {
    let status = Store::at(store).status()?;
    let mut out = sink::stdout(Content::Json);
    status.write_json(&mut out)?;
    out.flush().map_err(Error::Output)
}

//! `piton status`.

use std::io::Write;
use std::path::Path;

use piton::views::status::Status;
use piton::{Error, Look, Store};

use super::args::StatusArgs;
use super::sink::{self, Content};
use super::terminal;

pub fn status(args: &StatusArgs) -> Result<u8, Error> {
    let store = &args.store.store;
    let look = || if args.disk { Store::at(store).status_with_disk() } else { Store::at(store).status() };
    if args.json {
        return print_json(&look()?).map(|()| 0);
    }
    if args.watch {
        let (reader, look) = Look::at_store(store)?;
        return super::watch::watch(&reader, look, store);
    }
    let status = look()?;
    let mut out = sink::stdout(Content::Text);
    status.write_text(terminal::screen(), &mut out)?;
    out.flush().map_err(Error::Output)?;
    Ok(0)
}

/// The state as JSON.
pub fn print_status_json(store: &Path) -> Result<(), Error> {
    print_json(&Store::at(store).status()?)
}

fn print_json(status: &Status) -> Result<(), Error> {
    let mut out = sink::stdout(Content::Json);
    status.write_json(&mut out)?;
    out.flush().map_err(Error::Output)
}

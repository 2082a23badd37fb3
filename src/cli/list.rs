//! `piton list`.

use std::io::Write;

use piton::Error;

use super::args::ListArgs;
use super::sink::{self, Content};
use super::terminal;

pub fn list(args: &ListArgs) -> Result<u8, Error> {
    let listing = piton::store::list(&args.dir, args.disk)?;
    let mut out = sink::stdout(if args.json { Content::Json } else { Content::Text });
    match args.json {
        true => listing.write_json(&mut out),
        false => listing.write_text(terminal::screen(), &mut out),
    }?;
    out.flush().map_err(Error::Output)?;
    Ok(0)
}

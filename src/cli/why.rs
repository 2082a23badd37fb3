//! `piton why`.

use std::io::Write;

use piton::{Error, Store};

use super::args::WhyArgs;
use super::sink::{self, Content};
use super::terminal;

pub fn why(args: &WhyArgs) -> Result<u8, Error> {
    let why = Store::at(&args.store.store).why(&args.case)?;
    let mut out = sink::stdout(if args.json { Content::Json } else { Content::Text });
    if args.json {
        why.write_json(&mut out)?
    } else {
        why.write_text(terminal::screen(), &mut out)?
    }
    out.flush().map_err(Error::Output)?;
    Ok(0)
}

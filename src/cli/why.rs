//! `piton why`.

use std::io::Write;

use piton::views::why::Why;
use piton::{Error, Look};

use super::args::WhyArgs;
use super::sink::{self, Content};
use super::terminal;

/// `piton why`.
pub fn why(args: &WhyArgs) -> Result<u8, Error> {
    let (_reader, look) = Look::at_store(&args.store.store)?;
    let why = Why::load(&look.view, &look.snapshot, &args.case)?;
    let mut out = sink::stdout(if args.json { Content::Json } else { Content::Text });
    if args.json {
        why.write_json(&mut out)?
    } else {
        why.write_text(terminal::screen(), &mut out)?
    }
    out.flush().map_err(Error::Output)?;
    Ok(0)
}

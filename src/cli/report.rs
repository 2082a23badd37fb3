//! `piton report`: the page, written whole or not at all.

use std::io::Write;
use std::path::Path;

use piton::{Error, Store};

use super::args::ReportArgs;
use super::outcome::print_line;
use super::sink;

/// Writes the page and prints its path; `-` is standard output.
pub fn report(args: &ReportArgs) -> Result<u8, Error> {
    let store = Store::at(&args.store.store);
    if args.output == Path::new("-") {
        let page = store.report_page(Path::new("."))?;
        let mut out = sink::stdout(sink::Content::Table);
        out.write_all(&page).and_then(|()| out.flush()).map_err(Error::Output)?;
        return Ok(0);
    }
    store.report(&args.output)?;
    print_line(&args.output.display().to_string())?;
    Ok(0)
}

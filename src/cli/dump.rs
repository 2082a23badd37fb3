//! `piton dump`.

use std::io::Write;

use piton::views::dump::Format;
use piton::{Dump, Error, Store};

use super::args::{DumpArgs, DumpFormat};
use super::sink::{self, Content};
use super::terminal;

pub fn dump(args: &DumpArgs) -> Result<u8, Error> {
    let (format, content) = match args.format {
        _ if args.json || args.canonical => (Format::Json, Content::Json),
        DumpFormat::Json => (Format::Json, Content::Json),
        DumpFormat::Text => (Format::Text(terminal::screen()), Content::Text),
        DumpFormat::Jsonl => (Format::Jsonl, Content::Json),
        DumpFormat::Csv => (Format::Csv, Content::Table),
    };
    let what = match (args.canonical, args.events) {
        (true, _) => Dump::Canonical,
        (false, true) => Dump::Events(format),
        (false, false) => Dump::State(format),
    };
    let mut out = sink::stdout(content);
    Store::at(&args.store.store).dump(what, args.at, &mut out)?;
    out.flush().map_err(Error::Output)?;
    Ok(0)
}

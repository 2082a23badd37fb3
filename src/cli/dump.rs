//! `piton dump`.

use std::io::Write;

use piton::program::journal::replayed;
use piton::views::dump;
use piton::{Error, Look};

use super::args::{DumpArgs, DumpFormat};
use super::sink::{self, Content};
use super::terminal;

/// `piton dump`.
pub fn dump(args: &DumpArgs) -> Result<u8, Error> {
    let store = &args.store.store;
    let (_reader, mut look) = Look::at_store(store)?;
    let past;
    if let Some(seq) = args.at {
        let last = look.view.progress.last_seq;
        if seq == 0 || seq > last {
            return Err(Error::Usage(format!("there is no event {seq}: the journal has 1 to {last}")));
        }
        past = replayed(&look.snapshot, seq).map_err(|cause| Error::Journal { store: store.clone(), cause })?;
        look = Look::again(&past, store)?;
    }
    let format = match (args.json, args.format) {
        (true, _) | (false, DumpFormat::Json) => dump::Format::Json,
        (false, DumpFormat::Text) => dump::Format::Text(terminal::screen()),
        (false, DumpFormat::Jsonl) => dump::Format::Jsonl,
        (false, DumpFormat::Csv) => dump::Format::Csv,
    };
    let content = match format {
        _ if args.canonical => Content::Json,
        dump::Format::Text(_) => Content::Text,
        dump::Format::Json | dump::Format::Jsonl => Content::Json,
        dump::Format::Csv => Content::Table,
    };
    let mut out = sink::stdout(content);
    if args.canonical {
        dump::canonical(&look.view, &look.snapshot, &mut out)?;
    } else if args.events {
        dump::events(&look.view, &look.snapshot, format, &mut out)?;
    } else {
        dump::state(&look.view, &look.snapshot, format, &mut out)?;
    }
    out.flush().map_err(Error::Output)?;
    Ok(0)
}

//! `piton export`: the files other programs read, into a directory of the caller's.

use piton::views::export;
use piton::{Error, Look};

use super::args::ExportArgs;
use super::outcome::{print_json, print_line};

/// Writes the files and prints their paths.
pub fn export(args: &ExportArgs) -> Result<u8, Error> {
    let (_reader, look) = Look::at_store(&args.store.store)?;
    let names = export::write(&look.view, &look.snapshot, &args.to)?;
    if args.json {
        let dir = args.to.display().to_string();
        print_json(&serde_json::json!({ "dir": dir, "files": names, "events": look.view.progress.last_seq }))?;
        return Ok(0);
    }
    for name in names {
        print_line(&args.to.join(name).display().to_string())?;
    }
    Ok(0)
}

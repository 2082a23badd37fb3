//! `piton report`: the page, written whole or not at all.

use std::path::{Component, Path};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use piton::paths;
use piton::sys::clock::unix_ms;
use piton::sys::disk;
use piton::sys::files::replace_asked;
use piton::sys::temporary::Access;
use piton::views::report::{Options, Report};
use piton::{Error, Look};

use super::args::ReportArgs;
use super::result::print_line;

/// What may stand in a part of an address as it is.
const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Writes the page and prints its path.
pub fn report(args: &ReportArgs) -> Result<u8, Error> {
    let (_reader, look) = Look::at_store(&args.store.store)?;
    let page = std::path::absolute(&args.output).map_err(Error::no_current_dir)?;
    let dir = page.parent().unwrap_or(Path::new("/"));
    let options = Options {
        artifacts_link: link(&paths::relative(&look.view.study_artifacts_dir(), dir)),
        nonce: nonce()?,
        now_ms: unix_ms(),
        live: false,
    };
    let mut html = Vec::new();
    Report::load(&look.view, &look.snapshot)?.write_html(&options, &mut html)?;
    replace_asked(&page, Access::Usual, |out| out.write_all(&html)).map_err(|cause| Error::File {
        what: "write the report",
        path: args.output.clone(),
        cause,
    })?;
    print_line(&args.output.display().to_string())?;
    Ok(0)
}

/// A path as an address; `None` where it is not UTF-8.
fn link(path: &Path) -> Option<String> {
    let mut parts = Vec::new();
    for part in path.components() {
        parts.push(match part {
            Component::RootDir => "file://".to_owned(),
            Component::ParentDir => "..".to_owned(),
            other => utf8_percent_encode(other.as_os_str().to_str()?, KEPT).to_string(),
        });
    }
    Some(if parts.is_empty() { ".".to_owned() } else { parts.join("/") })
}

/// Nothing that a trial could have guessed.
pub fn nonce() -> Result<String, Error> {
    let bytes: [u8; 16] = disk::random().map_err(|cause| Error::System { what: "get random bytes", cause })?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

//! The report of a study as one page.

use std::path::{Component, Path};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::{Look, Store};
use crate::error::Error;
use crate::paths;
use crate::sys::clock::unix_ms;
use crate::sys::disk;
use crate::sys::files::replace_asked;
use crate::sys::temporary::Access;
use crate::views::refuse_own_file;
use crate::views::report::{Options, Report};

/// What may stand in a part of an address as it is.
const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

impl Store {
    /// Writes the report's page, whole or not at all.
    ///
    /// # Errors
    /// [`Error`] when the store cannot be read, the page not be written, or when it would replace a file of the study.
    pub fn report(&self, page: &Path) -> Result<(), Error> {
        let (_reader, look) = Look::at_store(&self.path)?;
        refuse_own_file(&look.view, &look.snapshot, page)?;
        let absolute = std::path::absolute(page).map_err(Error::no_current_dir)?;
        let html = html(&look, absolute.parent().unwrap_or(Path::new("/")))?;
        replace_asked(&absolute, Access::Usual, |out| out.write_all(&html)).map_err(|cause| Error::File {
            what: "write the report",
            path: page.into(),
            cause,
        })
    }

    /// The report's page, with links to the artifacts as they are seen from a directory.
    ///
    /// # Errors
    /// [`Error`] when the store cannot be read.
    pub fn report_page(&self, dir: &Path) -> Result<Vec<u8>, Error> {
        let (_reader, look) = Look::at_store(&self.path)?;
        html(&look, &std::path::absolute(dir).map_err(Error::no_current_dir)?)
    }
}

fn html(look: &Look, dir: &Path) -> Result<Vec<u8>, Error> {
    let options = Options {
        artifacts_link: link(&paths::relative(&look.view.study_artifacts_dir(), dir)),
        nonce: nonce()?,
        now_ms: unix_ms(),
        live: false,
        studies_link: None,
    };
    let mut html = Vec::new();
    Report::load(&look.view, &look.snapshot)?.write_html(&options, &mut html)?;
    Ok(html)
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

/// Nothing that a trial could have guessed, for the page's scripts.
///
/// # Errors
/// [`Error::System`] without random bytes.
pub fn nonce() -> Result<String, Error> {
    let bytes: [u8; 16] = disk::random().map_err(|cause| Error::System { what: "get random bytes", cause })?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

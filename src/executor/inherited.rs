//! What trials get from their parent, and how it differs from what was recorded of it.
//!
//! A survivor's outputs lie where anybody can change or remove them. They are held against the record before a child
//! starts on them; a child must never be blamed for them.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::model::names::clean;
use crate::model::{Kept, OutputHash};
use crate::sys::opened::Opened;

/// What a survivor left for its children, besides its directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Inherited {
    pub stage: String,
    /// Its declared outputs, as recorded.
    pub outputs: Vec<OutputHash>,
    /// What stayed of its directory, if that was discarded as far as children cannot do with the rest. A job of a cluster is not told.
    #[serde(skip)]
    pub discarded: Option<Kept>,
}

impl Inherited {
    /// Whether its directory was discarded, and nobody has put back what its children need.
    pub(crate) fn is_discarded(&self, dir: &Path) -> bool {
        let is_there =
            |output: &OutputHash| Opened::dir(dir).is_ok_and(|dir| dir.open(Path::new(&output.path)).is_ok());
        self.discarded.is_some() && (self.outputs.is_empty() || !self.outputs.iter().all(is_there))
    }
}

/// A survivor whose directory or outputs are not what was recorded of them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ParentDiffers {
    /// The survivor's case.
    pub case: String,
    /// The name of its stage.
    pub stage: String,
    /// Its attempt's directory, absolute.
    pub dir: PathBuf,
    /// Its outputs that differ; none: the directory is gone.
    pub outputs: Vec<OutputDiffers>,
    /// What stayed of the directory, if it was discarded.
    pub discarded: Option<Kept>,
}

/// A declared output that is not what was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutputDiffers {
    /// As the spec names it.
    pub output: String,
    /// The recorded blake3.
    pub expected: [u8; 32],
    /// What is there now.
    pub found: OutputFound,
}

/// What lies in the place of a declared output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum OutputFound {
    /// Something with another blake3.
    Other([u8; 32]),
    Nothing,
    /// Something that cannot be read, in words.
    Unreadable(String),
}

/// Most outputs that are named.
const NAMED_MAX: usize = 3;

impl ParentDiffers {
    /// The first outputs that differ, or the directory, each in a line.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        if let Some(kept) = self.discarded {
            return vec![format!("of `{}` {} kept, by `keep` or `piton gc`", shown(&self.dir), kept.words())];
        }
        let gone = || vec![format!("`{}` is gone", shown(&self.dir))];
        if self.outputs.is_empty() {
            return gone();
        }
        let line = |output: &OutputDiffers| {
            let recorded = blake3::Hash::from_bytes(output.expected).to_hex();
            let now = match &output.found {
                OutputFound::Other(hash) => format!("now {}", blake3::Hash::from_bytes(*hash).to_hex()),
                OutputFound::Nothing => "now nothing is there".to_owned(),
                OutputFound::Unreadable(why) => format!("now it cannot be read: {}", clean(why)),
            };
            format!("`{}`: recorded blake3 {recorded}, {now}", shown(&self.dir.join(&output.output)))
        };
        let mut lines: Vec<String> = self.outputs.iter().take(NAMED_MAX).map(line).collect();
        match self.outputs.len().saturating_sub(NAMED_MAX) {
            0 => {}
            more => lines.push(format!("and {more} more")),
        }
        lines
    }
}

fn shown(path: &Path) -> String {
    clean(&path.to_string_lossy())
}

impl fmt::Display for ParentDiffers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = format!("the parent `{}`", clean(&self.case));
        if self.discarded.is_some() {
            return write!(f, "the directory of {of} was discarded");
        }
        match self.outputs.as_slice() {
            [] => write!(f, "the directory of {of} is gone"),
            [only] => {
                let what = match only.found {
                    OutputFound::Other(_) => "is not what was recorded of it",
                    OutputFound::Nothing => "is gone",
                    OutputFound::Unreadable(_) => "cannot be read",
                };
                write!(f, "the output `{}` of {of} {what}", clean(&only.output))
            }
            several => {
                let gone = several.iter().all(|output| output.found == OutputFound::Nothing);
                let what = if gone { "are gone" } else { "are not what was recorded of them" };
                write!(f, "{} outputs of {of} {what}", several.len())
            }
        }
    }
}

impl std::error::Error for ParentDiffers {}

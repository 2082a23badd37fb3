//! How inputs differ from what is recorded, in words: which, and which of its files.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{Found, Inputs, is_case_file, plainly};
use crate::model::names::clean;
use crate::model::{Identity, InputEntry, InputHash, InputList, StageIndex};
use crate::study_file::diff::Change;
use crate::study_file::types::Spec;

/// Most files of a directory that are named.
const NAMED_MAX: usize = 3;

/// An input that is not what is recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InputChange {
    /// As the spec names it.
    pub input: String,
    /// What of it, such as "has changed (12 bytes, was 10)".
    pub what: String,
}

impl std::fmt::Display for InputChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "input `{}` {}", clean(&self.input), self.what)
    }
}

/// Something that is not what it was when results were made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Contradiction {
    pub change: Change,
    /// The first stage whose results depend on it.
    pub from: StageIndex,
}

impl Contradiction {
    /// One that all results depend on.
    #[must_use]
    pub(crate) const fn of_all(change: Change) -> Self {
        Self { change, from: 0 }
    }
}

/// What becomes of files of cases that are inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CaseFiles {
    /// The study file and they have just been read: the spec has what they say, and is compared by itself.
    JustRead,
    /// The spec is the recorded one: they are inputs as any other.
    AreInputs,
}

/// What changed between inputs as recorded (with the lists there are of directories) and as they are now, of those that
/// both name.
#[must_use]
pub(crate) fn changed_inputs(
    (spec, case_files): (&Spec, CaseFiles),
    (recorded, lists): (&[InputHash], &[InputList]),
    now: &Found,
    inputs: &mut Inputs,
) -> Vec<InputChange> {
    let mut changes = Vec::new();
    let compared = |old: &&InputHash| case_files == CaseFiles::AreInputs || !is_case_file(spec, &old.path);
    for old in recorded.iter().filter(compared) {
        let Some(new) = now.hashes.iter().find(|new| new.path == old.path) else { continue };
        if new.blake3 == old.blake3 {
            continue;
        }
        let is_directory = now.lists.iter().any(|list| list.input == new.path);
        let was_listed = lists.iter().any(|list| list.input == old.path && list.blake3 == old.blake3);
        let (was, is) = (list_of(lists, old), list_of(&now.lists, new));
        if is_directory && was.is_none() && inputs.is_as_recorded_before(old) {
            continue;
        }
        let what = match (was, is) {
            (Some(was), Some(is)) => match differing(&old.path, was, is) {
                Some(files) => format!("has changed: {files}"),
                None => continue,
            },
            _ => {
                let sizes = match new.bytes == old.bytes {
                    true => format!("still {} bytes", old.bytes),
                    false => format!("{} bytes, was {}", new.bytes, old.bytes),
                };
                let unknown = match is_directory && !was_listed {
                    true => "; which of its files is not known, since their hashes were not recorded",
                    false => "",
                };
                format!("has changed ({sizes}){unknown}")
            }
        };
        changes.push(InputChange { input: old.path.clone(), what });
    }
    changes
}

/// The first files that differ, and how; `None`: at most directories, each of which is what is in it.
fn differing(input: &str, was: &[InputEntry], is: &[InputEntry]) -> Option<String> {
    let index = |entries: &[InputEntry]| {
        let entries = entries
            .iter()
            .filter(|entry| entry.kind != b'd')
            .map(|entry| (entry.path.clone(), (entry.kind, entry.content)));
        entries.collect::<BTreeMap<_, _>>()
    };
    let (was, is) = (index(was), index(is));
    let mut differ: BTreeMap<&Vec<u8>, &str> = BTreeMap::new();
    for (path, entry) in &was {
        match is.get(path) {
            None => drop(differ.insert(path, "removed")),
            Some(now) if now != entry => drop(differ.insert(path, "changed")),
            Some(_) => {}
        }
    }
    differ.extend(is.keys().filter(|path| !was.contains_key(*path)).map(|path| (path, "added")));
    let name = |path: &[u8]| clean(&format!("{}/{}", input.trim_end_matches('/'), String::from_utf8_lossy(path)));
    let shown: Vec<String> =
        differ.iter().take(NAMED_MAX).map(|(path, how)| format!("`{}` {how}", name(path))).collect();
    match differ.len().saturating_sub(NAMED_MAX) {
        _ if shown.is_empty() => None,
        0 => Some(shown.join(", ")),
        more => Some(format!("{} and {more} more", shown.join(", "))),
    }
}

/// The list that is of a hash; `None` where there is none, or where it was too long to be kept.
fn list_of<'a>(lists: &'a [InputList], hash: &InputHash) -> Option<&'a [InputEntry]> {
    let found = lists.iter().find(|list| list.input == hash.path && list.blake3 == hash.blake3)?;
    let is_empty = || blake3::hash(b"").to_hex().as_str() == hash.blake3;
    (!found.entries.is_empty() || is_empty()).then_some(found.entries.as_slice())
}

fn hash_words(hash: &InputHash) -> String {
    format!("{} bytes, blake3 {:.12}…", hash.bytes, hash.blake3)
}

fn change(old: &InputHash, new: &InputHash, files: Option<String>) -> Change {
    let files = files.map_or_else(String::new, |files| format!(" ({files})"));
    Change {
        path: format!("input {:?}", old.path),
        old: Some(hash_words(old)),
        new: Some(format!("{}{files}", hash_words(new))),
    }
}

/// Recorded inputs of which something is no more what it was. What was only added to a directory is left out: whether it
/// counts is for the study file to say.
#[must_use]
pub(crate) fn lost(spec: &Spec, recorded: &Identity, now: &Found) -> Vec<Contradiction> {
    let mut changes = Vec::new();
    let mut add = |old: &InputHash, change| {
        changes.push(Contradiction { change, from: spec.depends_from(&old.path) });
    };
    for old in recorded.inputs.iter().filter(|old| !is_case_file(spec, &old.path)) {
        let Some(new) = now.hashes.iter().find(|new| new.path == old.path && new.blake3 != old.blake3) else {
            continue;
        };
        match (list_of(&recorded.lists, old), list_of(&now.lists, new)) {
            (Some(was), Some(is)) => {
                let index: BTreeMap<_, _> = is.iter().map(|entry| (&entry.path, entry)).collect();
                let kept: Vec<_> =
                    was.iter().filter_map(|entry| index.get(&entry.path).map(|entry| (*entry).clone())).collect();
                if let Some(files) = differing(&old.path, was, &kept) {
                    add(old, change(old, new, Some(files)));
                }
            }
            _ => add(old, change(old, new, None)),
        }
    }
    changes
}

/// Of all but directories, each of which is what is in it.
fn paths_of(entries: &[InputEntry]) -> BTreeSet<&Vec<u8>> {
    entries.iter().filter(|entry| entry.kind != b'd').map(|entry| &entry.path).collect()
}

/// Inputs, as they are now, that contradict what was recorded when results were made: the same file says something else, or
/// there are other files in the same directory. `study_dir` is where inputs lie.
#[must_use]
pub(crate) fn contradicted(
    spec: &Spec,
    made_with: &Identity,
    now: &Found,
    study_dir: &Path,
) -> Vec<Contradiction> {
    let mut changes = Vec::new();
    let mut add = |old: String, path: &Path, new: String| {
        let written = path.to_string_lossy();
        let change = Change { path: format!("input {:?}", clean(&written)), old: Some(old), new: Some(new) };
        changes.push(Contradiction { change, from: spec.depends_from(&written) });
    };
    // A file that is named by itself, or lies in a directory that is.
    let files_of = |hashes: &[InputHash], lists: &[InputList]| {
        let mut files: BTreeMap<PathBuf, String> = BTreeMap::new();
        for hash in hashes {
            match lists.iter().find(|list| list.input == hash.path && list.blake3 == hash.blake3) {
                None => drop(files.insert(plainly(Path::new(&hash.path)), hash.blake3.clone())),
                Some(list) => files.extend(list.entries.iter().filter(|entry| entry.kind == b'f').map(|entry| {
                    let path = Path::new(&hash.path).join(OsStr::from_bytes(&entry.path));
                    (plainly(&path), blake3::Hash::from_bytes(entry.content).to_hex().to_string())
                })),
            }
        }
        files
    };
    let (was, is) = (files_of(&made_with.inputs, &made_with.lists), files_of(&now.hashes, &now.lists));
    for (path, old) in &was {
        let written = path.to_string_lossy();
        match is.get(path) {
            Some(new) if new != old && !is_case_file(spec, &written) => {
                add(format!("blake3 {old:.12}…"), path, format!("blake3 {new:.12}…"));
            }
            _ => {}
        }
    }
    for old in &made_with.inputs {
        let same = |new: &&InputHash| plainly(Path::new(&new.path)) == plainly(Path::new(&old.path));
        let Some(new) = now.hashes.iter().find(same) else { continue };
        let (Some(was), Some(is)) = (list_of(&made_with.lists, old), list_of(&now.lists, new)) else { continue };
        let (was_there, is_there): (BTreeSet<_>, BTreeSet<_>) = (paths_of(was), paths_of(is));
        let dir = study_dir.join(&new.path);
        let gone = |path: &&&Vec<u8>| dir.join(OsStr::from_bytes(path)).symlink_metadata().is_err();
        let removed = was_there.difference(&is_there).filter(gone).map(|path| (*path, "is gone"));
        let added = is_there.difference(&was_there).map(|path| (*path, "there"));
        for (path, what) in removed.chain(added).take(NAMED_MAX) {
            let file = plainly(&Path::new(&new.path).join(OsStr::from_bytes(path)));
            let before = if what == "there" { "not there" } else { "there" };
            add(before.to_owned(), &file, what.to_owned());
        }
    }
    changes
}

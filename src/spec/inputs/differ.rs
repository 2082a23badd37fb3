//! How inputs differ from what is recorded, in words: which, and which of its files.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{Found, Inputs, is_case_file, plainly};
use crate::model::{Identity, InputEntry, InputHash, InputList};
use crate::spec::diff::Change;
use crate::spec::types::Spec;
use crate::sys::words::legible;

/// Most files of a directory that are named.
const NAMED_MAX: usize = 3;

/// An input that is not what is recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputChange {
    /// As the spec names it.
    pub input: String,
    /// What of it, such as "has changed (12 bytes, was 10)".
    pub what: String,
}

impl std::fmt::Display for InputChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "input `{}` {}", legible(&self.input), self.what)
    }
}

/// What becomes of files of cases that are inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaseFiles {
    /// The study file and they have just been read: the spec has what they say, and is compared by itself.
    JustRead,
    /// The spec is the recorded one: they are inputs as any other.
    AreInputs,
}

/// What changed between inputs as recorded (with the lists there are of directories) and as they are now, of those that
/// both name.
#[must_use]
pub fn changed_inputs(
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
        let list = |lists: &[InputList], hash: &InputHash| {
            let found = lists.iter().find(|list| list.input == hash.path && list.blake3 == hash.blake3);
            found.filter(|list| !list.entries.is_empty()).map(|list| list.entries.clone())
        };
        let is_directory = now.lists.iter().any(|list| list.input == new.path);
        let was_listed = lists.iter().any(|list| list.input == old.path && list.blake3 == old.blake3);
        // Pitons before this one left nothing out.
        if is_directory && !was_listed && inputs.unfiltered(&old.path).is_ok_and(|all| all.blake3 == old.blake3) {
            continue;
        }
        let what = match (list(lists, old), list(&now.lists, new)) {
            (Some(was), Some(is)) => format!("has changed: {}", differing(&old.path, &was, &is)),
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

/// The first files that differ, and how.
fn differing(input: &str, was: &[InputEntry], is: &[InputEntry]) -> String {
    let index = |entries: &[InputEntry]| {
        let entries = entries.iter().map(|entry| (entry.path.clone(), (entry.kind, entry.content)));
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
    let name =
        |path: &[u8]| legible(&format!("{}/{}", input.trim_end_matches('/'), String::from_utf8_lossy(path)));
    let shown: Vec<String> =
        differ.iter().take(NAMED_MAX).map(|(path, how)| format!("`{}` {how}", name(path))).collect();
    match differ.len().saturating_sub(NAMED_MAX) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// A list of a recorded identity that is of one of its hashes.
fn list_of<'a>(identity: &'a Identity, hash: &InputHash) -> Option<&'a [InputEntry]> {
    let found = identity.lists.iter().find(|list| list.input == hash.path && list.blake3 == hash.blake3);
    found.map(|list| list.entries.as_slice()).filter(|entries| !entries.is_empty())
}

fn list_now<'a>(now: &'a Found, hash: &InputHash) -> Option<&'a [InputEntry]> {
    let found = now.lists.iter().find(|list| list.input == hash.path);
    found.map(|list| list.entries.as_slice()).filter(|entries| !entries.is_empty())
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

/// Recorded inputs of which something is no more what it was. What was only added to a directory is not told: whether it
/// counts is for the study file to say.
#[must_use]
pub fn lost(spec: &Spec, recorded: &Identity, now: &Found) -> Vec<Change> {
    let mut changes = Vec::new();
    for old in recorded.inputs.iter().filter(|old| !is_case_file(spec, &old.path)) {
        let Some(new) = now.hashes.iter().find(|new| new.path == old.path && new.blake3 != old.blake3) else {
            continue;
        };
        match (list_of(recorded, old), list_now(now, new)) {
            (Some(was), Some(is)) => {
                let index: BTreeMap<_, _> = is.iter().map(|entry| (&entry.path, entry)).collect();
                let kept: Vec<_> =
                    was.iter().filter_map(|entry| index.get(&entry.path).map(|entry| (*entry).clone())).collect();
                if kept != was {
                    changes.push(change(old, new, Some(differing(&old.path, was, &kept))));
                }
            }
            _ => changes.push(change(old, new, None)),
        }
    }
    changes
}

/// Inputs, as they are now, that contradict what was recorded when results were made: the same file says something else, or
/// there are other files in the same directory. `study_dir` is where inputs lie.
#[must_use]
pub fn contradicted(spec: &Spec, made_with: &Identity, now: &Found, study_dir: &Path) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut add = |old: String, path: &str, new: String| {
        changes.push(Change { path: format!("input {path:?}"), old: Some(old), new: Some(new) });
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
        let shown = legible(&path.to_string_lossy());
        match is.get(path) {
            Some(new) if new != old && !is_case_file(spec, &shown) => {
                add(format!("blake3 {old:.12}…"), &shown, format!("blake3 {new:.12}…"));
            }
            _ => {}
        }
    }
    for old in &made_with.inputs {
        let same = |new: &&InputHash| plainly(Path::new(&new.path)) == plainly(Path::new(&old.path));
        let Some(new) = now.hashes.iter().find(same) else { continue };
        let (Some(was), Some(is)) = (list_of(made_with, old), list_now(now, new)) else { continue };
        let (was_there, is_there): (BTreeSet<_>, BTreeSet<_>) =
            (was.iter().map(|entry| &entry.path).collect(), is.iter().map(|entry| &entry.path).collect());
        let dir = study_dir.join(&new.path);
        let gone = |path: &&&Vec<u8>| dir.join(OsStr::from_bytes(path)).symlink_metadata().is_err();
        let removed = was_there.difference(&is_there).filter(gone).map(|path| (*path, "is gone"));
        let added = is_there.difference(&was_there).map(|path| (*path, "there"));
        for (path, what) in removed.chain(added).take(NAMED_MAX) {
            let file = plainly(&Path::new(&new.path).join(OsStr::from_bytes(path)));
            let name = legible(&file.to_string_lossy());
            let before = if what == "there" { "not there" } else { "there" };
            add(before.to_owned(), &name, what.to_owned());
        }
    }
    changes
}

//! Where an attempt lives: its own directory, empty but for its params at the start, and its trial's scratch directory.
//!
//! What was there may be anything an earlier attempt left. It is removed without following links, and never anything
//! outside the attempt's own directory.

use std::fs;
use std::io;
use std::path::Path;

use super::failure::Trouble;
use crate::executor::Job;
use crate::model::{Params, Value};
use crate::sys::clock::unix_ms;

/// The trial's params, in its directory.
const PARAMS: &str = "params.json";

/// Makes the directory, empty. One that is there is of an attempt whose start was never recorded: it goes, or, if it
/// cannot be removed, moves aside.
///
/// # Errors
/// What the file system says.
pub(super) fn make_empty_dir(dir: &Path) -> io::Result<()> {
    let parent = dir.parent().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    fs::create_dir_all(parent)?;
    if fs::symlink_metadata(parent)?.is_symlink() {
        // An earlier attempt of the same trial may have put it there; what it points to is not ours to clear.
        return Err(io::Error::other(format!("`{}` is a symbolic link", parent.display())));
    }
    match fs::create_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => return made,
    }
    let removed = if fs::symlink_metadata(dir)?.is_dir() { fs::remove_dir_all(dir) } else { fs::remove_file(dir) };
    if removed.is_err() {
        // A directory without write permission in it, for instance.
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        fs::rename(dir, parent.join(format!(".{name}.discarded-{}-{}", std::process::id(), unix_ms())))?;
    }
    fs::create_dir(dir)
}

/// Makes all that an attempt finds: its own directory with `params.json`, and its trial's scratch directory.
///
/// # Errors
/// What could not be made, and why.
pub(super) fn make(job: &Job) -> Result<(), Trouble> {
    let cannot =
        |what: &str, error: &io::Error| Trouble::of("spawn_failed", &format!("cannot make {what}"), error);
    make_empty_dir(&job.dir).map_err(|error| cannot("the attempt's directory", &error))?;
    fs::create_dir_all(&job.scratch_dir).map_err(|error| cannot("the scratch directory", &error))?;
    write_params(&job.dir.join(PARAMS), &job.params).map_err(|error| cannot("`params.json`", &error))
}

/// Takes back what [`make`] made for an attempt that does not start, as far as nothing else is in it.
pub(super) fn unmake(job: &Job) {
    let Some(case) = job.dir.parent() else { return };
    // What stays is removed when the attempt is made again.
    let _ = fs::remove_file(job.dir.join(PARAMS));
    for dir in [&job.dir, &job.scratch_dir, case] {
        let _ = fs::remove_dir(dir);
    }
}

/// Writes `params.json`: a flat object, floats in the shortest form that reads back to the same bits.
///
/// # Errors
/// What the file system says.
pub(super) fn write_params(path: &Path, params: &Params) -> io::Result<()> {
    let object: serde_json::Map<String, serde_json::Value> =
        params.iter().map(|(name, value)| (name.clone(), to_json(value))).collect();
    let mut text = serde_json::to_vec(&object).map_err(io::Error::other)?;
    text.push(b'\n');
    fs::write(path, text)
}

fn to_json(value: &Value) -> serde_json::Value {
    match value {
        Value::Str(text) => text.as_str().into(),
        Value::Bool(flag) => (*flag).into(),
        Value::Int(number) => (*number).into(),
        Value::Float(number) => (*number).into(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn what_was_there_is_gone_and_links_are_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("case/attempt_1");
        let precious = root.path().join("precious");
        fs::create_dir(&precious).unwrap();
        fs::write(precious.join("file"), b"").unwrap();
        make_empty_dir(&dir).unwrap();
        fs::create_dir(dir.join("sub")).unwrap();
        symlink(&precious, dir.join("sub/link")).unwrap();
        make_empty_dir(&dir).unwrap();
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
        fs::remove_dir(&dir).unwrap();
        symlink(&precious, &dir).unwrap();
        make_empty_dir(&dir).unwrap();
        assert!(fs::symlink_metadata(&dir).unwrap().is_dir());
        fs::remove_dir_all(root.path().join("case")).unwrap();
        symlink(&precious, root.path().join("case")).unwrap();
        assert!(make_empty_dir(&dir).is_err());
        assert!(precious.join("file").exists());
        assert!(!precious.join("attempt_1").exists());
    }

    #[test]
    fn even_a_locked_directory_makes_way() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("attempt_1");
        fs::create_dir_all(dir.join("locked/in")).unwrap();
        fs::set_permissions(dir.join("locked"), fs::Permissions::from_mode(0o500)).unwrap();
        make_empty_dir(&dir).unwrap();
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
        for entry in fs::read_dir(root.path()).unwrap() {
            let locked = entry.unwrap().path().join("locked");
            let _ = fs::set_permissions(locked, fs::Permissions::from_mode(0o700));
        }
    }

    #[test]
    fn params_are_a_flat_object() {
        let dir = tempfile::tempdir().unwrap();
        let params = Params::from([
            ("b".into(), Value::Bool(true)),
            ("f".into(), Value::Float(0.1)),
            ("g".into(), Value::Float(2.0)),
            ("i".into(), Value::Int(-3)),
            ("s".into(), Value::Str("a\"b".into())),
        ]);
        write_params(&dir.path().join("p"), &params).unwrap();
        let text = fs::read_to_string(dir.path().join("p")).unwrap();
        assert_eq!(text, "{\"b\":true,\"f\":0.1,\"g\":2.0,\"i\":-3,\"s\":\"a\\\"b\"}\n");
    }
}

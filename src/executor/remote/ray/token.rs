//! The token of a cluster of Ray's, where Ray's own clients look for it.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::sys::words::io_words;

/// Longest token, bytes.
const LONGEST: u64 = 16 << 10;

/// The token that this environment names: `RAY_AUTH_TOKEN` itself, the file of `RAY_AUTH_TOKEN_PATH`, or, where
/// `RAY_AUTH_MODE=token` asks for one, `~/.ray/auth_token`.
///
/// # Errors
/// A file that is named and has none, in words.
pub(super) fn of_environment(env: impl Fn(&str) -> Option<OsString>) -> Result<Option<String>, String> {
    let set = |name: &str| env(name).filter(|value| !value.is_empty());
    if let Some(token) = set("RAY_AUTH_TOKEN") {
        let token = token.into_string().map_err(|_| "`RAY_AUTH_TOKEN` is not UTF-8".to_owned())?;
        return Ok(Some(token));
    }
    if let Some(path) = set("RAY_AUTH_TOKEN_PATH").map(PathBuf::from) {
        let cannot = |why: &str| format!("`{}`, which `RAY_AUTH_TOKEN_PATH` names, {why}", path.display());
        return match read(&path) {
            Ok(Some(token)) => Ok(Some(token)),
            Ok(None) => Err(cannot("holds no token")),
            Err(error) => Err(cannot(&format!("cannot be read: {}", io_words(&error)))),
        };
    }
    let home = set("HOME").filter(|_| set("RAY_AUTH_MODE").is_some_and(|mode| mode == "token"));
    // The cluster itself says whether it wants one.
    Ok(home.and_then(|home| read(&Path::new(&home).join(".ray/auth_token")).ok().flatten()))
}

/// A file's only word.
fn read(path: &Path) -> io::Result<Option<String>> {
    let mut text = String::new();
    File::open(path)?.take(LONGEST + 1).read_to_string(&mut text)?;
    let token = text.trim();
    let good = !token.is_empty() && text.len() as u64 <= LONGEST && !token.contains(char::is_control);
    Ok(good.then(|| token.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_found_where_rays_clients_find_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            path.into_os_string()
        };
        let found = |vars: &[(&str, OsString)]| {
            of_environment(|name| vars.iter().find(|(of, _)| *of == name).map(|(_, value)| value.clone()))
        };
        let (var, path, mode, home) = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE", "HOME");
        let good = file("good", " abc\n");
        assert_eq!(found(&[]), Ok(None));
        assert_eq!(found(&[(var, "x".into()), (path, good.clone())]), Ok(Some("x".into())));
        assert_eq!(found(&[(var, "".into()), (path, good)]), Ok(Some("abc".into())));
        for (name, text) in [("empty", "\n"), ("lines", "a\nb: c"), ("long", &*"x".repeat(20_000))] {
            let why = found(&[(path, file(name, text))]).unwrap_err();
            assert!(why.contains(name) && why.contains("holds no token"), "{why}");
        }
        let why = found(&[(path, dir.path().join("none").into())]).unwrap_err();
        assert!(why.contains("none") && why.contains("cannot be read"), "{why}");
        file(".ray/auth_token", "def\n");
        let own = (home, dir.path().as_os_str().to_owned());
        assert_eq!(found(&[own.clone(), (mode, "token".into())]), Ok(Some("def".into())));
        assert_eq!(found(&[own, (mode, "disabled".into())]), Ok(None));
    }
}

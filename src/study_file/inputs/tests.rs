use crate::Study;
use std::fs;
use std::os::unix::fs::symlink;

use super::*;
use crate::model::{Identity, InputHash};
use crate::sys::tree_hash::CutOff;

/// A study with these inputs and patterns, in a directory.
fn inputs(dir: &Path, named: &[&str], ignored: &[&str]) -> Inputs {
    let own = [dir.join("s.redb"), dir.join("s.redb.reserve"), dir.join("out"), dir.join("study.toml")];
    Inputs::of(&spec(named, ignored), dir, &own)
}

fn spec(named: &[&str], ignored: &[&str]) -> Spec {
    let stage = crate::Stage::argv("a", ["true"]).budget(1).survivors(1);
    let mut builder = Study::builder("s").stage(stage);
    for input in named {
        builder = builder.input(input);
    }
    for pattern in ignored {
        builder = builder.ignore_input(pattern);
    }
    builder.spec().unwrap()
}

fn found(inputs: &mut Inputs) -> Found {
    inputs.look(&to_the_end).unwrap()
}

fn hash(dir: &Path, input: &str) -> InputHash {
    found(&mut inputs(dir, &[input], &[])).hashes.remove(0)
}

fn files(dir: &Path, names: &[&str]) {
    for name in names {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, name).unwrap();
    }
}

/// What differs between a look and the next.
fn changes(inputs: &mut Inputs, before: &Found) -> Vec<String> {
    let now = found(inputs);
    let spec = spec(&[], &[]);
    let changes = changed_inputs((&spec, CaseFiles::AreInputs), (&before.hashes, &before.lists), &now, inputs);
    changes.iter().map(ToString::to_string).collect()
}

#[test]
fn a_file_has_the_hash_b3sum_gives() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f"), b"abc").unwrap();
    let input = hash(dir.path(), "f");
    assert_eq!(input.bytes, 3);
    // The reference value for "abc" of the BLAKE3 authors' own tool.
    assert_eq!(input.blake3, "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85");
}

#[test]
fn a_directory_changes_with_contents_and_names_only() {
    let dir = tempfile::tempdir().unwrap();
    files(dir.path(), &["d/sub/a", "d/b"]);
    let first = hash(dir.path(), "d");
    assert_eq!(hash(dir.path(), "d"), first);
    let sub = dir.path().join("d/sub");
    fs::write(sub.join("a"), b"2").unwrap();
    let content = hash(dir.path(), "d");
    fs::write(sub.join("a"), b"d/sub/a").unwrap();
    assert_eq!(hash(dir.path(), "d"), first);
    fs::rename(sub.join("a"), sub.join("c")).unwrap();
    let name = hash(dir.path(), "d");
    assert!(content.blake3 != first.blake3 && name.blake3 != first.blake3 && name.blake3 != content.blake3);
}

#[test]
fn what_tools_and_piton_leave_is_no_input_and_what_is_named_is() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    files(dir, &["d/a.py", "d/sub/b.v", "study.toml"]);
    let before = [hash(dir, "d"), hash(dir, ".")];
    let leavings = [
        "d/__pycache__/a.cpython-312.pyc",
        "d/sub/b.pyc",
        "d/.git/HEAD",
        "d/sub/.git",
        "d/a.py~",
        "d/.a.py.swp",
        "d/#a.py#",
        "d/.DS_Store",
        "d/.nfs00000001",
        "s.redb",
        "s.redb.reserve",
        "d/other.redb.stop",
        "d/other.redb",
        "d/other.redb.0123456789abcdef.new",
        "out/s/0_a/s_0_0/attempt_1/stdout.log",
        "d/artifacts/other/.piton-study.json",
        "d/artifacts/other/0_a/log",
        "d/elsewhere/.piton-study.json",
    ];
    for name in leavings {
        files(dir, &[name]);
        assert_eq!(
            [hash(dir, "d").blake3, hash(dir, ".").blake3],
            before.clone().map(|hash| hash.blake3),
            "{name}"
        );
    }
    symlink("nowhere", dir.join("d/.#a.py")).unwrap();
    fs::write(dir.join("study.toml"), "other").unwrap();
    assert_eq!([hash(dir, "d"), hash(dir, ".")], before);
    // Whoever names one means it, and what is in it.
    for named in ["d/__pycache__", "d/sub/b.pyc", "d/.git", "d/a.py~", "d/artifacts/other", "d/other.redb"] {
        let (path, was) = (dir.join(named), hash(dir, named));
        let more = if named.contains("artifacts") { "more" } else { "more.pyc" };
        let inside = if path.is_dir() { path.join(more) } else { path };
        fs::write(&inside, "changed").unwrap();
        assert_ne!(hash(dir, named), was, "{named}");
    }
    // What only looks like one counts.
    for name in ["d/pycache/x", "d/a.py.swp.txt", "d/artifacts.v", "d/4913", "d/x.tmp", "d/build/artifacts/z"] {
        let was = hash(dir, "d");
        files(dir, &[name]);
        assert_ne!(hash(dir, "d"), was, "{name}");
    }
}

#[test]
fn artifacts_count_that_the_study_names() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let result = "artifacts/s/0_a/s_0_0/attempt_1/metrics.json";
    files(dir, &[&format!("a/{result}"), "a/artifacts/s/.piton-study.json", "b/f", "out/other/.piton-study.json"]);
    files(dir, &[&format!("out/{result}"), "out/other/1"]);
    symlink("../a/artifacts", dir.join("b/link")).unwrap();
    let study_dir = dir.join("b");
    let change = |named: &str, changed: &str| {
        let was = hash(&study_dir, named);
        fs::write(dir.join(changed), format!("{named} changes")).unwrap();
        hash(&study_dir, named) != was
    };
    let absolute = dir.join("a/artifacts").display().to_string();
    for named in ["../a/artifacts", "link", &absolute, "../a/artifacts/s", "../a/artifacts/s/0_a"] {
        assert!(change(named, &format!("a/{result}")), "{named}");
    }
    // They do not where a directory is named that has other things as well.
    assert!(!change("../a", &format!("a/{result}")));
    assert!(!change("..", &format!("a/{result}")));
    // A study that lies in an artifacts directory has said nothing of that by `.`.
    let inside = dir.join("a/artifacts/s/0_a/s_0_0/attempt_1");
    let was = hash(&inside, ".");
    files(&inside, &["x/.piton-study.json", "x/0_a/log"]);
    assert_eq!(hash(&inside, "."), was);
    // Its own are no input of it.
    let was = hash(dir, "out");
    files(dir, &["out/other/2"]);
    assert_eq!(hash(dir, "out"), was);
}

#[test]
fn patterns_leave_out_what_they_say_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let all = ["d/a.log", "d/x/b.log", "d/x/y/c.v", "d/tmp/t", "d/x/tmp/u", "d/keep"];
    files(dir, &all);
    let left = |patterns: &[&str]| {
        let list = found(&mut inputs(dir, &["d"], patterns)).lists.remove(0);
        let path = |path: &[u8]| format!("d/{}", String::from_utf8_lossy(path));
        let there: Vec<String> =
            list.entries.iter().filter(|entry| entry.kind == b'f').map(|entry| path(&entry.path)).collect();
        all.into_iter().filter(|name| !there.iter().any(|path| path == name)).collect::<Vec<_>>()
    };
    assert!(left(&[]).is_empty());
    assert_eq!(left(&["**/*.log"]), ["d/a.log", "d/x/b.log"]);
    assert_eq!(left(&["*.log"]), ["d/a.log", "d/x/b.log"]);
    assert_eq!(left(&["d/*.log"]), ["d/a.log"]);
    assert_eq!(left(&["./d/x/"]), ["d/x/b.log", "d/x/y/c.v", "d/x/tmp/u"]);
    assert_eq!(left(&["tmp/"]), ["d/tmp/t", "d/x/tmp/u"]);
    assert_eq!(left(&["a.log/", "keep/", "x/*"]), [""; 0]);
    assert_eq!(left(&[&format!("{}/d/keep", dir.display())]), ["d/keep"]);
    assert!(
        pattern_mistake("[").is_some() && pattern_mistake("!a").is_some() && pattern_mistake("**/[ab]?").is_none()
    );
}

#[test]
fn a_change_is_told_by_its_files() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    files(dir, &["f", "d/a", "d/b/c", "d/e"]);
    let mut both = inputs(dir, &["f", "d"], &[]);
    let before = found(&mut both);
    assert!(changes(&mut both, &before).is_empty());
    fs::write(dir.join("f"), "longer").unwrap();
    fs::write(dir.join("d/a"), "d/x").unwrap();
    fs::remove_file(dir.join("d/b/c")).unwrap();
    files(dir, &["d/n\u{1b}[2J", "d/o", "d/p"]);
    let words = changes(&mut both, &before);
    assert_eq!(words[0], "input `f` has changed (6 bytes, was 1)");
    let expected = "input `d` has changed: `d/a` changed, `d/b/c` removed, `d/n\\u{1b}[2J` added and 2 more";
    assert_eq!(words[1], expected);
    // A store of an earlier piton has no list.
    let old = Found { lists: Vec::new(), ..before };
    let words = changes(&mut both, &old);
    assert!(words[1].contains("which of its files is not known"), "{words:?}");
}

#[test]
fn a_directory_is_what_is_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::create_dir(dir.join("d")).unwrap();
    let mut ignoring = inputs(dir, &["d"], &["*.log", "gen/*.v"]);
    let empty = found(&mut ignoring);
    fs::create_dir_all(dir.join("d/x/y")).unwrap();
    files(dir, &["d/gen/out.log", "d/x/b~"]);
    assert_eq!(found(&mut ignoring), empty);
    // It is also told what came into one that was empty.
    files(dir, &["d/x/y/f"]);
    let full = found(&mut ignoring);
    assert_eq!(changes(&mut ignoring, &empty), ["input `d` has changed: `d/x/y/f` added"]);
    // With the directories it lies in, as ever, and no others.
    let entries: Vec<_> = full.lists[0].entries.iter().map(|entry| (entry.kind, entry.path.clone())).collect();
    assert_eq!(entries, [(b'd', b"x".to_vec()), (b'd', b"x/y".to_vec()), (b'f', b"x/y/f".to_vec())]);
    // Stores of today have them all: with a list they may come and go, without one they are as they were.
    let mut before = full.clone();
    before.hashes[0] = ignoring.one("d", How::WithEmptyDirectories, &to_the_end).unwrap().0;
    before.lists = vec![ignoring.one("d", How::WithEmptyDirectories, &to_the_end).unwrap().1.unwrap()];
    assert_ne!(before.hashes, full.hashes);
    let unlisted = Found { lists: Vec::new(), ..before.clone() };
    assert!(changes(&mut ignoring, &before).is_empty() && changes(&mut ignoring, &unlisted).is_empty());
    fs::remove_dir_all(dir.join("d/gen")).unwrap();
    fs::create_dir(dir.join("d/new")).unwrap();
    assert!(changes(&mut ignoring, &before).is_empty());
    files(dir, &["d/new/f"]);
    assert_eq!(changes(&mut ignoring, &before), ["input `d` has changed: `d/new/f` added"]);
    // A directory is no file.
    fs::remove_file(dir.join("d/x/y/f")).unwrap();
    fs::create_dir(dir.join("d/x/y/f")).unwrap();
    fs::remove_file(dir.join("d/new/f")).unwrap();
    assert_eq!(changes(&mut ignoring, &full), ["input `d` has changed: `d/x/y/f` removed"]);
}

#[test]
fn an_old_store_whose_hash_left_nothing_out_still_fits() {
    let dir = tempfile::tempdir().unwrap();
    files(dir.path(), &["d/a", "d/a~"]);
    let mut now = inputs(dir.path(), &["d"], &[]);
    let recorded =
        Found { hashes: vec![now.one("d", How::WithEverything, &to_the_end).unwrap().0], lists: Vec::new() };
    assert_ne!(recorded.hashes, found(&mut now).hashes);
    assert!(changes(&mut now, &recorded).is_empty());
    fs::write(dir.path().join("d/a"), "other").unwrap();
    assert_eq!(changes(&mut now, &recorded).len(), 1);
}

#[test]
fn a_second_look_sees_every_write() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    fs::write(&path, "1").unwrap();
    // Long ago, so that it is trusted to be what it was.
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3_600);
    let age = || fs::File::options().write(true).open(&path).unwrap().set_modified(long_ago).unwrap();
    age();
    let mut inputs = inputs(dir.path(), &["f"], &[]);
    let before = found(&mut inputs);
    // It was away and is back, the same inode with the same times of its writes.
    inputs.take_rewritten();
    fs::rename(&path, dir.path().join("g")).and_then(|()| fs::rename(dir.path().join("g"), &path)).unwrap();
    assert!(changes(&mut inputs, &before).is_empty());
    assert_eq!(inputs.take_rewritten(), std::slice::from_ref(&path));
    assert!(changes(&mut inputs, &before).is_empty() && inputs.take_rewritten().is_empty());
    for text in ["2", "3", "1"] {
        // The same size and the same time of its last write.
        fs::write(&path, text).unwrap();
        age();
        assert_eq!(changes(&mut inputs, &before).is_empty(), text == "1");
    }
    fs::rename(&path, dir.path().join("g")).unwrap();
    let gone = inputs.look(&to_the_end).unwrap_err();
    assert_eq!(gone.is_gone().as_deref(), Some("input `f` is gone"));
}

#[test]
fn whoever_watches_ends_it() {
    let dir = tempfile::tempdir().unwrap();
    files(dir.path(), &["d/a", "d/b"]);
    fs::File::create(dir.path().join("large")).unwrap().set_len(64 << 20).unwrap();
    for input in ["d", "large"] {
        let ended = inputs(dir.path(), &[input], &[]).look(&|| Err(io::Error::other(CutOff))).unwrap_err();
        assert!(ended.is_cut_off(), "{ended:?}");
    }
}

#[test]
fn links_are_followed_once_and_rings_end() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path().join("d");
    fs::create_dir(&d).unwrap();
    fs::write(dir.path().join("outside"), b"x").unwrap();
    symlink("..", d.join("up")).unwrap();
    symlink(".", d.join("self")).unwrap();
    symlink("nowhere", d.join("dangling")).unwrap();
    symlink("ring2", d.join("ring1")).unwrap();
    symlink("ring1", d.join("ring2")).unwrap();
    let before = hash(dir.path(), "d");
    fs::write(dir.path().join("outside"), b"y").unwrap();
    assert_ne!(hash(dir.path(), "d").blake3, before.blake3);
}

#[test]
fn a_pipe_or_device_does_not_hang() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path().join("d");
    fs::create_dir(&d).unwrap();
    let made = std::process::Command::new("mkfifo").arg(d.join("pipe")).status().unwrap();
    assert!(made.success());
    assert_eq!(hash(dir.path(), "d").bytes, 0);
    for input in ["d/pipe", "/dev/zero"] {
        let error = inputs(dir.path(), &[input], &[]).look(&to_the_end).unwrap_err();
        assert_eq!(error.source.to_string(), "neither a file nor a directory");
    }
}

#[test]
fn a_missing_input_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = inputs(dir.path(), &["rtl/gone.v"], &[]).look(&to_the_end).unwrap_err();
    assert_eq!(error.to_string(), "cannot read the input `rtl/gone.v`");
    assert_eq!(error.source.kind(), io::ErrorKind::NotFound);
}

#[test]
fn what_was_changed_cannot_be_talked_away_by_other_names() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    files(dir, &["d/a", "d/b", "t.sh"]);
    let identity = |named: &[&str]| {
        let found = found(&mut inputs(dir, named, &[]));
        Identity { lists: found.lists, ..Identity::new(found.hashes, Vec::new()) }
    };
    let (in_directory, alone) = (identity(&["."]), identity(&["t.sh"]));
    let told = |made_with: &Identity, named: &[&str], ignored: &[&str]| {
        let now = found(&mut inputs(dir, named, ignored));
        let changes = contradicted(&spec(named, ignored), made_with, &now, dir);
        changes.iter().map(|found| found.change.path.clone()).collect::<Vec<_>>()
    };
    for (made_with, named) in [(&in_directory, "./t.sh"), (&alone, "."), (&alone, "t.sh"), (&in_directory, "d")] {
        assert!(told(made_with, &[named], &[]).is_empty(), "{named}");
    }
    fs::write(dir.join("t.sh"), "other").unwrap();
    for (made_with, named) in [(&in_directory, "./t.sh"), (&alone, "."), (&alone, "t.sh"), (&in_directory, ".")] {
        assert_eq!(told(made_with, &[named], &[]), ["input \"t.sh\""], "{named}");
    }
    files(dir, &["d/new"]);
    fs::remove_file(dir.join("d/a")).unwrap();
    assert_eq!(told(&in_directory, &["."], &["t.sh"]), ["input \"d/a\"", "input \"d/new\""]);
    // What was only added may be declared to be no input; what was there and changed may not.
    let now = found(&mut inputs(dir, &["."], &[]));
    let lost: Vec<String> =
        lost(&spec(&["."], &[]), &in_directory, &now).into_iter().filter_map(|found| found.change.new).collect();
    assert!(lost[0].contains("`./d/a` removed") && lost[0].contains("`./t.sh` changed"), "{lost:?}");
    assert!(!lost[0].contains("new"), "{lost:?}");
}

//! What is released, packed of this program by `release/pack`, installed and used; and what `cargo package` holds.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{Sandbox, both};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs it to its end, which must be a good one; what it printed.
fn done<S: AsRef<OsStr>>(program: impl AsRef<OsStr>, args: impl IntoIterator<Item = S>, dir: &Path) -> String {
    let mut command = Command::new(program);
    command.args(args).current_dir(dir).env_remove("PYTHONPATH").env_remove("PITON_LOG");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}\n{}", both(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn only(dir: &Path, ending: &str) -> PathBuf {
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let found: Vec<_> = files.filter(|path| path.to_str().unwrap().ends_with(ending)).collect();
    assert_eq!(found.len(), 1, "{ending}: {found:?}");
    found[0].clone()
}

#[test]
fn wheel_package_and_archive_install_and_what_they_install_works() {
    let sandbox = Sandbox::new();
    let (here, dist) = (sandbox.path(""), sandbox.path("dist"));
    let program = env!("CARGO_BIN_EXE_piton");
    let version = env!("CARGO_PKG_VERSION");
    done(root().join("release/pack"), [program, "dist", "--quick"], &here);
    done(root().join("release/about"), ["dist"], &here);
    assert_eq!(done("sha256sum", ["--check", "SHA256SUMS"], &dist).lines().count(), 5);

    // The wheel: program and module, from the file alone.
    done("python3", ["-m", "venv", "--without-pip", "venv"], &here);
    let pip = root().join("target/tools/python/bin/pip");
    assert!(pip.exists(), "run `tests/run`, which installs pip");
    let wheel = only(&dist, ".whl");
    let wheel = wheel.to_str().unwrap();
    done(
        pip,
        ["--python", "venv/bin/python", "install", "--quiet", "--no-index", "--disable-pip-version-check", wheel],
        &here,
    );
    let bin = sandbox.path("venv/bin");
    done(root().join("release/smoke"), [bin.join("piton")], &here);
    assert_eq!(
        done(bin.join("python"), ["-m", "piton_study", "--version"], &here).trim(),
        format!("piton {version}")
    );
    let script = "import importlib.metadata as m, piton_study; from piton_study._program import find; print(find(), m.version('piton-study'))";
    let found = done(bin.join("python"), ["-c", script], &here);
    assert_eq!(found.trim(), format!("{} {version}", bin.join("piton").display()));

    // The Debian package.
    let deb = only(&dist, ".deb");
    let deb = deb.to_str().unwrap();
    let field = |name: &str| done("dpkg-deb", ["--field", deb, name], &here).trim().to_owned();
    assert_eq!((field("Package"), field("Version")), ("piton".to_owned(), version.to_owned()));
    assert!(field("Depends").starts_with("libc6 (>= 2."), "{}", field("Depends"));
    done("dpkg-deb", ["--raw-extract", deb, "unpacked"], &here);
    let unpacked = sandbox.path("unpacked");
    assert_eq!(done("md5sum", ["--check", "DEBIAN/md5sums"], &unpacked).lines().count(), 8);
    let mode = |path: &str| fs::metadata(unpacked.join(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("usr/bin/piton"), mode("usr/share"), mode("DEBIAN/control")), (0o755, 0o755, 0o644));
    assert!(done("dpkg-deb", ["--contents", deb], &here).lines().all(|line| line.contains("root/root")));
    let page = done("gzip", ["-dc", "usr/share/man/man1/piton.1.gz"], &unpacked);
    assert!(page.contains(".TH piton 1") && page.contains("piton best"), "{page}");

    // The archive.
    let archive = only(&dist, ".tar.gz");
    done("tar", ["-xf", archive.to_str().unwrap()], &here);
    let folder = archive.file_name().unwrap().to_str().unwrap().trim_end_matches(".tar.gz");
    let names: BTreeSet<_> =
        fs::read_dir(sandbox.path(folder)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    let all = ["CHANGELOG.md", "LICENSE-APACHE", "LICENSE-MIT", "README.md", "completions", "piton", "piton.1"];
    assert_eq!(names, all.map(Into::into).into());
    let packed = sandbox.path(&format!("{folder}/piton"));
    assert_eq!(fs::read(packed).unwrap(), fs::read(program).unwrap());

    // What is in it.
    let bill = fs::read(dist.join(format!("piton-{version}.cdx.json"))).unwrap();
    let bill: serde_json::Value = serde_json::from_slice(&bill).unwrap();
    let parts = bill["components"].as_array().unwrap();
    let has =
        |name: &str| parts.iter().any(|part| part["name"] == name && part["hashes"][0]["content"].is_string());
    assert!(has("redb") && has("clap") && has("ring") && !has("tempfile") && !has("piton"));
    assert!(parts.iter().all(|part| part["licenses"][0]["expression"].is_string()));
    assert!(fs::read_to_string(only(&dist, &format!("CHANGELOG-{version}.md"))).unwrap().contains("### Added"));
}

#[test]
fn the_crate_holds_what_builds_and_what_is_to_be_read() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let listed = done(cargo, ["package", "--list", "--allow-dirty", "--offline"], root());
    let mut tops: BTreeSet<_> = listed.lines().map(|path| path.split('/').next().unwrap()).collect();
    // Only where there is a commit to name.
    tops.remove(".cargo_vcs_info.json");
    let all = [
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "Cargo.lock",
        "Cargo.toml",
        "Cargo.toml.orig",
        "LICENSE-APACHE",
        "LICENSE-MIT",
        "README.md",
        "docs",
        "examples",
        "src",
    ];
    assert_eq!(tops, BTreeSet::from(all));
    for part in ["artifacts/", ".redb", ".png", "docs/recording", "__pycache__"] {
        assert!(!listed.contains(part), "{part}: {listed}");
    }
    for file in ["src/main.rs", "src/views/report/page.css", "examples/chip/osu035.toml", "docs/tutorial.md"] {
        assert!(listed.lines().any(|path| path == file), "{file}");
    }
}

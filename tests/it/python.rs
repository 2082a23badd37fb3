//! The Python package: its own tests with this program, its types, and that it asks no more of Python than it says.

use std::path::Path;
use std::process::Command;

use crate::harness::both;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A tool of the environment that `tests/run` makes, in the package's folder; the program is in its PATH.
fn passes(tool: &str, args: &[&str]) {
    let bin = root().join("target/tools/python/bin");
    assert!(bin.join(tool).exists(), "run `tests/run`, which installs {tool} into `{}`", bin.display());
    let program = Path::new(env!("CARGO_BIN_EXE_piton")).parent().unwrap();
    let path = format!("{}:{}:{}", program.display(), bin.display(), std::env::var("PATH").unwrap());
    let mut command = Command::new(bin.join(tool));
    command.args(args).current_dir(root().join("python")).env("PATH", path);
    command
        .env("PYTHONPATH", root().join("python/src"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env_remove("PITON_LOG");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{tool}: {}", both(&output));
}

#[test]
fn the_packages_own_tests_pass() {
    passes("pytest", &["-q"]);
}

#[test]
fn its_types_agree_and_it_runs_on_the_python_that_it_names() {
    let cache = tempfile::tempdir().unwrap();
    passes("mypy", &["--cache-dir", cache.path().to_str().unwrap()]);
    passes("vermin", &["--quiet", "--no-tips", "--violations", "-t=3.9-", "src"]);
    let text = std::fs::read_to_string(root().join("python/pyproject.toml")).unwrap();
    assert!(text.contains("requires-python = \">=3.9\""));
    assert!(
        text.contains(&format!("version = \"{}\"", env!("CARGO_PKG_VERSION"))),
        "the version is that of Cargo.toml"
    );
}

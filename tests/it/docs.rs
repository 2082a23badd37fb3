//! The documentation: links lead somewhere, its study files are ones, and pages to follow do what they say.
//!
//! A page to follow has blocks that make files, `toml file=study.toml` (or `append=`), and blocks of `console`: lines
//! after `$ ` are commands, run in the order of the page in one directory, and what stands below a command is printed by
//! it, line by line in this order. Python finds the package of `python`. Blocks that also say `slurm` are followed by an ordinary user of a real one. `…` stands for anything, a line of it for any lines; `(exit code 75)` is the code.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::clusters::{Cluster, Slurm};
use crate::harness::Sandbox;

fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = ["docs", "docs/how-to", "docs/reference"].map(|dir| fs::read_dir(root.join(dir)).unwrap());
    let docs = docs.into_iter().flatten().map(|entry| entry.unwrap().path());
    let markdown = docs.filter(|path| path.extension().is_some_and(|kind| kind == "md"));
    let others = [
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "tests/README.md",
        "benches/README.md",
        "src/sim/README.md",
    ];
    markdown.chain(others.iter().map(|name| root.join(name))).collect()
}

/// A heading's anchor, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let kept = heading
        .to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .collect::<String>();
    kept.trim().replace(' ', "-")
}

/// A page's lines outside of blocks of code, and those blocks, each with its language.
pub fn parts(text: &str) -> (Vec<&str>, Vec<(&str, String)>) {
    let (mut lines, mut blocks, mut open) = (Vec::new(), Vec::new(), None::<(&str, String)>);
    for line in text.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(language), None) => open = Some((language, String::new())),
            (None, Some((_, block))) => {
                block.push_str(line);
                block.push('\n');
            }
            (None, None) => lines.push(line),
        }
    }
    assert!(open.is_none(), "a block of code without its end");
    (lines, blocks)
}

#[test]
fn every_link_leads_somewhere() {
    let link = regex::Regex::new(r"\]\(([^)\s]+)\)").unwrap();
    let mut count = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for found in parts(&text).0.iter().flat_map(|line| link.captures_iter(line)) {
            let target = &found[1];
            if target.starts_with("https://") {
                continue;
            }
            count += 1;
            let (file, part) = target.split_once('#').map_or((target, None), |(file, part)| (file, Some(part)));
            let path = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            assert!(path.exists(), "{}: `{target}`", page.display());
            if let Some(part) = part {
                let there = fs::read_to_string(&path).unwrap();
                let headings = parts(&there).0.into_iter().filter(|line| line.starts_with('#'));
                let known = headings.map(|line| anchor(line.trim_start_matches('#'))).any(|known| known == part);
                assert!(known, "{}: `{target}` has no such heading", page.display());
            }
        }
    }
    assert!(count > 20, "links are written otherwise now: {count}");
}

#[test]
fn every_whole_study_file_is_one() {
    let program = regex::Regex::new(r#"\./[a-z_]+\.sh"#).unwrap();
    let mut count = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        let whole =
            |(language, block): &&(&str, String)| language.starts_with("toml") && block.starts_with("[study]");
        for (_, study) in parts(&text).1.iter().filter(whole) {
            count += 1;
            let sandbox = Sandbox::with_study(study);
            for name in program.find_iter(study) {
                sandbox.script(name.as_str().trim_start_matches("./"), "exit 0");
            }
            for (language, block) in &parts(&text).1 {
                if let Some(name) =
                    language.split_once("file=").map(|(_, name)| name).filter(|name| *name != "study.toml")
                {
                    sandbox.write(name, block);
                }
            }
            if study.contains("data/UnicodeData.txt") {
                fs::create_dir(sandbox.path("data")).unwrap();
                sandbox.write("data/UnicodeData.txt", "x");
            }
            sandbox.ok("check study.toml", 0);
        }
    }
    assert!(count >= 2, "study files are written otherwise now: {count}");
}

/// Runs a command of a page, and holds what it prints against what the page says.
fn follow(sandbox: &Sandbox, command: &str, said: &[&str]) {
    follow_by(Command::new("bash"), Path::new(env!("CARGO_BIN_EXE_piton")), sandbox, command, said);
}

/// The same by this shell, with this program.
fn follow_by(mut bash: Command, program: &Path, sandbox: &Sandbox, command: &str, said: &[&str]) {
    // With the packages that a page has its reader install.
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/python/bin");
    let dirs = [program.parent().unwrap().display().to_string(), python.display().to_string()];
    let path = format!("{}:{}", dirs.join(":"), std::env::var("PATH").unwrap());
    // As a terminal has it: both streams in the order in which they are written.
    bash.args(["-c", &format!("exec 2>&1; {command}")])
        .current_dir(sandbox.path(""))
        .env("PATH", path)
        .env("PYTHONPATH", Path::new(env!("CARGO_MANIFEST_DIR")).join("python/src"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::null());
    let output = bash.output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let (codes, said): (Vec<&str>, Vec<&str>) = said.iter().partition(|line| line.starts_with("(exit code "));
    // A shell's code for a command that a signal ended.
    let code = output.status.code().or_else(|| output.status.signal().map(|signal| 128 + signal)).unwrap();
    let expected = codes.first().map_or("(exit code 0)", |code| *code);
    assert_eq!(format!("(exit code {code})"), expected, "{command}\n{printed}");
    let mut lines = printed.lines();
    for line in said.into_iter().filter(|line| *line != "…") {
        let parts: Vec<_> = line.split_whitespace().map(|word| regex::escape(word).replace('…', ".*")).collect();
        let wanted = regex::Regex::new(&format!("^\\s*{}\\s*$", parts.join("\\s+"))).unwrap();
        assert!(lines.any(|printed| wanted.is_match(printed)), "{command}: no `{line}` in\n{printed}");
    }
}

/// Whether a block is for a machine with Slurm.
fn of_slurm(language: &str) -> bool {
    language.split_whitespace().any(|word| word == "slurm")
}

/// An ordinary user, who has an account and a home directory that the nodes share, and nothing else.
#[test]
fn a_stranger_gets_from_the_page_to_a_study_on_slurm() {
    let slurm = Slurm::start_with("PartitionName=batch Nodes=ALL MaxTime=INFINITE State=UP\n");
    slurm.open_to_others();
    let sandbox = Sandbox::new();
    let program = sandbox.path("bin/piton");
    fs::create_dir(sandbox.path("bin")).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_piton"), &program).unwrap();
    let own = |path: &Path| std::os::unix::fs::chown(path, Some(65_534), Some(65_534)).unwrap();
    own(&sandbox.path(""));
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/clusters.md")).unwrap();
    let mut followed = 0;
    for (language, block) in parts(&text).1.into_iter().filter(|(language, _)| of_slurm(language)) {
        if let Some(name) = language.split_whitespace().find_map(|word| word.strip_prefix("append=")) {
            let before = fs::read_to_string(sandbox.path(name)).unwrap();
            sandbox.write(name, format!("{before}{block}"));
            continue;
        }
        let lines: Vec<_> = block.lines().collect();
        for command in lines.chunk_by(|_, next| !next.starts_with("$ ")) {
            let mut bash = Command::new("setpriv");
            bash.args(["--reuid=65534", "--regid=65534", "--clear-groups", "bash"]);
            bash.envs(slurm.env()).env("HOME", sandbox.path("")).env("USER", "nobody");
            follow_by(bash, &program, &sandbox, command[0].trim_start_matches("$ "), &command[1..]);
            followed += 1;
        }
    }
    assert!(followed >= 5, "the page is written otherwise now: {followed}");
}

#[test]
fn pages_to_follow_do_what_they_say() {
    let mut followed = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        let sandbox = Sandbox::new();
        for (language, block) in parts(&text).1 {
            if of_slurm(language) {
                continue;
            }
            let file = |key: &str| language.split_whitespace().find_map(|word| word.strip_prefix(key));
            if let Some(name) = file("file=") {
                sandbox.write(name, &block);
            } else if let Some(name) = file("append=") {
                let before = fs::read_to_string(sandbox.path(name)).unwrap();
                sandbox.write(name, format!("{before}{block}"));
            } else if language == "console" {
                let lines: Vec<_> = block.lines().collect();
                for command in lines.chunk_by(|_, next| !next.starts_with("$ ")) {
                    follow(&sandbox, command[0].trim_start_matches("$ "), &command[1..]);
                    followed += 1;
                }
            }
        }
    }
    assert!(followed > 20, "pages are written otherwise now: {followed}");
}

/// What the page of messages quotes is what the program says.
#[test]
fn quoted_messages_are_the_programs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = String::new();
    let mut dirs = vec![root.join("src")];
    while let Some(dir) = dirs.pop() {
        for path in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            match path.is_dir() {
                true => dirs.push(path),
                false => sources.push_str(&fs::read_to_string(path).unwrap()),
            }
        }
    }
    let text = fs::read_to_string(root.join("docs/troubleshooting.md")).unwrap();
    let quoted: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`')).collect();
    assert!(quoted.len() > 15, "messages are quoted otherwise now");
    for part in
        quoted.iter().flat_map(|(message, _)| message.split('…')).map(str::trim).filter(|part| !part.is_empty())
    {
        assert!(sources.contains(part), "no message says `{part}`");
    }
}

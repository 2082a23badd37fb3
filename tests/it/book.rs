//! The documentation as a book, and what its reference pages list: held against what the program does.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{Sandbox, StudyFile};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn page(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap()
}

/// The cells of those rows of a page's tables whose first cell begins with a word in backticks.
fn rows(text: &str) -> Vec<Vec<String>> {
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| row.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect()).collect()
}

fn quoted(text: &str) -> BTreeSet<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// A part of a page, from one heading to the next.
fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let text = text.split_once(&format!("\n{heading}\n")).unwrap().1;
    text.split_once("\n## ").map_or(text, |(section, _)| section)
}

fn files_below(dir: &Path, extension: &str, into: &mut Vec<PathBuf>) {
    for path in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            files_below(&path, extension, into);
        } else if path.extension().is_some_and(|own| own == extension) {
            into.push(path);
        }
    }
}

/// GitHub and mdBook make anchors by rules of their own; `docs` holds links against GitHub's.
#[test]
fn the_book_is_built_and_its_links_lead_somewhere() {
    let sandbox = Sandbox::new();
    let book = sandbox.path("book");
    // `tests/run` installs mdBook.
    let made = Command::new(root().join("docs/book/make")).arg(&book).output().unwrap();
    let said = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success() && !said.contains("WARN") && !said.contains("ERROR"), "{said}");

    let mut pages = Vec::new();
    files_below(&book, "html", &mut pages);
    let texts: BTreeMap<_, _> =
        pages.into_iter().map(|page| (page.clone(), fs::read_to_string(page).unwrap())).collect();
    let link = regex::Regex::new(r#"(?:href|src)="([^"]*)""#).unwrap();
    let (mut count, mut dead) = (0, BTreeSet::new());
    for (page, text) in &texts {
        // It is shown at any address.
        if page.ends_with("404.html") {
            continue;
        }
        for found in link.captures_iter(text) {
            let target = found[1].replace("&amp;", "&");
            if target.contains("://") {
                continue;
            }
            count += 1;
            let (file, part) = target.split_once('#').unwrap_or((&target, ""));
            let path = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            let lands = path.canonicalize().ok().filter(|path| path.is_file());
            let there = lands.is_some_and(|path| {
                part.is_empty() || texts.get(&path).is_some_and(|text| text.contains(&format!("id=\"{part}\"")))
            });
            if !there {
                dead.insert(format!("{}: {target}", page.strip_prefix(&book).unwrap().display()));
            }
        }
    }
    assert!(dead.is_empty(), "{dead:#?}");
    assert!(
        texts.len() > 25 && count > 1_000,
        "the book is made otherwise now: {} pages, {count} links",
        texts.len()
    );
}

#[test]
fn every_page_is_in_the_book() {
    let summary = page("docs/book/SUMMARY.md");
    let mut pages = Vec::new();
    files_below(&root().join("docs"), "md", &mut pages);
    for page in pages.iter().filter(|page| !page.ends_with("SUMMARY.md")) {
        let name = page.strip_prefix(root()).unwrap().display();
        assert!(summary.contains(&format!("({name})")), "`{name}` is not in docs/book/SUMMARY.md");
    }
}

/// Names of the variables in what `env` printed.
fn variables(printed: &str) -> BTreeSet<String> {
    let names = printed.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name);
    names.filter(|name| name.starts_with("PITON_")).map(str::to_owned).collect()
}

#[test]
fn the_page_of_a_trial_lists_what_trials_find() {
    let text = page("docs/reference/trial.md");
    let listed = rows(section(&text, "## Environment"));
    let names = |wanted: &dyn Fn(&[String]) -> bool| -> BTreeSet<_> {
        listed.iter().filter(|row| wanted(row)).flat_map(|row| quoted(&row[0])).collect()
    };
    let all = names(&|_| true);
    let first =
        names(&|row| !row[2].contains("unset in the first stage") && !row[2].contains("only in a stage with"));
    assert_eq!((all.len(), first.len()), (19, 15), "{all:?}");

    let sandbox = Sandbox::with_study(
        StudyFile::new("seen")
            .with("[base]\ncommand = \"env > $PITON_STUDY_DIR/base.txt\"\n[resources]\ngpu = [\"a\"]")
            .stage("first", "env", 1, 1)
            .with(r#"sampling = { ask = ["./ask.sh"] }"#)
            .sweep("x = [1, 2]")
            .stage(
                "second",
                "env; echo {case} {parent_dir} {study_dir} {seed} {attempt} {slot} {replica} {gpu} '{{}}' >&2; ls",
                2,
                1,
            )
            .with("repeats = 2\nneeds = { gpu = 1, cpus = 1 }"),
    );
    sandbox.script(
        "ask.sh",
        r#"env > "$PITON_STUDY_DIR/asked.txt"; read a; read b; echo '{"params": {"x": 1}}'; cat > /dev/null"#,
    );
    sandbox.ok("run study.toml", 0);
    let written = |name: &str| fs::read_to_string(sandbox.path(name)).unwrap();
    let printed = |case: &str| sandbox.ok(&format!("logs study.redb {case}"), 0);
    let second = printed("seen_1_0.r0");
    assert_eq!(variables(&second), all);
    assert_eq!(variables(&printed("seen_0_0")), first);
    assert_eq!(variables(&written("base.txt")), first);
    assert_eq!(variables(&written("asked.txt")), names(&|row| row[1] == "yes"));

    // Each placeholder says what its variable does.
    let value = |name: &str| second.lines().find_map(|line| line.strip_prefix(&format!("{name}="))).unwrap();
    let placeholders = rows(section(&text, "## Placeholders"));
    let values: Vec<_> = placeholders.iter().map(|row| value(row[1].split(['$', '`']).nth(2).unwrap())).collect();
    assert_eq!(sandbox.ok("logs study.redb seen_1_0.r0 --stderr", 0).trim(), format!("{} {{}}", values.join(" ")));
    // And the files that piton makes are there.
    for file in ["params.json", "stdout.log", "stderr.log"] {
        assert!(second.lines().any(|line| line == file) && text.contains(&format!("`{file}`")), "{file}");
    }
}

#[test]
fn the_page_of_a_trial_lists_pitons_own_failures_of_commands() {
    use piton::FailureKind as Kind;
    let text = page("docs/reference/trial.md");
    let listed = quoted(section(&text, "## Success"));
    for kind in Kind::ALL {
        // A closure's own, and one for records that do not say.
        let other = matches!(kind, Kind::Error | Kind::Io | Kind::BadParam | Kind::Panic | Kind::Unknown);
        assert_eq!(listed.contains(kind.name()), !other, "{}", kind.name());
    }
}

/// The commands that `piton --help` lists.
fn commands(sandbox: &Sandbox) -> BTreeSet<String> {
    let help = sandbox.ok("--help", 0);
    let listed = help.split_once("Commands:\n").unwrap().1.split_once("\n\n").unwrap().0;
    let names = listed.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_command_is_on_the_pages_that_list_them() {
    let sandbox = Sandbox::new();
    let commands = commands(&sandbox);
    assert!(commands.len() > 20, "{commands:?}");
    let text = page("docs/commands.md");
    let listed: BTreeSet<_> = rows(text.split_once("\n## ").unwrap().0)
        .iter()
        .flat_map(|row| quoted(&row[0]))
        .map(|usage| usage.split_whitespace().nth(1).unwrap().to_owned())
        .collect();
    assert_eq!(listed, commands, "docs/commands.md");

    let promised = page("docs/security.md");
    let promised = rows(section(&promised, "## What each command promises"));
    assert_eq!(
        promised.iter().flat_map(|row| quoted(&row[0])).collect::<BTreeSet<_>>(),
        commands,
        "docs/security.md"
    );

    let json = page("docs/reference/json.md");
    let json = rows(json.split_once("\nIn the artifacts").unwrap().0);
    let json: BTreeSet<_> = json.iter().flat_map(|row| quoted(&row[0])).collect();
    let with_json = |name: &&String| sandbox.ok(&format!("{name} --help"), 0).contains("--json");
    assert_eq!(json, commands.iter().filter(with_json).cloned().collect(), "docs/reference/json.md");
}

/// Commands and options that a page shows are ones, also where nothing runs them.
#[test]
fn commands_on_pages_are_ones() {
    let sandbox = Sandbox::new();
    let commands = commands(&sandbox);
    let helps: BTreeMap<_, _> =
        commands.iter().map(|name| (name.as_str(), sandbox.ok(&format!("{name} --help"), 0))).collect();
    let mut pages = Vec::new();
    for dir in ["docs", "examples"] {
        files_below(&root().join(dir), "md", &mut pages);
    }
    pages.extend(["README.md", "CONTRIBUTING.md"].map(|name| root().join(name)));
    // In a block a command begins a line, or follows a prompt, a pipe or the like; in a line of prose it begins the quotation.
    let shown =
        regex::Regex::new(r"(?m)(?:^|`|\$ |&& |\|\| |<\(|exec )piton ([a-z]+(?:-[a-z]+)*)\b([^`|;&#)\n]*)")
            .unwrap();
    let option = regex::Regex::new(r" (--[a-z][a-z-]*)").unwrap();
    let mut count = 0;
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        let (lines, blocks) = crate::docs::parts(&text);
        let spans: Vec<_> = lines.iter().flat_map(|line| quoted(line)).map(|span| format!("`{span}")).collect();
        let ran = blocks
            .iter()
            .filter(|(language, _)| ["sh", "text", "console"].iter().any(|kind| language.starts_with(kind)));
        for code in spans.iter().chain(ran.map(|(_, block)| block)) {
            for found in shown.captures_iter(code) {
                count += 1;
                let help = helps.get(&found[1]).unwrap_or_else(|| panic!("{}: `{}`", page.display(), &found[0]));
                for option in option.captures_iter(&found[2]) {
                    assert!(help.contains(&option[1]), "{}: `{}`", page.display(), &found[0]);
                }
            }
        }
    }
    assert!(count > 100, "commands are shown otherwise now: {count}");
}

#[test]
fn the_pages_exit_codes_are_the_programs() {
    let sandbox = Sandbox::new();
    let text = page("docs/reference/signals.md");
    let numbers =
        |text: &str| -> BTreeSet<u8> { text.split(", ").filter_map(|code| code.trim().parse().ok()).collect() };
    let codes = section(&text, "## Exit codes").lines();
    let listed: BTreeSet<u8> = codes
        .filter_map(|line| line.strip_prefix("| ")?.split_once(" |"))
        .flat_map(|(codes, _)| numbers(codes))
        .collect();
    let help = sandbox.ok("--help", 0);
    let said = help.split_once("Exit codes: ").unwrap().1.split_once("PITON_LOG").unwrap().0;
    let said: BTreeSet<u8> = regex::Regex::new(r"\b\d+\b")
        .unwrap()
        .find_iter(said)
        .map(|code| code.as_str().parse().unwrap())
        .collect();
    assert_eq!(listed, said);
    assert!(said.len() > 10);
}

/// The example of the README, word for word.
fn readme() -> Result<(), piton::Error> {
    // README
    use piton::{Range, Stage, Study};

    let explore = Stage::closure("explore", |trial| Ok([("y", (trial.float("x")? - 1.0).powi(2))]))
        .budget(9)
        .survivors(2)
        .range("x", Range::float(-2.0..=2.0).steps(9))
        .minimize("y");
    let study = Study::builder("parabola").seed(7).stage(explore).build()?;
    let outcome = study.run()?; // again after a crash: it goes on
    println!("best: {:?}", outcome.survivors[0]);
    // README
    assert_eq!(outcome.survivors[0].case, "parabola_0_6");
    Ok(())
}

#[test]
fn the_readmes_library_example_runs() {
    let bare = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let own = include_str!("book.rs").split("    // README\n").nth(1).unwrap();
    let text = page("README.md");
    assert_eq!(bare(text.split_once("```rust\n").unwrap().1.split_once("```").unwrap().0), bare(own));
    let sandbox = Sandbox::new();
    std::env::set_current_dir(sandbox.path("")).unwrap();
    readme().unwrap();
}

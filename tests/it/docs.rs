//! The documentation: links lead somewhere, and its study files are ones.

use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::Sandbox;

fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let markdown = docs.filter(|path| path.extension().is_some_and(|kind| kind == "md"));
    let others = ["README.md", "CHANGELOG.md", "tests/README.md", "benches/README.md", "src/sim/README.md"];
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
fn parts(text: &str) -> (Vec<&str>, Vec<(&str, String)>) {
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
        let whole = |(language, block): &&(&str, String)| *language == "toml" && block.starts_with("[study]");
        for (_, study) in parts(&text).1.iter().filter(whole) {
            count += 1;
            let sandbox = Sandbox::with_study(study);
            for name in program.find_iter(study) {
                sandbox.script(name.as_str().trim_start_matches("./"), "exit 0");
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

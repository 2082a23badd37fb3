//! Holds the modules to the table of `src/architecture.md`: who may import whom.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Rows of the table under "Who may import whom": module → modules.
fn allowed() -> BTreeMap<String, BTreeSet<String>> {
    let text = fs::read_to_string(root().join("architecture.md")).unwrap();
    let table = text.split("## Who may import whom").nth(1).unwrap();
    let mut rows = BTreeMap::new();
    for line in table.lines().skip_while(|line| !line.starts_with("| ---")).skip(1) {
        let Some(cells) = line.strip_prefix('|') else { break };
        let cells: Vec<&str> = cells.split('|').map(str::trim).collect();
        let name = cells[0].trim_matches('`').to_owned();
        let may = cells[1].split(',').map(|word| word.trim().trim_matches('`').to_owned());
        rows.insert(name, may.filter(|word| !word.is_empty() && word != "nothing").collect());
    }
    rows
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

/// The top-level modules a file names after `crate::`.
fn imports(text: &str) -> BTreeSet<String> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.flat_map(|line| line.split("crate::").skip(1).map(str::to_owned).collect::<Vec<_>>())
        .map(|rest| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect())
        .filter(|name: &String| !name.is_empty())
        .collect()
}

#[test]
fn modules_import_only_what_the_architecture_allows() {
    let allowed = allowed();
    assert!(allowed.len() >= 10, "the table is read: {allowed:?}");
    let mut files = Vec::new();
    sources(&root(), &mut files);
    let mut seen = BTreeSet::new();
    let mut wrong = Vec::new();
    for file in &files {
        let relative = file.strip_prefix(root()).unwrap();
        let module = relative.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs").to_owned();
        if ["lib", "main", "cli"].contains(&module.as_str()) {
            continue;
        }
        seen.insert(module.clone());
        let may = allowed.get(&module).unwrap_or_else(|| panic!("`{module}` is not in the table"));
        for import in imports(&fs::read_to_string(file).unwrap()) {
            if import != module && allowed.contains_key(&import) && !may.contains(&import) {
                wrong.push(format!("{} imports `{import}`", relative.display()));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    assert_eq!(seen, allowed.keys().cloned().collect(), "the table names the modules there are");
}

#[test]
fn only_the_codec_knows_bincode_and_only_the_journal_knows_redb() {
    let mut files = Vec::new();
    sources(&root(), &mut files);
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        let inside = |place: &str| file.starts_with(root().join(place));
        assert!(!code.contains("bincode::") || inside("journal/codec.rs"), "{}", file.display());
        assert!(!code.contains("redb::") || inside("journal"), "{}", file.display());
    }
}

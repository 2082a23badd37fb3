//! Holds the modules to the table of `src/architecture.md`: who may import whom.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use regex::Regex;

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

/// Rooms whose modules use each other one way only: the folder, and the path of its module.
const ROOMS: [(&str, &[&str]); 6] = [
    ("src/cli", &["cli"]),
    ("src/cli/progress", &["cli", "progress"]),
    ("src/cli/serve", &["cli", "serve"]),
    ("src/plan", &["plan"]),
    ("src/sim", &["sim"]),
    ("benches/speed", &[]),
];

/// The file of a room itself.
const ROOT: &str = "the room's root";

static STRINGS: LazyLock<Regex> = LazyLock::new(|| Regex::new(r#""(?:[^"\\]|\\.)*""#).unwrap());
static COMMENTS: LazyLock<Regex> = LazyLock::new(|| Regex::new("//[^\n]*").unwrap());
static USE: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\buse\s+([^;]+);").unwrap());
static PASSED_ON: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\bpub(?:\([\w: ]+\))?\s+use\s+([^;]+);").unwrap());
static WRITTEN: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\b(?:crate|super|self)(?:::\w+)+").unwrap());

/// The code of a file without its comments, its strings and the tests at its end.
fn code(text: &str) -> String {
    let end = text.find("#[cfg(test)]\nmod tests {").or_else(|| text.find("#[cfg(test)]\npub(super) mod tests {"));
    let lines = text[..end.unwrap_or(text.len())].lines().filter(|line| !line.trim_start().starts_with("//"));
    let lines = lines.collect::<Vec<_>>().join("\n");
    COMMENTS.replace_all(&STRINGS.replace_all(&lines, ""), "").into_owned()
}

/// The paths a `use` names: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn leaves(tree: &str, before: &[String], found: &mut Vec<Vec<String>>) {
    let words = |text: &str| -> Vec<String> {
        text.split("::").map(|word| word.trim().to_owned()).filter(|word| !word.is_empty()).collect()
    };
    let Some((head, inside)) = tree.split_once('{') else {
        found.push([before, &words(tree.split(" as ").next().unwrap())].concat());
        return;
    };
    let before = [before, &words(head)].concat();
    let (mut depth, mut part) = (0, String::new());
    for letter in inside[..inside.rfind('}').unwrap()].chars().chain([',']) {
        match letter {
            ',' if depth == 0 => {
                if !part.trim().is_empty() {
                    leaves(&part, &before, found);
                }
                part.clear();
                continue;
            }
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        part.push(letter);
    }
}

/// The names that a file at `here` uses, from the root of the crate: those of its `use` lines and those it writes out.
fn used(code: &str, here: &[String]) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    USE.captures_iter(code).for_each(|line| leaves(&line[1], &[], &mut found));
    for path in WRITTEN.find_iter(&USE.replace_all(code, "")) {
        leaves(path.as_str(), &[], &mut found);
    }
    let from_root = found.into_iter().filter_map(|path| {
        let ups = path.iter().take_while(|word| *word == "super").count();
        let (base, rest): (&[String], usize) = match path[0].as_str() {
            "crate" => (&[], 1),
            "self" => (here, 1),
            "super" => (&here[..here.len().checked_sub(ups)?], ups),
            _ => return None,
        };
        Some([base, &path[rest..]].concat())
    });
    from_root.collect()
}

/// Which modules of a room each of them uses, the room's root among them. What the root passes on is named as the module that has it.
fn uses(folder: &str, room: &[String]) -> BTreeMap<String, BTreeSet<String>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let root = [folder.join("mod.rs"), folder.join("main.rs"), folder.with_extension("rs")];
    let root = root.into_iter().find(|root| root.exists()).unwrap();
    let mut files = Vec::new();
    sources(&folder, &mut files);
    files.retain(|file| *file != root && !file.ends_with("tests.rs"));
    let path_of = |file: &PathBuf| -> Vec<String> {
        let inside = file.strip_prefix(&folder).unwrap().with_extension("");
        let words = inside.iter().map(|word| word.to_str().unwrap().to_owned());
        words.filter(|word| word != "mod").collect()
    };
    let modules: BTreeSet<String> = files.iter().map(|file| path_of(file)[0].clone()).collect();
    let mut passed_on = BTreeMap::new();
    let of_root = code(&fs::read_to_string(&root).unwrap());
    for line in PASSED_ON.captures_iter(&of_root) {
        let mut names = Vec::new();
        leaves(&line[1], &[], &mut names);
        let names = names.into_iter().filter(|path| modules.contains(&path[0]));
        passed_on.extend(names.map(|path| (path.last().unwrap().clone(), path[0].clone())));
    }
    let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let own = PASSED_ON.replace_all(&of_root, "");
    let any = |names: Vec<&String>| names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join("|");
    let found = |pattern: String| -> BTreeSet<String> {
        let pattern = Regex::new(&pattern).unwrap();
        pattern.captures_iter(&own).map(|found| found[1].to_owned()).collect()
    };
    let passed = found(format!(r"\b({})\b", any(passed_on.keys().collect())));
    let passed = passed.iter().filter_map(|name| passed_on.get(name));
    let named = found(format!(r"(?:^|[^:\w]|\bself::)({})::", any(modules.iter().collect())));
    uses.insert(ROOT.to_owned(), passed.chain(&named).cloned().collect());
    for file in &files {
        let inside = path_of(file);
        let here = [room, &inside].concat();
        for path in used(&code(&fs::read_to_string(file).unwrap()), &here) {
            let Some(name) = path.strip_prefix(room).and_then(|rest| rest.first()) else { continue };
            let whose = passed_on.get(name).unwrap_or(name);
            let whose = if modules.contains(whose) { whose.as_str() } else { ROOT };
            if whose != inside[0] {
                uses.entry(inside[0].clone()).or_default().insert(whose.to_owned());
            }
        }
    }
    uses
}

/// The modules that a module comes back to itself through.
fn circle(uses: &BTreeMap<String, BTreeSet<String>>) -> BTreeSet<String> {
    let mut left = uses.clone();
    // What uses nothing that is left is in no circle, and nothing is through it.
    loop {
        let known: BTreeSet<String> = left.keys().cloned().collect();
        let count = left.len();
        left.retain(|_, of| of.iter().any(|name| known.contains(name)));
        if left.len() == count {
            return known;
        }
    }
}

#[test]
fn modules_of_a_room_use_each_other_one_way_only() {
    for (folder, room) in ROOMS {
        let room: Vec<String> = room.iter().map(|word| (*word).to_owned()).collect();
        let uses = uses(folder, &room);
        assert!(uses.values().map(BTreeSet::len).sum::<usize>() > 1, "{folder} is read: {uses:?}");
        let circle = circle(&uses);
        let through: Vec<_> = uses.iter().filter(|(name, _)| circle.contains(*name)).collect();
        assert!(circle.is_empty(), "a circle in {folder}, or behind one: {through:?}");
    }
}

#[test]
fn a_circle_is_seen_whatever_a_name_is_written_as() {
    let here = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let text = "use super::{a::{B, c::D}, e};\nuse std::io;\nfn f() { crate::room::g::h() } // super::x::y\n";
    let found: BTreeSet<String> =
        used(&code(text), &here(&["room", "own"])).into_iter().map(|path| path.join("::")).collect();
    assert_eq!(found, ["room::a::B", "room::a::c::D", "room::e", "room::g::h"].map(str::to_owned).into());
    let uses = |pairs: &[(&str, &str)]| {
        let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (from, to) in pairs {
            uses.entry((*from).to_owned()).or_default().insert((*to).to_owned());
        }
        uses
    };
    assert_eq!(circle(&uses(&[("a", "b"), ("b", "c"), ("a", "c")])), BTreeSet::new());
    assert_eq!(circle(&uses(&[("a", "b"), ("b", "c"), ("c", "b")])), here(&["a", "b", "c"]).into_iter().collect());
}

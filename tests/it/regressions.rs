//! Every input that a fuzz target ever failed on, and every seed, through the same function as the fuzzer's.
//!
//! A new case: put the file that the fuzzer left in `fuzz/artifacts/<target>/` into `fuzz/regressions/<target>/`.

use std::fs;
use std::path::Path;

#[expect(clippy::panic, reason = "a panic is a failed case")]
#[path = "../../fuzz/src/lib.rs"]
mod targets;

type Target = (&'static str, fn(&[u8]));

const TARGETS: [Target; 7] = [
    ("study", targets::study),
    ("record", targets::record),
    ("store", targets::store),
    ("salvage", targets::salvage),
    ("results", targets::results),
    ("operations", targets::operations),
    ("tables", targets::tables),
];

fn replay(name: &str) {
    let (_, target) = TARGETS.iter().find(|(target, _)| *target == name).unwrap();
    let mut seeds = 0;
    for kind in ["seeds", "regressions"] {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(kind).join(name);
        for file in fs::read_dir(dir).into_iter().flatten().flatten() {
            println!("{}", file.path().display());
            target(&fs::read(file.path()).unwrap());
            seeds += usize::from(kind == "seeds");
        }
    }
    assert!(seeds > 0, "every target has seeds");
}

macro_rules! replayed {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() {
            replay(stringify!($name));
        }
    )*};
}
replayed! { study record store salvage results operations tables }

/// The fuzzer runs what is replayed here.
#[test]
fn every_target_of_the_fuzzer_is_replayed() {
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/Cargo.toml")).unwrap();
    let binaries: Vec<&str> = manifest
        .lines()
        .filter_map(|line| line.strip_prefix("path = \"fuzz_targets/")?.strip_suffix(".rs\""))
        .collect();
    assert_eq!(binaries, TARGETS.map(|(name, _)| name));
}

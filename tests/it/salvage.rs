//! Damaged stores and the real program: what is refused, what is recovered, and that a study goes on from it.

use std::fs;

use crate::clusters::{Cluster, Slurm};
use crate::harness::{Edit, Sandbox, StudyFile, both};

fn study_file() -> StudyFile {
    StudyFile::new("hurt")
        .with("seed = 3")
        .run("workers = 2")
        .stage("first", ["./trial.sh", "{x}"], 12, 2)
        .with(r#"outputs = ["out.txt"]"#)
        .sweep(r#"x = { min = 1, max = 12, type = "int" }"#)
        .minimize("y")
        .stage("second", ["./trial.sh", "{x}{z}"], 4, 1)
        .with(r#"outputs = ["out.txt"]"#)
        .sweep("z = [1, 2]")
        .minimize("y")
}

/// A finished study, its canonical dump, and its store's bytes.
fn finished() -> (Sandbox, String, Vec<u8>) {
    let sandbox = Sandbox::with_study(study_file());
    sandbox.script("trial.sh", "echo \"out $1\" > out.txt; echo \"{\\\"y\\\": $1}\" > metrics.json");
    sandbox.ok("run study.toml", 0);
    let canonical = sandbox.canonical();
    let bytes = fs::read(sandbox.path("study.redb")).unwrap();
    (sandbox, canonical, bytes)
}

fn damage(sandbox: &Sandbox, bytes: &[u8]) {
    fs::write(sandbox.path("study.redb"), bytes).unwrap();
}

/// Pages that hold this text.
fn pages_with(bytes: &[u8], text: &[u8]) -> Vec<usize> {
    let pages = bytes.chunks(4096).enumerate();
    pages.filter(|(_, page)| page.windows(text.len()).any(|part| part == text)).map(|(number, _)| number).collect()
}

fn canonical_of(sandbox: &Sandbox, store: &str) -> String {
    sandbox.ok(&format!("dump {store} --format json --canonical"), 0)
}

#[test]
fn every_command_refuses_a_store_without_its_tables_and_names_salvage() {
    let (sandbox, canonical, mut bytes) = finished();
    // The definitions of the tables: without them no command can read anything.
    let pages = pages_with(&bytes, b"progress");
    assert!(!pages.is_empty());
    for page in &pages {
        bytes[page * 4096 + 5] ^= 0xff;
    }
    damage(&sandbox, &bytes);
    for line in [
        "run study.toml",
        "resume study.redb",
        "status study.redb",
        "dump study.redb",
        "logs study.redb hurt_0_0",
        "why study.redb hurt_0_0",
        "stop study.redb",
        "retry study.redb --failed",
        "approve study.redb",
        "amend study.redb study.toml",
        "verify study.redb",
        "export study.redb --to out",
        "replay study.redb hurt_0_0",
        "best study.redb",
        "report study.redb -o report.html",
        "gc study.redb",
        "compact study.redb",
        "retry study.redb hurt_0_0",
    ] {
        let output = sandbox.run(line);
        let text = both(&output);
        assert_eq!(output.status.code(), Some(7), "`piton {line}`\n{text}");
        assert!(text.contains("hint: `piton salvage study.redb -o NEW`"), "`piton {line}`\n{text}");
        assert!(!text.contains("panicked"), "`piton {line}`\n{text}");
    }
    assert_eq!(fs::read(sandbox.path("study.redb")).unwrap(), bytes, "looking changes no damaged store");
    // The pages of the events are whole, only nothing leads to them.
    let said = sandbox.ok("salvage study.redb -o new.redb", 0);
    assert!(said.contains("recovered all "), "{said}");
    assert_eq!(canonical_of(&sandbox, "new.redb"), canonical);
    sandbox.ok("verify new.redb", 0);
    sandbox.ok("resume new.redb", 0);
    assert_eq!(fs::read(sandbox.path("study.redb")).unwrap(), bytes, "the damaged store is only read");
}

#[test]
fn a_destroyed_header_costs_nothing() {
    let (sandbox, canonical, mut bytes) = finished();
    bytes[..4096].fill(0);
    damage(&sandbox, &bytes);
    sandbox.ok("status study.redb", 7);
    assert!(sandbox.ok("salvage study.redb -o new.redb", 0).contains("recovered all "));
    assert_eq!(canonical_of(&sandbox, "new.redb"), canonical);
    sandbox.ok("verify new.redb", 0);
}

#[test]
fn a_study_goes_on_from_what_was_recovered_and_ends_the_same() {
    let (sandbox, canonical, bytes) = finished();
    // One page after another is destroyed: each time what is left is recovered, verifies, and ends the same.
    let mut partly = 0;
    for page in 1..bytes.len() / 4096 {
        let mut damaged = bytes.clone();
        damaged[page * 4096..(page + 1) * 4096].fill(0xa5);
        damage(&sandbox, &damaged);
        let output = sandbox.run("salvage study.redb -o new.redb --json");
        assert_eq!(output.status.code(), Some(0), "page {page}: {}", both(&output));
        let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        partly += u64::from(told["events_lost"] != 0);
        assert_eq!(told["rebuilt"], told["events_lost"] != 0, "page {page}: {told}");
        // No page holds both a trial's row and its events.
        assert_eq!(told["lost_results"], serde_json::json!([]), "page {page}: {told}");
        assert_eq!(canonical_of(&sandbox, "new.redb"), canonical, "page {page}: {told}");
        // Outputs of lost results are still there, so what was recovered verifies with them.
        sandbox.ok("verify new.redb", 0);
        sandbox.ok("resume new.redb", 0);
        assert_eq!(canonical_of(&sandbox, "new.redb"), canonical, "page {page}: {told}");
        sandbox.ok("verify new.redb", 0);
        fs::remove_file(sandbox.path("new.redb")).unwrap();
    }
    assert!(partly > 0, "some page's loss costs events");
}

/// What a study went through is in its rows as well: retries by hand, larger budgets, discarded stages, an abort, proposals.
#[test]
fn whatever_a_study_went_through_is_rebuilt_from_its_rows() {
    let sandbox = Sandbox::with_study(study_file().with("[[stage.failure]]\nkind = \"odd\"\nexit_code = 3"));
    let works = "echo \"out $1\" > out.txt; echo \"{\\\"y\\\": $1}\" > metrics.json";
    sandbox.script("trial.sh", &format!("[ \"$1\" = 5 ] && exit 3; {works}"));
    sandbox.ok("run study.toml", 0);
    let larger =
        fs::read_to_string(sandbox.path("study.toml")).unwrap().edit("trial_budget = 4", "trial_budget = 6");
    sandbox.write("larger.toml", larger.edit("z = [1, 2]", "z = [1, 2, 3]"));
    let output = sandbox.run("amend study.redb larger.toml --yes --discard-from second");
    assert_eq!(output.status.code(), Some(0), "{}", both(&output));
    sandbox.ok("resume study.redb", 0);
    check_every_page(&sandbox);
    // One that a rail ends, and that a person takes up again.
    let burns = "catastrophic_failures = 1\n[[stage]]\nname = \"first\"";
    let fire = "[[stage.failure]]\nkind = \"fire\"\nexit_code = 4\nseverity = \"catastrophic\"\nretryable = false\n[[stage]]\nname = \"second\"";
    let study = study_file().edit("[[stage]]\nname = \"first\"", &format!("[rails]\n{burns}"));
    let ended = Sandbox::with_study(study.edit("[[stage]]\nname = \"second\"", fire));
    ended.script("trial.sh", &format!("[ \"$1\" = 7 ] && [ ! -e ../../../../../mended ] && exit 4; {works}"));
    ended.run("run study.toml");
    check_every_page(&ended);
    ended.write("mended", "");
    ended.run("retry study.redb --failed");
    ended.ok("run study.toml", 0);
    check_every_page(&ended);
}

/// Stages that had closed: while they run again, planned anew, and left as they were.
#[test]
fn stages_that_were_opened_again_are_rebuilt() {
    for options in ["--discard-children", "--keep-survivors"] {
        let sandbox = Sandbox::with_study(study_file());
        let works = "echo \"out $1\" > out.txt; echo \"{\\\"y\\\": $1}\" > metrics.json";
        sandbox
            .script("trial.sh", &format!("[ \"$1\" = 1 ] && [ ! -e ../../../../../mended ] && exit 3; {works}"));
        sandbox.ok("run study.toml", 0);
        sandbox.write("mended", "");
        sandbox.ok(&format!("retry study.redb --failed {options}"), 0);
        check_every_page(&sandbox);
        sandbox.ok("resume study.redb", 0);
        check_every_page(&sandbox);
    }
}

/// What was discarded of directories, by the study and by hand, also of a trial that ran again since.
#[test]
fn discarded_directories_are_rebuilt_as_such() {
    let study = study_file()
        .edit("\"./trial.sh\", \"{x}\"]\ntrial_budget = 12", "\"./trial.sh\", \"{x}\"]\ntrial_budget = 4");
    let keep = "[defaults]\nkeep = { others = \"logs\", failed = \"nothing\" }\n[[stage]]\nname = \"first\"";
    let sandbox = Sandbox::with_study(study.edit("max = 12", "max = 4").edit("[[stage]]\nname = \"first\"", keep));
    let works = "echo \"out $1\" > out.txt; echo \"{\\\"y\\\": $1}\" > metrics.json";
    sandbox.script("trial.sh", &format!("[ \"$1\" = 4 ] && [ ! -e ../../../../../mended ] && exit 3; {works}"));
    sandbox.ok("run study.toml", 0);
    check_every_page(&sandbox);
    sandbox.write("mended", "");
    sandbox.ok("retry study.redb --failed --discard-children", 0);
    sandbox.ok("resume study.redb", 0);
    sandbox.ok("gc study.redb --keep survivors=nothing", 0);
    assert_eq!(sandbox.dump()["trials"][0]["attempts"][0]["kept"], "nothing");
    check_every_page(&sandbox);
}

const SEEK: &str = r#"
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message["type"] == "ask":
        print(json.dumps({"params": {"x": 1 + message["ask"] * 7 % 50}}), flush=True)
"#;

/// Proposals are in rows of their own; the base command's attempts are in the study's.
#[test]
fn proposals_and_the_base_command_are_rebuilt() {
    let asks = study_file()
        .edit(
            "trial_budget = 12",
            "trial_budget = 8\nsampling = { ask = [\"python3\", \"seek.py\"], parallel = 2 }",
        )
        .edit("max = 12", "max = 100")
        .edit("[[stage]]\nname = \"first\"", "[base]\ncommand = [\"./base.sh\"]\n[[stage]]\nname = \"first\"");
    let sandbox = Sandbox::with_study(&asks);
    sandbox.write("seek.py", SEEK);
    sandbox.script("base.sh", "echo built > base.txt");
    sandbox.script("trial.sh", "echo \"out $1\" > out.txt; echo \"{\\\"y\\\": $1}\" > metrics.json");
    sandbox.ok("run study.toml", 0);
    assert!(sandbox.ok("dump study.redb --events", 0).contains("trial_proposed"));
    check_every_page(&sandbox);
    // One whose base command failed: nothing else happened.
    let failed = Sandbox::with_study(&asks);
    failed.write("seek.py", SEEK);
    failed.script("base.sh", "exit 3");
    failed.ok("run study.toml", 3);
    check_every_page(&failed);
}

/// What ran on a cluster is said to have run there.
#[test]
fn attempts_on_a_cluster_are_rebuilt() {
    let slurm = Slurm::start();
    let sandbox =
        Sandbox::with_study(study_file().edit("workers = 2\n", &format!("workers = 4\n{}", slurm.run_table())));
    sandbox.script("trial.sh", "echo \"out $1\" > out.txt; echo \"{\\\"y\\\": $1}\" > metrics.json");
    let output = sandbox.piton(["run", "study.toml"]).envs(slurm.env()).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", both(&output));
    assert!(sandbox.ok("dump study.redb --events", 0).contains("attempt_placed"));
    check_every_page(&sandbox);
}

/// Each page is zeroed in its turn: what is salvaged verifies and says the same, or names what it lost.
fn check_every_page(sandbox: &Sandbox) {
    let bytes = fs::read(sandbox.path("study.redb")).unwrap();
    let canonical = sandbox.canonical();
    let mut rebuilt = 0;
    for page in 1..bytes.len() / 4096 {
        if bytes[page * 4096..(page + 1) * 4096].iter().all(|byte| *byte == 0) {
            continue;
        }
        let mut damaged = bytes.clone();
        damaged[page * 4096..(page + 1) * 4096].fill(0);
        sandbox.write("hurt.redb", "");
        fs::write(sandbox.path("hurt.redb"), &damaged).unwrap();
        let told: serde_json::Value =
            serde_json::from_str(&sandbox.ok("salvage hurt.redb -o new.redb --json", 0)).unwrap();
        rebuilt += u32::from(told["rebuilt"] == true);
        if told["rebuilt"] == true {
            let events = sandbox.ok("dump new.redb --events", 0);
            assert!(events.lines().nth(1).is_some_and(|line| line.contains("rebuilt")), "{events}");
            assert!(!sandbox.ok("status new.redb", 0).contains("nothing finished is lost"));
        }
        assert_eq!(told["lost_results"], serde_json::json!([]), "page {page}: {told}");
        assert_eq!(canonical_of(sandbox, "new.redb"), canonical, "page {page}: {told}");
        sandbox.ok("verify new.redb", 0);
        let dump: serde_json::Value = serde_json::from_str(&sandbox.ok("dump new.redb --format json", 0)).unwrap();
        let count = |name: &str| dump["accounting"][name].as_u64().unwrap();
        assert_eq!(
            count("attempts_started"),
            count("succeeded") + count("failed") + count("interrupted") + count("running"),
            "page {page}"
        );
        fs::remove_file(sandbox.path("new.redb")).unwrap();
    }
    assert!(rebuilt > 0, "the loss of some page costs events");
}

#[test]
fn a_new_store_in_another_folder_knows_where_everything_lies() {
    let (sandbox, canonical, bytes) = finished();
    fs::create_dir_all(sandbox.path("rescue/deep")).unwrap();
    // Cut off more and more, as long as anything is left of it.
    let mut pages = bytes.len() / 4096;
    while pages > 1 {
        pages -= 1;
        damage(&sandbox, &bytes[..pages * 4096]);
        let output = sandbox.run("salvage study.redb -o next.redb");
        if output.status.code() != Some(0) {
            assert_eq!(output.status.code(), Some(7), "{}", both(&output));
            break;
        }
        fs::remove_file(sandbox.path("next.redb")).unwrap();
    }
    damage(&sandbox, &bytes[..(pages + 1) * 4096]);
    sandbox.ok("salvage study.redb -o rescue/deep/new.redb", 0);
    sandbox.ok("resume rescue/deep/new.redb", 0);
    assert_eq!(canonical_of(&sandbox, "rescue/deep/new.redb"), canonical);
    sandbox.ok("verify rescue/deep/new.redb", 0);
    assert!(!sandbox.path("rescue/deep/artifacts").exists(), "the artifacts are where they were");
    let told = sandbox.ok("why rescue/deep/new.redb hurt_0_0 --json", 0);
    assert!(told.contains("hurt_0_0"));
}

#[test]
fn nothing_is_replaced_and_nothing_is_made_of_nothing() {
    let (sandbox, canonical, _) = finished();
    sandbox.write("there.redb", "precious");
    let output = sandbox.run("salvage study.redb -o there.redb");
    assert_eq!(
        (output.status.code(), fs::read(sandbox.path("there.redb")).unwrap()),
        (Some(1), b"precious".to_vec())
    );
    assert!(both(&output).contains("already exists"), "{}", both(&output));
    sandbox.ok("salvage study.redb -o study.redb", 1);
    assert_eq!(sandbox.canonical(), canonical);
    // A whole store is copied whole.
    assert!(sandbox.ok("salvage study.redb -o copy.redb", 0).contains("recovered all "));
    assert_eq!(canonical_of(&sandbox, "copy.redb"), canonical);
    sandbox.write("empty.redb", "");
    sandbox.write("noise.redb", "no store at all. ".repeat(5_000));
    for store in ["empty.redb", "noise.redb"] {
        let output = sandbox.run(&format!("salvage {store} -o new.redb"));
        assert_eq!(output.status.code(), Some(7), "{}", both(&output));
        assert!(both(&output).contains(&format!("nothing of `{store}` can be recovered")), "{}", both(&output));
        sandbox.ok(&format!("status {store}"), 7);
    }
    sandbox.ok("salvage missing.redb -o new.redb", 1);
    sandbox.ok("salvage study.redb -o nowhere/new.redb", 1);
    assert!(!sandbox.path("new.redb").exists());
}

#[test]
fn a_store_that_an_engine_writes_is_left_to_it() {
    let sandbox = Sandbox::with_study(study_file());
    sandbox.script(
        "trial.sh",
        "echo > ../../../../started; while [ ! -e ../../../../go ]; do sleep 0.05; done; exit 1",
    );
    let engine = sandbox.start("run study.toml");
    crate::harness::wait_until("a trial runs", || {
        sandbox.path("started").exists() || !sandbox.trial_processes().is_empty()
    });
    let output = sandbox.run("salvage study.redb -o new.redb");
    assert_eq!(output.status.code(), Some(5), "{}", both(&output));
    assert!(!sandbox.path("new.redb").exists());
    sandbox.run("stop study.redb --now");
    engine.wait();
    sandbox.ok("salvage study.redb -o new.redb", 0);
}

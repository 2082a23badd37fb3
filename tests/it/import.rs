//! Results that were made elsewhere: what is taken for whose, what is refused, and that nothing is taken in part.

use std::fs;
use std::os::unix::fs::symlink;

use crate::harness::{Edit, Sandbox, StudyFile, both};

/// Two stages whose trials note in `log` what they were asked to make.
fn study_file() -> StudyFile {
    StudyFile::new("s")
        .with("seed = 7")
        .run("workers = 2")
        .with("[params]\ndesign = \"gcd\"")
        .stage("a", r#"echo a{n}{kind} >> $PITON_STUDY_DIR/log; echo "{{\"m\": {n}}}" > metrics.json"#, 6, 1)
        .sweep("kind = [\"fast\", \"small\"]\nn = [1, 2, 3]")
        .maximize("m")
        .stage("b", r#"echo b{n}{kind}{k} >> $PITON_STUDY_DIR/log; echo "{{\"k\": {k}}}" > metrics.json"#, 2, 1)
        .sweep("k = [1, 2]")
        .maximize("k")
}

const ROWS: &str = "n,kind,m,metric.tool\n1,fast,10.50,\"yosys\"\n3.0,small,1e3,\n";

const IMPORT: &str = "import study.redb last.csv --stage a --study study.toml --by ada";

fn sandbox(rows: &str) -> Sandbox {
    let sandbox = Sandbox::with_study(study_file());
    sandbox.write("last.csv", rows);
    sandbox
}

fn refused(sandbox: &Sandbox, line: &str) -> String {
    let output = sandbox.run(line);
    assert_eq!(output.status.code(), Some(2), "{}", both(&output));
    both(&output)
}

fn sorted_log(sandbox: &Sandbox) -> Vec<String> {
    let mut log = sandbox.lines("log");
    log.sort();
    log
}

#[test]
fn last_weeks_results_are_taken_and_only_the_rest_runs() {
    let sandbox = sandbox(ROWS);
    let said = sandbox.ok(&format!("{IMPORT} --yes"), 0);
    assert!(said.contains("imports     line 2: `s_0_0`"), "{said}");
    let status = sandbox.ok("status study.redb", 0);
    assert!(status.contains("2 succeeded (2 imported), 4 pending"), "{status}");
    sandbox.ok("run study.toml", 0);
    assert_eq!(sorted_log(&sandbox), ["a1small", "a2fast", "a2small", "a3fast", "b3small1", "b3small2"]);
    let dump = sandbox.dump();
    let trial = &dump["trials"][5];
    assert_eq!((trial["metrics"]["m"].as_f64(), &trial["survivor"]), (Some(1000.0), &true.into()));
    assert_eq!(trial["attempts"], serde_json::json!([]));
    let source = &trial["imported"];
    assert_eq!((&source["file"], &source["by"]), (&"last.csv".into(), &"ada".into()));
    assert_eq!(source["blake3"], blake3::hash(ROWS.as_bytes()).to_hex().as_str());
    assert!(source["at"].as_str().unwrap().ends_with('Z'));
    assert_eq!(dump["trials"][0]["metrics"], serde_json::json!({"m": 10.5, "tool": "yosys"}));
    assert_eq!((&dump["accounting"]["imported"], &dump["accounting"]["attempts_started"]), (&2.into(), &6.into()));
    let canonical: serde_json::Value = serde_json::from_str(&sandbox.canonical()).unwrap();
    let expected = serde_json::json!({"file": "last.csv", "blake3": source["blake3"], "by": "ada"});
    assert_eq!(canonical["trials"][5]["imported"], expected);
    assert_eq!(canonical["trials"][1].get("imported"), None);
    let why = sandbox.ok("why study.redb s_0_5", 0);
    assert!(why.contains("none: imported from `last.csv` by ada (blake3 "), "{why}");
    let events = sandbox.ok("dump study.redb --events", 0);
    assert!(events.contains("trial_imported") && events.contains("imported from `last.csv` by ada"), "{events}");
    assert!(sandbox.ok("dump study.redb", 0).contains("(imported from last.csv)"));
    assert!(sandbox.ok("dump study.redb --format csv", 0).contains(",false,,last.csv,"));
    sandbox.ok("verify study.redb", 0);
    // The same again: nothing waits any more.
    assert!(refused(&sandbox, "import study.redb last.csv --stage a --yes").contains("stage `a` is closed"));
}

#[test]
fn the_canonical_dump_of_an_import_does_not_depend_on_when_it_came() {
    let run = |first: &str| {
        let sandbox = sandbox(ROWS);
        sandbox.ok(&format!("{IMPORT} --yes"), 0);
        sandbox.ok(first, 0);
        sandbox.canonical()
    };
    assert_eq!(run("run study.toml"), run("run study.toml --workers 5"));
}

#[test]
fn rows_that_match_nothing_are_listed_and_nothing_is_imported_in_part() {
    let sandbox = sandbox("n,kind,m\n1,fast,10\n9,fast,1\n2,\"fast\",3\n\"3\",fast,4\n");
    let said = refused(&sandbox, &format!("{IMPORT} --yes"));
    assert!(said.contains("no match    line 3: no case has these params"), "{said}");
    // What is quoted is text.
    assert!(said.contains("no match    line 5: no case has these params"), "{said}");
    assert!(said.contains("nothing was imported: 2 of 4 rows match no case that waits"), "{said}");
    assert_eq!(sandbox.dump()["accounting"]["imported"], 0);
    let dry = sandbox.ok("import study.redb last.csv --stage a --unmatched leave --dry-run --json", 0);
    let dry: serde_json::Value = serde_json::from_str(&dry).unwrap();
    assert_eq!((dry["matched"].as_array().unwrap().len(), &dry["imported"]), (2, &false.into()));
    assert_eq!(dry["unmatched"][0], serde_json::json!({"row": "line 3", "why": "no case has these params"}));
    assert_eq!(sandbox.dump()["accounting"]["imported"], 0);
    let done = sandbox.ok("import study.redb last.csv --stage a --unmatched leave --yes --json", 0);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&done).unwrap()["imported"], true);
    assert_eq!(sandbox.dump()["accounting"]["imported"], 2);
    // What has a result is not given another one.
    let said = refused(&sandbox, "import study.redb last.csv --stage a --yes");
    assert!(said.contains("line 2: `s_0_0` has a result already"), "{said}");
    // Nobody can be asked here.
    sandbox.write("last.csv", "n,kind,m\n2,small,1\n");
    assert!(refused(&sandbox, "import study.redb last.csv --stage a").contains("`--yes` imports"));
    sandbox.ok("verify study.redb", 0);
}

#[test]
fn all_that_is_wrong_is_said_at_once_and_nothing_is_imported() {
    let sandbox = sandbox("n,kind,m\n1,fast,\n1,small,text\n2,fast,5\n2,fast,6\n3,fast,7\n");
    let said = refused(&sandbox, &format!("{IMPORT} --yes"));
    for words in [
        "wrong       line 2: it has no `m`, which the stage needs",
        "wrong       line 3: `m` is not a finite number",
        "wrong       line 5: `s_0_1` has its result from line 4 already",
        "and 2 more",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    for (rows, words) in [
        ("n,kind,m\n1,fast,nan\n", "`m` is no finite number"),
        ("n,kind,m\n1,fast,9007199254740993\n", "cannot be held exactly"),
        ("n,m\n1,1\n", "there is no column for the param `kind`"),
        ("n,kind,m,x\n1,fast,1,2\n", "the column \"x\" is no param of the stage"),
        ("n,param.n,kind,m\n1,1,fast,1\n", "two columns are called `n`"),
        ("n,kind,m,m\n1,fast,1,2\n", "is there twice"),
        ("n,kind,m\n1,fast\n", "2 values, but the header names 3"),
        ("", "header line"),
    ] {
        sandbox.write("last.csv", rows);
        let said = refused(&sandbox, "import study.redb last.csv --stage a --yes");
        assert!(said.contains(words), "{words}: {said}");
    }
    assert_eq!(sandbox.dump()["accounting"]["imported"], 0);
    assert_eq!(sandbox.dump()["stages"][0]["status"], "waiting");
}

#[test]
fn columns_may_be_left_out_constants_given_and_lines_be_json() {
    let sandbox = sandbox("");
    sandbox.write(
        "last.jsonl",
        "{\"n\":1,\"kind\":\"fast\",\"m\":2,\"design\":\"gcd\",\"host\":\"x\"}\n{\"n\":2.0,\"kind\":\"fast\",\"m\":3,\"design\":\"aes\",\"host\":null}\n",
    );
    let line = "import study.redb last.jsonl --stage a --study study.toml --ignore host --unmatched leave --yes";
    let said = sandbox.ok(line, 0);
    assert!(said.contains("imports     line 1: `s_0_0`"), "{said}");
    // Another constant is another case.
    assert!(said.contains("leaves      line 2: no case has these params"), "{said}");
}

#[test]
fn a_table_of_spreadsheets_and_hostile_files_are_read_or_refused() {
    let sandbox = sandbox("\u{feff}n,kind,m\r\n1,\"fast\",2\r\n");
    sandbox.ok(&format!("{IMPORT} --yes"), 0);
    let wide = format!("{}\n1\n", vec!["x"; 1_000_000].join(","));
    sandbox.write("last.csv", &wide);
    assert!(
        refused(&sandbox, "import study.redb last.csv --stage a --yes")
            .contains("1000000 columns: more than 1000")
    );
    fs::write(sandbox.path("last.csv"), [0xff, 0xfe, 0, 1, b'\n', 7, b'"']).unwrap();
    assert!(refused(&sandbox, "import study.redb last.csv --stage a --yes").contains("is not UTF-8"));
    fs::remove_file(sandbox.path("last.csv")).unwrap();
    let made = std::process::Command::new("mkfifo").arg(sandbox.path("last.csv")).status().unwrap();
    assert!(made.success());
    for file in ["last.csv", "/dev/zero", "."] {
        let said = refused(&sandbox, &format!("import study.redb {file} --stage a --yes"));
        assert!(said.contains("it is no file"), "{said}");
    }
    assert!(refused(&sandbox, "import study.redb gone.csv --stage a --yes").contains("cannot read"));
    fs::File::create(sandbox.path("huge.csv")).unwrap().set_len(1 << 40).unwrap();
    assert!(refused(&sandbox, "import study.redb huge.csv --stage a --yes").contains("it has more than 16 MiB"));
    assert_eq!(sandbox.dump()["accounting"]["imported"], 1);
}

#[test]
fn only_a_stage_whose_cases_are_known_takes_results() {
    let sandbox = sandbox(ROWS);
    sandbox.ok("import study.redb last.csv --stage a --yes", 1);
    assert!(refused(&sandbox, &format!("{IMPORT} --dry-run")).contains("makes no store"));
    let said = refused(&sandbox, &IMPORT.edit("--stage a", "--stage c"));
    assert!(said.contains("the study has no stage `c`; it has `a`, `b`"), "{said}");
    let said = refused(&sandbox, &IMPORT.edit("--stage a", "--stage b"));
    assert!(said.contains("stage `b` has not begun: which cases it has follows from"), "{said}");
    let gated = study_file().edit_first("[[stage]]", "[[stage]]\napprove = true");
    let sandbox = Sandbox::with_study(&gated);
    sandbox.write("last.csv", ROWS);
    assert!(refused(&sandbox, &format!("{IMPORT} --yes")).contains("it waits for `piton approve`"));
    sandbox.ok("approve study.redb", 0);
    sandbox.ok(&format!("{IMPORT} --yes"), 0);
}

fn with_outputs() -> StudyFile {
    study_file()
        .edit_first("trial_budget = 6", "outputs = [\"net.v\"]\ntrial_budget = 6")
        .edit(
            "echo a{n}{kind} >> $PITON_STUDY_DIR/log;",
            "echo a{n}{kind} >> $PITON_STUDY_DIR/log; echo {n} > net.v;",
        )
        .edit(
            "echo b{n}{kind}{k} >> $PITON_STUDY_DIR/log;",
            "echo b$(cat {parent_dir}/net.v) >> $PITON_STUDY_DIR/log;",
        )
}

#[test]
fn outputs_are_brought_and_children_derive_from_them() {
    let sandbox = Sandbox::with_study(with_outputs());
    sandbox.write("last.csv", "n,kind,m,outputs\n3,small,99,best\n1,fast,1,worst\n");
    let said = refused(&sandbox, &format!("{IMPORT} --yes"));
    assert!(said.contains("declares outputs, and no directory is given"), "{said}");
    fs::create_dir_all(sandbox.path("theirs/best")).unwrap();
    fs::create_dir_all(sandbox.path("theirs/worst")).unwrap();
    sandbox.write("theirs/best/net.v", "theirs\n");
    let line = format!("{IMPORT} --outputs theirs --yes");
    let said = refused(&sandbox, &line);
    assert!(said.contains("wrong       line 3: `theirs/worst/net.v` is gone"), "{said}");
    assert!(!sandbox.path("artifacts").exists());
    // A link out of its directory is none of its outputs.
    sandbox.write("secret", "secret\n");
    symlink(sandbox.path("secret"), sandbox.path("theirs/worst/net.v")).unwrap();
    assert!(refused(&sandbox, &line).contains("wrong       line 3: `theirs/worst/net.v`"));
    fs::remove_file(sandbox.path("theirs/worst/net.v")).unwrap();
    sandbox.write("theirs/worst/net.v", "worst\n");
    sandbox.ok(&line, 0);
    let net = sandbox.path("artifacts/s/0_a/s_0_5/attempt_0/net.v");
    assert_eq!(fs::read_to_string(&net).unwrap(), "theirs\n");
    let outputs = &sandbox.dump()["trials"][5]["outputs"];
    assert_eq!(outputs["net.v"]["blake3"], blake3::hash(b"theirs\n").to_hex().as_str());
    sandbox.ok("run study.toml", 0);
    assert_eq!(sorted_log(&sandbox), ["a1small", "a2fast", "a2small", "a3fast", "btheirs", "btheirs"]);
    sandbox.ok("verify study.redb", 0);
    fs::write(net, "other\n").unwrap();
    sandbox.ok("verify study.redb", 4);
}

#[test]
fn rows_without_a_column_for_it_have_their_outputs_by_number_and_never_from_outside() {
    let sandbox = Sandbox::with_study(with_outputs());
    sandbox.write("last.csv", "n,kind,m,outputs\n3,small,99,../theirs/1\n");
    fs::create_dir_all(sandbox.path("theirs/1")).unwrap();
    sandbox.write("theirs/1/net.v", "theirs\n");
    let line = format!("{IMPORT} --outputs theirs --yes");
    assert!(refused(&sandbox, &line).contains("line 2: the directory of outputs \"../theirs/1\""));
    sandbox.write("last.csv", "n,kind,m\n3,small,99\n");
    sandbox.ok(&line, 0);
    assert_eq!(sandbox.dump()["trials"][5]["state"], "succeeded");
}

#[test]
fn results_of_another_store_come_with_their_outputs() {
    let other = Sandbox::with_study(with_outputs());
    other.ok("run study.toml", 0);
    let sandbox =
        Sandbox::with_study(with_outputs().edit("kind = [\"fast\", \"small\"]", "kind = [\"small\", \"large\"]"));
    let store = other.path("study.redb");
    let line = format!("import study.redb --from-store {} --stage a --study study.toml --yes", store.display());
    let said = refused(&sandbox, &line);
    assert!(said.contains("no match    case s_0_0: no case has these params"), "{said}");
    sandbox.ok(&format!("{line} --unmatched leave"), 0);
    sandbox.ok("run study.toml", 0);
    assert_eq!(sorted_log(&sandbox), ["a1large", "a2large", "a3large", "b3", "b3"]);
    let imported = sandbox.dump()["trials"][0]["imported"].clone();
    assert_eq!(imported["file"], store.display().to_string());
    sandbox.ok("verify study.redb", 0);
}

#[test]
fn an_imported_result_is_never_taken_by_another_trial() {
    let text = study_file()
        .edit("name = \"a\"", "name = \"a\"\nreuse = true")
        .edit("trial_budget = 2", "reuse = true\ntrial_budget = 2");
    let sandbox = Sandbox::with_study(&text);
    sandbox.write("last.csv", ROWS);
    sandbox.ok(&format!("{IMPORT} --yes"), 0);
    sandbox.ok("run study.toml", 0);
    sandbox.ok("amend study.redb study.toml --discard-from a --yes", 0);
    sandbox.ok("run study.toml", 0);
    let dump = sandbox.dump();
    // Those that ran are reused; the two that were imported run now.
    let made = |trial: usize| dump["trials"][trial]["attempts"].as_array().unwrap().len();
    assert_eq!((0..6).map(made).collect::<Vec<_>>(), [1, 0, 0, 0, 0, 1]);
    sandbox.ok("verify study.redb", 0);
}

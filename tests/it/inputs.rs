//! What is an input, when it is looked at, and what a change of it means.

use std::fs;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Engine, Sandbox, StudyFile, both, wait_until};

/// One stage of four trials, which run `t.sh` and wait for `go_<case>` if there is `gated`.
fn study(more: &str) -> StudyFile {
    StudyFile::new("s")
        .with(more)
        .run("workers = 1\ngrace = \"1s\"")
        .stage("a", ["sh", "{study_dir}/src/t.sh", "{x}"], 4, 1)
        .sweep("x = [1, 2, 3, 4]")
        .minimize("y")
}

const SCRIPT: &str = r#"echo $PITON_CASE >> "$PITON_STUDY_DIR/started"
while [ -e "$PITON_STUDY_DIR/gated" ] && [ ! -e "$PITON_STUDY_DIR/go_$PITON_CASE" ]; do sleep 0.02; done
echo "{\"y\": $1}" > metrics.json
"#;

fn sandbox(more: &str) -> Sandbox {
    let sandbox = Sandbox::with_study(study(more));
    fs::create_dir(sandbox.path("src")).unwrap();
    sandbox.write("src/t.sh", SCRIPT);
    sandbox.write("src/m.txt", "one");
    sandbox
}

/// Everything but the marks of these trials and of the harness.
const ALL: &str = "inputs = [\".\"]\ninputs_ignore = [\"started\", \"go_*\", \"gated\", \"engine.*\"]";
const SRC: &str = "inputs = [\"src\"]";

trait Killed {
    fn killed(self);
}

impl Killed for Engine {
    fn killed(self) {
        self.signal(Signal::KILL);
        self.wait();
    }
}

/// Started, with one trial finished and the next running.
fn in_its_second_trial(sandbox: &Sandbox) -> Engine {
    sandbox.write("gated", "");
    let engine = sandbox.start("run study.toml");
    wait_until("a trial runs", || sandbox.path("started").exists());
    sandbox.write("go_s_0_0", "");
    wait_until("the next one runs", || sandbox.lines("started").len() >= 2);
    wait_until("the first is recorded", || sandbox.dump()["stages"][0]["succeeded"] == 1);
    engine
}

fn ungate(sandbox: &Sandbox) {
    fs::remove_file(sandbox.path("gated")).unwrap();
}

fn refused(sandbox: &Sandbox, line: &str, words: &[&str]) -> String {
    let output = sandbox.run(line);
    let said = both(&output);
    assert_eq!(output.status.code(), Some(6), "{said}");
    for word in words {
        assert!(said.contains(word), "{word} in\n{said}");
    }
    said
}

/// The first command in backticks that begins so, as it was printed.
fn hinted(said: &str, begins: &str) -> String {
    let found = said.split('`').find(|part| part.starts_with(begins));
    found.unwrap_or_else(|| panic!("no hint `{begins}…` in\n{said}")).trim_start_matches("piton ").to_owned()
}

#[test]
fn what_tools_leave_beside_sources_is_no_input() {
    let sandbox = sandbox(ALL);
    in_its_second_trial(&sandbox).killed();
    ungate(&sandbox);
    for name in ["src/__pycache__", ".git"] {
        fs::create_dir(sandbox.path(name)).unwrap();
        sandbox.write(&format!("{name}/x"), "x");
    }
    for name in ["src/.t.sh.swp", "src/t.sh~", ".DS_Store", "src/m.pyc"] {
        sandbox.write(name, "x");
    }
    // Its store, its artifacts and its own file lie there as well.
    sandbox.write("study.toml", format!("# a comment\n{}", study(ALL)));
    sandbox.ok("run study.toml", 0);
    sandbox.ok("run study.toml", 0);
    assert_eq!(sandbox.dump()["accounting"]["succeeded"], 4);
}

#[test]
fn a_refusal_names_the_files_and_its_hints_lead_on() {
    let sandbox = sandbox(SRC);
    in_its_second_trial(&sandbox).killed();
    ungate(&sandbox);
    sandbox.write("src/m.txt", "two");
    sandbox.write("src/new", "");
    let said = ["`src/m.txt` changed", "`src/new` added"];
    refused(&sandbox, "run study.toml", &said);
    let words = refused(&sandbox, "resume study.redb", &said);
    sandbox.ok(&hinted(&words, "piton amend"), 0);
    sandbox.ok("run study.toml", 0);
    assert_eq!(sandbox.dump()["accounting"]["succeeded"], 5);
    // What is recorded now has a list, too.
    fs::remove_file(sandbox.path("src/new")).unwrap();
    refused(&sandbox, "run study.toml", &["`src/new` removed"]);
    sandbox.ok("verify study.redb", 0);
}

#[test]
fn what_is_left_out_by_the_study_may_come_and_go() {
    let more = "inputs = [\"src\"]\ninputs_ignore = [\"**/*.log\", \"src/out/\"]";
    let sandbox = sandbox(more);
    in_its_second_trial(&sandbox).killed();
    ungate(&sandbox);
    fs::create_dir(sandbox.path("src/out")).unwrap();
    sandbox.write("src/out/deep", "x");
    sandbox.write("src/run.log", "x");
    sandbox.ok("run study.toml", 0);
    sandbox.write("src/run.txt", "x");
    refused(&sandbox, "run study.toml", &["`src/run.txt` added"]);
    sandbox.write("bad.toml", study("inputs_ignore = [\"src/[\"]"));
    let said = both(&sandbox.run("check bad.toml"));
    assert!(said.contains("is no pattern of paths"), "{said}");
}

#[test]
fn an_input_that_changes_while_trials_run_ends_the_run_and_mixes_nothing() {
    let sandbox = sandbox(SRC);
    let engine = in_its_second_trial(&sandbox);
    sandbox.write("src/m.txt", "changed");
    // Nobody has to wait for the trial that runs.
    assert_eq!(engine.wait().code(), Some(6));
    let dump = sandbox.dump();
    assert_eq!((&dump["stages"][0]["status"], &dump["stages"][0]["succeeded"]), (&json!("open"), &json!(1)));
    assert_eq!((&dump["accounting"]["failed"], &dump["accounting"]["interrupted"]), (&json!(0), &json!(1)));
    sandbox.ok("verify study.redb", 0);
    ungate(&sandbox);
    refused(&sandbox, "run study.toml", &["`src/m.txt` changed", "--discard-from a"]);
    sandbox.write("src/m.txt", "one");
    sandbox.ok("run study.toml", 0);
    assert_eq!(sandbox.dump()["accounting"]["succeeded"], 4);
}

#[test]
fn a_trial_that_changes_its_input_is_not_believed_and_neither_is_a_killed_engine() {
    let sandbox = sandbox("inputs = [\"src/t.sh\", \"src/m.txt\"]");
    let script = format!("[ $1 != 3 ] || echo again >> \"$PITON_STUDY_DIR/src/m.txt\"\n{SCRIPT}");
    sandbox.write("src/t.sh", &script);
    let said = refused(&sandbox, "run study.toml", &["input `src/m.txt` has changed", "while its trials ran"]);
    assert!(said.contains("does not count and will run again"), "{said}");
    let dump = sandbox.dump();
    // Those before it may have ended between the same two looks.
    assert!(dump["stages"][0]["succeeded"].as_u64().unwrap() <= 2);
    assert_eq!((&dump["stages"][0]["status"], &dump["stages"][0]["failed"]), (&json!("open"), &json!(0)));
    // Killed after the change, and the input put back: what ended in between was never recorded.
    let sandbox = self::sandbox(SRC);
    let engine = in_its_second_trial(&sandbox);
    engine.signal(Signal::STOP);
    sandbox.write("src/m.txt", "other");
    sandbox.write("go_s_0_1", "");
    engine.killed();
    sandbox.write("src/m.txt", "one");
    ungate(&sandbox);
    sandbox.ok("run study.toml", 0);
    let tries = sandbox.lines("started").iter().filter(|case| *case == "s_0_1").count();
    assert_eq!(tries, 2);
}

#[test]
fn a_request_to_stop_and_empty_directories_are_no_inputs() {
    let sandbox = sandbox(ALL);
    let engine = in_its_second_trial(&sandbox);
    fs::create_dir_all(sandbox.path("src/out/deep")).unwrap();
    // One that means no run stays until a run begins; the engine is asked as by `piton stop` where no signal reaches it.
    sandbox.write("study.redb.stop", "{}");
    sandbox.write("other.redb.stop", "{}");
    sandbox.write("go_s_0_1", "");
    wait_until("a look has passed", || sandbox.lines("started").len() >= 3);
    ungate(&sandbox);
    assert_eq!(engine.wait().code(), Some(0));
    fs::remove_dir_all(sandbox.path("src/out")).unwrap();
    sandbox.ok("run study.toml", 0);
    assert_eq!(sandbox.dump()["accounting"]["interrupted"], 0);
}

#[test]
fn what_cannot_be_an_input_in_the_place_of_one_is_a_change() {
    let sandbox = sandbox("inputs = [\"src/m.txt\"]");
    let engine = in_its_second_trial(&sandbox);
    let at = sandbox.path("src/m.txt");
    let pipe = || assert!(std::process::Command::new("mkfifo").arg(&at).status().unwrap().success());
    fs::remove_file(&at).unwrap();
    pipe();
    assert_eq!(engine.wait().code(), Some(6));
    refused(&sandbox, "run study.toml", &["input `src/m.txt` is no file or directory any more"]);
    fs::remove_file(&at).unwrap();
    std::os::unix::fs::symlink("m.txt", &at).unwrap();
    refused(&sandbox, "run study.toml", &["input `src/m.txt` is a link that leads to itself"]);
    fs::remove_file(&at).unwrap();
    let socket = std::os::unix::net::UnixListener::bind(&at).unwrap();
    refused(&sandbox, "resume study.redb", &["input `src/m.txt` is no file or directory any more"]);
    drop(socket);
    fs::remove_file(&at).unwrap();
    sandbox.write("src/m.txt", "one");
    ungate(&sandbox);
    sandbox.ok("run study.toml", 0);
}

#[test]
fn an_input_that_was_away_for_a_while_is_told() {
    let sandbox = sandbox(SRC);
    let engine = in_its_second_trial(&sandbox);
    let (at, away) = (sandbox.path("src/m.txt"), sandbox.path("away"));
    // As after another was put into its place and this one back: the same inode, with the same time of its last write.
    fs::rename(&at, &away).and_then(|()| fs::rename(&away, &at)).unwrap();
    sandbox.write("go_s_0_1", "");
    wait_until("the next one runs", || sandbox.lines("started").len() >= 3);
    ungate(&sandbox);
    assert_eq!(engine.wait().code(), Some(0));
    let said = fs::read_to_string(sandbox.path("engine.err")).unwrap();
    assert!(said.contains("src/m.txt` was written, replaced or moved while trials ran"), "{said}");
}

#[test]
fn an_input_that_is_gone_is_a_change() {
    let sandbox = sandbox(SRC);
    let engine = in_its_second_trial(&sandbox);
    fs::rename(sandbox.path("src"), sandbox.path("away")).unwrap();
    assert_eq!(engine.wait().code(), Some(6));
    refused(&sandbox, "resume study.redb", &["input `src` is gone"]);
    fs::rename(sandbox.path("away"), sandbox.path("src")).unwrap();
    ungate(&sandbox);
    sandbox.ok("resume study.redb", 0);
}

#[test]
fn a_finished_study_says_that_its_input_changed() {
    let sandbox = sandbox(SRC);
    sandbox.ok("run study.toml", 0);
    assert!(both(&sandbox.run("run study.toml")).contains("completed already"));
    sandbox.write("src/m.txt", "two");
    let words = refused(&sandbox, "run study.toml", &["`src/m.txt` changed"]);
    refused(&sandbox, "resume study.redb", &["`src/m.txt` changed"]);
    sandbox.ok(&hinted(&words, "piton amend"), 0);
    sandbox.ok("run study.toml", 0);
    assert_eq!(sandbox.dump()["accounting"]["succeeded"], 8);
}

#[test]
fn after_an_abort_the_hint_leads_on_when_what_was_mended_is_an_input() {
    let sandbox = sandbox(SRC);
    sandbox.write("src/t.sh", "exit 3");
    let output = sandbox.run("run study.toml");
    assert_eq!(output.status.code(), Some(3));
    let words = both(&output);
    sandbox.write("src/t.sh", SCRIPT);
    sandbox.ok(&hinted(&words, "piton amend"), 0);
    sandbox.ok("run study.toml", 0);
    assert_eq!(sandbox.dump()["stages"][0]["succeeded"], 4);
    // Without inputs, trials are tried again.
    let sandbox = self::sandbox("");
    sandbox.write("src/t.sh", "exit 3");
    let words = both(&sandbox.run("run study.toml"));
    sandbox.write("src/t.sh", SCRIPT);
    sandbox.ok(&hinted(&words, "piton retry"), 0);
    sandbox.ok(&hinted(&words, "piton resume"), 0);
}

#[test]
fn a_changed_input_is_never_harmless_whatever_the_way() {
    let steps: [&[&str]; 4] = [
        // Taken out, and put back.
        &["", SRC],
        // Named otherwise.
        &["inputs = [\"src/t.sh\"]"],
        // Left out.
        &["inputs = [\"src\"]\ninputs_ignore = [\"m.txt\"]", SRC],
        &[ALL],
    ];
    for way in steps {
        let sandbox = sandbox(SRC);
        in_its_second_trial(&sandbox).killed();
        ungate(&sandbox);
        sandbox.write("src/m.txt", "two");
        for more in way {
            sandbox.write("other.toml", study(more));
            let said = refused(&sandbox, "amend study.redb other.toml --yes", &["invalidates", "m.txt"]);
            assert!(!said.contains("harmless"), "{said}");
        }
        refused(&sandbox, "run study.toml", &["`src/m.txt` changed"]);
    }
}

#[test]
fn an_input_that_changes_between_two_amendments_is_remembered() {
    let sandbox = sandbox(SRC);
    in_its_second_trial(&sandbox).killed();
    ungate(&sandbox);
    sandbox.write("other.toml", study(""));
    let said = sandbox.ok("amend study.redb other.toml --yes", 0);
    assert!(said.contains("extends") && !said.contains("harmless"), "{said}");
    sandbox.write("src/m.txt", "two");
    let said = refused(&sandbox, "amend study.redb study.toml --yes", &["invalidates", "src/m.txt"]);
    assert!(!said.contains("harmless"), "{said}");
    sandbox.write("other.toml", study("inputs = [\"src/m.txt\"]"));
    refused(&sandbox, "amend study.redb other.toml --yes", &["invalidates", "src/m.txt"]);
    sandbox.write("src/m.txt", "one");
    sandbox.ok("amend study.redb study.toml --yes", 0);
    sandbox.ok("run study.toml", 0);
    sandbox.ok("verify study.redb", 0);
}

#[test]
fn what_was_only_added_can_be_declared_to_be_no_input() {
    let sandbox = sandbox(SRC);
    in_its_second_trial(&sandbox).killed();
    ungate(&sandbox);
    sandbox.write("src/cache.tmp", "x");
    refused(&sandbox, "run study.toml", &["`src/cache.tmp` added", "inputs_ignore"]);
    sandbox.write("study.toml", study("inputs = [\"src\"]\ninputs_ignore = [\"*.tmp\"]"));
    let said = sandbox.ok("amend study.redb study.toml --yes", 0);
    assert!(said.contains("extends") && !said.contains("harmless"), "{said}");
    sandbox.write("src/more.tmp", "x");
    sandbox.ok("run study.toml", 0);
    assert_eq!(sandbox.dump()["accounting"]["succeeded"], 4);
    sandbox.write("study.toml", study(SRC));
    refused(&sandbox, "amend study.redb study.toml --yes", &["invalidates", "more.tmp"]);
}

#[test]
fn rows_added_to_a_file_of_cases_are_no_changed_input() {
    for named in ["inputs = [\"cases.csv\", \"src\"]", ALL] {
        let text = study(named).edit("[stage.sweep]\nx = [1, 2, 3, 4]\n", "");
        let text = text.edit("survivor_count", "sampling = { file = \"cases.csv\" }\nsurvivor_count");
        let sandbox = Sandbox::with_study(&text);
        fs::create_dir(sandbox.path("src")).unwrap();
        sandbox.write("src/t.sh", SCRIPT);
        sandbox.write("cases.csv", "x\n1\n2\n");
        sandbox.ok("run study.toml", 0);
        sandbox.write("cases.csv", "x\n1\n2\n3\n");
        let said = sandbox.ok("amend study.redb study.toml --yes", 0);
        assert!(said.contains("extends") && !said.contains("invalidates"), "{said}");
        sandbox.ok("run study.toml", 0);
        assert_eq!(sandbox.dump()["stages"][0]["succeeded"], 3, "{named}");
        sandbox.ok("resume study.redb", 0);
        sandbox.write("cases.csv", "x\n7\n2\n3\n");
        let said = refused(&sandbox, "amend study.redb study.toml --yes", &["invalidates", "cases"]);
        assert!(!said.contains("input "), "{said}");
    }
}

#[test]
fn a_file_of_cases_counts_wherever_it_is_not_read_again() {
    let text = study("inputs = [\"./cases.csv\"]").edit("[stage.sweep]\nx = [1, 2, 3, 4]\n", "");
    let text = text.edit("survivor_count", "sampling = { file = \"cases.csv\" }\nsurvivor_count");
    let sandbox = Sandbox::with_study(&text);
    fs::create_dir(sandbox.path("src")).unwrap();
    sandbox.write("src/t.sh", SCRIPT);
    sandbox.write("cases.csv", "x\n1\n2\n3\n4\n");
    // While trials run.
    let engine = in_its_second_trial(&sandbox);
    sandbox.write("cases.csv", "x\n1\n2\n3\n5\n");
    assert_eq!(engine.wait().code(), Some(6));
    ungate(&sandbox);
    // On `resume`, which has the recorded spec.
    let said = refused(&sandbox, "resume study.redb", &["input `./cases.csv` has changed"]);
    assert!(!said.contains("cases.csv` is gone"), "{said}");
    // `run` reads it again: what it says is what counts.
    sandbox.write("cases.csv", "x\n1\n\n2\n3\n4\n");
    refused(&sandbox, "resume study.redb", &["input `./cases.csv` has changed"]);
    sandbox.ok("run study.toml", 0);
    sandbox.write("cases.csv", "x\n1\n2\n3\n4\n");
    sandbox.ok("resume study.redb", 0);
    assert_eq!(sandbox.dump()["accounting"]["succeeded"], 4);
}

#[test]
fn an_input_of_a_base_command_that_has_run_is_no_harmless_change() {
    let base =
        "[base]\ncommand = \"cp $PITON_STUDY_DIR/src/m.txt $PITON_STUDY_DIR/built\"\n[[stage]]\napprove = true\n";
    let text = study(SRC).edit_first("[[stage]]\n", base);
    let sandbox = Sandbox::with_study(&text);
    fs::create_dir(sandbox.path("src")).unwrap();
    sandbox.write("src/t.sh", SCRIPT);
    sandbox.write("src/m.txt", "one");
    let code = sandbox.run("run study.toml").status.code();
    assert!(matches!(code, Some(8 | 75)), "{code:?}");
    sandbox.write("src/m.txt", "two");
    let words = refused(&sandbox, "amend study.redb study.toml --yes", &["invalidates"]);
    sandbox.ok(&hinted(&words, "piton amend"), 0);
    sandbox.ok("approve study.redb", 0);
    sandbox.ok("run study.toml", 0);
    assert_eq!(sandbox.lines("built"), ["two"]);
}

/// A command as it was printed, in a shell; its exit code and what it said.
fn in_shell(sandbox: &Sandbox, line: &str) -> (Option<i32>, String) {
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", &format!("piton() {{ \"$PITON_BIN\" \"$@\"; }}\n{line}")]);
    shell.env("PITON_BIN", env!("CARGO_BIN_EXE_piton")).env("NO_COLOR", "1").stdin(std::process::Stdio::null());
    let output = shell.current_dir(sandbox.path("")).output().unwrap();
    (output.status.code(), both(&output))
}

#[test]
fn hints_of_a_study_whose_params_were_set_lead_on_as_they_are_printed() {
    let text =
        study(SRC).edit("[run]", "[params]\nk = \"a\"\nn = 1\n[run]").edit("{x}\"]", "{x}\", \"{k}\", \"{n}\"]");
    for (given, kept) in [("b c", "b c"), ("'1.5'", "1.5"), ("1.50", "1.50")] {
        let sandbox = Sandbox::with_study(&text);
        fs::create_dir(sandbox.path("src")).unwrap();
        sandbox.write("src/t.sh", "exit 3");
        let argument = format!("k={given}");
        let first =
            sandbox.piton(["run", "study.toml", "--store", "other.redb", "--set", &argument]).output().unwrap();
        assert_eq!(first.status.code(), Some(3), "{}", both(&first));
        let shell = |line: &str| in_shell(&sandbox, line);
        // Mended, it is not what is recorded: whichever command notices leads on.
        sandbox.write("src/t.sh", SCRIPT);
        let (code, said) = shell("piton resume other.redb");
        assert_eq!(code, Some(6), "{said}");
        let amend = format!("piton {}", hinted(&said, "piton amend"));
        assert!(hinted(&both(&first), "piton amend").contains(" --set "), "{}", both(&first));
        let (code, said) = shell(&amend);
        assert_eq!(code, Some(0), "{amend}\n{said}");
        let (code, said) = shell(&format!("piton {}", hinted(&said, "piton run")));
        assert_eq!(code, Some(0), "{said}");
        let dump: Value = serde_json::from_str(&sandbox.ok("dump other.redb --format json", 0)).unwrap();
        let params: Vec<&Value> =
            dump["trials"].as_array().unwrap().iter().map(|trial| &trial["params"]["k"]).collect();
        assert_eq!(params, vec![&json!(kept); 4], "{given}");
    }
}

#[test]
fn an_input_is_what_it_says_whatever_lies_in_its_place() {
    let sandbox = sandbox(SRC);
    in_its_second_trial(&sandbox).killed();
    // A link to the same bytes is the same, and to others is not.
    fs::rename(sandbox.path("src/m.txt"), sandbox.path("elsewhere")).unwrap();
    std::os::unix::fs::symlink("../elsewhere", sandbox.path("src/m.txt")).unwrap();
    let engine = sandbox.start("run study.toml");
    wait_until("it runs on", || sandbox.lines("started").len() >= 3);
    sandbox.write("elsewhere", "two");
    assert_eq!(engine.wait().code(), Some(6));
    refused(&sandbox, "run study.toml", &["`src/m.txt` changed"]);
    // Nor does it help to name where the link leads, and to leave the link out.
    sandbox.write("other.toml", study("inputs = [\"elsewhere\", \"src/t.sh\"]"));
    refused(&sandbox, "amend study.redb other.toml --yes", &["invalidates", "`src/m.txt` changed"]);
    sandbox.write("elsewhere", "one");
    // Another directory with the same in it, under the same name, is the same one.
    fs::rename(sandbox.path("src"), sandbox.path("away")).unwrap();
    refused(&sandbox, "run study.toml", &["input `src` is gone"]);
    fs::create_dir(sandbox.path("src")).unwrap();
    fs::write(sandbox.path("src/t.sh"), SCRIPT).unwrap();
    refused(&sandbox, "run study.toml", &["`src/m.txt` removed"]);
    fs::create_dir(sandbox.path("src/m.txt")).unwrap();
    refused(&sandbox, "run study.toml", &["`src/m.txt` removed"]);
    fs::remove_dir(sandbox.path("src/m.txt")).unwrap();
    fs::copy(sandbox.path("elsewhere"), sandbox.path("src/m.txt")).unwrap();
    ungate(&sandbox);
    sandbox.ok("run study.toml", 0);
    let dump = sandbox.dump();
    assert_eq!((&dump["accounting"]["succeeded"], &dump["accounting"]["failed"]), (&json!(4), &json!(0)));
}

/// Two stages; each runs a script that is an input of its own.
const STAGED: &str = r#"
study.name = "s"
run.workers = 1
[defaults]
trial_budget = 1
survivor_count = 1
[[stage]]
name = "a"
inputs = ["a.sh"]
command = ["sh", "{study_dir}/a.sh"]
[[stage]]
name = "b"
inputs = ["b.sh"]
command = ["sh", "{study_dir}/b.sh"]
"#;

#[test]
fn an_input_of_a_stage_concerns_that_stage_and_those_after_it() {
    let sandbox = Sandbox::with_study(STAGED);
    let script = |name: &str, what: &str| {
        sandbox.write(&format!("{name}.sh"), format!("echo {name} >> \"$PITON_STUDY_DIR/ran\" # {what}"));
    };
    script("a", "1");
    script("b", "1");
    sandbox.ok("run study.toml", 0);
    script("b", "2");
    let words = refused(&sandbox, "run study.toml", &["input `b.sh` has changed", "--discard-from b"]);
    sandbox.ok(&hinted(&words, "piton amend"), 0);
    sandbox.ok("run study.toml", 0);
    assert_eq!(sandbox.lines("ran"), ["a", "b", "b"]);
    // What stage `a` is made of is as it was, although `b.sh` was another one then.
    sandbox.ok("verify study.redb", 0);
    sandbox.ok("run study.toml", 0);
    script("a", "2");
    let words = refused(&sandbox, "run study.toml", &["input `a.sh` has changed", "--discard-from a"]);
    sandbox.ok(&hinted(&words, "piton amend"), 0);
    sandbox.ok("run study.toml", 0);
    assert_eq!(sandbox.lines("ran"), ["a", "b", "b", "a", "b"]);
    sandbox.ok("verify study.redb", 0);
}

#[test]
fn a_trial_of_a_reusing_stage_sees_what_its_identity_holds() {
    let of = |name: &str, first: &str| {
        let see = "echo $PITON_SEED $PITON_PARENT_DIR $(cat params.json) >> \"$PITON_STUDY_DIR/saw\"";
        let sandbox = Sandbox::with_study(
            StudyFile::new(name)
                .with("seed = 3")
                .run("workers = 1")
                .with("[params]\np = 1")
                .stage("a", ["true"], 9, "\"all\"")
                .sweep(format!("x = {first}"))
                .stage("b", see, 9, 1)
                .with("reuse = true\nuses = [\"y\"]")
                .sweep("y = [1, 2]"),
        );
        sandbox.ok("run study.toml", 0);
        sandbox.ok("verify study.redb", 0);
        sandbox
            .lines("saw")
            .iter()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect::<Vec<_>>()
    };
    let (one, two) = (of("s", "[1]"), of("t", "[3, 4]"));
    assert_eq!(one.len(), 2, "{one:?}");
    assert!(one[0].ends_with("{\"y\":1}") && one[1].ends_with("{\"y\":2}"), "{one:?}");
    assert!(one.iter().all(|line| !line.contains("artifacts")), "{one:?}");
    // Where results are looked up, equal ones need not run again.
    assert!(two.iter().all(|line| one.contains(line)), "{one:?} {two:?}");
    assert!(one.iter().all(|line| two.contains(line)), "{one:?} {two:?}");
}

/// What the second attempt found of the first: files in its scratch directory, and lines of reports. The first was killed with its
/// engine; if something `changed`, it was put back before the second.
fn found_of_the_first_attempt(changed: Option<&str>) -> Value {
    let sandbox = Sandbox::with_study(
        StudyFile::new("s")
            .with("inputs = [\"m.txt\"]")
            .stage("a", ["sh", "-c", "echo left > o"], 1, 1)
            .with("outputs = [\"o\"]")
            .stage("b", ["sh", "{study_dir}/b.sh", "{parent_dir}"], 1, 1)
            .minimize("files"),
    );
    sandbox.write("m.txt", "one");
    let script = r#"dir=$PWD; cd "$PITON_STUDY_DIR"
if [ ! -e second ]; then
    : > began; while [ ! -e goes_on ]; do sleep 0.02; done
    mkdir -p "$PITON_SCRATCH_DIR/deep"; echo 7 > "$PITON_SCRATCH_DIR/deep/checkpoint"
    echo '{"step": 7, "loss": 7}' >> "$PITON_PROGRESS_FILE"
    : > wrote; while :; do sleep 1; done
fi
files=$(find "$PITON_SCRATCH_DIR" -type f | wc -l)
lines=$(cat "$PITON_PROGRESS_FILE" 2>/dev/null | wc -l)
echo "{\"files\": $files, \"lines\": $lines}" > "$dir/metrics.json"
"#;
    sandbox.write("b.sh", script);
    let engine = sandbox.start("run study.toml");
    wait_until("its start is recorded", || {
        sandbox.path("began").exists() && sandbox.dump()["trials"][1]["attempts"][0].is_object()
    });
    let was = changed.map(|name| (name, fs::read_to_string(sandbox.path(name)).unwrap()));
    // It looks at nothing meanwhile.
    engine.signal(Signal::STOP);
    was.iter().for_each(|(name, _)| sandbox.write(name, "other"));
    sandbox.write("goes_on", "");
    wait_until("it wrote", || sandbox.path("wrote").exists());
    engine.killed();
    was.iter().for_each(|(name, was)| sandbox.write(name, was));
    sandbox.write("second", "");
    sandbox.ok("run study.toml", 0);
    sandbox.ok("verify study.redb", 0);
    let trial = sandbox.dump()["trials"][1].clone();
    assert_eq!(trial["attempts"].as_array().unwrap().len(), 2, "{trial}");
    json!([trial["metrics"]["files"], trial["metrics"]["lines"]])
}

#[test]
fn what_an_attempt_kept_is_trusted_only_if_nothing_changed_since_it_started() {
    assert_eq!(found_of_the_first_attempt(None), json!([1, 1]));
    assert_eq!(found_of_the_first_attempt(Some("m.txt")), json!([0, 0]));
    assert_eq!(found_of_the_first_attempt(Some("artifacts/s/0_a/s_0_0/attempt_1/o")), json!([0, 0]));
}

//! Amendments that read again what finished trials left. Each leaves the canonical dump of a study that had the rule from its beginning.

use crate::harness::{Edit, Sandbox, StudyFile};

/// A stage whose trials note their case, say numbers in their log and in a file, and report `m`.
fn stage(name: &str, budget: u64, param: &str, more: &str) -> StudyFile {
    let command = r#"echo $PITON_CASE >> $PITON_STUDY_DIR/log; echo "area {P}00 errors {P}"; echo "area = {P}7" > sta.rpt
                     echo "{{\"m\": {P}}}" > metrics.json
                     [ {P} != 3 ] || [ -n "$CALM" ] || {{ echo "Error: no licence" >&2; exit 3; }}"#;
    StudyFile::fragment()
        .stage(name, command.edit("{P}", &format!("{{{param}}}")), budget, 2)
        .sweep(format!(r#"{param} = {{ min = 1, max = {budget}, type = "int" }}"#))
        .maximize("m")
        .with(more)
}

fn study(stages: impl AsRef<str>) -> StudyFile {
    StudyFile::new("s").run("workers = 1").with(stages)
}

const AREA: &str = "[stage.metrics]\narea = { file = \"stdout.log\", regex = 'area ([0-9]+)' }\n";

/// The canonical dump of a study that has it from its beginning.
fn from_its_beginning(text: impl AsRef<str>, code: i32) -> String {
    let sandbox = Sandbox::with_study(text);
    sandbox.ok("run study.toml", code);
    sandbox.canonical()
}

/// Amended, run on if it has to, and held against one that was so from the start. How many trials ran for it, and what the plan said.
fn amended(before: impl AsRef<str>, after: impl AsRef<str>, (first, then): (i32, i32)) -> (usize, String) {
    let sandbox = Sandbox::finished(before, first);
    let ran = sandbox.lines("log").len();
    let words = sandbox.amend(&after, "--yes", 0);
    sandbox.ok("verify study.redb", 0);
    sandbox.ok("run study.toml", then);
    sandbox.ok("verify study.redb", 0);
    let again = sandbox.lines("log").len() - ran;
    assert_eq!(sandbox.canonical(), from_its_beginning(after, then), "{words}");
    (again, words)
}

#[test]
fn a_metric_is_read_out_of_the_logs_of_finished_trials() {
    let (before, after) = (study(stage("a", 5, "n", "")), study(stage("a", 5, "n", AREA)));
    let sandbox = Sandbox::finished(&before, 0);
    let shown = sandbox.amend(&after, "--dry-run", 0);
    assert!(
        shown.contains("rereads") && shown.contains("re-reads 5 finished trials: metric `area` found in 4"),
        "{shown}"
    );
    let json = sandbox.amend(&after, "--dry-run --json", 0);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (&json["changes"][0]["class"], &json["rereads"][0]["found"]["area"]),
        (&"rereads".into(), &4.into())
    );
    let words = sandbox.amend(&after, "--yes", 0);
    assert!(!words.contains("reopens"), "{words}");
    let dump = sandbox.dump();
    assert_eq!(dump["study"]["status"], "completed");
    assert_eq!(dump["trials"][4]["metrics"]["area"], 500.0);
    sandbox.ok("verify study.redb", 0);
    assert_eq!(sandbox.canonical(), from_its_beginning(&after, 0));
    sandbox.ok("run study.toml", 0);
    assert_eq!(sandbox.lines("log").len(), 5, "nothing ran for it");
    // What was recorded before can still be seen.
    let old = sandbox.ok("dump study.redb --format json --at 10", 0);
    assert!(!old.contains("area\":"), "{old}");
}

/// What is printed is measured anew; but what it showed at a rung has decided already.
#[test]
fn reports_are_read_again_unless_trials_end_by_them() {
    let with = |regex: &str, more: &str| {
        let progress = format!("[stage.progress]\nfile = \"stdout.log\"\nregex = '{regex}'\n{more}");
        study(stage("a", 5, "n", &progress))
    };
    let (before, after) = ("area (?<step>[0-9]+) errors (?<e>[0-9]+)", "area (?<step>(?<e>[0-9]+)) errors");
    let (ran, words) = amended(with(before, ""), with(after, ""), (0, 0));
    assert!(ran == 0 && words.contains("re-reads 5 finished trials: metric `e` found in 4"), "{words}");
    let (ran, words) = amended(with(before, ""), with(before, "final = false\n"), (0, 0));
    assert!(ran == 0 && words.contains("rereads"), "{words}");
    for more in [
        "[stage.halving]\nrungs = [200]\nmetric = \"e\"\ngoal = \"minimize\"\n",
        "[[stage.stop_if]]\nmetric = \"e\"\nabove = 900\n",
    ] {
        let sandbox = Sandbox::finished(with(before, more), 0);
        let (was, words) = (sandbox.canonical(), sandbox.amend(with(after, more), "--yes", 6));
        assert!(words.contains("invalidates stage \"a\".progress.regex"), "{words}");
        assert_eq!(sandbox.canonical(), was);
    }
}

#[test]
fn what_survives_may_follow_from_what_was_read() {
    let least = format!("[[stage.objective]]\nmetric = \"area\"\ngoal = \"minimize\"\n{AREA}");
    let before = study(stage("a", 5, "n", ""));
    let after = study(stage("a", 5, "n", &least))
        .edit_first("[[stage.objective]]\nmetric = \"m\"\ngoal = \"maximize\"\n", "");
    let (ran, words) = amended(&before, &after, (0, 0));
    assert!(ran == 0 && words.contains("the survivors are chosen anew"), "{words}");
}

#[test]
fn a_rule_that_found_nothing_is_mended_and_no_trial_runs_again() {
    let rule = |regex: &str| {
        format!(
            "outputs = [\"sta.rpt\"]\n[[stage.objective]]\nmetric = \"area\"\ngoal = \"minimize\"\n[stage.metrics]\narea = {{ file = \"sta.rpt\", regex = '{regex}' }}\n"
        )
    };
    let with = |regex: &str| {
        let text = study(stage("a", 5, "n", ""));
        let (head, _) = text.as_ref().split_once("[stage.sweep]").unwrap();
        format!(
            "{head}outputs = [\"sta.rpt\"]\n[stage.sweep]\nn = {{ min = 1, max = 5, type = \"int\" }}\n{}",
            rule(regex).edit_first("outputs = [\"sta.rpt\"]\n", "")
        )
    };
    let (before, after) = (with("aera = ([0-9]+)"), with("area = ([0-9]+)"));
    let (ran, words) = amended(&before, &after, (3, 0));
    assert!(ran == 0 && words.contains("4 trials become succeeded"), "{words}");
}

#[test]
fn a_failure_rule_names_failures_that_there_are() {
    let rule = |retryable: bool| {
        format!("[[stage.failure]]\nkind = \"licence\"\nlog = 'no licence'\nretryable = {retryable}\n")
    };
    let before = study(stage("a", 5, "n", ""));
    let (ran, words) = amended(&before, study(stage("a", 5, "n", &rule(false))), (0, 0));
    assert!(ran == 0 && words.contains("1 failed trial called licence"), "{words}");
    // One that was not worth a retry, and is now.
    let retried = |rule: &str| {
        study(stage("a", 5, "n", rule))
            .edit("survivor_count = 2", "survivor_count = 2\nretries = { count = 1, delay = \"1ms\" }")
    };
    let (ran, words) = amended(retried(&rule(false)), retried(&rule(true)), (0, 0));
    assert!(ran == 1 && words.contains("1 failed trial run"), "{words}");
}

#[test]
fn a_rail_is_asked_of_what_is_there_and_says_so_before() {
    let rail = |rail: &str| format!("[stage.rails]\n{rail}\n");
    let before = study(stage("a", 5, "n", ""));
    let rate = study(stage("a", 5, "n", &rail("max_failure_rate = 0.1")));
    let (ran, words) = amended(&before, &rate, (0, 3));
    assert!(
        ran == 0 && words.contains("rail `max_failure_rate` would be broken by `s_0_2`: the study aborts"),
        "{words}"
    );
    let bound =
        study(stage("a", 5, "n", &format!("{}{AREA}", rail("abort_if = [{ metric = \"area\", above = 350 }]"))));
    let (_, words) = amended(&before, &bound, (0, 3));
    assert!(words.contains("rail `abort_if` would be broken by `s_0_3`: the study aborts"), "{words}");
    // None is broken.
    let wide = study(stage("a", 5, "n", &rail("max_failure_rate = 0.9")));
    let (_, words) = amended(&before, &wide, (0, 0));
    assert!(words.contains("asked of all results of the stage") && !words.contains("aborts"), "{words}");
    // Trials that lack what the rail needs have failed.
    let lacking = rail("abort_if = [{ metric = \"deep\", above = 350 }]");
    let lacking = study(stage(
        "a",
        5,
        "n",
        &format!("{lacking}[stage.metrics]\ndeep = {{ file = \"stdout.log\", regex = 'area ([0-2]00)' }}\n"),
    ));
    let (ran, words) = amended(&before, &lacking, (0, 0));
    assert!(ran == 0 && words.contains("2 trials become failed (missing_metric)"), "{words}");
}

#[test]
fn later_stages_stand_if_their_parents_do() {
    let both = |more: &str| study(format!("{}{}", stage("a", 5, "n", more), stage("b", 4, "k", "")));
    let (ran, words) = amended(both(""), both(AREA), (0, 0));
    assert!(ran == 0 && words.contains("metric `area` found in 4"), "{words}");
    // The best two have no `deep`: they have failed, and other ones survive.
    let deep = "[stage.rails]\nabort_if = [{ metric = \"deep\", above = 900 }]\n[stage.metrics]\ndeep = { file = \"stdout.log\", regex = 'area ([0-4]00)' }\n";
    let sandbox = Sandbox::finished(both(""), 0);
    let words = sandbox.amend(both(deep), "--yes", 6);
    assert!(words.contains("other cases would survive") && words.contains("--discard-from b"), "{words}");
    sandbox.amend(both(deep), "--yes --discard-from b", 0);
    sandbox.ok("run study.toml", 0);
    sandbox.ok("verify study.redb", 0);
    assert_eq!(sandbox.canonical(), from_its_beginning(both(deep), 0));
    assert_eq!(sandbox.lines("log").len(), 5 + 4 + 4, "the first stage did not run again");
}

#[test]
fn what_is_gone_or_changed_is_no_evidence() {
    let before = study(stage("a", 5, "n", "")).edit("[stage.sweep]", "outputs = [\"sta.rpt\"]\n[stage.sweep]");
    let after = format!("{before}[stage.metrics]\narea = {{ file = \"sta.rpt\", regex = 'area = ([0-9]+)' }}\n");
    let log = format!("{before}{AREA}");
    let dir = "artifacts/s/0_a/s_0_1/attempt_1";
    type Spoil<'a> = &'a dyn Fn(&Sandbox);
    let spoiled: [(&str, &str, Spoil<'_>); 5] = [
        (&after, "`sta.rpt` is not what was recorded", &|sandbox| {
            sandbox.write(&format!("{dir}/sta.rpt"), "area = 1")
        }),
        (&log, "`stdout.log` is not there", &|sandbox| {
            std::fs::remove_file(sandbox.path(&format!("{dir}/stdout.log"))).unwrap()
        }),
        (&log, "its files do not say any more what they said", &|sandbox| {
            sandbox.write(&format!("{dir}/metrics.json"), "{\"m\": 9}")
        }),
        (&log, "the attempt's directory is gone", &|sandbox| std::fs::remove_dir_all(sandbox.path(dir)).unwrap()),
        (&after, "sta.rpt", &|sandbox| {
            let path = sandbox.path(&format!("{dir}/sta.rpt"));
            std::fs::remove_file(&path).unwrap();
            std::os::unix::fs::symlink("/etc/passwd", path).unwrap();
        }),
    ];
    for (text, why, spoil) in spoiled {
        let sandbox = Sandbox::finished(&before, 0);
        spoil(&sandbox);
        let words = sandbox.amend(text, "--yes", 6);
        assert!(words.contains("invalidates") && words.contains("`s_0_1` (") && words.contains(why), "{words}");
        assert_eq!(sandbox.dump()["trials"][1]["metrics"]["m"], 2.0);
        sandbox.amend(text, "--yes --discard-from a", 0);
    }
}

/// Who gives up what nobody can read any more runs that alone, and the study is what it would be with the rule from its beginning.
#[test]
fn a_result_whose_files_are_gone_is_all_that_runs_again() {
    let reusing = |text: StudyFile, reuse: bool| match reuse {
        true => text.edit("survivor_count = 2", "survivor_count = 2\nreuse = true"),
        false => text,
    };
    for reuse in [false, true] {
        let of = |more: &str| reusing(study(stage("a", 5, "n", more)), reuse);
        let sandbox = Sandbox::finished(of(""), 0);
        sandbox.ok("amend study.redb study.toml --dry-run --discard-unread", 2);
        std::fs::remove_dir_all(sandbox.path("artifacts/s/0_a/s_0_4")).unwrap();
        let said = sandbox.amend(of(AREA), "--yes", 6);
        assert!(
            said.contains("the attempt's directory is gone); `--discard-unread` discards these alone"),
            "{said}"
        );
        let said = sandbox.amend(of(AREA), "--dry-run --discard-unread --json", 0);
        let json: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert_eq!(json["rereads"][0]["given_up"][0]["case"], "s_0_4");
        let said = sandbox.amend(of(AREA), "--yes --discard-unread", 0);
        let words = "1 finished trial that cannot be read again is discarded and runs again: `s_0_4`";
        assert!(said.contains(words) && said.contains("reopens"), "{said}");
        sandbox.ok("verify study.redb", 0);
        let dump = sandbox.dump();
        assert_eq!(
            (&dump["trials"][4]["state"], &dump["accounting"]["interrupted"]),
            (&"pending".into(), &1.into())
        );
        let events = sandbox.ok("dump study.redb --events", 0);
        assert!(events.contains("cannot be read again: the attempt's "), "{events}");
        sandbox.ok("run study.toml", 0);
        assert_eq!(sandbox.lines("log").split_off(5), ["s_0_4"]);
        sandbox.ok("verify study.redb", 0);
        assert_eq!(sandbox.canonical(), from_its_beginning(of(AREA), 0));
        let old = sandbox.ok("dump study.redb --format json --at 10", 0);
        assert!(!old.contains("\"area\":"), "what was recorded before is still there");
    }
    // A later stage began with what may survive no more: it has to go besides.
    let both = |more: &str| study(format!("{}{}", stage("a", 5, "n", more), stage("b", 4, "k", "")));
    let sandbox = Sandbox::finished(both(""), 0);
    std::fs::remove_file(sandbox.path("artifacts/s/0_a/s_0_0/attempt_1/stdout.log")).unwrap();
    let said = sandbox.amend(both(AREA), "--yes --discard-unread", 6);
    assert!(said.contains("1 trial would run again") && said.contains("--discard-from b"), "{said}");
    sandbox.amend(both(AREA), "--yes --discard-unread --discard-from b", 0);
    sandbox.ok("run study.toml", 0);
    assert_eq!(sandbox.lines("log").len(), 5 + 4 + 1 + 4);
    assert_eq!(sandbox.canonical(), from_its_beginning(both(AREA), 0));
    sandbox.ok("verify study.redb", 0);
}

/// One that was taken over runs, too, or takes what an equal trial has.
#[test]
fn a_result_that_was_taken_over_can_be_given_up() {
    let of = |values: &str, more: &str| {
        StudyFile::new("s")
            .stage(
                "a",
                r#"echo {n} >> $PITON_STUDY_DIR/log; echo {n} | tee out; echo "{{\"m\": {n}}}" > metrics.json"#,
                9,
                1,
            )
            .with("reuse = true")
            .with(r#"outputs = ["out"]"#)
            .sweep(format!("n = {values}"))
            .with(more)
            .maximize("m")
    };
    let rule = "[stage.metrics]\nsize = { file = \"stdout.log\", regex = '([0-9]+)' }\n";
    let sandbox = Sandbox::finished(of("[1, 2]", ""), 0);
    sandbox.amend(of("[3, 2, 1]", ""), "--yes", 0);
    sandbox.ok("run study.toml", 0);
    assert_eq!(sandbox.dump()["stages"][0]["reused"], 2);
    sandbox.amend(of("[3, 2, 1]", rule), "--yes", 6);
    let said = sandbox.amend(of("[3, 2, 1]", rule), "--yes --discard-unread", 0);
    assert!(said.contains("2 finished trials that cannot be read again are discarded and run again"), "{said}");
    sandbox.ok("verify study.redb", 0);
    sandbox.ok("run study.toml", 0);
    sandbox.ok("verify study.redb", 0);
    let mut ran = sandbox.lines("log").split_off(3);
    ran.sort();
    assert_eq!(ran, ["1", "2"]);
    assert_eq!(sandbox.canonical(), from_its_beginning(of("[3, 2, 1]", rule), 0));
}

#[test]
fn a_failure_that_cannot_be_read_again_stays_as_it_is() {
    let sandbox = Sandbox::finished(study(stage("a", 5, "n", "")), 0);
    sandbox.write("artifacts/s/0_a/s_0_2/attempt_1/stderr.log", "Error: other\n");
    let rule = "[[stage.failure]]\nkind = \"licence\"\nlog = 'Error'\n";
    let words = sandbox.amend(study(stage("a", 5, "n", rule)), "--yes", 0);
    assert!(words.contains("1 failed trial cannot be read again and stays as it is"), "{words}");
    assert_eq!(sandbox.dump()["trials"][2]["failure"]["kind"], "exit_code");
}

/// Results that were read again are known by the new rules: a grid that grows takes them.
#[test]
fn results_that_were_read_again_are_taken_by_a_later_replan() {
    let reusing = |budget: u64, more: &str| {
        study(stage("a", budget, "n", more))
            .edit("survivor_count = 2", "survivor_count = 2\nreuse = true")
            .edit("echo $PITON_CASE >> $PITON_STUDY_DIR/log", "echo {n} >> $PITON_STUDY_DIR/log")
    };
    let sandbox = Sandbox::finished(reusing(5, ""), 0);
    let words = sandbox.amend(reusing(5, AREA), "--yes", 0);
    assert!(words.contains("re-reads 5 finished trials"), "{words}");
    sandbox.ok("verify study.redb", 0);
    sandbox.ok("run study.toml", 0);
    assert_eq!(sandbox.canonical(), from_its_beginning(reusing(5, AREA), 0));
    sandbox.amend(reusing(6, AREA), "--yes --discard-from a", 0);
    sandbox.ok("run study.toml", 0);
    sandbox.ok("verify study.redb", 0);
    let ran: Vec<String> = sandbox.lines("log").split_off(5);
    assert_eq!(ran, ["3", "6"], "the failure, and the new one");
    assert_eq!(sandbox.canonical(), from_its_beginning(reusing(6, AREA), 0));
    // Those that were taken over have no logs here.
    let other = AREA.edit("area =", "size =");
    let words = sandbox.amend(reusing(6, &other), "--yes", 6);
    assert!(words.contains("it was taken over"), "{words}");
}

/// Accepting a changed input alters no identity: a result that is read again later, or at once, is known by the input that it was made with.
#[test]
fn what_was_made_before_a_change_was_accepted_is_read_again_as_what_it_was() {
    let reusing = |budget: u64, more: &str| {
        study(stage("a", budget, "n", more))
            .edit("survivor_count = 2", "survivor_count = 2\nreuse = true")
            .edit("name = \"s\"", "name = \"s\"\ninputs = [\"in\"]")
    };
    let made = || {
        let sandbox = Sandbox::with_study(reusing(5, ""));
        sandbox.write("in", "1");
        sandbox.ok("run study.toml", 0);
        sandbox
    };
    let last_identities = |sandbox: &Sandbox| -> Vec<String> {
        let events = sandbox.ok("dump study.redb --events --format jsonl", 0);
        let events = events.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let identified = events.filter(|event| event["type"] == "result_identified");
        let mut last: Vec<String> =
            identified.map(|event| event["identity"].as_str().unwrap().to_owned()).collect();
        last.split_off(last.len() - 4)
    };
    let unchanged = made();
    unchanged.amend(reusing(5, AREA), "--yes", 0);
    let accept = "--yes --accept-inputs --note equal";
    let (later, at_once) = (made(), made());
    for sandbox in [&later, &at_once] {
        sandbox.write("in", "2");
    }
    later.amend(reusing(5, ""), accept, 0);
    later.amend(reusing(5, AREA), "--yes", 0);
    let words = at_once.amend(reusing(5, AREA), accept, 0);
    assert!(words.contains("accepted") && words.contains("rereads"), "{words}");
    for sandbox in [&later, &at_once] {
        assert_eq!(last_identities(sandbox), last_identities(&unchanged));
        sandbox.ok("verify study.redb", 0);
        sandbox.amend(reusing(6, AREA), "--yes --discard-from a", 0);
        sandbox.ok("run study.toml", 0);
        sandbox.ok("verify study.redb", 0);
        assert_eq!(sandbox.lines("log").len(), 5 + 2, "the failure, and the new one");
    }
}

/// A result that was taken over has its outputs: what is read from those alone can be read again.
#[test]
fn results_that_were_taken_over_are_read_again_from_their_outputs() {
    let study = |values: &str, more: &str, m: &str| {
        StudyFile::new("s")
            .stage("a", r#"echo {n} >> $PITON_STUDY_DIR/log; echo "area = {n}7" > sta.rpt; echo area {n} "#, 9, 1)
            .with("reuse = true")
            .with(r#"outputs = ["sta.rpt"]"#)
            .sweep(format!("n = {values}"))
            .with(format!("[stage.metrics]\nm = {{ file = \"{m}\", regex = 'area (?:= )?([0-9]+)' }}"))
            .with(more)
            .maximize("m")
    };
    let tens = r#"tens = { file = "sta.rpt", regex = '([0-9])[0-9]' }"#;
    for (m, reads) in [("sta.rpt", true), ("stdout.log", false)] {
        let sandbox = Sandbox::finished(study("[1, 2]", "", m), 0);
        sandbox.amend(study("[3, 2, 1]", "", m), "--yes", 0);
        sandbox.ok("run study.toml", 0);
        assert_eq!(sandbox.lines("log").len(), 3);
        let whole = study("[3, 2, 1]", tens, m);
        if !reads {
            let said = sandbox.amend(&whole, "--dry-run", 6);
            assert!(said.contains("it was taken over, and its logs and other files were not"), "{said}");
            continue;
        }
        let said = sandbox.amend(&whole, "--yes", 0);
        assert!(said.contains("re-reads 3 finished trials: metric `tens` found in 3"), "{said}");
        sandbox.ok("verify study.redb", 0);
        sandbox.ok("run study.toml", 0);
        assert_eq!(sandbox.lines("log").len(), 3, "nothing ran for it");
        assert_eq!(sandbox.canonical(), from_its_beginning(&whole, 0));
        // Who asks is told that it was, and when.
        let why = sandbox.ok("why study.redb s_0_1", 0);
        assert!(why.contains("read again by rules that an amendment changed, 20"), "{why}");
        let why: serde_json::Value = serde_json::from_str(&sandbox.ok("why study.redb s_0_1 --json", 0)).unwrap();
        assert_eq!(why["read_again"][0]["outcome"], "succeeded");
        sandbox.ok("report study.redb -o report.html", 0);
        let page = std::fs::read_to_string(sandbox.path("report.html")).unwrap();
        assert!(page.contains("What 3 finished trials of stage a left was read again"));
        // They can be taken again.
        sandbox.amend(whole.edit("[3, 2, 1]", "[1, 2, 3]"), "--yes", 0);
        sandbox.ok("run study.toml", 0);
        assert_eq!(sandbox.lines("log").len(), 3);
    }
}

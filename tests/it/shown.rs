//! What is printed is what is: every param in every table, values as trials got them, times that agree; and no word of a
//! trial, a proposer or a store steers a terminal or a CI server.

use serde_json::Value as Json;

use crate::harness::{Edit, Sandbox, StudyFile, both};

const OBJECTIVE: &str = "[[stage.objective]]\nmetric = \"y\"\ngoal = \"minimize\"\n";

/// One stage with this command and these further lines.
fn study(command: &str, budget: u32, more: &str) -> Sandbox {
    Sandbox::with_study(
        StudyFile::new("s")
            .with("[params]\ndesign = \"gcd\"\nx = 7")
            .run("workers = 2")
            .stage("a", command, budget, 1)
            .with(more),
    )
}

const REPORT: &str = r#"printf "{{\"y\": 0.30000000000000004}}" > "$PITON_METRICS_FILE""#;

fn asking(answer: &str) -> Sandbox {
    let sweep = "sampling = { ask = [\"./p.py\"] }\n[stage.sweep]\nz = { min = 0.0, max = 1.0 }\n";
    let sandbox = study(REPORT, 1, &format!("{sweep}{OBJECTIVE}"));
    let python = "#!/usr/bin/env python3\nimport json, sys\nfor line in sys.stdin:\n    \
                  if json.loads(line)[\"type\"] == \"ask\":\n        print(json.dumps(";
    sandbox.write("p.py", format!("{python}{answer}), flush=True)\n"));
    std::fs::set_permissions(sandbox.path("p.py"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    sandbox
}

#[test]
fn every_param_is_in_every_table() {
    let file = study(REPORT, 2, &format!("sampling = {{ file = \"c.csv\" }}\n{OBJECTIVE}"));
    file.write("c.csv", "x,tag\n1,u\n2,v\n");
    let result = file.ok("run study.toml", 0);
    for word in ["design", "gcd", "tag", " u ", "x", " 1 ", "0.30000000000000004"] {
        assert!(result.contains(word), "{word} in {result}");
    }
    let csv = file.ok("dump study.redb --format csv", 0);
    assert!(csv.lines().next().unwrap().contains("param.design,param.tag,param.x"), "{csv}");
    assert!(csv.contains(",gcd,u,1,") && csv.contains(",gcd,v,2,"), "{csv}");

    let asked = asking("{\"params\": {\"z\": 0.1234567890123}}");
    let result = asked.ok("run study.toml", 0);
    assert!(result.contains(" z ") && result.contains("0.1234567890123"), "{result}");
    let csv = asked.ok("dump study.redb --format csv", 0);
    assert!(csv.contains("param.z") && csv.contains("0.1234567890123"), "{csv}");
    let report = asked.path("r.html");
    asked.ok("report study.redb -o r.html", 0);
    let page = std::fs::read_to_string(report).unwrap();
    assert!(page.contains("Winner: <strong>s_0_0") && page.contains("z=0.1234567890123"));

    // Also where CI shows it, and where the table does not fit.
    let mut ci = file.piton(["run", "study.toml", "--ci"]);
    assert!(ci.env("GITHUB_STEP_SUMMARY", file.path("sum.md")).status().unwrap().success());
    let summary = std::fs::read_to_string(file.path("sum.md")).unwrap();
    assert!(summary.contains("| design | tag | x |") && summary.contains("| gcd | u | 1 |"), "{summary}");
    let mut narrow = file.piton(["run", "study.toml"]);
    let narrow = narrow.env("COLUMNS", "30").output().unwrap();
    let text = String::from_utf8(narrow.stdout).unwrap();
    assert!(text.contains("\n  y = 0.30000000000000004\n") && text.contains("\n  tag = u\n"), "{text}");
}

#[test]
fn a_plan_shows_params_that_the_command_does_not() {
    let sandbox = study("true", 3, "[stage.sweep]\nz = [1, 2, 3]\n");
    let plan = sandbox.ok("check study.toml", 0);
    for z in 1..=3 {
        assert!(plan.contains(&format!("design=gcd x=7 z={z}")), "{plan}");
    }
    let json: Json = serde_json::from_str(&sandbox.ok("check study.toml --json", 0)).unwrap();
    assert_eq!(json["stages"][0]["first_commands"][1]["params"]["z"], 2);
}

#[test]
fn a_rule_sees_what_why_shows() {
    let rules = "[[stage.failure]]\nkind = \"boom\"\nlog = \"^ERR: boom$\"\n";
    let sandbox = study(r#"printf "\033[31mERR: boom\033[0m\r\n" >&2; exit 3"#, 1, rules);
    sandbox.ok("run study.toml", 3);
    let why = sandbox.ok("why study.redb s_0_0", 0);
    assert!(why.contains("boom") && why.contains("| ERR: boom\n"), "{why}");
    assert_eq!(sandbox.dump()["trials"][0]["failure"]["kind"], "boom");

    let metric = "[stage.metrics]\ny = { file = \"stdout.log\", regex = '^y = ([0-9.]+)' }\n";
    let coloured = study(r#"printf "\033[1my = 2.5\033[m\r\n""#, 1, &format!("{metric}{OBJECTIVE}"));
    coloured.ok("run study.toml", 0);
    assert_eq!(coloured.dump()["trials"][0]["metrics"]["y"], 2.5);
}

#[test]
fn no_attempt_ends_before_it_starts_and_times_agree() {
    let sandbox = study("true", 60, "[stage.sweep]\nz = { min = 1, max = 60, type = \"int\" }\n");
    sandbox.ok("run study.toml", 0);
    let dump = sandbox.dump();
    let attempts = dump["trials"].as_array().unwrap().iter().map(|trial| &trial["attempts"][0]);
    for attempt in attempts {
        let at = |name: &str| attempt[name].as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_millisecond();
        let lasted = (at("ended_at") - at("started_at")) as f64;
        let wall_ms = attempt["wall_s"].as_f64().unwrap() * 1e3;
        assert!(lasted >= wall_ms.floor() - 1.0, "{attempt}");
    }
}

#[test]
fn a_log_that_is_gone_is_an_error() {
    let sandbox = study(REPORT, 1, OBJECTIVE);
    sandbox.ok("run study.toml", 0);
    std::fs::remove_file(sandbox.path("artifacts/s/0_a/s_0_0/attempt_1/stdout.log")).unwrap();
    for line in ["logs study.redb s_0_0", "logs study.redb s_0_0 --follow"] {
        let output = sandbox.run(line);
        assert_eq!(output.status.code(), Some(1), "{line}");
        assert!(both(&output).contains("s_0_0/attempt_1/stdout.log"), "{}", both(&output));
    }
    sandbox.ok("logs study.redb s_0_0 --stderr", 0);
    std::fs::remove_dir_all(sandbox.path("artifacts")).unwrap();
    sandbox.ok("logs study.redb s_0_0 --stderr", 1);
}

#[test]
fn another_artifacts_directory_is_refused_also_of_a_finished_study() {
    let sandbox = study(REPORT, 1, OBJECTIVE);
    sandbox.ok("run study.toml", 0);
    sandbox.ok("run study.toml --artifacts elsewhere", 2);
    sandbox.ok("run study.toml --artifacts artifacts", 0);
}

#[test]
fn an_amendment_of_a_table_of_run_is_one() {
    let sandbox = study(REPORT, 1, OBJECTIVE);
    sandbox.ok("run study.toml", 0);
    sandbox.edit("study.toml", "workers = 2", "workers = 2\nexecutor = \"slurm\"\n[run.slurm]\npartition = \"a\"");
    let said = sandbox.ok("amend study.redb study.toml --yes", 0);
    assert!(said.contains("run.slurm.partition"), "{said}");
    let again = std::fs::read_to_string(sandbox.path("study.toml")).unwrap();
    sandbox.write("study.toml", again.edit("\"a\"\n", "\"b\"\n").edit_first("name = \"b\"", "name = \"a\""));
    let output = sandbox.run("amend study.redb study.toml --yes");
    assert!(!both(&output).contains("nothing to amend"), "{}", both(&output));
}

#[test]
fn people_see_their_own_time_and_data_has_utc() {
    let sandbox = study(REPORT, 1, OBJECTIVE);
    sandbox.ok("run study.toml", 0);
    for line in ["status study.redb", "why study.redb s_0_0", "dump study.redb"] {
        let output = sandbox.piton(line.split(' ')).env("TZ", "XST-5:45").output().unwrap();
        assert!(both(&output).contains("+05:45"), "{line}: {}", both(&output));
    }
    let status: Json = serde_json::from_str(&sandbox.ok("status study.redb --json", 0)).unwrap();
    assert!(status["run_started_at"].as_str().unwrap().ends_with('Z'), "{status}");
    assert!(status["run_ended_at"].as_str() >= status["run_started_at"].as_str(), "{status}");
}

#[test]
fn no_word_of_a_proposer_steers_a_terminal_or_a_ci_server() {
    let sandbox = asking(r#"{"params": {"\u001b]0;PWN\u0007\n::error::pwn": 1}}"#);
    for ci in ["true", "false"] {
        let output = sandbox.piton(["run", "study.toml", "--ci"]).env("GITHUB_ACTIONS", ci).output().unwrap();
        let said = both(&output);
        assert!(said.contains("PWN"), "{said}");
        assert!(!said.contains(['\u{1b}', '\u{7}']), "{said:?}");
        assert!(!said.lines().any(|line| line.starts_with("::error::pwn")), "{said}");
    }
}

#[test]
fn a_stage_says_what_was_cancelled() {
    let sandbox = study("exit 1", 4, "[stage.sweep]\nz = [1, 2, 3, 4]\n[stage.rails]\nmax_failure_rate = 0.1\n");
    sandbox.ok("run study.toml -j 1", 3);
    let stage = &sandbox.dump()["stages"][0];
    let count = |name: &str| stage[name].as_u64().unwrap();
    let all = ["succeeded", "failed", "cancelled", "pending", "running"].map(count).iter().sum::<u64>();
    assert_eq!(all, count("planned"), "{stage}");
}

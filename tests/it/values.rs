//! Values, from where they are written to what a trial gets and every table shows.

use std::fs;

use serde_json::Value as Json;

use crate::harness::{Sandbox, StudyFile, both, wait_until};

/// A stage whose cases are those of a file; each trial keeps what it got of `{v}` under its case's name.
fn listed(sampling: &str, params: &str) -> String {
    format!(
        r#"
study.name = "s"
run.workers = 2
[params]
{params}
[[stage]]
name = "a"
command = ["sh", "-c", 'printf %s "$1" > "$PITON_STUDY_DIR/got_$PITON_CASE"; cp params.json "$PITON_STUDY_DIR/params_$PITON_CASE"', "-", "{{v}}"]
trial_budget = 100
survivor_count = 1
sampling = {sampling}
"#
    )
}

/// The column of a name in `dump --format csv`, in the order of the trials.
fn column(sandbox: &Sandbox, name: &str) -> Vec<String> {
    let text = sandbox.ok("dump study.redb --format csv", 0);
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let place = reader.headers().unwrap().iter().position(|header| header == name).unwrap();
    reader.records().map(|record| record.unwrap()[place].to_owned()).collect()
}

fn got(sandbox: &Sandbox, case: usize) -> String {
    fs::read_to_string(sandbox.path(&format!("got_s_0_{case}"))).unwrap()
}

fn params(sandbox: &Sandbox, case: usize) -> String {
    fs::read_to_string(sandbox.path(&format!("params_s_0_{case}"))).unwrap()
}

#[test]
fn what_a_cell_says_is_what_command_params_and_tables_get() {
    // Cell as it is written, value, and whether `params.json` has it as a number or boolean.
    let cells = [
        ("1.2", "1.2", true),
        ("1.20", "1.20", false),
        ("7e9", "7e9", false),
        ("0e1234567", "0e1234567", false),
        ("0x1F", "0x1F", false),
        ("007", "007", false),
        ("-0.0", "-0.0", true),
        ("2.0", "2.0", true),
        ("2.5e20", "2.5e20", true),
        ("1e-300", "1e-300", true),
        ("1e-400", "1e-400", false),
        ("9223372036854775807", "9223372036854775807", true),
        ("9223372036854775808", "9223372036854775808", false),
        ("true", "true", true),
        ("True", "True", false),
        ("\"1\"", "1", false),
        ("\"\"", "", false),
        ("\"a, \"\"b\"\"\"", "a, \"b\"", false),
        ("\"two\r\nlines\"", "two\r\nlines", false),
        (" padded ", " padded ", false),
        ("größer 好", "größer 好", false),
    ];
    let rows: String = cells.iter().map(|(cell, _, _)| format!("{cell},x\r\n")).collect();
    let sandbox = Sandbox::with_study(listed("{ file = \"c.csv\" }", "v = \"none\""));
    sandbox.write("c.csv", format!("\u{feff}v,w\r\n{rows}"));
    sandbox.ok("run study.toml", 0);
    let tables = column(&sandbox, "param.v");
    let dump = sandbox.dump();
    assert_eq!(tables.len(), cells.len(), "no row is lost");
    for (case, (cell, value, plain)) in cells.into_iter().enumerate() {
        assert_eq!(got(&sandbox, case), value, "the command of {cell:?}");
        assert_eq!(tables[case], value, "the table of {cell:?}");
        let text = serde_json::to_string(value).unwrap();
        let expected = if plain { value } else { &text };
        assert_eq!(params(&sandbox, case), format!("{{\"v\":{expected},\"w\":\"x\"}}\n"));
        let dumped = &dump["trials"][case]["params"]["v"];
        assert_eq!(dumped, &serde_json::from_str::<Json>(expected).unwrap(), "the dump of {cell:?}");
    }
}

#[test]
fn numbers_of_a_study_file_and_of_json_lines_have_one_text_everywhere() {
    let written = ["1e-300", "2.5e20", "1e5", "2.0", "0.30000000000000004", "-0.0", "12", "1.50"];
    let texts = ["1e-300", "2.5e20", "100000.0", "2.0", "0.30000000000000004", "-0.0", "12", "1.5"];
    let lines: String = written.iter().map(|number| format!("{{\"v\": {number}}}\n")).collect();
    for sampling in ["\"grid\"", "{ file = \"c.jsonl\" }"] {
        let sweep = format!("[stage.sweep]\nv = [{}]\n", written.join(", "));
        let sweep = if sampling == "\"grid\"" { sweep } else { String::new() };
        let sandbox = Sandbox::with_study(&(listed(sampling, "v = \"none\"") + &sweep));
        sandbox.write("c.jsonl", &lines);
        sandbox.ok("run study.toml", 0);
        assert_eq!(column(&sandbox, "param.v"), texts);
        for (case, text) in texts.iter().enumerate() {
            assert_eq!(got(&sandbox, case), *text);
            assert_eq!(params(&sandbox, case), format!("{{\"v\":{text}}}\n"));
        }
    }
}

#[test]
fn what_set_says_is_what_a_trial_gets() {
    for (set, value) in
        [("1.20", "1.20"), ("0x1F", "0x1F"), ("7e9", "7e9"), ("007", "007"), ("0.5", "0.5"), ("\"1.0\"", "1.0")]
    {
        let sandbox = Sandbox::with_study(listed("\"grid\"", "v = 1"));
        let set = format!("v={set}");
        let run = || sandbox.piton(["run", "study.toml", "--set", &set]).output().unwrap();
        let output = run();
        assert_eq!(output.status.code(), Some(0), "{}", both(&output));
        assert_eq!(got(&sandbox, 0), value);
        assert_eq!(column(&sandbox, "param.v"), [value]);
        // The same command finds the same study.
        let again = run();
        assert_eq!(again.status.code(), Some(0), "{}", both(&again));
    }
}

#[test]
fn a_value_that_cannot_be_kept_is_refused_with_its_line() {
    let sandbox = Sandbox::with_study(listed("{ file = \"c.jsonl\" }", "big = 1e400\nsmall = 1e-400"));
    sandbox.write("c.jsonl", "{\"v\": 1}\n{\"v\": 9223372036854775808}\n{\"v\": 1e-400}\n{\"v\": 2e-400}\n");
    let output = sandbox.run("check study.toml");
    let said = both(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    for words in [
        "study.toml:5:7",
        "`big` is too large for a 64-bit float",
        "study.toml:6:9",
        "c.jsonl:2:7",
        "`v` is an integer of more than 64 bits",
        "c.jsonl:3:7",
        "`v` is too small for a 64-bit float: it would become 0 (also in line 4)",
    ] {
        assert!(said.contains(words), "{words} in {said}");
    }
}

#[test]
fn empty_cells_are_no_params_and_columns_get_names() {
    let sampling = "{ file = \"c.csv\", rename = { \"temp (K)\" = \"v\" } }";
    let table = "temp (K),note\n300,\n,cold\n310,\"\"\n";
    let bare = Sandbox::with_study(listed("{ file = \"c.csv\" }", ""));
    bare.write("c.csv", table);
    let said = both(&bare.run("check study.toml"));
    assert!(said.contains("rename = { \"temp (K)\" = \"temp_K\" }"), "{said}");
    let without = Sandbox::with_study(listed(sampling, ""));
    without.write("c.csv", table);
    let output = without.run("check study.toml");
    assert_eq!(output.status.code(), Some(2));
    assert!(both(&output).contains("c.csv:3"), "{}", both(&output));
    let sandbox = Sandbox::with_study(listed(sampling, "v = \"room\""));
    sandbox.write("c.csv", table);
    sandbox.ok("run study.toml", 0);
    assert_eq!([got(&sandbox, 0), got(&sandbox, 1), got(&sandbox, 2)], ["300", "room", "310"]);
    assert_eq!(params(&sandbox, 0), "{\"v\":300}\n");
    assert_eq!(params(&sandbox, 2), "{\"note\":\"\",\"v\":310}\n");
    sandbox.ok("verify study.redb", 0);
}

#[test]
fn rows_that_repeat_others_are_left_out_with_a_word() {
    let sandbox = Sandbox::with_study(listed("{ file = \"c.csv\" }", "v = \"none\""));
    sandbox.write("c.csv", "v,w\n1,x\n1,x\n1.0,x\n");
    let output = sandbox.run("run study.toml");
    assert!(both(&output).contains("1 repeated row left out of its file of cases"), "{}", both(&output));
    assert_eq!(column(&sandbox, "param.v"), ["1", "1.0"]);
}

/// A stage of four trials that write these metrics, `{x}` among them, and need `y`.
fn reporting(metrics: &str) -> Sandbox {
    let command = format!("printf '{metrics}' {{x}} > metrics.json");
    Sandbox::with_study(StudyFile::new("s").stage("a", command, 4, 1).sweep("x = [1, 2, 3, 4]").minimize("y"))
}

#[test]
fn a_metric_that_nothing_needs_fails_nobody_and_is_told_of_once() {
    for odd in ["NaN", "-Infinity", "null", "true", "[1, 2]", "9007199254740993"] {
        let sandbox = reporting(&format!("{{{{\"odd\": {odd}, \"y\": %s}}}}"));
        let output = sandbox.run("run study.toml");
        let said = both(&output);
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert_eq!(said.matches("the metric `odd` is left out").count(), 1, "{said}");
        let metrics = &sandbox.dump()["trials"][0]["metrics"];
        assert_eq!(metrics, &serde_json::json!({ "y": 1 }), "{odd}");
        let why = sandbox.ok("why study.redb s_0_0", 0);
        assert!(why.contains("left out of its metrics: odd"), "{why}");
    }
}

#[test]
fn an_integer_that_a_float_rounds_selects_no_survivor() {
    let sandbox = reporting("{{\"y\": 900719925474099%s}}");
    let output = sandbox.run("run study.toml");
    assert_eq!(output.status.code(), Some(0), "{}", both(&output));
    let dump = sandbox.dump();
    let states: Vec<&str> =
        dump["trials"].as_array().unwrap().iter().map(|trial| trial["state"].as_str().unwrap()).collect();
    // …991 and …992 and …994 are floats, …993 is none.
    assert_eq!(states, ["succeeded", "succeeded", "failed", "succeeded"]);
    assert_eq!(dump["trials"][2]["failure"]["kind"], "bad_metrics");
    let reason = dump["trials"][2]["failure"]["reason"].as_str().unwrap();
    assert!(reason.contains("9007199254740993, which cannot be held exactly by a 64-bit float"), "{reason}");
}

/// One trial, for which this command is asked.
fn proposed_by(command: &str) -> StudyFile {
    StudyFile::new("s")
        .stage("a", ["true"], 1, 1)
        .with(format!("sampling = {{ ask = {command} }}"))
        .sweep("x = { min = 0, max = 1 }")
}

#[test]
fn a_proposer_that_keeps_the_study_waiting_is_told_of() {
    let hold = "while [ ! -e go ]; do sleep 0.05; done";
    let answer = "printf '{\"params\":{\"x\":0.5}}\\n'";
    let cases = [
        // It keeps its lines back.
        (format!("read a; read b; {hold}; {answer}; cat > heard"), "has not answered for"),
        (
            format!("read a; read b; printf '{{\"params\":'; {hold}; printf '{{\"x\":0.5}}}}\\n'; cat > heard"),
            "has not ended its line for",
        ),
    ];
    for (script, words) in cases {
        let sandbox = Sandbox::with_study(proposed_by(r#"["./p.sh"]"#));
        sandbox.script("p.sh", &script);
        let engine = sandbox.start("run study.toml");
        let said = || sandbox.lines("engine.err").join("\n");
        wait_until("it is told", || said().contains(words));
        assert!(said().contains("the proposer of stage `a`"), "{}", said());
        let status = || sandbox.ok("status study.redb --json", 0);
        wait_until("status tells it", || status().contains("\"waits_for_proposer\":{\"stage\":\"a\""));
        assert!(sandbox.ok("status study.redb", 0).contains("PYTHONUNBUFFERED=1"));
        sandbox.write("go", "");
        assert_eq!(engine.wait().code(), Some(0), "{}", said());
        assert!(!status().contains("waits_for_proposer"));
    }
}

#[test]
fn a_proposer_that_closes_its_output_has_not_ended() {
    let sandbox = Sandbox::with_study(proposed_by(r#"["sh", "-c", "exec >&-; cat > heard"]"#));
    let output = sandbox.run("run study.toml");
    assert_eq!(output.status.code(), Some(1), "{}", both(&output));
    assert!(both(&output).contains("it closed its standard output, but lives"), "{}", both(&output));
}

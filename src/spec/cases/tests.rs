use std::fs;

use proptest::prelude::*;

use super::*;
use crate::model::Value;
use crate::spec::{StageBuilder, parse_study};

fn csv(text: &str) -> Result<CaseList, Vec<CaseMistake>> {
    parse_cases(CaseFormat::Csv, text.as_bytes())
}

fn json(text: &str) -> Result<CaseList, Vec<CaseMistake>> {
    parse_cases(CaseFormat::JsonLines, text.as_bytes())
}

/// `line: message` of each mistake.
fn mistakes(result: Result<CaseList, Vec<CaseMistake>>) -> Vec<String> {
    let line = |mistake: &CaseMistake| mistake.line.map_or_else(|| "file".into(), |line| line.to_string());
    result.unwrap_err().iter().map(|mistake| format!("{}: {}", line(mistake), mistake.message)).collect()
}

fn text(text: &str) -> Value {
    Value::Str(text.into())
}

#[test]
fn csv_values_are_typed_like_toml() {
    let list =
        csv("a, b ,c,d\n1,-0.5,true,speed\n +2 ,1e3,\"\"\"7\"\"\",\"two,\n lines\"\n007,.5,True,'x y'\n").unwrap();
    assert_eq!(list.names, ["a", "b", "c", "d"]);
    let rows: Vec<Vec<Value>> = list.rows.into_iter().map(|row| row.into_iter().map(|v| v.0).collect()).collect();
    assert_eq!(
        rows,
        [
            [Value::Int(1), Value::Float(-0.5), Value::Bool(true), text("speed")],
            [Value::Int(2), Value::Float(1000.0), text("7"), text("two,\n lines")],
            [text("007"), text(".5"), text("True"), text("x y")],
        ]
    );
    assert_eq!(list.merged, 0);
}

#[test]
fn json_lines_keep_their_types_and_the_first_ones_order() {
    let list =
        json("{\"b\": 1, \"a\": \"1\"}\n\n  {\"a\": true, \"b\": 1.0}\r\n{\"b\": -2.5e3, \"a\": \"\"}").unwrap();
    assert_eq!(list.names, ["b", "a"]);
    let rows: Vec<Vec<Value>> = list.rows.into_iter().map(|row| row.into_iter().map(|v| v.0).collect()).collect();
    assert_eq!(
        rows,
        [[Value::Int(1), text("1")], [Value::Float(1.0), Value::Bool(true)], [Value::Float(-2500.0), text("")],]
    );
}

#[test]
fn equal_rows_are_merged_and_counted() {
    let list = csv("a,b\n1,x\n2,x\n1.0, x\n1,x\n1,\"\"\"1\"\"\"\n").unwrap();
    assert_eq!((list.rows.len(), list.merged), (3, 2));
    assert_eq!(list.rows[0][0].0, Value::Int(1), "the first spelling stays");
    // What one row's fields end with is not taken for the next one's beginning.
    assert_eq!(csv("a,b\nxy,z\nx,yz\n").unwrap().merged, 0);
    assert_eq!(json("{\"a\": 1, \"b\": 2}\n{\"b\": 2, \"a\": 1}\n").unwrap().merged, 1);
}

#[test]
fn every_mistake_of_a_csv_file_has_its_line() {
    let text = "a,b\n\n1,\n\r\n1\n1,2,3\nnan,\"x\ny\"\n4,5\" pipe\n6,\0\n";
    assert_eq!(
        mistakes(csv(text)),
        [
            "3: `b` has no value",
            "5: 1 value, but the header names 2",
            "6: 3 values, but the header names 2",
            "7: `a` must be a finite number",
            "9: a quote is never closed",
            "10: `b` has a NUL character, which cannot be passed on",
        ]
    );
    assert_eq!(
        mistakes(csv("\n\ncase,a,a,b c,\n1,2,3,4,5\n")),
        [
            "3: a param cannot be called `case`",
            "3: the param `a` is there twice",
            "3: `b c` is no name for a param",
            "3: a param without a name",
        ]
    );
    assert_eq!(mistakes(csv("a,b\n1,2\n3,\"4\n5,6\n")), ["3: a quote is never closed"]);
    assert_eq!(mistakes(csv("")), ["1: the header line with the params' names is missing"]);
    assert_eq!(mistakes(csv("a,b\n\n")), ["file: the file lists no case"]);
    assert_eq!(mistakes(parse_cases(CaseFormat::Csv, b"a\n1\n\xff\n")), ["3: the line is not UTF-8"]);
}

#[test]
fn every_mistake_of_a_json_lines_file_has_its_line() {
    let text = "{\"a\": 1, \"b\": 2}\n[1]\n{\"a\": 1}\n\n{\"a\": null, \"b\": [1], \"c\": 3}\n{\"a\": 1, \"a\": 2, \"b\": 3}\n{\"a\": 18446744073709551615, \"b\": \"\\u0000\"}\n{\"a\": 1e999, \"b\": 1}\n{\"a\": 1, \"b\": 2} x\n";
    let found = mistakes(json(text));
    assert_eq!(
        found,
        [
            "2: no flat JSON object: invalid type: sequence, expected an object",
            "3: `b` has no value",
            "5: `a` has no value",
            "5: `b` must be a string, boolean or number",
            "5: `c` is not in the first case",
            "6: the param `a` is there twice",
            "7: `a` is out of range",
            "7: `b` has a NUL character, which cannot be passed on",
            "8: no flat JSON object: number out of range (column 11)",
            "9: no flat JSON object: trailing characters (column 18)",
        ]
    );
    assert_eq!(mistakes(json("{\"a\": 1, \"a\": 2}")), ["1: the param `a` is there twice"]);
    assert_eq!(mistakes(json("{}")), ["1: the object is empty"]);
    assert_eq!(mistakes(json("\n")), ["file: the file lists no case"]);
    assert_eq!(mistakes(json(&"[".repeat(100_000))).len(), 1);
}

#[test]
fn a_byte_order_mark_is_no_part_of_a_name() {
    assert_eq!(csv("\u{feff}a\n1\n").unwrap().names, ["a"]);
    assert_eq!(json("\u{feff}{\"a\": 1}").unwrap().names, ["a"]);
}

#[test]
fn mistakes_beyond_a_thousand_are_not_looked_for() {
    let text = format!("a,b\n{}", "1\n".repeat(5_000));
    assert_eq!(csv(&text).unwrap_err().len(), 1_000);
}

const STUDY: &str = "study.name = \"t\"\n[[stage]]\nname = \"s\"\ncommand = [\"x\", \"{a}{b}\"]\ntrial_budget = 9\nsurvivor_count = 1\nsampling = { file = \"cases.csv\" }\n";

/// `line:column message` or `path message` of each mistake.
fn parsed(dir: &Path, study: &str) -> Result<Spec, Vec<String>> {
    parse_study("study.toml", study.as_bytes(), &[], dir).map_err(|found| {
        let place = |mistake: &Diagnostic| match found.position(mistake) {
            Some((line, column)) => format!("{line}:{column}"),
            None => mistake.path.clone(),
        };
        found.list().iter().map(|mistake| format!("{} {}", place(mistake), mistake.message)).collect()
    })
}

#[test]
fn a_study_file_is_checked_with_its_cases() {
    let dir = tempfile::tempdir().unwrap();
    let write = |text: &str| fs::write(dir.path().join("cases.csv"), text).unwrap();
    let failed = |study: &str| parsed(dir.path(), study).unwrap_err();
    assert_eq!(failed(STUDY), ["7:21 cannot read `cases.csv`: no such file or directory"]);
    fs::create_dir(dir.path().join("cases.csv")).unwrap();
    assert_eq!(failed(STUDY), ["7:21 cannot read `cases.csv`: it is no file"]);
    fs::remove_dir(dir.path().join("cases.csv")).unwrap();
    write("a,c\n1,2\n");
    assert_eq!(failed(STUDY), ["4:21 no param is called `b`"]);
    write("a,b\n1\n");
    assert_eq!(
        failed(&STUDY.replace("= 1", "= 0")),
        ["6:18 `survivor_count` is too small", "cases.csv:2 1 value, but the header names 2"]
    );
    write("a,b\n1,2\n");
    let spec = parsed(dir.path(), STUDY).unwrap();
    let Sampling::File(file) = &spec.stages[0].sampling else { panic!("not from a file") };
    assert_eq!(file.cases.as_ref().map(|cases| cases.rows.len()), Some(1));
    assert_eq!(Spec::from_json(&spec.to_json()).unwrap(), spec);
    write("a,b\n1,3\n");
    let other = parsed(dir.path(), STUDY).unwrap();
    let changes: Vec<String> = crate::spec::diff(&spec, &other).into_iter().map(|change| change.path).collect();
    assert_eq!(changes, ["stage \"s\".cases"], "other cases are another study");
    let later = STUDY.to_owned()
        + "[[stage]]\nname = \"z\"\ncommand = [\"x\", \"{b}\"]\ntrial_budget = 9\nsurvivor_count = 1\n";
    assert!(parsed(dir.path(), &later).is_ok(), "later stages inherit the params");
}

#[test]
fn too_large_a_file_is_refused_by_its_size() {
    let dir = tempfile::tempdir().unwrap();
    let file = File::create(dir.path().join("cases.csv")).unwrap();
    file.set_len(CASE_FILE_MAX_BYTES + 1).unwrap();
    let found = parsed(dir.path(), STUDY).unwrap_err();
    assert_eq!(found, ["7:21 cannot read `cases.csv`: it has more than 16 MiB"]);
}

#[test]
fn cases_that_grow_in_the_store_are_refused_too() {
    // A control character is one byte in the file and six in the store.
    let dir = tempfile::tempdir().unwrap();
    let rows: String = (0..11_000).map(|number| format!("{number}{}\n", "\u{1}".repeat(400))).collect();
    fs::write(dir.path().join("cases.csv"), format!("a\n{rows}")).unwrap();
    let found = read_cases(dir.path(), "cases.csv").unwrap_err();
    assert_eq!(found[0].message, "cannot read `cases.csv`: its cases take more than 24 MiB");
}

#[test]
fn a_spec_from_code_reads_its_cases_later() {
    let dir = tempfile::tempdir().unwrap();
    let stage = |hole: &str| StageBuilder::argv("s", ["x", hole]).budget(2).survivors(1).case_file("cases.jsonl");
    let mut spec = Spec::builder("t").stage(stage("{a}")).build().unwrap();
    let unread = spec.clone();
    let missing = spec.load_cases(dir.path()).unwrap_err();
    assert_eq!(missing.list()[0].path, "stage \"s\".sampling");
    fs::write(dir.path().join("cases.jsonl"), "{\"a\": 1}\n{\"a\": 2}\n").unwrap();
    spec.load_cases(dir.path()).unwrap();
    assert_ne!(spec, unread);
    let read = spec.clone();
    fs::remove_file(dir.path().join("cases.jsonl")).unwrap();
    spec.load_cases(dir.path()).unwrap();
    assert_eq!(spec, read, "what is read stays");
    fs::write(dir.path().join("cases.jsonl"), "{\"a\": 1}\n").unwrap();
    let mut wrong = Spec::builder("t").stage(stage("{b}")).build().unwrap();
    let found = wrong.load_cases(dir.path()).unwrap_err();
    let list = found.list();
    assert_eq!(
        (list[0].path.as_str(), list[0].message.as_str()),
        ("stage \"s\".command", "no param is called `b`")
    );
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        for format in [CaseFormat::Csv, CaseFormat::JsonLines] {
            if let Ok(list) = parse_cases(format, &bytes) {
                prop_assert!(list.rows.iter().all(|row| row.len() == list.names.len()));
            }
        }
    }

    #[test]
    fn nearly_csv_is_survived(text in "(a|b|,|\"|\n|\r|1|\\.| ){0,40}") {
        if let Ok(list) = csv(&text) {
            prop_assert!(!list.rows.is_empty() && list.rows.iter().all(|row| row.len() == list.names.len()));
        }
    }

    /// What the csv crate writes is read back, to the line.
    #[test]
    fn written_csv_is_read_back(rows in prop::collection::vec(("[a-z][a-z,\"\n]{0,6}[a-z]", 0..9_i64), 1..8)) {
        let mut writer = ::csv::Writer::from_writer(Vec::new());
        writer.write_record(["t", "n"]).unwrap();
        for (text, number) in &rows {
            writer.write_record([text.as_str(), &number.to_string()]).unwrap();
        }
        let list = parse_cases(CaseFormat::Csv, &writer.into_inner().unwrap()).unwrap();
        let mut distinct: Vec<Vec<SpecValue>> = Vec::new();
        for (text, number) in rows {
            let row = vec![SpecValue::from(text), number.into()];
            if !distinct.contains(&row) {
                distinct.push(row);
            }
        }
        prop_assert_eq!(list.rows, distinct);
    }
}

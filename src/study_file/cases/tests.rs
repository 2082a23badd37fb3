use crate::{Stage, Study};
use std::fs;

use proptest::prelude::*;

use super::*;
use crate::model::Value;
use crate::study_file::parse_study;

fn read(format: CaseFormat, bytes: &[u8], values: Values) -> Result<CaseList, Vec<CaseMistake>> {
    parse_cases(format, bytes, &file("c.csv", &[]), values).map(|read| read.list)
}

fn file(path: &str, rename: &[(&str, &str)]) -> CaseFile {
    let rename = rename.iter().map(|(column, name)| ((*column).to_owned(), (*name).to_owned()));
    CaseFile { path: path.into(), rename: rename.collect(), cases: None }
}

fn csv(text: &str) -> Result<CaseList, Vec<CaseMistake>> {
    read(CaseFormat::Csv, text.as_bytes(), Values::Exact)
}

fn json(text: &str) -> Result<CaseList, Vec<CaseMistake>> {
    read(CaseFormat::JsonLines, text.as_bytes(), Values::Exact)
}

/// `line: words` of each mistake.
fn mistakes(result: Result<CaseList, Vec<CaseMistake>>) -> Vec<String> {
    let line = |mistake: &CaseMistake| mistake.line.map_or_else(|| "file".into(), |line| line.to_string());
    result.unwrap_err().iter().map(|mistake| format!("{}: {}", line(mistake), mistake.words())).collect()
}

fn text(text: &str) -> Option<Value> {
    Some(Value::Str(text.into()))
}

fn values(list: CaseList) -> Vec<Vec<Option<Value>>> {
    list.rows.into_iter().map(|row| row.into_iter().map(|value| value.map(|value| value.0)).collect()).collect()
}

#[test]
fn a_csv_value_is_a_number_only_if_it_is_written_as_one_is_printed() {
    for number in ["0", "-7", "9223372036854775807", "0.5", "-0.0", "1.0", "2.5e20", "1e-300", "100000.0"] {
        let row = values(csv(&format!("a\n{number}\n")).unwrap()).remove(0).remove(0).unwrap();
        assert!(matches!(row, Value::Int(_) | Value::Float(_)), "{number}");
        assert_eq!(row.to_string(), number);
    }
    for word in [
        "1.20",
        "7e9",
        "0x1F",
        "007",
        "+2",
        "1_000",
        "1e3",
        ".5",
        "5.",
        "1E-300",
        "-0",
        "9223372036854775808",
        "1e400",
        "1e-400",
        "nan",
        "inf",
        "True",
        " 1",
        "1 ",
        "\t",
        "0.1234567890123456789",
        "'1'",
        "1979-05-27",
        "[1]",
        "é ",
    ] {
        assert_eq!(values(csv(&format!("a\n{word}\n")).unwrap()), [[text(word)]], "{word}");
    }
    assert_eq!(values(csv("a,b\ntrue,\"true\"\n").unwrap()), [[Some(Value::Bool(true)), text("true")]]);
}

#[test]
fn a_quoted_csv_value_is_text_as_it_stands_between_its_quotes() {
    let list = csv("a, b ,c\r\n\"1\",\"\",\"say \"\"hi\"\"\"\r\n\"x,y\",\"two\r\nlines\r\",\" 2 \"\r\n").unwrap();
    assert_eq!(list.names, ["a", "b", "c"]);
    assert_eq!(
        values(list),
        [[text("1"), text(""), text("say \"hi\"")], [text("x,y"), text("two\r\nlines\r"), text(" 2 ")]]
    );
    // What the quotes do not enclose would be lost or join what they do.
    for row in ["\"1\"2,x,y", "\"1\" ,x,y", "a, \"b\",c", "a,\"b\"\"c\"d,e"] {
        let found = mistakes(csv(&format!("a,b,c\n{row}\n")));
        assert_eq!(found, ["2: a quoted field has something before or after its quotes"], "{row}");
    }
    assert_eq!(values(csv("a\n5\"\"\n").unwrap()), [[text("5\"\"")]]);
}

#[test]
fn a_case_without_a_value_has_no_such_param() {
    let list = csv("a,b\n1,\n,x\n,\n,\"\"\n").unwrap();
    assert_eq!(values(list), [[Some(Value::Int(1)), None], [None, text("x")], [None, None], [None, text("")]]);
    let list = json("{\"a\": 1, \"b\": null}\n{\"b\": 2}\n{}\n").unwrap();
    assert_eq!(values(list), [[Some(Value::Int(1)), None], [None, Some(Value::Int(2))], [None, None]]);
    // A line with nothing on it is no case.
    assert_eq!(csv("a\n1\n\n\r\n2\n").unwrap().rows.len(), 2);
}

#[test]
fn json_lines_keep_their_types_and_the_first_ones_order() {
    let list =
        json("{\"b\": 1, \"a\": \"1\"}\n\n  {\"a\": true, \"b\": 1.0}\r\n{\"b\": -2.5e3, \"a\": \"\"}").unwrap();
    assert_eq!(list.names, ["b", "a"]);
    assert_eq!(
        values(list),
        [
            [Some(Value::Int(1)), text("1")],
            [Some(Value::Float(1.0)), Some(Value::Bool(true))],
            [Some(Value::Float(-2500.0)), text("")],
        ]
    );
}

#[test]
fn what_the_first_stores_read_is_still_read_so_for_them() {
    let before = |text: &str| read(CaseFormat::Csv, text.as_bytes(), Values::Before);
    let list =
        before("a, b ,c,d\n1,-0.5,true,speed\n +2 ,1e3,\"\"\"7\"\"\",\"two,\n lines\"\n007,.5,True,'x y'\n")
            .unwrap();
    assert_eq!(
        values(list),
        [
            [Some(Value::Int(1)), Some(Value::Float(-0.5)), Some(Value::Bool(true)), text("speed")],
            [Some(Value::Int(2)), Some(Value::Float(1000.0)), text("7"), text("two,\n lines")],
            [text("007"), text(".5"), text("True"), text("x y")],
        ]
    );
    assert_eq!(before("a,b\n1,x\n2,x\n1.0, x\n1,x\n1,\"\"\"1\"\"\"\n").unwrap().merged, 2);
    assert_eq!(mistakes(before("a,b\n1,\nnan,2\n")), ["2: `b` has no value", "3: `a` must be a finite number"]);
}

#[test]
fn equal_rows_are_merged_and_counted() {
    let list = csv("a,b\n1,x\n2,x\n1.0,x\n1,x\n1,1\n1,\"1\"\n1, x\n").unwrap();
    assert_eq!((list.rows.len(), list.merged), (6, 1), "what a trial can tell apart is not merged");
    // What one row's fields end with is not taken for the next one's beginning.
    assert_eq!(csv("a,b\nxy,z\nx,yz\n").unwrap().merged, 0);
    assert_eq!(json("{\"a\": 1, \"b\": 2}\n{\"b\": 2, \"a\": 1}\n").unwrap().merged, 1);
}

#[test]
fn every_mistake_of_a_csv_file_has_its_line() {
    let text = "a,b\n\n1,\n\r\n1\n1,2,3\nnan,\"x\ny\"\n4,5\" pipe\n6,\0\n7\n8,\0\n9\n10\n11\n";
    assert_eq!(
        mistakes(csv(text)),
        [
            "5: 1 value, but the header names 2 (also in lines 11, 13 and 2 more)",
            "6: 3 values, but the header names 2",
            "9: a quote is never closed",
            "10: `b` has a NUL character, which cannot be passed on (also in line 12)",
        ]
    );
    assert_eq!(
        mistakes(csv("\n\ncase,a,a,b c,\n1,2,3,4,5\n")),
        [
            "3: a param cannot be called `case`, which is piton's own placeholder",
            "3: the param `a` is there twice",
            "3: `b c` is no name for a param",
            "3: a param without a name",
        ]
    );
    assert_eq!(mistakes(csv("a,b\n1,2\n3,\"4\n5,6\n")), ["3: a quote is never closed"]);
    assert_eq!(mistakes(csv("")), ["1: the header line with the params' names is missing"]);
    assert_eq!(mistakes(csv("a,b\n\n")), ["file: the file lists no case"]);
    assert_eq!(mistakes(read(CaseFormat::Csv, b"a\n1\n\xff\n", Values::Exact)), ["3: the line is not UTF-8"]);
}

#[test]
fn every_mistake_of_a_json_lines_file_has_its_line() {
    let text = "{\"a\": 1, \"b\": 2}\n[1]\n{\"a\": 1}\n\n{\"a\": {}, \"b\": [1], \"c\": 3}\n{\"a\": 1, \"a\": 2, \"b\": 3}\n{\"a\": 18446744073709551615, \"b\": \"\\u0000\"}\n{\"a\": 1e999, \"b\": -1e-400}\n{\"a\": 1, \"b\": 2} x\n";
    let found = mistakes(json(text));
    assert_eq!(
        found,
        [
            "2: no flat JSON object: invalid type: sequence, expected an object",
            "5: `a` must be a string, boolean or number",
            "5: `b` must be a string, boolean or number",
            "5: `c` is not in the first case",
            "6: the param `a` is there twice",
            "7: `a` is an integer of more than 64 bits",
            "7: `b` has a NUL character, which cannot be passed on",
            "8: `a` is too large for a 64-bit float",
            "8: `b` is too small for a 64-bit float: it would become 0",
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
fn a_number_that_is_not_kept_is_refused_at_its_place() {
    let found =
        json("{\"a\": 1}\n{\"a\":  0.1234567890123456789}\n{\"a\": 3.14159265358979323846}\n").unwrap_err();
    let shown: Vec<Diagnostic> =
        found.into_iter().map(|mistake| mistake.diagnostic("c.jsonl", &Location::default())).collect();
    assert_eq!(shown.len(), 1, "one for the column");
    assert_eq!(shown[0].path, "c.jsonl:2:8");
    assert_eq!(shown[0].message, "`a` cannot be held exactly by a 64-bit float (also in line 3)");
    let help = "the nearest float is 0.12345678901234568; in quotes it is passed on as text";
    assert_eq!(shown[0].help.as_deref(), Some(help));
    assert_eq!(mistakes(json("{\"a\": 9223372036854775808}")), ["1: `a` is an integer of more than 64 bits"]);
    assert_eq!(values(json("{\"a\": \"9223372036854775808\"}").unwrap()), [[text("9223372036854775808")]]);
}

#[test]
fn mistakes_of_one_column_are_one_and_others_beyond_a_thousand_are_not_looked_for() {
    let short = format!("a,b\n{}", "1\n".repeat(5_000));
    assert_eq!(mistakes(csv(&short)), ["2: 1 value, but the header names 2 (also in lines 3, 4 and 4997 more)"]);
    let widths: String = (3..2_000).map(|width| format!("{}\n", ",".repeat(width))).collect();
    assert_eq!(csv(&format!("a,b\n{widths}")).unwrap_err().len(), 1_000);
}

#[test]
fn columns_that_are_no_names_are_renamed() {
    let table = "temp (K),case,1st,,x\n1,2,3,4,5\n";
    let found = csv(table).unwrap_err();
    assert_eq!(
        found.iter().filter_map(|mistake| mistake.help.as_deref()).collect::<Vec<_>>(),
        [
            "a name is a letter or `_`, then letters, digits or `_`: change the file, or write sampling = { file = \"c.csv\", rename = { \"\" = \"column_4\", \"1st\" = \"_1st\", \"case\" = \"_case\", \"temp (K)\" = \"temp_K\" } }"
        ]
    );
    let with = |rename: &[(&str, &str)]| {
        parse_cases(CaseFormat::Csv, table.as_bytes(), &file("c.csv", rename), Values::Exact).map(|read| read.list)
    };
    let rename = [("temp (K)", "temp_K"), ("case", "_case"), ("1st", "_1st"), ("", "column_4")];
    assert_eq!(with(&rename).unwrap().names, ["temp_K", "_case", "_1st", "column_4", "x"]);
    assert_eq!(
        mistakes(with(&[rename[0], rename[1], rename[2], ("", "x"), ("y", "z")])),
        ["1: no column is called `y`, which `rename` names", "1: the param `x` is there twice"]
    );
    let lines = file("c.jsonl", &[("temp (K)", "t")]);
    let bytes = b"{\"temp (K)\": 1}\n{\"temp (K)\": 2}\n";
    let read = parse_cases(CaseFormat::JsonLines, bytes, &lines, Values::Exact).unwrap();
    assert_eq!((read.list.names, read.list.rows.len()), (vec!["t".to_owned()], 2));
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
    let changes: Vec<String> =
        crate::study_file::diff(&spec, &other).into_iter().map(|change| change.path).collect();
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
    let found = read_cases(dir.path(), &file("cases.csv", &[]), Values::Exact).unwrap_err();
    assert_eq!(found[0].message, "cannot read `cases.csv`: its cases take more than 24 MiB");
}

#[test]
fn a_spec_from_code_reads_its_cases_later() {
    let dir = tempfile::tempdir().unwrap();
    let stage = |hole: &str| Stage::argv("s", ["x", hole]).budget(2).survivors(1).case_file("cases.jsonl");
    let mut spec = Study::builder("t").stage(stage("{a}")).spec().unwrap();
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
    let mut wrong = Study::builder("t").stage(stage("{b}")).spec().unwrap();
    let found = wrong.load_cases(dir.path()).unwrap_err();
    let list = found.list();
    assert_eq!(
        (list[0].path.as_str(), list[0].message.as_str()),
        ("stage \"s\".command", "no param is called `b`")
    );
}

#[test]
fn a_command_asks_only_for_what_every_case_has() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("cases.csv"), "a,b\n1,x\n2,\n3,y\n4,\n").unwrap();
    let missing =
        "cases.csv:3 `b` has no value here, nor in 1 more case, and the command of stage `s` asks for it";
    assert_eq!(parsed(dir.path(), STUDY).unwrap_err(), [missing]);
    let constant = STUDY.to_owned() + "[params]\nb = \"none\"\n";
    assert!(parsed(dir.path(), &constant).is_ok());
    let set = [("b".to_owned(), "none".to_owned())];
    assert!(parse_study("s", STUDY.as_bytes(), &set, dir.path()).is_ok());
    // A stage after it may inherit what is not there, unless it brings it itself.
    let unused = STUDY.replace("{a}{b}", "{a}");
    let later = |sweep: &str| {
        unused.clone()
            + "[[stage]]\nname = \"z\"\ncommand = [\"x\", \"{b}\"]\ntrial_budget = 9\nsurvivor_count = 1\n"
            + sweep
    };
    let missing = missing.replace("`s`", "`z`");
    assert_eq!(parsed(dir.path(), &later("")).unwrap_err(), [missing]);
    assert!(parsed(dir.path(), &later("[stage.sweep]\nb = [1]\n")).is_ok());
    // Two stages may call the columns of one file otherwise: each asks of its own.
    let renamed = |first: &str, second: &str| {
        let stage = |name: &str, rename: &str, asks: &str| {
            let stage = STUDY.split_once("[[stage]]").unwrap().1.replace("\"s\"", &format!("\"{name}\""));
            let file = format!("file = \"cases.csv\", rename = {{ {rename} }}");
            format!("[[stage]]{}", stage.replace("{a}{b}", asks).replace("file = \"cases.csv\"", &file))
        };
        let (first, second) =
            (stage("s", "a = \"p\", b = \"q\"", first), stage("z", "a = \"q\", b = \"p\"", second));
        parsed(dir.path(), &format!("study.name = \"t\"\n{first}{second}"))
    };
    assert_eq!(renamed("{p}", "{q}").map(|spec| spec.stages.len()), Ok(2));
    assert_eq!(renamed("{q}", "{q}").unwrap_err().len(), 1, "the first stage lacks what the second has");
    assert!(renamed("{p}", "{p}").is_ok(), "what the second lacks it inherits");
    // A spec from code is asked the same.
    let stage = Stage::argv("s", ["x", "{b}"]).budget(2).survivors(1).case_file("cases.csv");
    let found = Study::builder("t").stage(stage).spec().unwrap().load_cases(dir.path()).unwrap_err();
    assert_eq!(found.list()[0].path, "cases.csv:3");
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        for format in [CaseFormat::Csv, CaseFormat::JsonLines] {
            if let Ok(list) = read(format, &bytes, Values::Exact) {
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

    /// What the csv crate writes is what trials get, to the byte, whatever it is and however it is quoted.
    #[test]
    fn written_csv_is_read_back(
        rows in prop::collection::vec(("[ a-z,\"\r\n\t']{0,6}|\\PC{0,4}", "-?[0-9]{1,3}(\\.[0-9]{1,3})?(e-?[0-9]{1,2})?|[ 0-9x+_]{1,4}"), 1..8),
        quote in prop::sample::select(vec![::csv::QuoteStyle::Necessary, ::csv::QuoteStyle::Always, ::csv::QuoteStyle::NonNumeric]),
    ) {
        let mut writer = ::csv::WriterBuilder::new().quote_style(quote).from_writer(Vec::new());
        writer.write_record(["t", "n"]).unwrap();
        for (text, number) in &rows {
            writer.write_record([text, number]).unwrap();
        }
        let list = read(CaseFormat::Csv, &writer.into_inner().unwrap(), Values::Exact).unwrap();
        let mut seen = HashSet::new();
        let distinct: Vec<_> = rows.into_iter().filter(|row| seen.insert(row.clone())).collect();
        prop_assert_eq!(list.rows.len(), distinct.len());
        for (row, (text, number)) in list.rows.iter().zip(distinct) {
            let shown = |value: &Option<SpecValue>| value.as_ref().map_or_else(String::new, |value| value.0.to_string());
            prop_assert_eq!((shown(&row[0]), shown(&row[1])), (text, number));
        }
    }

    /// What JSON Lines say of a value is what a trial gets.
    #[test]
    fn written_json_is_read_back(text in "\\PC{0,8}", integer in any::<i64>(), float in any::<f64>()) {
        prop_assume!(float.is_finite());
        let line = serde_json::json!({ "t": text, "i": integer, "f": float });
        let list = json(&line.to_string()).unwrap();
        let found: BTreeMap<_, _> = list.names.iter().zip(&list.rows[0]).collect();
        let is = |name: &str| found[&name.to_owned()].as_ref().map(|value| value.0.clone());
        prop_assert_eq!(is("t"), Some(Value::Str(text)));
        prop_assert_eq!(is("i"), Some(Value::Int(integer)));
        prop_assert_eq!(is("f"), Some(Value::Float(float)));
    }
}

//! `reuse`, `uses`, a stage's `inputs`, and `survivor_count = "all"`.

use super::*;
use crate::study_file::Reuse;

const STUDY: &str = r#"
study.name = "s"
params.p = 1
[[stage]]
name = "a"
command = ["run", "{p}", "{x}"]
trial_budget = 4
survivor_count = "all"
reuse = true
outputs = ["o"]
sweep = { x = [1, 2] }
[[stage]]
name = "b"
command = "run {parent_dir} {seed} {y}"
trial_budget = 4
survivor_count = 1
uses = ["y", "p"]
inputs = ["b.tcl"]
sweep = { y = [1, 2] }
"#;

fn mistaken(from: &str, to: &str) -> Vec<String> {
    let text = STUDY.replace(from, to);
    assert_ne!(text, STUDY, "{from}");
    mistakes(&text, &[])
}

#[test]
fn they_say_what_they_say() {
    let spec = good(STUDY);
    let [a, b] = spec.stages.as_slice() else { panic!("not two stages") };
    assert_eq!((a.survivor_count, a.all_survive, &a.reuse), (4, true, &Reuse::Yes));
    assert_eq!((b.survivor_count, b.all_survive, &b.reuse), (1, false, &Reuse::No));
    let uses: Vec<&str> = b.uses.iter().flatten().map(String::as_str).collect();
    assert_eq!((a.uses.is_none(), uses, &b.inputs[..]), (true, vec!["p", "y"], &["b.tcl".to_owned()][..]));
    assert_eq!((spec.shows_parent(0), spec.shows_parent(1)), (false, true));
    assert_eq!(
        good(&STUDY.replace("reuse = true", "reuse = \"v1\"")).stages[0].reuse,
        Reuse::Version("v1".into())
    );
    // Read back from a store, they say the same.
    assert_eq!(Spec::from_json(&spec.to_json()).unwrap(), spec);
    let defaults = STUDY.replace("[[stage]]\nname = \"a\"", "[defaults]\nreuse = true\n[[stage]]\nname = \"a\"");
    assert!(good(&defaults).stages.iter().all(|stage| stage.reuse == Reuse::Yes));
}

/// The stores of earlier pitons keep their hash.
#[test]
fn who_says_nothing_of_it_has_nothing_of_it() {
    let plain = STUDY.replace("reuse = true\n", "").replace("uses = [\"y\", \"p\"]\ninputs = [\"b.tcl\"]\n", "");
    let plain = good(&plain.replace("\"all\"", "4"));
    for word in ["reuse", "uses", "inputs", "all_survive"] {
        assert!(!plain.to_json().contains(word), "{word}");
    }
    assert_eq!(plain.all_inputs(), [""; 0]);
    let no = STUDY.replace("reuse = true", "reuse = false");
    assert_eq!(good(&no).spec_hash(), good(&STUDY.replace("reuse = true\n", "")).spec_hash());
}

#[test]
fn code_says_the_same() {
    let a = Stage::argv("a", ["run", "{p}", "{x}"]).budget(4).all_survive().reuse(true).output("o");
    let b = Stage::shell("b", "run {parent_dir} {seed} {y}").budget(4).survivors(1);
    let b = b.uses(["y", "p"]).input("b.tcl").choices("y", [1, 2]);
    let built = Study::builder("s").param("p", 1).stage(a.choices("x", [1, 2])).stage(b);
    assert_eq!(built.clone().spec().unwrap().spec_hash(), good(STUDY).spec_hash());
    let share = |text: &str| format!("{STUDY}\n[run]\nreuse_check = {text}");
    assert_eq!(built.clone().reuse_check(0.25).spec().unwrap().run.reuse_check, 0.25);
    for (text, is) in [("0", 0.0), ("1", 1.0), ("-0.0", 0.0), ("0.02", 0.02)] {
        assert_eq!(good(&share(text)).run.reuse_check.to_bits(), f64::to_bits(is), "{text}");
    }
    for text in ["-0.01", "1.01", "inf", "nan", "\"2%\"", "true"] {
        let [mistake] = &mistakes(&share(text), &[])[..] else { panic!("{text}") };
        assert!(mistake.contains("reuse_check") || mistake.contains("number"), "{mistake}");
    }
    assert_eq!(built.reuse_from("x").reuse_from("../y").spec().unwrap().run.reuse_from, ["x", "../y"]);
}

#[test]
fn what_differs_between_equal_trials_is_refused() {
    for (name, shell) in [("case", false), ("attempt", false), ("slot", false), ("case", true), ("slot", true)] {
        let hole = format!("{{{name}}}");
        let command = if shell { format!("\"run {hole}\"") } else { format!("[\"run\", \"--x={hole}\"]") };
        let text = STUDY.replace("[\"run\", \"{p}\", \"{x}\"]", &command);
        let [mistake] = &mistakes(&text, &[])[..] else { panic!("{:?}", mistakes(&text, &[])) };
        assert!(
            mistake.contains(&format!("`{hole}` differs between trials that are to have one result")),
            "{mistake}"
        );
        // Elsewhere it may stand.
        good(&text.replace("reuse = true\n", ""));
    }
    good(&STUDY.replace("{x}", "{seed}"));
}

#[test]
fn a_param_that_is_not_used_has_no_placeholder() {
    assert_eq!(
        mistaken("[\"y\", \"p\"]", "[\"p\"]"),
        ["14:36 {y} | `y` is none of the params that the stage `uses`"],
    );
    assert_eq!(mistaken("[\"y\", \"p\"]", "[\"y\", \"q\"]"), ["17:14 \"q\" | no param is called `q`"]);
    // What only a later stage sweeps is none yet; what an earlier one sweeps is one.
    assert_eq!(mistaken("reuse = true", "uses = [\"p\", \"x\", \"y\"]").len(), 1);
    good(&STUDY.replace("[\"y\", \"p\"]", "[\"y\", \"x\"]"));
    good(&STUDY.replace("{y}", "").replace("[\"y\", \"p\"]", "[]"));
}

#[test]
fn a_parents_directory_of_which_nothing_is_declared_cannot_be_read() {
    let nothing = |own: &str, parent: &str| {
        let text = STUDY.replace("outputs = [\"o\"]\n", "").replace("reuse = true", parent);
        text.replace("inputs = [\"b.tcl\"]", own)
    };
    for (own, parent) in
        [("reuse = true", "reuse = false"), ("", "reuse = true"), ("reuse = \"1\"", "reuse = \"1\"")]
    {
        let text = nothing(own, parent);
        let [mistake] = &mistakes(&text, &[])[..] else { panic!("{:?}", mistakes(&text, &[])) };
        assert!(mistake.contains("{parent_dir} | stage `a`, whose directory"), "{mistake}");
        // A trial that does not ask for it is not told of it.
        assert!(!good(&text.replace("{parent_dir}", "")).shows_parent(1));
    }
    assert!(good(&nothing("", "reuse = false")).shows_parent(1));
}

#[test]
fn a_closure_needs_a_version_to_be_reused() {
    let closure = || Stage::unbound("a").budget(1).survivors(1);
    let refused = Study::builder("s").stage(closure().reuse(true)).spec().unwrap_err();
    assert!(refused.to_string().contains("piton cannot see whether a closure's code has changed"), "{refused}");
    Study::builder("s").stage(closure().reuse("1")).spec().unwrap();
    Study::builder("s").stage(closure().reuse(false)).spec().unwrap();
}

#[test]
fn what_is_none_of_it_is_told() {
    assert!(mistaken("reuse = true", "reuse = 1")[0].contains("`reuse` must be `true`, `false` or a string"));
    assert!(mistaken("reuse = true", "reuse = \"\"")[0].contains("`reuse` must not be empty"));
    assert!(mistaken("\"all\"", "\"most\"")[0].contains("most"));
    assert!(mistaken("\"all\"", "0")[0].contains("`survivor_count`"));
    assert_eq!(mistaken("[\"y\", \"p\"]", "\"y\"").len(), 1);
    assert_eq!(mistaken("[\"y\", \"p\"]", "[\"y\", \"y\"]").len(), 1);
}

#[test]
fn an_input_concerns_the_first_stage_that_names_it_and_those_after_it() {
    let spec = Study::builder("s").input("flow").input("./x");
    let stage = |name: &str| Stage::argv(name, ["x"]).budget(1).survivors(1);
    let spec =
        spec.stage(stage("a")).stage(stage("b").input("b").input("x")).stage(stage("c").input("c/d").input("b"));
    let spec = spec.spec().unwrap();
    assert_eq!(spec.all_inputs(), ["flow", "./x", "b", "c/d"]);
    for (path, from) in [
        ("flow", 0),
        ("flow/deep/er", 0),
        ("flower", 0),
        ("x", 0),
        ("b", 1),
        ("./b/y", 1),
        ("c/d", 2),
        ("c", 0),
        ("bb", 0),
    ] {
        assert_eq!(spec.depends_from(path), from, "{path}");
    }
}

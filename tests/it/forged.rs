//! Stores that somebody made to lead elsewhere: every command refuses a name that no study file could have, before it opens
//! anything below it, and a process that a store names is nobody to signal. More of that is in `alive`.

use std::fs;
use std::path::Path;
use std::process::Command;

use piton::model::{Event, ProcessId, Record, StudyCreated, Verdict};
use piton::program::journal::{Reader, create_with};

use crate::harness::{Edit, Sandbox, StudyFile, both, exists};
use crate::serve::Server;

fn study_file() -> StudyFile {
    StudyFile::new("real")
        .stage("only", ["./trial.sh", "{n}"], 2, 1)
        .with(r#"outputs = ["out.txt"]"#)
        .sweep("n = [1, 2]")
        .minimize("m")
        .with("[stage.metrics]\nm = { file = \"m.rpt\", regex = \"([0-9]+)\" }")
}

/// A finished study, and what happened in it.
fn finished() -> (Sandbox, Vec<Record>) {
    let sandbox = Sandbox::with_study(study_file());
    sandbox.script("trial.sh", "echo $1 | tee out.txt > m.rpt; echo secret > \"$PITON_STUDY_DIR/stdout.log\"");
    sandbox.ok("run study.toml", 0);
    let snapshot = Reader::open(&sandbox.path("study.redb")).unwrap().snapshot().unwrap();
    let records = snapshot.events(1).unwrap().map(|event| event.unwrap().1).collect();
    (sandbox, records)
}

fn created(records: &[Record], change: impl Fn(&mut StudyCreated)) -> Vec<Record> {
    let mut first = records[0].clone();
    let Event::StudyCreated(created) = &mut first.event else { panic!("{first:?}") };
    change(created);
    vec![first]
}

/// Every command that reads a store, by its arguments.
const COMMANDS: [&str; 16] = [
    "serve STORE",
    "logs STORE real_0_0",
    "logs STORE real_0_0 --follow",
    "verify STORE",
    "resume STORE",
    "dump STORE",
    "dump STORE --events",
    "dump STORE --at 1",
    "dump STORE --canonical --format json",
    "export STORE --to out",
    "status STORE",
    "why STORE real_0_0",
    "report STORE -o page.html",
    "replay STORE real_0_0",
    "approve STORE",
    "amend STORE study.toml --yes",
];

/// `forged.redb`, which such a journal makes.
fn forge(sandbox: &Sandbox, records: &[Record]) {
    let store = sandbox.path("forged.redb");
    drop(fs::remove_file(&store));
    // It is made before it is opened, which is refused.
    drop(create_with(&store, records));
    assert!(exists(&store));
}

/// All of them refuse the store as damaged, and say which name it is.
fn refused(sandbox: &Sandbox, records: &[Record], says: &str) {
    forge(sandbox, records);
    for command in COMMANDS {
        let output = sandbox.run(&command.replace("STORE", "forged.redb"));
        let told = both(&output);
        assert_eq!(output.status.code(), Some(7), "{command}: {says}\n{told}");
        assert!(told.contains(says) && !told.contains("secret"), "{command}: {says}\n{told}");
        assert!(!told.contains('\u{1b}') && !told.contains('\0'), "{command}: {told:?}");
    }
    for made in ["out", "page.html", "salvaged.redb"] {
        assert!(!exists(&sandbox.path(made)), "{made}");
    }
}

const NAMES: [&str; 9] = ["../x", "/etc", "a/b", "", "..", ".", "a\0b", "\u{1b}[2Jx", "x y"];

#[test]
fn names_that_no_study_could_have_are_damage() {
    let (sandbox, records) = finished();
    for name in NAMES {
        let quoted = format!("{name:?}");
        let text = |what: &str| format!("the {what} {quoted}");
        refused(&sandbox, &created(&records, |study| study.name = name.into()), &text("study name"));
        assert_eq!(sandbox.run("retry forged.redb --failed").status.code(), Some(7));
        refused(&sandbox, &created(&records, |study| study.base_case = name.into()), &text("base case"));
    }
    for name in &NAMES[..3] {
        let stage = created(&records, |study| study.stages[0].name = (*name).into());
        refused(&sandbox, &stage, &format!("the stage name {name:?}"));
    }
    for place in ["artifacts\0", "\0"] {
        let says = format!("the artifacts directory {place:?} has a NUL character");
        refused(&sandbox, &created(&records, |study| study.artifacts_dir = place.into()), &says);
    }
}

/// The spec's own names, which its rows repeat.
#[test]
fn names_in_a_stored_spec_are_checked_as_well() {
    let (sandbox, records) = finished();
    let changed = |from: &str, to: &str| {
        created(&records, |study| {
            assert!(study.spec.contains(from), "{}", study.spec);
            study.spec = study.spec.edit(from, to);
        })
    };
    for (from, to, says) in [
        (r#""name":"real""#, r#""name":"../x""#, "the study name \"../x\""),
        (r#""base_case":"real""#, r#""base_case":"a/b""#, "the base case \"a/b\""),
        (r#""name":"only""#, r#""name":"/etc""#, "the stage name \"/etc\""),
        (r#""outputs":["out.txt"]"#, r#""outputs":["../../../x"]"#, "the output \"../../../x\" leads out"),
        (r#""outputs":["out.txt"]"#, r#""outputs":["/etc/passwd"]"#, "the output \"/etc/passwd\" leads out"),
        (r#""outputs":["out.txt"]"#, r#""outputs":["a\u0000b"]"#, "has a NUL"),
        (r#""outputs":["out.txt"]"#, r#""outputs":[""]"#, "the output \"\" is empty"),
        (r#""file":"m.rpt""#, r#""file":"../m.rpt""#, "the metric file \"../m.rpt\" leads out"),
    ] {
        refused(&sandbox, &changed(from, to), says);
    }
}

/// Outputs that a result names, which `verify` would hash and a child's parent would be asked for.
#[test]
fn outputs_of_a_forged_result_are_never_looked_for() {
    let (sandbox, records) = finished();
    let succeeded = |record: &Record| match &record.event {
        Event::AttemptEnded(end) => matches!(end.verdict, Verdict::Succeeded { .. }),
        _ => false,
    };
    let at = records.iter().position(succeeded).unwrap();
    for path in ["../../../../study.toml", "/etc/passwd", "", "a\0b"] {
        let mut forged = records[..=at].to_vec();
        let Event::AttemptEnded(end) = &mut forged[at].event else { unreachable!() };
        let Verdict::Succeeded { outputs, .. } = &mut end.verdict else { unreachable!() };
        outputs[0].path = path.into();
        forge(&sandbox, &forged);
        for command in ["verify STORE", "dump STORE", "dump STORE --events", "export STORE --to out"] {
            let output = sandbox.run(&command.replace("STORE", "forged.redb"));
            assert_eq!(output.status.code(), Some(7), "{command}: {path:?}\n{}", both(&output));
            assert!(both(&output).contains(&format!("the output {path:?}")), "{command}: {}", both(&output));
        }
        // The trial whose result that was runs again.
        drop(fs::remove_file(sandbox.path("salvaged.redb")));
        sandbox.ok("salvage forged.redb -o salvaged.redb", 0);
        assert!(!sandbox.ok("dump salvaged.redb --events", 0).contains("passwd"));
        sandbox.ok("verify salvaged.redb", 0);
    }
}

/// A store that names a process which lives, in every detail: neither the page's button nor `stop` signals it.
#[test]
fn a_process_that_a_store_names_is_not_stopped_from_the_page() {
    let (sandbox, records) = finished();
    let mut victim = Command::new("sleep").arg("1000").spawn().unwrap();
    let stat = fs::read_to_string(format!("/proc/{}/stat", victim.id())).unwrap();
    let start_ticks = stat.rsplit(')').next().unwrap().split_whitespace().nth(19).unwrap().parse().unwrap();
    let mut forged = records[..2].to_vec();
    let Event::RunStarted { engine, .. } = &mut forged[1].event else { panic!("{:?}", forged[1]) };
    engine.process = ProcessId { pid: victim.id(), start_ticks };
    forge(&sandbox, &forged);
    let dump = sandbox.ok("dump forged.redb --format json", 0);
    let dump: serde_json::Value = serde_json::from_str(&dump).unwrap();
    assert_eq!(dump["study"]["engine"]["pid"], victim.id());
    assert_eq!(dump["study"]["engine"]["alive"], false);
    let server = Server::of_store(&sandbox, "forged.redb");
    let origin = format!("Origin: http://{}\r\n", server.host);
    let (code, answer) = server.ask("POST", "stop", &origin);
    assert_eq!(code, 409, "{answer}");
    for line in ["stop forged.redb", "stop forged.redb --now"] {
        assert!(both(&sandbox.run(line)).contains("no engine runs"));
    }
    // Nor while somebody else has the store open, who listens to no such signal: a request is left beside it at most.
    let held = piton::program::journal::Journal::open(&sandbox.path("forged.redb")).unwrap();
    server.ask("POST", "stop", &origin);
    drop(held);
    assert!(victim.try_wait().unwrap().is_none(), "it was not signalled");
    victim.kill().unwrap();
    victim.wait().unwrap();
}

/// Salvage takes no name that leads elsewhere into a new store, and its store is refused like any other.
#[test]
fn salvage_brings_no_forged_name_into_another_store() {
    let (sandbox, records) = finished();
    let salvaged = |records: &[Record]| {
        forge(&sandbox, records);
        drop(fs::remove_file(sandbox.path("salvaged.redb")));
        let output = sandbox.run("salvage forged.redb -o salvaged.redb");
        (output.status.code(), both(&output), exists(Path::new(&sandbox.path("salvaged.redb"))))
    };
    for name in ["../x", "/etc", "a\0b"] {
        let (code, told, made) = salvaged(&created(&records, |study| study.name = name.into()));
        assert_eq!((code, made), (Some(7), false), "{told}");
        let (code, told, _) = salvaged(&created(&records, |study| {
            study.spec = study.spec.edit("out.txt", "../../out.txt");
        }));
        assert_eq!(code, Some(7), "{told}");
        assert_eq!(sandbox.run("verify salvaged.redb").status.code(), Some(7));
    }
}

/// A stage with outputs, and one whose trials read them.
fn takes(run: &str) -> StudyFile {
    let report = |param: &str| format!("echo \"{{{{\\\"m\\\": {{{param}}}}}}}\" > metrics.json");
    let more = "reuse = true\noutputs = [\"out\"]";
    StudyFile::new("s")
        .run("workers = 2")
        .with(run)
        .stage("a", format!("echo {{x}}{{x}} > out; {}", report("x")), 2, 2)
        .with(more)
        .sweep("x = [1, 2]")
        .minimize("m")
        .stage("b", format!("cat {{parent_dir}}/out > out; {}", report("y")), 2, 2)
        .with(more)
        .sweep("y = [1, 2]")
        .minimize("m")
}

/// Whatever is done to a store in `reuse_from`, or to what its results left, costs what could have been taken, and nothing else.
#[test]
fn whatever_lies_in_the_place_of_a_store_to_take_from_gives_no_other_result() {
    use std::os::unix::fs::symlink;
    let outputs = |dir: &Path| -> Vec<std::path::PathBuf> {
        ["0_a/s_0_0", "0_a/s_0_1", "1_b/s_1_0", "1_b/s_1_1"]
            .iter()
            .map(|case| dir.join("artifacts/s").join(case).join("attempt_1/out"))
            .collect()
    };
    let instead = |path: &Path, make: &dyn Fn(&Path)| {
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap()
        } else {
            fs::remove_file(path).unwrap()
        }
        make(path);
    };
    let fifo = |path: &Path| {
        rustix::fs::mknodat(
            rustix::fs::CWD,
            path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap()
    };
    let itself = |path: &Path| symlink(path.file_name().unwrap(), path).unwrap();
    let dir = |path: &Path| fs::create_dir(path).unwrap();
    let store = |root: &Path| root.join("study.redb");
    let cut = |root: &Path, part: u64| {
        let file = fs::File::options().write(true).open(store(root)).unwrap();
        file.set_len(file.metadata().unwrap().len() * part / 5).unwrap();
    };
    let flipped = |root: &Path, nth: usize| {
        let mut bytes = fs::read(store(root)).unwrap();
        let used: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
        (0..64).for_each(|part| bytes[used[(used.len() / 64 * part + nth * 13) % used.len()]] ^= 1 << (nth % 8));
        fs::write(store(root), bytes).unwrap();
    };
    type Forgery<'a> = (&'a str, Box<dyn Fn(&Path) + 'a>);
    let forgeries: Vec<Forgery<'_>> = vec![
        (
            "outputs of the same size",
            Box::new(|root| outputs(root).iter().for_each(|out| fs::write(out, "99\n").unwrap())),
        ),
        ("outputs that are pipes", Box::new(|root| outputs(root).iter().for_each(|out| instead(out, &fifo)))),
        (
            "outputs that lead to themselves",
            Box::new(|root| outputs(root).iter().for_each(|out| instead(out, &itself))),
        ),
        ("outputs that are directories", Box::new(|root| outputs(root).iter().for_each(|out| instead(out, &dir)))),
        ("artifacts that lead to themselves", Box::new(|root| instead(&root.join("artifacts"), &itself))),
        ("a directory", Box::new(|root| instead(&store(root), &dir))),
        ("a pipe", Box::new(|root| instead(&store(root), &fifo))),
        ("a link to itself", Box::new(|root| instead(&store(root), &itself))),
        ("a device", Box::new(|root| instead(&store(root), &|path| symlink("/dev/zero", path).unwrap()))),
        ("nothing in it", Box::new(|root| fs::write(store(root), "").unwrap())),
        ("no store", Box::new(|root| fs::write(store(root), "x".repeat(9_000)).unwrap())),
        ("cut off early", Box::new(|root| cut(root, 1))),
        ("cut off late", Box::new(|root| cut(root, 4))),
        ("flipped bits", Box::new(|root| flipped(root, 1))),
        ("other flipped bits", Box::new(|root| flipped(root, 6))),
    ];
    let whole = Sandbox::finished(takes(""), 0).canonical();
    for (what, forge) in forgeries {
        let last = Sandbox::finished(takes(""), 0);
        let from = format!("reuse_from = [\"{}\"]", last.path("study.redb").display());
        forge(&last.path(""));
        let sandbox = Sandbox::with_study(takes(&from));
        let output = sandbox.run("run study.toml");
        assert!(matches!(output.status.code(), Some(0 | 7)), "{what}: {}", both(&output));
        if output.status.success() {
            assert_eq!(sandbox.canonical(), whole, "{what}");
            sandbox.ok("verify study.redb", 0);
        }
    }
}

//! `piton new`: a study that runs as it is, to be changed into one's own.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use piton::{Error, shell_word};

use super::args::NewArgs;
use super::terminal::{hint, say};

/// A template: name, what it is, files (name, contents, whether executable).
struct Template {
    name: &'static str,
    about: &'static str,
    files: &'static [(&'static str, &'static str, bool)],
}

const TEMPLATES: &[Template] = &[
    Template {
        name: "basic",
        about: "tunes the gains of a simulated servo: a coarse grid, then random search around the best",
        files: &[
            ("study.toml", include_str!("templates/basic/study.toml"), false),
            ("simulate.sh", include_str!("templates/basic/simulate.sh"), true),
        ],
    },
    Template {
        name: "benchmark",
        about: "races builds of a C program for the best compiler flags, and a gate for its changes",
        files: &[
            ("study.toml", include_str!("../../examples/bench/study.toml"), false),
            ("gate.toml", include_str!("../../examples/bench/gate.toml"), false),
            ("README.md", include_str!("../../examples/bench/README.md"), false),
            ("build.sh", include_str!("../../examples/bench/build.sh"), true),
            ("measure.sh", include_str!("../../examples/bench/measure.sh"), true),
            ("work.c", include_str!("../../examples/bench/work.c"), false),
            ("base.c", include_str!("../../examples/bench/base.c"), false),
            ("blocks.c", include_str!("../../examples/bench/blocks.c"), false),
        ],
    },
    Template {
        name: "grid-sweep",
        about: "tries every combination of two options; the Pareto front of cost and exactness survives",
        files: &[
            ("study.toml", include_str!("templates/grid-sweep/study.toml"), false),
            ("integrate.sh", include_str!("templates/grid-sweep/integrate.sh"), true),
        ],
    },
    Template {
        name: "successive-halving",
        about: "trains many candidates briefly and the best ever longer, each from where its parent stopped",
        files: &[
            ("study.toml", include_str!("templates/successive-halving/study.toml"), false),
            ("train.sh", include_str!("templates/successive-halving/train.sh"), true),
        ],
    },
    Template {
        name: "ci-regression",
        about: "measures a program and fails when it got worse than its baseline; `./gate.sh` is for CI",
        files: &[
            ("study.toml", include_str!("templates/ci-regression/study.toml"), false),
            ("gate.sh", include_str!("templates/ci-regression/gate.sh"), true),
            ("measure.sh", include_str!("templates/ci-regression/measure.sh"), true),
            ("sort.awk", include_str!("templates/ci-regression/sort.awk"), false),
            ("baseline.json", include_str!("templates/ci-regression/baseline.json"), false),
            ("workflow.yml", include_str!("templates/ci-regression/workflow.yml"), false),
        ],
    },
    Template {
        name: "chip",
        about: "synthesis, engineering changes and corners of a circuit with yosys and OpenSTA; also on Nangate45 and ASAP7",
        files: &[
            ("study.toml", include_str!("../../examples/chip/osu035.toml"), false),
            ("nangate45.toml", include_str!("../../examples/chip/nangate45.toml"), false),
            ("asap7.toml", include_str!("../../examples/chip/asap7.toml"), false),
            ("nangate45.baseline.json", include_str!("../../examples/chip/nangate45.baseline.json"), false),
            ("README.md", include_str!("../../examples/chip/README.md"), false),
            ("rtl/gcd.v", include_str!("../../examples/chip/rtl/gcd.v"), false),
            ("rtl/mac.v", include_str!("../../examples/chip/rtl/mac.v"), false),
            ("rtl/alu.v", include_str!("../../examples/chip/rtl/alu.v"), false),
            ("flow/corner.sh", include_str!("../../examples/chip/flow/corner.sh"), true),
            ("flow/eco.sh", include_str!("../../examples/chip/flow/eco.sh"), true),
            ("flow/explain.sh", include_str!("../../examples/chip/flow/explain.sh"), true),
            ("flow/whole.sh", include_str!("../../examples/chip/flow/whole.sh"), true),
            ("flow/eco.tcl", include_str!("../../examples/chip/flow/eco.tcl"), false),
            ("flow/judge.sh", include_str!("../../examples/chip/flow/judge.sh"), true),
            ("flow/kogge-stone.v", include_str!("../../examples/chip/flow/kogge-stone.v"), false),
            ("flow/measure.sh", include_str!("../../examples/chip/flow/measure.sh"), true),
            ("flow/measure.tcl", include_str!("../../examples/chip/flow/measure.tcl"), false),
            ("flow/prepare.sh", include_str!("../../examples/chip/flow/prepare.sh"), true),
            ("flow/signoff.sh", include_str!("../../examples/chip/flow/signoff.sh"), true),
            ("flow/ripple.v", include_str!("../../examples/chip/flow/ripple.v"), false),
            ("flow/setup.tcl", include_str!("../../examples/chip/flow/setup.tcl"), false),
            ("flow/synth.sh", include_str!("../../examples/chip/flow/synth.sh"), true),
        ],
    },
];

/// The schema of the study file, for editors.
const SCHEMA: &str = "study.schema.json";

pub fn new(args: &NewArgs) -> Result<u8, Error> {
    if args.template == "list" {
        for template in TEMPLATES {
            super::outcome::print_line(&format!("{:<20} {}", template.name, template.about))?;
        }
        return Ok(0);
    }
    let Some(template) = TEMPLATES.iter().find(|template| template.name == args.template) else {
        let names: Vec<_> = TEMPLATES.iter().map(|template| format!("`{}`", template.name)).collect();
        return Err(Error::Usage(format!(
            "there is no template `{}`; there are {}",
            args.template,
            names.join(", ")
        )));
    };
    let Some(dir) = &args.dir else {
        return Err(Error::Usage("which directory is to be made? `piton new DIR`".into()));
    };
    make(dir, template).map_err(|cause| Error::File { what: "make", path: dir.clone(), cause })?;
    let study = dir.join("study.toml");
    say(&format!("made `{}`: {}", dir.display(), template.about));
    hint(&format!("`piton check {0}` shows the plan, `piton run {0}` runs it", shell_word(&study)));
    Ok(0)
}

fn make(dir: &Path, template: &Template) -> std::io::Result<()> {
    fs::create_dir_all(dir)?;
    if fs::read_dir(dir)?.next().is_some() {
        return Err(std::io::Error::new(std::io::ErrorKind::AlreadyExists, "the directory is not empty"));
    }
    for (name, contents, executable) in template.files {
        let contents = if name.ends_with(".toml") { with_schema(contents) } else { (*contents).to_owned() };
        write(dir, name, &contents, *executable)?;
    }
    write(dir, SCHEMA, &piton::program::study_file::schema(), false)
}

fn write(dir: &Path, name: &str, contents: &str, executable: bool) -> std::io::Result<()> {
    let mode = if executable { 0o777 } else { 0o666 };
    if let Some(parent) = dir.join(name).parent() {
        fs::create_dir_all(parent)?;
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(dir.join(name))?;
    file.write_all(contents.as_bytes())
}

/// A study file whose first line names the schema beside it; in the repository it names the one there.
fn with_schema(contents: &str) -> String {
    match contents.split_once('\n') {
        Some((first, rest)) if first.starts_with("#:schema ") => format!("#:schema {SCHEMA}\n{rest}"),
        _ => contents.to_owned(),
    }
}

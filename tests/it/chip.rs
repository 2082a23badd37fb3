//! The chip-design example with real tools and real libraries: the printed hashes, whatever is killed, and failures of these
//! tools under their names.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::{Edit, Sandbox, both};
use crate::kills::Moments;

const HERE: &str = env!("CARGO_MANIFEST_DIR");

/// Where the liberty files of Nangate45 and ASAP7 are: in no package, and not part of piton.
fn kits() -> PathBuf {
    let dir =
        std::env::var_os("PITON_PDK_DIR").map_or_else(|| Path::new(HERE).join("../shared/pd"), PathBuf::from);
    assert!(
        dir.join("nangate45").is_dir(),
        "the tests need nangate45/ and asap7/ with their .lib.gz: set PITON_PDK_DIR to where they are"
    );
    dir
}

fn example(kit: &str) -> Sandbox {
    let sandbox = Sandbox::of_example("chip");
    for left in ["lib", "pdk"] {
        drop(std::fs::remove_dir_all(sandbox.path(left)));
    }
    if kit != "osu035" {
        std::fs::create_dir(sandbox.path("pdk")).unwrap();
        std::os::unix::fs::symlink(kits().join(kit), sandbox.path("pdk").join(kit)).unwrap();
    }
    sandbox
}

/// The SHA-256 of the canonical dump, and what the example's README prints for it.
fn hashes(sandbox: &Sandbox, kit: &str) -> (String, String) {
    let dump = sandbox.ok(&format!("dump {kit}.redb --format json --canonical"), 0);
    let mut sum = Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    sum.stdin.take().unwrap().write_all(dump.as_bytes()).unwrap();
    let sum = String::from_utf8(sum.wait_with_output().unwrap().stdout).unwrap();
    let readme = std::fs::read_to_string(Path::new(HERE).join("examples/chip/README.md")).unwrap();
    let row = readme.lines().find(|line| line.starts_with(&format!("| {kit} |"))).unwrap();
    let printed = row.split('|').nth(2).unwrap().trim().to_owned();
    (sum.split_whitespace().next().unwrap().to_owned(), printed)
}

fn whole(kit: &str) -> Sandbox {
    let sandbox = example(kit);
    sandbox.ok(&format!("run {kit}.toml"), 0);
    let (found, printed) = hashes(&sandbox, kit);
    assert_eq!(found, printed);
    sandbox
}

const GATE: &str = "compare nangate45.redb --baseline nangate45.baseline.json --stage explore --tolerance wns_ps=5 \
                    --tolerance area_um2=1% --metric wns_ps --metric area_um2";

#[test]
fn nangate45_has_the_printed_hash_passes_its_gate_and_can_be_replayed() {
    let sandbox = whole("nangate45");
    sandbox.ok(GATE, 0);
    let dump: serde_json::Value =
        serde_json::from_str(&sandbox.ok("dump nangate45.redb --format json", 0)).unwrap();
    let winner = dump["stages"][3]["survivors"][0].as_str().unwrap();
    assert_eq!(dump["study"]["versions"].as_object().unwrap().len(), 3);
    // Also of a synthesis, which is where its netlist comes from.
    for case in [winner, "chip_1_7"] {
        let said = sandbox.ok(&format!("replay nangate45.redb {case}"), 0);
        assert!(said.contains("as recorded") && said.contains("1 output"), "{said}");
    }
    sandbox.ok("report nangate45.redb -o report.html", 0);
    tells_a_designer(&std::fs::read_to_string(sandbox.path("report.html")).unwrap(), &dump);
}

/// The page says of each engineering change how often it helped and what it did to each objective, how the winner was made
/// from the RTL on, and with which tools.
fn tells_a_designer(page: &str, dump: &serde_json::Value) {
    let trials = dump["trials"].as_array().unwrap();
    let of = |case: &str| trials.iter().find(|trial| trial["case"] == case).unwrap();
    for eco in ["resize", "recover"] {
        let changed: Vec<(f64, f64)> = trials
            .iter()
            .filter(|trial| trial["stage"] == 2 && trial["params"]["eco"] == eco)
            .map(|trial| {
                let parent = of(trial["parent"].as_str().unwrap());
                let above = |metric: &str| {
                    trial["metrics"][metric].as_f64().unwrap() - parent["metrics"][metric].as_f64().unwrap()
                };
                (above("wns_ps"), above("area_um2"))
            })
            .collect();
        let better = changed.iter().filter(|(wns, _)| *wns > 0.0).count();
        let row = page.split("<tr").find(|row| row.contains(&format!(">{eco}</td>"))).unwrap();
        assert!(row.contains(&format!("{better} of {}", changed.len())), "{row}");
        // Resizing costs area, recovering gives some back.
        let mut areas: Vec<f64> = changed.iter().map(|(_, area)| *area).collect();
        areas.sort_by(f64::total_cmp);
        let median = areas[areas.len() / 2];
        let cell = format!("{}{}", if median > 0.0 { "+" } else { "" }, piton::views::number(median));
        assert!(row.contains(&cell), "{cell} in {row}");
    }
    for said in ["Δ area_um2", "./flow/synth.sh", "./flow/eco.sh", "./flow/signoff.sh", "Yosys 0.23"] {
        assert!(page.contains(said), "{said}");
    }
}

#[test]
fn a_flow_that_got_worse_does_not_pass_the_gate() {
    let sandbox = example("nangate45");
    let flow = std::fs::read_to_string(sandbox.path("flow/synth.sh")).unwrap();
    let worse = flow.edit(";upsize,-c;dnsize,-c\"", "\"");
    assert_ne!(worse, flow);
    sandbox.write("flow/synth.sh", &worse);
    let study = std::fs::read_to_string(sandbox.path("nangate45.toml")).unwrap();
    let (short, _) = study.split_at(study.find("[[stage]]\nname           = \"eco\"").unwrap());
    sandbox.write("nangate45.toml", short);
    sandbox.ok("run nangate45.toml", 0);
    let table = sandbox.ok(&format!("{GATE} --junit gate.xml"), 4);
    for said in ["chip_1_", "wns_ps", "worse"] {
        assert!(table.contains(said), "{said} in\n{table}");
    }
    // What the table says, for whatever shows test results.
    let gate = std::fs::read_to_string(sandbox.path("gate.xml")).unwrap();
    let worse = table.lines().filter(|line| line.contains(" worse")).count();
    assert!(worse > 0 && gate.matches("<failure").count() == worse, "{worse} in\n{gate}");
    assert_eq!(gate.matches("<testcase").count(), 72, "36 cases of two metrics");
    sandbox.ok("export nangate45.redb --to report", 0);
    let junit = std::fs::read_to_string(sandbox.path("report/junit.xml")).unwrap();
    assert_eq!(junit.matches("<testcase").count(), 37, "a test case a trial");
}

#[test]
fn asap7_has_the_printed_hash() {
    drop(whole("asap7"));
}

#[test]
fn osu035_killed_twenty_times_has_the_printed_hash() {
    killed_twenty_times("osu035");
}

#[test]
fn nangate45_killed_twenty_times_has_the_printed_hash() {
    killed_twenty_times("nangate45");
}

#[test]
fn asap7_killed_twenty_times_has_the_printed_hash() {
    killed_twenty_times("asap7");
}

fn killed_twenty_times(kit: &str) {
    let sandbox = example(kit);
    let mut moments = Moments::new();
    let mut kills = 0;
    while kills < 20 {
        let mut engine = sandbox.start(&format!("run {kit}.toml --workers 3"));
        std::thread::sleep(Duration::from_millis(moments.below(900)));
        if let Some(status) = engine.child.try_wait().unwrap() {
            assert_eq!(status.code(), Some(0));
            break;
        }
        engine.signal(Signal::KILL);
        engine.wait();
        kills += 1;
    }
    sandbox.ok(&format!("run {kit}.toml"), 0);
    sandbox.ok(&format!("verify {kit}.redb"), 0);
    println!("figure: chip example, {kit}: {kills} kills, the printed hash");
    let (found, printed) = hashes(&sandbox, kit);
    assert_eq!(found, printed);
}

#[test]
fn other_circuits_are_built_too() {
    for design in ["mac", "alu"] {
        let sandbox = example("osu035");
        sandbox.edit("osu035.toml", "trial_budget   = 36", "trial_budget   = 4");
        sandbox.ok(&format!("run osu035.toml --set design={design}"), 0);
    }
}

/// A study of one trial with the example's rules, whose one command is this.
fn failing(command: &str) -> (String, String, bool) {
    let sandbox = example("osu035");
    let text = std::fs::read_to_string(sandbox.path("osu035.toml")).unwrap();
    let head = text.split("# One trial as").next().unwrap().edit("retries = 1", "retries = 2");
    // Commands below spoil what they read, which an input must not be.
    let head: String =
        head.lines().filter(|line| !line.starts_with("inputs")).map(|line| format!("{line}\n")).collect();
    let stage = format!(
        "[[stage]]\nname = \"s\"\ncommand = '''{command}'''\ntrial_budget = 1\nsurvivor_count = 1\n\
         objective = [{{ metric = \"wns_ps\", goal = \"maximize\" }}]\n"
    );
    sandbox.write("study.toml", format!("{head}{stage}"));
    let output = sandbox.run("run study.toml");
    assert_eq!(output.status.code(), Some(3), "{}", both(&output));
    let trial = &sandbox.dump()["trials"][0];
    let attempts = trial["attempts"].as_array().unwrap().len();
    let failure = &trial["failure"];
    let text = |key: &str| failure[key].as_str().unwrap().to_owned();
    (text("kind"), format!("{}\n{}", text("reason"), text("log_excerpt")), attempts > 1)
}

/// A multiplier that takes yosys more than a second, whatever the machine.
const LARGE: &str = "module gcd (input clk, input [127:0] a, b, output reg [255:0] y); always @(posedge clk) y <= a * b; endmodule";

#[test]
fn failures_of_real_tools_have_their_names() {
    const OSU: &str = "osu035_stdcells.lib";
    let synth = format!("$PITON_STUDY_DIR/flow/synth.sh lib/{OSU} gcd 3000 3000 fast brent-kung 8 true");
    let measured = |netlist: &str| {
        let measure = format!("exec $PITON_STUDY_DIR/flow/measure.sh lib/{OSU} gcd 3000 netlist.v");
        format!("echo '{netlist}' > netlist.v; {measure}")
    };
    let cut = format!("head -c 40000 $PITON_STUDY_DIR/lib/{OSU} > $PITON_STUDY_DIR/lib/cut.lib");
    let limited = |limit: &str| format!("ulimit {limit}; {synth}");
    // A disk of so many KiB, or of none, is the trial's directory.
    let disk = |options: &str| {
        let inside = format!("mount -t tmpfs -o {options} none small && cd small && {synth}");
        format!("mkdir small; unshare -m sh -c \"{inside}\"")
    };
    let large = |limit: &str| format!("echo '{LARGE}' > $PITON_STUDY_DIR/rtl/gcd.v; {}", limited(limit));
    // Yosys by itself reads on for ever in a library that was cut off, until memory is short: 134, and bad_alloc in its log.
    let raw = format!(
        "gzip -dc {}/nangate45/nangate45_typ.lib.gz | head -c 1000000 > cut.lib; ulimit -v 400000; \
         yosys -q -p \"read_verilog $PITON_STUDY_DIR/rtl/gcd.v; synth -top gcd; dfflibmap -liberty cut.lib\" 2>tool.log; \
         code=$?; cat tool.log >&2; [ $code = 134 ] || exit 9; $PITON_STUDY_DIR/flow/explain.sh $code cut.lib",
        kits().display()
    );
    let cases = [
        // (what is done, its kind, what tells, whether it is tried again)
        (format!("PATH=/nowhere:/usr/sbin {synth}"), "command_not_found", "", false),
        (synth.edit(OSU, "nothing.lib"), "library_missing", "nothing.lib", false),
        (format!("{cut}; {}", synth.edit(OSU, "cut.lib")), "library_cut_off", "is cut off", false),
        (raw, "library_cut_off", "bad_alloc", false),
        (
            measured("module gcd (input clk); NAND2_X1 u (.A1(clk), .A2(clk)); endmodule"),
            "unknown_cell",
            "black box",
            false,
        ),
        (measured("module gcd (input clk"), "netlist_broken", "syntax error", false),
        ("touch netlist.v; exit 0".to_owned(), "missing_metric", "wns_ps", true),
        ("touch netlist.v; echo '{{\"wns_ps\": NaN}}' > metrics.json".to_owned(), "bad_metrics", "NaN", true),
        (
            "touch netlist.v; echo '{{\"wns_ps\": 1e999}}' > metrics.json".to_owned(),
            "bad_metrics",
            "too large",
            true,
        ),
        // Killed, and by no want of memory.
        (large("-t 1"), "cpu_limit", "processor time limit of 1 s", false),
        (large("-S -t 1"), "cpu_limit", "limit", false),
        ("sh -c 'kill -9 $$'".to_owned(), "exit_code", "137", true),
        (limited("-v 22000"), "out_of_memory", "address space of 22000 KiB", false),
        (limited("-v 30000"), "out_of_memory", "30000 KiB", false),
        (limited("-v 40000"), "out_of_memory", "", false),
        (limited("-s 64"), "stack_limit", "stack limit of 64 KiB", false),
        (disk("size=4k"), "disk_full", "", true),
        (disk("size=32k"), "disk_full", "No space left on device", true),
        (disk("size=64k"), "disk_full", "", true),
        (disk("ro"), "not_writable", "Read-only file system", false),
    ];
    let count = cases.len();
    for (command, kind, tells, again) in cases {
        let (found, words, tried_again) = failing(&command);
        assert_eq!((found.as_str(), tried_again), (kind, again), "`{command}`\n{words}");
        assert!(words.contains(tells), "{kind}: {words}");
    }
    println!("figure: chip example: {count} failures of real tools under their names");
}

//! The curves of what trials reported: in the report, on the live page and on terminals.

use std::fs;

use serde_json::json;

use crate::browser::Browser;
use crate::ci::Terminal;
use crate::harness::{Engine, Sandbox, StudyFile, both, wait_until};
use crate::serve::{Server, scraped, shows};

/// A stage whose trials write what a script says; what they reported last is their value.
fn study(trials: u32, script: &str, more: &str) -> Sandbox {
    let file = StudyFile::new("c")
        .run("workers = 3")
        .stage("fit", "sh trial.sh {n}", trials, 2)
        .with(more)
        .sweep(format!("n = {{ min = 1, max = {trials}, type = \"int\" }}"))
        .minimize("loss");
    let sandbox = Sandbox::with_study(file);
    sandbox.write("trial.sh", script);
    sandbox.edit("study.toml", "sh trial.sh", &format!("sh {}", sandbox.path("trial.sh").display()));
    sandbox
}

fn page(sandbox: &Sandbox) -> String {
    sandbox.ok("report study.redb -o page.html", 0);
    fs::read_to_string(sandbox.path("page.html")).unwrap()
}

/// The points of each line of a class in the first chart.
fn lines(page: &str, class: &str) -> Vec<Vec<String>> {
    let chart = page.split("<svg class=\"wide\"").nth(1).unwrap().split("</svg>").next().unwrap();
    let begin = format!("<path class=\"{class}\" d=\"");
    let paths = chart.split(&begin).skip(1);
    paths
        .map(|path| {
            path.split('"').next().unwrap().trim_start_matches('M').split(' ').map(str::to_owned).collect()
        })
        .collect()
}

#[test]
fn the_report_draws_every_trial_and_tells_apart_what_became_of_it() {
    let script = r#"
step=0
while [ $step -lt 9 ]; do
    step=$((step + 1))
    echo "{\"step\": $step, \"loss\": $(($1 * 10 - step)), \"acc\": $step}" >>"$PITON_PROGRESS_FILE"
done
[ $1 -ne 2 ] || exit 3
"#;
    let sandbox = study(8, script, "halving = { rungs = [3, 6], eta = 2, keep = 4 }");
    sandbox.ok("run study.toml", 0);
    let page = page(&sandbox);
    // One failed at its end; the others are compared with those before them.
    let of = |class| lines(&page, class).iter().map(|line| line.len() / 2).collect::<Vec<_>>();
    let pruned =
        sandbox.dump()["trials"].as_array().unwrap().iter().filter(|trial| trial["state"] == "pruned").count();
    assert!(pruned > 0);
    assert_eq!((of("s"), of("off")), (vec![9; 2], vec![9]));
    assert_eq!(of("pruned"), vec![3; pruned], "what comes after the rung does not count");
    assert_eq!(of("ended"), vec![9; 5 - pruned]);
    assert_eq!(page.matches("<path class=\"mark pruned\"").count(), 2 * pruned + 1, "in two charts and a legend");
    for words in [
        "acc over step",
        "Drawn: 8 trials, all that began.",
        "c_0_0, survivor: 1 at step 9",
        "rung at step 3",
        "failed or cut off",
    ] {
        assert!(page.contains(words), "{words}");
    }
    // Files that are gone: what was recorded at the rungs is left.
    fs::remove_dir_all(sandbox.path("artifacts/c/0_fit")).unwrap();
    let page = self::page(&sandbox);
    assert_eq!(lines(&page, "s").iter().map(|line| line.len() / 2).collect::<Vec<_>>(), [2; 2]);
    assert!(!page.contains("acc over step"));
}

#[test]
fn without_reports_nothing_is_shown() {
    let sandbox = Sandbox::finished(StudyFile::new("c").stage("fit", "true", 3, 1).sweep("n = [1, 2, 3]"), 0);
    let page = page(&sandbox);
    assert!(page.contains("3 planned") && !page.contains("over step") && !page.contains("class=\"of-curves\""));
}

/// Names that would be markup, a hundred thousand reports, numbers that are none, and steps that go back.
#[test]
fn a_browser_draws_whatever_trials_report_and_runs_nothing_of_it() {
    let script = r#"
case $1 in
1) awk 'BEGIN { for (n = 1; n <= 100000; n++) printf "{\"step\": %d, \"loss\": %.3f}\n", n, 1 + 9 / n }' ;;
2) cat <<'EOF'
{"step": 1, "loss": 5, "<img src=x onerror=\"document.title='owned'\">": 1, "</script><script>document.title='owned'</script>": 2}
{"step": 70000, "loss": NaN, "\" onload=\"document.title='owned'": 1}
{"step": 60000, "loss": -1e9}
{"step": 80000, "loss": Infinity}
{"step": 90000, "loss": 1e300}
not JSON
EOF
;;
3) awk 'BEGIN { for (n = 1; n <= 200; n++) printf "{\"step\": %d, \"m%d\": 1, \"loss\": 1e308}\n", n, n }' ;;
*) echo '{"step": 9007199254740992, "loss": -1e308}'; ln -s /dev/zero x ;;
esac >>"$PITON_PROGRESS_FILE"
echo '{"loss": 1}' >metrics.json
"#;
    let sandbox = study(4, script, "");
    sandbox.ok("run study.toml", 0);
    let page = page(&sandbox);
    assert!(page.len() < 250_000, "{} bytes", page.len());
    let all: Vec<_> = ["s", "ended"].iter().flat_map(|class| lines(&page, class)).collect();
    assert_eq!(all.len(), 4);
    assert!(all.iter().all(|line| line.len() <= 2 * 200), "at most so many points");
    let place = |text: &String| text.trim_end_matches("h0").parse::<f64>().unwrap();
    assert!(all.iter().flatten().all(|text| (0.0..=760.0).contains(&place(text))), "a coordinate each");
    assert!(page.contains(", and more."), "metrics that are not drawn are said to be there");
    for width in [1_280, 400] {
        let browser = Browser::start(width, 1_000);
        browser.open(&format!("file://{}", sandbox.path("page.html").display()));
        assert_eq!(browser.script("return document.title"), "c · piton");
        assert_eq!(browser.complaints(), Vec::<String>::new());
        assert_eq!(browser.script("return document.images.length"), 0);
        assert_eq!(browser.script("return document.documentElement.scrollWidth <= window.innerWidth"), true);
        let heights = "return [...document.querySelectorAll('.of-curves svg:not(.sample)')].every(s => s.getBoundingClientRect().height > 50)";
        assert_eq!(browser.script(heights), true);
        let dashed = "const of = (c) => getComputedStyle(document.querySelector('.curves path.' + c)); return [of('s').strokeDasharray, of('s').strokeWidth > of('ended').strokeWidth]";
        assert_eq!(browser.script(dashed), json!(["none", true]));
    }
}

/// Steps that are counted cannot be counted from the middle on: of a long log the beginning is read, and the chart says so.
#[test]
fn a_chart_says_what_of_a_long_log_is_not_read() {
    let sandbox = study(
        2,
        "[ $1 = 1 ] && echo loss 2 && exit; seq -f 'loss %g' 40000",
        "progress = { file = \"stdout.log\", metrics = { loss = { regex = 'loss (\\S+)' } } }",
    );
    sandbox.ok("run study.toml", 0);
    let page = page(&sandbox);
    let said =
        "Of what 1 trial printed only the beginning is read, since steps are counted there: its curve ends early.";
    assert!(page.contains(said), "{page}");
    // All of it is read for its value.
    assert_eq!(sandbox.dump()["trials"][1]["metrics"]["loss"], 40_000.0);
}

/// Of more trials than are drawn the best are, and the page says how many of how many.
#[test]
fn of_many_trials_the_best_are_drawn() {
    let script = r#"echo "{\"step\": 5, \"loss\": $1}" >>"$PITON_PROGRESS_FILE""#;
    let sandbox = study(300, script, "");
    sandbox.ok("run study.toml", 0);
    let page = page(&sandbox);
    assert!(page.contains("250 of 300 trials are drawn"));
    assert_eq!((lines(&page, "s").len(), lines(&page, "ended").len()), (2, 248));
    let drawn = |n: u32| page.contains(&format!("c_0_{}, ended by itself: {n} at step 5", n - 1));
    assert!(drawn(3) && drawn(250) && !drawn(251) && !drawn(300), "the best are");
}

/// A trial that has reported, in names and numbers that would steer whoever let them, and waits for a file of its study's directory.
fn reporting() -> Sandbox {
    let script = r#"
cat "$PITON_STUDY_DIR/reports" >>"$PITON_PROGRESS_FILE"
while [ ! -e "$PITON_STUDY_DIR/go" ]; do
    [ ! -e "$PITON_STUDY_DIR/more" ] || { rm "$PITON_STUDY_DIR/more"; echo '{"step": 20, "loss": -20}' >>"$PITON_PROGRESS_FILE"; }
    sleep 0.02
done
"#;
    let sandbox = study(2, script, "");
    let named = "\\u001b[31m\\r\\\"a";
    let first =
        (1..10).map(|step| format!("{{\"step\": {step}, \"loss\": {}, \"{named}\": NaN}}\n", 90 - step * 10));
    let many: String = (1..=100).map(|n| format!(", \"m{n}\": 1")).collect();
    let last = format!("{{\"step\": 10, \"loss\": -10, \"{named}\": NaN{many}}}\n");
    sandbox.write("reports", first.chain([last]).collect::<String>());
    sandbox
}

fn started(sandbox: &Sandbox) -> Engine {
    let engine = sandbox.start("run study.toml --workers 1");
    wait_until("a trial has reported", || both(&sandbox.run("status study.redb")).contains("step 10"));
    engine
}

fn over(sandbox: &Sandbox, engine: Engine) {
    sandbox.write("go", "");
    assert_eq!(engine.wait().code(), Some(0));
}

#[test]
fn the_status_draws_how_what_runs_goes_where_there_is_room() {
    let sandbox = reporting();
    let engine = started(&sandbox);
    let shown = |columns: Option<&str>, locale: &str| {
        let mut command = sandbox.piton(["status", "study.redb"]);
        command.env("LC_ALL", locale).env_remove("COLUMNS").envs(columns.map(|columns| ("COLUMNS", columns)));
        let text = String::from_utf8(command.output().unwrap().stdout).unwrap();
        assert!(!text.contains(['\u{1b}', '\r']), "{text}");
        text
    };
    let wide = shown(Some("2000"), "C.UTF-8");
    assert!(wide.contains("step 10  loss -10 ██▇▆▅▄▃▂▁▁  \\u{1b}[31m\\r\"a not finite  m1 1"), "{wide}");
    let plain = shown(Some("2000"), "C");
    assert!(plain.contains("step 10  loss -10 ##*+=-:.__  "), "{plain}");
    let piped = shown(None, "C.UTF-8");
    assert!(piped.contains("step 10  loss -10  \\u{1b}[31m\\r\"a not finite  m1 1"), "{piped}");
    let narrow = shown(Some("40"), "C.UTF-8");
    let line = narrow.lines().find(|line| line.contains("c_0_0 #1")).unwrap();
    assert!(line.chars().count() <= 40 && line.contains("  step 10"), "{narrow}");
    over(&sandbox, engine);
}

#[test]
fn a_terminal_shows_how_what_runs_goes() {
    for (columns, drawn) in [(120, true), (30, false)] {
        let script = "for step in 1 2 3 4; do echo \"{\\\"step\\\": $step, \\\"loss\\\": $step}\"; done >>\"$PITON_PROGRESS_FILE\"
while [ ! -e \"$PITON_STUDY_DIR/go\" ]; do sleep 0.02; done";
        let sandbox = study(2, script, "");
        let terminal = Terminal::start(&sandbox, columns, "run study.toml");
        let screen = terminal.waits_for("step 4  loss 4");
        assert_eq!(
            screen.lines().filter(|line| line.contains("▁▃▆█")).count(),
            if drawn { 2 } else { 0 },
            "{screen}"
        );
        let watch = Terminal::start_beside(&sandbox, columns.max(44), "status study.redb --watch");
        let screen = watch.waits_for("step 4  loss 4");
        assert_eq!(screen.contains("step 4  loss 4 ▁▃▆█"), drawn, "{screen}");
        sandbox.write("go", "");
        terminal.waits_for("exit 0");
    }
}

/// Few series, with names that a scraper reads, of what runs now and of nothing else.
#[test]
fn a_scraper_gets_the_last_values_of_what_runs() {
    let sandbox = reporting();
    let engine = started(&sandbox);
    let server = Server::start(&sandbox);
    let values = scraped(&server);
    assert_eq!(values[r#"piton_trial_step{"case": "c_0_0"}"#], 10.0, "{values}");
    assert_eq!(values[r#"piton_trial_value{"case": "c_0_0", "metric": "loss"}"#], -10.0);
    let odd = r#"piton_trial_value{"case": "c_0_0", "metric": "\\u{1b}[31m\\r\"a"}"#;
    assert!(values.as_object().unwrap().get(odd).is_some_and(serde_json::Value::is_null), "{values}");
    let of_trials = |values: &serde_json::Value| {
        values.as_object().unwrap().keys().filter(|name| name.starts_with("piton_trial_")).count()
    };
    assert_eq!(of_trials(&values), 9, "the step, and eight of its values");
    over(&sandbox, engine);
    assert_eq!(of_trials(&scraped(&server)), 0);
}

/// The live page draws trials while they run, goes on while nothing but their reports comes, and leaves the rest of itself alone.
#[test]
fn the_live_page_draws_what_runs() {
    let sandbox = reporting();
    let engine = started(&sandbox);
    let server = Server::start(&sandbox);
    let browser = Browser::start(1_280, 1_000);
    browser.open(&server.url());
    shows(&browser, "#live", "step 10 · ");
    shows(&browser, ".of-curves svg.wide path.runs", "c_0_0, runs: -10 at step 10");
    browser.script(
        "document.querySelector('#winner, main h2').id = 'kept'; document.querySelector('.of-curves').lang = 'de'",
    );
    sandbox.write("more", "");
    shows(&browser, ".of-curves svg.wide path.runs", "c_0_0, runs: -20 at step 20");
    assert_eq!(
        browser.script(
            "return [document.getElementById('kept') !== null, document.querySelector('.of-curves').lang]"
        ),
        json!([true, "de"])
    );
    over(&sandbox, engine);
    shows(&browser, ".of-curves svg.wide path.s", "survivor: -");
    assert_eq!(browser.script("return document.querySelectorAll('.curves path.runs').length"), 0);
    assert_eq!(browser.script("return document.images.length"), 0);
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

//! The pages for who sees, hears or points differently: axe-core, in the browser, finds nothing.

use std::fs;
use std::path::PathBuf;

use serde_json::Value as Json;

use crate::browser::Browser;
use crate::harness::{Sandbox, StudyFile};
use crate::serve::{Server, running, shows, study};

/// `tests/run` installs it.
fn axe() -> String {
    let lib = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools/axe/lib"));
    let python = fs::read_dir(lib).unwrap().next().unwrap().unwrap().path();
    fs::read_to_string(python.join("site-packages/axe_playwright_python/axe.min.js")).unwrap()
}

/// What is wrong with the page that is open: rule and element. At least `least` rules have found something to look at.
fn violations(browser: &Browser, axe: &str, least: u64) -> Vec<String> {
    browser.script(axe);
    browser.script("window.looked = null; axe.run().then(found => { window.looked = found })");
    crate::harness::wait_until("axe has looked", || browser.script("return window.looked !== null") == true);
    let passed = browser.script("return window.looked.passes.length").as_u64().unwrap();
    assert!(passed >= least, "{passed} rules alone had something to look at");
    let wrong = browser.script(
        "return window.looked.violations.flatMap(v => v.nodes.map(n => `${v.id}: ${n.html} ${n.failureSummary}`))",
    );
    let Json::Array(wrong) = wrong else { panic!("{wrong}") };
    wrong.into_iter().map(|line| line.as_str().unwrap().to_owned()).collect()
}

/// Wide and narrow, by day and by night.
fn all_looks(address: &str, ready: impl Fn(&Browser), least: u64) {
    let axe = axe();
    for width in [1_280, 400] {
        let browser = Browser::start(width, 1_000);
        for scheme in ["light", "dark"] {
            browser.prefers(scheme);
            browser.open(address);
            ready(&browser);
            assert_eq!(violations(&browser, &axe, least), Vec::<String>::new(), "{address}, {width}, {scheme}");
        }
    }
}

/// A stage with curves, rungs, failures and reuse, and one that follows.
fn varied() -> Sandbox {
    let fit = r#"[ {n} -ne 5 ] || exit 3
for step in 1 2 3 4 5 6; do echo "{{\"step\": $step, \"loss\": $(({n} * 10 - step))}}" >>"$PITON_PROGRESS_FILE"; done"#;
    let file = StudyFile::new("varied")
        .run("workers = 2")
        .stage("fit", fit, 12, 2)
        .with("halving = { rungs = [3], eta = 2, keep = 3 }")
        .sweep("n = { min = 1, max = 12, type = \"int\" }")
        .minimize("loss")
        .stage("score", "echo '{{\"cost\": {m}, \"size\": {n}}}' > metrics.json", 4, 1)
        .with("reuse = true\nuses = [\"m\", \"n\"]\nselection = \"pareto\"")
        .sweep("m = [1, 2]")
        .minimize("cost")
        .maximize("size");
    Sandbox::with_study(file)
}

#[test]
fn a_report_has_no_violation() {
    let sandbox = varied();
    sandbox.ok("run study.toml", 0);
    sandbox.ok("report study.redb -o page.html", 0);
    let address = format!("file://{}", sandbox.path("page.html").display());
    all_looks(&address, |browser| shows(browser, "#table", "varied_1_0"), 15);
}

#[test]
fn a_live_page_has_no_violation_while_trials_run_and_while_it_asks() {
    let sandbox = study();
    let engine = sandbox.start("run study.toml");
    running(&sandbox, 2);
    let server = Server::start(&sandbox);
    all_looks(&server.url(), |browser| shows(browser, "#live", "watched_0_0"), 15);
    let asks = |browser: &Browser| {
        shows(browser, "#live", "watched_0_0");
        browser.script("document.getElementById('stop').click()");
    };
    all_looks(&server.url(), asks, 10);
    drop(engine);
}

#[test]
fn a_page_of_many_studies_has_no_violation() {
    let sandbox = study();
    let engine = sandbox.start("run study.toml");
    running(&sandbox, 2);
    sandbox.write("garbage.redb", "no store");
    let server = Server::of_store(&sandbox, ".");
    all_looks(&server.url(), |browser| shows(browser, "#totals", "2 studies"), 12);
    drop(engine);
}

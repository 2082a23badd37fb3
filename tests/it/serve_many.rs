//! `piton serve DIR`: all studies below a directory on one page, in a real browser and for a scraper; each can be looked at and stopped, and none hurts
//! another.

use std::fs;

use rustix::process::Signal;
use serde_json::Value as Json;

use crate::browser::Browser;
use crate::harness::{Sandbox, StudyFile, wait_until};
use crate::serve::{Server, scraped, shows, status};

/// Three trials; each waits for a file.
fn gated(name: &str) -> StudyFile {
    let command = "echo >> {study_dir}/started; while test ! -e {study_dir}/go; do sleep 0.02; done; echo '{{\"y\": {x}}}' > metrics.json";
    StudyFile::new(name).stage("only", command, 3, 1).sweep("x = [3, 1, 2]").minimize("y")
}

/// A finished study in `a`, and one of the same name in `b`, which is to wait.
fn two() -> Sandbox {
    let sandbox = Sandbox::new();
    for dir in ["a", "b"] {
        fs::create_dir(sandbox.path(dir)).unwrap();
        sandbox.write(&format!("{dir}/s.toml"), gated("twin"));
    }
    sandbox.write("a/go", "");
    sandbox.ok("run a/s.toml", 0);
    sandbox
}

fn begun(sandbox: &Sandbox, dir: &str) {
    wait_until("a trial runs", || !sandbox.lines(&format!("{dir}/started")).is_empty());
}

/// The key of the study whose store is shown as that.
fn key(page: &str, store: &str) -> String {
    let row = page.split("<tr ").find(|row| row.contains(&format!("<span class=\"note\">{store}</span>")));
    let row = row.unwrap_or_else(|| panic!("no row of {store}: {page}"));
    row.split_once("data-key=\"").unwrap().1.split_once('"').unwrap().0.to_owned()
}

#[test]
fn all_studies_are_on_one_page_and_follow_what_happens() {
    let sandbox = two();
    let engine = sandbox.start("run b/s.toml -j 1");
    begun(&sandbox, "b");
    let markup = "<img src=x onerror=document.title=1>.redb";
    fs::copy(sandbox.path("a/s.redb"), sandbox.path(markup)).unwrap();
    sandbox.write("garbage.redb", "no store");
    let server = Server::of_store(&sandbox, ".");
    let browser = Browser::start(1280, 900);
    browser.open(&server.url());
    shows(&browser, "#totals", "4 studies: 2 completed, 1 running, 1 not readable");
    shows(&browser, "#studies", markup);
    let row = |store: &str| {
        browser.script(&format!(
            "const r = [...document.querySelectorAll('#studies tbody tr')].find(r => r.querySelector('.note').textContent === '{store}'); return r ? r.innerText : ''"
        ))
    };
    let says = |store: &str, words: &str| {
        wait_until(&format!("{store}: {words}"), || row(store).as_str().is_some_and(|row| row.contains(words)));
    };
    says("garbage.redb", "damaged, or no piton store");
    says("b/s.redb", "0/3");

    // What is sorted in, is mended, or goes, without the page being loaded again.
    browser.script("window.same = true");
    fs::create_dir(sandbox.path("aa")).unwrap();
    fs::copy(sandbox.path("a/s.redb"), sandbox.path("aa/new.redb")).unwrap();
    says("aa/new.redb", "3/3");
    fs::copy(sandbox.path("a/s.redb"), sandbox.path("garbage.redb")).unwrap();
    says("garbage.redb", "completed");
    fs::remove_file(sandbox.path(markup)).unwrap();
    says(markup, "gone");
    let stores =
        "return [...document.querySelectorAll('#studies tbody .note')].map(note => note.textContent).join(' ')";
    assert_eq!(browser.script(stores), format!("{markup} a/s.redb aa/new.redb b/s.redb garbage.redb"));

    // The button of the one that runs stops that one; it asks first, by name.
    let buttons = "return document.querySelectorAll('button.stop').length";
    assert_eq!(browser.script(buttons), 1);
    browser.script("document.querySelector('button.stop').click()");
    shows(&browser, "#stop-title", "Stop twin?");
    browser.script("document.querySelector('#stop-dialog button[value=stop]').click()");
    shows(&browser, "#said", "asked");
    says("b/s.redb", "draining");
    sandbox.write("b/go", "");
    assert_eq!(engine.wait().code(), Some(75));
    says("b/s.redb", "interrupted");

    // Only those that are looked for are shown.
    browser.script(
        "const f = document.getElementById('filter'); f.value = 'TWIN aa/'; f.dispatchEvent(new Event('input'))",
    );
    shows(&browser, "#shown", "1 of 5 shown");
    assert_eq!(browser.script("return window.same"), true);

    // Each is a click away, and the way back too.
    browser.script("[...document.querySelectorAll('#studies tr')].find(r => r.textContent.includes('aa/new')).querySelector('a').click()");
    shows(&browser, "h1", "twin");
    shows(&browser, "#live", "The study is completed.");
    browser.script("document.querySelector('nav[aria-label=studies] a').click()");
    shows(&browser, "h1", "Studies below");
    assert_ne!(browser.script("return document.title"), "1");
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn one_token_lets_in_to_all_and_nothing_else_does() {
    let sandbox = two();
    // More than are handed out at once: some are left when it is stopped.
    let many = gated("twin").edit("x = [3, 1, 2]", "x = { min = 1, max = 9, type = \"int\" }");
    sandbox.write("b/s.toml", many.edit("trial_budget = 3", "trial_budget = 9"));
    let engine = sandbox.start("run b/s.toml -j 1");
    begun(&sandbox, "b");
    sandbox.write("garbage.redb", "no store");
    let server = Server::of_store(&sandbox, ".");
    let (code, page) = server.ask("GET", "", "");
    assert_eq!(code, 200, "{page}");
    let (done, runs, garbage) = (key(&page, "a/s.redb"), key(&page, "b/s.redb"), key(&page, "garbage.redb"));
    assert_ne!(done, runs);
    let ask = |method: &str, path: &str| server.ask(method, path, "").0;
    let log = format!("study/{done}/artifacts/0_only/twin_0_0/attempt_1/params.json");
    for path in [format!("study/{done}/"), format!("study/{done}/metrics"), log.clone()] {
        assert_eq!(ask("GET", &path), 200, "{path}");
    }
    let host = &server.host;
    let without = |path: &str| {
        let other = "0".repeat(server.token.len());
        let asked = |path: String, method: &str| {
            status(&server.raw(&format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")))
        };
        [
            asked(format!("/{path}"), "GET"),
            asked(format!("/{other}/{path}"), "GET"),
            asked(format!("/{other}/{path}"), "POST"),
        ]
    };
    for path in ["", "events", &format!("study/{runs}/"), &format!("study/{runs}/stop"), &log] {
        assert_eq!(without(path), [404; 3], "{path}");
    }
    let none = "0".repeat(32);
    for path in [
        "artifacts/0_only/twin_0_0/attempt_1/params.json".to_owned(),
        "stop".to_owned(),
        format!("study/{done}"),
        format!("study/{none}/"),
        "study/../".to_owned(),
        "study/%2e%2e/".to_owned(),
        "study/a%2fs.redb/".to_owned(),
        format!("study/{done}/artifacts/../../s.toml"),
        format!("study/{done}/study/{done}/"),
    ] {
        assert_eq!(ask("GET", &path), 404, "{path}");
    }
    // One that cannot be read is told to be that, and no more.
    let (code, told) = server.ask("GET", &format!("study/{garbage}/"), "");
    assert!(code == 503 && told.contains("damaged"), "{told}");
    // A link in the place of a store is not followed.
    fs::remove_file(sandbox.path("garbage.redb")).unwrap();
    std::os::unix::fs::symlink(sandbox.path("a/s.redb"), sandbox.path("garbage.redb")).unwrap();
    assert_eq!(ask("GET", &format!("study/{garbage}/")), 404);

    // A stop has to come from the page, and is that of one study.
    let stop = |key: &str, headers: &str| server.ask("POST", &format!("study/{key}/stop"), headers).0;
    assert_eq!(stop(&runs, "Origin: http://evil.example\r\n"), 403);
    assert_eq!(stop(&runs, "Sec-Fetch-Site: cross-site\r\n"), 403);
    assert_eq!(ask("GET", &format!("study/{runs}/stop")), 405);
    assert_eq!(stop(&done, ""), 409);
    assert_eq!(ask("POST", "stop"), 404);
    let state = || -> Json { serde_json::from_str(&sandbox.ok("status b/s.redb --json", 0)).unwrap() };
    assert_eq!(state()["draining"], false);
    assert_eq!(stop(&runs, &format!("Origin: http://{host}\r\n")), 202);
    sandbox.write("b/go", "");
    assert_eq!(engine.wait().code(), Some(75));
}

#[test]
fn the_metrics_of_all_tell_studies_of_one_name_apart() {
    let sandbox = two();
    let engine = sandbox.start("run b/s.toml -j 1");
    begun(&sandbox, "b");
    fs::copy(sandbox.path("a/s.redb"), sandbox.path("q\"\\\n\u{1b}.redb")).unwrap();
    sandbox.write("garbage.redb", "no store");
    let server = Server::of_store(&sandbox, ".");
    let values = scraped(&server);
    let of = |metric: &str, more: &str, store: &str| {
        values[&format!("{metric}{{{more}\"store\": \"{store}\", \"study\": \"twin\"}}")].clone()
    };
    assert_eq!(of("piton_engine_alive", "", "a/s.redb"), 0.0, "{values}");
    assert_eq!(of("piton_engine_alive", "", "b/s.redb"), 1.0);
    assert_eq!(of("piton_store_readable", "", "b/s.redb"), 1.0);
    assert_eq!(values[r#"piton_store_readable{"store": "garbage.redb", "study": ""}"#], 0.0, "{values}");
    let succeeded = r#"piton_trials{"stage": "only", "state": "succeeded", "store": "a/s.redb", "study": "twin"}"#;
    assert_eq!(values[succeeded], 3.0);
    let all = values.as_object().unwrap();
    assert!(all.keys().all(|name| name.contains(r#""study": "#) && name.contains(r#""store": "#)), "{values}");
    // Nothing that a name holds gets out of its label.
    assert_eq!(all.keys().filter(|name| name.starts_with("piton_runs_total")).count(), 3, "{values}");
    engine.signal(Signal::KILL);
    engine.wait();
    wait_until("a dead engine is seen, though nothing was written", || {
        scraped(&server)[r#"piton_engine_alive{"store": "b/s.redb", "study": "twin"}"#] == 0.0
    });
}

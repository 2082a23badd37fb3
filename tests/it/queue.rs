//! Why trials wait in a cluster's queue, wherever a person looks: the words are those of the real Slurm and the real Ray.

use std::fs::File;

use crate::browser::Browser;
use crate::clusters::{Cluster, Ray, Slurm};
use crate::harness::{Edit, wait_until};
use crate::remote::Far;
use crate::serve::{Server, shows};

fn status(far: &Far) -> serde_json::Value {
    serde_json::from_str(&far.sandbox.ok("status study.redb --json", 0)).unwrap()
}

/// How many of the trials that are listed wait for one of these reasons.
fn waiting(far: &Far, reasons: &[&str]) -> usize {
    let status = status(far);
    let running = status["running"].as_array().unwrap();
    let has = |reason: &str| reasons.iter().any(|wanted| reason.starts_with(wanted));
    running.iter().filter(|trial| trial["pending_reason"].as_str().is_some_and(has)).count()
}

#[test]
fn slurm_says_why_trials_wait_wherever_one_looks() {
    let slurm = Slurm::start();
    for more in ["", "array = true\n"] {
        let far = Far::with(&format!("{}{more}", slurm.run_table()), slurm.env());
        // Two nodes of four processors.
        let text = std::fs::read_to_string(far.sandbox.path("study.toml")).unwrap();
        far.sandbox.write("study.toml", text.edit("workers = 8", "workers = 11"));
        let engine = far.hold(8);
        let known = || {
            let reasons = &status(&far)["cluster_queue"]["reasons"];
            let count = |reason: &str| reasons[reason].as_u64().unwrap_or(0);
            count("Resources") > 0 && count("Resources") + count("Priority") == 3
        };
        wait_until("it is known why three wait", known);
        // Ten of the eleven are listed.
        wait_until("and of each", || waiting(&far, &["Resources", "Priority"]) >= 2);
        let text = far.sandbox.ok("status study.redb", 0);
        assert!(text.contains("in the queue: "), "{text}");
        let tells = |line: &str| line.ends_with(": Resources") || line.ends_with(": Priority");
        assert!(text.lines().any(|line| line.contains("queued for ") && tells(line)), "{text}");
        let file = File::create(far.sandbox.path("watched")).unwrap();
        let mut watch = far.sandbox.piton(["status", "study.redb", "--watch"]).stdout(file).spawn().unwrap();
        let watched = || far.sandbox.lines("watched").iter().any(|line| line.contains("in the queue: "));
        wait_until("`status --watch` says so", watched);
        if more.is_empty() {
            let server = Server::start_with(&far.sandbox, &[]);
            let browser = Browser::start(1200, 900);
            browser.open(&server.url());
            shows(&browser, "#live", "in the queue: ");
            shows(&browser, "#live", "queued, slurm ");
            shows(&browser, "#live", ": Resources");
        }
        assert!(!far.sandbox.ok("dump study.redb --events", 0).contains("Resources"), "it is no record");
        far.let_go();
        assert_eq!(engine.wait().code(), Some(0));
        assert_eq!(watch.wait().unwrap().code(), Some(0));
        far.check_once();
        assert!(!far.sandbox.path("artifacts/far/.remote/waiting.json").exists());
        assert!(status(&far)["cluster_queue"].is_null());
    }
}

#[test]
fn ray_says_why_trials_wait() {
    let ray = Ray::start();
    let far = Far::on(&ray);
    let text = std::fs::read_to_string(far.sandbox.path("study.toml")).unwrap();
    far.sandbox.write("study.toml", text.edit("workers = 8", "workers = 10"));
    let engine = far.hold(8);
    wait_until("it is known why two wait", || waiting(&far, &["Job has not started yet."]) == 2);
    let text = far.sandbox.ok("status study.redb", 0);
    assert!(text.contains("in the queue: 2 Job has not started yet."), "{text}");
    far.let_go();
    assert_eq!(engine.wait().code(), Some(0));
    far.check_once();
}

//! `[[stage.require]]`: who does not meet it does not survive, and that is said.

use crate::harness::{Sandbox, StudyFile, both};

/// Four trials: the best three miss a slack of 0 by more and less, the last two meet it.
fn study(at_least: i64) -> StudyFile {
    StudyFile::new("timed")
        .stage("place", r#"echo '{{"area": {x}, "slack": '$(( {x} * 10 - 25 ))'}}' > metrics.json"#, 4, 3)
        .with(format!("require = [{{ metric = \"slack\", at_least = {at_least} }}]"))
        .sweep("x = [1, 2, 3, 4]")
        .minimize("area")
        .stage("route", r#"echo '{{"area": {x}}}' > metrics.json"#, 4, 1)
        .minimize("area")
}

#[test]
fn fewer_survive_where_fewer_meet_it_and_an_amendment_chooses_again() {
    let sandbox = Sandbox::with_study(study(0));
    let output = sandbox.piton(["run", "study.toml"]).output().unwrap();
    let said = both(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let closed = "survivors: timed_0_2, timed_0_3 (at most 3 could: the others do not meet what `require` asks)";
    assert!(said.contains(closed), "{said}");
    assert_eq!(sandbox.dump()["stages"][0]["survivors"], serde_json::json!(["timed_0_2", "timed_0_3"]));
    assert_eq!(sandbox.dump()["stages"][1]["survivors"], serde_json::json!(["timed_1_0"]));
    let why = sandbox.ok("why study.redb timed_0_1", 0);
    assert!(why.contains("does not meet what `require` asks (`slack` -5.0 is below 0.0)"), "{why}");
    sandbox.ok("verify study.redb", 0);

    // Looser: results stay, survivors are chosen anew, and what follows from others runs.
    sandbox.write("study.toml", study(-5));
    sandbox.ok("run study.toml", 6);
    let cost = sandbox.ok("amend study.redb study.toml --yes --discard-from route", 0);
    assert!(cost.contains("require"), "{cost}");
    sandbox.ok("run study.toml", 0);
    let dump = sandbox.dump();
    assert_eq!(dump["stages"][0]["survivors"], serde_json::json!(["timed_0_1", "timed_0_2", "timed_0_3"]));
    assert!(
        dump["trials"].as_array().unwrap()[..4]
            .iter()
            .all(|trial| trial["attempts"].as_array().unwrap().len() == 1)
    );
}

#[test]
fn none_that_meets_it_aborts_and_says_why() {
    let sandbox = Sandbox::with_study(study(100));
    let output = sandbox.piton(["run", "study.toml"]).output().unwrap();
    let said = both(&output);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("no survivors: none of those that succeeded meets what `require` asks"), "{said}");
    sandbox.ok("verify study.redb", 0);
}

/// A case meets it by what its replicas come to together; a metric that is not there fails the trial.
#[test]
fn replicas_meet_it_together_and_it_needs_its_metric() {
    let file = StudyFile::new("noisy")
        .stage("time", r#"echo '{{"t": {x}, "slack": '$(( {x} - PITON_REPLICA * 3 ))'}}' > metrics.json"#, 6, 2)
        .with("repeats = 2\nrequire = [{ metric = \"slack\", at_least = 1 }, { metric = \"t\", at_most = 3 }]")
        .sweep("x = [1, 2, 3]")
        .minimize("t");
    let sandbox = Sandbox::finished(file, 0);
    // Means of 1, -2; 2, -1; 3, 0.
    assert_eq!(sandbox.dump()["stages"][0]["survivors"], serde_json::json!(["noisy_0_2"]));
    let why = sandbox.ok("why study.redb noisy_0_1", 0);
    assert!(why.contains("does not meet what `require` asks (`slack` 0.5 is below 1.0)"), "{why}");

    let bare = StudyFile::new("bare")
        .stage("place", "echo '{{\"area\": {x}}}' > metrics.json", 2, 1)
        .with("require = [{ metric = \"slack\", at_least = 0 }]")
        .sweep("x = [1, 2]")
        .minimize("area");
    let sandbox = Sandbox::with_study(bare);
    let output = sandbox.piton(["run", "study.toml"]).output().unwrap();
    assert!(both(&output).contains("missing_metric"), "{}", both(&output));
}

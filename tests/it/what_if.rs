//! What another choice would have kept: held against studies that were really told so.

use std::fs;

use piton::spec::Aggregate;
use piton::views::what_if::{Kind, WhatIf};
use piton::{Choices, Heard, Metrics, Range, Stage, Store, Study, TrialContext};
use serde_json::Value as Json;

use crate::harness::{Sandbox, both};

/// A number in [0, 1) that looks drawn.
fn drawn(seed: u64, parts: [i64; 3]) -> f64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for part in parts {
        state = (state ^ part as u64).wrapping_mul(0xbf58_476d_1ce4_e5b9).rotate_left(31);
    }
    (state >> 11) as f64 / (1_u64 << 53) as f64
}

/// Twelve cases and `second` trials of those that survive; `kept` says how many survive each stage.
fn two_stages(sandbox: &Sandbox, name: &str, seed: u64, kept: (u64, u64), second: u64, children: i64) -> Store {
    let n = |trial: &TrialContext, name: &str| trial.int(name).unwrap();
    let explore = Stage::closure("explore", move |trial| Ok([("y", drawn(seed, [n(trial, "n"), 0, 1]))]))
        .budget(12)
        .survivors(kept.0)
        .range("n", Range::int(1..=12))
        .minimize("y");
    let refine =
        Stage::closure("refine", move |trial| Ok([("y", drawn(seed, [n(trial, "n"), n(trial, "m"), 2]))]))
            .budget(second)
            .survivors(kept.1)
            .range("m", Range::int(1..=children))
            .minimize("y");
    let path = sandbox.path(&format!("{name}.redb"));
    let study = Study::builder("s").stage(explore).stage(refine).build().unwrap();
    study.store(&path).artifacts(sandbox.path(&format!("{name}.artifacts"))).run().unwrap();
    Store::at(path)
}

fn survivors(n: u64) -> Choices {
    let mut choices = Choices::default();
    choices.survivors = Some(n);
    choices
}

/// The values of those that survive for certain, or did.
fn values(answer: &WhatIf, stage: usize) -> Vec<f64> {
    let best = answer.stages[stage].best.iter().filter(|case| case.certain);
    best.map(|case| case.values[0]).collect()
}

fn really(store: &Store) -> Vec<f64> {
    let survivors = store.survivors().unwrap();
    survivors.iter().map(|survivor| survivor.metrics["y"].number().unwrap()).collect()
}

fn explore() -> Vec<String> {
    vec!["explore".into()]
}

#[test]
fn with_other_survivors_it_says_what_a_study_of_those_does() {
    let sandbox = Sandbox::new();
    for seed in 0..6 {
        // Three children each, whoever survives: what is known of fewer parents is all there is to know.
        let six = two_stages(&sandbox, &format!("six{seed}"), seed, (6, 2), 18, 3);
        let answer = six.what_if(&survivors(3), &explore()).unwrap();
        assert!(answer.stages.iter().all(|stage| stage.certain && stage.unknown == 0), "{answer:?}");
        let three = two_stages(&sandbox, &format!("three{seed}"), seed, (3, 2), 18, 3);
        assert_eq!(values(&answer, 1), really(&three), "seed {seed}");
        assert_eq!((answer.saved.trials, answer.saved.added_trials, answer.saved.whole), (9, 0, true));
        let winner = answer.winner.as_ref().unwrap();
        let kept = really(&three)[0] == really(&six)[0];
        assert_eq!(winner.kept, if kept { Kind::Kept } else { Kind::Lost });
        assert_eq!(answer.retention[0].retained == 2, really(&six) == really(&three));

        // More parents had children that never ran.
        let answer = three.what_if(&survivors(6), &explore()).unwrap();
        assert_eq!((answer.stages[1].trials, answer.stages[1].never_ran), (Some(18), 9));
        assert!(!answer.stages[1].certain && values(&answer, 1).is_empty());
        assert_eq!(answer.winner.unwrap().kept, Kind::Unknown);
        // As it was: nothing is saved, and the same survive.
        let answer = six.what_if(&survivors(6), &explore()).unwrap();
        assert_eq!((values(&answer, 1), answer.saved.trials), (really(&six), 0));
        assert_eq!(answer.winner.unwrap().kept, Kind::Kept);
    }
}

#[test]
fn what_never_ran_is_unknown_and_what_is_called_certain_is() {
    let sandbox = Sandbox::new();
    for seed in 0..6 {
        // The budget is cut over fewer parents: each has children that never ran.
        let six = two_stages(&sandbox, &format!("six{seed}"), seed, (6, 2), 12, 100);
        let answer = six.what_if(&survivors(4), &explore()).unwrap();
        let refine = &answer.stages[1];
        assert_eq!((refine.trials, refine.never_ran, refine.unknown), (Some(12), 4, 4));
        assert_eq!((refine.saved.trials, refine.saved.added_trials), (4, 4));
        assert!(!refine.certain && values(&answer, 1).is_empty(), "four may be better than the best two");
        assert_eq!(answer.stages[0].lost.len(), 2);

        // Of the eight of which four may be better, the first four survive whatever those come to.
        let six = two_stages(&sandbox, &format!("wide{seed}"), seed, (6, 8), 12, 100);
        let answer = six.what_if(&survivors(4), &explore()).unwrap();
        let four = two_stages(&sandbox, &format!("four{seed}"), seed, (4, 8), 12, 100);
        let (certain, really) = (values(&answer, 1), really(&four));
        assert_eq!(certain.len(), 4);
        assert!(certain.iter().all(|value| really.contains(value)), "{certain:?} {really:?}");
    }
}

/// Forty trials of eight reports each, of which three survive; with halving or without.
fn curves(sandbox: &Sandbox, name: &str, seed: u64, halving: Option<(&[u64], u64)>) -> Store {
    let fit = Stage::closure("fit", move |trial| {
        let n = trial.int("n").unwrap();
        for step in 1..=8_u64 {
            let loss = drawn(seed, [n, 0, 0]) + drawn(seed, [n, step as i64, 1]) / step as f64;
            if trial.report(step, [("y", loss)])? == Heard::End {
                return Err("it was ended".into());
            }
        }
        // One that fails shows what it reported all the same.
        if n % 9 == 5 { Err("no luck".into()) } else { Ok(Metrics::new()) }
    })
    .budget(40)
    .survivors(3)
    .range("n", Range::int(1..=40))
    .minimize("y");
    let fit = match halving {
        Some((rungs, eta)) => fit.halving(rungs.iter().copied()).halving_eta(eta),
        None => fit,
    };
    let path = sandbox.path(&format!("{name}.redb"));
    let study = Study::builder("s").stage(fit).build().unwrap();
    study.store(&path).artifacts(sandbox.path(&format!("{name}.artifacts"))).run().unwrap();
    Store::at(path)
}

fn halving(rungs: &[u64], eta: Option<u64>) -> Choices {
    let mut choices = Choices::default();
    (choices.rungs, choices.eta) = (rungs.to_vec(), eta);
    choices
}

fn cases(store: &Store) -> Vec<String> {
    store.survivors().unwrap().into_iter().map(|survivor| survivor.case).collect()
}

fn pruned(store: &Store) -> u64 {
    store.status().unwrap().stages[0].trials.pruned
}

#[test]
fn with_other_rungs_it_says_what_a_study_of_those_does() {
    let sandbox = Sandbox::new();
    let mut unknown = 0;
    for seed in 0..4 {
        let whole = curves(&sandbox, &format!("whole{seed}"), seed, None);
        let really = curves(&sandbox, &format!("halved{seed}"), seed, Some((&[2, 4], 2)));
        let answer = whole.what_if(&halving(&[2, 4], Some(2)), &[]).unwrap();
        let fit = &answer.stages[0];
        let best: Vec<&str> = fit.best.iter().map(|case| case.case.as_str()).collect();
        assert_eq!(
            (fit.certain, best),
            (true, cases(&really).iter().map(String::as_str).collect()),
            "seed {seed}"
        );
        assert!(fit.pruned == pruned(&really) && fit.pruned > 0, "{fit:?}");

        // What was ended early says nothing of how it would have gone on; all else holds.
        let harsh = curves(&sandbox, &format!("harsh{seed}"), seed, Some((&[2, 4], 5)));
        for eta in [5, 3, 2] {
            let there = curves(&sandbox, &format!("eta{seed}.{eta}"), seed, Some((&[2, 4], eta)));
            let answer = harsh.what_if(&halving(&[], Some(eta)), &[]).unwrap();
            let (fit, there) = (&answer.stages[0], cases(&there));
            assert!(fit.best.iter().filter(|case| case.certain).all(|case| there.contains(&case.case)), "{fit:?}");
            assert!(fit.lost.iter().all(|case| !there.contains(case)), "{fit:?}");
            assert!(fit.certain || eta != 5, "{fit:?}");
            unknown += u64::from(!fit.certain);
        }
        // Without the reports the store still has what they said at its rungs.
        let artifacts = sandbox.path(&format!("harsh{seed}.artifacts"));
        fs::rename(&artifacts, artifacts.with_extension("gone")).unwrap();
        let answer = harsh.what_if(&halving(&[2, 4], Some(3)), &[]).unwrap();
        let fit = &answer.stages[0];
        assert!(fit.best.len() == 3 && fit.reports_gone == 0 && fit.unknown < 40, "{fit:?}");
        let other = harsh.what_if(&halving(&[3], Some(3)), &[]).unwrap();
        assert!(!other.stages[0].certain && other.stages[0].reports_gone == 40, "{other:?}");
    }
    assert!(unknown > 0, "a trial that was ended would have gone on");
}

fn study() -> Sandbox {
    let sandbox = Sandbox::finished(
        r#"
[study]
name = "s"
[[stage]]
name = "explore"
command = "echo '{{\"y\": {n}, \"z\": 1}}' >metrics.json"
trial_budget = 6
survivor_count = 3
sweep = { n = [3, 1, 2, 6, 5, 4] }
objective = [{ metric = "y", goal = "minimize" }]
[[stage]]
name = "refine"
command = "echo '{{\"y\": '$(({n} * (7 - {m})))'}}' >metrics.json"
trial_budget = 4
survivor_count = 1
sweep = { m = [1, 2, 3, 4] }
objective = [{ metric = "y", goal = "minimize" }]
"#,
        0,
    );
    assert!(sandbox.path("study.redb").exists());
    sandbox
}

#[test]
fn the_command_says_it_and_changes_nothing() {
    let sandbox = study();
    let before = fs::read(sandbox.path("study.redb")).unwrap();
    let said = sandbox.ok("what-if study.redb --survivors 1 --stage explore", 0);
    let lines: Vec<&str> = said.lines().map(|line| line.split(" fewer (").next().unwrap()).collect();
    insta::assert_snapshot!(lines.join("\n"), @r#"
    study s, had it been told otherwise; nothing is changed
      stage "explore".survivor_count: 1 instead of 3

    stage 0 explore: 6 trials
      survivors: s_0_1 = 1
      survived, and would not: s_0_2, s_0_0

    stage 1 refine: 4 trials, 2 never ran
      the best of what ran: s_1_1 = 5
      survived, and may not: s_1_1
      2 trials

    winner s_1_1: whether its line would have been kept is unknown
      s_0_1 in explore: kept, ranked 1 of what is known
      s_1_1 in refine: unknown, ranked 1 of what is known: 2 of its trials never ran
    in all 2 trials
    retention of the best 1 of refine 1 is from the first 1 of the 3 that survived explore; all are from the first 1. Cases that did not survive had no children, so nothing is known of theirs: this is biased
    "#);
    let json: Json = serde_json::from_str(&sandbox.ok("what-if study.redb --survivors 1 --json", 0)).unwrap();
    assert_eq!((&json["schema"], &json["winner"]["kept"]), (&1.into(), &"unknown".into()));
    assert_eq!(json["stages"][0]["lost"], serde_json::json!(["s_0_2", "s_0_0"]));
    assert_eq!(json["stages"][1]["saved"]["added_trials"], 2);
    for (options, word) in [
        ("", "nothing is chosen otherwise"),
        ("--survivors 0", "at least one case must survive"),
        ("--survivors 2 --stage explor", "there is no stage `explor`"),
        ("--selection weighted_sum", "needs a `weight`"),
        ("--selection best", "expected one of top, lexicographic, weighted_sum, pareto"),
        ("--rungs 3", "no report of any trial is there"),
        ("--rungs 3 --stage refine", "no report of a trial of stage `refine` is there"),
    ] {
        let output = sandbox.run(&format!("what-if study.redb {options}"));
        assert_eq!(output.status.code(), Some(2), "{options}: {}", both(&output));
        assert!(both(&output).contains(word), "{options}: {}", both(&output));
    }
    assert!(fs::read(sandbox.path("study.redb")).unwrap() == before);
}

/// Five cases, each so often, of which two survive and have a child each.
fn repeated(sandbox: &Sandbox, name: &str, seed: u64, repeats: u32, aggregate: Aggregate) -> Store {
    let first = Stage::closure("first", move |trial| {
        let (n, replica) = (trial.int("n").unwrap(), i64::from(trial.replica().unwrap_or(0)));
        Ok([("y", drawn(seed, [n, 0, 0]) + 9.0 * drawn(seed, [n, replica, 1]).powi(6))])
    })
    .budget(5 * u64::from(repeats))
    .survivors(2)
    .repeats(repeats)
    .aggregate(aggregate)
    .range("n", Range::int(1..=5))
    .minimize("y");
    let last = Stage::closure("last", move |trial| Ok([("y", drawn(seed, [trial.int("n").unwrap(), 7, 7]))]))
        .budget(2)
        .survivors(1)
        .minimize("y");
    let path = sandbox.path(&format!("{name}.redb"));
    let study = Study::builder("s").stage(first).stage(last).build().unwrap();
    study.store(&path).artifacts(sandbox.path(&format!("{name}.artifacts"))).run().unwrap();
    Store::at(path)
}

#[test]
fn with_fewer_replicas_or_another_aggregate_it_says_what_a_study_of_those_does() {
    let sandbox = Sandbox::new();
    let mut known = 0;
    for seed in 0..6 {
        let nine = repeated(&sandbox, &format!("nine{seed}"), seed, 9, Aggregate::Mean);
        for (repeats, aggregate) in [(9, Aggregate::Median), (3, Aggregate::Mean), (4, Aggregate::Midmean)] {
            let name = format!("other{seed}.{repeats}");
            let really = repeated(&sandbox, &name, seed, repeats, aggregate);
            let mut choices = Choices::default();
            choices.aggregate = Some(aggregate);
            choices.repeats = (repeats != 9).then_some(repeats);
            let answer = nine.what_if(&choices, &[]).unwrap();
            let first = &answer.stages[0];
            assert_eq!((first.trials, first.never_ran), (Some(5 * u64::from(repeats)), 0));
            assert_eq!(first.saved.trials, 5 * u64::from(9 - repeats));
            let of = |answer: &WhatIf| answer.stages[0].best.iter().map(|case| case.values[0]).collect::<Vec<_>>();
            let mut same = Choices::default();
            same.survivors = Some(2);
            assert_eq!(of(&answer), of(&really.what_if(&same, &["first".into()]).unwrap()), "{seed} {repeats}");
            // Its children are known where the same cases survive.
            if answer.stages[1].certain {
                known += 1;
                let own = really.survivors().unwrap()[0].metrics["y"].number().unwrap();
                assert_eq!(values(&answer, 1), [own]);
            }
        }
        let mut more = Choices::default();
        more.repeats = Some(10);
        let answer = nine.what_if(&more, &[]).unwrap();
        assert_eq!((answer.stages[0].never_ran, answer.stages[0].certain), (5, false));
    }
    assert!(known > 0, "in some the same survive");
}

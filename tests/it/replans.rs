//! Amendments that lose no result: what they are said to do is what the next run does, and the study is then one that began so.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use piton::model::StageIndex;
use piton::spec::{Sampling, Selection};
use piton::store::{Class, Follows};
use piton::{Consent, Error, Stage, Store, Study};

use crate::harness::{Sandbox, StudyFile};

/// Numbers by chance, the same for the same seed.
pub struct Chance(pub u64);

impl Chance {
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// What a stage is, but for what its trials do.
#[derive(Clone)]
struct Shape {
    name: &'static str,
    budget: u64,
    survivors: u64,
    values: Vec<i64>,
    maximizes: bool,
    pareto: bool,
    random: bool,
    uses_own: bool,
}

impl Shape {
    fn of(chance: &mut Chance, name: &'static str) -> Self {
        Self {
            name,
            budget: 4 + chance.below(6),
            survivors: 1 + chance.below(3),
            values: (0..3 + chance.below(4) as i64).collect(),
            maximizes: chance.below(2) == 0,
            pareto: false,
            random: chance.below(3) == 0,
            uses_own: chance.below(3) == 0,
        }
    }

    /// Another one of the same name whose results are none the less those of this one.
    fn changed(&self, chance: &mut Chance) -> Self {
        let mut new = self.clone();
        match chance.below(7) {
            0 => new.budget = 4 + chance.below(9),
            1 => new.survivors = 1 + chance.below(4),
            2 => new.values.push(chance.below(20) as i64 + 20),
            3 => new.values.reverse(),
            4 => new.maximizes = !new.maximizes,
            5 => new.random = !new.random,
            _ => new.pareto = !new.pareto,
        }
        new
    }

    /// Its trials fail where the sum of all that they see is divisible by 7, and count how many of them ran.
    fn stage(&self, ran: &Arc<AtomicU32>) -> Stage {
        let (own, ran) = (format!("x{}", self.name), Arc::clone(ran));
        let stage = Stage::closure(self.name, move |trial| {
            ran.fetch_add(1, Ordering::SeqCst);
            let sum: i64 = trial.params().values().filter_map(|value| value.to_string().parse::<i64>().ok()).sum();
            if sum % 7 == 6 { Err("seven".into()) } else { Ok([("m", sum as f64), ("n", (sum % 3) as f64)]) }
        });
        let mut stage = stage.reuse("1").budget(self.budget.max(self.survivors)).survivors(self.survivors);
        stage = stage.choices(&own, self.values.iter().copied()).choices("y", [1_i64, 2]);
        if self.uses_own {
            stage = stage.uses([own]);
        }
        if self.random {
            stage = stage.sampling(Sampling::Random);
        }
        if self.maximizes {
            return stage.maximize("m");
        }
        let selection = if self.pareto { Selection::Pareto } else { Selection::Lexicographic };
        stage.selection(selection).minimize("n").minimize("m")
    }
}

/// `checked`: of the hits so large a part runs all the same.
fn study(shapes: &[Shape], ran: &Arc<AtomicU32>, checked: f64) -> Study {
    shapes
        .iter()
        .fold(Study::builder("s").seed(7).reuse_check(checked), |study, shape| study.stage(shape.stage(ran)))
        .build()
        .unwrap()
}

#[test]
fn what_is_forecast_of_an_amendment_is_what_the_next_run_does() {
    let (mut counted, mut bounds, mut replanned, mut all_checked) = (0, 0, 0, 0);
    for seed in 0..24 {
        let mut chance = Chance(seed);
        let share = if seed % 3 == 0 { 0.4 } else { 0.0 };
        let ran = Arc::new(AtomicU32::new(0));
        let shapes: Vec<Shape> = ["a", "b", "c"].iter().map(|name| Shape::of(&mut chance, name)).collect();
        let sandbox = Sandbox::new();
        let path = sandbox.path("study.redb");
        study(&shapes, &ran, share).store(&path).run().unwrap();
        let mut new = shapes.clone();
        // Twice: the second time much of what there is was taken already.
        for round in 0..2 {
            let changed = chance.below(3) as usize;
            new[changed] = new[changed].changed(&mut chance);
            if chance.below(3) == 0 {
                let changed = chance.below(3) as usize;
                new[changed] = new[changed].changed(&mut chance);
            }
            let before = ran.load(Ordering::SeqCst);
            let amended = study(&new, &ran, share);
            let store = Store::at(&path);
            let plan = store.amend(&amended).unwrap();
            assert_eq!(plan.altered_from(), None, "{seed}/{round}: {:?}", plan.changes());
            replanned += plan.changes().iter().filter(|judged| matches!(judged.class, Class::Replans(_))).count();
            let forecast = plan.replanned().to_vec();
            let is_empty = plan.is_empty();
            plan.apply(Consent::KeepResults).unwrap();
            amended.store(&path).run().unwrap();
            let dump = sandbox.dump();
            let mut trials_run = 0;
            for stage in &forecast {
                let of_stage = |trial: &&serde_json::Value| trial["stage"] == stage.stage;
                let trials: Vec<_> = dump["trials"].as_array().unwrap().iter().filter(of_stage).collect();
                let opened = dump["stages"][stage.stage as usize]["status"] != "waiting";
                match &stage.follows {
                    Follows::Counted { kept, reused, runs, checked } => {
                        counted += 1;
                        all_checked += checked;
                        assert!(opened, "{seed}/{round}: {stage:?}");
                        assert_eq!(trials.len() as u64, stage.trials, "{seed}/{round}: {stage:?}");
                        assert_eq!(kept + reused + runs, stage.trials, "{seed}/{round}: {stage:?}");
                        let took = trials.iter().filter(|trial| trial.get("reused_from").is_some()).count() as u64;
                        // Whoever waits for an equal trial that fails runs as well; and what is kept may have been taken.
                        let failed = trials.iter().any(|trial| trial["state"] == "failed");
                        if *kept == 0 && !failed {
                            assert_eq!(took, *reused, "{seed}/{round}: {stage:?}");
                        }
                        trials_run += runs;
                    }
                    Follows::Survivors(_) => {
                        bounds += 1;
                        assert!(trials.len() as u64 <= stage.trials, "{seed}/{round}: {stage:?}");
                    }
                    Follows::NoParents(_) => assert!(!opened && trials.is_empty(), "{seed}/{round}: {stage:?}"),
                    other => panic!("{seed}/{round}: {other:?}"),
                }
            }
            if is_empty {
                assert_eq!(ran.load(Ordering::SeqCst), before);
            }
            if forecast.iter().all(|stage| matches!(stage.follows, Follows::Counted { .. })) && !is_empty {
                let failed = dump["trials"].as_array().unwrap().iter().any(|trial| trial["state"] == "failed");
                let runs = u64::from(ran.load(Ordering::SeqCst) - before);
                assert!(
                    if failed { runs >= trials_run } else { runs == trials_run },
                    "{seed}/{round}: {forecast:?}"
                );
            }
            let alone = Sandbox::new();
            let ran = Arc::new(AtomicU32::new(0));
            study(&new, &ran, share).store(alone.path("study.redb")).run().unwrap();
            assert_eq!(sandbox.canonical(), alone.canonical(), "{seed}/{round}");
            sandbox.ok("verify study.redb", 0);
        }
    }
    assert!(all_checked > 0);
    assert!(counted > 30 && bounds > 5 && replanned > 15, "{counted} {bounds} {replanned}");
}

#[test]
fn a_stage_between_others_takes_nothing_from_them_and_a_stage_that_goes_is_asked_about() {
    let ran = Arc::new(AtomicU32::new(0));
    let mut chance = Chance(3);
    let mut shapes: Vec<Shape> = ["a", "b"].iter().map(|name| Shape::of(&mut chance, name)).collect();
    for shape in &mut shapes {
        (shape.values, shape.random, shape.uses_own) = (vec![0, 1, 2], false, true);
    }
    let sandbox = Sandbox::new();
    let path = sandbox.path("study.redb");
    study(&shapes, &ran, 0.0).store(&path).run().unwrap();
    let mut between = shapes.clone();
    let middle = Shape { name: "m", values: vec![1, 2, 3], uses_own: true, ..shapes[0].clone() };
    between.insert(1, middle);
    let store = Store::at(&path);
    let amended = study(&between, &ran, 0.0);
    let plan = store.amend(&amended).unwrap();
    assert!(plan.changes().iter().all(|judged| judged.class == Class::Replans(1)), "{:?}", plan.changes());
    plan.apply(Consent::KeepResults).unwrap();
    let before = ran.load(Ordering::SeqCst);
    amended.store(&path).run().unwrap();
    // All of the last stage's trials see no more than they did.
    let dump = sandbox.dump();
    let of =
        |stage: StageIndex| dump["trials"].as_array().unwrap().iter().filter(move |trial| trial["stage"] == stage);
    let took = |stage| of(stage).filter(|trial| trial.get("reused_from").is_some()).count();
    // Of the new one's trials those are equal that descend from cases that they do not see.
    assert!(took(1) < of(1).count());
    assert_eq!((ran.load(Ordering::SeqCst) - before) as usize, of(1).count() - took(1));
    assert!(of(2).count() > 0 && took(2) == of(2).count());

    let back = study(&shapes, &ran, 0.0);
    let plan = store.amend(&back).unwrap();
    assert!(matches!(plan.refuse(), Err(Error::AltersResults { .. })));
    let cost = &plan.changes().iter().find(|judged| judged.change.path == "stage \"m\"").unwrap().cost;
    assert!(cost.contains("the stage is gone"), "{cost}");
}

/// A base command, a stage that reuses, and one that waits for a person.
fn gated_after_base(values: &str) -> StudyFile {
    StudyFile::new("s")
        .with("[base]\ncommand = \"echo base >> $PITON_STUDY_DIR/log\"")
        .stage(
            "a",
            r#"echo "{{\"m\": {n}}}" > metrics.json; mkdir -p "$PITON_SCRATCH_DIR"
               touch "$PITON_SCRATCH_DIR/x""#,
            10,
            1,
        )
        .with("reuse = true")
        .sweep(format!("n = {values}"))
        .minimize("m")
        .stage("b", "true", 1, 1)
        .with("approve = true")
        .with("reuse = true")
}

/// What a plan takes away besides results is said; a base command that saw nothing else does not run again.
#[test]
fn a_replan_says_what_becomes_of_base_approvals_and_scratch() {
    let sandbox = Sandbox::with_study(gated_after_base("[1, 2]"));
    sandbox.ok("run study.toml", 8);
    sandbox.ok("approve study.redb --by ada", 0);
    sandbox.ok("run study.toml", 0);
    assert_eq!(sandbox.lines("log"), ["base"]);
    let said = sandbox.amend(gated_after_base("[3, 2, 1]"), "--dry-run", 0);
    for words in [
        "keeps       the base command has succeeded, and nothing that it saw changes: it does not run again",
        "clears      scratch directories and reports of all cases of stages `a`, `b`",
        "drops       the approval of stage `b`: it waits for another one (`piton approve`)",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let json: serde_json::Value =
        serde_json::from_str(&sandbox.ok("amend study.redb study.toml --yes --json", 0)).unwrap();
    assert_eq!(json["base"]["runs_again"], false);
    assert_eq!(
        (&json["clears_scratch_of"], &json["unapproved"]),
        (&serde_json::json!(["a", "b"]), &serde_json::json!(["b"]))
    );
    assert!(!sandbox.path("artifacts/s/0_a/s_0_0/scratch").exists());
    sandbox.ok("run study.toml", 8);
    assert_eq!(sandbox.lines("log"), ["base"]);
    assert!(sandbox.ok("dump study.redb --events", 0).contains("base_kept"));
    sandbox.ok("verify study.redb", 0);
    // Whoever discards the first stage by hand wants everything anew; one that sees other constants runs, too.
    let said = sandbox.amend(gated_after_base("[3, 2, 1]"), "--yes --discard-from a", 0);
    assert!(said.contains("again       the base command runs again: the first stage is discarded"), "{said}");
    sandbox.ok("run study.toml", 8);
    assert_eq!(sandbox.lines("log"), ["base", "base"]);
    sandbox.ok("verify study.redb", 0);
    // A result that is kept is held against inputs that change later, as those of trials are.
    let again = gated_after_base("[2, 3, 1]").edit("echo base", "echo other");
    sandbox.amend(&again, "--yes", 6);
}

/// Two changes of one stage, or of two, are told as what comes of both.
#[test]
fn changes_that_go_together_do_not_contradict_each_other() {
    let study = |budget: u64, n: &str, more: u64, k: &str, reuse: bool| {
        let reuse = format!("reuse = {reuse}");
        StudyFile::new("s")
            .stage("a", "true", budget, 1)
            .with(&reuse)
            .sweep(format!("n = {n}"))
            .stage("b", "true", more, 1)
            .with(&reuse)
            .sweep(format!("k = {k}"))
    };
    let sandbox = Sandbox::finished(study(2, "[1, 2]", 2, "[5, 6]", true), 0);
    let said = sandbox.amend(study(3, "[1, 2, 3]", 2, "[5, 6]", true), "--dry-run", 0);
    assert!(said.contains("goes with stage `a`: from there on all is planned anew"), "{said}");
    assert!(!said.contains("plans anew from stage `b`"), "{said}");
    let said = sandbox.amend(study(2, "[1, 2]", 3, "[5, 6, 7]", true), "--dry-run", 0);
    assert!(said.contains("the stage is planned anew, with 3 trials: `s_1_0` to `s_1_2`"), "{said}");
    assert!(!said.contains("adds 3 trials") && said.contains("3 trials: 2 reused, 1 run"), "{said}");
    let runs = Sandbox::finished(study(2, "[1, 2]", 2, "[5, 6]", false), 0);
    let changed = study(2, "[1, 2]", 3, "[5, 6, 7]", false);
    for options in ["--dry-run", "--dry-run --discard-from b"] {
        let said = runs.amend(&changed, options, if options.contains("discard") { 0 } else { 6 });
        assert!(said.contains("the stage is planned anew, with 3 trials") && !said.contains("adds "), "{said}");
    }
}

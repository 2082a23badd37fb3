use super::*;
use crate::model::{BaseRow, Parent, StudyId, TrialId};
use crate::{Range, Stage, Study};

/// Stage `a` of 4 trials, two of which survive; stage `b` of 5 children, stage `c` of one.
pub(super) fn spec() -> Spec {
    let stage = |name: &str, budget| Stage::unbound(name).budget(budget).range("n", Range::int(1..=100));
    let builder = Study::builder("s").param("p", 1);
    let builder = builder.stage(stage("a", 4).survivors(2).minimize("m"));
    builder.stage(stage("b", 5).survivors(1).minimize("m")).stage(stage("c", 1).survivors(1)).spec().unwrap()
}

pub(super) struct Store {
    pub study: StudyRow,
    pub stages: Vec<StageRow>,
    pub counters: Vec<StageCounters>,
}

/// The first `begun` stages have begun, all of them closed but the last; all their trials are finished.
pub(super) fn store(begun: usize, status: StudyStatus) -> Store {
    let spec = spec();
    let mut stages = Vec::new();
    let mut first_trial = TrialId(0);
    for (decl, index) in declared(&spec).into_iter().zip(0..) {
        let open = position(index) < begun;
        let last = position(index) + 1 == begun;
        let parents: Vec<Parent> = match index {
            1 => [3, 1].map(|trial| Parent { trial: TrialId(trial), attempt: 1 }).to_vec(),
            2 => vec![Parent { trial: TrialId(4), attempt: 1 }],
            _ => Vec::new(),
        };
        let shares = if open { shares(&spec.stages[position(index)], parents.len()) } else { Vec::new() };
        let planned = shares.iter().sum();
        stages.push(StageRow {
            index,
            name: decl.name,
            trial_budget: decl.trial_budget,
            survivor_count: decl.survivor_count,
            objective: decl.objective,
            status: match (open, last) {
                (false, _) => StageStatus::Waiting,
                (true, true) if status != StudyStatus::Completed => StageStatus::Open,
                (true, _) => StageStatus::Closed,
            },
            first_trial,
            parents,
            shares,
            more: Vec::new(),
            planned,
            proposing: Proposing::No,
            survivors: Vec::new(),
            approval: None,
            opened_ms: None,
            closed_ms: None,
            later: Default::default(),
            tidied: Default::default(),
            discarding: false,
            replicas: Default::default(),
            ended_after: None,
        });
        first_trial = TrialId(first_trial.0 + planned);
    }
    let counters = stages.iter().map(|stage| StageCounters { succeeded: stage.planned, ..Default::default() });
    let counters = counters.collect();
    let study = StudyRow {
        sync_interval_ms: 0,
        cluster_trouble: None,
        study_id: StudyId([0; 16]),
        name: "s".into(),
        base_case: "s".into(),
        seed: 0,
        spec: spec.to_json(),
        spec_hash: spec.spec_hash(),
        inputs: vec![InputHash { path: "in".into(), bytes: 1, blake3: "00".into() }],
        versions: Vec::new(),
        study_dir: String::new(),
        artifacts_dir: String::new(),
        study_file: String::new(),
        plan_version: 1,
        stage_count: 3,
        created_ms: 0,
        status,
        abort_reason: None,
        violating: Vec::new(),
        abort: None,
        engine: None,
        engine_closed: true,
        runs: 1,
        workers: 1,
        draining: false,
        base: None,
        doubts: Vec::new(),
        accepted: Vec::new(),
    };
    Store { study, stages, counters }
}

impl Store {
    /// Nothing has changed.
    fn present(&self) -> Present {
        let (inputs, versions) = (self.study.inputs.clone(), self.study.versions.clone());
        Present { inputs, versions, ..Present::default() }
    }

    fn standing<'a>(&'a self, spec: &'a Spec) -> StudyState<'a> {
        let Self { study, stages, counters, .. } = self;
        StudyState { study, spec, stages, counters, held: &[] }
    }

    fn amend(&self, new: &Spec, discard_from: Option<StageIndex>) -> Amendment {
        let old = spec();
        amendment(self.standing(&old), new, self.present(), discard_from)
    }
}

fn changed(change: impl FnOnce(&mut Spec)) -> Spec {
    let mut spec = spec();
    change(&mut spec);
    spec
}

/// Every kind of change, while stage `b` is open: stage `a` is closed, `c` waits.
#[test]
fn the_class_of_every_kind_of_change() {
    use Class::{Extends, Forbidden, Harmless, Invalidates};
    type Change = fn(&mut Spec);
    let changes: [(Class, Change); 35] = [
        (Forbidden, |s| s.study.name = "t".into()),
        (Forbidden, |s| s.study.base_case = "t".into()),
        (Harmless, |s| s.study.description = Some("d".into())),
        (Harmless, |s| s.study.author = Some("d".into())),
        (Harmless, |s| s.study.tags = vec!["t".into()]),
        (Harmless, |s| s.run.workers = Some(3)),
        (Harmless, |s| s.run.grace_ms = 3),
        (Invalidates(0), |s| s.study.seed = 5),
        (Invalidates(0), |s| drop(s.params.insert("q".into(), 1.into()))),
        (Invalidates(0), |s| drop(s.env.insert("Q".into(), "1".into()))),
        (Extends, |s| s.rails.max_runtime_ms = Some(1)),
        (Extends, |s| s.rails.catastrophic_failures = Some(1)),
        (Invalidates(1), |s| s.stages[0].trial_budget = 5),
        (Invalidates(0), |s| s.stages[0].trial_budget = 3),
        (Invalidates(1), |s| s.stages[0].survivor_count = 1),
        (Invalidates(0), |s| s.stages[0].objectives[0].goal = crate::study_file::Goal::Maximize),
        (Invalidates(0), |s| s.stages[0].outputs = vec!["o".into()]),
        (Invalidates(0), |s| s.stages[0].timeout_ms = Some(5)),
        (Extends, |s| s.stages[0].retries.count = 5),
        (Extends, |s| s.stages[1].trial_budget = 6),
        (Invalidates(1), |s| s.stages[1].trial_budget = 4),
        (Extends, |s| s.stages[1].survivor_count = 2),
        (Invalidates(1), |s| s.stages[1].objectives[0].metric = "other".into()),
        (Invalidates(1), |s| s.stages[1].sampling = Sampling::Random),
        (Invalidates(1), |s| s.stages[1].sweep[0].name = "k".into()),
        (Invalidates(1), |s| s.stages[1].work = crate::study_file::Work::Argv(Vec::new())),
        (Extends, |s| s.stages[1].retries.count = 5),
        (Invalidates(1), |s| s.stages[1].memory_limit_bytes = Some(5)),
        (Extends, |s| s.stages[1].rails.max_failure_rate = Some(0.5)),
        (Harmless, |s| s.stages[1].approve = true),
        (Extends, |s| s.stages[2].trial_budget = 6),
        (Harmless, |s| s.stages[2].sweep[0].name = "k".into()),
        (Harmless, |s| s.stages[2].approve = true),
        (Harmless, |s| drop(s.stages.pop())),
        (Invalidates(0), |s| drop(s.stages.remove(0))),
    ];
    let store = store(2, StudyStatus::Interrupted);
    for (number, (class, change)) in changes.into_iter().enumerate() {
        let amendment = store.amend(&changed(change), None);
        let weight = |class: &Class| match class {
            Harmless => 0,
            Extends | Class::Rereads => 1,
            Class::Replans(from) | Class::Accepted(from) => 5 - from,
            Invalidates(from) => 9 - from,
            Forbidden => 10,
        };
        let worst = amendment.changes.iter().map(|judged| judged.class).max_by_key(weight);
        assert_eq!(worst, Some(class), "change {number}: {:?}", amendment.changes);
    }
    assert!(store.amend(&spec(), None).is_empty());
}

#[test]
fn a_longer_timeout_or_none_keeps_what_is_finished() {
    assert!(is_lower(None, Some(5)) && is_lower(Some(6), Some(5)));
    assert!(!is_lower(Some(5), None) && !is_lower(Some(5), Some(5)) && !is_lower(None, None));
}

#[test]
fn a_larger_budget_is_cut_over_the_parents_as_a_whole() {
    let mut store = store(2, StudyStatus::Interrupted);
    // 5 trials were 3 and 2; 8 are 4 and 4.
    let first = store.amend(&changed(|s| s.stages[1].trial_budget = 8), None);
    let segment = |parent, offset, count| Segment { parent, offset, count };
    let more = vec![segment(0, 3, 1), segment(1, 2, 2)];
    assert_eq!(first.event.extended, Some(Extension { stage: 1, more: more.clone() }));
    assert_eq!(first.changes[0].cost, "adds 3 trials: `s_1_5` to `s_1_7`");
    // 9 are 5 and 4.
    store.stages[1].more = more;
    store.stages[1].planned = 8;
    let second = store.amend(&changed(|s| s.stages[1].trial_budget = 9), None);
    assert_eq!(second.event.extended.unwrap().more, [segment(0, 4, 1)]);
    assert_eq!(second.changes[0].cost, "adds 1 trial: `s_1_8`");
}

#[test]
fn a_budget_beyond_what_the_sweep_has_adds_nothing() {
    let store = store(3, StudyStatus::Completed);
    let one = changed(|s| s.stages[2].trial_budget = 2_000);
    assert_eq!(store.amend(&one, None).changes[0].cost, "adds 99 trials: `s_2_1` to `s_2_99`");
}

#[test]
fn discarding_allows_what_alters_the_discarded_results_only() {
    let store = store(3, StudyStatus::Completed);
    let change = changed(|s| s.stages[1].outputs = vec!["o".into()]);
    assert_eq!(store.amend(&change, None).altered_from.as_deref(), Some("b"));
    assert_eq!(store.amend(&change, Some(2)).altered_from.as_deref(), Some("b"));
    let accepted = store.amend(&change, Some(1));
    assert_eq!((accepted.altered_from, accepted.event.reopen), (None, true));
    let gone: Vec<_> = accepted.discarded.iter().map(|d| (d.name.as_str(), d.finished)).collect();
    assert_eq!(gone, [("b", 5), ("c", 1)]);
}

#[test]
fn only_work_reopens_a_study_that_is_over() {
    let completed = store(3, StudyStatus::Completed);
    let reopens = |store: &Store, change: fn(&mut Spec)| store.amend(&changed(change), None).event.reopen;
    assert!(!reopens(&completed, |s| s.study.author = Some("a".into())));
    assert!(!reopens(&completed, |s| s.rails.max_runtime_ms = Some(1)));
    assert!(reopens(&completed, |s| s.stages[2].trial_budget = 2));
    assert!(reopens(&completed, |s| s.stages[2].selection = crate::study_file::Selection::Pareto));
    let aborted = store(1, StudyStatus::Aborted);
    assert!(!reopens(&aborted, |s| s.stages[1].trial_budget = 9));
    assert!(reopens(&aborted, |s| s.rails.max_runtime_ms = Some(1)));
    assert!(reopens(&aborted, |s| s.stages[0].trial_budget = 9));
}

#[test]
fn a_rail_of_a_closed_stage_is_asked_of_its_results_when_it_opens_again() {
    let mut store = store(3, StudyStatus::Completed);
    store.stages[2].status = StageStatus::Closed;
    let cost = |change: fn(&mut Spec)| {
        let amendment = store.amend(&changed(change), None);
        amendment.changes.into_iter().find(|judged| judged.change.path.contains("rails")).unwrap().cost
    };
    let closed = "the stage is closed: asked of all its results once it gets more trials";
    assert_eq!(cost(|s| s.stages[2].rails.max_failure_rate = Some(0.5)), closed);
    assert_eq!(cost(|s| s.stages[1].rails.max_failure_rate = Some(0.5)), closed);
    for more in [
        |s: &mut Spec| {
            s.stages[2].rails.max_failure_rate = Some(0.5);
            s.stages[2].trial_budget = 2;
        },
        |s: &mut Spec| {
            s.stages[2].rails.max_failure_rate = Some(0.5);
            s.stages[2].selection = crate::study_file::Selection::Pareto;
        },
    ] {
        assert_eq!(cost(more), "asked of all results of the stage");
    }
}

/// Its base command failed: there is no trial to discard, and beginning anew is the way on all the same.
#[test]
fn a_study_that_its_base_command_aborted_goes_on_when_it_is_told_to_begin_anew() {
    let aborted = store(0, StudyStatus::Aborted);
    let anew = aborted.amend(&spec(), Some(0));
    assert!(anew.discarded.is_empty() && anew.event.reopen);
    assert!(!aborted.amend(&spec(), None).event.reopen);
    assert!(!store(3, StudyStatus::Completed).amend(&spec(), None).event.reopen);
}

#[test]
fn cases_appended_to_a_file_keep_the_numbers_of_the_others() {
    let file = |rows: &[i64]| {
        let rows = rows.iter().map(|n| vec![Some((*n).into())]).collect();
        let cases = Some(crate::study_file::CaseList { names: vec!["n".into()], rows, merged: 0 });
        Sampling::File(CaseFile { path: "c.csv".into(), rename: Default::default(), cases })
    };
    assert!(begins_with(&file(&[1, 2, 3]), &file(&[1, 2])));
    assert!(!begins_with(&file(&[2, 1, 3]), &file(&[1, 2])) && !begins_with(&file(&[1]), &file(&[1, 2])));
    assert!(!begins_with(&Sampling::Grid, &file(&[1])) && begins_with(&Sampling::Grid, &Sampling::Grid));
}

fn conflict(path: &str, from: StageIndex) -> Contradiction {
    Contradiction { change: Change { path: path.into(), old: Some("1".into()), new: Some("2".into()) }, from }
}

#[test]
fn an_input_or_tool_that_changed_alters_every_result() {
    let store = store(1, StudyStatus::Interrupted);
    let old = spec();
    let standing = store.standing(&old);
    let inputs = vec![InputHash { path: "in".into(), bytes: 2, blake3: "11".into() }];
    for path in ["input \"in\"", "tool \"yosys\""] {
        let now = Present { inputs: inputs.clone(), conflicts: vec![conflict(path, 0)], ..Present::default() };
        assert_eq!(amendment(standing, &old, now.clone(), None).changes[0].class, Class::Invalidates(0));
        let accepted = amendment(standing, &old, now, Some(0));
        assert_eq!((accepted.changes[0].class, accepted.event.inputs), (Class::Harmless, inputs.clone()));
    }
    assert!(store.amend(&old, None).is_empty());
}

#[test]
fn an_input_of_a_stage_alters_its_results_and_those_after_it() {
    let store = store(2, StudyStatus::Interrupted);
    let old = spec();
    let standing = store.standing(&old);
    let judged = |from: StageIndex, discard_from: Option<StageIndex>| {
        let now = Present { conflicts: vec![conflict("input \"in\"", from)], ..store.present() };
        let amendment = amendment(standing, &old, now, discard_from);
        (amendment.changes[0].class, amendment.altered_from)
    };
    assert_eq!(judged(0, None), (Class::Invalidates(0), Some("a".into())));
    assert_eq!(judged(1, None), (Class::Invalidates(1), Some("b".into())));
    // The third stage has not begun.
    assert_eq!(judged(2, None), (Class::Harmless, None));
    assert_eq!(judged(1, Some(1)), (Class::Harmless, None));
    assert_eq!(judged(0, Some(1)), (Class::Invalidates(0), Some("a".into())));
}

#[test]
fn all_survivors_stay_all_whatever_the_budget() {
    let closed = store(1, StudyStatus::Completed);
    let all = |budget| {
        changed(|spec| {
            (spec.stages[0].trial_budget, spec.stages[0].survivor_count) = (budget, budget);
            spec.stages[0].all_survive = true;
        })
    };
    let old = all(4);
    let standing = closed.standing(&old);
    let grown = amendment(standing, &all(6), closed.present(), None);
    assert_eq!(grown.changes.len(), 1, "{:?}", grown.changes);
    assert_eq!(grown.changes[0].class, Class::Extends);
    assert!(grown.event.extended.is_some_and(|extension| extension.more.len() == 1));
    // A cut is another matter.
    let cut = amendment(standing, &changed(|spec| spec.stages[0].survivor_count = 4), closed.present(), None);
    assert!(cut.changes.iter().any(|judged| judged.change.path.ends_with("survivor_count")), "{:?}", cut.changes);
    assert!(cut.event.extended.is_some());
}

#[test]
fn what_is_named_or_left_out_otherwise_is_never_harmless_once_trials_ran() {
    let (begun, fresh) = (store(1, StudyStatus::Interrupted), store(0, StudyStatus::Created));
    let named = |inputs: &[&str]| inputs.iter().map(|input| (*input).to_owned()).collect::<Vec<_>>();
    let mut base_ran = fresh.study.clone();
    base_ran.base = Some(BaseRow { state: TrialState::Succeeded, attempts: Vec::new(), failure: None });
    let old = changed(|spec| spec.study.inputs = named(&["in"]));
    let judged = |store: &Store, study: &StudyRow, new: &Spec| {
        let standing = StudyState { study, ..store.standing(&old) };
        amendment(standing, new, store.present(), None).changes.first().map(|judged| judged.class)
    };
    let without = changed(|_| {});
    let more = changed(|spec| spec.study.inputs = named(&["in", "more"]));
    let ignoring = changed(|spec| {
        spec.study.inputs = named(&["in"]);
        spec.study.inputs_ignore = named(&["*.log"]);
    });
    let tool = changed(|spec| {
        spec.study.inputs = named(&["in"]);
        spec.study.versions.insert("sta".into(), vec!["sta".into()]);
    });
    let respelt = changed(|spec| spec.study.inputs = named(&["./in"]));
    for new in [&without, &more, &ignoring, &tool] {
        assert_eq!(judged(&begun, &begun.study, new), Some(Class::Extends));
        assert_eq!(judged(&fresh, &fresh.study, new), Some(Class::Harmless));
        assert_eq!(judged(&fresh, &base_ran, new), Some(Class::Extends));
    }
    assert_eq!(judged(&begun, &begun.study, &respelt), Some(Class::Harmless));
    // What the base command made depends on params and environment as well.
    let params = changed(|spec| {
        spec.study.inputs = named(&["in"]);
        spec.env.insert("MODE".into(), "fast".into());
    });
    assert_eq!(judged(&fresh, &base_ran, &params), Some(Class::Invalidates(0)));
    assert_eq!(judged(&fresh, &fresh.study, &params), Some(Class::Harmless));
}

/// What reading it again came to is put into words, and decides what stands.
#[test]
fn results_that_could_be_read_again_stay() {
    let old = spec();
    let rule = crate::study_file::MetricRule { file: "stdout.log".into(), regex: "(a)".into(), scale: 1.0 };
    let new = changed(|spec| drop(spec.stages[1].metrics.insert("x".into(), rule.clone())));
    let mut store = store(3, StudyStatus::Completed);
    store.stages[2].status = StageStatus::Closed;
    let amended = |rereads: Vec<Rereading>| {
        let standing = store.standing(&old);
        amendment(standing, &new, Present { rereads, ..store.present() }, None)
    };
    let read = || Rereading { stage: 1, read: 5, found: [("x".to_owned(), 4)].into(), ..Rereading::default() };
    let judged = |found: Rereading| amended(vec![found]).changes.remove(0);
    let stays = judged(read());
    assert_eq!(
        (stays.class, stays.cost.as_str()),
        (Class::Rereads, "re-reads 5 finished trials: metric `x` found in 4")
    );
    // As it was where nothing was read.
    assert_eq!(amended(Vec::new()).altered_from.as_deref(), Some("b"));
    let unread = judged(Rereading { unread: vec![("s_1_0".into(), "it is gone".into())], ..read() });
    assert!(
        unread.class == Class::Invalidates(1)
            && unread.cost.ends_with("`s_1_0` (it is gone); `--discard-unread` discards these alone"),
        "{}",
        unread.cost
    );
    // A later stage has begun with the survivors.
    for other in [
        Rereading { other_survivors: true, ..read() },
        Rereading { again: 1, ..read() },
        Rereading { given_up: vec![("s_1_0".into(), "it is gone".into())], ..read() },
        Rereading { breaks: Some("rail".into()), ..read() },
    ] {
        assert_eq!(judged(other).class, Class::Invalidates(2));
    }
    let failed = Rereading { failed: [("missing_metric".to_owned(), 2)].into(), succeeded: 1, ..read() };
    assert!(failed.words().ends_with("2 trials become failed (missing_metric); 1 trial becomes succeeded"));
}

#[test]
fn the_last_stage_opens_again_for_what_was_read() {
    let old = spec();
    let rule = crate::study_file::MetricRule { file: "stdout.log".into(), regex: "(a)".into(), scale: 1.0 };
    let new = changed(|spec| drop(spec.stages[2].metrics.insert("x".into(), rule.clone())));
    let mut store = store(3, StudyStatus::Completed);
    let amended = |store: &Store, found: Rereading| {
        let standing = store.standing(&old);
        let present = Present { rereads: vec![found], ..store.present() };
        let event = amendment(standing, &new, present, None).event;
        (event.extended.is_some(), event.reopen)
    };
    let read =
        |other_survivors| Rereading { stage: 2, read: 1, changed: 1, other_survivors, ..Rereading::default() };
    store.stages[2].status = StageStatus::Closed;
    assert_eq!(amended(&store, read(false)), (false, false));
    assert_eq!(amended(&store, read(true)), (true, true));
    // An abort may be another one, or none.
    store.stages[2].status = StageStatus::Aborted;
    store.study.status = StudyStatus::Aborted;
    assert_eq!(amended(&store, read(false)), (false, true));
}

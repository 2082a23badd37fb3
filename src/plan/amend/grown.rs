//! A larger budget, whatever the sampling and the domains: every trial of the amended stage can be made, those before
//! keep their params, and each parent has the cases it would have in a study planned anew.

use proptest::prelude::*;

use super::*;
use crate::model::{Params, Parent, TrialId, Value};
use crate::plan::Lineage;
use crate::study_file::{CaseList, Domain, SweepParam};

fn domain() -> impl Strategy<Value = Domain> {
    let int = |log| move |(min, width): (i64, i64)| Domain::Int { min, max: min + width, steps: None, log };
    prop_oneof![
        (1..5_i64).prop_map(|count| Domain::Choices((0..count).map(Into::into).collect())),
        (-9..9_i64, 0..6_i64).prop_map(int(false)),
        (1..9_i64, 0..30_i64).prop_map(int(true)),
        (0..9_i64, 1..30_i64, 1..5_u64).prop_map(|(min, width, steps)| Domain::Int {
            min,
            max: min + width,
            steps: Some(steps.min(width.unsigned_abs() + 1)),
            log: false
        }),
        (1..9_u32, 1..4_u64).prop_map(|(min, steps)| Domain::Float {
            min: f64::from(min),
            max: f64::from(min) + 1.0,
            steps: Some(steps),
            log: steps % 2 == 0
        }),
        any::<bool>().prop_map(|log| Domain::Float { min: 0.5, max: 2.0, steps: None, log }),
    ]
}

/// A sampling, whether it takes ranges of floats without steps, and a sweep for it.
fn stage() -> impl Strategy<Value = (Sampling, Vec<SweepParam>)> {
    let named = |domains: Vec<Domain>| {
        let param = |(number, domain)| SweepParam { name: format!("p{number}"), domain };
        domains.into_iter().enumerate().map(param).collect::<Vec<_>>()
    };
    let sampling = prop_oneof![Just(Sampling::Grid), Just(Sampling::Random), Just(Sampling::Sobol)];
    let swept = (sampling, prop::collection::vec(domain(), 1..4)).prop_map(move |(sampling, mut domains)| {
        let endless = |domain: &Domain| matches!(domain, Domain::Float { steps: None, .. });
        if sampling == Sampling::Grid {
            domains.retain(|domain| !endless(domain));
        }
        (sampling, named(domains))
    });
    let listed = (1..40_i64).prop_map(|rows| {
        let rows = (0..rows).map(|row| vec![Some(row.into())]).collect();
        let cases = Some(CaseList { names: vec!["c".into()], rows, merged: 0 });
        (Sampling::File(CaseFile { path: "c.csv".into(), rename: Default::default(), cases }), Vec::new())
    });
    prop_oneof![4 => swept, 1 => listed]
}

/// A study whose second stage has this sampling, this sweep and this budget.
fn study(sampling: &Sampling, sweep: &[SweepParam], budget: u64) -> Spec {
    let mut spec = tests::spec();
    spec.stages.truncate(2);
    if let Some(stage) = spec.stages.last_mut() {
        stage.sampling = sampling.clone();
        stage.sweep = sweep.to_vec();
        stage.trial_budget = budget;
    }
    spec
}

/// The params of every trial of the second stage, with the parent each derives from.
fn planned(spec: &Spec, stages: &[StageRow]) -> Vec<(TrialId, Params)> {
    let lineage = Lineage::new(spec, stages);
    let params = |index| (lineage.parent(1, index).unwrap().trial, lineage.params(1, index).unwrap());
    (0..stages[1].planned()).map(params).collect()
}

proptest! {
    #[test]
    fn an_amended_stage_has_the_cases_of_one_planned_anew(
        (sampling, sweep) in stage(), parents in 1..4_u64, budgets in prop::collection::vec(1..60_u64, 2..5), seed: u64,
    ) {
        let mut budgets = budgets;
        budgets.sort_unstable();
        let mut store = tests::store(2, StudyStatus::Interrupted);
        let mut spec = study(&sampling, &sweep, budgets[0]);
        spec.study.seed = seed;
        let row = |spec: &Spec, row: &StageRow| StageRow {
            parents: (0..parents).map(|trial| Parent { trial: TrialId(trial), attempt: 1 }).collect(),
            shares: shares(&spec.stages[1], usize::try_from(parents).unwrap()),
            planned: shares(&spec.stages[1], usize::try_from(parents).unwrap()).iter().sum(),
            ..row.clone()
        };
        store.stages.truncate(2);
        store.counters.truncate(2);
        store.stages[1] = row(&spec, &store.stages[1]);
        for budget in &budgets[1..] {
            let before = planned(&spec, &store.stages);
            let mut new = study(&sampling, &sweep, *budget);
            new.study.seed = seed;
            let standing = StudyState { study: &store.study, spec: &spec, stages: &store.stages, counters: &store.counters, held: &[] };
            let present = Present { inputs: store.study.inputs.clone(), ..Present::default() };
            let amended = amendment(standing, &new, present, None);
            prop_assert_eq!(&amended.altered_from, &None);
            let more = amended.event.extended.map_or_else(Vec::new, |extended| extended.more);
            store.stages[1].planned += more.iter().map(|segment| segment.count).sum::<u64>();
            store.stages[1].more.extend(more);
            spec = new;
            prop_assert_eq!(Lineage::new(&spec, &store.stages).unmade(1), None);
            prop_assert_eq!(&planned(&spec, &store.stages)[..before.len()], &before[..]);
        }
        let anew = [store.stages[0].clone(), StageRow { more: Vec::new(), ..row(&spec, &store.stages[1]) }];
        let (grown, anew) = (planned(&spec, &store.stages), planned(&spec, &anew));
        prop_assert_eq!(grown.len(), anew.len());
        // A random float goes by the case's number, which depends on what came before it.
        let by_number = sampling == Sampling::Random
            && sweep.iter().any(|swept| matches!(swept.domain, Domain::Float { .. }));
        if parents == 1 {
            prop_assert_eq!(grown, anew);
        } else if !by_number {
            let of = |all: &[(TrialId, Params)], parent| -> Vec<Params> {
                all.iter().filter(|(of, _)| *of == TrialId(parent)).map(|(_, params)| params.clone()).collect()
            };
            for parent in 0..parents {
                prop_assert_eq!(of(&grown, parent), of(&anew, parent));
            }
        }
    }
}

/// The least values that went wrong: five choices, two of which are tried, then four.
#[test]
fn a_finite_sobol_stage_grows() {
    let choices =
        vec![SweepParam { name: "x".into(), domain: Domain::Choices((1..6_i64).map(Into::into).collect()) }];
    let mut store = tests::store(2, StudyStatus::Interrupted);
    store.stages[1].shares = vec![1, 1];
    store.stages[1].planned = 4;
    store.stages[1].more =
        vec![Segment { parent: 0, offset: 1, count: 1 }, Segment { parent: 1, offset: 1, count: 1 }];
    let spec = study(&Sampling::Sobol, &choices, 4);
    let all = planned(&spec, &store.stages[..2]);
    let values: Vec<_> = all.iter().map(|(parent, params)| (parent.0, params.get("x").cloned())).collect();
    assert_eq!(values.len(), 4);
    assert!(values.iter().all(|(_, value)| matches!(value, Some(Value::Int(1..=5)))), "{values:?}");
    assert_ne!(values[0].1, values[2].1);
}

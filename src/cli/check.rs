//! `piton check`: every mistake of a study file, or its plan.

mod cluster;

use piton::model::{Params, Parent, Proposing, StageRow, StageStatus, ToolVersion, TrialId, Value};
use piton::program::engine::probe::{Probed, asked_about};
use piton::program::engine::resume::{Found, SpecMatch};
use piton::program::inputs_now;
use piton::program::paths::StudyPaths;
use piton::program::plan::{self, Lineage};
use piton::program::study_file::{self, ExpandContext, Expanded, Goal, Proposer, Sampling, Spec, StageSpec};
use piton::views::{clean, counted};
use piton::{Error, LaterStages, Study};

use super::args::CheckArgs;
use super::keeper::{keeper, with_helpers};
use super::outcome::{print_json, print_line};
use super::run::study_of;

/// First commands of a stage that are shown expanded.
const SHOWN_COMMANDS: u64 = 3;

/// Exit code of a probe that found something wanting, and of one that was taken back.
const WANTING: u8 = 1;

/// Checks a study file and prints what it would do.
pub fn check(args: &CheckArgs) -> Result<u8, Error> {
    // Before any thread exists: the keeper is a fork of this process.
    let keeper = if args.probe { Some(keeper()?) } else { None };
    let study = study_of(&args.study)?;
    let Some(spec) = study.spec() else { return Ok(0) };
    let paths = study.planned_paths()?;
    study.refuse_unfit_places()?;
    let (_, inputs) = inputs_now::inputs_now(spec, &paths, study.study_file()).map_err(Error::Input)?;
    // They are commands of the file, which may be anybody's.
    let versions = match args.versions {
        true => {
            let asked = with_helpers(|| study_file::tool_versions(&paths.study_dir, spec))?;
            Some(asked.map_err(Error::Version)?)
        }
        false => None,
    };
    let stages = assumed_stages(spec);
    let answer = match spec.run.executor.kind().is_remote() && !args.probe {
        true => asked_about(spec)?,
        false => None,
    };
    let plans: Vec<StagePlan> =
        (0..).zip(&spec.stages).map(|(index, stage)| StagePlan::of(spec, &stages, index, stage, &paths)).collect();
    let probed = match keeper.filter(|_| spec.run.executor.kind().is_remote()) {
        Some(keeper) => match cluster::run(spec, &paths, &keeper)? {
            Some(probed) => Some(probed),
            None => return Ok(WANTING),
        },
        None if args.probe => {
            return Err(Error::Usage(
                "trials of this study run on this machine: there is nothing to probe".into(),
            ));
        }
        None => None,
    };
    let asked = Asked { inputs: inputs.hashes.len(), versions, answer, probed };
    if args.json {
        print_plan_json(spec, &plans, &paths, &asked)?;
    } else {
        print_plan(&study, spec, &plans, &paths, &asked)?;
    }
    Ok(if asked.probed.is_some_and(|probed| !probed.wanting.is_empty()) { WANTING } else { 0 })
}

/// What was found besides the plan.
struct Asked {
    /// How many inputs were hashed.
    inputs: usize,
    versions: Option<Vec<ToolVersion>>,
    /// What the cluster says to a job that it is only asked about.
    answer: Option<String>,
    probed: Option<Probed>,
}

/// The stages as they will be if every stage has as many survivors as it may: what later stages' counts follow from.
/// Which cases survive is not known, so the first ones stand for them.
fn assumed_stages(spec: &Spec) -> Vec<StageRow> {
    let mut rows: Vec<StageRow> = Vec::new();
    for (index, stage) in (0..).zip(&spec.stages) {
        let parents = rows.last().map_or_else(Vec::new, |before| before.survivors.clone());
        let shares = plan::shares(stage, parents.len());
        let first_trial =
            rows.last().map_or(TrialId(0), |before| TrialId(before.first_trial.0 + before.planned()));
        let planned = shares.iter().fold(0_u64, |sum, share| sum.saturating_add(*share));
        let go_on = stage.survivor_count.saturating_add(stage.explore);
        let survivors = (0..go_on.min(planned))
            .map(|derived| Parent { trial: TrialId(first_trial.0 + derived), attempt: 1 })
            .collect();
        let mut row = StageRow {
            index,
            name: stage.name.clone(),
            trial_budget: stage.trial_budget,
            survivor_count: stage.survivor_count,
            objective: None,
            status: StageStatus::Waiting,
            first_trial,
            parents,
            shares,
            more: Vec::new(),
            planned,
            proposing: Proposing::No,
            survivors,
            approval: None,
            opened_ms: None,
            closed_ms: None,
            later: LaterStages::Stand,
            tidied: Default::default(),
            discarding: false,
            replicas: Default::default(),
            ended_after: None,
        };
        plan::plan_trials(stage, &mut row);
        rows.push(row);
    }
    rows
}

struct StagePlan {
    name: String,
    trials: u64,
    /// How many cases, and how often each runs, where they are repeated.
    repeated: Option<(u64, u32)>,
    parents: usize,
    survivors: u64,
    /// For each parent, where they can be counted.
    combinations: Option<u64>,
    merged: u64,
    how: String,
    /// What the rungs let through at best, and what speaks against them.
    halving: Vec<String>,
    /// Files that the command names, and whose change would go unseen where results are reused.
    unhashed: Vec<String>,
    /// Keys of a grid that the budget leaves at one value.
    unvaried: Vec<String>,
    commands: Vec<(String, String, Params)>,
}

impl StagePlan {
    fn of(spec: &Spec, stages: &[StageRow], index: u32, stage: &StageSpec, paths: &StudyPaths) -> Self {
        let lineage = Lineage::new(spec, stages);
        let row = stages.get(index as usize);
        let planned = row.map_or(0, StageRow::planned);
        let cases = row.map_or(0, StageRow::cases);
        let commands = (0..planned.min(SHOWN_COMMANDS))
            .filter_map(|derived| {
                let command = command(spec, &lineage, index, derived, paths)?;
                Some((lineage.case(index, derived), command, lineage.seen_params(index, derived)?))
            })
            .collect();
        Self {
            name: stage.name.clone(),
            trials: match &stage.race {
                Some(race) => cases.saturating_mul(race.max.into()),
                None => planned,
            },
            repeated: stage.replicas().map(|most| (cases, most)),
            parents: row.map_or(0, |row| row.parents.len()),
            survivors: stage.survivor_count.min(cases),
            combinations: plan::combinations(stage),
            merged: plan::merged(stage),
            halving: halving(stage, planned),
            unhashed: if stage.reuse.is_no() { Vec::new() } else { spec.unhashed(index) },
            how: how(stage, cases, row.map_or(1, |row| row.parents.len().max(1))),
            unvaried: row
                .and_then(|row| row.shares.first())
                .map_or_else(Vec::new, |share| plan::unvaried(stage, *share))
                .into_iter()
                .map(str::to_owned)
                .collect(),
            commands,
        }
    }
}

fn how(stage: &StageSpec, planned: u64, parents: usize) -> String {
    let (sampling, of) = match (stage.sweep.is_empty(), &stage.sampling) {
        (_, Sampling::File(file)) => (format!("file `{}`", file.path), "cases"),
        (_, Sampling::Ask(proposer)) => return asked(stage, proposer),
        (true, _) => ("no sweep".into(), ""),
        (false, Sampling::Grid) => ("grid".into(), "combinations"),
        (false, Sampling::Random) => ("random".into(), "combinations"),
        (false, Sampling::Sobol) => ("sobol".into(), "combinations"),
    };
    let all = plan::combinations(stage).and_then(|each| each.checked_mul(u64::try_from(parents).ok()?));
    let part = match all {
        _ if of.is_empty() => String::new(),
        Some(all) if planned < all => format!(", {planned} of {all} {of} (cut by the budget)"),
        Some(1) => format!(", the only {}", of.trim_end_matches('s')),
        Some(all) => format!(", all {all} {of}"),
        None => String::new(),
    };
    let merged = match plan::merged(stage) {
        0 => String::new(),
        rows => format!(", {} left out", counted(rows, "repeated row")),
    };
    format!("{sampling}{part}{merged}; {}", chosen(stage))
}

/// How many trials go on at each rung in the best case: every trial comes there, and none fails or waits.
fn halving(stage: &StageSpec, planned: u64) -> Vec<String> {
    let Some(halving) = &stage.halving else { return Vec::new() };
    let mut left = planned;
    let rungs: Vec<String> = halving
        .rungs
        .iter()
        .map(|step| {
            left = halving.allowed(left).min(left);
            format!("{left} at step {step}")
        })
        .collect();
    let (metric, rungs) = (clean(&halving.metric), rungs.join(", "));
    let mut lines = vec![format!("halving by `{metric}`: of {planned} trials at best {rungs} go on")];
    let order = match stage.sampling {
        Sampling::Grid if !stage.sweep.is_empty() => Some("a grid"),
        Sampling::File(_) => Some("a file"),
        _ => None,
    };
    if let Some(order) = order {
        lines.push(format!(
            "trials are compared with those before them, which come in the order of {order}: where that ranks them, too few are pruned or good ones \
             are; sampling = \"random\" ranks none"
        ));
    }
    lines
}

/// Cases that a proposer chooses.
fn asked(stage: &StageSpec, proposer: &Proposer) -> String {
    let command: Vec<_> =
        proposer.command.iter().map(|word| piton::shell_word(std::path::Path::new(word))).collect();
    let pace = match proposer.parallel {
        1 => "one at a time, each knowing all results before it".to_owned(),
        parallel => format!("at most {parallel} at a time"),
    };
    format!("proposed by `{}`, {pace}; {}", command.join(" "), chosen(stage))
}

fn chosen(stage: &StageSpec) -> String {
    let objectives: Vec<String> = stage
        .objectives
        .iter()
        .map(|objective| match objective.goal {
            Goal::Maximize => format!("largest `{}`", objective.metric),
            Goal::Minimize => format!("smallest `{}`", objective.metric),
        })
        .collect();
    let objectives = if objectives.is_empty() { "case order".into() } else { objectives.join(", ") };
    format!("{} by {objectives}", stage.selection.name().replace('_', " "))
}

/// A trial's command as it would run. A parent's directory is not known before its stage ran, nor is the slot.
fn command(spec: &Spec, lineage: &Lineage<'_>, index: u32, derived: u64, paths: &StudyPaths) -> Option<String> {
    let stage = spec.stages.get(index as usize)?;
    let params = lineage.seen_params(index, derived)?;
    let parent_dir = lineage.parent(index, derived).and_then(|parent| {
        let (before, place) = lineage.locate(parent.trial)?;
        Some(paths.attempt_dir(spec, before, &lineage.case(before, place), parent.attempt).display().to_string())
    });
    let study_dir = paths.study_dir.display().to_string();
    let context = ExpandContext {
        params: &params,
        case: &lineage.case(index, derived),
        parent_dir: parent_dir.as_deref(),
        study_dir: &study_dir,
        seed: lineage.trial_seed(index, derived, &params),
        replica: lineage.replica(index, derived),
        attempt: 1,
        slot: 0,
        given: &spec.first_given(index),
    };
    Some(match stage.work.expand(&context).ok()? {
        Expanded::Argv(argv) => {
            argv.iter().map(|word| piton::shell_word(std::path::Path::new(word))).collect::<Vec<_>>().join(" ")
        }
        Expanded::Closure => return None,
        Expanded::Shell(line) => format!("sh -c {}", piton::shell_word(std::path::Path::new(&line))),
    })
}

fn print_plan(
    study: &Study,
    spec: &Spec,
    plans: &[StagePlan],
    paths: &StudyPaths,
    asked: &Asked,
) -> Result<(), Error> {
    print_line(&format!("study `{}`, seed {}: no mistakes", spec.study.name, spec.study.seed))?;
    if let Some(description) = &spec.study.description {
        print_line(&format!("  {description}"))?;
    }
    if spec.base.is_some() {
        print_line("  its base command must succeed before the first stage")?;
    }
    for (index, plan) in plans.iter().enumerate() {
        let trials = counted(plan.trials, "trial");
        let raced = spec.stages.get(index).is_some_and(|stage| stage.race.is_some());
        let at_most = if index == 0 && !raced { "" } else { "at most " };
        let from = match plan.parents {
            0 => format!("from `{}`", spec.study.base_case),
            n => match index
                .checked_sub(1)
                .and_then(|before| spec.stages.get(before))
                .map_or(0, |before| before.explore)
            {
                0 => format!("from {}", counted(n, "survivor")),
                _ => format!("from {}", counted(n, "case")),
            },
        };
        print_line("")?;
        let survive = match plan.survivors {
            _ if spec.stages.get(index).is_some_and(|stage| stage.all_survive) => "all survive".into(),
            1 => "1 survives".into(),
            count => format!("{count} survive"),
        };
        print_line(&format!("stage {index} `{}`: {at_most}{trials} {from}, {survive}", plan.name))?;
        if spec.stages.get(index).is_some_and(|stage| stage.approve) {
            print_line("  begins when `piton approve` says so")?;
        }
        if let Some(stage) = spec.stages.get(index).filter(|stage| stage.explore > 0) {
            let most = counted(stage.explore, "more case");
            print_line(&format!(
                "  {most} may go on to explore, drawn from those that could survive and did not"
            ))?;
        }
        print_line(&format!("  {}", plan.how))?;
        if let (Some((cases, times)), Some(stage)) = (plan.repeated, spec.stages.get(index)) {
            let (cases, aggregate) = (counted(cases, "case"), stage.aggregate.name());
            let each = match &stage.race {
                Some(race) => format!("{cases} race, {} to {} rounds of a replica each", race.min, race.max),
                None => format!("{cases}, each {times} times in rounds"),
            };
            print_line(&format!("  {each}; what counts is the {aggregate} of its replicas"))?;
        }
        if let Some(most) = spec.stages.get(index).and_then(|stage| stage.run.workers) {
            print_line(&format!("  {} at once at most", counted(u64::from(most), "trial")))?;
        }
        for line in &plan.halving {
            print_line(&format!("  {line}"))?;
        }
        for file in &plan.unhashed {
            print_line(&format!("  `{file}` is no input: results are reused, whatever becomes of it"))?;
        }
        if !plan.unvaried.is_empty() {
            let names: Vec<_> = plan.unvaried.iter().map(|name| format!("`{name}`")).collect();
            print_line(&format!("  the budget leaves {} at the first value", names.join(", ")))?;
        }
        for (case, command, params) in &plan.commands {
            print_line(&format!("  {case}: {command}"))?;
            let params: Vec<String> = params.iter().map(|(name, value)| format!("{name}={value}")).collect();
            if !params.is_empty() {
                print_line(&format!("    {}", params.join(" ")))?;
            }
        }
        let more = plan.trials.saturating_sub(plan.commands.len() as u64);
        if more > 0 && !plan.commands.is_empty() {
            print_line(&format!("  … and {more} more"))?;
        }
        if index > 0 && plan.parents > 0 {
            print_line("  (which cases survive is not known yet: the first ones stand for them)")?;
        }
    }
    print_line("")?;
    if asked.inputs > 0 {
        print_line(&format!("inputs     {} hashed, all there", asked.inputs))?;
    }
    for tool in asked.versions.iter().flatten() {
        print_line(&format!("tool       {}: {}", tool.tool, clean(&tool.version)))?;
    }
    if asked.versions.is_none() && !spec.study.versions.is_empty() {
        let tools: Vec<&str> = spec.study.versions.keys().map(String::as_str).collect();
        print_line(&format!("tools      {}: `--versions` asks them", tools.join(", ")))?;
    }
    if let Some(answer) = &asked.answer {
        print_line(&format!("cluster    {}", clean(answer)))?;
    }
    if let Some(probed) = &asked.probed {
        cluster::print(probed)?;
    }
    let state = match study.found_status()? {
        Found { status: None, .. } => "not made yet",
        Found { spec: SpecMatch::Differs, .. } => "exists, with another spec: `piton run` would refuse",
        Found { .. } => "exists: `piton run` goes on with it",
    };
    print_line(&format!("store      {} ({state})", paths.store.display()))?;
    print_line(&format!("artifacts  {}", paths.study_artifacts(&spec.study.name).display()))
}

fn json_of(value: &Value) -> serde_json::Value {
    match value {
        Value::Str(text) => text.as_str().into(),
        Value::Bool(flag) => (*flag).into(),
        Value::Int(number) => (*number).into(),
        Value::Float(number) => (*number).into(),
    }
}

fn print_plan_json(spec: &Spec, plans: &[StagePlan], paths: &StudyPaths, asked: &Asked) -> Result<(), Error> {
    let stages: Vec<serde_json::Value> = plans
        .iter()
        .enumerate()
        .map(|(index, plan)| {
            let commands: Vec<_> = plan
                .commands
                .iter()
                .map(|(case, command, params)| {
                    let params: serde_json::Map<_, _> =
                        params.iter().map(|(name, value)| (name.clone(), json_of(value))).collect();
                    serde_json::json!({ "case": case, "command": command, "params": params })
                })
                .collect();
            serde_json::json!({
                "index": index, "name": plan.name, "trials": plan.trials, "parents": plan.parents,
                "survivors": plan.survivors, "cases": plan.repeated.map_or(plan.trials, |(cases, _)| cases),
                "replicas": plan.repeated.map(|(_, times)| times), "combinations": plan.combinations, "merged": plan.merged,
                "unvaried": plan.unvaried, "unhashed": plan.unhashed,
                "first_commands": commands,
            })
        })
        .collect();
    let mut plan = serde_json::json!({
        "schema": 1, "study": spec.study.name, "seed": spec.study.seed, "spec_hash": spec.spec_hash(),
        "stages": stages, "store": paths.store, "artifacts": paths.study_artifacts(&spec.study.name),
    });
    if let Some(plan) = plan.as_object_mut() {
        if let Some(versions) = &asked.versions {
            let versions = versions.iter().map(|tool| (tool.tool.clone(), tool.version.clone().into()));
            plan.insert("versions".into(), serde_json::Value::Object(versions.collect()));
        }
        if let Some(answer) = &asked.answer {
            plan.insert("cluster".into(), answer.as_str().into());
        }
        if let Some(probed) = &asked.probed {
            plan.insert("probe".into(), cluster::json(probed));
        }
    }
    print_json(&plan)
}

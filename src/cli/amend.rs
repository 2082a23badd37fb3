//! `piton amend`: a study that has begun becomes what its changed study file says.
//!
//! A change of the study like any other: one event in the journal, in one transaction, while no engine runs. It never
//! discards a result that the command line does not say to discard.

use std::fs;
use std::io;
use std::path::Path;

use piton::engine::EngineError;
use piton::model::{
    Event, Identity, InputList, Record, StageCounters, StageIndex, StageRow, StudyRow, ToolVersion,
};
use piton::paths::{SCRATCH_DIR, StudyPaths};
use piton::plan::amend::{Amendment, Class, Discarded, Judged, Present, Standing, amendment, changed_tools};
use piton::spec::{self, Change, Spec};
use piton::sys::clock::unix_ms;
use piton::views::counted;
use piton::{Error, Journal, JournalError, Study, amend_command, engine, identity, run_command, shell_word};

use super::args::AmendArgs;
use super::result::{print_json, print_line};
use super::terminal::{ask, can_ask, hint, note, say};

/// What answers every question beforehand.
const YES: &str = "`--yes` accepts the changes";

/// Shows what changes, and changes it once that is accepted.
pub fn amend(args: &AmendArgs) -> Result<u8, Error> {
    let store = &args.store.store;
    let journal_error = |cause: JournalError| Error::Journal { store: store.clone(), cause };
    let given = Study::from_file(&args.study, &args.set)?;
    let mut journal = Journal::open(store)?;
    let decided = decide(args, &given, &journal);
    let (plan, lists) = match decided {
        Ok(Some(decided)) => decided,
        Ok(None) => {
            journal.close().map_err(journal_error)?;
            return Ok(0);
        }
        Err(error) => {
            journal.close().map_err(journal_error)?;
            return Err(error);
        }
    };
    let discards = plan.event.discard_from.is_some();
    let mut records = if discards { make_way(args, &plan, &journal)? } else { Vec::new() };
    let event = Event::SpecAmended(Box::new(plan.event));
    let listed = (!lists.is_empty()).then_some(Event::InputsListed { lists });
    let at_ms = unix_ms();
    records.extend([event].into_iter().chain(listed).map(|event| Record { at_ms, run_ms: 0, event }));
    journal.append(&records).map_err(journal_error)?;
    journal.close().map_err(journal_error)?;
    if !args.json {
        say("the study is amended");
        let run = run_command(&args.study, Some(store), &args.set);
        hint(&format!("`{run}` or `piton resume {}` goes on", shell_word(store)));
    }
    Ok(0)
}

/// The plan once it is accepted; `None`: there is nothing to do. Nothing that the new file names is run before somebody
/// accepted that: until then the tools count as what is recorded of them.
fn decide(
    args: &AmendArgs,
    given: &Study,
    journal: &Journal,
) -> Result<Option<(Amendment, Vec<InputList>)>, Error> {
    let Some((standing, new)) = Stands::load(args, given, journal)? else { return Ok(None) };
    let new = &new;
    let lists = standing.present.found.lists.clone();
    Ok(decide_tools(args, new, &standing)?.map(|plan| (plan, lists)))
}

fn decide_tools(args: &AmendArgs, new: &Spec, standing: &Stands) -> Result<Option<Amendment>, Error> {
    let plan = |tools: Tools| standing.plan(args, new, tools);
    let asked = with_dropped(new, &standing.spec);
    if asked.study.versions.is_empty() {
        return accepted(args, &standing.study, plan(Tools::default())?);
    }
    let presumed = plan(Tools { versions: standing.study.versions.clone(), ..Tools::default() })?;
    if presumed.is_empty() && !args.yes && !can_ask() {
        nothing_to_do(args, "; whether its tools are what they were is asked with `--yes`")?;
        return Ok(None);
    }
    if !args.json {
        print_plan(&presumed, &standing.study)?;
    }
    let agreed = refuse(args, &presumed).and_then(|()| {
        if !args.json {
            print_tools(&asked)?;
        }
        match args.yes {
            true => Ok(()),
            false => ask(if presumed.is_empty() { "ask the tools" } else { "accept these changes" }, YES),
        }
    });
    if let Err(error) = agreed {
        if args.json {
            print_plan_json(&presumed, false)?;
        }
        return Err(error);
    }
    let found = plan(super::with_helpers(|| Tools::ask(new, standing))??)?;
    // Known already, but for what the tools said.
    if found.changes == presumed.changes && found.discarded == presumed.discarded && !found.is_empty() {
        if args.json {
            print_plan_json(&found, true)?;
        }
        return Ok(Some(found));
    }
    if !args.json && !presumed.is_empty() {
        print_line("")?;
    }
    accepted(args, &standing.study, found)
}

/// What is to be amended.
struct Stands {
    study: StudyRow,
    spec: Spec,
    stages: Vec<StageRow>,
    counters: Vec<StageCounters>,
    /// What its tools were, from the beginning on.
    identities: Vec<Identity>,
    /// Its inputs as they are now, and what of them contradicts results.
    present: identity::Present,
    paths: StudyPaths,
}

/// Versions of tools, as told now.
#[derive(Default)]
struct Tools {
    /// Of those that the study is to name.
    versions: Vec<ToolVersion>,
    /// Of those that it names no more.
    dropped: Vec<ToolVersion>,
    /// One of these that did not tell.
    silent: Option<String>,
}

impl Tools {
    fn ask(new: &Spec, standing: &Stands) -> Result<Self, Error> {
        let dir = &standing.paths.study_dir;
        let versions = spec::tool_versions(dir, new).map_err(Error::Version)?;
        let mut dropped = standing.spec.clone();
        dropped.study.versions.retain(|tool, _| !new.study.versions.contains_key(tool));
        Ok(match spec::tool_versions(dir, &dropped) {
            Ok(dropped) => Self { versions, dropped, silent: None },
            Err(error) => Self { versions, silent: Some(error.to_string()), ..Self::default() },
        })
    }

    /// What contradicts results that were made with these versions.
    fn conflicts<'a>(&self, made_with: impl Iterator<Item = &'a Vec<ToolVersion>>) -> Vec<Change> {
        let silent = self.silent.iter().map(|why| Change { path: why.clone(), old: None, new: None });
        let mut conflicts: Vec<Change> = silent.collect();
        let now: Vec<ToolVersion> = self.versions.iter().chain(&self.dropped).cloned().collect();
        for versions in made_with {
            for change in changed_tools(versions, &now) {
                if conflicts.iter().all(|known| known.path != change.path) {
                    conflicts.push(change);
                }
            }
        }
        conflicts
    }
}

/// A spec with the tools that another one names besides.
fn with_dropped(new: &Spec, old: &Spec) -> Spec {
    let mut both = new.clone();
    for (tool, command) in &old.study.versions {
        both.study.versions.entry(tool.clone()).or_insert_with(|| command.clone());
    }
    both
}

impl Stands {
    fn load(args: &AmendArgs, given: &Study, journal: &Journal) -> Result<Option<(Self, Spec)>, Error> {
        let store = &args.store.store;
        let journal_error = |cause: JournalError| Error::Journal { store: store.clone(), cause };
        let snapshot = journal.snapshot().map_err(journal_error)?;
        let study = snapshot.study().map_err(journal_error)?;
        let stages = snapshot.stages().map_err(journal_error)?;
        let counters = stages.iter().map(|stage| snapshot.counters(stage.index)).collect::<Result<Vec<_>, _>>();
        let counters = counters.map_err(journal_error)?;
        let spec = Spec::from_json(&study.spec)
            .map_err(|error| Error::StoredSpec { store: store.clone(), why: error.to_string() })?;
        let paths = StudyPaths::of(store, &study).map_err(Error::no_current_dir)?;
        let identities = snapshot.identities().map_err(journal_error)?;
        let Some(new) = given.spec_beside(&spec).map(std::borrow::Cow::into_owned) else { return Ok(None) };
        let present = identity::present((&spec, &new), &paths, &study, &identities).map_err(Error::Input)?;
        Ok(Some((Self { study, spec, stages, counters, identities, present, paths }, new)))
    }

    fn plan(&self, args: &AmendArgs, new: &Spec, tools: Tools) -> Result<Amendment, Error> {
        let from = args.discard_from.as_deref().map(|name| discard_from(&self.spec, name)).transpose()?;
        let Self { study, spec, stages, counters, .. } = self;
        let used = self.identities.iter().filter(|identity| identity.results > 0);
        let made_with = used.map(|identity| &identity.versions).chain([&study.versions]);
        let mut conflicts = self.present.conflicts.clone();
        conflicts.extend(tools.conflicts(made_with));
        let versions =
            tools.versions.into_iter().filter(|tool| new.study.versions.contains_key(&tool.tool)).collect();
        let present = Present { inputs: self.present.found.hashes.clone(), versions, conflicts };
        let plan = amendment(Standing { study, spec, stages, counters }, new, present, from);
        let base_ran = study.base.as_ref().is_some_and(|base| !base.attempts.is_empty()) && from == Some(0);
        if let (Some(name), true) = (&args.discard_from, plan.discarded.is_empty() && !base_ran) {
            return Err(Error::Usage(format!("stage `{name}` has not begun: it has no results to discard")));
        }
        Ok(plan)
    }
}

fn discard_from(old: &Spec, name: &str) -> Result<StageIndex, Error> {
    let found = old.stages.iter().zip(0..).find(|(stage, _)| stage.name == name);
    found.map(|(_, index)| index).ok_or_else(|| Error::Usage(format!("the study has no stage `{name}`")))
}

/// Ends what a dead engine left running, and removes the scratch directories of what is discarded: a trial that runs
/// again must not go on from another one's checkpoint. Nothing of a result is touched.
fn make_way(args: &AmendArgs, plan: &Amendment, journal: &Journal) -> Result<Vec<Record>, Error> {
    let store = &args.store.store;
    let journal_error = |cause: JournalError| Error::Journal { store: store.clone(), cause };
    let snapshot = journal.snapshot().map_err(journal_error)?;
    let (study, left) = (snapshot.study().map_err(journal_error)?, snapshot.running().map_err(journal_error)?);
    let records = engine::settled(journal).map_err(Error::from)?;
    if records.len() < left.len() {
        let pid = study.engine.as_ref().map_or(0, |engine| engine.process.pid);
        return Err(EngineError::Copied { pid }.into());
    }
    let paths = StudyPaths::of(store, &study).map_err(Error::no_current_dir)?;
    for stage in &plan.discarded {
        let dir = paths.study_artifacts(&study.name).join(format!("{}_{}", stage.stage, stage.name));
        let what = "remove the scratch directories in";
        clear_scratch(&dir).map_err(|cause| Error::File { what, path: dir, cause })?;
    }
    Ok(records)
}

/// Removes `<case>/scratch` of every case in a stage's directory, durably; links are not followed.
fn clear_scratch(stage_dir: &Path) -> io::Result<()> {
    if !fs::symlink_metadata(stage_dir).is_ok_and(|meta| meta.is_dir()) {
        return Ok(());
    }
    for case in fs::read_dir(stage_dir)? {
        let case = case?;
        let scratch = case.path().join(SCRATCH_DIR);
        if !case.file_type()?.is_dir() {
            continue;
        }
        match fs::symlink_metadata(&scratch) {
            Ok(meta) if meta.is_dir() => fs::remove_dir_all(&scratch)?,
            Ok(_) => fs::remove_file(&scratch)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(rustix::fs::syncfs(fs::File::open(stage_dir)?)?)
}

/// Shows the plan and gets it accepted; `None`: there is nothing to do. The error says why it is not.
fn accepted(args: &AmendArgs, study: &StudyRow, plan: Amendment) -> Result<Option<Amendment>, Error> {
    if plan.is_empty() {
        nothing_to_do(args, ": there is nothing to amend")?;
        print_idle(args, study);
        return Ok(None);
    }
    if !args.json {
        print_plan(&plan, study)?;
    }
    let agreed = refuse(args, &plan);
    let agreed = agreed.and_then(|()| if args.yes { Ok(()) } else { ask("accept these changes", YES) });
    if args.json {
        print_plan_json(&plan, agreed.is_ok())?;
    }
    agreed.map(|()| Some(plan))
}

/// What cannot be done, or not without losing results.
fn refuse(args: &AmendArgs, plan: &Amendment) -> Result<(), Error> {
    let store = args.store.store.clone();
    if let Some(judged) = plan.changes.iter().find(|judged| judged.class == Class::Forbidden) {
        return Err(Error::OtherStudy { store, setting: judged.change.path.clone() });
    }
    match plan.altered_from.clone() {
        Some(stage) => {
            let command = amend_command(&store, &args.study, &args.set, Some(&stage));
            Err(Error::AltersResults { store, stage, command })
        }
        None => Ok(()),
    }
}

fn nothing_to_do(args: &AmendArgs, more: &str) -> Result<(), Error> {
    if args.json {
        print_json(&serde_json::json!({ "changes": [], "discarded": [], "applied": false }))?;
    } else {
        say(&format!("the study file says what the store says{more}"));
    }
    Ok(())
}

/// Tables of the file that count for nothing: whoever wrote one may well wonder why there is nothing to amend.
fn print_idle(args: &AmendArgs, study: &StudyRow) {
    let (Ok(bytes), Ok(stored)) = (fs::read(&args.study), Spec::from_json(&study.spec)) else { return };
    let executor = stored.run.executor.kind();
    for table in spec::idle_tables(&bytes, executor).into_iter().filter(|_| !args.json) {
        note(&format!("`[run.{table}]` counts for nothing while `executor` is `{}`", executor.name()));
    }
}

/// What accepting runs.
fn print_tools(new: &Spec) -> Result<(), Error> {
    for (tool, command) in &new.study.versions {
        let words: Vec<_> = command.iter().map(|word| shell_word(Path::new(word))).collect();
        print_line(&format!("runs        `{}`, which tells the version of `{tool}`", words.join(" ")))?;
    }
    Ok(())
}

fn class_word(class: Class) -> &'static str {
    match class {
        Class::Harmless => "harmless",
        Class::Extends => "extends",
        Class::Invalidates(_) => "invalidates",
        Class::Forbidden => "forbidden",
    }
}

fn discarded_words(discarded: &Discarded) -> String {
    let trials = counted(discarded.finished, "finished trial");
    format!("discards    stage `{}`: {trials}", discarded.name)
}

fn print_plan(plan: &Amendment, study: &StudyRow) -> Result<(), Error> {
    for Judged { change, class, cost } in &plan.changes {
        print_line(&format!("{:<11} {change}", class_word(*class)))?;
        print_line(&format!("            {cost}"))?;
    }
    for discarded in &plan.discarded {
        print_line(&discarded_words(discarded))?;
    }
    if !plan.discarded.is_empty() {
        print_line("            they run again; the old results stay in the journal (`piton dump --at SEQ`)")?;
    }
    if plan.event.reopen {
        print_line(&format!("reopens     study `{}` goes on", study.name))?;
    }
    Ok(())
}

fn print_plan_json(plan: &Amendment, applied: bool) -> Result<(), Error> {
    let changes: Vec<_> = plan
        .changes
        .iter()
        .map(|Judged { change, class, cost }| {
            serde_json::json!({
                "setting": change.path, "old": change.old, "new": change.new, "class": class_word(*class), "cost": cost,
            })
        })
        .collect();
    let discarded: Vec<_> = plan
        .discarded
        .iter()
        .map(|stage| serde_json::json!({ "stage": stage.name, "finished_trials": stage.finished }))
        .collect();
    let added: u64 = plan.event.extended.iter().flat_map(|extended| &extended.more).map(|more| more.count).sum();
    print_json(&serde_json::json!({
        "changes": changes, "discarded": discarded, "added_trials": added, "reopens": plan.event.reopen,
        "applied": applied,
    }))
}

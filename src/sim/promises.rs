//! The promises of piton, asked of a store: after a crash, and at the end.
//!
//! Each answer names the promise by its number in the order they are made: 1 what was told is there, 2 the attempts add
//! up, 3 the events fold to the rows, 4 survivors can be chosen again, 5 the same result, 6 nothing else is lost, 7
//! outputs are there, 11 recovery is idempotent, 13 exports are whole.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;

use super::disk::Files;
use super::play::{Announced, DIR, store};
use super::random::Random;
use super::studies::{Exports, Scenario};
use super::trials::TAINTED;
use super::world::{Camera, World};
use crate::engine;
use crate::journal::{JournalError, OpenError, Reader, Snapshot, verify};
use crate::model::artifacts::BEFORE;
use crate::model::{
    AttemptNo, AttemptOutcome, Event, IdentityHash, Kept, LaterStages, Metric, Metrics, Parent, REUSED, Rail,
    Record, Seq, StageIndex, StageRow, StageStatus, StudyRow, StudyStatus, TrialId, TrialRow, TrialState, Verdict,
};
use crate::paths::StudyPaths;
use crate::plan::{Ruled, is_checked, trial_name};
use crate::study_file::Spec;
use crate::sys::simulated::on;
use crate::views::{Liveness, StudyLocation, StudyView, dump, telemetry};

pub(super) type Broken = String;

/// What a store must be at any moment: here of a crashed disk, which stays as it is. All its events: whoever looked was
/// told of them. `twice`: it is recovered once more.
pub(super) fn hold_after_crash(files: &Files, told: &Announced, twice: bool) -> Result<Announced, Broken> {
    let world = World::new(files.clone(), Random::new(1), told.len(), Camera::Off);
    exports_whole(files)?;
    on(Rc::new(world.clone()), || {
        let reader = match Reader::open(&store()) {
            Err(OpenError::Missing { .. }) if told.is_empty() => return Ok(Announced::new()),
            Err(error) => return Err(format!("1: lost: the store does not open: {}", words(&error))),
            Ok(reader) => reader,
        };
        let events = with(&reader, |snapshot| {
            hold(snapshot, files, told)?;
            Ok(snapshot.events(1)?.collect::<Result<_, _>>()?)
        })?;
        if !twice {
            return Ok(events);
        }
        let first = with(&reader, |snapshot| Ok(snapshot.progress()?))?;
        drop(reader);
        // Whoever looked may have repaired it: what they found is what the next one finds.
        let again = Reader::open(&store()).map_err(|error| format!("11: recovered once: {}", words(&error)))?;
        let second = with(&again, |snapshot| Ok(snapshot.progress()?))?;
        (first == second).then_some(events).ok_or_else(|| format!("11: {first:?}, then {second:?}"))
    })
}

/// What must be besides once a study is over.
/// Its result. `whole`: everything is looked at, not the result alone.
pub(super) fn hold_at_end(
    world: &World,
    told: &Announced,
    scenario: &Scenario,
    whole: bool,
) -> Result<String, Broken> {
    on(Rc::new(world.clone()), || {
        let reader = Reader::open(&store()).map_err(|error| format!("1: lost: {}", words(&error)))?;
        let files = world.state().files.clone();
        with(&reader, |snapshot| {
            if whole {
                hold(snapshot, &files, told)?;
            }
            let artifacts = Path::new(DIR).join("artifacts");
            if scenario.exports != Exports::Never && !telemetry::is_current(snapshot, &artifacts)? {
                return Err("13: the exports are not those of the end".to_owned().into());
            }
            if let Some(stage) = snapshot.stages()?.iter().find(|stage| stage.discarding) {
                return Err(format!("what is discarded of stage {} is not gone at the end", stage.index).into());
            }
            retries_taken(snapshot, scenario)?;
            result(snapshot)
        })
    })
}

/// What can go wrong while a promise is looked at.
enum LookError {
    Broken(Broken),
    Unreadable(JournalError),
}

impl From<JournalError> for LookError {
    fn from(error: JournalError) -> Self {
        Self::Unreadable(error)
    }
}

impl From<Broken> for LookError {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

fn with<T>(reader: &Reader, look: impl FnOnce(&Snapshot) -> Result<T, LookError>) -> Result<T, Broken> {
    match reader.snapshot().map_err(LookError::from).and_then(|snapshot| look(&snapshot)) {
        Ok(seen) => Ok(seen),
        Err(LookError::Broken(broken)) => Err(broken),
        Err(LookError::Unreadable(error)) => Err(format!("3: unreadable: {}", words(&error))),
    }
}

fn words(error: &dyn std::error::Error) -> String {
    let cause = error.source().map_or_else(String::new, |cause| format!(": {}", words(cause)));
    format!("{error}{cause}")
}

fn hold(snapshot: &Snapshot, files: &Files, told: &Announced) -> Result<(), LookError> {
    let (study, progress) = (snapshot.study()?, snapshot.progress()?);
    told_is_there(snapshot, told)?;
    let sum = progress.accounting;
    if sum.attempts_started != sum.succeeded + sum.failed + sum.interrupted + sum.running {
        return Err(format!("2: {sum:?} does not add up").into());
    }
    let running = snapshot.running()?.iter().filter(|row| row.trial != TrialId::BASE).count() as u64;
    // More than there are workers: one that has ended counts as running until what it left is durable.
    if running != sum.running {
        return Err(format!("2: {running} attempts run, {} are counted", sum.running).into());
    }
    let replay = verify(snapshot)?;
    if let Some(difference) = replay.differences.first() {
        return Err(format!("3: {difference:?}").into());
    }
    let spec = Spec::from_json(&study.spec).map_err(|error| format!("3: the spec: {error}"))?;
    survivors(snapshot, &spec)?;
    agreed(snapshot)?;
    rails(snapshot, &spec)?;
    rungs(snapshot, &spec)?;
    doubts(snapshot, &spec)?;
    made_with(snapshot, &study)?;
    based_once(snapshot, &spec)?;
    let paths = StudyPaths::of(&store(), &study).map_err(|error| error.to_string())?;
    // Without it another study could take the directory with this one's outputs.
    let claim = paths.study_artifacts(&study.name).join(".piton-study.json");
    if study.runs > 0 && files.read(&claim).is_none() {
        return Err("7: lost: the artifacts directory belongs to nobody".to_owned().into());
    }
    discarded_there(snapshot, &spec, &study, &paths, files)?;
    let stages = snapshot.stages()?;
    for row in snapshot.trials(TrialId(0), TrialId(u64::MAX))? {
        let row = row?;
        let accepted = row.attempts.iter().filter(|a| a.outcome == Some(AttemptOutcome::Succeeded)).count();
        if accepted > 1 {
            return Err(format!("2: doubled: trial {} has {accepted} results", row.trial).into());
        }
        if row.metrics.values().any(|metric| *metric == Metric::Number(TAINTED)) {
            return Err(format!("5: trial {} saw what is not recorded, and counts", row.trial).into());
        }
        if row.state == TrialState::Succeeded {
            outputs_there(&row, snapshot, &study, &spec, &paths, files)?;
        }
        if let Some(stage) = stages.get(row.stage as usize) {
            discarded_is_gone(&row, stage, &study, &spec, &paths, files)?;
        }
    }
    Ok(())
}

fn told_is_there(snapshot: &Snapshot, told: &Announced) -> Result<(), LookError> {
    let events: Vec<(Seq, Record)> = snapshot.events(1)?.collect::<Result<_, _>>()?;
    if let Some((seq, (found, _))) = (1..).zip(&events).find(|(seq, (found, _))| seq != found) {
        return Err(format!("3: event {found} where {seq} belongs").into());
    }
    for (seq, record) in told {
        match events.get(*seq as usize - 1) {
            Some((_, found)) if found == record => {}
            Some((_, found)) => return Err(format!("1: lost: {seq} was {record:?}, is {found:?}").into()),
            None => return Err(format!("1: lost: event {seq} was told, {} are there", events.len()).into()),
        }
    }
    Ok(())
}

fn survivors(snapshot: &Snapshot, spec: &Spec) -> Result<(), LookError> {
    for stage in snapshot.stages()?.iter().filter(|stage| stage.status != StageStatus::Waiting) {
        if let Some(differs) = engine::race_differs(snapshot, spec, stage)? {
            return Err(format!("4: {differs}").into());
        }
    }
    for stage in snapshot.stages()?.iter().filter(|stage| stage.status == StageStatus::Closed) {
        let chosen = engine::choose(snapshot, spec, stage.index)?;
        if chosen != stage.survivors || chosen.is_empty() {
            let (was, is) = (&stage.survivors, chosen);
            return Err(format!("4: stage {} closed with {was:?}, its metrics give {is:?}", stage.index).into());
        }
    }
    if snapshot.study()?.status != StudyStatus::Completed {
        return Ok(());
    }
    let stages = snapshot.stages()?;
    for (before, stage) in stages.iter().zip(stages.iter().skip(1)) {
        let sorted = |parents: &[Parent]| parents.iter().map(|p| (p.trial, p.attempt)).collect::<BTreeSet<_>>();
        if before.later != LaterStages::Keep && sorted(&before.survivors) != sorted(&stage.parents) {
            let (is, was) = (&before.survivors, &stage.parents);
            return Err(format!("4: stage {} has the parents {was:?}, {is:?} survive", stage.index).into());
        }
    }
    Ok(())
}

/// No stage is planned anew for other survivors unless a person has agreed to that, and nothing of later stages starts while one is
/// open again.
fn agreed(snapshot: &Snapshot) -> Result<(), LookError> {
    let stages = snapshot.stages()?;
    let mut agreed: Option<StageIndex> = None;
    let mut open: Option<(StageIndex, TrialId)> = None;
    for event in snapshot.events(1)? {
        let anew = match event?.1.event {
            Event::StageReopened { stage, later } => {
                let row = &stages[stage as usize];
                open = Some((stage, TrialId(row.first_trial.0 + row.planned())));
                if later == LaterStages::Discard {
                    agreed = Some(agreed.map_or(stage, |before| before.min(stage)));
                }
                continue;
            }
            Event::StageClosed { stage, .. } => {
                open = open.filter(|(opened, _)| *opened != stage);
                continue;
            }
            Event::AttemptStarted { trial, .. } if open.is_some_and(|(_, end)| trial >= end) => {
                return Err(format!("6: trial {trial} starts while a stage before its own is open again").into());
            }
            Event::StagesDiscarded { from } => from,
            Event::StageReplanned(replanned) => replanned.stage,
            _ => continue,
        };
        if agreed.is_none_or(|stage| anew <= stage) {
            return Err(format!("6: lost: stage {anew} is planned anew, and nobody agreed").into());
        }
    }
    Ok(())
}

/// An abort by a rail is what the results of the trials that count give, and no closed stage's results break one. A stage that ended early
/// did so where they say, and no other.
fn rails(snapshot: &Snapshot, spec: &Spec) -> Result<(), LookError> {
    let (study, stages) = (snapshot.study()?, snapshot.stages()?);
    let by_results = |rail| matches!(rail, Rail::AbortIf | Rail::MaxFailureRate | Rail::CatastrophicFailures);
    if let Some(abort) = study.abort.filter(|abort| by_results(abort.rail)) {
        let broken = match engine::ruled(snapshot, spec, abort.stage)? {
            Some(Ruled::Broken(broken)) => Some(broken),
            _ => None,
        };
        let told = broken.as_ref().map(|broken| (broken.rail, broken.counted, &broken.violating));
        if told != Some((abort.rail, abort.counted, &study.violating)) {
            return Err(format!("4: aborted by {abort:?}, its results give {broken:?}").into());
        }
    }
    for stage in stages.iter().filter(|stage| stage.status == StageStatus::Closed) {
        let ruled = engine::ruled(snapshot, spec, stage.index)?;
        if ruled != stage.ended_after.map(Ruled::Ended) {
            let ended = stage.ended_after;
            return Err(
                format!("4: stage {} closed after {ended:?}, its results give {ruled:?}", stage.index).into()
            );
        }
    }
    Ok(())
}

/// What rungs have decided is what trials showed there gives, and what they could decide they have. Nothing that counts was shown by a
/// trial that saw what is not recorded.
fn rungs(snapshot: &Snapshot, spec: &Spec) -> Result<(), LookError> {
    let stages = snapshot.stages()?;
    for stage in stages.iter().filter(|stage| stage.status != StageStatus::Waiting) {
        if let Some(differs) = engine::rungs_differ(snapshot, spec, &stages, stage)? {
            return Err(format!("4: {differs}").into());
        }
    }
    for row in snapshot.trials(TrialId(0), TrialId(u64::MAX))? {
        let row = row?;
        if row.rungs().iter().any(|rung| rung.value == Some(TAINTED)) {
            return Err(format!("5: trial {} showed what is not recorded, and that counts", row.trial).into());
        }
        let survives = stages.iter().any(|stage| stage.survivors.iter().any(|parent| parent.trial == row.trial));
        if row.is_sealed() && (survives || row.state == TrialState::Succeeded) {
            return Err(format!("4: trial {} is pruned, and counts", row.trial).into());
        }
    }
    Ok(())
}

/// Results by where they lie, each with the event that lets it be found.
type ByPlace = BTreeMap<(TrialId, AttemptNo), (Seq, Metrics)>;

/// A trial that was checked and came to another result says so in the commit of its result; then nothing is taken any more. Asked of
/// studies with one stage.
fn doubts(snapshot: &Snapshot, spec: &Spec) -> Result<(), LookError> {
    let share = spec.run.reuse_check;
    if share == 0.0 || spec.stages.len() != 1 {
        return Ok(());
    }
    let seed = snapshot.study()?.seed;
    let mut known: BTreeMap<IdentityHash, ByPlace> = BTreeMap::new();
    let (mut began, mut came_to) = (BTreeMap::new(), Metrics::new());
    let (mut doubted, mut due) = (false, None);
    for event in snapshot.events(1)? {
        let (seq, record) = event?;
        let told = |trial| matches!(&record.event, Event::ReuseDiffered(doubt) if doubt.trial == trial);
        if let Some(trial) = due.take().filter(|trial| !told(*trial)) {
            return Err(
                format!("5: trial {trial} differs from what it could have taken, and nobody is told").into()
            );
        }
        match &record.event {
            Event::AttemptStarted { trial, .. } => drop(began.insert(*trial, seq)),
            Event::AttemptEnded(end) => {
                if let Verdict::Succeeded { metrics, .. } = &end.verdict {
                    came_to.clone_from(metrics);
                }
            }
            Event::ResultIdentified { trial, attempt, identity } => {
                let (known, began) = (known.entry(*identity).or_default(), began[trial]);
                let differs = known.values().any(|(found, metrics)| *found < began && *metrics != came_to);
                due = (differs && !doubted && is_checked(seed, share, identity, *trial)).then_some(*trial);
                known.insert((*trial, *attempt), (seq, came_to.clone()));
            }
            Event::TrialReused(reused) if doubted => {
                return Err(format!("5: trial {} takes what is known to differ", reused.trial).into());
            }
            Event::TrialReused(reused) => {
                let known = known.entry(reused.identity).or_default();
                known.insert((reused.trial, REUSED), (seq, reused.metrics.clone()));
            }
            Event::ReuseDiffered(_) => doubted = true,
            _ => {}
        }
    }
    match due {
        Some(trial) => {
            Err(format!("5: trial {trial} differs from what it could have taken, and nobody is told").into())
        }
        None => Ok(()),
    }
}

/// Where all stages reuse, and nobody asks for everything anew, a base command that has succeeded does not run again.
fn based_once(snapshot: &Snapshot, spec: &Spec) -> Result<(), LookError> {
    let mut succeeded = false;
    if spec.base.is_none() || spec.stages.iter().any(|stage| stage.reuse.is_no()) {
        return Ok(());
    }
    for event in snapshot.events(1)? {
        match event?.1.event {
            Event::BaseStarted { .. } if succeeded => {
                return Err("2: doubled: the base command ran again".to_owned().into());
            }
            Event::BaseEnded(end) => succeeded |= matches!(end.verdict, Verdict::Succeeded { .. }),
            _ => {}
        }
    }
    Ok(())
}

/// Results that count were made with the inputs that are recorded, or somebody has taken these for what they were.
fn made_with(snapshot: &Snapshot, study: &StudyRow) -> Result<(), LookError> {
    for identity in snapshot.identities()?.iter().filter(|identity| identity.has_results(0)) {
        for was in &identity.inputs {
            if study.inputs.iter().any(|is| is.path == was.path && is.blake3 != was.blake3) {
                return Err(format!("5: results were made with another `{}`, and nobody said so", was.path).into());
            }
        }
    }
    Ok(())
}

/// What trials of a first stage that reuses left, also before it was discarded, is there for equal ones.
fn discarded_there(
    snapshot: &Snapshot,
    spec: &Spec,
    study: &StudyRow,
    paths: &StudyPaths,
    files: &Files,
) -> Result<(), LookError> {
    if !spec.reuses(0) || !files.meddled.is_empty() {
        return Ok(());
    }
    let mut end = 0;
    for event in snapshot.events(1)? {
        let (_, record) = event?;
        match &record.event {
            Event::StageOpened { stage: 0, shares, .. } => end = shares.iter().sum(),
            Event::SpecAmended(amended) => {
                let extended = amended.extended.iter().filter(|extended| extended.stage == 0);
                end += extended.flat_map(|extended| &extended.more).map(|more| more.count).sum::<u64>();
            }
            Event::RoundsPlanned { stage: 0, count } => end *= u64::from(*count),
            _ => {}
        }
        let Event::AttemptEnded(end_of) = &record.event else { continue };
        let Verdict::Succeeded { outputs, .. } = &end_of.verdict else { continue };
        if end_of.trial.0 >= end {
            continue;
        }
        let case = format!("{}_0_{}", study.base_case, end_of.trial.0);
        let own = paths.attempt_dir(spec, 0, &case, end_of.attempt);
        let name = own.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let case_dir = own.parent().unwrap_or(&own);
        let names = files.names(case_dir).unwrap_or_default();
        let places = names.into_iter().filter(|found| {
            let found = found.to_string_lossy();
            found == name.as_str()
                || found.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with(BEFORE))
        });
        let places: Vec<_> = places.map(|found| case_dir.join(found)).collect();
        for output in outputs {
            let is_there = |place: &std::path::PathBuf| {
                let bytes = files.read(&place.join(&output.path));
                bytes.is_some_and(|bytes| *blake3::hash(&bytes).as_bytes() == output.blake3)
            };
            if !places.iter().any(is_there) {
                let (path, attempt) = (&output.path, end_of.attempt);
                return Err(
                    format!("7: lost: `{path}` of attempt {attempt} of `{case}`, which may be taken").into()
                );
            }
        }
    }
    Ok(())
}

/// Of what was discarded nothing is there that is not kept, once that is recorded.
fn discarded_is_gone(
    row: &TrialRow,
    stage: &StageRow,
    study: &StudyRow,
    spec: &Spec,
    paths: &StudyPaths,
    files: &Files,
) -> Result<(), LookError> {
    let last = row.attempts.len() as AttemptNo;
    let kept = row.kept_of(last);
    // The next attempt of one that is to run again may have begun, and nobody knows of it yet.
    if stage.discarding || kept == Kept::All || !row.state.is_final() {
        return Ok(());
    }
    let case = trial_name(&study.base_case, stage, row.trial.0 - stage.first_trial.0);
    let scratch = paths.scratch_dir(spec, row.stage, &case);
    let dirs = (0..=last).map(|attempt| paths.attempt_dir(spec, row.stage, &case, attempt));
    let outputs = || row.outputs.iter().map(|output| &output.path);
    for dir in dirs {
        let gone = match kept {
            Kept::All | Kept::Outputs => vec![dir.join("params.json")],
            Kept::Logs | Kept::Nothing => {
                outputs().map(|path| dir.join(path)).chain([dir.join("params.json")]).collect()
            }
        };
        if let Some(there) = gone.iter().chain([&scratch]).find(|path| files.kind(path).is_some()) {
            return Err(format!("discarded, and there: `{}`", there.display()).into());
        }
    }
    Ok(())
}

fn outputs_there(
    row: &TrialRow,
    snapshot: &Snapshot,
    study: &StudyRow,
    spec: &Spec,
    paths: &StudyPaths,
    files: &Files,
) -> Result<(), LookError> {
    if row.outputs.is_empty() {
        return Ok(());
    }
    let stages = snapshot.stages()?;
    if row.kept_of(row.accepted()) > Kept::Outputs {
        return Ok(());
    }
    let stage = &stages[row.stage as usize];
    let case = trial_name(&study.base_case, stage, row.trial.0 - stage.first_trial.0);
    let dir = paths.attempt_dir(spec, row.stage, &case, row.accepted());
    for output in &row.outputs {
        let path = dir.join(&output.path);
        // Somebody else changed it: that was no crash.
        if files.meddled.contains_key(&path) {
            continue;
        }
        let found = files.read(&path);
        let hash = found.as_deref().map(|bytes| (bytes.len() as u64, *blake3::hash(bytes).as_bytes()));
        if hash != Some((output.bytes, output.blake3)) {
            let (path, is) = (&output.path, found.map(|bytes| bytes.len()));
            return Err(format!("7: lost: `{path}` of `{case}` had {} bytes, has {is:?}", output.bytes).into());
        }
    }
    Ok(())
}

/// Failed attempts of a trial that is finished: as many as it has retries, whatever was interrupted.
fn retries_taken(snapshot: &Snapshot, scenario: &Scenario) -> Result<(), LookError> {
    if scenario.retry {
        return Ok(());
    }
    for row in snapshot.trials(TrialId(0), TrialId(u64::MAX))? {
        let row = row?;
        let failed = row.attempts.iter().filter(|a| a.outcome == Some(AttemptOutcome::Failed)).count() as u32;
        let stage = &scenario.spec.stages[row.stage as usize];
        let retryable = row.failure.as_ref().is_some_and(|failure| failure.retryable);
        if row.state == TrialState::Failed && retryable && failed != stage.retries.count + 1 {
            return Err(format!("6: trial {} failed for good after {failed} failures", row.trial).into());
        }
    }
    Ok(())
}

/// What must be the same after any number of crashes.
fn result(snapshot: &Snapshot) -> Result<String, LookError> {
    let place = StudyLocation { store: String::new(), artifacts_dir: "/".into(), study_dir: "/".into() };
    let mut view =
        StudyView::load(snapshot, place, Liveness { alive: false }).map_err(|error| error.to_string())?;
    // When something was accepted is no result.
    view.study.accepted.iter_mut().for_each(|accepted| accepted.at_ms = 0);
    let mut out = Vec::new();
    dump::canonical(&view, snapshot, &mut out).map_err(|error| error.to_string())?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

/// Every export is what was written whole at some time.
fn exports_whole(files: &Files) -> Result<(), Broken> {
    let dir = Path::new(DIR).join("artifacts/s");
    for name in files.names(&dir).unwrap_or_default() {
        let text = name.to_string_lossy();
        if text.ends_with(".piton-tmp") || !(text.ends_with(".json") || text.ends_with(".jsonl")) {
            continue;
        }
        let bytes = files.read(&dir.join(&name)).unwrap_or_default();
        if !files.synced.contains(blake3::hash(&bytes).as_bytes()) {
            return Err(format!("13: `{text}` is torn: {} bytes", bytes.len()));
        }
    }
    Ok(())
}

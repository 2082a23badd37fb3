//! What a changed study file means for a study that has begun: which changes alter results, and what each costs.
//!
//! Pure: two specs and the rows give the amendment. A change is only ever allowed when it is known to leave every
//! kept result as it is; whatever is not known counts as altering results.

use std::collections::BTreeSet;

use crate::model::words::counted;
use crate::model::{
    AttemptOutcome, BaseRow, Extension, InputHash, Proposing, Segment, SpecAmended, StageCounters, StageIndex,
    StageRow, StageStatus, StudyRow, StudyStatus, ToolVersion, TrialState,
};
use crate::study_file::{
    Amend, CaseFile, Change, Contradiction, Sampling, Spec, StageSpec, Subject, changed_versions, differences,
    is_case_file, run_differences, same_path,
};

use super::held::{Held, Untaken};
use super::{declared, shares};
pub use reread::Rereading;

mod reread;

/// What a change does to the results there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Class {
    /// No trial is added, altered or lost.
    Harmless,
    /// What is finished stays; trials may be added, or what comes is handled in another way.
    Extends,
    /// Other trials, from this stage on: each whose equal has a result takes that, and no result is lost.
    Replans(StageIndex),
    /// What finished trials left is read again: they stay, as what the new rules make of them.
    Rereads,
    /// Inputs or tools are others, from this stage on, and a person takes them for what results were made with.
    Accepted(StageIndex),
    /// Finished trials would have to run again, from this stage on.
    Invalidates(StageIndex),
    /// It makes another study.
    Forbidden,
}

impl Class {
    /// In one word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Harmless => "harmless",
            Self::Extends => "extends",
            Self::Rereads => "rereads",
            Self::Replans(_) => "replans",
            Self::Accepted(_) => "accepted",
            Self::Invalidates(_) => "invalidates",
            Self::Forbidden => "forbidden",
        }
    }
}

/// One change, judged.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Judged {
    /// The setting, before and after.
    pub change: Change,
    /// What that does to results.
    pub class: Class,
    /// What it costs, in words.
    pub cost: String,
}

/// Results that go.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Discarded {
    /// The stage.
    pub stage: StageIndex,
    /// Its name so far.
    pub name: String,
    /// Trials that were finished.
    pub finished: u64,
    /// The stage reuses from now on: a trial of the same identity has its result again without running.
    pub reuses: bool,
}

/// What becomes of a base command that has succeeded, where the first stage is planned anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BaseCommand {
    /// Nothing that it saw changes: it does not run again.
    Stands,
    /// It runs again, because of this.
    RunsAgain(&'static str),
}

impl BaseCommand {
    /// Whether it runs again.
    #[must_use]
    pub const fn runs_again(self) -> bool {
        matches!(self, Self::RunsAgain(_))
    }

    /// Why it does, or does not, in words.
    #[must_use]
    pub const fn why(self) -> &'static str {
        match self {
            Self::Stands => "nothing that it saw changes",
            Self::RunsAgain(why) => why,
        }
    }
}

/// All changes, and the event that makes them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Amendment {
    /// The changes, judged as if `discard_from` were done.
    pub changes: Vec<Judged>,
    /// Name of the first stage whose results would have to be discarded, and are not.
    pub altered_from: Option<String>,
    /// Results that go.
    pub discarded: Vec<Discarded>,
    /// The first stage that is planned anew, though none of its results needs to go.
    pub replans_from: Option<StageIndex>,
    /// What becomes of a base command that has succeeded; `None`: what it was.
    pub base: Option<BaseCommand>,
    /// Stages that a person approved, and that wait for approval again.
    pub unapproved: Vec<String>,
    /// What happens, should it be accepted.
    pub event: SpecAmended,
    /// How many more rounds of replicas the stage has that is extended.
    pub rounds: u32,
}

impl Amendment {
    /// Whether there is anything to do.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.event.discard_from.is_none()
    }
}

/// A study as it stands in its store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StudyState<'a> {
    pub study: &'a StudyRow,
    pub spec: &'a Spec,
    /// Its stages, in order.
    pub stages: &'a [StageRow],
    pub counters: &'a [StageCounters],
    /// Of each why its results are none for the trials of the spec that is to be, if so.
    pub held: &'a [Held],
}

/// What a study is to depend on, as of now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Present {
    /// Hashes of the inputs that the new spec names.
    pub inputs: Vec<InputHash>,
    /// Versions of the tools that it names.
    pub versions: Vec<ToolVersion>,
    /// Inputs and tools that are not what they were when results were made, also those that are named no more.
    pub conflicts: Vec<Contradiction>,
    /// What was read again of stages whose rules change.
    pub rereads: Vec<Rereading>,
    /// The same, where a person takes what there is now for what there was.
    pub accepted: Vec<Contradiction>,
}

/// What it takes to make the study that stands into `new`.
#[must_use]
pub(crate) fn amendment(
    standing: StudyState<'_>,
    new: &Spec,
    present: Present,
    discard_from: Option<StageIndex>,
) -> Amendment {
    let Present { inputs, versions, conflicts, accepted, rereads } = present;
    let has_begun = |stage: &&StageRow| stage.status != StageStatus::Waiting;
    let begun = standing.stages.iter().take_while(has_begun).count();
    let kept = discard_from.map_or(begun, |from| begun.min(position(from)));
    let judge = Judge { standing, new, kept, begun, discards_all: discard_from == Some(0), rereads: &rereads };
    let mut changes = judge.all(&conflicts, &accepted);
    let is_refused = |judged: &Judged| matches!(judged.class, Class::Invalidates(_) | Class::Forbidden);
    let replans = |judged: &Judged| match judged.class {
        Class::Replans(from) => Some(from),
        _ => None,
    };
    let replans_from = changes.iter().filter_map(replans).min();
    let altered = |judged: &Judged| match judged.class {
        Class::Invalidates(from) => Some(from),
        _ => None,
    };
    let first = changes.iter().filter_map(altered).min();
    let altered_from = first.and_then(|from| standing.stages.get(position(from))).map(|stage| stage.name.clone());
    let discarded: Vec<Discarded> = standing
        .stages
        .iter()
        .zip(standing.counters)
        .take(begun)
        .skip(kept)
        .map(|(stage, counters)| Discarded {
            stage: stage.index,
            name: stage.name.clone(),
            finished: counters.finished(),
            reuses: new.stages.iter().any(|now| now.name == stage.name && !now.reuse.is_no()),
        })
        .collect();
    // What is planned anew has not begun for all other changes.
    let replans_from = replans_from.filter(|_| !changes.iter().any(is_refused));
    let judge = match replans_from {
        None => judge,
        Some(from) => Judge { kept: position(from), discards_all: from == 0, ..judge },
    };
    if replans_from.is_some() {
        let anew = judge.all(&conflicts, &accepted);
        for (first, anew) in changes.iter_mut().zip(anew) {
            match first.class {
                Class::Accepted(_) => {}
                Class::Replans(later) if Some(later) > replans_from => {
                    first.class = Class::Replans(index_of(judge.kept));
                    first.cost =
                        format!("goes with stage `{}`: from there on all is planned anew", judge.name(judge.kept));
                }
                Class::Replans(_) => {}
                _ => *first = anew,
            }
        }
    }
    if let Some(from) = first {
        // What is added to a stage that has to go is no addition.
        let without = Judge { kept: position(from), ..judge }.all(&conflicts, &accepted);
        let both = |first: &Judged, anew: &Judged| first.class == Class::Extends && anew.class == Class::Extends;
        for (first, anew) in changes.iter_mut().zip(without).filter(|(first, anew)| both(first, anew)) {
            *first = anew;
        }
    }
    let base = judge.base_again(discard_from, replans_from, &conflicts);
    let discard_from = discard_from.into_iter().chain(replans_from).min();
    let extended = judge.extended(&changes);
    let reopen = judge.reopens(extended.is_some(), discard_from.is_some());
    let event = SpecAmended {
        spec: new.to_json(),
        spec_hash: new.spec_hash(),
        seed: new.study.seed,
        inputs,
        versions,
        stages: declared(new),
        discard_from,
        extended,
        reopen,
    };
    let unapproved = judge.unapproved(&event);
    let rounds = event.extended.as_ref().map_or(0, |extended| judge.rounds(position(extended.stage)));
    Amendment { changes, altered_from, discarded, replans_from, base, unapproved, event, rounds }
}

fn position(index: StageIndex) -> usize {
    usize::try_from(index).unwrap_or(usize::MAX)
}

fn index_of(position: usize) -> StageIndex {
    StageIndex::try_from(position).unwrap_or(StageIndex::MAX)
}

fn harmless(change: Change, cost: &str) -> Judged {
    Judged { change, class: Class::Harmless, cost: cost.into() }
}

fn extends(change: Change, cost: impl Into<String>) -> Judged {
    Judged { change, class: Class::Extends, cost: cost.into() }
}

/// How a tool is called among what changes.
pub(crate) fn tool_path(tool: &str) -> String {
    format!("tool {tool:?}")
}

/// Tools whose versions differ from those of an earlier time, as changes.
pub(crate) fn changed_tools<'a>(
    made_with: &'a [ToolVersion],
    now: &'a [ToolVersion],
) -> impl Iterator<Item = Change> + 'a {
    let words = |tool: &ToolVersion| Some(format!("{:?}", tool.version));
    changed_versions(made_with, now).map(move |(old, new)| Change {
        path: tool_path(&old.tool),
        old: words(old),
        new: words(new),
    })
}

/// Whether it is a limit whose change may let an aborted study go on.
const fn is_limit(subject: Subject<'_>) -> bool {
    matches!(
        subject,
        Subject::Study(Amend::StudyRails | Amend::BaseCommand | Amend::Base) | Subject::Key(_, Amend::StageRails)
    )
}

struct Judge<'a> {
    standing: StudyState<'a>,
    new: &'a Spec,
    /// Stages that have begun and are kept.
    kept: usize,
    /// Stages that have begun, whatever becomes of them.
    begun: usize,
    discards_all: bool,
    rereads: &'a [Rereading],
}

impl Judge<'_> {
    /// All changes, in an order that is always the same.
    fn all(&self, conflicts: &[Contradiction], accepted: &[Contradiction]) -> Vec<Judged> {
        let mut changes: Vec<Judged> = differences(self.standing.spec, self.new)
            .into_iter()
            .map(|(change, subject)| self.judge(change, subject))
            .collect();
        let run = run_differences(self.standing.spec, self.new).into_iter();
        changes.extend(run.map(|change| harmless(change, "counts from the next run on")));
        let taken = accepted.iter().cloned();
        changes.extend(taken.map(|Contradiction { change, from }| self.accepted(change, position(from))));
        let conflicts = conflicts.iter().cloned();
        changes.extend(conflicts.map(|Contradiction { change, from }| self.input(change, position(from))));
        changes
    }

    fn judge(&self, change: Change, subject: Subject<'_>) -> Judged {
        match subject {
            Subject::Study(amend) => self.study(change, amend),
            Subject::Order => self.order(change),
            Subject::Stage(name) => self.stage(change, name),
            Subject::Key(stage, amend) => self.setting(change, stage, amend),
        }
    }

    /// A change that alters which trials there are, or their results, from this stage on.
    fn alters(&self, change: Change, from: usize) -> Judged {
        let lost = (from..self.kept).find_map(|place| Some((place, self.untaken(place)?)));
        match lost {
            None if from < self.kept => self.replans(change, from),
            None => self.invalidates(change, from, &Untaken::Runs, from),
            Some((place, why)) => self.invalidates(change, from, why, place),
        }
    }

    /// Why the results of a stage cannot be taken by the new spec's trials.
    fn untaken(&self, place: usize) -> Option<&Untaken> {
        self.standing.held.get(place).map_or(Some(&Untaken::Runs), |held| held.untaken.as_ref())
    }

    fn name(&self, place: usize) -> &str {
        self.standing.stages.get(place).map_or("", |stage| stage.name.as_str())
    }

    fn replans(&self, change: Change, from: usize) -> Judged {
        let name = self.name(from);
        let mut cost =
            format!("plans anew from stage `{name}` on: no result is lost, equal trials take what there is");
        for place in from..self.kept {
            let only = self.standing.held.get(place).and_then(|held| held.only);
            if let (Some(only), Some(row)) = (only, self.standing.stages.get(place)) {
                let (name, all) = (self.name(place), counted(row.planned(), "trial"));
                cost.push_str(&format!("; of stage `{name}` {only} of {all} were looked at for that"));
            }
        }
        Judged { change, class: Class::Replans(index_of(from)), cost }
    }

    /// A change from a stage on, of which the results of a stage `place` do not outlast it.
    fn invalidates(&self, change: Change, from: usize, why: &Untaken, place: usize) -> Judged {
        let stages = || self.standing.counters.iter().zip(0..).take(self.kept).skip(place);
        let runs_again = |at: usize| self.untaken(at).is_some();
        let lost: u64 = stages().filter(|(_, at)| runs_again(*at)).map(|(counters, _)| counters.finished()).sum();
        let name = self.name(place);
        let trials = counted(lost, "finished trial");
        let mut cost = format!("alters results: {trials} from stage `{name}` on would have to run again");
        match why {
            Untaken::Runs if place == from => {}
            why => cost.push_str(&format!(": {}", why.words())),
        }
        if stages().any(|(_, at)| !runs_again(at)) {
            cost.push_str("; stages after it take what is equal");
        }
        Judged { change, class: Class::Invalidates(index_of(place)), cost }
    }

    /// What results from this stage on depend on is not what it was.
    fn input(&self, change: Change, from: usize) -> Judged {
        match from {
            _ if self.nothing_ran() => harmless(change, self.why_nothing()),
            0 => self.alters(change, 0),
            from if from < self.kept => self.alters(change, from),
            _ => harmless(change, "no result that is kept depends on it"),
        }
    }

    /// The same, and a person takes it for what it was.
    fn accepted(&self, change: Change, from: usize) -> Judged {
        let judged = self.input(change, from);
        if judged.class == Class::Harmless {
            return judged;
        }
        let finished: u64 =
            self.standing.counters.iter().take(self.kept).skip(from).map(StageCounters::finished).sum();
        let trials = counted(finished, "finished trial");
        let cost =
            format!("taken for what it was: {trials} made with the old one stay, and the record says so for ever");
        Judged { class: Class::Accepted(index_of(from)), cost, ..judged }
    }

    /// Whether there is no result that a change of the whole study could alter.
    fn nothing_ran(&self) -> bool {
        let base = self.standing.study.base.as_ref().is_some_and(|base| base.state == TrialState::Succeeded);
        self.kept == 0 && (self.discards_all || !base)
    }

    /// Why there is none.
    const fn why_nothing(&self) -> &'static str {
        if self.discards_all { "all results that there are, are discarded" } else { "no trial has run yet" }
    }

    /// What the study depends on is named otherwise. Of what is kept nothing contradicts it; what comes may be another matter.
    fn depends(&self, change: Change, cost: &str) -> Judged {
        if self.nothing_ran() { harmless(change, self.why_nothing()) } else { extends(change, cost) }
    }

    fn inputs_named(&self, change: Change, old: &[String], new: &[String]) -> Judged {
        let has = |inputs: &[String], input: &str| inputs.iter().any(|other| same_path(other, input));
        let dropped = old.iter().any(|input| !has(new, input) && !is_case_file(self.standing.spec, input));
        let named = new.iter().any(|input| !has(old, input) && !is_case_file(self.new, input));
        match (dropped, named) {
            (false, false) => harmless(change, "the same inputs"),
            (false, true) => self.depends(change, "of what is named now nothing is known of the results so far"),
            (true, _) => {
                self.depends(change, "what is named no more may change unseen, and results to come with it")
            }
        }
    }

    fn study(&self, change: Change, amend: Amend) -> Judged {
        match amend {
            Amend::Identity => {
                let cost = "makes another study: begin a new one beside it".into();
                Judged { change, class: Class::Forbidden, cost }
            }
            Amend::People => harmless(change, "for people only"),
            Amend::Inputs => self.inputs_named(change, &self.standing.spec.study.inputs, &self.new.study.inputs),
            Amend::Ignored => {
                self.depends(change, "what is left out may change unseen, and results to come with it")
            }
            Amend::Tools => match change.new {
                None => self.depends(change, "it may change unseen, and results to come with it"),
                Some(_) => self.depends(change, "of its version nothing is known of the results so far"),
            },
            Amend::StudyRails => self.study_rails(change),
            Amend::BaseCommand | Amend::Base => self.base(change, amend),
            _ => self.input(change, 0),
        }
    }

    fn order(&self, change: Change) -> Judged {
        let names = |spec: &Spec| spec.stages.iter().map(|s| s.name.clone()).collect::<Vec<_>>();
        let (old, new) = (names(self.standing.spec), names(self.new));
        match (0..self.kept).find(|index| old.get(*index) != new.get(*index)) {
            Some(index) => self.alters(change, index),
            None => harmless(change, "what has begun keeps its place"),
        }
    }

    fn base(&self, change: Change, amend: Amend) -> Judged {
        let state = self.standing.study.base.as_ref().map(|base| base.state);
        match state {
            _ if self.new.base.is_none() => harmless(change, "it runs no more"),
            None if self.kept > 0 => harmless(change, "never runs: the first stage has begun"),
            Some(TrialState::Succeeded) if matches!(amend, Amend::BaseCommand) && !self.discards_all => {
                self.alters(change, 0)
            }
            Some(TrialState::Succeeded) if !self.discards_all => harmless(change, "it has succeeded already"),
            _ => extends(change, "it runs before the first stage"),
        }
    }

    /// What becomes of a base command that has succeeded. Who says by hand that the first stage goes wants everything anew.
    fn base_again(
        &self,
        discarded_from: Option<StageIndex>,
        replans_from: Option<StageIndex>,
        conflicts: &[Contradiction],
    ) -> Option<BaseCommand> {
        let (old, new) = (self.standing.spec, self.new);
        let base = new.base.as_ref()?;
        let has_succeeded = |row: &BaseRow| {
            let last = row.attempts.last().and_then(|attempt| attempt.outcome);
            row.state == TrialState::Succeeded && last == Some(AttemptOutcome::Succeeded)
        };
        self.standing.study.base.as_ref().filter(|row| has_succeeded(row))?;
        if discarded_from == Some(0) {
            return Some(BaseCommand::RunsAgain("the first stage is discarded"));
        }
        if replans_from != Some(0) {
            return None;
        }
        let inputs = |spec: &Spec| {
            let named = spec.study.inputs.iter().filter(|input| !is_case_file(spec, input)).cloned();
            (named.collect::<BTreeSet<_>>(), spec.study.inputs_ignore.iter().cloned().collect::<BTreeSet<_>>())
        };
        let name = |spec: &Spec| (spec.study.name.clone(), spec.study.base_case.clone());
        let differs = [
            (old.base.as_ref().is_none_or(|before| before.work != base.work), "its command changes"),
            (old.constants() != new.constants(), "`[params]` changes"),
            (old.env != new.env, "`[env]` changes"),
            ((old.study.seed, name(old)) != (new.study.seed, name(new)), "the study's seed or name changes"),
            (inputs(old) != inputs(new), "the study names other inputs"),
            (old.study.versions != new.study.versions, "the study names other tools"),
            (conflicts.iter().any(|conflict| conflict.from == 0), "what it depends on has changed"),
        ];
        let why = differs.into_iter().find(|(differs, _)| *differs).map(|(_, why)| why);
        Some(why.map_or(BaseCommand::Stands, BaseCommand::RunsAgain))
    }

    /// Stages whose approval goes with the results that it was given for, and that need one.
    fn unapproved(&self, event: &SpecAmended) -> Vec<String> {
        let needs = |name: &str| self.new.stages.iter().any(|stage| stage.name == name && stage.approve);
        let next = event.discard_from.map_or(self.kept, |from| self.kept.min(position(from)));
        let loses = |stage: &&StageRow| {
            let discarded = event.discard_from.is_some_and(|from| stage.index >= from);
            let others_before = event.extended.is_some() && event.index_of(&stage.name) == Some(index_of(next));
            discarded || (stage.status == StageStatus::Waiting && others_before)
        };
        let approved = self.standing.stages.iter().filter(|stage| stage.approval.is_some() && needs(&stage.name));
        approved.filter(loses).map(|stage| stage.name.clone()).collect()
    }

    /// A stage that is only in one of the specs.
    fn stage(&self, change: Change, name: &str) -> Judged {
        let place = |spec: &Spec| spec.stages.iter().position(|stage| stage.name == name);
        match (place(self.standing.spec), place(self.new)) {
            (Some(old), _) if old < self.kept => self.alters(change, old),
            (Some(_), _) => harmless(change, "it had not begun"),
            (None, Some(new)) if new < self.kept => self.alters(change, new),
            (None, Some(new)) => extends(change, self.cost_of_waiting(new)),
            (None, None) => self.alters(change, 0),
        }
    }

    /// How many trials a stage has that has yet to begin.
    fn cost_of_waiting(&self, place: usize) -> String {
        format!("adds {}", self.trials_of_waiting(place))
    }

    /// The same of one that had begun, and begins anew.
    fn cost_of_planning(&self, place: usize) -> String {
        format!("the stage is planned anew, with {}", self.trials_of_waiting(place))
    }

    fn trials_of_waiting(&self, place: usize) -> String {
        let Some(stage) = self.new.stages.get(place) else { return String::new() };
        let parents = match place.checked_sub(1) {
            None => Some(0),
            Some(before) if before < self.kept => {
                let row = self.standing.stages.get(before).filter(|row| row.status == StageStatus::Closed);
                let same = self.more(before).is_empty() && !self.chooses_anew(before);
                row.filter(|_| same).map(|row| row.survivors.len())
            }
            Some(_) => None,
        };
        let go_on = |before: &StageSpec| before.survivor_count.saturating_add(before.explore);
        let most = self.new.stages.get(place.saturating_sub(1)).map_or(0, go_on);
        let most = parents.unwrap_or(usize::try_from(most).unwrap_or(usize::MAX).min(MANY_PARENTS));
        let cases = shares(stage, most).iter().fold(0_u64, |sum, share| sum.saturating_add(*share));
        if let Some(each) = stage.replicas() {
            let upto = if parents.is_none() { "up to " } else { "" };
            return format!("{upto}{}, each up to {} times", counted(cases, "case"), each);
        }
        let trials = cases;
        let upto = if parents.is_none() { "up to " } else { "" };
        let base = &self.new.study.base_case;
        match trials {
            1 => format!("{upto}1 trial: `{base}_{place}_0`"),
            _ => format!(
                "{upto}{trials} trials: `{base}_{place}_0` to `{base}_{place}_{}`",
                trials.saturating_sub(1)
            ),
        }
    }

    fn setting(&self, change: Change, name: &str, amend: Amend) -> Judged {
        let stages = self.standing.spec.stages.iter().zip(self.standing.stages).enumerate();
        let found = stages.filter(|(_, (stage, _))| stage.name == name).find_map(|(place, (old, row))| {
            Some((place, old, row, self.new.stages.iter().find(|stage| stage.name == name)?))
        });
        let Some((place, old, row, new)) = found else { return self.alters(change, 0) };
        if place >= self.kept {
            let place = self.new.stages.iter().position(|stage| stage.name == name).unwrap_or(place);
            return match amend {
                Amend::Budget | Amend::Repeats if place < self.begun => {
                    extends(change, self.cost_of_planning(place))
                }
                Amend::Budget | Amend::Repeats => extends(change, self.cost_of_waiting(place)),
                _ => harmless(change, "the stage has not begun"),
            };
        }
        let last = place.saturating_add(1) == self.kept;
        // Survivors that later stages began with cannot change; those of the last stage can.
        let survivors = |change| match (last, row.status) {
            (false, _) => self.alters(change, place.saturating_add(1)),
            (true, StageStatus::Closed) => extends(change, "the survivors are chosen anew"),
            (true, _) => extends(change, "counts when the survivors are chosen"),
        };
        let found = self.reread(place);
        let read = matches!(amend, Amend::Metrics | Amend::Reports | Amend::FailureRules);
        let decides = matches!(amend, Amend::Repeats | Amend::Survivors | Amend::Objectives);
        // Who left a race did so by what there was, and further rounds ran without them.
        if (old.race.is_some() || new.race.is_some()) && (read || (decides && raced_by(old) != raced_by(new))) {
            return self.alters(change, place);
        }
        match amend {
            // What was recorded at rungs was read by the rules so far.
            Amend::Reports if !old.only_measures(new) => self.alters(change, place),
            // Where a stage ends is a matter of who survives.
            Amend::StageRails if old.rails.improve_within != new.rails.improve_within && !last => {
                survivors(change)
            }
            Amend::Metrics | Amend::Reports | Amend::FailureRules | Amend::StageRails
                if let Some(found) = found =>
            {
                self.rereads(change, place, found)
            }
            Amend::Budget | Amend::Trials => self.trials(change, place, old, new, row),
            Amend::Repeats => self.replicas(change, place, old, new, row),
            Amend::Survivors => survivors(change),
            Amend::Objectives if same_metrics(old, new) => survivors(change),
            Amend::Objectives if let Some(found) = found => self.rereads(change, place, found),
            Amend::Limit(limit) if !is_lower(limit(old), limit(new)) => extends(change, later(row)),
            Amend::StageRails => {
                let opens = last && (!self.more(place).is_empty() || self.chooses_anew(place));
                match row.status {
                    StageStatus::Closed if !opens => {
                        extends(change, "the stage is closed: asked of all its results once it gets more trials")
                    }
                    _ => extends(change, "asked of all results of the stage"),
                }
            }
            Amend::Failures | Amend::FailureRules => extends(change, later(row)),
            Amend::Inputs => self.inputs_named(change, &old.inputs, &new.inputs),
            Amend::Approval => harmless(change, "the stage has begun already"),
            Amend::Keep if row.status == StageStatus::Closed => {
                harmless(change, "what lies there already is discarded by `piton gc` alone")
            }
            Amend::Keep => harmless(change, "applied when the stage has closed"),
            _ => self.alters(change, place),
        }
    }

    /// More trials, or other ones?
    fn trials(&self, change: Change, place: usize, old: &StageSpec, new: &StageSpec, row: &StageRow) -> Judged {
        if !begins_with(&new.sampling, &old.sampling) {
            return self.alters(change, place);
        }
        let now = shares(new, row.parents.len());
        let fewer = now.iter().enumerate().any(|(position, share)| *share < row.share_at(position));
        let more = self.more(place).iter().fold(0_u64, |sum, segment| sum.saturating_add(segment.count));
        let base = &self.new.study.base_case;
        match more {
            _ if fewer => self.alters(change, place),
            0 if row.is_replicated() => harmless(change, "the stage has the same cases"),
            // Its cases have run rounds that those would have been in.
            _ if new.race.is_some() => self.alters(change, place),
            0 => harmless(change, "the stage has the same trials"),
            // As if it had begun so: the numbers are those of a study that did.
            _ if self.renumbers(place, row, new, &now) => self.alters(change, place),
            _ if place.saturating_add(1) < self.kept => self.alters(change, place.saturating_add(1)),
            more if row.proposing != Proposing::No => {
                let trials = counted(more, "trial");
                extends(change, format!("adds up to {trials}, as its proposer says"))
            }
            more if row.is_replicated() => {
                let first = row.cases();
                let last = first.saturating_add(more).saturating_sub(1);
                let cases = counted(more, "case");
                extends(change, format!("adds {cases}: `{base}_{place}_{first}` to `{base}_{place}_{last}`"))
            }
            1 => extends(change, format!("adds 1 trial: `{base}_{place}_{}`", row.planned())),
            more => {
                let last = row.planned().saturating_add(more).saturating_sub(1);
                let first = row.planned();
                extends(change, format!("adds {more} trials: `{base}_{place}_{first}` to `{base}_{place}_{last}`"))
            }
        }
    }

    /// More replicas of each case, or other cases?
    fn replicas(&self, change: Change, place: usize, old: &StageSpec, new: &StageSpec, row: &StageRow) -> Judged {
        let more = self.rounds(place);
        let now = shares(new, row.parents.len());
        let fewer = now.iter().enumerate().any(|(position, share)| *share < row.share_at(position));
        let one_by_one = row.is_replicated() != new.replicas().is_some();
        match (old.replicas(), new.replicas()) {
            _ if one_by_one || fewer => self.alters(change, place),
            (Some(old), Some(now)) if new.race.is_some() && now >= old && more == 0 => match row.status {
                StageStatus::Closed => harmless(change, "the race is over"),
                _ => extends(change, format!("the race has up to {} more", counted(now - old, "round"))),
            },
            _ if more == 0 => self.alters(change, place),
            (Some(_), Some(_)) if place.saturating_add(1) < self.kept => {
                self.alters(change, place.saturating_add(1))
            }
            (Some(old), Some(now)) if new.race.is_some() => {
                let rounds = counted(now.saturating_sub(old), "round");
                extends(
                    change,
                    format!("the race goes on, for up to {rounds} of {}", counted(row.racing(), "case")),
                )
            }
            (Some(_), Some(_)) => extends(change, format!("each case gets {}", counted(more, "further replica"))),
            _ => self.alters(change, place),
        }
    }

    /// How many rounds of replicas the new spec has at once beyond those that a stage has. A race plans its own, unless its end was one.
    fn rounds(&self, place: usize) -> u32 {
        let row = self.standing.stages.get(place).filter(|row| row.is_replicated());
        let Some((row, stage)) = row.zip(self.new.stages.get(place)) else { return 0 };
        let more = stage.replicas().map_or(0, |replicas| replicas.saturating_sub(row.rounds()));
        match stage.race {
            Some(_) => {
                u32::from(more > 0 && row.status == StageStatus::Closed && row.racing() > stage.survivor_count)
            }
            None => more,
        }
    }

    /// Whether more trials of a stage would have other numbers than in a study that began with them, though each has its values whatever its
    /// number, and its result could be taken.
    fn renumbers(&self, place: usize, row: &StageRow, new: &StageSpec, now: &[u64]) -> bool {
        let by_number = matches!(new.sampling, Sampling::Random) && super::combinations(new).is_none();
        let before = |shares: &[u64]| shares.split_last().map_or_else(Vec::new, |(_, before)| before.to_vec());
        let appended = row.more.is_empty() && before(now) == before(&row.shares);
        !by_number && !appended && row.proposing == Proposing::No && self.untaken(place).is_none()
    }

    /// What the new spec gives each parent of a stage beyond what it has.
    fn more(&self, place: usize) -> Vec<Segment> {
        let (Some(row), Some(stage)) = (self.standing.stages.get(place), self.new.stages.get(place)) else {
            return Vec::new();
        };
        let now = shares(stage, row.parents.len());
        let segment = |(parent, share): (u32, u64)| {
            let offset = row.share_at(position(parent));
            (share > offset).then(|| Segment { parent, offset, count: share.saturating_sub(offset) })
        };
        (0..).zip(now).filter_map(segment).collect()
    }

    fn chooses_anew(&self, place: usize) -> bool {
        let closed = self.standing.stages.get(place).is_some_and(|row| row.status == StageStatus::Closed);
        let (old, new) = (self.standing.spec.stages.get(place), self.new.stages.get(place));
        // All are all, however many the budget makes of them.
        let most = |stage: &StageSpec| (!stage.all_survive).then_some(stage.survivor_count);
        let rule = |stage: &StageSpec| (stage.selection, stage.objectives.clone(), stage.require.clone());
        let choice = |stage: &StageSpec| {
            (most(stage), rule(stage), stage.aggregate, stage.explore, stage.rails.improve_within)
        };
        (closed && old.map(choice) != new.map(choice)) || self.opens_by_reading(place)
    }

    /// What the last kept stage gets.
    fn extended(&self, changes: &[Judged]) -> Option<Extension> {
        if changes.iter().any(|judged| matches!(judged.class, Class::Invalidates(_) | Class::Forbidden)) {
            return None;
        }
        let last = self.kept.checked_sub(1)?;
        let more = self.more(last);
        (!more.is_empty() || self.rounds(last) > 0 || self.chooses_anew(last))
            .then(|| Extension { stage: index_of(last), more })
    }

    /// Whether a study that is over goes on. One that its base command aborted has no trial to discard, and goes on all the
    /// same when it has to begin anew.
    fn reopens(&self, extended: bool, discards: bool) -> bool {
        let differences = differences(self.standing.spec, self.new);
        let limits = differences.iter().any(|(_, subject)| is_limit(*subject));
        match self.standing.study.status {
            StudyStatus::Completed => extended || self.new.stages.len() > self.kept,
            StudyStatus::Aborted => extended || discards || limits || self.reads_otherwise(),
            StudyStatus::Created | StudyStatus::Running | StudyStatus::Interrupted => false,
        }
    }
}

/// No more parents than this are counted with while they are only guessed.
const MANY_PARENTS: usize = 1_000_000;

fn later(row: &StageRow) -> &'static str {
    match row.status {
        StageStatus::Closed => "counts for trials that are still to come",
        _ => "counts from the next attempt on; failed trials stay failed until `piton retry`",
    }
}

/// What decides who leaves a stage's race, but for how long that may go on.
fn raced_by(stage: &StageSpec) -> impl PartialEq {
    let race = stage.race.as_ref().map(|race| (race.min, race.confidence, race.objective.clone()));
    (race, stage.survivor_count, stage.require.clone())
}

/// Whether a limit gets tighter; none is no limit.
fn is_lower(old: Option<u64>, new: Option<u64>) -> bool {
    new.is_some_and(|new| old.is_none_or(|old| new < old))
}

/// Whether every finished trial has what the new objectives ask for, and the best so far stays the best.
fn same_metrics(old: &StageSpec, new: &StageSpec) -> bool {
    let first = |stage: &StageSpec| stage.objectives.first().map(|first| (first.metric.clone(), first.goal));
    first(old) == first(new) && new.selected_by().all(|metric| old.selected_by().any(|known| known == metric))
}

/// Whether the cases so far keep their numbers.
fn begins_with(new: &Sampling, old: &Sampling) -> bool {
    match (new, old) {
        (Sampling::File(CaseFile { cases: Some(new), .. }), Sampling::File(CaseFile { cases: Some(old), .. })) => {
            new.names == old.names && new.rows.starts_with(&old.rows)
        }
        (Sampling::File(_), _) | (_, Sampling::File(_)) => false,
        (new, old) => new == old,
    }
}

#[cfg(test)]
mod grown;
#[cfg(test)]
mod tests;

//! What `piton run` shows while it runs: a bar a stage on a terminal ([`bars`]), plain lines elsewhere ([`lines`]).
//!
//! The engine hands over small messages and never waits for the terminal: a thread of this module draws, and what
//! the terminal cannot take in time is left out (counts catch up with the next message).

mod bars;
mod lines;
mod message;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};
use piton::KilledStray;
use piton::model::{
    AttemptEnd, Doubt, Event, LeftCase, Next, Origin, Record, Reused, RungVerdict, Seq, StageIndex, TrialId,
    Verdict,
};
use piton::program::engine::{Draft, Observer};
use piton::program::paths::{STDERR_LOG, StudyPaths};
use piton::program::plan::{BestTrial, Lineage};
use piton::program::study_file::{Spec, Work};
use piton::spec::StageSpec;
use piton::views::progress::Glance;
use piton::views::{clean, counted, doubt_words, duration, ended_words, freed, number, reported};

use self::bars::Bars;
use self::lines::Lines;
use self::message::{BestSoFar, Failed, Message, reused_words};
use super::github;

/// Messages that may wait for the terminal.
const BACKLOG: usize = 4096;

/// Stages with more trials than this get no line a trial when piped, but one each whole percent.
const LINE_EACH_TRIALS: u64 = 200;

/// The observer; see the module.
pub struct Progress {
    sender: Option<Sender<Message>>,
    thread: Option<JoinHandle<()>>,
    spec: Option<Arc<Spec>>,
    paths: Option<StudyPaths>,
    store: PathBuf,
    again: String,
    /// Whether a terminal is drawn on; otherwise trials get a line each.
    bars: bool,
    github: bool,
    /// How long a drain may take.
    drain_limit: Option<Duration>,
    /// Trials finished in each stage as of the event at hand; the draft is that of the whole batch.
    finished: HashMap<StageIndex, u64>,
}

impl Progress {
    /// Starts drawing; `again` is the command that goes on after an early end. With `ci`, lines even on a terminal, and
    /// what the CI system understands.
    pub fn start(store: &Path, again: &str, drain_limit: Option<Duration>, ci: bool) -> Self {
        Self {
            sender: None,
            thread: None,
            spec: None,
            paths: None,
            store: store.to_owned(),
            again: again.to_owned(),
            bars: !ci && super::terminal::height(&std::io::stderr()).is_some(),
            github: ci && github::is_there(),
            drain_limit,
            finished: HashMap::new(),
        }
    }

    /// The drawing thread starts with the first message: no thread may exist before the engine's keeper does.
    fn send(&mut self, message: Message) {
        if self.sender.is_none() {
            let (sender, receiver) = bounded(BACKLOG);
            let (bars, github) = (self.bars, self.github);
            let builder = std::thread::Builder::new().name("progress".into());
            let draw =
                move || if bars { Bars::default().run(&receiver) } else { Lines::new(github).run(&receiver) };
            self.thread = builder.spawn(draw).ok();
            self.sender = Some(sender);
        }
        let Some(sender) = self.sender.as_ref().filter(|_| self.thread.is_some()) else { return };
        drop(sender.try_send(message));
    }

    /// Draws what is left and leaves the terminal as it was.
    pub fn finish(&mut self) {
        self.sender = None;
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }

    fn spec(&mut self, draft: &Draft) -> Option<Arc<Spec>> {
        if self.spec.is_none() {
            self.spec = Spec::from_json(&draft.study_row().spec).ok().map(Arc::new);
        }
        self.spec.clone()
    }

    fn stage_begins(&mut self, draft: &Draft) {
        if let Some(message) = Self::stage_message(draft) {
            if let Message::Stage { index, counters, .. } = &message {
                self.finished.entry(*index).or_insert_with(|| counters.finished());
            }
            self.send(message);
        }
    }

    fn stage_message(draft: &Draft) -> Option<Message> {
        let (stage, counters) = draft.open_stage()?;
        Some(Message::Stage {
            index: stage.index,
            name: stage.name.clone(),
            planned: stage.expected(),
            counters: *counters,
        })
    }

    fn ended(&mut self, end: &AttemptEnd, draft: &Draft) {
        let Some(spec) = self.spec(draft) else { return };
        let lineage = Lineage::new(&spec, draft.stages());
        let Some((stage, index)) = lineage.locate(end.trial) else { return };
        let counters = draft.stage_counters(stage);
        let planned = draft.stages().get(stage as usize).map_or(0, |row| row.expected());
        let finished = self.finished.entry(stage).or_insert_with(|| counters.finished());
        *finished += u64::from(end.next == Next::Final);
        let finished = *finished;
        let case = lineage.case(stage, index);
        let failed = match &end.verdict {
            Verdict::Failed(failure) => Some(Failed {
                kind: failure.kind.to_string(),
                reason: clean(&failure.reason),
                log: self.log_of(draft, &spec, stage, &case, end.attempt),
                again: matches!(end.next, Next::Again { .. }),
                case: case.clone(),
            }),
            _ => None,
        };
        let each = !self.bars && planned <= LINE_EACH_TRIALS;
        let line = (failed.is_some() || each).then(|| {
            let log = failed.as_ref().map_or("", |failed| &failed.log);
            let log = if log.is_empty() { String::new() } else { format!("; {log}") };
            format!("{}{log}", ended_line(end, &case, finished, planned, &spec, stage))
        });
        let best = best_so_far(draft, &spec, stage);
        self.send(Message::Ended { stage, trial: end.trial, counters, line, failed, best });
    }

    /// A trial took the result of an equal one. Of many one says less than their number, which the lines of their stage have.
    fn reused(&mut self, reused: &Reused, draft: &Draft) {
        let Some(spec) = self.spec(draft) else { return };
        let lineage = Lineage::new(&spec, draft.stages());
        let Some((stage, index)) = lineage.locate(reused.trial) else { return };
        let counters = draft.stage_counters(stage);
        let planned = draft.stages().get(stage as usize).map_or(0, |row| row.expected());
        let finished = self.finished.entry(stage).or_insert_with(|| counters.finished());
        *finished += 1;
        let each = !self.bars && planned <= LINE_EACH_TRIALS;
        let line = each.then(|| {
            let Origin { study, case, attempt, .. } = &reused.origin;
            let of = if *study == draft.study_row().name {
                String::new()
            } else {
                format!(" of study `{}`", clean(study))
            };
            let case = clean(case);
            format!(
                "[{finished}/{planned}] {} reused: the result of `{case}`{of}, attempt {attempt}",
                lineage.case(stage, index)
            )
        });
        let best = best_so_far(draft, &spec, stage);
        self.send(Message::Ended { stage, trial: reused.trial, counters, line, failed: None, best });
    }

    /// A trial ends early.
    fn pruned(&mut self, trial: TrialId, draft: &Draft, words: impl Fn(&StageSpec) -> String) {
        let Some(spec) = self.spec(draft) else { return };
        let lineage = Lineage::new(&spec, draft.stages());
        let Some((stage, index)) = lineage.locate(trial) else { return };
        let planned = draft.stages().get(stage as usize).map_or(0, |row| row.expected());
        if let Some(of) = spec.stages.get(stage as usize).filter(|_| !self.bars && planned <= LINE_EACH_TRIALS) {
            let line = format!("{} is pruned {}", lineage.case(stage, index), words(of));
            self.send(Message::Line(line));
        }
    }

    /// Equal trials are not equal: whoever reuses results must hear of it.
    fn doubted(&mut self, doubt: &Doubt, draft: &Draft) {
        let stage = draft.stages().get(doubt.stage as usize).map_or("", |stage| stage.name.as_str());
        let words = format!("WARNING: {}; the stage takes no results any more", doubt_words(doubt, stage));
        self.send(Message::Line(clean(&words)));
    }

    /// Where an attempt's error output is, from here if it is below.
    fn log_of(&mut self, draft: &Draft, spec: &Spec, stage: StageIndex, case: &str, attempt: u32) -> String {
        // A closure has no log.
        if spec.stages.get(stage as usize).is_none_or(|stage| stage.work == Work::Closure) {
            return String::new();
        }
        let Some(paths) = self.paths(draft) else { return String::new() };
        let log = paths.attempt_dir(spec, stage, case, attempt).join(STDERR_LOG);
        clean(&from_here(&log).display().to_string())
    }

    fn paths(&mut self, draft: &Draft) -> Option<&StudyPaths> {
        if self.paths.is_none() {
            self.paths = StudyPaths::of(&self.store, draft.study_row()).ok();
        }
        self.paths.as_ref()
    }

    fn left_race(&mut self, stage: StageIndex, left: &[LeftCase], draft: &Draft) {
        let (Some(spec), Some(last)) = (self.spec(draft), left.first()) else { return };
        let Some(row) = draft.stages().get(stage as usize) else { return };
        let lineage = Lineage::new(&spec, draft.stages());
        let names: Vec<String> = left.iter().map(|left| lineage.case_name(stage, left.case)).collect();
        let (name, round, race) = (clean(&row.name), last.round.saturating_add(1), row.racing());
        let line = format!("stage `{name}` after round {round}: {} left the race, {race} in it", names.join(", "));
        self.send(Message::Line(line));
    }

    fn closed(&mut self, stage: StageIndex, draft: &Draft) {
        let Some(spec) = self.spec(draft) else { return };
        let Some(summary) = draft.summary(&spec, stage) else { return };
        let names: Vec<String> = summary.survivors().take(3).collect();
        let more = summary.survived().saturating_sub(names.len() as u64);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let who =
            if names.is_empty() { "no survivors".into() } else { format!("survivors: {}", names.join(", ")) };
        let explorers: Vec<String> = summary.explorers().take(3).collect();
        let others = summary.row.explorers().len().saturating_sub(explorers.len());
        let others = if others > 0 { format!(" and {others} more") } else { String::new() };
        let explore = match explorers.is_empty() {
            true => String::new(),
            false => format!("; explore: {}{others}", explorers.join(", ")),
        };
        let ended = ended_words(&spec, summary.row).map_or_else(String::new, |words| format!("; {words}"));
        let (name, trials) = (&summary.row.name, summary.trials);
        let most = summary.row.survivor_count;
        let requires = spec.stages.get(stage as usize).is_some_and(|spec| !spec.require.is_empty());
        let fewer = match requires && summary.survived() < most.min(trials.succeeded) {
            true => format!(" (at most {most} could: the others do not meet what `require` asks)"),
            false => String::new(),
        };
        let line = format!(
            "stage {stage} `{name}` closed: {} succeeded{}, {} failed{}; {who}{more}{fewer}{explore}{ended}",
            trials.succeeded,
            reused_words(&summary.counters),
            trials.failed,
            if trials.pruned > 0 { format!(", {} pruned", trials.pruned) } else { String::new() }
        );
        self.send(Message::Closed { stage, counters: summary.counters, line });
    }
}

impl Observer for Progress {
    fn committed(&mut self, _: Seq, record: &Record, draft: &Draft) {
        match &record.event {
            Event::RunStarted { workers, .. } => {
                let study = draft.study_row();
                let again = if study.runs > 1 { format!(", run {}", study.runs) } else { String::new() };
                let remote = self.spec(draft).is_some_and(|spec| spec.run.executor.kind().is_remote());
                self.send(Message::Workers { workers: *workers, remote });
                self.send(Message::Line(format!("study `{}`: {workers} at a time{again}", study.name)));
                self.stage_begins(draft);
            }
            Event::StageOpened { .. } => self.stage_begins(draft),
            Event::TrialProposed { merged: 0, .. } => {}
            Event::TrialProposed { trial, merged, .. } => {
                let times = if *merged == 1 { "once".to_owned() } else { format!("{merged} times") };
                let case = self.spec(draft).and_then(|spec| Lineage::new(&spec, draft.stages()).case_of(*trial));
                let case = case.unwrap_or_default();
                self.send(Message::Line(format!(
                    "before `{case}` the proposer repeated earlier cases {times}: they are not run again"
                )));
            }
            Event::ProposalsEnded { reason, .. } => {
                self.send(Message::Line(format!("no further trials: {reason}")));
                self.stage_begins(draft);
            }
            Event::AttemptStarted { trial, attempt, .. } => {
                if let Some((stage, counters)) = draft.open_stage()
                    && self.bars
                    && let Some(spec) = self.spec(draft)
                {
                    let case = Lineage::new(&spec, draft.stages()).case_of(*trial).unwrap_or_default();
                    let paths = self.paths(draft);
                    let glance = paths.map(|paths| Glance::at(paths, spec, stage.index, &case, *attempt));
                    let started =
                        Message::Started { stage: stage.index, trial: *trial, case, counters: *counters, glance };
                    self.send(started);
                }
            }
            Event::AttemptEnded(end) => self.ended(end, draft),
            Event::TrialReused(reused) => self.reused(reused, draft),
            Event::ReuseDiffered(doubt) => self.doubted(doubt, draft),
            Event::RungDecided { trial, rung, verdict } if !verdict.keep => {
                let RungVerdict { better, of, .. } = verdict;
                let words = |stage: &StageSpec| {
                    let step = stage.halving.as_ref().and_then(|halving| halving.rungs.get(*rung as usize));
                    format!("at step {}: {better} of {of} were better", step.copied().unwrap_or_default())
                };
                self.pruned(*trial, draft, words);
            }
            Event::RungDecided { .. } => {}
            Event::StopIfMet { trial, met, .. } => {
                let value = reported(met.value);
                let words = |_: &StageSpec| format!("at step {}: {} {value}", met.step, clean(&met.metric));
                self.pruned(*trial, draft, words);
            }
            Event::StageClosed { stage, .. } => self.closed(*stage, draft),
            Event::RaceRound { stage, left, .. } => self.left_race(*stage, left, draft),
            Event::StudyAborted { reason, .. } | Event::StudyAbortedBy { reason, .. } => {
                self.send(Message::Aborted(clean(reason)))
            }
            Event::DrainStarted { by } if by.starts_with("disk_limit") => {
                self.send(Message::Line(format!("no further trial starts: {}", clean(by))));
                let line =
                    "what runs may finish; make room with `piton gc`, or raise `[run] disk_limit`, then go on";
                self.send(Message::Line(line.to_owned()));
            }
            Event::DrainStarted { by } if !by.starts_with("SIG") => {
                self.send(Message::Line(format!("asked to stop ({by}): no further trial starts")));
            }
            Event::BaseStarted { .. } => self.send(Message::Line("the base command runs".into())),
            Event::BaseEnded(end) => {
                let took = duration(end.usage.wall_us);
                let line = match &end.verdict {
                    Verdict::Succeeded { .. } => format!("the base command succeeded in {took}"),
                    Verdict::Failed(failure) => {
                        format!("the base command failed after {took}: {}", clean(&failure.reason))
                    }
                    Verdict::Interrupted { reason } => {
                        format!("the base command was interrupted: {}", clean(reason))
                    }
                    Verdict::Cancelled => "the base command was cancelled".into(),
                };
                self.send(Message::Line(line));
            }
            Event::ClusterChanged { trouble: Some(why) } => {
                let line = format!("the cluster: {}", clean(why));
                self.send(Message::Line(line));
            }
            Event::ClusterChanged { trouble: None } => {
                self.send(Message::Line("the cluster answers, and takes jobs".into()));
            }
            Event::StagesDiscarded { from } => {
                let stage = draft.stages().get(*from as usize).map_or("", |stage| stage.name.as_str());
                let line = format!("stage `{stage}` is planned anew: other cases survived before it");
                self.finished.retain(|index, _| index < from);
                for index in *from..draft.study_row().stage_count {
                    self.send(Message::Forget(index));
                }
                self.send(Message::Line(line));
            }
            Event::StageReplanned(replanned) => {
                let stage = draft.stages().get(replanned.stage as usize).map_or("", |stage| stage.name.as_str());
                let (index, trials) = (replanned.stage, counted(replanned.anew_count(), "trial"));
                self.finished.insert(index, draft.stage_counters(index).finished());
                self.send(Message::Forget(index));
                if replanned.is_orphaned() {
                    self.send(Message::Line(format!("stage `{stage}` loses {trials}, whose parents are gone")));
                } else {
                    self.send(Message::Line(format!("stage `{stage}` goes on from other cases: {trials} anew")));
                    self.stage_begins(draft);
                }
            }
            Event::DirectoriesDiscarded(discarded) if !discarded.runs.is_empty() => {
                let (stage, trials) =
                    (draft.stages().get(discarded.stage as usize), counted(discarded.trials(), "trial"));
                let stage = stage.map_or("", |stage| stage.name.as_str());
                self.send(Message::Line(format!("stage `{stage}`: discarding what is not kept of {trials}")));
            }
            Event::DiscardFinished { stage, bytes, inodes } => {
                let stage = draft.stages().get(*stage as usize).map_or("", |stage| stage.name.as_str());
                self.send(Message::Line(format!("stage `{stage}`: freed {}", freed(*bytes, *inodes))));
            }
            Event::DirectoriesDiscarded(_)
            | Event::AttemptPlaced { .. }
            | Event::StageApproved { .. }
            | Event::SpecAmended(_)
            | Event::StudyCreated(_)
            | Event::DrainStarted { .. }
            | Event::TrialReset { .. }
            | Event::TrialImported(_)
            | Event::ResultsTold(_)
            | Event::StageReopened { .. }
            | Event::InputsListed { .. }
            | Event::ResultIdentified { .. }
            | Event::ReuseMissed { .. }
            | Event::StageReread { .. }
            | Event::ResultReread(_)
            | Event::InputsAccepted { .. }
            | Event::BaseKept
            | Event::RungReached { .. }
            | Event::RoundsPlanned { .. }
            | Event::StageEndedEarly { .. }
            | Event::ResourcesGiven { .. }
            | Event::StudyCompleted
            | Event::Rebuilt { .. }
            | Event::RunEnded { .. } => {}
        }
    }

    fn killed_strays(&mut self, strays: &[KilledStray]) {
        let count = strays.len();
        let what = if count == 1 { "1 process".into() } else { format!("{count} processes") };
        self.send(Message::Line(format!("killed {what} that an engine that died had left behind")));
    }

    fn draining(&mut self, running: usize) {
        let within = self.drain_limit.map_or_else(String::new, |limit| {
            format!(" within {}", duration(u64::try_from(limit.as_micros()).unwrap_or(u64::MAX)))
        });
        let what = match running {
            0 => "no trial runs".to_owned(),
            1 => format!("1 trial still runs and may finish{within}"),
            n => format!("{n} trials still run and may finish{within}"),
        };
        self.send(Message::Line(format!("stopping: {what}; a second signal terminates them")));
        self.send(Message::Line(format!("go on later with `{}`", self.again)));
    }

    fn forcing(&mut self, running: usize) {
        let what = counted(running as u64, "trial");
        let line = format!("terminating {what}: they will run again. A third signal kills at once");
        self.send(Message::Line(line));
    }
}

fn best_so_far(draft: &Draft, spec: &Spec, stage: StageIndex) -> Option<BestSoFar> {
    let BestTrial { metric, value, case, .. } = draft.summary(spec, stage)?.best()?;
    Some(BestSoFar { words: format!("best {metric} {} ({case})", number(value)), value })
}

fn from_here(path: &Path) -> &Path {
    std::env::current_dir().map_or(path, |here| from(&here, path))
}

/// A path as it is from a directory, if it is below: from the root every path is, and keeps its slash.
fn from<'p>(dir: &Path, path: &'p Path) -> &'p Path {
    let dir = Some(dir).filter(|dir| dir.parent().is_some());
    dir.and_then(|dir| path.strip_prefix(dir).ok()).unwrap_or(path)
}

fn ended_line(
    end: &AttemptEnd,
    case: &str,
    finished: u64,
    planned: u64,
    spec: &Spec,
    stage: StageIndex,
) -> String {
    let took = duration(end.usage.wall_us);
    let words = match &end.verdict {
        Verdict::Succeeded { metrics, .. } => {
            let objectives = spec.stages.get(stage as usize).map_or(&[][..], |stage| &stage.objectives);
            let values: Vec<String> = objectives
                .iter()
                .filter_map(|objective| Some((objective, metrics.get(&objective.metric)?.number()?)))
                .map(|(objective, value)| format!("{} {}", objective.metric, number(value)))
                .collect();
            let values = if values.is_empty() { String::new() } else { format!(": {}", values.join(", ")) };
            format!("succeeded in {took}{values}")
        }
        Verdict::Failed(failure) => {
            let then = match end.next {
                Next::Again { .. } => "; it will be tried again",
                Next::Final => "",
            };
            format!("failed after {took}: {} ({}){then}", clean(&failure.reason), failure.kind)
        }
        Verdict::Interrupted { reason } => format!("was interrupted: {reason}; it will run again"),
        Verdict::Cancelled => format!("was ended after {took}: it is pruned"),
    };
    format!("[{finished}/{planned}] {case} {words}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_shown_from_here_and_keep_their_slash_at_the_root() {
        let path = Path::new("/srv/study/artifacts/log");
        assert_eq!(from(Path::new("/srv/study"), path), Path::new("artifacts/log"));
        assert_eq!(from(Path::new("/srv/other"), path), path);
        assert_eq!(from(Path::new("/"), path), path);
    }
}

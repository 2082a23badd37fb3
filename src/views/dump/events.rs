//! `--events`: the journal itself, event by event, in the order of their sequence numbers.
//!
//! JSON: `seq`, `at` (RFC 3339), `type`, the event's own fields, and `run_s` (running time of that engine run). The
//! same lines are exported as `telemetry.jsonl`.

use std::collections::BTreeMap;
use std::io::Write;

use serde::Serialize;

use super::schema::{
    AcceptedOut, DoubtOut, FailureOut, MetricsOut, OriginOut, OutputsOut, ParamsOut, ProposedOut, SourceOut,
    accepted_words, changes_out, versions_out,
};
use super::{List, Screen, line};
use crate::journal::Snapshot;
use crate::model::words::{counted, freed};
use crate::model::{
    Abort, AttemptEnd, AttemptOutcome, Event, ExecutorKind, InputHash, InputList, Kept, LaterStages, LeftCase,
    Next, Parent, Rail, Record, Reread, RunEnd, RungVerdict, Seq, SpecAmended, StageDecl, StageRow, StudyCreated,
    TrialId, Verdict, cut, waiting,
};
use crate::plan;
use crate::views::text::{clean, duration, pad, pad_left, reported};
use crate::views::words::{self, difference_words, local_time_to_ms, origin_words, seconds, timestamp};
use crate::views::{StudyView, ViewError};

#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Serialize)]
pub(in crate::views) struct EventOut<'a> {
    #[cfg_attr(test, schemars(range(min = 1)))]
    seq: Seq,
    at: String,
    #[serde(flatten)]
    body: Body<'a>,
    run_s: f64,
}

#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Body<'a> {
    StudyCreated(Box<CreatedOut<'a>>),
    RunStarted {
        pid: u32,
        host: &'a str,
        boot_id: &'a str,
        workers: u32,
        sync_interval_s: f64,
    },
    DrainStarted {
        by: &'a str,
    },
    StageOpened {
        stage: u32,
        stage_name: &'a str,
        parents: Vec<ParentOut>,
        shares: &'a [u64],
    },
    TrialProposed {
        trial: u64,
        case: String,
        params: ProposedOut<'a>,
        merged: u32,
    },
    ProposalsEnded {
        stage: u32,
        stage_name: &'a str,
        reason: &'a str,
    },
    AttemptStarted {
        trial: u64,
        case: String,
        attempt: u32,
        slot: u32,
        pid: Option<u32>,
        #[serde(skip_serializing_if = "Option::is_none")]
        #[cfg_attr(test, schemars(with = "crate::views::schemas::Cluster"))]
        executor: Option<ExecutorKind>,
    },
    AttemptPlaced {
        trial: u64,
        case: String,
        attempt: u32,
        #[cfg_attr(test, schemars(with = "crate::views::schemas::Cluster"))]
        executor: ExecutorKind,
        remote_id: &'a str,
        node: Option<&'a str>,
        started_at: Option<String>,
    },
    ResourcesGiven {
        trial: u64,
        case: String,
        attempt: u32,
        /// By pool: the items, joined by commas, or how much.
        given: BTreeMap<&'a str, String>,
    },
    ClusterChanged {
        trouble: Option<&'a str>,
    },
    AttemptEnded(Box<EndOut<'a>>),
    TrialReset {
        trial: u64,
        case: String,
    },
    SpecAmended(Box<AmendedOut<'a>>),
    BaseStarted {
        attempt: u32,
        slot: u32,
        pid: Option<u32>,
        #[serde(skip_serializing_if = "Option::is_none")]
        #[cfg_attr(test, schemars(with = "crate::views::schemas::Cluster"))]
        executor: Option<ExecutorKind>,
    },
    BaseEnded(Box<EndOut<'a>>),
    StageApproved {
        stage: u32,
        stage_name: &'a str,
        by: &'a str,
        note: &'a str,
    },
    StageClosed {
        stage: u32,
        stage_name: &'a str,
        survivors: Vec<ParentOut>,
        /// Those that go on to explore, though they did not survive; there where any do.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        explorers: Vec<ParentOut>,
    },
    StageReopened {
        stage: u32,
        stage_name: &'a str,
        /// What becomes of the stages after it if others survive: `discard`, `keep`, or `stand` where none had begun.
        later: LaterStages,
    },
    StagesDiscarded {
        from: u32,
        stage_name: &'a str,
    },
    StageReplanned {
        stage: u32,
        stage_name: &'a str,
        /// None where some were taken out of their stage, and it is not known yet who survives that.
        parents: Vec<ParentOut>,
        shares: &'a [u64],
        /// Trials that run anew.
        trials_anew: u64,
    },
    StudyCompleted {},
    StudyAborted {
        #[serde(skip_serializing_if = "Option::is_none")]
        rail: Option<Rail>,
        #[serde(skip_serializing_if = "Option::is_none")]
        stage: Option<u32>,
        #[serde(skip_serializing_if = "Option::is_none")]
        counted: Option<u64>,
        reason: &'a str,
        violating: Vec<String>,
    },
    Rebuilt {
        known: u64,
        lost: u64,
    },
    RunEnded {
        how: RunEnd,
    },
    InputsListed {
        directories: Vec<ListOut<'a>>,
    },
    ResultIdentified {
        trial: u64,
        case: String,
        attempt: u32,
        /// What the result depends on, in one hash.
        identity: String,
    },
    TrialReused(Box<ReusedOut<'a>>),
    ReuseMissed {
        trial: u64,
        case: String,
        reused_from: OriginOut<'a>,
        reason: &'a str,
    },
    ReuseDiffered(DoubtOut<'a>),
    StageReread {
        stage: u32,
        stage_name: &'a str,
        /// How many trials' files were read.
        read: u64,
    },
    ResultReread(Box<RereadOut<'a>>),
    TrialImported(Box<TrialImportedOut<'a>>),
    ResultsTold {
        stage: u32,
        stage_name: &'a str,
        #[serde(flatten)]
        source: SourceOut<'a>,
        results: Vec<ToldOut<'a>>,
    },
    InputsAccepted {
        by: &'a str,
        note: &'a str,
        inputs: Vec<AcceptedOut<'a>>,
        tools: Vec<AcceptedOut<'a>>,
    },
    BaseKept {},
    RungReached {
        trial: u64,
        case: String,
        attempt: u32,
        /// Which rung, from 0.
        rung: u32,
        /// The rung's step.
        at: u64,
        /// The step of the report that counts there.
        step: u64,
        /// `null`: not finite, worse than any.
        value: Option<f64>,
        /// Whether the rung judges it: not one that succeeded before.
        judged: bool,
    },
    RungDecided {
        trial: u64,
        case: String,
        rung: u32,
        /// Whether the trial goes on.
        keep: bool,
        /// So many of lower number were better, as far as was known.
        better: u64,
        /// Of so many, itself among them.
        of: u64,
        /// Of lower number, so many were not known, and could not change it.
        unknown: u64,
    },
    StopIfMet {
        trial: u64,
        case: String,
        attempt: u32,
        /// Which of the stage's rules, from 0.
        rule: u32,
        metric: &'a str,
        step: u64,
        /// `null`: not finite.
        value: Option<f64>,
    },
    DirectoriesDiscarded {
        stage: u32,
        stage_name: &'a str,
        /// Of so many trials.
        trials: u64,
        /// Which ones, and what stays of them.
        runs: Vec<DiscardRunOut>,
    },
    DiscardFinished {
        stage: u32,
        stage_name: &'a str,
        /// What was freed; after a crash, what had been left.
        bytes: u64,
        /// Files and directories, likewise.
        inodes: u64,
    },
    RoundsPlanned {
        stage: u32,
        stage_name: &'a str,
        /// So many more replicas of each case.
        #[cfg_attr(test, schemars(range(min = 1)))]
        count: u32,
    },
    StageEndedEarly {
        stage: u32,
        stage_name: &'a str,
        /// The trials of the stage below this place count; what else ended is outside.
        counted: u64,
    },
    RaceRound {
        stage: u32,
        stage_name: &'a str,
        /// Who leaves the race by it.
        left: Vec<LeftOut>,
        /// How many more rounds the others run; 0: the race is over.
        more: u32,
    },
}

/// Trials one after the other of whose directories the same stays.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Serialize)]
struct LeftOut {
    case: String,
    /// That it is not among the survivors; `null`: a replica of it failed.
    evidence: Option<f64>,
}

#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Debug, Serialize)]
struct DiscardRunOut {
    first: u64,
    count: u64,
    keeps: Kept,
}

#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Serialize)]
struct RereadOut<'a> {
    trial: u64,
    case: String,
    attempt: u32,
    outcome: AttemptOutcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    metrics: Option<MetricsOut<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<FailureOut<'a>>,
    next: NextOut,
}

#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Serialize)]
struct TrialImportedOut<'a> {
    trial: u64,
    case: String,
    #[serde(flatten)]
    source: SourceOut<'a>,
    metrics: MetricsOut<'a>,
    outputs: OutputsOut<'a>,
}

/// A result that a proposer hears of.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Serialize)]
struct ToldOut<'a> {
    params: ParamsOut,
    metrics: MetricsOut<'a>,
}

#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Serialize)]
struct ReusedOut<'a> {
    trial: u64,
    case: String,
    identity: String,
    reused_from: OriginOut<'a>,
    metrics: MetricsOut<'a>,
    outputs: OutputsOut<'a>,
}

#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Serialize)]
struct ListOut<'a> {
    path: &'a str,
    blake3: &'a str,
    entries: usize,
}

#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Serialize)]
struct CreatedOut<'a> {
    study_id: String,
    piton_version: &'a str,
    name: &'a str,
    base_case: &'a str,
    seed: u64,
    /// As JSON; as text if it is none.
    #[cfg_attr(test, schemars(extend("type" = ["object", "string"])))]
    spec: serde_json::Value,
    spec_hash: &'a str,
    inputs: Vec<InputOut<'a>>,
    versions: BTreeMap<&'a str, &'a str>,
    study_dir: &'a str,
    artifacts_dir: &'a str,
    study_file: &'a str,
    plan_version: u32,
}

#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Serialize)]
struct AmendedOut<'a> {
    /// As JSON; as text if it is none.
    #[cfg_attr(test, schemars(extend("type" = ["object", "string"])))]
    spec: serde_json::Value,
    spec_hash: &'a str,
    seed: u64,
    inputs: Vec<InputOut<'a>>,
    versions: BTreeMap<&'a str, &'a str>,
    /// The first stage whose results were discarded.
    discard_from: Option<u32>,
    /// Name of the stage that got more trials, or chooses its survivors anew.
    extended: Option<&'a str>,
    added_trials: u64,
    reopened: bool,
}

#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Serialize)]
struct InputOut<'a> {
    path: &'a str,
    bytes: u64,
    blake3: &'a str,
}

#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Serialize)]
struct ParentOut {
    trial: u64,
    case: String,
    attempt: u32,
}

#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Serialize)]
struct EndOut<'a> {
    trial: u64,
    case: String,
    attempt: u32,
    outcome: AttemptOutcome,
    ended_at: String,
    exit_code: Option<i32>,
    signal: Option<String>,
    wall_s: f64,
    cpu_s: f64,
    peak_rss_bytes: u64,
    metrics: Option<MetricsOut<'a>>,
    outputs: Option<OutputsOut<'a>>,
    failure: Option<FailureOut<'a>>,
    /// By what it was interrupted.
    reason: Option<&'a str>,
    /// `final`, or `again` at `due_at` (`null`: at once).
    next: NextOut,
    due_at: Option<String>,
}

#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum NextOut {
    Final,
    Again,
}

/// Names as they were when an event came: an amendment may give a trial's number to another case.
struct Names<'a> {
    view: &'a StudyView,
    stages: Vec<StageDecl>,
    /// Of each stage that has begun its first trial, and which trials it has.
    begun: Vec<StageRow>,
    /// The number after the last trial that the open stage's proposer proposed.
    proposed: Option<u64>,
}

impl<'a> Names<'a> {
    fn new(view: &'a StudyView) -> Self {
        Self { view, stages: Vec::new(), begun: Vec::new(), proposed: None }
    }

    /// Takes note of an event, in order, before it is shown.
    fn note(&mut self, event: &Event) {
        match event {
            Event::StudyCreated(created) => self.stages.clone_from(&created.stages),
            Event::StageOpened { stage, shares, .. } => {
                self.proposed = None;
                self.begun.truncate(*stage as usize);
                let first_trial = self.begun.last().map_or(TrialId(0), StageRow::end);
                let planned = shares.iter().fold(0_u64, |sum, share| sum.saturating_add(*share));
                let decl = StageDecl {
                    name: String::new(),
                    trial_budget: planned,
                    survivor_count: 0,
                    objective: None,
                    proposed: false,
                };
                self.begun.push(StageRow { first_trial, planned, ..waiting(*stage, &decl) });
            }
            Event::SpecAmended(amended) => {
                if let Some(from) = amended.discard_from {
                    self.begun.truncate(from as usize);
                }
                let extended = amended.extended.iter();
                let more: u64 = extended.flat_map(|e| &e.more).map(|segment| segment.count).sum();
                if let Some(stage) = self.begun.last_mut() {
                    stage.add_cases(more);
                }
                self.stages.clone_from(&amended.stages);
            }
            // A stage that its proposer left short of its budget has fewer trials than its shares say.
            Event::TrialProposed { trial, .. } => self.proposed = Some(trial.0.saturating_add(1)),
            Event::StagesDiscarded { from } => self.begun.truncate(*from as usize),
            Event::StageReplanned(replanned) => {
                let more = replanned.more.iter().map(|segment| &segment.count);
                let trials =
                    replanned.shares.iter().chain(more).fold(0_u64, |sum, count| sum.saturating_add(*count));
                if let Some(stage) = self.begun.get_mut(replanned.stage as usize) {
                    stage.planned = trials;
                }
            }
            Event::RoundsPlanned { stage, count } => {
                if let Some(stage) = self.begun.get_mut(*stage as usize) {
                    stage.add_rounds(*count, false);
                }
            }
            Event::RaceRound { stage, left, more } => {
                if let Some(stage) = self.begun.get_mut(*stage as usize) {
                    stage.leave(left);
                    stage.add_rounds(*more, false);
                }
            }
            // One that was opened again closes without another proposal.
            Event::StageClosed { stage, .. } if (*stage as usize).saturating_add(1) == self.begun.len() => {
                if let (Some(stage), Some(end)) = (self.begun.last_mut(), self.proposed.take()) {
                    stage.planned = end.saturating_sub(stage.first_trial.0);
                }
            }
            _ => {}
        }
        if let (Some(stage), Some(end)) = (self.begun.last_mut(), self.proposed) {
            stage.planned = stage.planned.max(end.saturating_sub(stage.first_trial.0));
        }
    }

    fn case(&self, trial: TrialId) -> String {
        if trial == TrialId::BASE {
            return self.view.study.base_case.clone();
        }
        match self.begun.iter().find(|stage| stage.contains(trial)) {
            Some(stage) => {
                plan::trial_name(&self.view.study.base_case, stage, trial.0.saturating_sub(stage.first_trial.0))
            }
            None => format!("#{trial}"),
        }
    }

    fn stage(&self, stage: u32) -> &str {
        self.stages.get(stage as usize).map_or("", |stage| stage.name.as_str())
    }

    /// Who goes on from a stage, as winners of its cut and those that explore.
    fn cut<'p>(&self, stage: u32, survivors: &'p [Parent]) -> (&'p [Parent], &'p [Parent]) {
        cut(survivors, self.stages.get(stage as usize).map_or(u64::MAX, |stage| stage.survivor_count))
    }

    fn parents(&self, parents: &[Parent]) -> Vec<ParentOut> {
        let parent = |parent: &Parent| ParentOut {
            trial: parent.trial.0,
            case: self.case(parent.trial),
            attempt: parent.attempt,
        };
        parents.iter().map(parent).collect()
    }

    fn event<'e>(&'e self, seq: Seq, record: &'e Record) -> EventOut<'e> {
        EventOut {
            seq,
            at: timestamp(record.at_ms),
            body: self.body(&record.event),
            run_s: seconds(record.run_ms.saturating_mul(1_000)),
        }
    }

    fn body<'e>(&'e self, event: &'e Event) -> Body<'e> {
        match event {
            Event::StudyCreated(created) => Body::StudyCreated(Box::new(created_out(created))),
            Event::RunStarted { engine, workers, sync_interval_ms } => Body::RunStarted {
                pid: engine.process.pid,
                host: &engine.host,
                boot_id: &engine.boot_id,
                workers: *workers,
                sync_interval_s: seconds(sync_interval_ms.saturating_mul(1_000)),
            },
            Event::DrainStarted { by } => Body::DrainStarted { by },
            Event::StageOpened { stage, parents, shares } => Body::StageOpened {
                stage: *stage,
                stage_name: self.stage(*stage),
                parents: self.parents(parents),
                shares,
            },
            Event::TrialProposed { trial, values, merged } => Body::TrialProposed {
                trial: trial.0,
                case: self.case(*trial),
                params: ProposedOut(values),
                merged: *merged,
            },
            Event::ProposalsEnded { stage, reason } => {
                Body::ProposalsEnded { stage: *stage, stage_name: self.stage(*stage), reason }
            }
            Event::AttemptStarted { trial, attempt, slot, process, executor } => Body::AttemptStarted {
                trial: trial.0,
                case: self.case(*trial),
                attempt: *attempt,
                slot: *slot,
                pid: process.map(|process| process.pid),
                executor: executor.is_remote().then_some(*executor),
            },
            Event::AttemptPlaced { trial, attempt, job } => Body::AttemptPlaced {
                trial: trial.0,
                case: self.case(*trial),
                attempt: *attempt,
                executor: job.executor,
                remote_id: &job.id,
                node: job.node.as_deref(),
                started_at: job.started_ms.map(timestamp),
            },
            Event::ResourcesGiven { trial, attempt, given } => Body::ResourcesGiven {
                trial: trial.0,
                case: self.case(*trial),
                attempt: *attempt,
                given: given.iter().map(|given| (given.pool.as_str(), given.text())).collect(),
            },
            Event::ClusterChanged { trouble } => Body::ClusterChanged { trouble: trouble.as_deref() },
            Event::AttemptEnded(end) => Body::AttemptEnded(Box::new(self.end(end))),
            Event::BaseStarted { attempt, slot, process, executor } => Body::BaseStarted {
                attempt: *attempt,
                slot: *slot,
                pid: process.map(|process| process.pid),
                executor: executor.is_remote().then_some(*executor),
            },
            Event::BaseEnded(end) => Body::BaseEnded(Box::new(self.end(end))),
            Event::StageApproved { stage, by, note } => {
                Body::StageApproved { stage: *stage, stage_name: self.stage(*stage), by, note }
            }
            Event::SpecAmended(amended) => Body::SpecAmended(Box::new(amended_out(amended))),
            Event::InputsListed { lists } => {
                let list = |list: &'e InputList| ListOut {
                    path: &list.input,
                    blake3: &list.blake3,
                    entries: list.entries.len(),
                };
                Body::InputsListed { directories: lists.iter().map(list).collect() }
            }
            Event::ResultIdentified { trial, attempt, identity } => Body::ResultIdentified {
                trial: trial.0,
                case: self.case(*trial),
                attempt: *attempt,
                identity: words::hex(identity),
            },
            Event::TrialReused(reused) => Body::TrialReused(Box::new(ReusedOut {
                trial: reused.trial.0,
                case: self.case(reused.trial),
                identity: words::hex(&reused.identity),
                reused_from: OriginOut::new(&reused.origin),
                metrics: MetricsOut(&reused.metrics),
                outputs: OutputsOut(&reused.outputs),
            })),
            Event::ReuseMissed { trial, origin, reason } => Body::ReuseMissed {
                trial: trial.0,
                case: self.case(*trial),
                reused_from: OriginOut::new(origin),
                reason,
            },
            Event::ReuseDiffered(doubt) => Body::ReuseDiffered(DoubtOut::new(doubt)),
            Event::StageReread { stage, read, .. } => {
                Body::StageReread { stage: *stage, stage_name: self.stage(*stage), read: *read }
            }
            Event::ResultReread(reread) => Body::ResultReread(Box::new(RereadOut {
                trial: reread.trial.0,
                case: self.case(reread.trial),
                attempt: reread.attempt,
                outcome: reread.verdict.outcome(),
                metrics: match &reread.verdict {
                    Verdict::Succeeded { metrics, .. } => Some(MetricsOut(metrics)),
                    _ => None,
                },
                failure: match &reread.verdict {
                    Verdict::Failed(failure) => Some(FailureOut::from(failure)),
                    _ => None,
                },
                next: match reread.next {
                    Next::Final => NextOut::Final,
                    Next::Again { .. } => NextOut::Again,
                },
            })),
            Event::TrialImported(import) => Body::TrialImported(Box::new(TrialImportedOut {
                trial: import.trial.0,
                case: self.case(import.trial),
                source: SourceOut::new(&import.source),
                metrics: MetricsOut(&import.metrics),
                outputs: OutputsOut(&import.outputs),
            })),
            Event::ResultsTold(told) => Body::ResultsTold {
                stage: told.stage,
                stage_name: self.stage(told.stage),
                source: SourceOut::new(&told.source),
                results: told
                    .results
                    .iter()
                    .map(|result| ToldOut {
                        params: ParamsOut(result.values.iter().cloned().collect()),
                        metrics: MetricsOut(&result.metrics),
                    })
                    .collect(),
            },
            Event::InputsAccepted { by, note, inputs, tools } => {
                Body::InputsAccepted { by, note, inputs: changes_out(inputs), tools: changes_out(tools) }
            }
            Event::BaseKept => Body::BaseKept {},
            Event::RungReached { trial, attempt, rung, at, step, value, judged } => Body::RungReached {
                trial: trial.0,
                case: self.case(*trial),
                attempt: *attempt,
                rung: *rung,
                at: *at,
                step: *step,
                value: *value,
                judged: *judged,
            },
            Event::RungDecided { trial, rung, verdict } => Body::RungDecided {
                trial: trial.0,
                case: self.case(*trial),
                rung: *rung,
                keep: verdict.keep,
                better: verdict.better,
                of: verdict.of,
                unknown: verdict.unknown,
            },
            Event::StopIfMet { trial, attempt, met } => Body::StopIfMet {
                trial: trial.0,
                case: self.case(*trial),
                attempt: *attempt,
                rule: met.rule,
                metric: &met.metric,
                step: met.step,
                value: met.value,
            },
            Event::DirectoriesDiscarded(discarded) => Body::DirectoriesDiscarded {
                stage: discarded.stage,
                stage_name: self.stage(discarded.stage),
                trials: discarded.trials(),
                runs: discarded
                    .runs
                    .iter()
                    .map(|run| DiscardRunOut { first: run.first.0, count: run.count, keeps: run.keeps })
                    .collect(),
            },
            Event::DiscardFinished { stage, bytes, inodes } => Body::DiscardFinished {
                stage: *stage,
                stage_name: self.stage(*stage),
                bytes: *bytes,
                inodes: *inodes,
            },
            Event::RoundsPlanned { stage, count } => {
                Body::RoundsPlanned { stage: *stage, stage_name: self.stage(*stage), count: *count }
            }
            Event::StageEndedEarly { stage, counted } => {
                Body::StageEndedEarly { stage: *stage, stage_name: self.stage(*stage), counted: *counted }
            }
            Event::RaceRound { stage, left, more } => {
                let left = left.iter().map(|left| LeftOut {
                    case: plan::case_name(&self.view.study.base_case, *stage, left.case),
                    evidence: left.evidence,
                });
                Body::RaceRound {
                    stage: *stage,
                    stage_name: self.stage(*stage),
                    left: left.collect(),
                    more: *more,
                }
            }
            Event::TrialReset { trial } => Body::TrialReset { trial: trial.0, case: self.case(*trial) },
            Event::StageClosed { stage, survivors } => Body::StageClosed {
                stage: *stage,
                stage_name: self.stage(*stage),
                survivors: self.parents(self.cut(*stage, survivors).0),
                explorers: self.parents(self.cut(*stage, survivors).1),
            },
            Event::StageReopened { stage, later } => {
                Body::StageReopened { stage: *stage, stage_name: self.stage(*stage), later: *later }
            }
            Event::StagesDiscarded { from } => {
                Body::StagesDiscarded { from: *from, stage_name: self.stage(*from) }
            }
            Event::StageReplanned(replanned) => Body::StageReplanned {
                stage: replanned.stage,
                stage_name: self.stage(replanned.stage),
                parents: match replanned.is_orphaned() {
                    true => Vec::new(),
                    false => self.parents(&replanned.parents),
                },
                shares: &replanned.shares,
                trials_anew: replanned.anew_count(),
            },
            Event::StudyCompleted => Body::StudyCompleted {},
            Event::StudyAborted { reason, violating } => self.aborted(None, reason, violating),
            Event::StudyAbortedBy { abort, reason, violating } => self.aborted(Some(*abort), reason, violating),
            Event::Rebuilt { known, lost } => Body::Rebuilt { known: *known, lost: *lost },
            Event::RunEnded { how } => Body::RunEnded { how: *how },
        }
    }

    fn aborted<'e>(&self, abort: Option<Abort>, reason: &'e str, violating: &[TrialId]) -> Body<'e> {
        Body::StudyAborted {
            rail: abort.map(|abort| abort.rail),
            stage: abort.map(|abort| abort.stage),
            counted: abort.map(|abort| abort.counted),
            reason,
            violating: violating.iter().map(|trial| self.case(*trial)).collect(),
        }
    }

    fn end<'e>(&self, end: &'e AttemptEnd) -> EndOut<'e> {
        let mut out = EndOut {
            trial: end.trial.0,
            case: self.case(end.trial),
            attempt: end.attempt,
            outcome: end.verdict.outcome(),
            ended_at: timestamp(end.ended_ms),
            exit_code: words::exit_code(end.exit),
            signal: words::exit_signal(end.exit),
            wall_s: seconds(end.usage.wall_us),
            cpu_s: seconds(end.usage.cpu_us),
            peak_rss_bytes: end.usage.peak_rss_bytes,
            metrics: None,
            outputs: None,
            failure: None,
            reason: None,
            next: NextOut::Final,
            due_at: None,
        };
        match &end.verdict {
            Verdict::Succeeded { metrics, outputs } => {
                out.metrics = Some(MetricsOut(metrics));
                out.outputs = Some(OutputsOut(outputs));
            }
            Verdict::Failed(failure) => out.failure = Some(FailureOut::from(failure)),
            Verdict::Interrupted { reason } => out.reason = Some(reason),
            Verdict::Cancelled => {}
        }
        if let Next::Again { due_ms } = end.next {
            out.next = NextOut::Again;
            out.due_at = (due_ms != 0).then(|| timestamp(due_ms));
        }
        out
    }

    /// The trial, case and attempt an event is about.
    fn subject(&self, event: &Event) -> Option<(TrialId, String, Option<u32>)> {
        match event {
            Event::AttemptStarted { trial, attempt, .. } | Event::AttemptPlaced { trial, attempt, .. } => {
                Some((*trial, self.case(*trial), Some(*attempt)))
            }
            Event::AttemptEnded(end) | Event::BaseEnded(end) => {
                Some((end.trial, self.case(end.trial), Some(end.attempt)))
            }
            Event::ResultIdentified { trial, attempt, .. } | Event::ResourcesGiven { trial, attempt, .. } => {
                Some((*trial, self.case(*trial), Some(*attempt)))
            }
            Event::ReuseDiffered(doubt) => Some((doubt.trial, doubt.case.clone(), Some(doubt.attempt))),
            Event::ResultReread(reread) => Some((reread.trial, self.case(reread.trial), Some(reread.attempt))),
            Event::TrialReused(_) | Event::TrialImported(_) => {
                event.taken_by().map(|trial| (trial, self.case(trial), None))
            }
            Event::RungReached { trial, attempt, .. } | Event::StopIfMet { trial, attempt, .. } => {
                Some((*trial, self.case(*trial), Some(*attempt)))
            }
            Event::RungDecided { trial, .. } => Some((*trial, self.case(*trial), None)),
            Event::TrialProposed { trial, .. } | Event::ReuseMissed { trial, .. } => {
                Some((*trial, self.case(*trial), None))
            }
            Event::TrialReset { trial } => Some((*trial, self.case(*trial), None)),
            _ => None,
        }
    }

    /// The rest of an event, in words.
    fn detail(&self, event: &Event) -> String {
        let cases = |parents: &[Parent]| {
            parents.iter().map(|parent| self.case(parent.trial)).collect::<Vec<_>>().join(" ")
        };
        match event {
            Event::StudyCreated(created) => format!("{} by piton {}", created.name, created.piton_version),
            Event::RunStarted { engine, workers, .. } => {
                format!("pid {} on {}, {workers} workers", engine.process.pid, engine.host)
            }
            Event::DrainStarted { by } => format!("by {by}"),
            Event::StageOpened { stage, parents, shares } => {
                let trials: u64 = shares.iter().fold(0, |sum, share| sum.saturating_add(*share));
                let from = if parents.is_empty() { String::new() } else { format!(" from {}", cases(parents)) };
                format!("{}: {trials} trials{from}", self.stage(*stage))
            }
            Event::TrialProposed { values, merged, .. } => {
                let values: Vec<_> = values.iter().map(|(name, value)| format!("{name}={value}")).collect();
                let merged = match merged {
                    0 => String::new(),
                    merged => format!(" (after {})", counted(*merged, "repetition")),
                };
                format!("{}{merged}", values.join(" "))
            }
            Event::ProposalsEnded { stage, reason } => format!("{}: {reason}", self.stage(*stage)),
            Event::AttemptStarted { slot, process, executor, .. }
            | Event::BaseStarted { slot, process, executor, .. } => match process {
                Some(process) => format!("slot {slot}, pid {}", process.pid),
                None if executor.is_remote() => format!("slot {slot}, on {}", executor.name()),
                None => format!("slot {slot}"),
            },
            Event::AttemptPlaced { job, .. } => words::remote_job(job),
            Event::ResourcesGiven { given, .. } => words::given(given),
            Event::ClusterChanged { trouble: Some(why) } => why.clone(),
            Event::ClusterChanged { trouble: None } => "answers again".into(),
            Event::InputsListed { lists } => {
                let list = |list: &InputList| format!("{}: {} entries", list.input, list.entries.len());
                lists.iter().map(list).collect::<Vec<_>>().join(", ")
            }
            Event::AttemptEnded(end) | Event::BaseEnded(end) => end_detail(end),
            Event::StageApproved { stage, by, note } => {
                let note = if note.is_empty() { String::new() } else { format!(": {note}") };
                format!("{} by {by}{note}", self.stage(*stage))
            }
            Event::SpecAmended(amended) => amended_detail(amended),
            Event::ResultIdentified { identity, .. } => format!("it depends on {}", words::hex(identity)),
            Event::TrialReused(reused) => format!("the result of {}", origin_words(&reused.origin)),
            Event::ReuseMissed { origin, reason, .. } => {
                format!("not the result of {}: {reason}", origin_words(origin))
            }
            Event::ReuseDiffered(doubt) => {
                format!("not the result of {}: {}", origin_words(&doubt.origin), difference_words(&doubt.differs))
            }
            Event::StageReread { stage, read, .. } => {
                format!("{}: what {} left was read again", self.stage(*stage), counted(*read, "finished trial"))
            }
            Event::ResultReread(reread) => reread_detail(reread),
            Event::TrialImported(import) => format!("imported from {}", words::source(&import.source)),
            Event::ResultsTold(told) => format!(
                "{}: {} imported from {} for its proposer",
                self.stage(told.stage),
                counted(told.results.len(), "result"),
                words::source(&told.source)
            ),
            Event::InputsAccepted { by, note, inputs, tools } => {
                accepted_words(by, note, inputs.iter().chain(tools))
            }
            Event::BaseKept => "nothing that it saw changes: it does not run again".into(),
            Event::RungReached { at, step, value, judged, .. } => {
                let value = reported(*value);
                let judged = if *judged { "" } else { ", and is not judged there" };
                format!("rung {at}: {value} at step {step}{judged}")
            }
            Event::RungDecided { rung, verdict, .. } => {
                let RungVerdict { keep, better, of, unknown } = verdict;
                let fate = if *keep { "goes on" } else { "is pruned" };
                let missing = if *unknown > 0 { format!(", {unknown} unknown") } else { String::new() };
                format!("{fate} at rung {rung}: {better} of {of} better{missing}")
            }
            Event::StopIfMet { met, .. } => {
                let value = reported(met.value);
                format!("is pruned by rule {}: {} {value} at step {}", met.rule, met.metric, met.step)
            }
            Event::DirectoriesDiscarded(discarded) => {
                let trials = counted(discarded.trials(), "trial");
                format!("{}: what is not kept of the directories of {trials}", self.stage(discarded.stage))
            }
            Event::DiscardFinished { stage, bytes, inodes } => {
                format!("{}: {}", self.stage(*stage), freed(*bytes, *inodes))
            }
            Event::RoundsPlanned { stage, count } => {
                format!("{}: {} of each case", self.stage(*stage), counted(*count, "replica"))
            }
            Event::StageEndedEarly { stage, counted: count } => {
                let (stage, trials) = (self.stage(*stage), counted(*count, "trial"));
                format!("{stage}: nothing got better; the first {trials} count")
            }
            Event::RaceRound { stage, left, more } => {
                let name = |left: &LeftCase| plan::case_name(&self.view.study.base_case, *stage, left.case);
                let left = match left.is_empty() {
                    true => "nobody left".to_owned(),
                    false => format!("left: {}", left.iter().map(name).collect::<Vec<_>>().join(", ")),
                };
                let more = match more {
                    0 => "the race is over".to_owned(),
                    more => format!("{} more", counted(*more, "round")),
                };
                format!("{}: {left}; {more}", self.stage(*stage))
            }
            Event::TrialReset { .. } => "pending again".into(),
            Event::StageClosed { stage, survivors } if survivors.is_empty() => {
                format!("{}: no survivors", self.stage(*stage))
            }
            Event::StageClosed { stage, survivors } => {
                let (winners, explorers) = self.cut(*stage, survivors);
                let explore = match explorers {
                    [] => String::new(),
                    explorers => format!("; explore {}", cases(explorers)),
                };
                format!("{}: survivors {}{explore}", self.stage(*stage), cases(winners))
            }
            Event::StageReopened { stage, later } => {
                let stage = self.stage(*stage);
                match later {
                    LaterStages::Stand => stage.to_owned(),
                    LaterStages::Keep => format!("{stage}: later stages stay as they are, whatever survives"),
                    LaterStages::Discard => format!("{stage}: if others survive, only their children stay"),
                }
            }
            Event::StagesDiscarded { from } => {
                format!("{} and all after it: other cases survived before it", self.stage(*from))
            }
            Event::StageReplanned(replanned) => {
                let (stage, trials) = (self.stage(replanned.stage), counted(replanned.anew_count(), "trial"));
                match replanned.is_orphaned() {
                    true => format!("{stage} loses {trials}, whose parents are gone"),
                    false => format!("{stage} from {}: {trials} anew", cases(&replanned.parents)),
                }
            }
            Event::StudyCompleted => String::new(),
            Event::StudyAborted { reason, .. } | Event::StudyAbortedBy { reason, .. } => reason.clone(),
            Event::Rebuilt { known, lost } => {
                format!("by `piton salvage`, of what was stored of each trial: {lost} of {known} events were lost")
            }
            Event::RunEnded { how } => how.name().into(),
        }
    }
}

fn name_of(amended: &SpecAmended, stage: u32) -> &str {
    amended.stages.get(stage as usize).map_or("", |stage| &stage.name)
}

fn added(amended: &SpecAmended) -> u64 {
    amended.extended.iter().flat_map(|extended| &extended.more).map(|segment| segment.count).sum()
}

fn amended_out(amended: &SpecAmended) -> AmendedOut<'_> {
    AmendedOut {
        spec: serde_json::from_str(&amended.spec).unwrap_or_else(|_| amended.spec.clone().into()),
        spec_hash: &amended.spec_hash,
        seed: amended.seed,
        inputs: inputs_out(&amended.inputs),
        versions: versions_out(&amended.versions),
        discard_from: amended.discard_from,
        extended: amended.extended.as_ref().map(|extended| name_of(amended, extended.stage)),
        added_trials: added(amended),
        reopened: amended.reopen,
    }
}

fn amended_detail(amended: &SpecAmended) -> String {
    let mut words = Vec::new();
    if let Some(from) = amended.discard_from {
        words.push(format!("results from stage {from} on discarded"));
    }
    if let Some(extended) = &amended.extended {
        let name = name_of(amended, extended.stage);
        words.push(match added(amended) {
            0 => format!("{name} chooses its survivors anew"),
            added => format!("{name}: {} more", counted(added, "trial")),
        });
    }
    if words.is_empty() { format!("{} stages", amended.stages.len()) } else { words.join(", ") }
}

fn inputs_out(inputs: &[InputHash]) -> Vec<InputOut<'_>> {
    inputs.iter().map(|input| InputOut { path: &input.path, bytes: input.bytes, blake3: &input.blake3 }).collect()
}

fn created_out(created: &StudyCreated) -> CreatedOut<'_> {
    CreatedOut {
        study_id: created.study_id.to_string(),
        piton_version: &created.piton_version,
        name: &created.name,
        base_case: &created.base_case,
        seed: created.seed,
        spec: serde_json::from_str(&created.spec).unwrap_or_else(|_| created.spec.clone().into()),
        spec_hash: &created.spec_hash,
        inputs: inputs_out(&created.inputs),
        versions: versions_out(&created.versions),
        study_dir: &created.study_dir,
        artifacts_dir: &created.artifacts_dir,
        study_file: &created.study_file,
        plan_version: created.plan_version,
    }
}

fn end_detail(end: &AttemptEnd) -> String {
    let took = format!("{} after {}", end.verdict.outcome(), duration(end.usage.wall_us));
    let again = match end.next {
        Next::Again { .. } => ", runs again",
        Next::Final => "",
    };
    match &end.verdict {
        Verdict::Succeeded { .. } | Verdict::Cancelled => took,
        Verdict::Failed(failure) => format!("{took}: {}: {}{again}", failure.kind, failure.reason),
        Verdict::Interrupted { reason } => format!("{took}: {reason}{again}"),
    }
}

fn reread_detail(reread: &Reread) -> String {
    let again = match reread.next {
        Next::Again { .. } => ", runs again",
        Next::Final => "",
    };
    let outcome = reread.verdict.outcome();
    match &reread.verdict {
        Verdict::Failed(failure) => format!("read again: {outcome}: {}: {}{again}", failure.kind, failure.reason),
        Verdict::Interrupted { reason } => format!("cannot be read again: {reason}{again}"),
        _ => format!("read again: {outcome}"),
    }
}

/// One event a line, as JSON.
pub(in crate::views) fn jsonl(
    view: &StudyView,
    snapshot: &Snapshot,
    out: &mut dyn Write,
) -> Result<(), ViewError> {
    let mut names = Names::new(view);
    let mut text = Vec::new();
    for event in snapshot.events(1)? {
        let (seq, record) = event?;
        names.note(&record.event);
        text.clear();
        line(&mut text, &names.event(seq, &record))?;
        out.write_all(&text)?;
    }
    Ok(())
}

pub(super) fn json(view: &StudyView, snapshot: &Snapshot, out: &mut dyn Write) -> Result<(), ViewError> {
    let mut names = Names::new(view);
    out.write_all(b"[")?;
    let mut list = List::default();
    for event in snapshot.events(1)? {
        let (seq, record) = event?;
        names.note(&record.event);
        list.item(out, &names.event(seq, &record))?;
    }
    list.end(out)?;
    Ok(out.write_all(b"\n")?)
}

pub(super) fn csv(view: &StudyView, snapshot: &Snapshot, out: &mut dyn Write) -> Result<(), ViewError> {
    let mut names = Names::new(view);
    let mut table = csv::Writer::from_writer(out);
    table.write_record(["seq", "at", "type", "trial", "case", "attempt", "detail"])?;
    for event in snapshot.events(1)? {
        let (seq, record) = event?;
        names.note(&record.event);
        let (trial, case, attempt) = match names.subject(&record.event) {
            Some((trial, case, attempt)) => (trial.to_string(), case, attempt.map(|n| n.to_string())),
            None => Default::default(),
        };
        table.write_record([
            seq.to_string(),
            timestamp(record.at_ms),
            record.event.name().to_owned(),
            trial,
            case,
            attempt.unwrap_or_default(),
            names.detail(&record.event),
        ])?;
    }
    Ok(table.flush()?)
}

pub(super) fn text(
    view: &StudyView,
    snapshot: &Snapshot,
    screen: Screen,
    out: &mut dyn Write,
) -> Result<(), ViewError> {
    let mut names = Names::new(view);
    let digits = view.progress.last_seq.to_string().len();
    for event in snapshot.events(1)? {
        let (seq, record) = event?;
        names.note(&record.event);
        let subject = match names.subject(&record.event) {
            Some((_, case, Some(attempt))) => format!("{case} #{attempt}: "),
            Some((_, case, None)) => format!("{case}: "),
            None => String::new(),
        };
        let head = format!(
            "{}  {}  {}  ",
            pad_left(&seq.to_string(), digits),
            local_time_to_ms(record.at_ms),
            pad(record.event.name(), "attempt_started".len()),
        );
        let text = format!("{head}{subject}{}", clean(&names.detail(&record.event)));
        writeln!(out, "{}", screen.line(text.trim_end()))?;
    }
    Ok(())
}

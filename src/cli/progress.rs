//! What `piton run` shows while it runs: a bar a stage on a terminal, plain lines elsewhere.
//!
//! The engine hands over small messages and never waits for the terminal: a thread of this module draws, and what
//! the terminal cannot take in time is left out (counts catch up with the next message).

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use piton::engine::{Draft, Observer};
use piton::executor::local::strays::KilledStray;
use piton::model::{AttemptEnd, Best, Event, Next, Record, Seq, StageCounters, StageIndex, TrialId, Verdict};
use piton::plan::Lineage;
use piton::spec::Spec;
use piton::views::{clean, duration, short_number};

use super::terminal::{say, width};

/// Messages that may wait for the terminal.
const BACKLOG: usize = 4096;

/// Stages with more trials than this get no line a trial when piped, but one each whole percent.
const LINE_EACH_TRIALS: u64 = 200;

/// What the drawing thread is told.
enum Message {
    /// A stage's trials run, or go on.
    Stage { index: StageIndex, name: String, planned: u64, counters: StageCounters },
    /// An attempt ended.
    Ended { stage: StageIndex, counters: StageCounters, line: Option<String>, failed: bool, best: Option<String> },
    /// An attempt started.
    Counts { stage: StageIndex, counters: StageCounters },
    /// A stage closed.
    Closed { stage: StageIndex, counters: StageCounters, line: String },
    /// A line of its own.
    Line(String),
}

/// The observer; see the module.
pub struct Progress {
    sender: Option<Sender<Message>>,
    thread: Option<JoinHandle<()>>,
    spec: Option<Arc<Spec>>,
    again: String,
    /// Whether trials get a line each.
    bars: bool,
    /// How long a drain may take.
    drain_limit: Option<Duration>,
    /// Trials finished in each stage as of the event at hand; the draft is that of the whole batch.
    finished: HashMap<StageIndex, u64>,
}

impl Progress {
    /// Starts drawing; `again` is the command that goes on after an early end.
    pub fn start(again: &str, drain_limit: Option<Duration>) -> Self {
        Self {
            sender: None,
            thread: None,
            spec: None,
            again: again.to_owned(),
            bars: std::io::stderr().is_terminal(),
            drain_limit,
            finished: HashMap::new(),
        }
    }

    /// The drawing thread starts with the first message: no thread may exist before the engine's keeper does.
    fn send(&mut self, message: Message) {
        if self.sender.is_none() {
            let (sender, receiver) = bounded(BACKLOG);
            let bars = self.bars;
            let builder = std::thread::Builder::new().name("progress".into());
            self.thread = builder.spawn(move || draw(&receiver, bars)).ok();
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
        let failed = matches!(end.verdict, Verdict::Failed(_));
        let each = !self.bars && planned <= LINE_EACH_TRIALS;
        let line = (failed || each)
            .then(|| ended_line(end, &lineage.case(stage, index), finished, planned, &spec, stage));
        let best = best_words(draft, stage, &lineage, counters.best);
        self.send(Message::Ended { stage, counters, line, failed, best });
    }

    fn closed(&mut self, stage: StageIndex, survivors: &[TrialId], draft: &Draft) {
        let Some(spec) = self.spec(draft) else { return };
        let lineage = Lineage::new(&spec, draft.stages());
        let counters = draft.stage_counters(stage);
        let names: Vec<String> = survivors
            .iter()
            .take(3)
            .filter_map(|trial| lineage.locate(*trial))
            .map(|(stage, index)| lineage.case(stage, index))
            .collect();
        let more = survivors.len().saturating_sub(names.len());
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let name = spec.stages.get(stage as usize).map_or("", |stage| stage.name.as_str());
        let who =
            if names.is_empty() { "no survivors".into() } else { format!("survivors: {}", names.join(", ")) };
        let line = format!(
            "stage {stage} `{name}` closed: {} succeeded, {} failed; {who}{more}",
            counters.succeeded, counters.failed
        );
        self.send(Message::Closed { stage, counters, line });
    }
}

impl Observer for Progress {
    fn committed(&mut self, _: Seq, record: &Record, draft: &Draft) {
        match &record.event {
            Event::RunStarted { workers, .. } => {
                let study = draft.study_row();
                let again = if study.runs > 1 { format!(", run {}", study.runs) } else { String::new() };
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
            Event::AttemptStarted { .. } => {
                if let Some((stage, counters)) = draft.open_stage()
                    && self.bars
                {
                    let message = Message::Counts { stage: stage.index, counters: *counters };
                    self.send(message);
                }
            }
            Event::AttemptEnded(end) => self.ended(end, draft),
            Event::StageClosed { stage, survivors } => {
                let survivors: Vec<TrialId> = survivors.iter().map(|parent| parent.trial).collect();
                self.closed(*stage, &survivors, draft);
            }
            Event::StudyAborted { reason, .. } => self.send(Message::Line(format!("aborted: {reason}"))),
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
            Event::StageApproved { .. }
            | Event::SpecAmended(_)
            | Event::StudyCreated(_)
            | Event::DrainStarted { .. }
            | Event::TrialReset { .. }
            | Event::StudyCompleted
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
        let what = if running == 1 { "1 trial".into() } else { format!("{running} trials") };
        let line = format!("terminating {what}: they will run again. A third signal kills at once");
        self.send(Message::Line(line));
    }
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
                .map(|(objective, value)| format!("{} {}", objective.metric, short_number(value)))
                .collect();
            let values = if values.is_empty() { String::new() } else { format!(": {}", values.join(", ")) };
            format!("succeeded in {took}{values}")
        }
        Verdict::Failed(failure) => {
            let then = match end.next {
                Next::Again { .. } => "; it will be tried again",
                Next::Final => "",
            };
            format!("failed after {took}: {} ({}){then}", clean(&failure.reason), clean(&failure.kind))
        }
        Verdict::Interrupted { reason } => format!("was interrupted: {reason}; it will run again"),
        Verdict::Cancelled => "was cancelled".to_owned(),
    };
    format!("[{finished}/{planned}] {case} {words}")
}

fn best_words(draft: &Draft, stage: StageIndex, lineage: &Lineage<'_>, best: Option<Best>) -> Option<String> {
    let metric = &draft.stages().get(stage as usize)?.objective.as_ref()?.metric;
    let best = best?;
    let (stage, index) = lineage.locate(best.trial)?;
    Some(format!("best {metric} {} ({})", short_number(best.value), lineage.case(stage, index)))
}

/// The drawing thread.
fn draw(messages: &Receiver<Message>, bars: bool) {
    if bars { Bars::default().run(messages) } else { draw_lines(messages) }
}

fn draw_lines(messages: &Receiver<Message>) {
    let mut planned_by_stage: HashMap<StageIndex, (u64, u64)> = HashMap::new();
    for message in messages {
        match message {
            // A stage that opens with the start of a run is told of twice.
            Message::Stage { index, name, planned, counters } => {
                // A proposer that has no more makes a stage shorter than it was announced.
                if planned_by_stage.insert(index, (planned, percent(&counters, planned))).is_some() {
                    continue;
                }
                say(&stage_line(index, &name, planned, &counters));
            }
            Message::Ended { stage, counters, line, best, .. } => {
                let (planned, before) = planned_by_stage.get(&stage).copied().unwrap_or_default();
                let now = percent(&counters, planned);
                match line {
                    Some(line) => say(&line),
                    None if now > before => {
                        let best = best.map(|best| format!(", {best}")).unwrap_or_default();
                        say(&format!(
                            "[{}/{planned}] {now}%, {} failed{best}",
                            counters.finished(),
                            counters.failed
                        ));
                    }
                    None => {}
                }
                planned_by_stage.insert(stage, (planned, now));
            }
            Message::Counts { .. } => {}
            Message::Closed { line, .. } | Message::Line(line) => say(&line),
        }
    }
}

fn percent(counters: &StageCounters, planned: u64) -> u64 {
    counters.finished().saturating_mul(100).checked_div(planned).unwrap_or(100)
}

fn stage_line(index: StageIndex, name: &str, planned: u64, counters: &StageCounters) -> String {
    let trials = if planned == 1 { "1 trial".into() } else { format!("{planned} trials") };
    match counters.finished() {
        0 => format!("stage {index} `{name}`: {trials}"),
        done => format!("stage {index} `{name}`: {trials}, {done} finished before"),
    }
}

/// Columns of a bar itself.
const BAR_COLUMNS: usize = 24;

/// Columns left free at a line's end: a terminal echoes `^C` there, and on the next line if it has no room, where it
/// would leave a copy of the bar behind.
const ECHO_COLUMNS: usize = 3;

/// Bars on a terminal.
#[derive(Default)]
struct Bars {
    multi: MultiProgress,
    stages: HashMap<StageIndex, StageBar>,
}

struct StageBar {
    bar: ProgressBar,
    since: Instant,
    finished_before: u64,
    best: Option<String>,
}

impl Bars {
    fn run(mut self, messages: &Receiver<Message>) {
        for message in messages {
            self.show(message);
        }
        for stage in self.stages.values().filter(|stage| !stage.bar.is_finished()) {
            stage.bar.abandon();
        }
    }

    fn print(&self, line: &str) {
        if self.multi.println(line).is_err() {
            say(line);
        }
    }

    fn show(&mut self, message: Message) {
        match message {
            Message::Stage { index, name, planned, counters } => {
                if let Some(place) = self.stages.get(&index) {
                    place.bar.set_length(planned);
                    return;
                }
                let bar = self.multi.add(ProgressBar::new(planned));
                bar.set_style(style());
                bar.set_prefix(name);
                bar.reset_elapsed();
                let finished_before = counters.finished();
                self.stages.insert(index, StageBar { bar, since: Instant::now(), finished_before, best: None });
                self.count(index, &counters);
            }
            Message::Ended { stage, counters, line, failed, best } => {
                if let Some(line) = line.filter(|_| failed) {
                    self.print(&line);
                }
                if let Some(place) = self.stages.get_mut(&stage)
                    && best.is_some()
                {
                    place.best = best;
                }
                self.count(stage, &counters);
            }
            Message::Counts { stage, counters } => self.count(stage, &counters),
            Message::Closed { stage, counters, line } => {
                self.count(stage, &counters);
                if let Some(stage) = self.stages.get(&stage) {
                    stage.bar.abandon();
                }
                self.print(&line);
            }
            Message::Line(line) => self.print(&line),
        }
    }

    fn count(&self, stage: StageIndex, counters: &StageCounters) {
        let Some(stage) = self.stages.get(&stage) else { return };
        let finished = counters.finished();
        let planned = stage.bar.length().unwrap_or(0);
        let mut words = Vec::new();
        if counters.failed > 0 {
            words.push(format!("{} failed", counters.failed));
        }
        if counters.running > 0 {
            words.push(format!("{} running", counters.running));
        }
        let here = finished.saturating_sub(stage.finished_before);
        let elapsed = stage.since.elapsed().as_secs_f64();
        if here > 0 && elapsed > 0.0 {
            let rate = here as f64 / elapsed;
            words.push(if rate >= 1.0 { format!("{rate:.1}/s") } else { format!("{:.1}/min", rate * 60.0) });
            if finished < planned {
                let left = Duration::from_secs_f64(((planned - finished) as f64 / rate).min(1e9));
                words
                    .push(format!("about {} left", duration(u64::try_from(left.as_micros()).unwrap_or(u64::MAX))));
            }
        }
        words.extend(stage.best.clone());
        let used = stage.bar.prefix().chars().count() + BAR_COLUMNS + format!("{finished}/{planned}").len() + 3;
        let room = usize::from(width(&std::io::stderr())).saturating_sub(used + ECHO_COLUMNS);
        stage.bar.set_message(words.join(" · ").chars().take(room).collect::<String>());
        stage.bar.set_position(finished);
    }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{prefix:.bold} {bar:24.cyan/dim} {pos}/{len} {msg}")
        .map_or_else(|_| ProgressStyle::default_bar(), |style| style.progress_chars("━╸─"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_what_was_done_before() {
        let counters = StageCounters { succeeded: 3, failed: 1, ..Default::default() };
        assert_eq!(stage_line(0, "explore", 10, &counters), "stage 0 `explore`: 10 trials, 4 finished before");
        assert_eq!(stage_line(1, "x", 1, &StageCounters::default()), "stage 1 `x`: 1 trial");
        assert_eq!(percent(&counters, 10), 40);
        assert_eq!(percent(&counters, 0), 100);
    }
}

//! Progress on a terminal: a bar a stage, and under that of the open one the trials that run.
//!
//! Nothing is written wider than the terminal, whatever its width is at that moment. While nothing happens it draws once
//! a second, for the times it shows.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use piton::model::{StageCounters, StageIndex, TrialId};
use piton::views::progress::{Glance, Seen};
use piton::views::{Sparkline, columns, duration, time_left};

use super::super::sink;
use super::super::terminal::{NoEcho, say, speaks_unicode, width};
use super::message::{BestSoFar, Message};

/// Columns of a bar itself: a narrow screen has better use for them.
fn bar_columns() -> usize {
    if width(&std::io::stderr()) < 80 { 12 } else { 24 }
}

/// Columns of the line that shows how the best value went.
const SPARKLINE_COLUMNS: usize = 12;

/// Most running trials shown.
const RUNNING_SHOWN: usize = 4;

/// How often times are drawn anew.
const TICK: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct Bars {
    multi: MultiProgress,
    stages: HashMap<StageIndex, StageBar>,
    running: BTreeMap<TrialId, Trial>,
    /// When what trials report was looked at last.
    looked: Option<Instant>,
    /// The stage whose trials run.
    open: StageIndex,
    workers: u64,
    /// Whether trials run on a cluster, where they wait as well.
    remote: bool,
}

/// A trial that runs.
struct Trial {
    case: String,
    since: Instant,
    glance: Option<Glance>,
    /// What it reported last, and how it went.
    reported: Option<Seen>,
}

struct StageBar {
    bar: ProgressBar,
    counters: StageCounters,
    since: Instant,
    finished_before: u64,
    best: Option<BestSoFar>,
    line: Sparkline,
}

impl Bars {
    pub(super) fn run(mut self, messages: &Receiver<Message>) {
        let _quiet = NoEcho::begin();
        loop {
            match messages.recv_timeout(TICK) {
                Ok(message) => self.show(message),
                Err(RecvTimeoutError::Timeout) => self.draw(self.open),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.running.clear();
        self.draw(self.open);
        for stage in self.stages.values().filter(|stage| !stage.bar.is_finished()) {
            stage.bar.abandon();
        }
    }

    fn print(&self, line: &str) {
        if self.multi.println(sink::line(line)).is_err() {
            say(line);
        }
    }

    fn show(&mut self, message: Message) {
        match message {
            Message::Workers { workers, remote } => (self.workers, self.remote) = (workers.into(), remote),
            Message::Stage { index, name, planned, counters } => {
                if let Some(place) = self.stages.get(&index) {
                    place.bar.set_length(planned);
                    return;
                }
                let bar = self.multi.add(ProgressBar::new(planned));
                bar.set_style(style());
                bar.set_prefix(sink::line(&name));
                bar.reset_elapsed();
                let finished_before = counters.finished();
                let line = Sparkline::default();
                self.stages.insert(
                    index,
                    StageBar { bar, counters, since: Instant::now(), finished_before, best: None, line },
                );
                self.count(index, counters);
            }
            Message::Forget(stage) => {
                if let Some(place) = self.stages.remove(&stage) {
                    self.multi.remove(&place.bar);
                }
            }
            Message::Ended { stage, trial, counters, line, failed, best } => {
                self.running.remove(&trial);
                // What the terminal did not take in time was left out: nothing is shown for longer than it ran.
                while self.running.len() as u64 > counters.running {
                    self.running.pop_first();
                }
                if let Some(line) = line.filter(|_| failed.is_some()) {
                    self.print(&line);
                }
                if let Some(place) = self.stages.get_mut(&stage)
                    && let Some(best) = best
                {
                    place.line.push(best.value);
                    place.best = Some(best);
                }
                self.count(stage, counters);
            }
            Message::Started { stage, trial, case, counters, glance } => {
                self.running.insert(trial, Trial { case, since: Instant::now(), glance, reported: None });
                self.count(stage, counters);
            }
            Message::Closed { stage, counters, line } => {
                self.count(stage, counters);
                if let Some(stage) = self.stages.get(&stage) {
                    stage.bar.abandon();
                }
                self.print(&line);
            }
            Message::Line(line) => self.print(&line),
            Message::Aborted(reason) => self.print(&format!("aborted: {reason}")),
        }
    }

    fn count(&mut self, stage: StageIndex, counters: StageCounters) {
        if let Some(stage) = self.stages.get_mut(&stage) {
            stage.counters = counters;
        }
        self.open = stage;
        self.draw(stage);
    }

    fn draw(&mut self, stage: StageIndex) {
        self.look();
        if let Some(stage) = self.stages.get(&stage) {
            stage.draw(self.workers, self.remote, &self.running_words());
        }
    }

    /// Looks at what the trials report that are shown, not more often than times are drawn anew.
    fn look(&mut self) {
        if self.looked.is_some_and(|looked| looked.elapsed() < TICK) {
            return;
        }
        self.looked = Some(Instant::now());
        let mut running: Vec<_> = self.running.values_mut().collect();
        running.sort_by_key(|trial| trial.since);
        for trial in running.into_iter().take(RUNNING_SHOWN) {
            let seen = trial.glance.as_ref().and_then(Glance::look);
            trial.reported = seen.or(trial.reported.take());
        }
    }

    /// The trials that run, those that have longest first: in one line, or in one each where they report.
    fn running_words(&self) -> Vec<String> {
        let mut running: Vec<_> = self.running.values().collect();
        running.sort_by_key(|trial| trial.since);
        let first = running.iter().take(RUNNING_SHOWN);
        let more = (running.len() > RUNNING_SHOWN).then(|| format!("{} more", running.len() - RUNNING_SHOWN));
        if first.clone().any(|trial| trial.reported.is_some()) {
            let wide = first.clone().map(|trial| columns(&trial.case)).max().unwrap_or(0);
            let line = |trial: &&Trial| {
                let case = format!("{}{}", trial.case, " ".repeat(wide.saturating_sub(columns(&trial.case))));
                let line = format!("{case}  {} s", trial.since.elapsed().as_secs());
                // Beside the two columns that it stands in.
                let room = usize::from(width(&std::io::stderr())).saturating_sub(columns(&line) + 4);
                let words = trial.reported.as_ref().map(|seen| seen.words(room, speaks_unicode()));
                format!("{line}  {}", words.unwrap_or_default())
            };
            return first.map(line).chain(more.map(|more| format!("and {more}"))).collect();
        }
        let pieces = first.map(|trial| format!("{} {} s", trial.case, trial.since.elapsed().as_secs()));
        let pieces: Vec<String> = pieces.chain(more).collect();
        if pieces.is_empty() { Vec::new() } else { vec![format!("running: {}", pieces.join(" · "))] }
    }
}

impl StageBar {
    fn draw(&self, workers: u64, remote: bool, running: &[String]) {
        let (finished, planned) = (self.counters.finished(), self.bar.length().unwrap_or(0));
        let mut words = Vec::new();
        if self.counters.failed > 0 {
            words.push(format!("{} failed", self.counters.failed));
        }
        if self.counters.pruned > 0 {
            words.push(format!("{} pruned", self.counters.pruned));
        }
        words.extend(under_way(self.counters.running, workers, remote));
        let counts = words.len();
        let here = finished.saturating_sub(self.finished_before);
        let elapsed = self.since.elapsed().as_secs_f64();
        if here > 0 && elapsed > 0.0 {
            let rate = here as f64 / elapsed;
            words.push(if rate >= 1.0 { format!("{rate:.1}/s") } else { format!("{:.1}/min", rate * 60.0) });
            let pending = self.counters.pending(planned);
            let took_us = u64::try_from(self.since.elapsed().as_micros()).unwrap_or(u64::MAX);
            let left = time_left(self.counters, pending, workers, remote.then_some((here, took_us)));
            words.extend(left.map(|left| format!("{left} left")));
        } else if finished < planned && self.counters.running > 0 {
            words
                .push(format!("since {}", duration(u64::try_from(self.since.elapsed().as_micros()).unwrap_or(0))));
        }
        let columns = usize::from(width(&std::io::stderr()));
        let used = self.bar.prefix().chars().count() + bar_columns() + format!("{finished}/{planned}").len() + 3;
        if let Some(best) = &self.best {
            let fits = |words: &[String], last: &str| {
                let before: usize = words.iter().map(|word| word.chars().count() + " · ".chars().count()).sum();
                used + before + last.chars().count() <= columns
            };
            let line = self.line.draw(SPARKLINE_COLUMNS, speaks_unicode());
            let drawn = format!("{line} {}", best.words);
            // On a narrow screen the best value goes before how it went, and before the pace.
            let last = if !line.is_empty() && fits(&words, &drawn) { drawn } else { best.words.clone() };
            if !fits(&words, &last) {
                words.truncate(counts);
            }
            words.push(last);
        }
        let below: String = running.iter().map(|line| format!("\n  {}", cut(line, 2))).collect();
        self.bar.set_message(format!("{}{below}", cut(&words.join(" · "), used)));
        self.bar.set_position(finished);
    }
}

/// Trials that run, and those that have ended and count as running until what they left is durable: no more run here than there are workers.
fn under_way(running: u64, workers: u64, remote: bool) -> Vec<String> {
    let run = if remote || workers == 0 { running } else { running.min(workers) };
    let (end, mut words) = (running.saturating_sub(run), Vec::new());
    if run > 0 {
        words.push(format!("{run} running"));
    }
    if end > 0 {
        words.push(format!("{end} ending"));
    }
    words
}

/// As much of a text as fits beside what is used already.
fn cut(text: &str, used: usize) -> String {
    sink::line(text).chars().take(usize::from(width(&std::io::stderr())).saturating_sub(used)).collect()
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template(&format!(
        "{{prefix:.bold}} {{bar:{}.cyan/dim}} {{pos}}/{{len}} {{msg}}",
        bar_columns()
    ))
    .map_or_else(|_| ProgressStyle::default_bar(), |style| style.progress_chars("━╸─"))
}

#[cfg(test)]
mod tests {
    use super::under_way;

    #[test]
    fn no_more_trials_run_than_there_are_workers() {
        assert_eq!(under_way(0, 2, false), [""; 0]);
        assert_eq!(under_way(2, 2, false), ["2 running"]);
        assert_eq!(under_way(5, 2, false), ["2 running", "3 ending"]);
        assert_eq!(under_way(5, 2, true), ["5 running"]);
        assert_eq!(under_way(1, 0, false), ["1 running"], "nobody said yet how many there are");
    }
}

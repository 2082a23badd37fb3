//! Progress as plain lines: for files, pipes and CI logs.
//!
//! A stage with few trials gets a line for each, one with many a line for each whole percent. No line may begin as a
//! command to the CI system that reads it.

use std::collections::HashMap;

use crossbeam_channel::Receiver;
use piton::model::{StageCounters, StageIndex};
use piton::views::counted;

use super::super::github::Github;
use super::super::terminal::{command, say};
use super::message::{Failed, Message, reused_words};

pub(super) struct Lines {
    /// Trials planned, and the percentage printed last.
    stages: HashMap<StageIndex, (u64, u64)>,
    github: Option<Github>,
}

impl Lines {
    /// With `github`, annotations and groups as well.
    pub(super) fn new(github: bool) -> Self {
        Self { stages: HashMap::new(), github: github.then(Github::default) }
    }

    pub(super) fn run(mut self, messages: &Receiver<Message>) {
        for message in messages {
            self.show(message);
        }
        if let Some(github) = &mut self.github {
            github.end().iter().for_each(|line| command(line));
        }
    }

    fn tell(&mut self, lines: impl FnOnce(&mut Github) -> Vec<String>) {
        if let Some(github) = &mut self.github {
            lines(github).iter().for_each(|line| command(line));
        }
    }

    fn show(&mut self, message: Message) {
        match message {
            Message::Stage { index, name, planned, counters } => {
                // A stage that opens with the start of a run is told of twice, and a proposer that has no more makes
                // one shorter than it was announced.
                if self.stages.insert(index, (planned, percent(&counters, planned))).is_some() {
                    return;
                }
                let line = stage_line(index, &name, planned, &counters);
                self.tell(|github| github.begin(&line));
                say(&line);
            }
            Message::Forget(stage) => drop(self.stages.remove(&stage)),
            Message::Ended { stage, counters, line, failed, best, .. } => {
                let (planned, before) = self.stages.get(&stage).copied().unwrap_or_default();
                let now = percent(&counters, planned);
                match line {
                    Some(line) => say(&line),
                    None if now > before => {
                        let best = best.map(|best| format!(", {}", best.words)).unwrap_or_default();
                        say(&format!(
                            "[{}/{planned}] {now}%{}, {} failed{best}",
                            counters.finished(),
                            reused_words(&counters),
                            counters.failed
                        ));
                    }
                    None => {}
                }
                self.stages.insert(stage, (planned, now));
                if let Some(Failed { case, kind, reason, log, again }) = failed {
                    self.tell(|github| github.failed(&case, &kind, &reason, &log, again));
                }
            }
            Message::Workers { .. } | Message::Started { .. } => {}
            Message::Closed { line, .. } => {
                say(&line);
                self.tell(Github::end);
            }
            Message::Line(line) => say(&line),
            Message::Aborted(reason) => {
                say(&format!("aborted: {reason}"));
                self.tell(|github| github.aborted(&reason));
            }
        }
    }
}

fn percent(counters: &StageCounters, planned: u64) -> u64 {
    counters.finished().saturating_mul(100).checked_div(planned).unwrap_or(100)
}

fn stage_line(index: StageIndex, name: &str, planned: u64, counters: &StageCounters) -> String {
    let trials = counted(planned, "trial");
    match counters.finished() {
        0 => format!("stage {index} `{name}`: {trials}"),
        done => format!("stage {index} `{name}`: {trials}, {done} finished before"),
    }
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

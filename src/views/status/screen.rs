//! The status on a screen of any width. It counts nothing: all it says is in [`Status`].

use std::io::Write;

use super::super::ViewError;
use super::super::text::{
    Paint, Screen, clean, columns, counted, duration, fit, number, pad, range_of_durations, wrapped,
};
use super::super::words::{FROM_OTHERS, local_time, micros, taken_words};
use super::queue::remote_words;
use super::{RunTimes, Running, Stage, Status};
use crate::model::words::{bytes, limit_of_bytes};
use crate::model::{RunEnd, StageStatus, StudyStatus};
use crate::plan::StageTrials;

impl Status {
    /// Writes it for people.
    ///
    /// # Errors
    /// [`ViewError::Output`].
    pub fn write_text(&self, screen: Screen, out: &mut dyn Write) -> Result<(), ViewError> {
        self.write_header(screen, out)?;
        let name_width = self.stages.iter().map(|stage| columns(&stage.name)).max().unwrap_or(0).min(24);
        for stage in &self.stages {
            stage.write(name_width, screen, out)?;
        }
        self.write_running(screen, out)?;
        if !self.last_failures.is_empty() {
            writeln!(out, "\n{}", screen.paint(Paint::Bold, "last failures"))?;
        }
        for failure in &self.last_failures {
            let what = format!(
                "  {} #{}  {}: {}",
                clean(&failure.case),
                failure.attempt,
                failure.kind,
                clean(&failure.reason)
            );
            writeln!(out, "{}", screen.paint(Paint::Bad, &screen.line(&what)))?;
            // Whole, however long: people copy it.
            if let Some(log) = &failure.log {
                writeln!(out, "    {}", clean(log))?;
            }
            if failure.discarded {
                writeln!(out, "    (discarded, with its logs)")?;
            }
        }
        if let Some(wait) = &self.waits_for_proposer {
            let since = duration(micros(wait.since_s));
            let words = format!("\nthe proposer of stage `{}` has not answered for {since}", clean(&wait.stage));
            writeln!(out, "{}", screen.paint(Paint::Busy, &words))?;
            writeln!(out, "  {}", wait.hint)?;
            writeln!(out, "  {}", clean(&wait.log))?;
        }
        if let Some(stage) = &self.waits_for_approval {
            writeln!(out, "\nstage `{}` waits for approval", clean(stage))?;
        }
        if let Some(disk) = self.disk {
            let of = disk.limit_bytes.map_or_else(String::new, |limit| format!(" of {}", limit_of_bytes(limit)));
            writeln!(out, "\non disk: {}{of}, {} files and directories", bytes(disk.bytes), disk.inodes)?;
        }
        if let Some(command) = &self.next_command {
            writeln!(out, "\nto go on: {}", screen.paint(Paint::Bold, &clean(command)))?;
        }
        Ok(())
    }

    fn write_header(&self, screen: Screen, out: &mut dyn Write) -> Result<(), ViewError> {
        let (words, paint) = self.in_words();
        let name = screen.line(&clean(&self.study));
        let left = screen.columns().saturating_sub(columns(&name) + 2).max(12);
        let words = fit(&words, left);
        writeln!(out, "{}: {}", screen.paint(Paint::Bold, &name), screen.paint(paint, &words))?;
        // Whole, however long: people copy the cases.
        for words in &self.abort_words {
            writeln!(out, "{words}")?;
        }
        let mut pieces = vec![match &self.engine {
            Some(engine) if engine.alive => {
                format!("engine pid {} on {}", engine.pid, clean(&engine.host))
            }
            _ => "no engine".to_owned(),
        }];
        if let Some(engine) = self.engine.as_ref().filter(|engine| engine.alive) {
            pieces.push(counted(engine.workers, "worker"));
        }
        pieces.push(format!("ran {} in {}", duration(micros(self.runtime_s)), counted(self.runs, "run")));
        pieces.push(counted(self.events, "event"));
        if let Some(run) = self.run_times {
            pieces.push(run.words(self.status == StudyStatus::Running));
        }
        for line in wrapped(&pieces, ", ", screen.columns()) {
            writeln!(out, "{}", screen.line(&line))?;
        }
        // Whole, however long.
        for doubt in &self.doubts {
            writeln!(out, "{}", screen.paint(Paint::Bad, &clean(doubt)))?;
        }
        if let Some(trouble) = &self.cluster_trouble {
            let when = match self.engine.as_ref().is_some_and(|engine| engine.alive) {
                true => "the cluster",
                false => "the cluster, when the last run ended",
            };
            let words = format!("{when}: {}", clean(trouble));
            writeln!(out, "{}", screen.paint(Paint::Bad, &screen.line(&words)))?;
        }
        if let Some(engine) = self.engine.as_ref().filter(|engine| engine.alive && engine.sync_interval_s > 0.0) {
            let window = duration(micros(engine.sync_interval_s));
            let pieces = [
                format!("recorded every {window} at the latest"),
                format!("a crash repeats what ended in the last {window}"),
            ];
            for line in wrapped(&pieces, ": ", screen.columns()) {
                writeln!(out, "{}", screen.line(&line))?;
            }
        }
        Ok(writeln!(out)?)
    }

    fn in_words(&self) -> (String, Paint) {
        match (self.status, &self.engine) {
            (StudyStatus::Created, _) => ("not started yet".into(), Paint::Busy),
            (StudyStatus::Running, _) if self.draining => {
                ("draining: what runs finishes, nothing more starts".into(), Paint::Busy)
            }
            (StudyStatus::Running, _) => ("running".into(), Paint::Good),
            (StudyStatus::Completed, _) => ("completed".into(), Paint::Good),
            (StudyStatus::Aborted, _) => {
                let why = clean(self.abort_reason.as_deref().unwrap_or("no reason recorded"));
                (format!("aborted: {why}"), Paint::Bad)
            }
            _ if self.lost_events > 0 => {
                let lost = counted(self.lost_events, "event");
                (format!("interrupted; {lost} of it were lost with a damaged store"), Paint::Bad)
            }
            _ if self.waits_for_approval.is_some() => {
                ("waits for approval; nothing finished is lost".into(), Paint::Busy)
            }
            // Nothing was cut off: a person approved, amended or took failures back since.
            _ if self
                .run_times
                .and_then(|run| run.how)
                .is_some_and(|how| matches!(how, RunEnd::Waiting | RunEnd::Completed | RunEnd::Aborted)) =>
            {
                ("ready to go on; nothing finished is lost".into(), Paint::Busy)
            }
            _ => ("interrupted; nothing finished is lost".into(), Paint::Busy),
        }
    }

    fn write_running(&self, screen: Screen, out: &mut dyn Write) -> Result<(), ViewError> {
        if self.running.is_empty() {
            return Ok(());
        }
        let alive = self.engine.as_ref().is_some_and(|engine| engine.alive);
        let left = self.running.iter().any(|running| running.remote.is_some());
        let title = match (alive, left) {
            (true, _) => "running",
            (false, false) => "ran when the engine ended; they will run again",
            (false, true) => "left on the cluster; the next run takes them over",
        };
        writeln!(out, "\n{}", screen.paint(Paint::Bold, &screen.line(title)))?;
        let width = self.running.iter().map(|running| columns(&clean(&running.case))).max().unwrap_or(0);
        for running in &self.running {
            let mut line = format!("  {} #{}", pad(&clean(&running.case), width), running.attempt);
            match &running.remote {
                Some(remote) => {
                    line.push_str(&remote_words(remote, running.elapsed_s, running.pending_reason.as_deref()));
                }
                None if alive => line.push_str(&format!("  for {}", duration(micros(running.elapsed_s)))),
                None => {}
            }
            let pid = running.pid.map_or_else(String::new, |pid| format!("  pid {pid}"));
            let reported = running.reported(screen, columns(&line) + columns(&pid));
            // A narrow screen has better use for its columns.
            let fits =
                reported.is_empty() || columns(&line) + columns(&pid) + columns(&reported) <= screen.columns();
            if fits {
                line.push_str(&pid);
                line.push_str(&reported);
            } else {
                line.push_str(&running.reported(screen, columns(&line)));
            }
            writeln!(out, "{}", screen.line(&line))?;
        }
        if self.running_not_shown > 0 {
            writeln!(out, "  and {} more", self.running_not_shown)?;
        }
        if let Some(queue) = &self.cluster_queue {
            queue.write(screen, out)?;
        }
        Ok(())
    }
}

impl Running {
    /// What it reported last, beside so many columns that are used, and how it went if there is room for that. No line is drawn
    /// where nobody looks.
    fn reported(&self, screen: Screen, used: usize) -> String {
        let Some(report) = &self.last_report else { return String::new() };
        let room = if screen.width == 0 { 0 } else { screen.columns().saturating_sub(used + 2) };
        format!("  {}", report.words_within(self.course.as_ref(), room, screen.unicode))
    }
}

impl Stage {
    fn write(&self, name_width: usize, screen: Screen, out: &mut dyn Write) -> Result<(), ViewError> {
        let done = self.trials.finished();
        let name = pad(&fit(&clean(&self.name), name_width), name_width);
        let head = format!("{name}  {:<7}", self.status);
        if self.expected == 0 {
            writeln!(out, "{}", screen.line(head.trim_end()))?;
            let told =
                self.told_words().map(|told| screen.paint(Paint::Faint, &screen.line(&format!("  {told}"))));
            return told.map_or(Ok(()), |told| Ok(writeln!(out, "{told}")?));
        }
        let tail = format!("  {done} of {} done", self.expected);
        let width = screen.columns().saturating_sub(columns(&head) + columns(&tail) + 4).min(40);
        let line =
            if width >= 5 { format!("{head}  [{}]{tail}", self.bar(width)) } else { format!("{head}{tail}") };
        writeln!(out, "{}", screen.line(&line))?;
        for line in wrapped(&self.details(), "; ", screen.columns().saturating_sub(2)) {
            writeln!(out, "{}", screen.paint(Paint::Faint, &screen.line(&format!("  {line}"))))?;
        }
        Ok(())
    }

    /// `#` succeeded, `!` failed, `-` pruned, `>` running, `.` waiting. What is there at all gets at least one column.
    pub(super) fn bar(&self, width: usize) -> String {
        let mut bar = String::new();
        let mut left = width;
        let StageTrials { running, succeeded, failed, pruned, undecided, .. } = self.trials;
        let parts = [(failed, "!"), (pruned + undecided, "-"), (running, ">"), (succeeded, "#")];
        let whole = parts.iter().map(|(count, _)| count).sum::<u64>() >= self.expected;
        let last = parts.iter().rfind(|(count, _)| *count > 0).map(|(_, letter)| *letter);
        for (count, letter) in parts {
            let share = scaled(count, self.expected, width);
            let share = share.max(usize::from(count > 0)).min(left);
            // What rounding left of a bar that is full.
            let share = if whole && last == Some(letter) { left } else { share };
            left -= share;
            // Succeeded first on the screen, though the others get their column first.
            if letter == "#" {
                bar.insert_str(0, &letter.repeat(share))
            } else {
                bar.push_str(&letter.repeat(share))
            }
        }
        bar.push_str(&".".repeat(left));
        bar
    }

    fn told_words(&self) -> Option<String> {
        (self.told > 0).then(|| format!("its proposer is told of {}", counted(self.told, "imported result")))
    }

    fn details(&self) -> Vec<String> {
        let StageTrials { pending, running, succeeded, failed, cancelled, pruned, undecided, .. } = self.trials;
        let taken = taken_words(self.reused, self.imported);
        let mut counts = vec![format!("{succeeded} succeeded{taken}")];
        for (count, word) in [
            (failed, "failed"),
            (pruned, "pruned"),
            (running, "running"),
            (undecided, "undecided"),
            (pending, "pending"),
            (cancelled, "cancelled"),
        ] {
            if count > 0 {
                counts.push(format!("{count} {word}"));
            }
        }
        let mut pieces = vec![counts.join(", ")];
        pieces.extend(self.told_words());
        if let Some(rate) = self.per_minute.filter(|_| self.status == StageStatus::Open) {
            pieces.push(rate_words(rate));
        }
        if let Some([from, to]) = self.eta_s {
            pieces.push(format!("{} left", range_of_durations(micros(from), micros(to))));
        }
        if let Some(best) = &self.best {
            pieces.push(format!("best {} {} ({})", clean(&best.metric), number(best.value), clean(&best.case)));
        }
        if self.survivors_decided == Some(true)
            && self.status != StageStatus::Closed
            && self.expected > self.trials.finished()
        {
            pieces.push("survivors decided: no pending trial can change them".to_owned());
        }
        if let Some(count) = self.ended_after {
            pieces.push(format!("ended early: the first {} count", counted(count, "trial")));
        }
        if self.survivors > 0 {
            pieces.push(counted(self.survivors, "survivor"));
        }
        if self.explorers > 0 {
            pieces.push(counted(self.explorers, "explorer"));
        }
        if self.from_other_survivors {
            pieces.push(FROM_OTHERS.to_owned());
        }
        pieces
    }
}

fn rate_words(per_minute: f64) -> String {
    if per_minute >= 10.0 {
        format!("{per_minute:.0} a minute")
    } else if per_minute >= 1.0 {
        format!("{per_minute:.1} a minute")
    } else if per_minute * 60.0 >= 1.0 {
        format!("{:.1} an hour", per_minute * 60.0)
    } else {
        format!("{:.1} a day", per_minute * 60.0 * 24.0)
    }
}

/// `count` of `whole` in columns, rounded down; never more than `width`.
fn scaled(count: u64, whole: u64, width: usize) -> usize {
    let share = u128::from(count) * width as u128 / u128::from(whole.max(1));
    usize::try_from(share).unwrap_or(width).min(width)
}

impl RunTimes {
    fn words(self, runs: bool) -> String {
        let began = local_time(self.began_ms);
        match self.ended_ms {
            Some(ended_ms) => format!("last run {began} to {}", local_time(ended_ms)),
            None if runs => format!("running since {began}"),
            None => format!("last run began {began}"),
        }
    }
}

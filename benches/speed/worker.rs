//! What this program does in processes of its own, so that each is accounted for alone. Figures go to standard output
//! as one line of JSON.

use std::path::Path;
use std::time::Instant;

use piton::model::{Event, Record, Seq};
use piton::program::engine::{Draft, Observer};
use piton::{Snapshot, Study};

use crate::bench::Fallible;
use crate::measure::print;
use crate::{halving, limits, reuse, stores, studies};

/// One worker, by its name.
pub fn work(args: &[String]) -> Fallible<()> {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["spawn", count, dir] => limits::spawn_loop(count.parse()?, Path::new(dir)),
        ["fsync", file] => limits::fsync_loop(Path::new(file)),
        ["redb", count, batch, file] => limits::redb_loop(count.parse()?, batch.parse()?, Path::new(file)),
        ["closures", store, budget, stop_at] => closures(Path::new(store), budget.parse()?, stop_at.parse()?),
        ["reusing", store, trials, last, how, from @ ..] => {
            let spec = studies::of_reusing(trials.parse()?, last.parse()?, how, from)?;
            let work = if *how == "outputs" { studies::metrics_and_output } else { studies::metrics };
            timed(Study::new(spec).store(Path::new(store)).workers(2).closure(studies::STAGE, work), 0)
        }
        ["amending", store, trials, last] => {
            let spec = studies::of_reusing(trials.parse()?, last.parse()?, "metrics", &[])?;
            reuse::amending(Path::new(store), &Study::new(spec).closure(studies::STAGE, studies::metrics))
        }
        ["look-ups", store, count] => reuse::look_ups(Path::new(store), count.parse()?),
        ["store", store, finished, budget, command @ ..] => {
            let command: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
            stores::write(Path::new(store), finished.parse()?, budget.parse()?, &command)
        }
        ["decisions"] => halving::decide(),
        ["rungs", store, seed, workers, step_us, how] => {
            halving::study(Path::new(store), seed.parse()?, workers.parse()?, step_us.parse()?, how)
        }
        ["stamp", file] => stores::stamp(Path::new(file)),
        _ => Err(format!("no such worker: {words:?}").into()),
    }
}

/// When the first and the last trial of a run were told to be on disk.
struct Timer {
    begun: Instant,
    first_s: f64,
    last_s: f64,
    ended: u64,
    reused: u64,
    stop_at: u64,
    shutdown: piton::ShutdownHandle,
}

impl Observer for Timer {
    fn committed(&mut self, _: Seq, record: &Record, _: &Draft) {
        match record.event {
            Event::StageOpened { .. } => self.first_s = self.begun.elapsed().as_secs_f64(),
            Event::AttemptEnded(_) | Event::TrialReused(_) => {
                self.ended += 1;
                self.reused += u64::from(matches!(record.event, Event::TrialReused(_)));
                self.last_s = self.begun.elapsed().as_secs_f64();
                if self.ended == self.stop_at {
                    self.shutdown.drain();
                }
            }
            _ => {}
        }
    }

    fn ended(&mut self, _: &Snapshot) {}
}

/// A study of closures, stopped after so many trials.
fn closures(store: &Path, budget: u64, stop_at: u64) -> Fallible<()> {
    let study = Study::new(studies::of_closures(budget)?).store(store).workers(2);
    timed(study.closure(studies::STAGE, studies::metrics), stop_at)
}

/// Runs a study, which is stopped after so many trials, and tells what it took.
fn timed(study: Study, stop_at: u64) -> Fallible<()> {
    let begun = Instant::now();
    let shutdown = study.shutdown_handle();
    let mut timer = Timer { begun, first_s: 0.0, last_s: 0.0, ended: 0, reused: 0, stop_at, shutdown };
    study.run_observed(&mut timer)?;
    print(&serde_json::json!({
        "trials": timer.ended,
        "reused": timer.reused,
        "trials_s": timer.last_s - timer.first_s,
        "whole_s": begun.elapsed().as_secs_f64(),
    }))
}

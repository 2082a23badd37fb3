//! Inputs while trials run: a result counts only if the inputs were found unchanged after it was made.
//!
//! A thread of its own looks at them: whenever attempts have ended, before the loop hears of that, and now and then
//! besides, so that a change is noticed while trials run and not when they have. They were the same when the run began,
//! so whatever is recorded was made with what is recorded, whenever the engine dies. It must never let a result pass that
//! it could not vouch for.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use crate::executor::{AttemptReport, Differs, ExecutorEvent};
use crate::journal::{JournalError, Snapshot};
use crate::model::{AttemptNo, ExecutorKind, TrialId, UnixMs, Verdict};
use crate::study_file::watching::Showing;
use crate::study_file::{CaseFiles, Found, Inputs, Spec, changed_inputs};
use crate::sys::tree_hash::CutOff;

/// How often inputs are looked at while no attempt ends.
const EVERY: Duration = Duration::from_secs(1);

/// A look may take one part in so many of the time, where nothing waits for it; and where attempts that ended do.
const IDLE_SHARE: u32 = 50;
const BUSY_SHARE: u32 = 4;

/// Attempts that ended wait no longer than this for the next look to begin.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// A run that is to end waits so long for what ended before to be vouched for.
const LAST_LOOK: Duration = Duration::from_secs(5);

/// When looks are given up, once that is known.
type Hurry = Arc<OnceLock<Instant>>;

/// Inputs, and what they were when they were found to be as recorded.
#[derive(Clone, Debug)]
pub(crate) struct WatchedInputs {
    /// Ready to be looked at again.
    pub inputs: Inputs,
    /// What they were.
    pub found: Found,
}

/// Attempts of an earlier run, and when they started.
pub(super) type Adopted = HashMap<(TrialId, AttemptNo), UnixMs>;

/// Attempts that outlived their engine: nobody looked at the inputs while there was none.
pub(super) fn adopted(snapshot: &Snapshot, kind: ExecutorKind) -> Result<Adopted, JournalError> {
    let mut adopted = Adopted::new();
    if !kind.is_remote() {
        return Ok(adopted);
    }
    for row in snapshot.running()? {
        let attempts = match row.trial {
            TrialId::BASE => snapshot.study()?.base.map(|base| base.attempts),
            trial => snapshot.trial(trial)?.map(|row| row.attempts),
        };
        let started = attempts.and_then(|attempts| attempts.last().map(|attempt| attempt.started_ms));
        adopted.extend(started.map(|at_ms| ((row.trial, row.attempt), at_ms)));
    }
    Ok(adopted)
}

/// Who looks.
pub(super) enum Looker {
    /// There is nothing to look at.
    Off,
    /// A thread. It ends by itself when this is dropped; nobody waits for it, since a file system may hang.
    Thread { reports: Sender<ExecutorEvent>, hurry: Hurry },
    /// The loop itself, in a simulation.
    #[cfg(test)]
    Inline(Box<InputWatch>),
}

impl Looker {
    pub(super) fn start(
        watched: Option<WatchedInputs>,
        spec: &Arc<Spec>,
        adopted: Adopted,
        events: Sender<ExecutorEvent>,
    ) -> io::Result<Self> {
        let Some(WatchedInputs { inputs, found }) = watched.filter(|watched| !watched.inputs.is_empty()) else {
            return Ok(Self::Off);
        };
        let hurry = Hurry::default();
        let look = InputWatch {
            spec: Arc::clone(spec),
            inputs,
            found,
            adopted,
            hurry: Arc::clone(&hurry),
            differs: None,
            unseen: None,
            warned: HashSet::new(),
        };
        simulated!(|_machine| Ok(Self::Inline(Box::new(look))));
        // As many as there are attempts at once, at most.
        let (reports, inbox) = crossbeam_channel::unbounded();
        std::thread::Builder::new().name("inputs".into()).spawn(move || work(look, &inbox, &events))?;
        Ok(Self::Thread { reports, hurry })
    }

    /// Looks at the inputs after an attempt ended, or has shown something. What is known at once is returned; the rest comes as an
    /// event.
    pub(super) fn look_after(&mut self, event: ExecutorEvent) -> Vec<ExecutorEvent> {
        match self {
            Self::Off => vec![event],
            Self::Thread { .. } if !says_anything(&event) => vec![event],
            Self::Thread { reports, .. } => match reports.send(event) {
                Ok(()) => Vec::new(),
                Err(lost) => {
                    let why = "nobody looks at the inputs any more".to_owned();
                    let doubted = doubted(lost.into_inner(), why.clone());
                    std::iter::once(ExecutorEvent::Broken(why)).chain(doubted).collect()
                }
            },
            #[cfg(test)]
            Self::Inline(look) => look.after(vec![event]),
        }
    }

    /// The run is to end soon: a look that takes longer than [`LAST_LOOK`] from now on is given up.
    pub(super) fn hurry(&self) {
        if let Self::Thread { hurry, .. } = self {
            hurry.get_or_init(|| Instant::now() + LAST_LOOK);
        }
    }
}

/// Whether an attempt's end, or what it shows, says anything of its trial.
fn says_anything(event: &ExecutorEvent) -> bool {
    match event {
        ExecutorEvent::Ended(report) => {
            let counts = matches!(report.verdict, Verdict::Succeeded { .. } | Verdict::Failed(_));
            counts || !report.shown.is_nothing()
        }
        _ => true,
    }
}

/// An attempt that nobody can vouch for runs again, and has shown nothing.
fn doubted(event: ExecutorEvent, reason: String) -> Option<ExecutorEvent> {
    let ExecutorEvent::Ended(report) = event else { return None };
    let verdict = match report.verdict {
        Verdict::Succeeded { .. } | Verdict::Failed(_) => Verdict::Interrupted { reason },
        other => other,
    };
    Some(ExecutorEvent::Looked(Box::new(AttemptReport { verdict, shown: Showing::default(), ..*report })))
}

/// An attempt's end, or what it shows, that the inputs vouch for.
fn vouched(event: ExecutorEvent) -> ExecutorEvent {
    match event {
        ExecutorEvent::Ended(report) => ExecutorEvent::Looked(report),
        ExecutorEvent::Shown { trial, attempt, shown, .. } => {
            ExecutorEvent::Shown { trial, attempt, shown, looked: true }
        }
        other => other,
    }
}

fn work(mut look: InputWatch, reports: &Receiver<ExecutorEvent>, events: &Sender<ExecutorEvent>) {
    let (mut took, mut ended) = (Duration::ZERO, Instant::now());
    loop {
        let first = reports.recv_timeout(EVERY.max(took.saturating_mul(IDLE_SHARE)));
        let mut ended_attempts = match first {
            Ok(report) => vec![report],
            Err(RecvTimeoutError::Timeout) => Vec::new(),
            Err(RecvTimeoutError::Disconnected) => return,
        };
        if !ended_attempts.is_empty() {
            let not_before = ended + took.saturating_mul(BUSY_SHARE).min(WAIT_MAX);
            std::thread::sleep(not_before.saturating_duration_since(Instant::now()));
            ended_attempts.extend(reports.try_iter());
        }
        let begun = Instant::now();
        let told = look.after(ended_attempts);
        ended = Instant::now();
        took = ended.saturating_duration_since(begun);
        for event in told {
            if events.send(event).is_err() {
                return;
            }
        }
    }
}

/// What is known of the inputs.
#[derive(Debug)]
pub(super) struct InputWatch {
    spec: Arc<Spec>,
    inputs: Inputs,
    /// As recorded.
    found: Found,
    adopted: Adopted,
    hurry: Hurry,
    /// Once they differed, nothing that still runs can count.
    differs: Option<String>,
    unseen: Option<String>,
    /// Files of which it was said that they were written.
    warned: HashSet<PathBuf>,
}

/// What a look finds.
enum Seen {
    Same,
    Differ(Vec<String>),
    Unreadable(String),
    /// The run was to end before it was known.
    GivenUp,
}

impl InputWatch {
    /// Looks, and says what becomes of attempts that had ended before.
    fn after(&mut self, ended: Vec<ExecutorEvent>) -> Vec<ExecutorEvent> {
        let mut told = Vec::new();
        if self.differs.is_none() && self.unseen.is_none() {
            match self.look() {
                Seen::Same => {}
                Seen::Differ(changes) => {
                    self.differs = Some(format!("an input changed while it ran: {}", changes.join("; ")));
                    told.push(ExecutorEvent::Differs(Differs::Inputs(changes)));
                }
                Seen::Unreadable(why) => {
                    told.push(ExecutorEvent::Broken(why.clone()));
                    self.unseen = Some(why);
                }
                Seen::GivenUp => {
                    self.unseen = Some("the run ended before its inputs had been looked at".to_owned());
                }
            }
        }
        for event in ended {
            let of = match &event {
                ExecutorEvent::Ended(report) => Some((report.trial, report.attempt)),
                ExecutorEvent::Shown { trial, attempt, .. } => Some((*trial, *attempt)),
                _ => None,
            };
            match of.and_then(|of| self.doubt(of)).filter(|_| !injected_fault!(InputsNotAsked)) {
                Some(why) => told.extend(doubted(event, why)),
                None => told.push(vouched(event)),
            }
        }
        told
    }

    fn look(&mut self) -> Seen {
        let watch = || match self.hurry.get() {
            Some(until) if Instant::now() >= *until => Err(io::Error::other(CutOff)),
            _ => Ok(()),
        };
        match self.inputs.look(&watch) {
            Ok(found) if found.hashes == self.found.hashes => {
                for path in self.inputs.take_rewritten() {
                    if self.warned.insert(path.clone()) {
                        let name = path.display();
                        log::warn!(
                            "the input `{name}` was written, replaced or moved while trials ran, and says what it said before"
                        );
                    }
                }
                Seen::Same
            }
            Ok(found) => {
                let recorded = (self.found.hashes.as_slice(), self.found.lists.as_slice());
                let changes =
                    changed_inputs((&self.spec, CaseFiles::AreInputs), recorded, &found, &mut self.inputs);
                match changes.is_empty() {
                    true => Seen::Same,
                    false => Seen::Differ(changes.iter().map(ToString::to_string).collect()),
                }
            }
            Err(error) => match error.is_gone() {
                Some(gone) => Seen::Differ(vec![gone]),
                None if error.is_cut_off() => Seen::GivenUp,
                None => Seen::Unreadable(error.words()),
            },
        }
    }

    /// Why an attempt that has ended does not count.
    fn doubt(&self, attempt: (TrialId, AttemptNo)) -> Option<String> {
        let unseen = || {
            let started_ms = self.adopted.get(&attempt)?;
            let written = self.inputs.changed_ms() > *started_ms;
            written.then(|| "inputs were written after it started, while no engine looked".to_owned())
        };
        self.differs.clone().or_else(|| self.unseen.clone()).or_else(unseen)
    }
}

#[cfg(test)]
mod tests {
    use crate::Study;
    use std::fs;

    use super::*;
    use crate::model::{Metrics, Usage};
    use crate::sys::fault_injection::{Fault, plant};
    use crate::sys::tree_hash::to_the_end;

    fn look(dir: &std::path::Path, adopted: Adopted) -> InputWatch {
        let stage = crate::Stage::argv("a", ["true"]).budget(1).survivors(1);
        let spec = Study::builder("s").input("in").stage(stage).spec().unwrap();
        let mut inputs = Inputs::of(&spec, dir, &[]);
        let found = inputs.look(&to_the_end).unwrap();
        let (hurry, warned) = (Arc::default(), HashSet::new());
        let spec = Arc::new(spec);
        InputWatch { spec, inputs, found, adopted, hurry, differs: None, unseen: None, warned }
    }

    fn report(trial: u64) -> AttemptReport {
        let verdict = Verdict::Succeeded { metrics: Metrics::new(), outputs: Vec::new() };
        AttemptReport {
            trial: TrialId(trial),
            attempt: 1,
            ended_ms: 0,
            exit: None,
            usage: Usage::default(),
            verdict,
            shown: Showing::default(),
        }
    }

    /// Which of two reported ends count, and how often a report said that inputs differ.
    fn told(look: &mut InputWatch) -> (Vec<bool>, usize) {
        let ended = |trial| ExecutorEvent::Ended(Box::new(report(trial)));
        let events = look.after(vec![ended(0), ended(1)]);
        let differs = events.iter().filter(|event| matches!(event, ExecutorEvent::Differs(_))).count();
        let counted = events.iter().filter_map(|event| match event {
            ExecutorEvent::Looked(report) => Some(matches!(report.verdict, Verdict::Succeeded { .. })),
            _ => None,
        });
        (counted.collect(), differs)
    }

    #[test]
    fn nothing_counts_once_an_input_differed_also_when_it_is_put_back() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("in"), "1").unwrap();
        let mut watching = look(dir.path(), Adopted::new());
        assert_eq!(told(&mut watching), (vec![true, true], 0));
        fs::write(dir.path().join("in"), "2").unwrap();
        let mut careless = watching_again(&watching);
        assert_eq!(told(&mut watching), (vec![false, false], 1));
        fs::write(dir.path().join("in"), "1").unwrap();
        assert_eq!(told(&mut watching), (vec![false, false], 0));
        // Without the measure a mixed result would count.
        fs::write(dir.path().join("in"), "2").unwrap();
        plant(Some(Fault::InputsNotAsked));
        let (counted, _) = told(&mut careless);
        plant(None);
        assert_eq!(counted, [true, true]);
    }

    #[test]
    fn a_run_that_ends_vouches_for_what_it_can_and_is_not_broken() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("in")).unwrap();
        fs::write(dir.path().join("in/a"), "1").unwrap();
        let mut watching = look(dir.path(), Adopted::new());
        watching.hurry.set(Instant::now() + Duration::from_secs(3_600)).unwrap();
        assert_eq!(told(&mut watching), (vec![true, true], 0));
        let mut late = InputWatch { hurry: Arc::new(OnceLock::from(Instant::now())), ..watching_again(&watching) };
        let events = late.after(vec![ExecutorEvent::Ended(Box::new(report(0)))]);
        assert!(
            matches!(&events[..], [ExecutorEvent::Looked(report)] if matches!(report.verdict, Verdict::Interrupted { .. })),
            "{events:?}"
        );
    }

    fn watching_again(look: &InputWatch) -> InputWatch {
        InputWatch {
            spec: Arc::clone(&look.spec),
            inputs: look.inputs.clone(),
            found: look.found.clone(),
            adopted: look.adopted.clone(),
            hurry: Arc::default(),
            differs: None,
            unseen: None,
            warned: HashSet::new(),
        }
    }

    #[test]
    fn an_adopted_attempt_counts_only_if_inputs_were_written_before_it() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("in"), "1").unwrap();
        let key = |trial| (TrialId(trial), 1);
        let adopted = Adopted::from([(key(0), 0), (key(1), UnixMs::MAX)]);
        assert_eq!(told(&mut look(dir.path(), adopted)), (vec![false, true], 0));
    }
}

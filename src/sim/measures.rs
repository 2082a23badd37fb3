//! Each safety measure left out in its turn: a simulation that does not notice is worth nothing.

use std::time::Instant;

use super::hunt::Hunt;
use crate::sys::fault_injection::{Fault, plant};

/// Images looked at for one fault, at most.
const IMAGES: u64 = 1_500;

/// The study that shows what this measure is for.
fn study(fault: Fault) -> &'static str {
    use Fault::*;
    match fault {
        ReadyKept | LateReportAccepted | InterruptedTakesRetry | InterruptedForgetsFailures | ClosedEarly => {
            "retries"
        }
        RailsByArrival => "rails",
        OutsideSurvives => "ended",
        DirectoryNotSynced => "gated",
        OutputsNotSynced | OutputsWayNotSynced | DirectoriesNotDurable => "outputs",
        NewEntryNotSynced => "staged_outputs",
        InputsNotAsked => "inputs",
        ParentNotAsked | ParentNotAskedAgain => "inherited",
        SurvivorsByTrial | StandsByNumber | OrphansStay | ReopenedApart | SettledInPart | SettledScratchKept => {
            "mended"
        }
        LaterStagesGoOn => "mended_remotely",
        IndexBeforeResult | TakenNotSynced => "reused",
        TakenUnchecked => "taken",
        DoubtForgotten | DoubtUntold => "doubted",
        RereadApart => "reread",
        AcceptedApart => "accepted",
        BaseKeptApart => "based_again",
        RoundsApart => "repeated",
        RoundNotWhole => "raced",
        AdoptedHaveNothing => "shared_remotely",
        ScratchNotSynced | ScratchClearedLate => "scratched",
        AsideNotSynced => "aside",
        ImportedNotSynced | ImportedInPart => "imported",
        DoubtfulHeirsKept => "halved_heirs",
        DoubtfulKept => "halved_inputs",
        UnlinkedBeforeRecorded | DiscardedWhileNeeded | DiscardNotResumed | DiscardNotSynced => "kept",
        UndecidedCounts | DecidedByArrival | RungsForgotten | LateShownAccepted | PrunedBeforeCommit => "halved",
        _ => "two_stages",
    }
}

/// `PITON_SIM_FAULT=RowsApart`, together with the seed that finds it.
pub(super) fn planted_by_name() -> Option<Fault> {
    let name = std::env::var("PITON_SIM_FAULT").ok()?;
    let fault = Fault::ALL.into_iter().find(|fault| format!("{fault:?}") == name);
    Some(fault.unwrap_or_else(|| panic!("there is no fault `{name}`")))
}

/// Looks for one injected fault; how it was found.
fn hunted(fault: Fault) -> Result<String, String> {
    let began = Instant::now();
    let mut hunt = Hunt::named(study(fault)).unwrap();
    assert!(hunt.runs(), "without a fault the study runs: {:?}", hunt.figures.found);
    (hunt.most_images, hunt.shuffled, hunt.chain_percent) = (IMAGES, true, 20);
    plant(Some(fault));
    if fault != Fault::CommitErrorIgnored {
        hunt.crash_everywhere(1, None);
    } else {
        hunt.fail_everywhere(1);
    }
    plant(None);
    let (images, seconds) = (hunt.figures.images, began.elapsed().as_secs_f64());
    match hunt.figures.found.first() {
        Some((seed, broken)) => {
            let broken: String = broken.chars().take(110).collect();
            Ok(format!("| {fault:?} | `{seed}` | {images} | {broken} |  {seconds:.1} s"))
        }
        None => Err(format!("{fault:?} goes unnoticed in {images} images")),
    }
}

/// A panic on the way is a find as any other; its words are not wanted here.
fn in_silence<T>(act: impl FnOnce() -> T) -> T {
    std::panic::set_hook(Box::new(|_| {}));
    let result = act();
    drop(std::panic::take_hook());
    result
}

/// The faults are shared by so many tests, which run at once.
const PARTS: usize = 6;

fn all_found(part: usize) {
    let faults = Fault::ALL.into_iter().skip(part).step_by(PARTS);
    let found: Vec<_> = in_silence(|| faults.map(hunted).collect());
    found.iter().for_each(|line| println!("{}", line.as_ref().unwrap_or_else(|unnoticed| unnoticed)));
    println!("figure: {} safety measures left out, {} noticed", found.len(), found.iter().flatten().count());
    let unnoticed: Vec<_> = found.into_iter().filter_map(Result::err).collect();
    assert_eq!(unnoticed, Vec::<String>::new());
}

macro_rules! shared {
    ($($name:ident: $part:expr),*) => {
        $(
            #[test]
            fn $name() {
                all_found($part);
            }
        )*
        // A part without a test would be looked for by nobody.
        const _: () = assert!([$($part),*].len() == PARTS);
    };
}
shared! {
    every_fault_is_found_1: 0, every_fault_is_found_2: 1, every_fault_is_found_3: 2, every_fault_is_found_4: 3,
    every_fault_is_found_5: 4, every_fault_is_found_6: 5
}

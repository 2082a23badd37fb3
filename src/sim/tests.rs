//! What runs every day: each small study crashed everywhere, larger ones anywhere, and operations that fail.

use std::time::{Duration, Instant};

use super::hunt::{Figures, Hunt, Seed};
use super::measures;
use crate::model::Event;
use crate::sys::fault_injection;

/// Says what was looked at, and how to see again what was found.
fn report(name: &str, figures: &Figures, began: Instant) {
    println!("figure: simulation of `{name}`: {figures}, in {:.1} s", began.elapsed().as_secs_f64());
    for (seed, broken) in &figures.found {
        println!("PITON_SIM_SEED={seed} cargo test --lib sim::tests::one_seed -- --nocapture   # {broken}");
    }
    assert!(figures.found.is_empty(), "promises are broken, see above");
}

/// Of first crashes so many in a hundred are followed by four more, each while the one before is recovered from.
const CHAIN_PERCENT: u64 = 17;

fn everywhere(name: &str) {
    let began = Instant::now();
    let mut hunt = Hunt::named(name).unwrap();
    if hunt.runs() {
        hunt.chain_percent = CHAIN_PERCENT;
        hunt.crash_everywhere(1, None);
    }
    report(name, &hunt.figures, began);
    assert!(hunt.figures.images > 300, "a study has more operations than that");
}

macro_rules! crashed_everywhere {
    ($($study:ident),*) => {$(
        #[test]
        fn $study() {
            everywhere(stringify!($study));
        }
    )*};
}
crashed_everywhere! {
    two_stages, outputs, staged_outputs, retries, rails, rate, catastrophes, amended, extended, drained, timeouts, gated,
    based, reset, mended, mended_reusing, mended_keeping, mended_remotely, remote, inputs, inherited, reused, taken,
    reused_remotely, doubted, doubted_remotely, reread, reread_reusing, imported, based_again, accepted, scratched, aside,
    halved, halved_remotely, halved_inputs, halved_heirs, stopped, kept, swept, kept_mended, repeated, explored, ended, raced,
    shared, shared_remotely
}

/// Otherwise its simulation would show nothing.
#[test]
fn what_is_mended_has_later_trials_that_stand_and_some_that_do_not() {
    let events = Hunt::named("mended").unwrap().undisturbed();
    let replanned = events.iter().filter_map(|event| match event {
        Event::StageReplanned(replanned) => Some((replanned.stage, replanned.anew.clone())),
        _ => None,
    });
    let replanned: Vec<_> = replanned.collect();
    // The second stage keeps one parent's children; of the third, orphans go at once, and the rest is settled when it can be.
    assert_eq!(replanned.len(), 3, "{replanned:?}");
    assert_eq!(replanned[0], (1, vec![(2, 2)]));
    assert!(replanned[1..].iter().all(|(stage, anew)| *stage == 2 && *anew == [(0, 1)]), "{replanned:?}");
}

/// Every operation of these fails in its turn, once or from then on; then the machine stops, too.
fn failing(name: &str) {
    let began = Instant::now();
    let mut hunt = Hunt::named(name).unwrap();
    hunt.chain_percent = 0;
    if hunt.runs() {
        hunt.fail_everywhere(1);
    }
    report(&format!("{name}, failing"), &hunt.figures, began);
    assert!(hunt.figures.failures > 200, "a study has more operations than that");
}

#[test]
fn failing_two_stages() {
    failing("two_stages");
}

#[test]
fn failing_outputs() {
    failing("outputs");
}

#[test]
fn failing_staged_outputs() {
    failing("staged_outputs");
}

#[test]
fn a_seed_repeats_it_all() {
    let seen = |seed: u64| {
        let mut hunt = Hunt::named("retries").unwrap();
        hunt.traced = true;
        hunt.crash_everywhere(seed, Some((100, 2)));
        hunt.crash_somewhere(seed, 0);
        hunt.figures.trace
    };
    assert_eq!(seen(1), seen(1));
    assert_ne!(seen(1), seen(2));
}

/// One run of a study made up by chance, crashed at moments chosen by chance.
fn somewhere(seed: u64) -> Figures {
    let mut hunt = Hunt::named(&format!("random_{seed}")).unwrap();
    for variant in 0..4 {
        if hunt.runs() {
            hunt.crash_somewhere(seed, variant);
        }
    }
    hunt.figures
}

/// Whatever is read again, the study is what it would be had the rules been there from its beginning.
#[test]
fn what_is_read_again_is_what_it_would_have_been() {
    for name in ["reread", "reread_reusing"] {
        let hunt = Hunt::named(name).unwrap();
        assert_eq!(hunt.gives_what_the_amended_study_gives(), Ok(()), "{name}");
    }
}

/// With and without reuse, and whatever crashes.
#[test]
fn random_studies_that_reuse() {
    let (began, mut figures) = (Instant::now(), Figures::default());
    for seed in 0..15 {
        let name = format!("reusing_{seed}");
        let mut hunt = Hunt::named(&name).unwrap();
        if hunt.runs() {
            assert_eq!(hunt.gives_what_running_everything_gives(), Ok(()), "{name}");
            hunt.crash_somewhere(seed, 0);
            hunt.crash_somewhere(seed, 1);
        }
        figures.add(hunt.figures);
    }
    report("random studies that reuse", &figures, began);
}

#[test]
fn random_studies() {
    let (began, mut figures) = (Instant::now(), Figures::default());
    (0..25).for_each(|seed| figures.add(somewhere(seed)));
    report("random studies", &figures, began);
}

/// `PITON_SIM_SECONDS=3600 cargo test --release --lib sim::tests::for_long -- --nocapture`: other seeds every time.
#[test]
fn for_long() {
    let seconds = std::env::var("PITON_SIM_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(3);
    let (began, mut figures) = (Instant::now(), Figures::default());
    let from: u64 = u64::from(std::process::id()) << 32 | began.elapsed().subsec_nanos() as u64;
    let first = std::env::var("PITON_SIM_FROM").ok().and_then(|text| text.parse().ok()).unwrap_or(from);
    let mut seed = first;
    while (seed == first || began.elapsed() < Duration::from_secs(seconds)) && figures.found.is_empty() {
        figures.add(somewhere(seed));
        seed += 1;
    }
    report(&format!("seeds {first} to {seed}"), &figures, began);
}

/// `PITON_SIM_SEED=… cargo test --lib sim::tests::one_seed -- --nocapture` sees again what a seed names.
#[test]
fn one_seed() {
    let seed = std::env::var("PITON_SIM_SEED").unwrap_or_else(|_| "two_stages/1/crash/40/2".into());
    let seed: Seed = seed.parse().unwrap();
    let began = Instant::now();
    let mut hunt = Hunt::named(&seed.study).expect("there is no such study");
    fault_injection::plant(measures::planted_by_name());
    // Whatever the chain of a small study's image was cut to, the first crashes of it are the same.
    hunt.repeat(&seed);
    fault_injection::plant(None);
    report(&seed.to_string(), &hunt.figures, began);
    assert!(hunt.figures.images > 0, "the seed names nothing");
}

//! The hunt: one study, crashed everywhere, and every image of it brought to its end, with crashes on the way.
//!
//! One run of a study gives the images of a crash before each of its operations. Each is checked as it is, then run to
//! its end; that run may crash in turn, up to [`DEPTH`] times. What is found is named by a seed that finds it again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::str::FromStr;

use super::disk::{Files, Loss};
use super::play::{Announced, DIR, User};
use super::promises::{Broken, hold_after_crash, hold_at_end};
use super::random::Random;
use super::studies::{self, Exports, Meddled, Scenario};
use super::world::{Camera, Failure, INPUT, Image, Meddler, World};
use crate::error::Error;
use crate::model::Event;
use crate::sys::fault_injection::{Fault, plant};

/// Crashes in a row, at most.
pub(super) const DEPTH: usize = 5;

/// What names one image of one study.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seed {
    pub(super) study: String,
    /// Of the run's chance: when trials end, how often fsyncs are slow.
    pub(super) run: u64,
    /// The operation before which the first crash comes, or which fails.
    pub(super) op: u64,
    /// Which image of that moment; or how it fails.
    pub(super) variant: usize,
    /// Whether the operation fails instead.
    pub(super) fails: bool,
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.fails { "fails" } else { "crash" };
        write!(f, "{}/{}/{how}/{}/{}", self.study, self.run, self.op, self.variant)
    }
}

impl FromStr for Seed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split('/').collect();
        let [study, run, how, op, variant] = parts[..] else { return Err(format!("`{text}` is no seed")) };
        let number = |text: &str| text.parse::<u64>().map_err(|error| format!("`{text}`: {error}"));
        Ok(Self {
            study: study.into(),
            run: number(run)?,
            op: number(op)?,
            variant: number(variant)? as usize,
            fails: how == "fails",
        })
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Figures {
    /// Images of crashed disks, each checked and run to its end.
    pub(super) images: u64,
    /// Of these, images of crashes that came while an earlier crash was recovered from.
    pub(super) chained: u64,
    /// Runs in which an operation failed.
    pub(super) failures: u64,
    /// Operations of all runs before whose first crash.
    pub(super) operations: u64,
    pub(super) losses: BTreeMap<&'static str, u64>,
    /// The disks that were seen, and what had been told by then, in one hash; 0 unless it is wanted.
    pub(super) trace: u64,
    pub(super) found: Vec<(Seed, Broken)>,
}

impl Figures {
    pub(super) fn add(&mut self, other: Self) {
        self.images += other.images;
        self.chained += other.chained;
        self.failures += other.failures;
        self.operations += other.operations;
        for (loss, count) in other.losses {
            *self.losses.entry(loss).or_default() += count;
        }
        self.found.extend(other.found);
    }

    fn count(&self, word: &str) -> usize {
        self.found.iter().filter(|(_, broken)| broken.contains(word)).count()
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} crash images ({} of crashes while recovering; {} operations; {} failing operations): lost {}, doubled \
             {}, other promises broken {}",
            self.images,
            self.chained,
            self.operations,
            self.failures,
            self.count("lost"),
            self.count("doubled"),
            self.found.len() - self.count("lost") - self.count("doubled"),
        )
    }
}

/// One study, and what its result is when nothing happens to it.
pub(super) struct Hunt {
    pub(super) scenario: Scenario,
    /// `None`: not even an undisturbed run gives one.
    expected: Result<String, Broken>,
    pub(super) figures: Figures,
    /// How many first crashes of a hundred are followed by others, [`DEPTH`] in a row.
    pub(super) chain_percent: u64,
    /// Where to stop.
    pub(super) most_images: u64,
    /// Whether images are followed in an order of chance, not in that of the run.
    pub(super) shuffled: bool,
    /// Whether what is seen is hashed.
    pub(super) traced: bool,
}

/// How a run on a disk came out.
struct Ran {
    told: Announced,
    result: Result<(), Error>,
    wrong: Vec<String>,
}

fn fresh(scenario: &Scenario, random: Random, camera: Camera) -> World {
    let dir = Path::new(DIR);
    let mut files = if scenario.neighbour { Files::new(&dir.join("artifacts")) } else { Files::new(dir) };
    files.lay(Path::new(INPUT), b"one");
    for (params, _, outputs) in &scenario.imported {
        if let Some(dir) = outputs {
            files.lay_dir(&dir.path());
            files.lay(&dir.path().join("result.bin"), format!("theirs: {params:?}").as_bytes());
        }
    }
    World::new(files, random, 0, camera)
}

fn run(scenario: &Scenario, world: &World, seed: u64, told: Announced) -> Result<Ran, Broken> {
    {
        let mut state = world.state();
        state.exports_fail = scenario.exports == Exports::Never;
        state.meddler = (scenario.meddled == Meddled::Input).then(|| Meddler {
            path: INPUT.into(),
            random: Random::of(&[seed, 17]),
            left: 2,
        });
    }
    let user = User::new(scenario, world.clone(), seed, told);
    let played = catch_unwind(AssertUnwindSafe(|| user.play()));
    let told = user.told.borrow().clone();
    let mut wrong = user.wrong.borrow().clone();
    match played {
        Ok(result) => {
            if result.is_ok() && !user.leftovers().is_empty() {
                wrong.push(format!("13: left over: {:?}", user.leftovers()));
            }
            Ok(Ran { told, result: result.map(drop), wrong })
        }
        Err(panic) => {
            let words = panic.downcast_ref::<String>().cloned();
            let words = words.or_else(|| panic.downcast_ref::<&str>().map(|words| (*words).to_owned()));
            Err(format!("10: a panic: {}", words.unwrap_or_default()))
        }
    }
}

fn in_words(error: &dyn std::error::Error) -> String {
    let cause = error.source().map_or_else(String::new, |cause| format!(": {}", in_words(cause)));
    format!("{error}{cause}")
}

/// A run that had no reason to fail.
fn run_well(scenario: &Scenario, world: &World, seed: u64, told: Announced) -> Result<Announced, Broken> {
    let ran = run(scenario, world, seed, told)?;
    if let Some(wrong) = ran.wrong.into_iter().next() {
        return Err(wrong);
    }
    ran.result.map_err(|error| format!("10: it does not go on: {}", in_words(&error)))?;
    Ok(ran.told)
}

impl Hunt {
    /// Runs the study once, undisturbed and with one worker: what it gives then it must give whatever happens.
    pub(super) fn of(scenario: Scenario) -> Self {
        let alone = Scenario { workers: 1, meddled: Meddled::Nothing, ..scenario.clone() };
        let world = fresh(&alone, Random::new(0), Camera::Off);
        let told = run_well(&alone, &world, 0, Vec::new());
        let expected = told.and_then(|told| hold_at_end(&world, &told, &alone, true));
        let figures = Figures::default();
        Self {
            scenario,
            expected,
            figures,
            chain_percent: 100,
            most_images: u64::MAX,
            shuffled: false,
            traced: false,
        }
    }

    /// What the study gives when nothing of it is taken from anywhere: it must be the same.
    pub(super) fn gives_what_running_everything_gives(&self) -> Result<(), Broken> {
        let expected = self.expected.clone()?;
        plant(Some(Fault::EverythingRuns));
        let run = Self::of(self.scenario.clone()).expected;
        plant(None);
        let run = run?;
        (run == expected).then_some(()).ok_or_else(|| first_difference(&run, &expected))
    }

    /// What a study gives that was so from its beginning as this one is amended to be: it must be the same.
    pub(super) fn gives_what_the_amended_study_gives(&self) -> Result<(), Broken> {
        let expected = self.expected.clone()?;
        let (spec, _) = self.scenario.amended.clone().ok_or("it is not amended")?;
        let whole = Self::of(Scenario { spec, amended: None, ..self.scenario.clone() }).expected?;
        (whole == expected).then_some(()).ok_or_else(|| first_difference(&whole, &expected))
    }

    /// The study a seed names.
    pub(super) fn named(name: &str) -> Option<Self> {
        let random = name.strip_prefix("random_").and_then(|seed| seed.parse().ok()).map(studies::random);
        let reusing =
            name.strip_prefix("reusing_").and_then(|seed| seed.parse().ok()).map(studies::random_reusing);
        random.or(reusing).or_else(|| studies::all().into_iter().find(|study| study.name == name)).map(Self::of)
    }

    fn seed(&self, run: u64, op: u64, variant: usize, fails: bool) -> Seed {
        Seed { study: self.scenario.name.clone(), run, op, variant, fails }
    }

    fn is_done(&self) -> bool {
        self.figures.images >= self.most_images || !self.figures.found.is_empty()
    }

    fn found(&mut self, seed: Seed, broken: Broken) {
        self.figures.found.push((seed, broken));
    }

    /// Whether the study itself runs.
    pub(super) fn runs(&mut self) -> bool {
        if let Err(broken) = self.expected.clone() {
            let seed = self.seed(0, 0, 0, false);
            self.found(seed, format!("undisturbed: {broken}"));
        }
        self.expected.is_ok()
    }

    /// What is recorded of a run that nothing disturbs.
    pub(super) fn undisturbed(&self) -> Vec<Event> {
        let world = fresh(&self.scenario, Random::new(1), Camera::Off);
        let told = run_well(&self.scenario, &world, 1, Vec::new()).unwrap();
        told.into_iter().map(|(_, record)| record.event).collect()
    }

    /// Crashes it before every operation of a run, or before one, and follows each image.
    pub(super) fn crash_everywhere(&mut self, run: u64, only: Option<(u64, usize)>) {
        let seed = Random::of(&[run, 3]).next();
        let world = fresh(
            &self.scenario,
            Random::new(seed),
            Camera::Every { seed, only, taken: Vec::new(), seen: BTreeSet::new() },
        );
        let told = run_well(&self.scenario, &world, seed, Vec::new());
        world.state().picture();
        let ops = world.state().ops;
        self.figures.operations += ops;
        let camera = std::mem::replace(&mut world.state().camera, Camera::Off);
        let told = match told.and_then(|told| self.check_end(&world, told, true)) {
            Ok(told) => told,
            Err(broken) => return self.found(self.seed(run, ops, 0, false), format!("undisturbed: {broken}")),
        };
        let Camera::Every { mut taken, .. } = camera else { return };
        if self.shuffled {
            taken.sort_by_key(|image| Random::of(&[image.op, image.variant as u64]).next());
        }
        for image in taken {
            if self.is_done() {
                return;
            }
            let seed = self.seed(run, image.op, image.variant, false);
            let told = told[..image.told].to_vec();
            self.follow(seed, image, told);
        }
    }

    /// Crashes it at a few moments of a run that are chosen by chance.
    pub(super) fn crash_somewhere(&mut self, run: u64, variant: usize) {
        let seed = Random::of(&[run, variant as u64, 4]).next();
        let camera = Camera::One { random: Random::new(seed), weight: 0, taken: None };
        let world = fresh(&self.scenario, Random::new(seed), camera);
        let told = run_well(&self.scenario, &world, seed, Vec::new());
        self.figures.operations += world.state().ops;
        let camera = std::mem::replace(&mut world.state().camera, Camera::Off);
        let name = self.seed(run, u64::MAX, variant, false);
        match (told.and_then(|told| self.check_end(&world, told, true)), camera) {
            (Err(broken), _) => self.found(name, format!("undisturbed: {broken}")),
            (Ok(told), Camera::One { taken: Some(image), .. }) => {
                let told = told[..image.told].to_vec();
                self.follow(name, *image, told);
            }
            _ => {}
        }
    }

    /// Lets an operation fail, and brings what is left to its end.
    fn fail_at(&mut self, run_seed: u64, op: u64, variant: usize) -> bool {
        let seed = Random::of(&[run_seed, 5]).next();
        let mut random = Random::of(&[seed, op, variant as u64]);
        let world = fresh(&self.scenario, Random::new(seed), Camera::Off);
        world.state().failure = Some(Failure { at: op, lasts: variant == 1 });
        let name = self.seed(run_seed, op, variant, true);
        let ran = run(&self.scenario, &world, seed, Vec::new());
        let ops = world.state().ops;
        if ops <= op {
            return false;
        }
        self.figures.failures += 1;
        let ran = match ran {
            Ok(ran) => ran,
            Err(broken) => {
                self.found(name, broken);
                return true;
            }
        };
        if let Some(wrong) = ran.wrong.into_iter().find(|wrong| !wrong.starts_with("13")) {
            self.found(name, wrong);
            return true;
        }
        let loss = [Loss::Nothing, Loss::All, Loss::Any][random.below(3) as usize];
        let files = world.state().files.crashed(loss, &mut random);
        let image = Image { files, told: ran.told.len(), op, variant, loss };
        self.follow(name, image, ran.told);
        true
    }

    /// Lets operations fail, each in its turn: once, or from then on.
    pub(super) fn fail_everywhere(&mut self, run: u64) {
        for variant in 0..2 {
            let mut op = 0;
            while !self.is_done() && self.fail_at(run, op, variant) {
                op += 1;
            }
        }
    }

    /// What one seed names.
    pub(super) fn repeat(&mut self, seed: &Seed) {
        match (seed.fails, seed.op) {
            (true, op) => drop(self.fail_at(seed.run, op, seed.variant)),
            (false, u64::MAX) => self.crash_somewhere(seed.run, seed.variant),
            (false, op) => self.crash_everywhere(seed.run, Some((op, seed.variant))),
        }
    }

    fn check_end(&self, world: &World, told: Announced, whole: bool) -> Result<Announced, Broken> {
        let result = hold_at_end(world, &told, &self.scenario, whole)?;
        match &self.expected {
            Ok(expected) if *expected == result => Ok(told),
            // What was taken before the first difference was found is a matter of time: nothing is promised of it.
            Ok(_) if self.scenario.nature.unequal => Ok(told),
            Ok(expected) => Err(format!("5: another result: {}", first_difference(expected, &result))),
            Err(broken) => Err(broken.clone()),
        }
    }

    /// Checks an image, runs it to its end, and crashes that run in turn.
    fn follow(&mut self, seed: Seed, image: Image, told: Announced) {
        let mut next = Some((image, told));
        let chance = Random::of(&[seed.run, seed.op, seed.variant as u64, 13]).percent(self.chain_percent);
        let crashes = if chance { DEPTH } else { 1 };
        for depth in 0..crashes {
            let Some((image, told)) = next.take() else { return };
            self.figures.images += 1;
            if self.traced {
                let parts = [self.figures.trace, image.files.fingerprint(), told.len() as u64];
                self.figures.trace = Random::of(&parts).next();
            }
            self.figures.chained += u64::from(depth > 0);
            *self.figures.losses.entry(loss_word(image.loss)).or_default() += 1;
            match self.recover(&seed, depth, depth + 1 == crashes, image, told) {
                Ok(more) => next = more,
                Err(broken) => {
                    let crash = depth + 1;
                    return self.found(seed, format!("{broken} (after crash {crash})"));
                }
            }
        }
    }

    fn recover(
        &self,
        seed: &Seed,
        depth: usize,
        is_last: bool,
        image: Image,
        told: Announced,
    ) -> Result<Option<(Image, Announced)>, Broken> {
        let parts = [seed.run, seed.op, seed.variant as u64, depth as u64, u64::from(seed.fails), 9];
        let mut random = Random::of(&parts);
        // The dearest checks are made of a part of the images, each of a large number.
        let (twice, whole) = (random.percent(20), random.percent(20));
        let look = || hold_after_crash(&image.files, &told, twice);
        let checked = catch_unwind(AssertUnwindSafe(look));
        let told = checked.unwrap_or_else(|_| Err("10: a panic while looking".into()))?;
        // Drawn in any case: the last crash of a chain is the same in a longer one.
        let next = random.next();
        let camera = match is_last {
            true => Camera::Off,
            false => Camera::One { random: Random::new(next), weight: 0, taken: None },
        };
        let world = World::new(image.files, Random::new(random.next()), told.len(), camera);
        let told = run_well(&self.scenario, &world, random.next(), told)?;
        let camera = std::mem::replace(&mut world.state().camera, Camera::Off);
        let told = self.check_end(&world, told, whole)?;
        Ok(match camera {
            Camera::One { taken: Some(image), .. } => {
                let told = told[..image.told].to_vec();
                Some((*image, told))
            }
            _ => None,
        })
    }
}

const fn loss_word(loss: Loss) -> &'static str {
    match loss {
        Loss::Nothing => "killed",
        Loss::All => "all lost",
        Loss::After => "in order",
        Loss::Before => "in reverse",
        Loss::Any => "any lost or torn",
    }
}

fn first_difference(expected: &str, found: &str) -> String {
    let lines = expected.lines().zip(found.lines()).find(|(a, b)| a != b);
    lines.map_or_else(|| "it is shorter or longer".into(), |(a, b)| format!("expected {a}, found {b}"))
}

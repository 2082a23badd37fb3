//! The simulation of the watcher: engine and cluster take steps in any order.

use super::*;

#[derive(Debug, Default)]
struct Figures {
    /// Deaths of the engine.
    crashes: u32,
    steps: u32,
    /// Jobs that their node could not start.
    failed: u32,
    /// Runs that ended for such jobs.
    breaks: u32,
}

/// Another engine takes over what the journal has as running.
fn engine_again(bench: &mut Bench, running: &BTreeMap<u64, AttemptNo>) -> Vec<Command> {
    (bench.watcher, bench.events) = Bench::watcher(bench.root.path(), &bench.world, SILENT);
    let left: Vec<_> = running.iter().map(|(trial, n)| (TrialId(*trial), *n)).collect();
    remove_others(&bench.root.path().join(CONTROL_DIR), STUDY, &left);
    running.iter().map(|(trial, n)| Command::Adopt(job(bench.root.path(), *trial, *n))).collect()
}

impl World {
    /// A job's node cannot start it, or the job finds that it cannot run there; whether it came to that.
    fn fail_to_start(&mut self, n: usize, how: usize) -> bool {
        let job = &mut self.jobs[n];
        job.node = Some(format!("n{how}"));
        let (state, said) = match how {
            0 => (JobState::Over(Why::Ended), "exit code 126"),
            1 => (JobState::Held, "Slurm says `launch failed requeued held`"),
            _ => {
                job.state = JobState::Over(Why::Ended);
                if job.control.task().unwrap().is_none() || !job.control.claim().unwrap() {
                    return false;
                }
                let broken = Outcome::interrupted(9, "no share".into(), Some("no share".into()));
                job.control.end(&broken).unwrap();
                return true;
            }
        };
        (job.state, job.said) = (state, Some(said.to_owned()));
        true
    }

    fn nothing_lives_that_is_over(&self) {
        let lives = self.jobs.iter().find(|job| job.lives && self.over.contains(&job.key));
        assert!(lives.is_none(), "an attempt is over, and lives");
    }

    fn could_not_start(&self) -> Vec<usize> {
        let bad =
            |job: &Made| job.said.is_some() && matches!(job.state, JobState::Over(Why::Ended) | JobState::Held);
        (0..self.jobs.len()).filter(|n| bad(&self.jobs[*n])).collect()
    }
}

/// Any order of steps of engine and cluster, with deaths of both in between, and lists that hide, repeat and reorder jobs.
/// Every trial gets one result, every attempt runs at most once, and no trial twice at a time (which the cluster itself
/// asserts). Nodes fail to start jobs, which may be put back all the same: no trial is blamed for it, and a run that ends for it
/// goes on with the next.
fn simulate(seed: u64) -> Figures {
    let Figures { mut crashes, mut steps, mut failed, mut breaks } = Figures::default();
    let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut below = |limit: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % limit.max(1) as u64) as usize
    };
    let mut bench = Bench::new(SILENT);
    bench.world().random = seed | 1;
    // The journal: attempts that run, and results.
    let mut running: BTreeMap<u64, AttemptNo> = (0..6).map(|trial| (trial, 1)).collect();
    let mut results: BTreeSet<u64> = BTreeSet::new();
    let mut waiting: Vec<Command> =
        running.iter().map(|(trial, n)| Command::Submit(job(bench.root.path(), *trial, *n))).collect();
    while results.len() < 6 {
        steps += 1;
        assert!(steps < 50_000, "seed {seed} does not end");
        match below(18) {
            0 => bench.watcher.poll(),
            1 if bench.watcher.may_submit() => bench.watcher.submit(),
            2 => drop(waiting.pop().map(|command| bench.tell(command))),
            3 | 4 => {
                let queued = bench.world().queued();
                if let Some(n) = queued.get(below(queued.len())) {
                    let mut world = bench.world();
                    match world.starts_nothing {
                        true => failed += u32::from(world.fail_to_start(*n, below(3))),
                        false => world.start(*n),
                    }
                }
            }
            5 | 6 => {
                let alive = bench.world().running();
                if let Some(n) = alive.get(below(alive.len())) {
                    bench.world().finish(*n);
                }
            }
            7 if below(3) == 0 => {
                let alive = bench.world().running();
                if let Some(n) = alive.get(below(alive.len())) {
                    match below(2) {
                        0 => bench.world().die(*n),
                        // The cluster loses sight of its node.
                        _ => bench.world().jobs[*n].state = JobState::Over(Why::NodeFailed),
                    }
                }
            }
            8 => bench.world().away = below(3) == 0,
            9 => bench.world().loses = below(4) == 0,
            10 => {
                // The engine commits what it heard, and then, perhaps, says so.
                let (ends, broken) = bench.heard();
                bench.world().nothing_lives_that_is_over();
                for (trial, verdict) in ends {
                    let n = running.remove(&trial).unwrap();
                    match verdict {
                        Verdict::Succeeded { .. } => assert!(results.insert(trial), "doubled"),
                        Verdict::Interrupted { .. } => {
                            running.insert(trial, n + 1);
                            waiting.push(Command::Submit(job(bench.root.path(), trial, n + 1)));
                        }
                        other => panic!("seed {seed}: {other:?}"),
                    }
                    waiting.insert(0, Command::Forget(TrialId(trial), n));
                }
                // The run ends, and somebody gives the command again.
                if broken {
                    breaks += 1;
                    waiting = engine_again(&mut bench, &running);
                }
            }
            11 | 12 => bench.world().pass(1 + below(4) as u64),
            13 => bench.world().hides = [0, 40, 100][below(3)],
            14 => bench.world().starts_nothing = below(3) > 0,
            // The site puts back what could not start, and nobody was asked.
            15 | 16 => {
                let bad = bench.world().could_not_start();
                if let Some(n) = bad.get(below(bad.len())) {
                    bench.world().jobs[*n].state = JobState::Queued;
                }
            }
            _ if below(12) == 0 => {
                crashes += 1;
                waiting = engine_again(&mut bench, &running);
            }
            _ => {}
        }
    }
    let mut ran = bench.world().ran.clone();
    ran.sort();
    assert!(ran.windows(2).all(|pair| pair[0] != pair[1]), "seed {seed}: an attempt ran twice: {ran:?}");
    Figures { crashes, steps, failed, breaks }
}

#[test]
fn whatever_dies_between_any_two_steps() {
    let mut all = Figures::default();
    for seed in 1..=40 {
        let one = simulate(seed);
        all.crashes += one.crashes;
        all.steps += one.steps;
        all.failed += one.failed;
        all.breaks += one.breaks;
    }
    let Figures { crashes, steps, failed, breaks } = all;
    println!(
        "figure: remote simulation: {crashes} engine crashes, {failed} jobs that could not start, {breaks} runs that ended for \
         them, in {steps} steps: 0 lost, 0 doubled, 0 blamed"
    );
    assert!(crashes > 100 && failed > 100 && breaks > 5, "{all:?}");
}

/// Whether the simulation finds out that a measure is left out.
fn bites(fault: Fault) {
    plant(Some(fault));
    let found = (1..=20).any(|seed| std::panic::catch_unwind(|| simulate(seed)).is_err());
    plant(None);
    assert!(found, "the simulation does not bite");
}

#[test]
fn a_watcher_that_takes_what_is_hidden_for_over_is_found_out() {
    bites(Fault::AbsentIsOver);
}

#[test]
fn a_watcher_that_does_not_take_back_what_could_not_start_is_found_out() {
    bites(Fault::StartNotTakenBack);
}

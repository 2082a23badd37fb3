//! Whether a trial ever runs twice at a time when Slurm calls jobs over that live on and ignore TERM.
//!
//! `PITON_OVERLAP_LOST=200` goes on until so many trials were lost; every other round the engine is killed meanwhile, too.

use rustix::process::Signal;

use crate::clusters::Slurm;
use crate::harness::wait_until;
use crate::remote::Far;

/// The lock goes with the processes that hold it, however those die.
const TRIAL: &str = "trap '' TERM\nexec 9>\"$PITON_STUDY_DIR/lock_$PITON_CASE\"\n\
     flock -n 9 || echo $PITON_CASE >> \"$PITON_STUDY_DIR/overlaps\"\n\
     echo \"$PITON_CASE $PITON_ATTEMPT\" >> \"$PITON_STUDY_DIR/begun\"\n\
     while [ -e \"$PITON_STUDY_DIR/hold\" ]; do sleep 0.1; done\n\
     echo \"$1\" > out.txt\necho \"{\\\"z\\\": $1}\" > metrics.json\n";

/// A node's daemon dies under so many trials, and a second engine may take over; how many were lost.
fn round(slurm: &mut Slurm, trials: u32, kill_engine: bool) -> u64 {
    let far = Far::on(slurm);
    far.sandbox.script("trial.sh", TRIAL);
    far.workers(slurm, trials);
    let mut engine = far.hold(trials as usize);
    slurm.kill_daemon(1);
    if kill_engine {
        engine.signal(Signal::KILL);
        engine.wait();
        engine = far.start("run study.toml");
    }
    // Slurm calls them over; they live, and are told to end, and are killed after the grace.
    wait_until("trials of the lost node run again", || far.begun() > trials as usize);
    far.let_go();
    assert_eq!(engine.wait().code(), Some(0));
    assert_eq!(far.sandbox.lines("overlaps"), Vec::<String>::new());
    far.sandbox.ok("verify study.redb", 0);
    let mut begun = far.sandbox.lines("begun");
    begun.sort();
    assert!(begun.windows(2).all(|pair| pair[0] != pair[1]), "an attempt ran twice: {begun:?}");
    slurm.start_node(1);
    wait_until("the node is back", || slurm.are_idle());
    far.sandbox.dump()["accounting"]["interrupted"].as_u64().unwrap()
}

#[test]
fn trials_that_ignore_term_on_a_node_of_slurms_that_is_lost_overlap_nobody() {
    let wanted: u64 = std::env::var("PITON_OVERLAP_LOST").map_or(1, |wanted| wanted.parse().unwrap());
    // Some places stay free on the other node.
    let (cpus, trials) = if wanted > 6 { (16, 24) } else { (4, 6) };
    let mut slurm = Slurm::start_of(cpus, "");
    let (mut lost, mut rounds) = (0, 0);
    while lost < wanted {
        lost += round(&mut slurm, trials, rounds % 2 == 1);
        rounds += 1;
        println!("figure: {lost} trials that ignore TERM lost with their node in {rounds} rounds: 0 overlaps");
    }
}

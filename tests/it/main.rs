//! Tests of the whole program, with the real binary and real processes. One binary, so that it is linked once:
//!
//! - `harness`: a scratch study in a directory of its own, and waiting for conditions;
//! - `commands`: every subcommand, what it prints and its exit codes;
//! - `failures`: what failures are called, and that nothing a trial writes hurts the engine;
//! - `gate`: export, compare, replay, and the templates;
//! - `quickstart`: the example of the README; `everything`: the one that uses all of the study language;
//! - `signals`: the signal table of the contract, row by row;
//! - `language`: what a study file can say, beyond what the other tests need;
//! - `kills`: `kill -9` at random moments, and what must be left after it;
//! - `library`: closures, the shutdown handle and its callbacks;
//! - `rails`: what ends or parks a study: rails, the base command, approval;
//! - `amend`: changing a study that has begun;
//! - `compact`: the store without its free space;
//! - `structure`: which module may import which.
//!
//! Nothing here may depend on how fast the machine is: tests wait for conditions, with deadlines only a hang reaches.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a panic is a failed test; seeds and figures are for whoever reads the output"
)]

mod amend;
mod commands;
mod compact;
mod everything;
mod failures;
mod gate;
mod harness;
mod kills;
mod language;
mod library;
mod quickstart;
mod rails;
mod signals;
mod structure;

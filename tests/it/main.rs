//! Tests of the whole program, with the real binary and real processes. One binary, so that it is linked once:
//!
//! - `harness`: a scratch study in a directory of its own, and waiting for conditions;
//! - `chip`: the chip-design example, with real tools and libraries;
//! - `best`: the winner, for the next program;
//! - `ci`: what a CI system and a terminal are shown;
//! - `commands`: every subcommand, what it prints and its exit codes;
//! - `faults`: calls that fail, full disks, low limits, jumping clocks;
//! - `failures`: what failures are called, and that nothing a trial writes hurts the engine;
//! - `forged`: stores made to lead elsewhere by their names;
//! - `gate`: export, compare, replay, and the templates;
//! - `quickstart`: the example of the README; `everything`: the one that uses all of the study language;
//! - `regressions`: inputs on which fuzzing failed once, and its seeds;
//! - `salvage`: damaged stores, what every command says of them, and going on from what can be recovered;
//! - `signals`: the signal table of the contract, row by row;
//! - `hooks`: a program that is told of stages and ends;
//! - `import`: results that were made elsewhere;
//! - `inputs`: what is an input, when it is looked at, and what a change of it means;
//! - `parents`: what survivors left, looked at before their children start;
//! - `interval`: finished trials that may wait for their commit;
//! - `language`: what a study file can say, beyond what the other tests need;
//! - `kills`: `kill -9` at random moments, and what must be left after it;
//! - `keeping`: what is discarded of directories, and a limit of the disk;
//! - `asked`: files that a person names: pipes, devices, links;
//! - `closed`: files and processes that permission lacks for;
//! - `leftovers`: temporary files of the dead and of the living, and who may read what is made;
//! - `library`: closures, the shutdown handle and its callbacks;
//! - `list`: many studies, whatever state their stores are in;
//! - `remote`, on `clusters`: trials on a real Slurm and a real Ray, and what is killed there;
//! - `overlap`: whether trials that nothing ends run twice at a time; `queue`: why trials wait on a cluster, wherever a person looks; `sites`: clusters as their sites have them;
//! - `report`, in the `browser`: the page, drawn and used by a real one;
//! - `serve`: the live page, used by that browser and attacked by others; `serve_many`: that of many studies; `proxy`: the same behind one, `nginx`;
//! - `https`: a Ray behind one, and certificates that are refused;
//! - `shown`: what is printed is what is, and steers nothing;
//! - `services`: the examples for CI, systemd, Slurm and Kubernetes;
//! - `rails`: what ends or parks a study: rails, the base command, approval;
//! - `telemetry`: its lines, held against the published schema;
//! - `alive`: who lives, told from other namespaces and with forged numbers;
//! - `reuse`, `reuse_stories`: results that are taken instead of made; `reuse_far`: where trials are proposed or run on a cluster;
//!   `reuse_check`: a part of them that runs all the same, and is compared;
//! - `amend`: changing a study that has begun; `replans`: without losing a result; `reread`: what finished trials left, read by other rules;
//! - `old_stores`: stores of earlier versions;
//! - `packages`: what is released: wheel, Debian package, archive, crate;
//! - `places`: where a study lies, and what trials put in the place of a directory;
//! - `probe`: `piton check` of a study for a cluster;
//! - `paired`: comparisons of cases that ran several times;
//! - `what_if`: what another choice would have kept; `explore`: cases that go on though they did not survive;
//! - `improve`: a stage that ends when nothing gets better;
//! - `schema`: the JSON Schema of the study file;
//! - `progress`: what trials report while they run;
//! - `python`: the tests of the Python package, with this program;
//! - `proposer`: trials that a program proposes, Optuna among them;
//! - `destroyed`: a store, or a report, that somebody makes impossible while a study runs;
//! - `compact`: the store without its free space;
//! - `values`: from where they are written to what a trial gets and every table shows;
//! - `versions`: tools of another version;
//! - `docs`: links, study files and pages to follow; `book`: the documentation built, and its reference pages held against the program;
//! - `structure`: which module may import which.
//!
//! Nothing here may depend on how fast the machine is: tests wait for conditions, with deadlines only a hang reaches.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    unreachable_pub,
    reason = "a panic is a failed test; seeds and figures are for whoever reads the output; nothing of tests can be reached from outside"
)]

mod accessible;
mod alive;
mod amend;
mod asked;
mod bench;
mod best;
mod book;
mod browser;
mod chip;
mod ci;
mod closed;
mod clusters;
mod commands;
mod compact;
mod curves;
mod destroyed;
mod docs;
mod everything;
mod explore;
mod failures;
mod faults;
mod forged;
mod gate;
mod harness;
mod hooks;
mod https;
mod import;
mod improve;
mod inputs;
mod interval;
mod keeping;
mod kills;
mod language;
mod learn;
mod leftovers;
mod library;
mod list;
mod mended;
mod nginx;
mod old_stores;
mod overlap;
mod packages;
mod paired;
mod parents;
mod places;
mod probe;
mod progress;
mod proposer;
mod proxy;
mod python;
mod queue;
mod quickstart;
mod raced;
mod rails;
mod regressions;
mod remote;
mod repeats;
mod replans;
mod report;
mod required;
mod reread;
mod resources;
mod reuse;
mod reuse_check;
mod reuse_far;
mod reuse_stories;
mod salvage;
mod schema;
mod serve;
mod serve_many;
mod services;
mod shown;
mod signals;
mod sites;
mod structure;
mod telemetry;
mod values;
mod versions;
mod watched;
mod what_if;

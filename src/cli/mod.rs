//! The command line: one file a subcommand, and the terminal.
//!
//! Results go to stdout, progress and diagnostics to stderr. Errors are printed here and nowhere else. The library
//! below never sees terminal or environment.

mod amend;
mod approve;
mod args;
mod attempt;
mod best;
mod check;
mod commands;
mod compact;
mod compare;
mod dump;
mod errors;
mod export;
mod gc;
mod github;
mod hints;
mod import;
mod keeper;
mod list;
mod logs;
mod manual;
mod new;
mod outcome;
mod progress;
mod replay;
mod report;
mod reports;
mod retry;
mod run;
mod salvage;
mod serve;
mod sink;
mod status;
mod stop;
mod summary;
mod terminal;
mod verify;
mod watch;
mod what_if;
mod why;

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use clap::Parser;
use piton::Error;

use args::{Cli, Command};

pub fn main() -> ExitCode {
    // Before anything else: what the parent ignored or blocked must not matter.
    piton::program::sys::signals::settle();
    own_is_open_to_its_owner();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too, with code 0. A closed pipe is nobody's problem.
            let text = error.render().ansi().to_string();
            match error.use_stderr() {
                true => sink::to_stderr(&text),
                false => drop(sink::stdout(sink::Content::Text).write_all(text.as_bytes())),
            }
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    env_logger::Builder::from_env(env_logger::Env::new().filter_or("PITON_LOG", "warn"))
        .format(|out, record| {
            let style = out.default_level_style(record.level());
            let said = sink::line(&record.args().to_string());
            writeln!(out, "[{style}{:<5}{style:#}] {said}", record.level())
        })
        .init();
    match guarded(cli.command) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            if errors::is_closed_pipe(&error) {
                return ExitCode::SUCCESS;
            }
            errors::print_error(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

/// Under a umask that takes even from the owner, nothing could be opened that was just made: neither a store nor a trial's log.
fn own_is_open_to_its_owner() {
    use rustix::fs::Mode;
    // The only way to ask for it is to set it.
    let others = rustix::process::umask(Mode::RWXG | Mode::RWXO).difference(Mode::RWXU);
    rustix::process::umask(others);
}

/// Where the last panic was, and what it said.
static PANIC: Mutex<Option<(String, String)>> = Mutex::new(None);

/// Runs a command. redb trusts its own structures and panics where a damaged file breaks them: that is reported as damage,
/// and any other panic as what it is, a mistake of piton's.
fn guarded(command: Command) -> Result<u8, Error> {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let words = info.payload_as_str().unwrap_or("no message").to_owned();
        // A trial's closure or a worker may panic too: that is reported by the code that runs it.
        log::debug!("panic at {place}: {words}");
        *PANIC.lock().unwrap_or_else(PoisonError::into_inner) = Some((place, words));
    }));
    catch_unwind(AssertUnwindSafe(|| dispatch(command))).unwrap_or_else(|_| {
        let (place, words) = PANIC.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default();
        if place.contains("redb") { Err(Error::DamagedStore(words)) } else { Err(Error::Bug { place, words }) }
    })
}

fn dispatch(command: Command) -> Result<u8, Error> {
    match command {
        Command::New(args) => new::new(&args),
        Command::Check(args) => check::check(&args),
        Command::Run(args) => run::run(&args),
        Command::Resume(args) => run::resume(&args),
        Command::Status(args) => status::status(&args),
        Command::Best(args) => best::best(&args),
        Command::Dump(args) => dump::dump(&args),
        Command::Logs(args) => logs::logs(&args),
        Command::Progress(args) => reports::progress(&args),
        Command::Why(args) => why::why(&args),
        Command::Stop(args) => stop::stop(&args),
        Command::Amend(args) => amend::amend(&args),
        Command::Import(args) => import::import(&args),
        Command::Approve(args) => approve::approve(&args),
        Command::Retry(args) => retry::retry(&args),
        Command::Compact(args) => compact::compact(&args),
        Command::Gc(args) => gc::gc(&args),
        Command::Verify(args) => verify::verify(&args),
        Command::Salvage(args) => salvage::salvage(&args),
        Command::Export(args) => export::export(&args),
        Command::Report(args) => report::report(&args),
        Command::Serve(args) => serve::serve(&args),
        Command::List(args) => list::list(&args),
        Command::Compare(args) => compare::compare(&args),
        Command::WhatIf(args) => what_if::what_if(&args),
        Command::Replay(args) => replay::replay(&args),
        Command::Attempt { control } => attempt::attempt(&control),
        Command::Completions(args) => manual::completions(&args),
        Command::Schema => manual::schema(),
        Command::Man => manual::man(),
    }
}

//! The command line: one file a subcommand, and the terminal.
//!
//! Results go to stdout, progress and diagnostics to stderr. Errors are printed here and nowhere else. The library
//! below never sees terminal or environment.

mod args;
mod check;
mod compare;
mod export;
mod look;
mod manual;
mod new;
mod progress;
mod replay;
mod result;
mod retry;
mod run;
mod stop;
mod terminal;
mod verify;
mod watch;

use std::process::ExitCode;

use clap::Parser;
use piton::Error;

use args::{Cli, Command};

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too, with code 0. A closed pipe is nobody's problem.
            drop(error.print());
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    // A write beyond a file size limit is then an error that names what failed, as on a full disk.
    piton::sys::signals::ignore_file_size_signal();
    env_logger::Builder::from_env(env_logger::Env::new().filter_or("PITON_LOG", "warn"))
        .format_timestamp(None)
        .format_target(false)
        .init();
    match dispatch(cli.command) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            if is_closed_pipe(&error) {
                return ExitCode::SUCCESS;
            }
            terminal::print_error(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

fn dispatch(command: Command) -> Result<u8, Error> {
    match command {
        Command::New(args) => new::new(&args),
        Command::Check(args) => check::check(&args),
        Command::Run(args) => run::run(&args),
        Command::Resume(args) => run::resume(&args),
        Command::Status(args) => look::status(&args),
        Command::Dump(args) => look::dump(&args),
        Command::Logs(args) => look::logs(&args),
        Command::Why(args) => look::why(&args),
        Command::Stop(args) => stop::stop(&args),
        Command::Retry(args) => retry::retry(&args),
        Command::Verify(args) => verify::verify(&args),
        Command::Export(args) => export::export(&args),
        Command::Compare(args) => compare::compare(&args),
        Command::Replay(args) => replay::replay(&args),
        Command::Completions(args) => manual::completions(&args),
        Command::Man => manual::man(),
    }
}

/// Whether the reader of our output went away, as `head` does.
fn is_closed_pipe(error: &Error) -> bool {
    matches!(error, Error::Output(cause) if cause.kind() == std::io::ErrorKind::BrokenPipe)
}

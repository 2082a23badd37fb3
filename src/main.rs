//! The `piton` program: an exit code, and nothing else that `cli` could not do.

#![expect(unreachable_pub, reason = "nothing of a program can be reached from outside")]

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}

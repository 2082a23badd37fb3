//! The `piton` program: an exit code, and nothing else that `cli` could not do.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}

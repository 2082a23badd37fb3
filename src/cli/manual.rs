//! `piton completions`, `piton man` and `piton schema`: what is made from the definitions of the command line and of the study file.

use std::io::Write;

use clap::CommandFactory;
use piton::Error;

use super::args::{Cli, CompletionsArgs};

/// Prints completions for a shell.
pub fn completions(args: &CompletionsArgs) -> Result<u8, Error> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "piton", &mut text);
    print(&text)
}

/// Prints the manual page, subcommands included.
pub fn man() -> Result<u8, Error> {
    let mut text = Vec::new();
    let mut command = Cli::command();
    command.build();
    clap_mangen::Man::new(command.clone()).render(&mut text).map_err(Error::Output)?;
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        let name = format!("piton {}", sub.get_name());
        let man = clap_mangen::Man::new(sub.clone().display_name(name.clone()).bin_name(name.clone()));
        writeln!(text, ".SH {}", name.to_uppercase()).map_err(Error::Output)?;
        man.render_description_section(&mut text).map_err(Error::Output)?;
        man.render_synopsis_section(&mut text).map_err(Error::Output)?;
        man.render_options_section(&mut text).map_err(Error::Output)?;
    }
    print(&text)
}

/// Prints the JSON Schema of the study file.
pub fn schema() -> Result<u8, Error> {
    print(piton::program::study_file::schema().as_bytes())
}

fn print(text: &[u8]) -> Result<u8, Error> {
    let mut out = std::io::stdout().lock();
    out.write_all(text).and_then(|()| out.flush()).map_err(Error::Output)?;
    Ok(0)
}

//! `piton best`.

use std::io::Write;

use piton::{Error, Store};

use super::args::{BestArgs, BestFormat};
use super::sink::{self, Content};
use super::terminal;

pub fn best(args: &BestArgs) -> Result<u8, Error> {
    let best = Store::at(&args.store.store).best(args.stage.as_deref())?;
    let format = if args.json { BestFormat::Json } else { args.format };
    let content = match format {
        BestFormat::Text => Content::Text,
        BestFormat::Json => Content::Json,
        BestFormat::Env | BestFormat::Args => Content::Table,
    };
    let mut out = sink::stdout(content);
    match format {
        BestFormat::Text => best.write_text(terminal::screen(), &mut out),
        BestFormat::Json => best.write_json(&mut out),
        BestFormat::Env => best.write_env(&mut out),
        BestFormat::Args => best.write_args(&mut out),
    }?;
    out.flush().map_err(Error::Output)?;
    Ok(0)
}

//! `piton what-if`.

use std::io::Write;

use piton::{Choices, Error, Store};

use super::args::WhatIfArgs;
use super::sink::{self, Content};
use super::terminal;

pub fn what_if(args: &WhatIfArgs) -> Result<u8, Error> {
    let mut choices = Choices::default();
    choices.survivors = args.survivors;
    choices.selection = args.selection;
    choices.aggregate = args.aggregate;
    choices.repeats = args.repeats;
    choices.rungs = args.rungs.clone();
    choices.eta = args.eta;
    choices.stop_if = args.stop_if.clone();
    let answer = Store::at(&args.store.store).what_if(&choices, &args.stage)?;
    let mut out = sink::stdout(if args.json { Content::Json } else { Content::Text });
    if args.json {
        answer.write_json(&mut out)?
    } else {
        answer.write_text(terminal::screen(), &mut out)?
    }
    out.flush().map_err(Error::Output)?;
    Ok(0)
}

//! `piton logs`.

use piton::views::logs::Followed;
use piton::{Error, Store};

use super::args::LogsArgs;
use super::sink::{self, Content};
use super::terminal;

pub fn logs(args: &LogsArgs) -> Result<u8, Error> {
    let store = Store::at(&args.store.store);
    let mut logs = store.logs(&args.case);
    if args.stderr {
        logs = logs.stderr();
    }
    if let Some(attempt) = args.attempt {
        logs = logs.attempt(attempt);
    }
    let mut out = sink::stdout(Content::Printed);
    if !args.follow {
        logs.copy(&mut out)?;
        return Ok(0);
    }
    let mut begins = |attempt| {
        if attempt > 1 {
            terminal::note(&format!("attempt {attempt}"));
        }
    };
    if logs.follow(&mut out, &mut begins)? == Followed::NoEngine {
        terminal::note(&format!("`{}` has not started, and no engine runs", args.case));
    }
    Ok(0)
}

//! `piton retry`: failed trials of the open stage, or of the one a study was aborted in, become pending again.

use piton::{Error, Retry, Store, shell_word};

use super::args::RetryArgs;
use super::terminal::{hint, say};

/// Makes failed trials pending.
pub fn retry(args: &RetryArgs) -> Result<u8, Error> {
    let which = match (args.failed, args.cases.as_slice()) {
        (true, _) => Retry::Failed,
        (false, []) => {
            return Err(Error::Usage("which trials? `--failed` for all that failed, or their cases".into()));
        }
        (false, cases) => Retry::Cases(cases),
    };
    let cases = Store::at(&args.store.store).retry(which)?;
    if args.json {
        super::outcome::print_json(&serde_json::json!({ "pending_again": cases }))?;
        return Ok(0);
    }
    match cases.as_slice() {
        [] => say("no trial of the open stage has failed"),
        [case] => say(&format!("`{case}` is pending again")),
        cases => say(&format!("{} trials are pending again", cases.len())),
    }
    if !cases.is_empty() {
        hint(&format!("`piton resume {}` runs them", shell_word(&args.store.store)));
    }
    Ok(0)
}

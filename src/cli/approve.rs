//! `piton approve`: a person lets a stage begin that waits for it.

use piton::{Error, Store, shell_word};

use super::args::ApproveArgs;
use super::terminal::{hint, note, say};

/// Who says something that is recorded with their name.
pub fn who(named: Option<&str>) -> String {
    named.map(str::to_owned).or_else(|| std::env::var("USER").ok()).unwrap_or_else(|| "someone".into())
}

/// Approves the stage the study waits for, or a named one ahead of time.
pub fn approve(args: &ApproveArgs) -> Result<u8, Error> {
    let store = &args.store.store;
    let by = who(args.by.as_deref());
    let study = Store::at(store);
    let stage = study.approve(args.stage.as_deref(), &by, &args.note)?;
    say(&format!("stage `{stage}` is approved by {by}"));
    if let Some(before) = study.stands_before(&stage)? {
        note(&format!(
            "ahead of time: stage `{before}` is not closed, and whatever survives it counts as approved"
        ));
    }
    hint(&format!("`piton resume {}` goes on", shell_word(store)));
    Ok(0)
}

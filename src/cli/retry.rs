//! `piton retry`: failed trials become pending again, also of a stage that has closed.

use piton::views::clean;
use piton::{Error, LaterStages, Retry, RetryPlan, Store, shell_word};

use super::args::RetryArgs;
use super::terminal::{ask, can_ask, hint, say};

pub fn retry(args: &RetryArgs) -> Result<u8, Error> {
    let which = match (args.failed, &args.stage, args.cases.as_slice()) {
        (true, Some(stage), _) => Retry::FailedOf(stage),
        (true, None, _) => Retry::Failed,
        (false, _, []) => {
            return Err(Error::Usage("which trials? `--failed` for all that failed, or their cases".into()));
        }
        (false, _, cases) => Retry::Cases(cases),
    };
    let store = Store::at(&args.store.store);
    let plan = store.plan_retry(which)?;
    let later = match (args.keep_survivors, args.discard_children) {
        (true, _) => Some(LaterStages::Keep),
        (_, true) => Some(LaterStages::Discard),
        (false, false) => agreed(&plan)?,
    };
    let unapproved = plan.unapproved().to_vec();
    let cases = plan.apply(later)?;
    if args.json {
        let pending = serde_json::json!({ "pending_again": cases, "to_approve_again": unapproved });
        super::outcome::print_json(&pending)?;
        return Ok(0);
    }
    match cases.as_slice() {
        [] => say("no trial has failed that could run again"),
        [case] => say(&format!("`{case}` is pending again")),
        cases => say(&format!("{} trials are pending again", cases.len())),
    }
    for stage in unapproved {
        say(&format!("stage `{}` waits for approval again: it was given for what had survived", clean(&stage)));
    }
    if !cases.is_empty() {
        hint(&format!("`piton resume {}` runs them", shell_word(&args.store.store)));
    }
    Ok(0)
}

/// Asks what may become of later stages, if somebody is there to answer and anything of them is at stake.
fn agreed(plan: &RetryPlan<'_>) -> Result<Option<LaterStages>, Error> {
    if plan.at_stake() == 0 || !can_ask() {
        return Ok(None);
    }
    let trials = match plan.at_stake() {
        1 => "1 finished trial".to_owned(),
        trials => format!("{trials} finished trials"),
    };
    ask(
        &format!(
            "if others survive, up to {trials} of later stages can go: let them (no keeps nothing; see --keep-survivors)"
        ),
        "`--discard-children` lets them go, `--keep-survivors` leaves the later stages as they are",
    )?;
    Ok(Some(LaterStages::Discard))
}

//! `piton amend`: a study that has begun becomes what its changed study file says.
//!
//! It shows the plan and gets it accepted; the library does it. It never discards a result that the command line does not
//! say to discard.

use std::path::Path;
use std::time::Duration;

use piton::store::{BaseCommand, Discarded, Follows, Judged, Rereading, StageForecast};
use piton::views::{about, counted};
use piton::{AmendPlan, Consent, Error, Store, Study, shell_word};

use super::args::AmendArgs;
use super::commands::run_command;
use super::keeper::with_helpers;
use super::outcome::{print_json, print_line};
use super::terminal::{ask, can_ask, hint, note, say};

/// What answers every question beforehand.
const YES: &str = "`--yes` accepts the changes, `--dry-run` only shows them";

/// Shows what changes, and changes it once that is accepted.
pub fn amend(args: &AmendArgs) -> Result<u8, Error> {
    let store = Store::at(&args.store.store);
    let given = Study::from_file(&args.study, &args.set)?;
    let plan = if args.dry_run { store.preview_amend(&given)? } else { store.amend(&given)? };
    let mut plan = match &args.discard_from {
        Some(stage) => plan.discarding_from(stage)?,
        None => plan,
    };
    if args.discard_unread {
        plan = plan.discarding_unread()?;
    }
    if args.accept_inputs {
        plan = plan.accepting_inputs(
            &super::approve::who(args.by.as_deref()),
            args.note.as_deref().unwrap_or_default(),
        )?;
    }
    let asks_tools = !plan.tools_to_ask().is_empty();
    if plan.is_empty() && !(asks_tools && !args.dry_run && (args.yes || can_ask())) {
        return nothing_to_do(args, plan);
    }
    let what = if plan.is_empty() { "ask the tools" } else { "accept these changes" };
    if let Err(refused) = agree(args, &plan, what) {
        return plan.close().and(Err(refused));
    }
    if args.dry_run {
        if args.json {
            print_json(&json(&plan, false))?;
        } else {
            say("nothing was changed");
            say_if_it_runs(&plan);
        }
        plan.close()?;
        return Ok(0);
    }
    if asks_tools {
        let shown = !plan.is_empty();
        let differs = with_helpers(|| plan.ask_tools())??;
        if plan.is_empty() {
            return nothing_to_do(args, plan);
        }
        if differs {
            if shown && !args.json {
                print_line("")?;
            }
            if let Err(refused) = agree(args, &plan, "accept these changes") {
                return plan.close().and(Err(refused));
            }
        }
    }
    let done = json(&plan, true);
    plan.apply(Consent::Discard)?;
    if args.json {
        print_json(&done)?;
        return Ok(0);
    }
    say("the study is amended");
    let run = run_command(&args.study, Some(&args.store.store), &args.set);
    hint(&format!("`{run}` or `piton resume {}` goes on", shell_word(&args.store.store)));
    Ok(0)
}

/// What is shown while an engine runs is what stands at the moment.
fn say_if_it_runs(plan: &AmendPlan<'_>) {
    if plan.study_runs() {
        note(
            "the study runs: this is what holds at the moment; it can be amended once it has stopped (`piton stop`)",
        );
    }
}

/// Shows the plan and gets it accepted, if it can be done at all.
fn agree(args: &AmendArgs, plan: &AmendPlan<'_>, what: &str) -> Result<(), Error> {
    if !args.json {
        print_plan(plan)?;
    }
    let agreed = plan.refuse().and_then(|()| {
        if !args.json {
            print_tools(plan)?;
        }
        if args.yes || args.dry_run { Ok(()) } else { ask(what, YES) }
    });
    if args.json && agreed.is_err() {
        print_json(&json(plan, false))?;
    }
    agreed
}

fn nothing_to_do(args: &AmendArgs, plan: AmendPlan<'_>) -> Result<u8, Error> {
    if args.json {
        print_json(&serde_json::json!({ "changes": [], "discarded": [], "replanned": [], "applied": false }))?;
    } else if plan.tools_to_ask().is_empty() {
        say("the study file says what the store says: there is nothing to amend");
        say_if_it_runs(&plan);
        // Whoever wrote a table that counts for nothing may well wonder why.
        let (tables, executor) = plan.idle_tables();
        for table in tables {
            note(&format!("`[run.{table}]` counts for nothing while `executor` is `{executor}`"));
        }
    } else {
        say("the study file says what the store says; whether its tools are what they were is asked with `--yes`");
    }
    plan.close()?;
    Ok(0)
}

/// What accepting runs.
fn print_tools(plan: &AmendPlan<'_>) -> Result<(), Error> {
    for (tool, command) in plan.tools_to_ask() {
        let words: Vec<_> = command.iter().map(|word| shell_word(Path::new(word))).collect();
        print_line(&format!("runs        `{}`, which tells the version of `{tool}`", words.join(" ")))?;
    }
    Ok(())
}

fn print_plan(plan: &AmendPlan<'_>) -> Result<(), Error> {
    for Judged { change, class, cost, .. } in plan.changes() {
        print_line(&format!("{:<11} {change}", class.name()))?;
        print_line(&format!("            {cost}"))?;
    }
    for Discarded { name, finished, .. } in plan.discarded() {
        print_line(&format!("discards    stage `{name}`: {}", counted(*finished, "finished trial")))?;
    }
    if !plan.discarded().is_empty() {
        let what = match plan.discarded().iter().any(|discarded| discarded.reuses) {
            true => "where the stage reuses, equal trials have their results again, and all others run",
            false => "they run again",
        };
        print_line(&format!("            {what}; the old results stay in the journal (`piton dump --at SEQ`)"))?;
    }
    if let Some(base) = plan.base() {
        let why = base.why();
        print_line(&match base.runs_again() {
            true => format!("again       the base command runs again: {why}"),
            false => format!("keeps       the base command has succeeded, and {why}: it does not run again"),
        })?;
    }
    let cleared: Vec<String> = plan.cleared().map(|stage| format!("`{stage}`")).collect();
    if !cleared.is_empty() {
        let stages = if cleared.len() == 1 { "stage" } else { "stages" };
        print_line(&format!(
            "clears      scratch directories and reports of all cases of {stages} {}",
            cleared.join(", ")
        ))?;
    }
    for stage in plan.unapproved() {
        print_line(&format!(
            "drops       the approval of stage `{stage}`: it waits for another one (`piton approve`)"
        ))?;
    }
    for forecast in plan.replanned() {
        let work = forecast.work_us.map_or_else(String::new, |work_us| format!(", {} of work", about(work_us)));
        print_line(&format!("then        stage `{}`: {}{work}", forecast.name, forecast.words()))?;
    }
    if plan.reopens() {
        print_line(&format!("reopens     study `{}` goes on", plan.study_name()))?;
    }
    Ok(())
}

fn forecast_json(forecast: &StageForecast) -> serde_json::Value {
    let StageForecast { name, trials, follows, work_us, .. } = forecast;
    let counted = match follows {
        Follows::Counted { kept, reused, runs, checked } => Some((kept, reused, runs, checked)),
        _ => None,
    };
    serde_json::json!({
        "stage": name, "trials": trials, "is_bound": counted.is_none(), "words": forecast.words(),
        "kept": counted.map(|(kept, ..)| kept), "reused": counted.map(|(_, reused, ..)| reused),
        "runs": counted.map(|(_, _, runs, _)| runs), "checked": counted.map(|(.., checked)| checked),
        "work_s": work_us.map(|work_us| Duration::from_micros(work_us).as_secs_f64()),
    })
}

fn json(plan: &AmendPlan<'_>, applied: bool) -> serde_json::Value {
    let change = |Judged { change, class, cost, .. }: &Judged| {
        serde_json::json!({
            "setting": change.path, "old": change.old, "new": change.new, "class": class.name(), "cost": cost,
        })
    };
    let cases = |of: &[(String, String)]| {
        of.iter().map(|(case, why)| serde_json::json!({ "case": case, "reason": why })).collect::<Vec<_>>()
    };
    let reread = |found: &Rereading| {
        serde_json::json!({
            "stage": found.name, "read": found.read, "changed": found.changed, "found": found.found,
            "become_failed": found.failed, "become_succeeded": found.succeeded, "renamed": found.renamed,
            "run_again": found.again, "unread": cases(&found.unread), "given_up": cases(&found.given_up),
            "unread_failures": cases(&found.kept),
            "other_survivors": found.other_survivors, "breaks": found.breaks,
        })
    };
    let discarded = |Discarded { name, finished, reuses, .. }: &Discarded| serde_json::json!({ "stage": name, "finished_trials": finished, "reuses": reuses });
    let base = |base: BaseCommand| serde_json::json!({ "runs_again": base.runs_again(), "why": base.why() });
    serde_json::json!({
        "changes": plan.changes().iter().map(change).collect::<Vec<_>>(),
        "discarded": plan.discarded().iter().map(discarded).collect::<Vec<_>>(),
        "replanned": plan.replanned().iter().map(forecast_json).collect::<Vec<_>>(),
        "base": plan.base().map(base), "clears_scratch_of": plan.cleared().collect::<Vec<_>>(),
        "unapproved": plan.unapproved(),
        "rereads": plan.rereads().map(reread).collect::<Vec<_>>(),
        "added_trials": plan.added_trials(), "reopens": plan.reopens(), "study_runs": plan.study_runs(),
        "applied": applied,
    })
}

//! `piton import`: results that were made elsewhere become those of cases that wait.
//!
//! It shows what matches and what does not, and gets it accepted; the library does it. It never leaves a row out that the command line does not
//! say to leave.

use piton::store::{MatchedRow, UnmatchedRow};
use piton::views::counted;
use piton::{Error, Import, ImportPlan, Store, Study, Unmatched, shell_word};

use super::args::ImportArgs;
use super::commands::run_command;
use super::keeper::with_helpers;
use super::outcome::{print_json, print_line};
use super::terminal::{ask, hint, say};

/// What answers the question beforehand.
const YES: &str = "`--yes` imports, `--dry-run` only shows";

/// Rows of each kind that are shown; `--json` has all.
const SHOWN: usize = 20;

/// Shows what would be imported, and imports it once that is accepted.
pub fn import(args: &ImportArgs) -> Result<u8, Error> {
    let path = &args.store.store;
    if let Some(file) = &args.study {
        make_store(args, file)?;
    }
    let store = Store::at(path);
    let plan = store.import(&what(args))?;
    let refused = plan.refuse(args.unmatched);
    if !args.json {
        print_plan(&plan, args.unmatched)?;
    }
    if args.dry_run || refused.is_err() {
        if args.json {
            print_json(&json(&plan, false))?;
        }
        plan.close()?;
        refused?;
        say("nothing was imported");
        return Ok(0);
    }
    let count = plan.matched().len();
    if count == 0 {
        if args.json {
            print_json(&json(&plan, false))?;
        }
        plan.close()?;
        say("there is nothing to import");
        return Ok(0);
    }
    if !args.yes {
        ask("import them", YES)?;
    }
    let done = json(&plan, true);
    let tells = plan.tells_proposer();
    plan.apply(args.unmatched)?;
    if args.json {
        print_json(&done)?;
        return Ok(0);
    }
    let results = counted(count, "result");
    match tells {
        true => {
            say(&format!("the proposer of stage `{}` hears of {results} before its first question", args.stage))
        }
        false => say(&format!("stage `{}` has {results} more, which were made elsewhere", args.stage)),
    }
    let go_on = match &args.study {
        Some(study) => run_command(study, Some(path), &args.set),
        None => format!("piton resume {}", shell_word(path)),
    };
    hint(&format!("`{go_on}` runs the others"));
    Ok(0)
}

fn make_store(args: &ImportArgs, file: &std::path::Path) -> Result<(), Error> {
    let path = &args.store.store;
    let study = Study::from_file(file, &args.set)?.store(path);
    if args.dry_run && !path.exists() {
        return Err(Error::Usage(format!("`{}` is not there, and `--dry-run` makes no store", path.display())));
    }
    if with_helpers(|| study.make_store())?? {
        say(&format!("made `{}`", path.display()));
    }
    Ok(())
}

fn what(args: &ImportArgs) -> Import {
    let import = match (&args.file, &args.from_store) {
        (_, Some(other)) => Import::from_store(other, args.from_stage.as_deref(), &args.stage),
        (file, None) => Import::from_file(file.clone().unwrap_or_default(), &args.stage),
    };
    let by = args.by.clone().or_else(|| std::env::var("USER").ok()).unwrap_or_else(|| "someone".into());
    let import = import.by(by).outputs_column(&args.outputs_column);
    let import = args.ignore.iter().fold(import, Import::ignore);
    match &args.outputs {
        Some(dir) => import.outputs(dir),
        None => import,
    }
}

fn print_plan(plan: &ImportPlan<'_>, unmatched: Unmatched) -> Result<(), Error> {
    let rest = |count: usize| match count.saturating_sub(SHOWN) {
        0 => Ok(()),
        more => print_line(&format!("            and {more} more")),
    };
    for MatchedRow { row, case, .. } in plan.matched().iter().take(SHOWN) {
        match case {
            Some(case) => print_line(&format!("imports     {row}: `{case}`"))?,
            None => print_line(&format!("tells       {row}"))?,
        }
    }
    rest(plan.matched().len())?;
    let word = if unmatched == Unmatched::Leave { "leaves" } else { "no match" };
    for UnmatchedRow { row, why, .. } in plan.unmatched().iter().take(SHOWN) {
        print_line(&format!("{word:<11} {row}: {why}"))?;
    }
    rest(plan.unmatched().len())?;
    for problem in plan.problems().iter().take(SHOWN) {
        print_line(&format!("wrong       {problem}"))?;
    }
    rest(plan.problems().len())
}

fn json(plan: &ImportPlan<'_>, imported: bool) -> serde_json::Value {
    let source = plan.source();
    let blake3: String = source.blake3.iter().map(|byte| format!("{byte:02x}")).collect();
    let matched = |MatchedRow { row, case, .. }: &MatchedRow| serde_json::json!({ "row": row, "case": case });
    let left = |UnmatchedRow { row, why, .. }: &UnmatchedRow| serde_json::json!({ "row": row, "why": why });
    serde_json::json!({
        "file": source.file, "blake3": blake3, "by": source.by, "tells_proposer": plan.tells_proposer(),
        "matched": plan.matched().iter().map(matched).collect::<Vec<_>>(),
        "unmatched": plan.unmatched().iter().map(left).collect::<Vec<_>>(),
        "problems": plan.problems(), "imported": imported,
    })
}

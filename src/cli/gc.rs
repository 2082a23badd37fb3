//! `piton gc`: what is not kept of finished trials' directories is discarded, and what that frees is said.

use piton::store::{Freed, GcPlan, StageDiscard};
use piton::views::{clean, counted, freed};
use piton::{Error, Store, shell_word};

use super::args::GcArgs;
use super::outcome::{print_json, print_line};
use super::terminal::{hint, say};

/// Discards, or shows what would be; 1 when not all of it could be removed.
pub fn gc(args: &GcArgs) -> Result<u8, Error> {
    let store = Store::at(&args.store.store);
    let plan = if args.dry_run { store.preview_gc(args.keep)? } else { store.plan_gc(args.keep)? };
    let (stages, needed) = (plan.stages().to_vec(), plan.needed());
    let done = if args.dry_run { plan.measure()? } else { GcPlan::apply(plan)? };
    if args.json {
        print_json(&json(args.dry_run, &stages, needed, &done))?;
    } else {
        show(args, &stages, needed, &done)?;
    }
    for stage in &done.unfinished {
        say(&format!(
            "not all of stage `{}` could be removed; the next `piton gc`, or run, tries again",
            clean(stage)
        ));
    }
    Ok(u8::from(!done.unfinished.is_empty()))
}

fn json(dry_run: bool, stages: &[StageDiscard], needed: u64, done: &Freed) -> serde_json::Value {
    let stage = |of: &StageDiscard| {
        serde_json::json!({
            "stage": of.stage, "keep": of.keep.parts().into_iter().collect::<std::collections::BTreeMap<_, _>>(),
            "survivors": of.survivors, "others": of.others, "failed": of.failed,
        })
    };
    serde_json::json!({
        "dry_run": dry_run, "stages": stages.iter().map(stage).collect::<Vec<_>>(), "bytes": done.bytes,
        "inodes": done.inodes, "left_before_bytes": done.left_before, "needed": needed, "unfinished": done.unfinished,
    })
}

fn show(args: &GcArgs, stages: &[StageDiscard], needed: u64, done: &Freed) -> Result<(), Error> {
    for of in stages {
        let kinds = [(of.survivors, "survivor"), (of.failed, "failed trial"), (of.others, "other")];
        let kinds = kinds.into_iter().filter(|(count, _)| *count > 0).map(|(count, kind)| counted(count, kind));
        let keep = of.keep.parts().map(|(name, kept)| format!("{name}={kept}")).join(",");
        print_line(&format!("stage `{}`: {} ({keep})", clean(&of.stage), kinds.collect::<Vec<_>>().join(", ")))?;
    }
    let what = freed(done.bytes, done.inodes);
    print_line(&match (args.dry_run, stages.is_empty() && done.inodes == 0) {
        (_, true) => "nothing to discard".to_owned(),
        (true, _) => format!("would free {what}"),
        (false, _) => format!("freed {what}"),
    })?;
    if needed > 0 {
        say(&format!(
            "{} stay: trials to come may see them",
            match needed {
                1 => "1 directory".to_owned(),
                needed => format!("{needed} directories"),
            }
        ));
    }
    if stages.is_empty() && args.keep.is_none() {
        let store = shell_word(&args.store.store);
        hint(&format!(
            "the study keeps what is there; `piton gc {store} --keep others=outputs,failed=logs` keeps less"
        ));
    }
    Ok(())
}

//! `piton verify`: whether the journal still gives the stored state, the outputs are what was recorded, and all results were
//! made with what the study names now.

use piton::views::{clean, counted};
use piton::{Error, Store, Verified};

use super::args::VerifyArgs;
use super::outcome::{print_json, print_line};

/// Verifies a store; 0 when nothing differs, 4 otherwise.
pub fn verify(args: &VerifyArgs) -> Result<u8, Error> {
    let verified = Store::at(&args.store.store).verify()?;
    let found = verified.differences();
    let same = found == 0;
    let Verified {
        replay, plan, kept, outputs, aborted, ended, rungs, races, made_with, doubts, accepted, ..
    } = verified;
    if args.json {
        let differences: Vec<_> = replay
            .differences
            .iter()
            .map(|d| serde_json::json!({ "what": d.what, "stored": d.stored, "replayed": d.replayed }))
            .collect();
        print_json(&serde_json::json!({
            "schema": 1, "ok": same, "events": replay.events, "rows": replay.rows, "differences": differences,
            "plan_differences": plan, "outputs": outputs.checked, "outputs_discarded": outputs.discarded, "outputs_differing": outputs.differing,
            "output_differences": outputs.differences, "abort_difference": aborted, "end_differences": ended, "rung_differences": rungs, "race_differences": races,
            "made_with_differences": made_with, "doubts": doubts, "inputs_accepted": accepted,
            "from_other_survivors": kept,
        }))?;
    } else {
        print_line(&format!("replayed {} events and compared {} records", replay.events, replay.rows))?;
        for stage in kept {
            print_line(&format!("note: {}", clean(&stage)))?;
        }
        for difference in &replay.differences {
            print_line(&format!("differs: {}", difference.what))?;
            print_line(&format!("  stored:   {}", difference.stored))?;
            print_line(&format!("  replayed: {}", difference.replayed))?;
        }
        for difference in &plan {
            print_line(&format!("cannot run: {difference}"))?;
        }
        print_line(&format!("hashed {} outputs", outputs.checked))?;
        if outputs.discarded > 0 {
            let outputs = counted(outputs.discarded, "output");
            print_line(&format!(
                "discarded: {outputs}, as `keep` or `piton gc` said; not lost, and not looked for"
            ))?;
        }
        for difference in &outputs.differences {
            print_line(&format!("differs: {difference}"))?;
        }
        if let Some(difference) = &aborted {
            print_line(&format!("differs: {difference}"))?;
        }
        for difference in &ended {
            print_line(&format!("differs: {}", clean(difference)))?;
        }
        for difference in rungs.iter().chain(&races) {
            print_line(&format!("differs: {}", clean(difference)))?;
        }
        for difference in &made_with {
            print_line(&format!("differs: {difference}"))?;
        }
        for doubt in &doubts {
            print_line(&format!("doubtful: {}", clean(doubt)))?;
        }
        for accepted in &accepted {
            print_line(&format!("accepted: {accepted}"))?;
        }
        print_line(&match found {
            0 => "the store is consistent".to_owned(),
            n => counted(n, "difference"),
        })?;
    }
    Ok(if same { 0 } else { 4 })
}

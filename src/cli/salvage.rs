//! `piton salvage`: a new store from all that can still be read of a damaged one.

use piton::model::TrialId;
use piton::views::counted;
use piton::{Error, Look, Salvaged, shell_word};

use super::args::SalvageArgs;
use super::outcome::{print_json, print_line};
use super::terminal::{hint, note};

/// Lost results that are named; the others are counted.
const SHOWN: usize = 10;

/// Makes the store and says what is in it, and what is not.
pub fn salvage(args: &SalvageArgs) -> Result<u8, Error> {
    let salvaged = piton::salvage(&args.damaged, &args.output)?;
    let (_reader, look) = Look::at_store(&args.output)?;
    let lineage = look.view.lineage();
    let lost: Vec<String> = salvaged.lost_results.iter().map(|trial: &TrialId| lineage.name_of(*trial)).collect();
    let accounting = look.view.progress.accounting;
    let results = look.view.summaries().map(|summary| summary.trials.finished()).sum::<u64>();
    if args.json {
        print_json(&serde_json::json!({
            "schema": 1, "store": args.output.display().to_string(), "events": salvaged.events,
            "events_known": salvaged.known, "events_lost": salvaged.lost,
            "events_beyond_gap": salvaged.beyond_gap, "events_unconfirmed": salvaged.unconfirmed,
            "stopped": salvaged.stopped, "rebuilt": salvaged.rebuilt, "results": results, "running": accounting.running, "lost_results": lost,
        }))?;
        return Ok(0);
    }
    tell(&salvaged, results, &lost)?;
    if accounting.running > 0 {
        note(&run_again(accounting.running));
    }
    hint(&format!(
        "`piton resume {0}` goes on with it; `piton verify {0}` checks it and the outputs",
        shell_word(&args.output)
    ));
    Ok(0)
}

fn tell(salvaged: &Salvaged, results: u64, lost: &[String]) -> Result<(), Error> {
    let Salvaged { events, known, beyond_gap, unconfirmed, stopped, rebuilt, .. } = salvaged;
    if *rebuilt {
        print_line(&format!(
            "{} of {known} events are lost; rebuilt from what was stored of each trial, with the results of {}",
            salvaged.lost,
            counted(results, "trial")
        ))?;
        note(
            "the journal of the new store tells of attempts, not of how the study came to them: its first event says so",
        );
    } else if events == known {
        print_line(&format!("recovered all {events} events, with the results of {}", counted(results, "trial")))?;
    } else {
        print_line(&format!(
            "recovered {events} of {known} events, with the results of {}; {} are lost",
            counted(results, "trial"),
            known - events
        ))?;
    }
    if let Some(why) = stopped {
        let beyond = match beyond_gap {
            0 => String::new(),
            n => format!("; {n} after it can be read, but cannot be applied without it"),
        };
        print_line(&format!("it ends there because {why}{beyond}"))?;
    }
    if *unconfirmed > 0 {
        note(&match unconfirmed {
            1 => "the last event is vouched for by nothing but its own checksum".to_owned(),
            n => format!("the last {n} events are vouched for by nothing but their own checksums"),
        });
    }
    if !lost.is_empty() {
        let named = lost.iter().take(SHOWN).map(|case| format!("`{case}`")).collect::<Vec<_>>().join(", ");
        let more = lost.len().saturating_sub(SHOWN);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        print_line(&format!("lost results, which will be computed again: {named}{more}"))?;
    }
    Ok(())
}

fn run_again(running: u64) -> String {
    match running {
        1 => "1 trial that was running by then runs again".to_owned(),
        n => format!("{n} trials that were running by then run again"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_trial_is_one() {
        assert_eq!(run_again(1), "1 trial that was running by then runs again");
        assert_eq!(run_again(2), "2 trials that were running by then run again");
    }
}

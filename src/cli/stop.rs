//! `piton stop`: asks the running engine to stop, and says what is waited for. No wait is silent.

use piton::store::Stop;
use piton::views::counted;
use piton::{Error, Store, Study, shell_word};

use super::args::StopArgs;
use super::keeper::keeper;
use super::progress::Progress;
use super::terminal::{ask, hint, say};

pub fn stop(args: &StopArgs) -> Result<u8, Error> {
    let store = &args.store.store;
    let how = if args.now { Stop::Terminate } else { Stop::Drain };
    let Some(stopping) = Store::at(store).ask_to_stop(how)? else {
        return without_engine(args);
    };
    let engine = stopping.words();
    let what = if args.now { "terminate its trials" } else { "let its running trials finish" };
    say(&format!("asked {engine} to stop and {what}; waiting for it"));
    stopping.wait(&mut |running| {
        say(&format!("still waiting for {engine}: {} still run", counted(running, "trial")));
    })?;
    say("the engine has stopped; everything it reported is recorded");
    hint(&format!("`piton resume {}` goes on", shell_word(store)));
    Ok(0)
}

/// No engine runs: what it left on a cluster goes on, until it is taken back.
fn without_engine(args: &StopArgs) -> Result<u8, Error> {
    let store = &args.store.store;
    let Some((cluster, left)) = Store::at(store).running_on_cluster()? else {
        say(&format!("no engine runs the study in `{}`", store.display()));
        return Ok(0);
    };
    let (trials, store_word) = (counted(left, "trial"), shell_word(store));
    say(&format!("no engine runs the study in `{}`, and {trials} may run on {cluster}", store.display()));
    if !args.now {
        hint(&format!(
            "`piton resume {store_word}` goes on with them; `piton stop {store_word} --now` takes them back"
        ));
        return Ok(0);
    }
    if !args.yes {
        ask(&format!("take {trials} back from {cluster}"), "`--yes` takes them back")?;
    }
    let study = Study::from_store(store).keeper(keeper()?).watch_signals(true);
    let study = match std::env::current_exe() {
        Ok(program) => study.program(program),
        Err(_) => study,
    };
    let mut progress = Progress::start(store, &format!("piton resume {store_word}"), None, false);
    let outcome = study.take_back(&mut progress);
    progress.finish();
    let outcome = outcome?;
    match Store::at(store).running_on_cluster() {
        Ok(None) => say("nothing of the study is left there; what was cut off will run again"),
        _ => say("the cluster has not let go of all of it yet"),
    }
    hint(&format!("`piton resume {store_word}` goes on"));
    Ok(if outcome.exit_code() == 1 { 1 } else { 0 })
}

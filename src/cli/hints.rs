//! What to do after an error.
//!
//! Each command in a hint works as it is printed. Nothing here may suggest what loses results without saying so.

use piton::program::engine::EngineError;
use piton::store::StopError;
use piton::views::ViewError;
use piton::{Error, OpenError, shell_word};

use super::commands::amend_as;

/// What to do now; only commands that exist.
pub fn hints(error: &Error) -> Vec<String> {
    match error {
        Error::Open(OpenError::Locked { path }) => vec![format!(
            "`piton status {0}` shows what it does, `piton stop {0}` asks it to stop",
            shell_word(path)
        )],
        Error::Open(OpenError::Withheld { path }) => {
            vec![format!(
                "`fuser -v {}` names the program; once it has let go, the command works",
                shell_word(path)
            )]
        }
        Error::Open(OpenError::Damaged { path, .. })
            if path.extension().is_some_and(|ending| ending == "toml") =>
        {
            vec![format!("the store of a study file is `{}`", shell_word(&path.with_extension("redb")))]
        }
        Error::Open(OpenError::Damaged { path, .. }) | Error::Journal { store: path, .. }
            if error.exit_code() == 7 =>
        {
            vec![salvage_hint(&shell_word(path))]
        }
        Error::Engine(EngineError::Commit(failed)) if failed.cause.is_damage() => {
            vec![salvage_hint(&shell_word(&failed.store))]
        }
        Error::DamagedStore(_) | Error::View(ViewError::Journal(_)) | Error::Engine(_)
            if error.exit_code() == 7 =>
        {
            vec![salvage_hint("STORE")]
        }
        Error::Open(OpenError::Missing { .. }) => {
            vec!["a store is made by `piton run STUDY.toml`, beside the study file".into()]
        }
        Error::Open(OpenError::Newer { .. }) => vec!["use the piton that wrote it, or a later one".into()],
        Error::SpecDiffers { store, amend, .. } => vec![format!(
            "`{1}` shows what the change costs, and makes it; or undo it; or go on with the \
                 stored study: `piton resume {0}`; or begin a new one beside it with `--store FILE --artifacts DIR`",
            shell_word(store),
            amend_as(amend)
        )],
        Error::Stop(StopError::Suspended { store, pid }) => vec![
            format!("`kill -CONT {pid}`, or `fg` in its shell, lets it go on, and then it stops in good order"),
            format!("`piton stop {} --now` continues it and terminates its trials", shell_word(store)),
        ],
        Error::Stop(StopError::NoRequest { .. } | StopError::NotTaken { .. }) => {
            vec!["`piton stop` where the engine runs works".into()]
        }
        Error::StoreForStudyFile { path } => {
            vec![format!("`piton resume {}` goes on with the study in it", shell_word(path))]
        }
        Error::OtherStudy { .. } => {
            vec!["begin a new study beside it with `--store FILE --artifacts DIR`".into()]
        }
        Error::AltersResults { amend, .. } => {
            vec![format!("to discard them and run again what follows: `{}`", amend_as(amend))]
        }
        Error::ArtifactsTaken { .. } => {
            vec!["give this one a directory of its own with `--artifacts DIR`, or remove that store".into()]
        }
        Error::InputsChanged { store, way_on, .. } => {
            let back = "put them back as they were, then give the same command again";
            let take = way_on.as_ref().map_or_else(
                || format!("take them as they are with `piton amend {} STUDY.toml`", shell_word(store)),
                |how| format!("take them as they are, and run again what they could alter: `{}`", amend_as(how)),
            );
            let ignore = "leave out what is no input with `inputs_ignore` in `[study]`, and amend that";
            let anew = "begin a new study beside it with `--store FILE --artifacts DIR`";
            vec![format!("{back}; or {take}; or {ignore}; or {anew}")]
        }
        Error::ParentChanged { store, parent, again } => {
            let case = &parent.case;
            vec![match again {
                Some(again) => format!(
                    "put it back as it was (`piton replay {} {case} --keep` makes it again, in a directory that it \
                         names), then give the same command again; or run its stage again with all that follows: \
                         `{1}`, then `piton resume {0}`",
                    shell_word(store),
                    amend_as(again)
                ),
                // A study of closures: only its own program could run them again.
                None => "put it back as it was, then run the study again; or begin a new one beside it".to_owned(),
            }]
        }
        Error::Engine(EngineError::Executor(_)) => {
            vec!["mend the cause, then give the same command again".into()]
        }
        Error::Engine(EngineError::Commit(failed)) => {
            vec![format!("mend the cause, then `piton resume {}`", shell_word(&failed.store))]
        }
        _ => Vec::new(),
    }
}

fn salvage_hint(store: &str) -> String {
    format!(
        "`piton salvage {store} -o NEW` makes a new store from all that can still be read, says what that is, and \
         leaves this one as it is"
    )
}

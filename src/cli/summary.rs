//! The summary of a CI job: how a study stands, in the Markdown that GitHub shows beside the log.
//!
//! Names, values and reasons come from trials: they are characters there and never markup.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use piton::model::StudyStatus;
use piton::program::sys::clock::unix_ms;
use piton::views::status::Status;
use piton::views::{clean, counted};
use piton::{Error, Look};

use super::outcome::{Failures, Survivors, gathered};

/// The file that GitHub reads it from.
const FILE: &str = "GITHUB_STEP_SUMMARY";

/// Appends the summary to the file the CI system names, if it names one.
pub fn append(store: &Path, again: &str) -> Result<(), Error> {
    let Some(path) = std::env::var_os(FILE).filter(|path| !path.is_empty()) else { return Ok(()) };
    let (_reader, look) = Look::at_store(store)?;
    let status = Status::load(&look.view, &look.snapshot, unix_ms())?;
    let (survivors, failures) = gathered(&look)?;
    let text = markdown(&status, survivors.as_ref(), &failures, again);
    let appended = File::options().append(true).create(true).open(&path);
    appended.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|cause| Error::File {
        what: "write the job summary",
        path: path.into(),
        cause,
    })
}

/// A text as characters: all that could be markup is a reference to itself.
fn plain(text: &str) -> String {
    let mut safe = String::new();
    for letter in text.split(['\n', '\r']).map(clean).collect::<Vec<_>>().join("\n").chars() {
        match letter {
            '\n' | '\r' => safe.push(' '),
            // What is no markup wherever it stands in a line of ours.
            ' ' | '-' | '.' | ',' | '=' | '%' | '/' | '+' => safe.push(letter),
            _ if letter.is_ascii_punctuation() => safe.push_str(&format!("&#{};", u32::from(letter))),
            _ => safe.push(letter),
        }
    }
    safe
}

fn row(cells: impl IntoIterator<Item = String>) -> String {
    let cells: Vec<String> = cells.into_iter().collect();
    format!("| {} |\n", cells.join(" | "))
}

fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut text = row(header.iter().map(|cell| plain(cell)));
    text.push_str(&row(header.iter().map(|_| "---".to_owned())));
    rows.into_iter().for_each(|cells| text.push_str(&row(cells.iter().map(|cell| plain(cell)))));
    text
}

fn markdown(status: &Status, survivors: Option<&Survivors>, failures: &Failures, again: &str) -> String {
    let mut text = match &status.waits_for_approval {
        Some(_) => format!("### piton: {} waits for approval\n\n", plain(&status.study)),
        None => format!("### piton: {} is {}\n\n", plain(&status.study), status.status),
    };
    if let Some(reason) = &status.abort_reason {
        let _ = writeln!(text, "Aborted: {}\n", plain(reason));
        for words in &status.abort_words {
            let _ = writeln!(text, "{}\n", plain(words));
        }
    }
    let stages = status.stages.iter().map(|stage| {
        let best = stage
            .best
            .as_ref()
            .map(|best| format!("{} {} ({})", best.metric, piton::views::number(best.value), best.case));
        vec![
            stage.name.clone(),
            stage.status.to_string(),
            stage.trials.planned.to_string(),
            stage.trials.succeeded.to_string(),
            stage.trials.failed.to_string(),
            stage.survivors.to_string(),
            best.unwrap_or_default(),
        ]
    });
    let header = ["stage", "status", "planned", "succeeded", "failed", "survived", "best"];
    text.push_str(&table(&header, stages));
    if let Some(found) = survivors {
        let header: Vec<&str> = found.header.iter().map(String::as_str).collect();
        text.push('\n');
        text.push_str(&table(&header, found.rows.iter().cloned()));
        if found.more > 0 {
            let _ = writeln!(text, "\nand {} more", found.more);
        }
    }
    if failures.total > 0 {
        let _ = writeln!(text, "\n{} failed:\n", counted(failures.total, "trial"));
        let rows =
            failures.shown.iter().map(|(case, kind, reason)| vec![case.clone(), kind.clone(), reason.clone()]);
        text.push_str(&table(&["case", "kind", "reason"], rows));
    }
    if let Some(stage) = &status.waits_for_approval {
        let _ = writeln!(text, "\nStage {} waits for approval: <code>piton approve</code>.", plain(stage));
    } else if status.status == StudyStatus::Interrupted {
        let _ = writeln!(text, "\nEverything that ended is recorded. Go on with <code>{}</code>.", plain(again));
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_trials_say_is_no_markup() {
        assert_eq!(plain("a|b"), "a&#124;b");
        assert_eq!(plain("<img src=x>"), "&#60;img src=x&#62;");
        assert_eq!(
            plain("[x](http://y) `z` *w*\n# h"),
            "&#91;x&#93;&#40;http&#58;//y&#41; &#96;z&#96; &#42;w&#42; &#35; h"
        );
        let text = table(&["a", "b"], [vec!["x|y".into(), "1.5".into()]]);
        assert_eq!(text, "| a | b |\n| --- | --- |\n| x&#124;y | 1.5 |\n");
    }
}

//! Whether all results were made with the inputs and tools that the study has now: the part of `verify` that asks what they
//! were made of.
//!
//! No engine mixes them, but pitons before this one could be brought to it. It reads the store alone, never the inputs
//! themselves: whether those have changed since is another question.

use std::collections::BTreeMap;

use super::dump::accepted_words;
use super::text::clean;
use super::words::timestamp;
use super::{StudyView, ViewError};
use crate::journal::Snapshot;
use crate::model::words::counted;
use crate::model::{Accepted, Event, Identity, StageIndex, TrialId, TrialState, Verdict};
use crate::plan::amend::changed_tools;
use crate::study_file::{Contradiction, Found, contradicted};

/// Most cases, and most inputs, that are named in one line.
const NAMED: usize = 5;

/// Results that were made with something else than the study names now, in words: a line for each time in which inputs and
/// tools were what they were.
///
/// # Errors
/// [`ViewError::Journal`].
pub(crate) fn check(view: &StudyView, snapshot: &Snapshot) -> Result<Vec<String>, ViewError> {
    let identities = snapshot.identities()?;
    let Some((now, before)) = identities.split_last() else { return Ok(Vec::new()) };
    let found = Found { hashes: now.inputs.clone(), lists: now.lists.clone() };
    let other = |identity: &Identity| -> Vec<(StageIndex, String)> {
        let inputs = contradicted(&view.spec, identity, &found, &view.place.study_dir);
        let tools = changed_tools(&identity.versions, &now.versions).map(Contradiction::of_all);
        let then = |Contradiction { change, from }| {
            let (old, new) = (change.old.unwrap_or_default(), change.new.unwrap_or_default());
            (from, format!("{}: {} then, {} now", clean(&change.path), clean(&old), clean(&new)))
        };
        inputs.into_iter().chain(tools).map(then).collect()
    };
    let others: BTreeMap<usize, Vec<(StageIndex, String)>> =
        before.iter().map(other).enumerate().filter(|(_, changes)| !changes.is_empty()).collect();
    if others.is_empty() {
        return Ok(Vec::new());
    }
    let mut made: BTreeMap<usize, (StageIndex, Vec<String>)> = BTreeMap::new();
    let lineage = view.lineage();
    for (trial, time) in last_results(snapshot)? {
        let Some(changes) = others.get(&time) else { continue };
        let Some(stage) = stage_of_result(view, snapshot, trial)? else { continue };
        if changes.iter().any(|(from, _)| *from <= stage) {
            let case = match trial {
                TrialId::BASE => "the base command".to_owned(),
                trial => format!("`{}`", clean(&lineage.name_of(trial))),
            };
            let (last, cases) = made.entry(time).or_default();
            *last = stage.max(*last);
            cases.push(case);
        }
    }
    let listed = |items: &[String], separator: &str| {
        let shown = items.iter().take(NAMED).cloned().collect::<Vec<_>>().join(separator);
        match items.len().saturating_sub(NAMED) {
            0 => shown,
            more => format!("{shown} and {more} more"),
        }
    };
    let line = |(time, (last, cases)): (usize, (StageIndex, Vec<String>))| {
        let changes = others.get(&time).into_iter().flatten().filter(|(from, _)| *from <= last);
        let changes = listed(&changes.map(|(_, change)| change.clone()).collect::<Vec<_>>(), "; ");
        let count = counted(cases.len(), "result");
        format!(
            "{count} made with other inputs or tools than the study has now: {} ({changes})",
            listed(&cases, ", ")
        )
    };
    Ok(made.into_iter().map(line).collect())
}

/// What a person accepted, in words, a line each.
pub(crate) fn accepted(view: &StudyView) -> Vec<String> {
    let words = |accepted: &Accepted| {
        let changes = accepted.inputs.iter().chain(&accepted.tools);
        format!("{}, {}", timestamp(accepted.at_ms), clean(&accepted_words(&accepted.by, &accepted.note, changes)))
    };
    view.study.accepted.iter().map(words).collect()
}

/// In which time each trial last succeeded or failed: the numbers of discarded trials are given anew.
fn last_results(snapshot: &Snapshot) -> Result<BTreeMap<TrialId, usize>, ViewError> {
    let (mut last, mut time) = (BTreeMap::new(), 0_usize);
    for event in snapshot.events(1)? {
        let event = event?.1.event;
        // The identity of one that is reused holds what the study had then; one that is imported was held against that.
        last.extend(event.taken_by().map(|trial| (trial, time)));
        match event {
            Event::SpecAmended(_) => time += 1,
            Event::AttemptEnded(end) | Event::BaseEnded(end)
                if matches!(end.verdict, Verdict::Succeeded { .. } | Verdict::Failed(_)) =>
            {
                last.insert(end.trial, time);
            }
            _ => {}
        }
    }
    Ok(last)
}

/// The stage of a trial that has a result; the base command's is the first one.
fn stage_of_result(
    view: &StudyView,
    snapshot: &Snapshot,
    trial: TrialId,
) -> Result<Option<StageIndex>, ViewError> {
    // One that is to run again has none, whatever its attempts so far said.
    let found = match trial {
        TrialId::BASE => view.study.base.as_ref().map(|base| (0, base.state)),
        trial => snapshot.trial(trial)?.map(|row| (row.stage, row.state)),
    };
    let found = found.filter(|(_, state)| matches!(state, TrialState::Succeeded | TrialState::Failed));
    Ok(found.map(|(stage, _)| stage))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{InputEntry, InputHash, InputList, SpecAmended};
    use crate::plan::declared;
    use crate::testing::story::{DEAD, Story};

    fn hash(path: &str, of: &str) -> InputHash {
        let blake3 = blake3::hash(of.as_bytes()).to_hex().to_string();
        InputHash { path: path.into(), bytes: 1, blake3 }
    }

    /// The study takes these inputs, with nothing discarded, as an earlier piton could be brought to do.
    fn amend(story: &mut Story, inputs: Vec<InputHash>) {
        let (view, _) = story.view(DEAD);
        story.event(Event::SpecAmended(Box::new(SpecAmended {
            spec: view.study.spec.clone(),
            spec_hash: view.study.spec_hash.clone(),
            seed: 7,
            inputs,
            versions: Vec::new(),
            stages: declared(&view.spec),
            discard_from: None,
            extended: None,
            reopen: false,
        })));
    }

    fn told(story: &Story) -> Vec<String> {
        let (view, snapshot) = story.view(DEAD);
        check(&view, &snapshot).unwrap()
    }

    #[test]
    fn results_of_other_inputs_are_named() {
        let mut story = Story::new();
        // A time in which nothing ended counts for nothing.
        amend(&mut story, vec![hash("t.sh", "0")]);
        amend(&mut story, vec![hash("t.sh", "1")]);
        story.run().open_explore().start(0, 1).succeed(0, 1, 200.0).start(1, 1).interrupt(1, 1);
        // Named otherwise, it is what it was.
        amend(&mut story, vec![hash("./t.sh", "1"), hash("more", "1")]);
        story.start(1, 2).succeed(1, 2, 300.0);
        assert_eq!(told(&story), [""; 0]);
        amend(&mut story, vec![hash("t.sh", "2")]);
        let lines = told(&story);
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].starts_with("1 result made with other inputs or tools"), "{lines:?}");
        assert!(
            lines[0].contains(": `t_0_0` (input \"t.sh\": blake3 ") && lines[1].contains("`t_0_1`"),
            "{lines:?}"
        );
        // What ends from now on is the study's.
        story.start(2, 1).succeed(2, 1, 100.0);
        assert_eq!(told(&story).len(), 2);
        // Taken back, the one is right and the other is not.
        amend(&mut story, vec![hash("t.sh", "1")]);
        assert!(matches!(&told(&story)[..], [line] if line.contains("`t_0_2`")), "{:?}", told(&story));
    }

    #[test]
    fn a_file_of_a_directory_is_told() {
        let mut story = Story::new();
        let with = |story: &mut Story, of: &str| {
            amend(story, vec![hash("src", of)]);
            let content = *blake3::hash(of.as_bytes()).as_bytes();
            let entries = vec![InputEntry { path: b"a.v".to_vec(), kind: b'f', content }];
            let list = InputList { input: "src".into(), blake3: hash("src", of).blake3, entries };
            story.event(Event::InputsListed { lists: vec![list] });
        };
        with(&mut story, "1");
        story.run().open_explore().start(0, 1).fail(0, 1, "no", crate::model::Next::Final);
        with(&mut story, "2");
        assert!(
            matches!(&told(&story)[..], [line] if line.contains("`t_0_0` (input \"src/a.v\"")),
            "{:?}",
            told(&story)
        );
    }
}

//! Who descends from whom, as a Graphviz graph (DOT): the survivors of every stage and what they descend from.
//!
//! Parents are survivors of the stage before, so the graph is as large as the survivors are many, however many trials ran.
//! It is written as it is read. Text that trials or a spec chose is quoted so that it can be nothing but text.

use std::collections::HashSet;
use std::io::{BufWriter, Write};

use super::text::{clean, counted, fit, number};
use super::{StudyView, ViewError};
use crate::journal::Snapshot;
use crate::model::{Metric, Parent, StageRow, TrialId, Value};
use crate::plan::{Lineage, StageTrials};

/// Longest line of a node's label, columns.
const LABEL_COLUMNS: usize = 60;

/// Writes the graph. What the survivors of the last closed stage descend from is drawn bold, and who explores dashed.
///
/// # Errors
/// [`ViewError::Journal`], [`ViewError::Output`].
pub(crate) fn dot(view: &StudyView, snapshot: &Snapshot, out: &mut dyn Write) -> Result<(), ViewError> {
    let out: &mut dyn Write = &mut BufWriter::new(out);
    let lineage = view.lineage();
    let winners = winners(view, &lineage);
    writeln!(
        out,
        "// The survivors of each stage, and what they descend from. To draw it: dot -Tsvg lineage.dot"
    )?;
    writeln!(out, "digraph {} {{", quoted(&view.study.name))?;
    writeln!(out, "  rankdir=LR;")?;
    writeln!(out, "  node [shape=box, style=rounded, fontname=\"sans-serif\", fontsize=10];")?;
    writeln!(out, "  edge [arrowsize=0.6];")?;
    writeln!(out, "  base [shape=oval, label={}];", quoted(&view.study.base_case))?;
    for stage in view.stages.iter().filter(|stage| !stage.survivors.is_empty()) {
        let StageTrials { planned, failed, pruned, .. } = view.summary(stage).trials;
        let planned = counted(planned, "trial");
        let mut title = format!("{}: {} of {planned} survive", stage.name, stage.winners().len());
        match stage.explorers().len() {
            0 => {}
            1 => title += ", 1 explores",
            more => title += &format!(", {more} explore"),
        }
        if failed > 0 {
            title += &format!(", {failed} failed");
        }
        if pruned > 0 {
            title += &format!(", {pruned} pruned");
        }
        writeln!(out, "  subgraph cluster_{} {{", stage.index)?;
        writeln!(out, "    label={}; color=gray; fontname=\"sans-serif\"; fontsize=11;", quoted(&title))?;
        let ranked = stage.winners().iter().zip((1_u64..).map(Some));
        for (parent, rank) in ranked.chain(stage.explorers().iter().map(|parent| (parent, None))) {
            let label = label(view, snapshot, &lineage, stage, rank, parent)?;
            let style = match (winners.contains(&parent.trial), rank) {
                (false, Some(_)) => "",
                (true, Some(_)) => ", style=\"rounded,bold\"",
                (false, None) => ", style=\"rounded,dashed\"",
                (true, None) => ", style=\"rounded,bold,dashed\"",
            };
            writeln!(out, "    t{} [label={label}{style}];", parent.trial)?;
        }
        writeln!(out, "  }}")?;
    }
    for stage in &view.stages {
        for survivor in &stage.survivors {
            let parent = parent_of(&lineage, survivor.trial);
            let from = parent.map_or_else(|| "base".to_owned(), |parent| format!("t{}", parent.trial));
            let bold = if winners.contains(&survivor.trial) { " [style=bold]" } else { "" };
            writeln!(out, "  {from} -> t{}{bold};", survivor.trial)?;
        }
    }
    writeln!(out, "}}")?;
    Ok(out.flush()?)
}

fn parent_of(lineage: &Lineage<'_>, trial: TrialId) -> Option<Parent> {
    let (stage, index) = lineage.locate(trial)?;
    lineage.parent(stage, index)
}

/// The survivors of the last closed stage, and all they descend from.
fn winners(view: &StudyView, lineage: &Lineage<'_>) -> HashSet<TrialId> {
    let mut winners = HashSet::new();
    for survivor in view.last_closed().iter().flat_map(|stage| stage.winners()) {
        let mut at = Some(survivor.trial);
        while let Some(trial) = at.filter(|trial| winners.insert(*trial)) {
            at = parent_of(lineage, trial).map(|parent| parent.trial);
        }
    }
    winners
}

/// A node's text: its case and rank, or that it explores, the values its own sweep chose, its objectives.
fn label(
    view: &StudyView,
    snapshot: &Snapshot,
    lineage: &Lineage<'_>,
    stage: &StageRow,
    rank: Option<u64>,
    survivor: &Parent,
) -> Result<String, ViewError> {
    let rank = rank.map_or_else(|| "explores".to_owned(), |rank| format!("#{rank}"));
    let mut lines = vec![format!("{} ({rank})", lineage.whole_case_of(survivor.trial))];
    let own = lineage.locate(survivor.trial).and_then(|(stage, index)| lineage.own_values(stage, index));
    let own = own.unwrap_or_default();
    if !own.is_empty() {
        let own: Vec<String> = own.iter().map(|(name, value)| format!("{name}={}", short(value))).collect();
        lines.push(own.join(" "));
    }
    let row = snapshot.trial(survivor.trial)?;
    let objectives = view.spec.stages.get(stage.index as usize).map_or(&[][..], |stage| &stage.objectives);
    for objective in objectives {
        if let Some(Metric::Number(value)) = row.as_ref().and_then(|row| row.metrics.get(&objective.metric)) {
            lines.push(format!("{} {}", objective.metric, number(*value)));
        }
    }
    let lines: Vec<String> = lines.iter().map(|line| escaped(&fit(&clean(line), LABEL_COLUMNS))).collect();
    Ok(format!("\"{}\"", lines.join("\\n")))
}

fn short(value: &Value) -> String {
    match value {
        Value::Float(value) => number(*value),
        other => other.to_string(),
    }
}

/// A quoted string of one line that is shown as it is.
fn quoted(text: &str) -> String {
    format!("\"{}\"", escaped(&clean(text)))
}

/// For the inside of a quoted string: labels have escapes of their own (`\n`, `\N`, …) and know HTML's entities.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '&' => out.push_str("&amp;"),
            letter => out.push(letter),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::story::{DEAD, Story, written};

    fn drawn(story: &Story) -> String {
        let (view, snapshot) = story.view(DEAD);
        written(|out| dot(&view, &snapshot, out))
    }

    #[test]
    fn survivors_hang_from_their_parents_and_the_winners_line_is_bold() {
        let mut story = Story::new();
        story.complete();
        insta::assert_snapshot!(drawn(&story), @r#"
        // The survivors of each stage, and what they descend from. To draw it: dot -Tsvg lineage.dot
        digraph "tiny" {
          rankdir=LR;
          node [shape=box, style=rounded, fontname="sans-serif", fontsize=10];
          edge [arrowsize=0.6];
          base [shape=oval, label="t"];
          subgraph cluster_0 {
            label="explore: 2 of 4 trials survive, 1 failed"; color=gray; fontname="sans-serif"; fontsize=11;
            t3 [label="t_0_3 (#1)\nmode=small level=2\nbytes 100", style="rounded,bold"];
            t0 [label="t_0_0 (#2)\nmode=fast level=1\nbytes 200"];
          }
          subgraph cluster_1 {
            label="confirm: 1 of 2 trials survive"; color=gray; fontname="sans-serif"; fontsize=11;
            t4 [label="t_1_0 (#1)\nbytes 90", style="rounded,bold"];
          }
          base -> t3 [style=bold];
          base -> t0;
          t3 -> t4 [style=bold];
        }
        "#);
    }

    #[test]
    fn without_survivors_there_is_only_the_base_case() {
        let mut story = Story::new();
        story.run().open_explore().start(0, 1);
        let text = drawn(&story);
        assert!(text.contains("base [") && !text.contains("->") && !text.contains("cluster"), "{text}");
    }

    #[test]
    fn text_stays_text() {
        assert_eq!(quoted("a\"]; b -> c //\\"), r#""a\"]; b -> c //\\""#);
        assert_eq!(quoted("\\N\n&lt;"), r#""\\N\\n&amp;lt;""#);
        assert_eq!(quoted("\u{1b}[31m"), r#""\\u{1b}[31m""#);
    }
}

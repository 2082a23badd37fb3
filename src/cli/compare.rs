//! `piton compare`: the gate. Exit code 4 when the study got worse than its baseline.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::path::Path;

use anstyle::{AnsiColor, Style};
use comfy_table::{ColumnConstraint, ContentArrangement, LineStyle, Table, TableStyle, Width};
use piton::program::study_file::Goal;
use piton::program::sys::files::is_same;
use piton::store::Compare;
use piton::views::compare::{Finding, Limits, Row, Tolerance, Totals};
use piton::views::{clean, counted, number, short_number};
use piton::{Error, Store, shell_word};

use super::args::{CompareArgs, MatchBy, Undecided};
use super::errors::print_error;
use super::github;
use super::outcome::{print_json, print_line, print_text};
use super::sink;
use super::terminal;

/// Most lines shown that fail the gate; `--json` has them all.
const SHOWN_REGRESSIONS: usize = 100;

/// Most lines shown that got better.
const SHOWN_IMPROVEMENTS: usize = 30;

/// Most lines shown of which nothing can be said.
const SHOWN_UNDECIDED: usize = 40;

/// Lines that did not move are shown only where there are no more than so many.
const SHOWN_UNCHANGED: usize = 40;

pub fn compare(args: &CompareArgs) -> Result<u8, Error> {
    let store = Store::at(&args.store.store);
    match (&args.write_baseline, &args.baseline) {
        (Some(path), _) => write(args, &store, path),
        (None, Some(path)) if args.junit.as_deref().is_some_and(|junit| junit == path || is_same(junit, path)) => {
            Err(Error::Usage(format!("`--junit {}` names the baseline", path.display())))
        }
        (None, Some(path)) => {
            gate(args, &store.compare(path, args.stage.as_deref(), limits(args))?, &shell_word(path))
        }
        (None, None) if args.between.is_some() => {
            let compare = store.compare_between(args.stage.as_deref(), limits(args))?;
            let base = args.between.as_ref().map(|between| format!("{} = {}", between.param, between.base));
            gate(args, &compare, &clean(&base.unwrap_or_default()))
        }
        (None, None) => Err(Error::Usage("there is no baseline to compare with".into())),
    }
}

fn write(args: &CompareArgs, store: &Store, path: &Path) -> Result<u8, Error> {
    let written = store.write_baseline(path, args.stage.as_deref(), &limits(args))?;
    let (trials, unfinished) = (written.trials, written.unfinished);
    if unfinished > 0 {
        let planned = trials + unfinished;
        terminal::note(&format!("{unfinished} of its {planned} trials have no result yet, and are not in it"));
    }
    if args.json {
        print_json(&serde_json::json!({ "baseline": path.display().to_string(), "trials": trials }))?;
    } else {
        print_line(&format!("wrote the results of {} to {}", counted(trials, "trial"), shell_word(path)))?;
    }
    Ok(0)
}

/// Tolerances by metric; of several for one, the more generous of each kind.
pub fn tolerances(given: &[(String, Tolerance)]) -> BTreeMap<String, Tolerance> {
    let mut tolerances: BTreeMap<String, Tolerance> = BTreeMap::new();
    for (metric, tolerance) in given {
        let so_far = tolerances.entry(metric.clone()).or_default();
        *so_far = so_far.and(*tolerance);
    }
    tolerances
}

fn limits(args: &CompareArgs) -> Limits {
    let mut limits = Limits::default();
    limits.tolerances = tolerances(&args.tolerance);
    limits.directions = args.direction.iter().cloned().collect();
    limits.only = args.metric.iter().cloned().collect();
    limits.allow_missing = args.allow_missing;
    limits.match_params = args.match_by == MatchBy::Params;
    limits.between = args.between.clone();
    limits.undecided_fails = args.undecided == Undecided::Fail;
    limits
}

fn gate(args: &CompareArgs, compare: &Compare, baseline: &str) -> Result<u8, Error> {
    let totals = if args.json { json(compare)? } else { text(compare, baseline)? };
    if args.ci && github::is_there() {
        annotate(compare)?;
    }
    let unwritten = args.junit.as_ref().and_then(|junit| compare.write_junit(junit).err());
    notes(compare, &totals);
    if totals.regressions == 0 {
        return unwritten.map_or(Ok(0), Err);
    }
    // The gate has its answer, whatever became of the report.
    if let Some(error) = unwritten {
        print_error(&error);
    }
    if args.baseline.is_none() {
        return Ok(4);
    }
    terminal::hint(&format!(
        "if this is how it should be: `piton compare {} --write-baseline FILE` makes it the next baseline",
        shell_word(&args.store.store)
    ));
    Ok(4)
}

/// Regressions as annotations, for GitHub: errors, and what is inconclusive as warnings.
fn annotate(compare: &Compare) -> Result<(), Error> {
    const SHOWN: usize = 10;
    let [mut errors, mut warnings] = [Vec::new(), Vec::new()];
    compare.run(&mut |row| {
        let (level, lines) = match row.finding {
            _ if row.regression => ("error", &mut errors),
            Finding::Inconclusive => ("warning", &mut warnings),
            _ => return Ok(()),
        };
        if lines.len() < SHOWN {
            let name = [Some(row.case.as_str()), row.metric.as_deref()].into_iter().flatten().collect::<Vec<_>>();
            let title = format!("{}: {}", name.join(" "), row.finding.words());
            lines.push(github::annotation(level, &title, row.detail.as_deref().unwrap_or(row.finding.words())));
        }
        Ok(())
    })?;
    errors.iter().chain(&warnings).for_each(|line| terminal::command(line));
    Ok(())
}

/// What explains differences as a whole.
fn notes(compare: &Compare, totals: &Totals) {
    if totals.paired > 0 && compare.limits().between.is_none() {
        terminal::note(
            "measured in other sessions: what differs between sessions counts, unless a tolerance allows it; `--between` compares within one study",
        );
    }
    if totals.without_replicas > 0 {
        let lines = counted(totals.without_replicas, "line");
        terminal::note(&format!(
            "{lines} with replicas on one side only: the noise of single numbers is unknown, so the tolerance alone judges them"
        ));
    }
    let ((study, _), other) = (compare.names(), compare.baseline_study());
    if study != other {
        terminal::note(&format!("the study is `{}`, the baseline is of `{}`", clean(study), clean(&other)));
    }
    for stage in compare.stages_with_other_survivors() {
        let name = clean(stage);
        terminal::note(&format!(
            "other cases survived stage `{name}` than in the baseline, so this one's descend from others"
        ));
    }
}

fn json(compare: &Compare) -> Result<Totals, Error> {
    let mut out = BufWriter::new(sink::stdout(sink::Content::Json));
    let totals = compare.write_json(&mut out)?;
    out.flush().map_err(Error::Output)?;
    Ok(totals)
}

/// Lines kept to be shown, and how many there are.
#[derive(Default)]
struct Kept {
    rows: Vec<Row>,
    count: usize,
}

impl Kept {
    fn add(&mut self, row: &Row, at_most: usize) {
        self.count += 1;
        if self.rows.len() < at_most {
            self.rows.push(row.clone());
        }
    }
}

fn text(compare: &Compare, baseline: &str) -> Result<Totals, Error> {
    let [mut worse, mut better, mut undecided, mut rest] = [(); 4].map(|()| Kept::default());
    let totals = compare.run(&mut |row| {
        if row.regression {
            worse.add(row, SHOWN_REGRESSIONS);
        } else if row.finding.is_improvement() {
            better.add(row, SHOWN_IMPROVEMENTS);
        } else if row.finding == Finding::Inconclusive {
            undecided.add(row, SHOWN_UNDECIDED);
        } else {
            rest.add(row, SHOWN_UNCHANGED);
        }
        Ok(())
    })?;
    if rest.count > SHOWN_UNCHANGED {
        rest.rows.clear();
    }
    let (study, stage) = compare.names();
    let (study, stage) = (clean(study), clean(stage));
    print_line(&format!(
        "study `{study}`, stage `{stage}`, against {}: {} of {} cases compared",
        baseline, totals.compared, totals.cases
    ))?;
    let rows: Vec<&Row> = worse.rows.iter().chain(&better.rows).chain(&undecided.rows).chain(&rest.rows).collect();
    if !rows.is_empty() {
        print_text(&format!("{}\n", table(&rows, compare.limits())))?;
    }
    for (kept, what) in [(&worse, "regressions"), (&better, "improvements"), (&undecided, "that are inconclusive")]
    {
        let more = kept.count - kept.rows.len();
        if more > 0 {
            print_line(&format!("and {more} more {what}; `--json` has them all"))?;
        }
    }
    let undecided = match totals.undecided {
        0 => String::new(),
        undecided => format!(", {undecided} inconclusive"),
    };
    let colour = if totals.regressions > 0 { AnsiColor::Red } else { AnsiColor::Green };
    let style = Style::new().fg_color(Some(colour.into())).bold();
    print_text(&format!(
        "{style}{}{style:#}, {}, {} unchanged{undecided}\n",
        counted(totals.regressions, "regression"),
        counted(totals.improvements, "improvement"),
        totals.unchanged
    ))?;
    Ok(totals)
}

fn table(rows: &[&Row], limits: &Limits) -> Table {
    let mut table = Table::new();
    table.load_style(style()).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_width(terminal::width(&std::io::stdout()));
    table.set_header(["case", "metric", "baseline", "now", "delta", "allowed", "finding"]);
    // Only what is found may be broken into lines: numbers are copied.
    for place in 0..6 {
        if let Some(column) = table.column_mut(place) {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    // Between words, that is.
    if let Some(finding) = table.column_mut(6) {
        finding.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(15)));
    }
    for row in rows {
        // What several runs come to together is worked out.
        let shown = if row.replicas.is_some() { short_number } else { number };
        let cell = |value: Option<f64>| value.map_or_else(String::new, shown);
        let finding = match &row.detail {
            Some(detail) => format!("{}: {detail}", row.finding.words()),
            None => row.finding.words().to_owned(),
        };
        table.add_row([
            clean(&row.case),
            row.metric.as_deref().map(clean).unwrap_or_default(),
            cell(row.baseline),
            cell(row.now),
            delta(row),
            allowed(row, limits),
            finding,
        ]);
    }
    table
}

/// Lines around the table and under its head; between rows they would only take room.
fn style() -> TableStyle {
    let thin = || LineStyle::none().fill('─').junction('─');
    TableStyle::new()
        .top_border(thin())
        .header_separator(LineStyle::none().fill('═').junction('═'))
        .bottom_border(thin())
}

/// `+3 (+1.5%)`
fn delta(row: &Row) -> String {
    let Some(delta) = row.delta else { return String::new() };
    let sign = if delta > 0.0 { "+" } else { "" };
    let share = row.baseline.filter(|baseline| *baseline != 0.0 && delta != 0.0);
    let share = share.map_or_else(String::new, |baseline| format!(" ({:+.1}%)", 100.0 * delta / baseline.abs()));
    // Worked out, so that its last places are the rounding of floats; what it was worked out from stands beside it.
    format!("{sign}{}{share}", short_number(delta))
}

/// How far it may move, and which way.
fn allowed(row: &Row, limits: &Limits) -> String {
    let (Some(allowed), Some(metric)) = (row.allowed, &row.metric) else { return String::new() };
    let sign = match limits.directions.get(metric) {
        _ if allowed == 0.0 => "",
        Some(Goal::Minimize) => "+",
        Some(Goal::Maximize) => "-",
        None => "±",
    };
    format!("{sign}{}", short_number(allowed))
}

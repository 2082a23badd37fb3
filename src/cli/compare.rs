//! `piton compare`: the gate. Exit code 4 when the study got worse than its baseline.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::path::Path;

use anstyle::{AnsiColor, Style};
use comfy_table::{ColumnConstraint, ContentArrangement, LineStyle, Table, TableStyle, Width};
use piton::program::study_file::Goal;
use piton::program::sys::files::is_same;
use piton::store::Compare;
use piton::views::compare::{Limits, Row, Tolerance, Totals};
use piton::views::{clean, counted, number, short_number};
use piton::{Error, Store, shell_word};

use super::args::CompareArgs;
use super::errors::print_error;
use super::outcome::{print_json, print_line, print_text};
use super::sink;
use super::terminal;

/// Most lines shown that fail the gate; `--json` has them all.
const SHOWN_REGRESSIONS: usize = 100;

/// Most lines shown that got better.
const SHOWN_IMPROVEMENTS: usize = 30;

/// Lines that did not move are shown only where there are no more than so many.
const SHOWN_UNCHANGED: usize = 40;

pub fn compare(args: &CompareArgs) -> Result<u8, Error> {
    let store = Store::at(&args.store.store);
    match (&args.write_baseline, &args.baseline) {
        (Some(path), _) => write(args, &store, path),
        (None, Some(path)) if args.junit.as_deref().is_some_and(|junit| junit == path || is_same(junit, path)) => {
            Err(Error::Usage(format!("`--junit {}` names the baseline", path.display())))
        }
        (None, Some(path)) => gate(args, &store.compare(path, args.stage.as_deref(), limits(args))?, path),
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
    limits
}

fn gate(args: &CompareArgs, compare: &Compare, path: &Path) -> Result<u8, Error> {
    let totals = if args.json { json(compare)? } else { text(compare, path)? };
    let unwritten = args.junit.as_ref().and_then(|junit| compare.write_junit(junit).err());
    notes(compare);
    if totals.regressions == 0 {
        return unwritten.map_or(Ok(0), Err);
    }
    // The gate has its answer, whatever became of the report.
    if let Some(error) = unwritten {
        print_error(&error);
    }
    terminal::hint(&format!(
        "if this is how it should be: `piton compare {} --write-baseline FILE` makes it the next baseline",
        shell_word(&args.store.store)
    ));
    Ok(4)
}

/// What explains differences as a whole.
fn notes(compare: &Compare) {
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

fn text(compare: &Compare, path: &Path) -> Result<Totals, Error> {
    let (mut worse, mut better, mut rest) = (Kept::default(), Kept::default(), Kept::default());
    let totals = compare.run(&mut |row| {
        if row.regression {
            worse.add(row, SHOWN_REGRESSIONS);
        } else if row.finding.is_improvement() {
            better.add(row, SHOWN_IMPROVEMENTS);
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
        shell_word(path),
        totals.compared,
        totals.cases
    ))?;
    let rows: Vec<&Row> = worse.rows.iter().chain(&better.rows).chain(&rest.rows).collect();
    if !rows.is_empty() {
        print_text(&format!("{}\n", table(&rows, compare.limits())))?;
    }
    for (kept, what) in [(&worse, "regressions"), (&better, "improvements")] {
        let more = kept.count - kept.rows.len();
        if more > 0 {
            print_line(&format!("and {more} more {what}; `--json` has them all"))?;
        }
    }
    let colour = if totals.regressions > 0 { AnsiColor::Red } else { AnsiColor::Green };
    let style = Style::new().fg_color(Some(colour.into())).bold();
    print_text(&format!(
        "{style}{}{style:#}, {}, {} unchanged\n",
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
        finding.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(12)));
    }
    for row in rows {
        let cell = |value: Option<f64>| value.map_or_else(String::new, number);
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

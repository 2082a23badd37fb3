//! The table and the JSON file.

use std::io::Write;
use std::path::PathBuf;

use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, Table};

use crate::bench::Fallible;
use crate::measure::Samples;

/// What a figure should be.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    AtMost(f64),
    AtLeast(f64),
}

impl Goal {
    fn met(self, figure: f64) -> bool {
        match self {
            Self::AtMost(bound) => figure <= bound,
            Self::AtLeast(bound) => figure >= bound,
        }
    }

    fn words(self) -> String {
        match self {
            Self::AtMost(bound) => format!("<= {}", number(bound)),
            Self::AtLeast(bound) => format!(">= {}", number(bound)),
        }
    }
}

struct Row {
    section: String,
    what: String,
    unit: String,
    samples: Samples,
    goal: Option<Goal>,
}

/// All that was measured.
pub struct Report {
    section: String,
    rows: Vec<Row>,
    json: PathBuf,
}

impl Report {
    pub fn new(json: PathBuf) -> Self {
        Self { section: String::new(), rows: Vec::new(), json }
    }

    /// What follows belongs to this section.
    pub fn section(&mut self, name: &str) -> Fallible<()> {
        name.clone_into(&mut self.section);
        say(&format!("measuring {name}"))
    }

    /// Adds a figure.
    pub fn add(&mut self, what: &str, unit: &str, samples: &Samples) {
        self.push(what, unit, samples, None);
    }

    /// Adds a figure that has a goal.
    pub fn judge(&mut self, what: &str, unit: &str, samples: &Samples, goal: Goal) {
        self.push(what, unit, samples, Some(goal));
    }

    fn push(&mut self, what: &str, unit: &str, samples: &Samples, goal: Option<Goal>) {
        drop(say(&format!("  {what}: {} {unit}", number(samples.median()))));
        self.rows.push(Row {
            section: self.section.clone(),
            what: what.into(),
            unit: unit.into(),
            samples: samples.clone(),
            goal,
        });
    }

    /// The table to the screen, everything to the file.
    pub fn finish(self) -> Fallible<()> {
        let mut table = Table::new();
        table.load_style(ASCII_MARKDOWN);
        table.set_header(["section", "what", "median", "min", "max", "runs", "unit", "goal", "met"]);
        for row in &self.rows {
            let met = row.goal.map(|goal| if goal.met(row.samples.median()) { "yes" } else { "NO" });
            table.add_row([
                row.section.clone(),
                row.what.clone(),
                number(row.samples.median()),
                number(row.samples.min()),
                number(row.samples.max()),
                row.samples.count().to_string(),
                row.unit.clone(),
                row.goal.map(Goal::words).unwrap_or_default(),
                met.unwrap_or_default().to_owned(),
            ]);
        }
        for column in 2..6 {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let machine = machine();
        let mut out = std::io::stdout().lock();
        writeln!(out, "\n{machine}\n\n{table}")?;
        let rows: Vec<serde_json::Value> = self.rows.iter().map(row_json).collect();
        let json = serde_json::json!({ "machine": machine, "rows": rows });
        std::fs::write(&self.json, serde_json::to_vec_pretty(&json)?)?;
        writeln!(out, "\nwritten to {}", self.json.display())?;
        Ok(())
    }
}

fn row_json(row: &Row) -> serde_json::Value {
    serde_json::json!({
        "section": row.section,
        "what": row.what,
        "unit": row.unit,
        "median": row.samples.median(),
        "min": row.samples.min(),
        "max": row.samples.max(),
        "runs": row.samples.count(),
        "goal": row.goal.map(Goal::words),
        "met": row.goal.map(|goal| goal.met(row.samples.median())),
    })
}

/// Three digits that count, or a whole number.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        large if large >= 100.0 => 0,
        middle if middle >= 10.0 => 1,
        small if small >= 1.0 => 2,
        _ => 4,
    };
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// The machine in a line.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let info = read("/proc/cpuinfo");
    let model = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown processor");
    let kernel = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg");
    format!(
        "{cpus} CPUs ({}), Linux {}, load before and during: {}",
        model.trim_start_matches(['\t', ' ', ':']),
        kernel.trim(),
        load.split_ascii_whitespace().take(3).collect::<Vec<_>>().join(" "),
    )
}

/// Progress, for whoever waits.
pub fn say(line: &str) -> Fallible<()> {
    Ok(writeln!(std::io::stderr(), "{line}")?)
}

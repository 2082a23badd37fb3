//! A comparison as JSON: what it comes to, then every line as it comes.

use std::io::Write;

use serde::Serialize;

use super::{Comparison, Totals};
use crate::views::ViewError;

#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Serialize)]
struct Head<'a> {
    schema: u32,
    study: &'a str,
    stage: &'a str,
    baseline: &'a str,
    ok: bool,
    #[serde(flatten)]
    totals: Totals,
}

impl Comparison<'_> {
    /// Writes `{"schema":1, …, "ok":…, "regressions":…, …, "comparisons":[one row a line]}`. `baseline` is what people
    /// call the baseline. Compares twice, so that a comparison that fails prints nothing.
    ///
    /// # Errors
    /// As for [`Comparison::run`], and [`ViewError::Output`].
    pub fn write_json(&self, baseline: &str, out: &mut dyn Write) -> Result<Totals, ViewError> {
        let totals = self.run(&mut |_| Ok(()))?;
        let head = Head {
            schema: 1,
            study: &self.view.study.name,
            stage: &self.stage.name,
            baseline,
            ok: totals.regressions == 0,
            totals,
        };
        let head = serde_json::to_string(&head)?;
        out.write_all(head.strip_suffix('}').unwrap_or(&head).as_bytes())?;
        out.write_all(b",\n\"comparisons\":[")?;
        let mut begun = false;
        self.run(&mut |row| {
            out.write_all(if begun { b",\n" } else { b"\n" })?;
            begun = true;
            Ok(serde_json::to_writer(&mut *out, row)?)
        })?;
        out.write_all(b"\n]}\n")?;
        Ok(totals)
    }
}

/// All of it, for its schema.
#[cfg(test)]
#[derive(schemars::JsonSchema)]
#[expect(dead_code, reason = "only its schema is of use")]
pub(in crate::views) struct Compared<'a> {
    #[schemars(flatten)]
    head: Head<'a>,
    comparisons: Vec<super::Row>,
}

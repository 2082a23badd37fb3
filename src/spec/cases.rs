//! Cases listed in a file: `sampling = { file = "cases.csv" }`.

/// How a file of cases is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CaseFormat {
    /// Comma-separated values with a header line.
    Csv,
    /// One flat JSON object a line.
    JsonLines,
}

impl CaseFormat {
    /// By the file's name.
    pub fn of(path: &str) -> Option<Self> {
        let (_, ending) = path.rsplit_once('.')?;
        match ending.to_ascii_lowercase().as_str() {
            "csv" => Some(Self::Csv),
            "jsonl" | "ndjson" => Some(Self::JsonLines),
            _ => None,
        }
    }
}

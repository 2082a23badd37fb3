//! Other programs doing the same work, for whoever has them installed.

use crate::report::Report;
use crate::{Bench, Fallible};

/// Measures them; one that is missing is an error that says how to get it.
pub fn measure(_bench: &Bench, _report: &mut Report) -> Fallible<()> {
    Err("not there yet".into())
}

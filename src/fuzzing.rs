//! What the fuzz targets (`fuzz/`) and their regression tests reach besides the public items. No part of the interface: it
//! changes without notice.

pub use crate::executor::local::fuzz::{log_rule, metrics, printed, reports, rule};
pub use crate::journal::fuzz::record;
pub use crate::model::rows_in_memory::Memory;
pub use crate::study_file::fuzz_cases as cases;

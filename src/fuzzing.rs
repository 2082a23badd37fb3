//! What the fuzz targets (`fuzz/`) and their regression tests reach besides the public items. No part of the interface: it
//! changes without notice.

pub use crate::executor::local::fuzz::{log_rule, metrics, rule};
pub use crate::journal::fuzz::record;
pub use crate::model::memory::Memory;
pub use crate::spec::fuzz_cases as cases;

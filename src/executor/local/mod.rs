//! x
pub mod keeper;

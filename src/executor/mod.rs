//! x
pub mod local;
/// k
pub const ATTEMPT_KEY_VAR: &str = "PITON_ATTEMPT_KEY";

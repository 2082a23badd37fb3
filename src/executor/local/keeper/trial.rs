//! A trial as the keeper knows it: who it is, for those who signal it and those who clear up after it.

use std::time::Instant;

#[derive(Debug)]
pub(super) struct Trial {
    pub(super) id: u64,
    pub(super) key: Vec<u8>,
    pub(super) start_ticks: u64,
    pub(super) spawned: Instant,
    pub(super) signalled: bool,
}

//! piton runs *studies* that survive `kill -9` and power loss.

pub mod model;
pub mod plan;
pub mod spec;

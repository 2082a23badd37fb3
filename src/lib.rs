//! piton runs *studies* that survive `kill -9` and power loss.

pub mod executor;
pub mod journal;
pub mod model;
pub mod plan;
pub mod spec;
pub mod sys;
pub mod views;

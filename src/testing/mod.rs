//! What tests of several modules need: small studies told event by event, and damaged stores looked at in every way. No part of
//! the library or the program.

mod damage;
pub(crate) mod story;

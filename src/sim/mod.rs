//! The crash simulation: the whole engine in one thread, over a simulated disk, pool and clock, from one seed.
//!
//! See `README.md` beside this file: how to run it, what it covers, and which injected faults it finds. It is compiled for
//! the library's own tests alone and must never reach a program.

mod content;
mod disk;
mod hunt;
#[cfg(test)]
mod measures;
mod play;
mod promises;
mod random;
mod studies;
mod trials;
mod world;

#[cfg(test)]
mod tests;

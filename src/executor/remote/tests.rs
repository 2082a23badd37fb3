//! The watcher over a cluster that is made up.

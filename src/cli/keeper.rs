//! The keeper of what commands start: trials, and helpers that tell versions.
//!
//! It is a fork of this process, so it must be started before any thread is.

use piton::{Error, Keeper};

/// The keeper of this program's trials and helpers. What they leave should it die comes to this process.
pub fn keeper() -> Result<Keeper, Error> {
    piton::program::sys::orphans::adopt()
        .and_then(|()| Keeper::start())
        .map_err(|cause| Error::System { what: "start the keeper of the trials", cause })
}

/// Does what may run helpers of the study (commands that print versions): whatever they start ends with them.
pub fn with_helpers<T>(act: impl FnOnce() -> T) -> Result<T, Error> {
    let keeper = keeper()?;
    let _host = keeper.client().hosts_helpers();
    Ok(act())
}

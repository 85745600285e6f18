//! Confinement: the process gives up what it does not need before it serves.
//!
//! No core dumps, no new privileges, and with Landlock no files but those that the configuration
//! names. All of it holds for the calling thread and for threads that it starts afterwards: call
//! [`confine`] before there is a runtime.

mod allowed;
#[cfg(target_os = "linux")]
mod landlock;

use rustix::process::{Resource, Rlimit, setrlimit};

pub use allowed::{Access, Allowed};

use crate::config::Config;

/// Gives up what a server of this configuration does not need, and says in the log what that was.
///
/// Folders that are to be written must exist. What the kernel lacks is a warning; what it refuses
/// is the error. Returns what the process may touch from now on; none where that is anything.
pub fn confine(config: &Config) -> Result<Option<Allowed>, String> {
    forbid_core_dumps();
    forbid_new_privileges();
    let allowed = Allowed::by(config);
    if config.confine {
        return Ok(restrict(&allowed)?.then_some(allowed));
    }
    tracing::warn!("not confined to its paths: confine = false");
    Ok(None)
}

/// A core dump holds passwords and what clients sent.
fn forbid_core_dumps() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(error) = setrlimit(Resource::Core, none) {
        tracing::warn!(%error, "core dumps could not be turned off");
    }
}

#[cfg(target_os = "linux")]
fn forbid_new_privileges() {
    if let Err(error) = rustix::thread::set_no_new_privs(true) {
        tracing::warn!(%error, "new privileges could not be forbidden");
    }
}

#[cfg(not(target_os = "linux"))]
fn forbid_new_privileges() {}

#[cfg(target_os = "linux")]
fn restrict(allowed: &Allowed) -> Result<bool, String> {
    landlock::restrict(allowed)
}

#[cfg(not(target_os = "linux"))]
fn restrict(_allowed: &Allowed) -> Result<bool, String> {
    tracing::warn!("not confined to its paths: only Linux can");
    Ok(false)
}

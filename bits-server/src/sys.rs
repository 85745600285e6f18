//! What the server asks of the operating system directly.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Raises the number of files that may be open to what the system allows: each connection and
/// each upload under way is one.
pub(crate) fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
}

//! What a fragment may cost the server. `cargo xtask ci cost` reads it too.

/// Instructions of one fragment on x86_64, as `cargo xtask ci cost` prints them. Lower it when they have become fewer;
/// raise it only for something that is worth them.
pub(crate) const FIGURE: u64 = 1_150_000;

/// Fragments that are counted: so many that the end of the server is less than a hundredth of all.
pub(crate) const COUNTED: u64 = 500;

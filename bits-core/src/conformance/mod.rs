//! The suite that every store backend must pass, with in-memory stores that pass it.

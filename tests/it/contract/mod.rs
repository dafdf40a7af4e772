//! What every implementation of a trait owes its callers: one suite per trait.

pub(crate) mod sink;

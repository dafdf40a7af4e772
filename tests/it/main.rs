//! One test binary; modules in the order of their cost.

mod heard;
mod log;
mod metrics;

mod admin;

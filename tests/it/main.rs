//! One test binary; modules in the order of their cost.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed, and says where")]

mod heard;
mod log;
mod metrics;

mod admin;

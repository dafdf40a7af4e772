//! One test binary; modules in the order of their cost.

#![allow(unreachable_pub, reason = "a test binary exports nothing; `pub` is what a module offers the others")]
#![allow(
    clippy::disallowed_methods,
    reason = "tests live in the world, with clocks, tasks and an environment"
)]
#![allow(clippy::unwrap_used, reason = "a test that panics has failed, and says where")]

mod admin;
mod config;
mod contract;
mod deploy;
mod docs;
mod e2e;
mod heard;
mod log;
mod metrics;
mod secrets;
mod sim;
mod supervisor;
mod support;
mod tidy;

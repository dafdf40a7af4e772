//! One test binary; modules in the order of their cost.

#![allow(unreachable_pub, reason = "a test binary exports nothing; `pub` is what a module offers the others")]

mod admin;
mod config;
mod contract;
mod heard;
mod log;
mod metrics;
mod sim;
mod support;
mod tidy;

//! One test binary; modules in the order of their cost.

mod config;
mod contract;
mod support;
mod tidy;

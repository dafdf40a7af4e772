//! What the tests stand on, in the order a test needs it: the services, a database of its own, servers
//! that may be broken, the relay as a process, a proxy for bad networks, and the ledger that knows what
//! should have arrived. Knows nothing of the relay's inside.

#![allow(dead_code, reason = "a shelf of tools: not every build of the tests takes every tool from it")]
#![allow(clippy::disallowed_methods, reason = "tests live in the world, with a clock and an environment")]

pub mod certificates;
pub mod database;
pub mod kafka;
pub mod ledger;
pub mod pgbouncer;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod rabbitmq;
pub mod relay;
pub mod services;
pub mod wait;

mod selftest;

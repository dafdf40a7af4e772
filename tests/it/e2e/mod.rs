//! The promises, end to end: the real binary between a real Postgres and a real Kafka. Each test breaks
//! something, lets it heal, and then holds what is on Kafka against what the database holds.

#![allow(clippy::disallowed_methods, reason = "tests live in the world, with a clock")]

mod crash;
mod database;
mod delivery;
mod lease;
mod order;
mod outage;
mod rabbitmq;
mod stage;
mod stopping;
mod surface;
mod tables;

//! What parts owe each other. The contracts of the two traits, each sentence a test: one suite each, run
//! over the fakes of the simulation and over the real thing. And what the route owes the source: the same
//! destination in SQL.

pub mod route;
pub mod sink;
pub mod source;

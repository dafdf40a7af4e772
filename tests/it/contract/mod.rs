//! The contracts of the two traits, each sentence a test: one suite each, run over the fakes of the
//! simulation and over the real thing.

pub mod sink;
pub mod source;

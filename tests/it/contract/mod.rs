//! The contracts of the two traits, as suites that every implementation passes: fakes and real ones.

mod source;

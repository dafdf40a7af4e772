//! Reads, merges and checks the configuration.

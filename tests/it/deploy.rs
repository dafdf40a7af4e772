//! What stands in deploy/.

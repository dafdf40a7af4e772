//! Records to standard output, one JSON line each.

//! A row becomes a record: destination, key, headers, body. Pure; fails only permanently.

/// Text with `{column}` places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(pub String);

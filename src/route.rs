//! A row becomes a record: destination, key, headers, body. Pure; fails only permanently.

use std::fmt;

/// Text with `{column}` places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(pub String);

impl Template {
    /// # Errors
    /// Says what is wrong with the text, to be read after its key: `is empty`.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() { Err("is empty".to_owned()) } else { Ok(Self(text.to_owned())) }
    }
}

/// As [`Template::parse`] reads it.
impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

//! SQL names as a person writes them, and as SQL needs them.
//!
//! Names are taken exactly as they stand in the catalog: nothing is folded to lower case. A dot
//! separates schema and table. Double quotes may surround a part that holds a dot, with double
//! quotes inside doubled, as in SQL.

use std::fmt;

/// Postgres cuts longer names off without an error, and would then look for another table.
const NAME_BYTES_MAX: usize = 63;

/// A column or schema name, unquoted and exactly as stored in the catalog.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ColumnName(pub String);

impl ColumnName {
    /// Reads a single name. Without quotes around it every character stands for itself, dots too.
    ///
    /// # Errors
    /// Says what is wrong with the name, to be read after it: `is empty`.
    pub fn parse(text: &str) -> Result<Self, String> {
        if !text.starts_with('"') {
            return valid(text.to_owned()).map(Self);
        }
        let (name, rest) = part(text)?;
        if rest.is_empty() { Ok(Self(name)) } else { Err("goes on after the closing quote".into()) }
    }

    /// As an SQL identifier, always in double quotes.
    #[must_use]
    pub fn quoted(&self) -> String {
        quote(&self.0)
    }
}

impl fmt::Display for ColumnName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A table, with its schema if one was given.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TableName {
    pub schema: Option<String>,
    pub table: String,
}

impl TableName {
    /// Reads `table`, `schema.table`, `"Any.Schema"."Any table"`.
    ///
    /// # Errors
    /// Says what is wrong with the name, to be read after it: `has more than two parts`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (first, rest) = part(text)?;
        let Some(rest) = rest.strip_prefix('.') else {
            return end(rest).map(|()| Self { schema: None, table: first });
        };
        let (second, rest) = part(rest)?;
        end(rest).map(|()| Self { schema: Some(first), table: second })
    }

    /// As an SQL identifier, every part in double quotes.
    #[must_use]
    pub fn quoted(&self) -> String {
        match &self.schema {
            Some(schema) => format!("{}.{}", quote(schema), quote(&self.table)),
            None => quote(&self.table),
        }
    }
}

/// As [`TableName::parse`] reads it: in quotes only where they are needed.
impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(schema) = &self.schema {
            write!(f, "{}.", plain(schema))?;
        }
        f.write_str(&plain(&self.table))
    }
}

/// `name` between double quotes, with double quotes inside it doubled.
#[must_use]
pub fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn plain(name: &str) -> String {
    if name.contains(['.', '"']) { quote(name) } else { name.to_owned() }
}

/// The first part of a dotted name, and what follows it.
fn part(text: &str) -> Result<(String, &str), String> {
    match text.strip_prefix('"') {
        Some(quoted) => quoted_part(quoted),
        None => {
            let (name, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
            if name.contains('"') {
                return Err("has a double quote in the middle of a part".into());
            }
            Ok((valid(name.to_owned())?, rest))
        }
    }
}

/// A part whose opening quote has been read.
fn quoted_part(text: &str) -> Result<(String, &str), String> {
    let mut name = String::new();
    let mut rest = text;
    loop {
        let (before, after) = rest.split_once('"').ok_or("has no closing double quote")?;
        name.push_str(before);
        match after.strip_prefix('"') {
            Some(after) => {
                name.push('"');
                rest = after;
            }
            None => return Ok((valid(name)?, after)),
        }
    }
}

fn end(rest: &str) -> Result<(), String> {
    match rest.chars().next() {
        None => Ok(()),
        Some('.') => Err("has more than two parts".into()),
        Some(_) => Err("goes on after the closing quote".into()),
    }
}

fn valid(name: String) -> Result<String, String> {
    if name.is_empty() {
        Err("has an empty part".into())
    } else if name.contains('\0') {
        Err("has a zero byte".into())
    } else if name.len() > NAME_BYTES_MAX {
        Err(format!("is longer than the {NAME_BYTES_MAX} bytes Postgres keeps of a name"))
    } else {
        Ok(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> (Option<String>, String) {
        let name = TableName::parse(text).unwrap();
        (name.schema, name.table)
    }

    #[test]
    fn a_table_name_is_taken_as_the_catalog_stores_it() {
        assert_eq!(table("outbox.message"), (Some("outbox".into()), "message".into()));
        assert_eq!(table("Events"), (None, "Events".into()));
        assert_eq!(table("App.OutboxMessage"), (Some("App".into()), "OutboxMessage".into()));
        assert_eq!(table(r#""my.app"."Out ""box""""#), (Some("my.app".into()), r#"Out "box""#.into()));
    }

    #[test]
    fn a_name_that_cannot_be_one_says_why() {
        for (text, why) in [
            ("a.b.c", "has more than two parts"),
            ("a.", "has an empty part"),
            ("", "has an empty part"),
            ("\"a", "has no closing double quote"),
            ("\"a\"b", "goes on after the closing quote"),
            ("a\"b", "has a double quote in the middle of a part"),
        ] {
            assert_eq!(TableName::parse(text).unwrap_err(), why, "{text}");
        }
        assert!(TableName::parse(&"x".repeat(64)).unwrap_err().contains("63 bytes"));
    }

    #[test]
    fn a_displayed_table_name_reads_back() {
        for text in ["outbox.message", "Events", r#""my.app"."Out ""box""""#] {
            assert_eq!(TableName::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_column_name_needs_no_quotes_and_understands_them() {
        assert_eq!(ColumnName::parse("Event.Id").unwrap().0, "Event.Id");
        assert_eq!(ColumnName::parse(r#""Event.Id""#).unwrap().0, "Event.Id");
        assert!(ColumnName::parse(r#""a"."b""#).is_err());
        assert!(ColumnName::parse("").is_err());
    }
}

//! What a row offers to templates and conditions: its values by the name of their place.

use std::borrow::Cow;

use bytes::Bytes;

use super::template::{Part, Template};
use crate::config;
use crate::message::{Message, RowId};

/// Places that every mapping has a key for; all others are mapped headers.
pub(super) const PLACES: [&str; 4] = ["id", "destination", "kind", "key"];

/// A message, and how many of its last headers are mapped columns.
#[derive(Clone, Copy)]
pub(super) struct Row<'m> {
    pub(super) message: &'m Message,
    pub(super) mapped_headers: usize,
}

/// Why a template cannot be filled from a row.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unfilled {
    /// This place is NULL.
    Null(String),
    /// This place is not UTF-8.
    Binary(String),
}

impl<'m> Row<'m> {
    /// The value of a place as the database writes it; `None` is NULL.
    pub(super) fn value(self, place: &str) -> Option<Cow<'m, [u8]>> {
        if place == "id" {
            return Some(id_text(&self.message.row.id));
        }
        self.column(place).map(|value| Cow::Borrowed(&**value))
    }

    /// Appends the template with every place filled.
    pub(super) fn fill(self, text: &mut String, template: &Template) -> Result<(), Unfilled> {
        for part in template.parts() {
            match part {
                Part::Literal(literal) => text.push_str(literal),
                Part::Place(name) => {
                    let value = self.value(name).ok_or_else(|| Unfilled::Null(name.clone()))?;
                    let value = std::str::from_utf8(&value).map_err(|_| Unfilled::Binary(name.clone()))?;
                    text.push_str(value);
                }
            }
        }
        Ok(())
    }

    fn column(self, place: &str) -> Option<&'m Bytes> {
        match place {
            "destination" => self.message.destination.as_ref(),
            "kind" => self.message.kind.as_ref(),
            "key" => self.message.key.as_ref(),
            header => self.mapped_header(header),
        }
    }

    /// Mapped columns come last and always; a header of the same name from the row itself is not one.
    fn mapped_header(self, name: &str) -> Option<&'m Bytes> {
        let mapped = self.message.headers.iter().rev().take(self.mapped_headers);
        mapped.into_iter().find(|header| *header.name == *name)?.value.as_ref()
    }
}

/// Numbers and uuids have to be written first.
pub(super) fn id_text(id: &RowId) -> Cow<'_, [u8]> {
    match id {
        RowId::Int(_) | RowId::Uuid(_) => Cow::Owned(id.to_string().into_bytes()),
        RowId::Text(text) => Cow::Borrowed(text.as_bytes()),
    }
}

/// Whether a place exists, and whether the mapping gives it a value.
pub(super) fn is_mapped(place: &str, columns: &config::Columns) -> Option<bool> {
    match place {
        "id" => Some(true),
        "destination" => Some(columns.destination.is_some()),
        "kind" => Some(columns.kind.is_some()),
        "key" => Some(columns.key.is_some()),
        header => columns.to_headers.contains_key(header).then_some(true),
    }
}

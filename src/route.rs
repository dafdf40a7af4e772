//! A row becomes a record: destination, key, headers, body. Pure; fails only permanently.

/// Text with `{column}` places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(pub String);

use std::sync::Arc;

use crate::message::{RowRef, Timestamp};
use crate::sink::{Failure, Record};
use crate::source::LaneKey;

/// A row with its record.
#[derive(Debug, Clone)]
pub struct Routed {
    pub row: RowRef,
    /// `None` where there is no order to keep.
    pub lane: Option<LaneKey>,
    pub bytes: usize,
    /// What to publish, or why it cannot be.
    pub content: Result<Arc<Record>, Failure>,
    pub created_at: Option<Timestamp>,
}

/// How rows become records.
#[derive(Debug)]
pub struct Route {}

impl Route {
    /// The record of `message`.
    pub fn apply(&self, message: crate::message::Message) -> Routed {
        unimplemented!("{message:?}")
    }
}

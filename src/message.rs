//! What flows: one row of the outbox on its way to the broker.
//!
//! A [`Message`] holds the stored bytes as the database gave them and nothing derived from them;
//! what the broker is given is a [`Record`](crate::sink::Record), made by [`route`](crate::route).

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

/// The value of the order column: where a row stands in the outbox.
///
/// Tables without an order column (allowed with `ordering = "none"`) give every row position 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position(pub i64);

impl Position {
    /// Below every row: a read after it starts at the beginning.
    pub const START: Self = Self(i64::MIN);

    /// The position just below this one, from which a read finds this row again.
    #[must_use]
    pub const fn before(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The value of the id column. The relay core only compares it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RowId {
    /// `smallint`, `integer`, `bigint`.
    Int(i64),
    /// `uuid`, as its 128 bits.
    Uuid(uuid::Uuid),
    /// Anything else, as the column's text.
    Text(Arc<str>),
}

impl fmt::Display for RowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(id) => id.fmt(f),
            Self::Uuid(id) => id.fmt(f),
            Self::Text(id) => id.fmt(f),
        }
    }
}

/// How to find a row again.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RowRef {
    pub id: RowId,
    pub position: Position,
}

/// One name and value beside the payload. `None` is a null value, which is not an empty one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub name: Arc<str>,
    pub value: Option<Bytes>,
}

/// The payload column as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// SQL NULL: a Kafka tombstone.
    Null,
    /// bytea raw, everything else the column's text output in UTF-8.
    Stored(Bytes),
    /// Over `message_bytes_max`, so it was left in the database; its size in bytes.
    Oversize(u64),
}

/// Microseconds since 1970-01-01 UTC, by the database's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub i64);

impl Timestamp {
    #[must_use]
    pub const fn as_millis(self) -> i64 {
        self.0.div_euclid(1_000)
    }

    #[must_use]
    pub fn as_seconds(self) -> f64 {
        #[allow(clippy::cast_precision_loss)] // microseconds since 1970 stay below 2^53 until 2255
        let micros = self.0 as f64;
        micros / 1e6
    }
}

/// One outbox row, as read. All byte strings of a row usually share one allocation.
///
/// `Debug` shows neither key, headers nor payload: they belong to the application.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    pub row: RowRef,
    /// Order is kept within a key; a message without one has no order to keep.
    pub key: Option<Bytes>,
    /// The event type.
    pub kind: Option<Bytes>,
    /// The destination column, not yet a topic: see [`route`](crate::route).
    pub destination: Option<Bytes>,
    /// The headers column (or its two array columns) followed by the columns mapped to a header.
    pub headers: Vec<Header>,
    pub payload: Payload,
    pub created_at: Option<Timestamp>,
    /// What makes the row impossible to publish as it stands (headers that are none), for a person.
    pub malformed: Option<Arc<str>>,
}

impl Message {
    /// Bytes this message counts for in a window: key, headers and payload.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let payload = match &self.payload {
            Payload::Stored(bytes) => bytes.len(),
            Payload::Null | Payload::Oversize(_) => 0,
        };
        let headers: usize =
            self.headers.iter().map(|h| h.name.len() + h.value.as_ref().map_or(0, Bytes::len)).sum();
        payload + headers + self.key.as_ref().map_or(0, Bytes::len)
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("row", &self.row)
            .field("bytes", &self.bytes())
            .finish_non_exhaustive()
    }
}

//! A row becomes a record: destination, key, headers, timestamp. Pure.
//!
//! [`Route`] is made once from the configuration and then applied to every message. It decides nothing
//! about delivery: a row that cannot become a record is handed on with the reason. What a record holds
//! is documented to the byte in `docs/record.md`.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use crate::config;
use crate::message::{Message, Payload, RowRef, Timestamp};
use crate::sink::{Destination, ErrorType, Failure, Fault, Record};
use crate::source::LaneKey;

mod allow;
mod destination;
mod format;
mod glob;
mod headers;
mod name;
mod problems;
mod row;
mod template;

pub use allow::Allowed;
pub use glob::Glob;
pub(crate) use headers::{CONTENT_TYPE, CORRELATION_ID, REPLY_TO};
pub use headers::{HEADER_BYTES_MAX, HEADER_VALUE_BYTES_MAX, HEADERS_MAX};
pub(crate) use problems::problems;
pub use template::Template;

use destination::{Destinations, Found};
use headers::{Headers, Parts};
use row::Row;

/// A row on its way to the broker, or the reason why it has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routed {
    pub row: RowRef,
    /// `None` where there is no order to keep: a row without a key, or `ordering = "none"`.
    pub lane: Option<LaneKey>,
    /// Bytes it counts for in the windows.
    pub bytes: usize,
    /// The failure is always `Permanent`: the row has to change, or the configuration.
    pub content: Result<Arc<Record>, Failure>,
    pub created_at: Option<Timestamp>,
}

/// How messages become records.
#[derive(Debug, Clone)]
pub struct Route {
    rules: Vec<config::Rule>,
    rest: config::Way,
    destinations: Destinations,
    headers: Headers,
    format: config::Format,
    ordering: config::Ordering,
    message_bytes_max: usize,
}

impl Route {
    /// # Errors
    /// Everything that is wrong with the route, each with what to write instead.
    pub fn new(
        route: &config::Route,
        outbox: &config::Outbox,
        ordering: config::Ordering,
    ) -> Result<Self, Vec<String>> {
        let problems = problems(route, &outbox.columns);
        if !problems.is_empty() {
            return Err(problems.iter().map(ToString::to_string).collect());
        }
        Ok(Self {
            rules: route.when.clone(),
            rest: route.rest.clone(),
            destinations: Destinations::new(route.allow.clone()),
            headers: Headers::new(route, &outbox.columns),
            format: route.format.clone(),
            ordering,
            message_bytes_max: outbox.message_bytes_max,
        })
    }

    /// The destinations that no row has a say in.
    #[must_use]
    pub fn fixed_destinations(&self) -> Vec<Destination> {
        let ways = self.rules.iter().map(|rule| &rule.way).chain([&self.rest]);
        ways.filter_map(|way| destination::fixed(&way.target)).collect()
    }

    /// The [identity](Destination::identity) of the destination's [scope](Destination::scope) as an SQL
    /// expression of type text, equal byte for byte to what [`apply`](Self::apply) computes for the lane
    /// and NULL where that finds no value.
    /// `column` gives the SQL of a place of a template as text: `o."kind"::text`.
    pub fn scope_sql(&self, column: impl Fn(&str) -> String) -> String {
        destination::scope_sql(&self.rules, &self.rest, column)
    }

    /// The places that [`scope_sql`](Self::scope_sql) asks for.
    #[must_use]
    pub fn scope_places(&self) -> BTreeSet<&str> {
        destination::scope_places(&self.rules, &self.rest)
    }

    /// Takes the message apart; its bytes are shared with the record, and copied only by a format that
    /// changes them.
    #[must_use]
    pub fn apply(&mut self, message: Message) -> Routed {
        let bytes = message.bytes();
        let row = message.row.clone();
        let created_at = message.created_at;
        let read = Row { message: &message, mapped_headers: self.headers.mapped() };
        let way = destination::way(&self.rules, &self.rest, read);
        let found = self.destinations.find(&way.target, read);
        let lane = self.lane_of(&message, found.as_ref().ok());
        let content = self.record_of(message, way, found);
        let bytes = content.as_ref().map_or(bytes, |record| record.bytes());
        Routed { row, lane, bytes, content: content.map(Arc::new), created_at }
    }

    fn lane_of(&self, message: &Message, found: Option<&Found>) -> Option<LaneKey> {
        match self.ordering {
            config::Ordering::None => None,
            config::Ordering::Key => message
                .key
                .clone()
                .map(|key| LaneKey { scope: found.map(|found| found.destination.scope()), key }),
        }
    }

    fn record_of(
        &self,
        mut message: Message,
        way: &config::Way,
        found: Result<Found, Failure>,
    ) -> Result<Record, Failure> {
        if let Some(reason) = message.malformed {
            return Err(Failure::refused(Fault::Permanent, ErrorType::InvalidRecord, reason));
        }
        let Found { destination, verdict } = found?;
        verdict?;
        let payload = self.payload(std::mem::replace(&mut message.payload, Payload::Null))?;
        let row = Row { message: &message, mapped_headers: self.headers.mapped() };
        let body = format::body(&self.format, payload, row, self.message_bytes_max)?;
        let parts = Parts {
            id: &message.row.id,
            kind: message.kind,
            key: message.key.as_ref(),
            headers: message.headers,
        };
        let (headers, properties) = self.headers.made(parts, way, &self.format)?;
        Ok(Record {
            destination,
            body,
            headers,
            key: format::key(&self.format, message.key)?,
            timestamp_ms: message.created_at.map(Timestamp::as_millis).filter(|ms| *ms >= 0),
            properties,
        })
    }

    fn payload(&self, payload: Payload) -> Result<Option<Bytes>, Failure> {
        match payload {
            Payload::Null => Ok(None),
            Payload::Stored(bytes) => Ok(Some(bytes)),
            Payload::Oversize(bytes) => Err(too_large(format!(
                "the payload has {bytes} bytes, message_bytes_max is {}",
                self.message_bytes_max
            ))),
        }
    }
}

fn invalid(reason: String) -> Failure {
    Failure::refused(Fault::Permanent, ErrorType::InvalidRecord, reason)
}

fn too_large(reason: String) -> Failure {
    Failure::refused(Fault::Permanent, ErrorType::TooLarge, reason)
}

#[cfg(test)]
mod tests;

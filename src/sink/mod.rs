//! Where records go: [`Sink`], what it is given, and what it answers.
//!
//! A sink translates and classifies. It never retries, sleeps, reorders, buries a message or logs a
//! failure that it returns: the relay judges, and whoever handles a failure logs it once.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;

use crate::message::{Header, RowRef};

mod inbox;
pub mod kafka;
pub mod rabbitmq;
pub mod stdout;

/// Where a record goes. Cheap to clone, equal by name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Destination {
    /// A Kafka topic, or the `topic` field of a line on standard output.
    Topic(Arc<str>),
    /// A RabbitMQ exchange and the key it routes by.
    Exchange { exchange: Arc<str>, routing_key: Arc<str> },
}

impl Destination {
    /// Between the parts of [`identity`](Self::identity): no name of a broker's may hold it.
    pub const SEPARATOR: char = '\u{1f}';

    /// The topic or the exchange: what a label can bear, since routing keys may be without number.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Topic(name) | Self::Exchange { exchange: name, .. } => name,
        }
    }

    /// Where order is kept within a key, and what shares of the windows are counted by: the topic, or the
    /// exchange whatever the routing key, since one queue may be bound by many of those.
    #[must_use]
    pub fn scope(&self) -> Self {
        match self {
            Self::Topic(_) => self.clone(),
            Self::Exchange { exchange, routing_key: _ } => {
                Self::Exchange { exchange: Arc::clone(exchange), routing_key: Arc::default() }
            }
        }
    }

    /// One text for each destination, which for a [scope](Self::scope) SQL over the outbox can make too.
    #[must_use]
    pub fn identity(&self) -> String {
        match self {
            Self::Topic(name) => name.to_string(),
            Self::Exchange { exchange, routing_key } => format!("{exchange}{}{routing_key}", Self::SEPARATOR),
        }
    }
}

/// For people: the topic, the exchange, or `exchange:routing_key`.
impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Topic(name) => name.fmt(f),
            Self::Exchange { exchange, routing_key } if routing_key.is_empty() => exchange.fmt(f),
            Self::Exchange { exchange, routing_key } => write!(f, "{exchange}:{routing_key}"),
        }
    }
}

/// What the broker is given. `Debug` shows neither key, headers nor body.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    pub destination: Destination,
    pub key: Option<Bytes>,
    /// In the order they are sent; the id header is among them.
    pub headers: Vec<Header>,
    /// `None` is a Kafka tombstone.
    pub body: Option<Bytes>,
    /// Milliseconds since 1970-01-01 UTC; `None` lets the client stamp it.
    pub timestamp_ms: Option<i64>,
    /// `Some` exactly if the destination is an exchange.
    pub properties: Option<Box<Properties>>,
}

/// What an AMQP message says of itself outside of its headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Properties {
    /// The row's id, by which a consumer recognises a repeat, and the sink a returned message.
    pub message_id: Bytes,
    /// The event type.
    pub kind: Option<Bytes>,
    pub content_type: Option<Bytes>,
    pub correlation_id: Option<Bytes>,
    pub reply_to: Option<Bytes>,
    pub app_id: Option<Arc<str>>,
    pub on_unroutable: OnUnroutable,
}

/// What it means that no queue is bound for a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnUnroutable {
    /// The destination is not ready: the message and its key wait.
    #[default]
    Block,
    /// The message is at fault.
    DeadLetter,
    /// An event nobody subscribes to may be legal: it counts as delivered.
    Accept,
}

impl Record {
    /// Bytes this record counts for in the windows: key, headers and body.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let headers: usize =
            self.headers.iter().map(|h| h.name.len() + h.value.as_ref().map_or(0, Bytes::len)).sum();
        headers + self.key.as_ref().map_or(0, Bytes::len) + self.body.as_ref().map_or(0, Bytes::len)
    }

    /// How a message that no queue takes is judged.
    #[must_use]
    pub fn on_unroutable(&self) -> OnUnroutable {
        self.properties.as_ref().map_or_else(OnUnroutable::default, |properties| properties.on_unroutable)
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("destination", &self.destination)
            .field("bytes", &self.bytes())
            .finish_non_exhaustive()
    }
}

/// Names one publishing of one record; comes back with its outcome. Opaque to the sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub u64);

/// A record handed to a sink.
#[derive(Debug, Clone)]
pub struct Shipment {
    pub token: Token,
    pub record: Arc<Record>,
}

/// What the broker said of one shipment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub token: Token,
    pub result: Result<(), Failure>,
}

/// What a sink reports, in batches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SinkEvent {
    Outcomes(Vec<Outcome>),
    /// The broker cannot be reached; what was queued stays queued and may still be delivered.
    Down(Failure),
    /// The broker answers again.
    Up,
}

/// Whose fault a failure is; the relay's whole judgement starts from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The broker is out: hold everything, blame nobody.
    Unavailable,
    /// This destination is missing, forbidden or full.
    Blocked,
    /// This message, this time.
    Transient,
    /// This message, ever.
    Permanent,
    /// Someone newer owns this shard.
    Fenced,
    /// We cannot work as configured.
    Fatal,
}

/// Why a record was not confirmed: the closed list shared by logs, metrics and docs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ErrorType {
    Timeout,
    BrokerUnavailable,
    /// One side does not trust the other's certificate.
    Tls,
    Auth,
    UnknownDestination,
    Unroutable,
    TooLarge,
    InvalidRecord,
    Nack,
    Throttled,
    Fenced,
    ClientQueueFull,
    Purged,
    Other,
}

impl ErrorType {
    /// Every value, so that metrics can show each series from the start.
    pub const ALL: [Self; 14] = [
        Self::Timeout,
        Self::BrokerUnavailable,
        Self::Tls,
        Self::Auth,
        Self::UnknownDestination,
        Self::Unroutable,
        Self::TooLarge,
        Self::InvalidRecord,
        Self::Nack,
        Self::Throttled,
        Self::Fenced,
        Self::ClientQueueFull,
        Self::Purged,
        Self::Other,
    ];

    /// The value of the label `error_type` and of the log field of that name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::BrokerUnavailable => "broker_unavailable",
            Self::Tls => "tls",
            Self::Auth => "auth",
            Self::UnknownDestination => "unknown_destination",
            Self::Unroutable => "unroutable",
            Self::TooLarge => "too_large",
            Self::InvalidRecord => "invalid_record",
            Self::Nack => "nack",
            Self::Throttled => "throttled",
            Self::Fenced => "fenced",
            Self::ClientQueueFull => "client_queue_full",
            Self::Purged => "purged",
            Self::Other => "_other",
        }
    }
}

/// Why a record was not confirmed, classified at the edge.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Failure {
    pub fault: Fault,
    pub error_type: ErrorType,
    /// The broker may hold the record all the same.
    pub maybe_published: bool,
    /// For a person: what the broker or the client said. Never holds key, headers or payload.
    pub reason: Arc<str>,
}

impl Failure {
    /// A failure of which it is certain that the broker does not hold the record.
    pub fn refused(fault: Fault, error_type: ErrorType, reason: impl Into<Arc<str>>) -> Self {
        Self { fault, error_type, maybe_published: false, reason: reason.into() }
    }

    /// A failure that leaves open whether the broker holds the record.
    pub fn unknown(fault: Fault, error_type: ErrorType, reason: impl Into<Arc<str>>) -> Self {
        Self { fault, error_type, maybe_published: true, reason: reason.into() }
    }
}

/// The first `chars_max` characters of foreign text, fit for a log line or a reason: without control
/// characters, which could forge lines or drive a terminal.
pub(crate) fn printable(text: &str, chars_max: usize) -> String {
    let mut chars = text.chars();
    let mut shown: String =
        chars.by_ref().take(chars_max).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if chars.next().is_some() {
        shown.push('…');
    }
    shown
}

/// A message broker, as far as the relay needs one.
///
/// The contract, each sentence tested by the conformance suite in `tests/it/contract/sink.rs`:
///
/// * `open` makes the sink ready for an epoch. It is called before the first `publish` of the epoch
///   and again after a `Fatal` failure; it drops whatever an earlier epoch left queued. It returns
///   the rows that this sink knows to be delivered though perhaps not marked (none, for a sink that
///   keeps no such record). It needs no broker: an unreachable one shows as `Down`.
/// * `publish` queues every shipment before it returns, without waiting, in the order given.
///   Shipments of one destination and key reach the broker in that order.
/// * Every shipment gets exactly one outcome, from `events`, in any order and at any time; only a
///   sink that is dropped or re-opened owes none.
/// * `Ok` means that the broker has confirmed the record as durably as it is configured to.
/// * A failure says whose fault it is and whether the broker may hold the record all the same.
/// * `events` resolves when there is something to report and is cancel safe: nothing is lost when
///   its future is dropped.
/// * `purge` makes every shipment not yet confirmed come back soon, as `Unavailable`: afterwards
///   nothing that was queued is sent.
/// * `close` gives up what is queued and frees the client.
pub trait Sink: Send {
    fn open(&mut self, epoch: u64) -> impl Future<Output = Result<Vec<RowRef>, Failure>> + Send;
    fn publish(&mut self, shipments: Vec<Shipment>);
    fn events(&mut self) -> impl Future<Output = Vec<SinkEvent>> + Send;
    fn purge(&mut self);
    fn close(&mut self) -> impl Future<Output = ()> + Send;
}

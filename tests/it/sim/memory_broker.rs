//! A broker and its clients' queues in memory: what [`Sink`](outbox_relay::sink::Sink) promises, as a
//! state machine without time of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use outbox_relay::message::Position;
use outbox_relay::sink::{Destination, ErrorType, Failure, Fault, Record, Shipment, Token};

use super::memory_outbox::position_of;

/// Names the row of a record.
pub const ID_HEADER: &str = "id";

/// Names a relay's connection.
pub type Client = u64;

#[derive(Debug, Default)]
pub struct MemoryBroker {
    /// Everything it holds, in the order in which it came.
    pub log: Vec<Arc<Record>>,
    /// Cut off: what is queued stays queued.
    pub down: bool,
    /// What is queued may have been sent: a purge cannot tell.
    pub opaque: bool,
    /// Destinations that do not exist.
    pub missing: BTreeSet<Destination>,
    /// Destinations that no queue is bound to.
    pub unroutable: BTreeSet<Destination>,
    /// A larger record is refused; `None` takes any.
    pub record_bytes_max: Option<usize>,
    /// In the order of publishing.
    queues: BTreeMap<Client, Vec<(Token, Arc<Record>)>>,
}

impl MemoryBroker {
    pub fn queue(&mut self, client: Client, shipment: Shipment) {
        self.queues.entry(client).or_default().push((shipment.token, shipment.record));
    }

    /// Takes one record off a client's queue, if it is still there.
    pub fn take(&mut self, client: Client, token: Token) -> Option<Arc<Record>> {
        let queue = self.queues.get_mut(&client)?;
        let at = queue.iter().position(|(queued, _)| *queued == token)?;
        Some(queue.remove(at).1)
    }

    /// Takes everything off a client's queue.
    pub fn empty(&mut self, client: Client) -> Vec<(Token, Arc<Record>)> {
        self.queues.remove(&client).unwrap_or_default()
    }

    /// Holds the record, whatever it is.
    pub fn apply(&mut self, record: Arc<Record>) {
        self.log.push(record);
    }

    /// Holds the record if it can be held.
    pub fn accept(&mut self, record: Arc<Record>) -> Result<(), Failure> {
        if self.record_bytes_max.is_some_and(|max| record.bytes() > max) {
            return Err(Failure::refused(Fault::Permanent, ErrorType::TooLarge, "the record is too large"));
        }
        if self.missing.contains(&record.destination) {
            let reason = format!("{} does not exist", record.destination);
            return Err(Failure::refused(Fault::Blocked, ErrorType::UnknownDestination, reason));
        }
        if self.unroutable.contains(&record.destination) {
            return Err(Failure::refused(Fault::Blocked, ErrorType::Unroutable, "no queue is bound for it"));
        }
        self.apply(record);
        Ok(())
    }
}

/// The row a record was made of, by its id header.
pub fn position(record: &Record) -> Position {
    let id = record.headers.iter().find(|header| &*header.name == ID_HEADER);
    let id = id.and_then(|header| header.value.as_deref()).and_then(position_of);
    id.expect("records of the simulation name their row")
}

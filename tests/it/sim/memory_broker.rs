//! A broker and its clients' queues in memory: what [`Sink`](outbox_relay::sink::Sink) promises, as a
//! state machine without time of its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use outbox_relay::message::Position;
use outbox_relay::sink::{Record, Shipment, Token};

/// Names a relay's connection.
pub type Client = u64;

#[derive(Debug, Default)]
pub struct MemoryBroker {
    /// Everything it holds, in the order in which it came.
    pub log: Vec<Arc<Record>>,
    /// Cut off: what is queued stays queued.
    pub down: bool,
    queues: BTreeMap<Client, BTreeMap<Token, Arc<Record>>>,
}

impl MemoryBroker {
    pub fn queue(&mut self, client: Client, shipment: Shipment) {
        self.queues.entry(client).or_default().insert(shipment.token, shipment.record);
    }

    /// Takes one record off a client's queue, if it is still there.
    pub fn take(&mut self, client: Client, token: Token) -> Option<Arc<Record>> {
        self.queues.get_mut(&client)?.remove(&token)
    }

    /// Takes everything off a client's queue.
    pub fn empty(&mut self, client: Client) -> BTreeMap<Token, Arc<Record>> {
        self.queues.remove(&client).unwrap_or_default()
    }

    pub fn apply(&mut self, record: Arc<Record>) {
        self.log.push(record);
    }
}

/// The row a record was made of: its payload begins with the position.
pub fn position(record: &Record) -> Position {
    let body = record.body.as_ref().expect("rows of the simulation have a payload");
    Position(i64::from_be_bytes(body[..8].try_into().expect("eight bytes")))
}

//! An outbox table, its lease and its writers in memory: what [`Source`](outbox_relay::source::Source)
//! promises, as a state machine without time of its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use outbox_relay::message::{Message, Payload, Position, RowId, RowRef, Timestamp};
use outbox_relay::sink::Destination;
use outbox_relay::source::{
    Backlog, Batch, Epoch, Fetch, Holder, LaneKey, Refusal, Settled, Settlement, Writer,
};

pub type Transaction = u64;

/// Names a relay to the lease.
pub type Owner = u64;

/// What an application writes.
#[derive(Debug, Clone)]
pub struct NewRow {
    pub key: Option<Bytes>,
    /// `None` where the route needs a value that is NULL.
    pub destination: Option<Arc<str>>,
    pub payload: Option<Bytes>,
}

#[derive(Debug, Clone)]
pub struct Row {
    pub new: NewRow,
    pub pending: bool,
}

#[derive(Debug, Default)]
pub struct Lease {
    pub owner: Option<Owner>,
    pub epoch: Epoch,
    /// On the database's clock.
    pub expires_at: Duration,
}

#[derive(Debug)]
pub struct MemoryOutbox {
    sequence: i64,
    transactions: u64,
    /// Committed rows by position.
    rows: BTreeMap<i64, Row>,
    /// Open transactions, each of which holds the lock that an insert takes.
    open: BTreeMap<Transaction, Vec<(i64, NewRow)>>,
    pub lease: Lease,
    /// Rows that cannot be marked, and why.
    pub unmarkable: BTreeMap<RowId, Refusal>,
    /// A larger payload is left behind; `None` returns any.
    pub message_bytes_max: Option<usize>,
    ttl: Duration,
}

/// Rows are found by an id that is not their position, so that the two cannot be mixed up unnoticed.
const ID_OFFSET: i64 = 1_000_000;

impl MemoryOutbox {
    pub fn new(ttl: Duration) -> Self {
        Self {
            sequence: 0,
            transactions: 0,
            rows: BTreeMap::new(),
            open: BTreeMap::new(),
            lease: Lease::default(),
            unmarkable: BTreeMap::new(),
            message_bytes_max: None,
            ttl,
        }
    }

    pub fn begin(&mut self) -> Transaction {
        self.transactions += 1;
        self.open.insert(self.transactions, Vec::new());
        self.transactions
    }

    /// Allocates a position, visible to nobody until the transaction commits.
    pub fn insert(&mut self, transaction: Transaction, row: NewRow) -> Position {
        self.sequence += 1;
        self.open.get_mut(&transaction).expect("an open transaction").push((self.sequence, row));
        Position(self.sequence)
    }

    pub fn commit(&mut self, transaction: Transaction) {
        for (position, new) in self.open.remove(&transaction).expect("an open transaction") {
            self.rows.insert(position, Row { new, pending: true });
        }
    }

    /// Leaves a gap in the positions.
    pub fn roll_back(&mut self, transaction: Transaction) {
        self.open.remove(&transaction).expect("an open transaction");
    }

    /// Takes a row away, as an application that cleans up might.
    pub fn delete(&mut self, gone: &RowId) {
        self.rows.retain(|&position, _| id(position) != *gone);
    }

    pub fn idle(&self) -> bool {
        self.open.is_empty()
    }

    pub fn rows(&self) -> impl Iterator<Item = (Position, &Row)> {
        self.rows.iter().map(|(&position, row)| (Position(position), row))
    }

    pub fn row(&self, position: Position) -> &Row {
        &self.rows[&position.0]
    }

    /// The transactions that hold the insert lock now.
    pub fn writers(&self) -> Vec<Writer> {
        self.open.keys().map(|transaction| Writer::from(transaction.to_string())).collect()
    }

    /// What a snapshot taken now shows. The writers are those of now too; a caller that lets time pass
    /// between the two replaces them.
    pub fn fetch(&self, fetch: &Fetch) -> Batch<Message> {
        let mut batch = Batch {
            messages: Vec::new(),
            cut: false,
            highest: self.rows.last_key_value().map(|(&position, _)| Position(position)),
            writers: self.writers(),
            remarks: Vec::new(),
        };
        let mut bytes = 0;
        let above = self.rows.range(fetch.after.0.saturating_add(1)..);
        for (&position, row) in above.filter(|(position, row)| returned(**position, row, fetch)) {
            if batch.messages.len() == fetch.rows_max || bytes >= fetch.bytes_max {
                batch.cut = true;
                break;
            }
            bytes += row.new.payload.as_ref().map_or(0, Bytes::len);
            batch.messages.push(self.message(position, &row.new));
        }
        batch
    }

    fn message(&self, position: i64, row: &NewRow) -> Message {
        let payload = match &row.payload {
            None => Payload::Null,
            Some(bytes) if self.message_bytes_max.is_some_and(|max| bytes.len() > max) => {
                Payload::Oversize(bytes.len() as u64)
            }
            Some(bytes) => Payload::Stored(bytes.clone()),
        };
        Message {
            row: RowRef { id: id(position), position: Position(position) },
            key: row.key.clone(),
            kind: None,
            destination: row.destination.as_ref().map(|name| Bytes::copy_from_slice(name.as_bytes())),
            headers: Vec::new(),
            payload,
            created_at: None,
            malformed: None,
        }
    }

    /// Marks what may be marked. `refuse` says which rows may not.
    pub fn settle(
        &mut self,
        settlements: &[Settlement],
        mut refuse: impl FnMut(&RowRef) -> Option<Refusal>,
    ) -> Settled {
        let mut settled = Settled::default();
        for row in settlements.iter().map(Settlement::row) {
            let stored = self.rows.get_mut(&row.position.0);
            let unmarkable = self.unmarkable.get(&row.id).cloned();
            let pending = stored.filter(|stored| stored.pending);
            match pending.map(|stored| (stored, unmarkable.or_else(|| refuse(row)))) {
                Some((_, Some(refusal))) => settled.refused.push((row.clone(), refusal)),
                Some((stored, None)) => {
                    stored.pending = false;
                    settled.done.push(row.clone());
                }
                None => settled.done.push(row.clone()),
            }
        }
        settled
    }

    pub fn lease(&mut self, owner: Owner, now: Duration) -> Holder {
        let ours = self.lease.owner == Some(owner);
        if !ours && self.lease.owner.is_some() && self.lease.expires_at >= now {
            return Holder::Other { expires_in: self.lease.expires_at.saturating_sub(now) };
        }
        self.lease = Lease {
            owner: Some(owner),
            epoch: self.lease.epoch + u64::from(!ours),
            expires_at: now + self.ttl,
        };
        Holder::Us(self.lease.epoch)
    }

    pub fn release(&mut self, owner: Owner) {
        if self.lease.owner == Some(owner) {
            self.lease.owner = None;
        }
    }

    pub fn held_by(&self, owner: Owner, now: Duration) -> bool {
        self.lease.owner == Some(owner) && self.lease.expires_at >= now
    }

    pub fn backlog(&self, now: Duration) -> Backlog {
        let pending = self.rows.values().filter(|row| row.pending).count();
        let measured_at = Timestamp(i64::try_from(now.as_micros()).expect("a time in range"));
        Backlog { pending_rows: pending as u64, oldest: (pending > 0).then_some(Timestamp(0)), measured_at }
    }
}

fn returned(position: i64, row: &Row, fetch: &Fetch) -> bool {
    let destination = row.new.destination.as_deref();
    let lane_skipped = |lane: &LaneKey| {
        row.new.key.as_ref() == Some(&lane.key) && lane.scope.as_ref().map(topic) == destination
    };
    row.pending
        && !fetch.exclude.contains(&id(position))
        && !fetch.skip.scopes.iter().any(|skipped| Some(topic(skipped)) == destination)
        && !fetch.skip.lanes.iter().any(lane_skipped)
}

fn topic(destination: &Destination) -> &str {
    destination.name()
}

fn id(position: i64) -> RowId {
    RowId::Int(position + ID_OFFSET)
}

/// The position of the row whose id this is, as text.
pub fn position_of(id: &[u8]) -> Option<Position> {
    let id: i64 = std::str::from_utf8(id).ok()?.parse().ok()?;
    Some(Position(id - ID_OFFSET))
}

//! What the meter remembers of a message between its publishing and its outcome.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::route::Routed;
use crate::sink::{Record, Shipment, Token};

/// From when the delivery latency of a message is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Born {
    /// The row says when it was created: milliseconds since 1970 by the database's clock.
    Created(i64),
    /// It does not, and was first read then.
    Seen(Duration),
}

/// One publishing of one message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flight {
    token: Token,
    /// Where its record lies, which tells the same record published again from another one.
    record: usize,
    pub(super) destination: u32,
    pub(super) bytes: u64,
    pub(super) sent_at: Duration,
    pub(super) born: Born,
}

/// The flights under way, found by their token without a search.
///
/// The lower half of a token is the number of a slot that the relay uses again, so the slots here are
/// as many as the relay has, and none is ever given back.
#[derive(Debug, Default)]
pub(super) struct Flights {
    slots: Vec<Option<Flight>>,
    /// When the records that do not say when they were created were first seen.
    seen: HashMap<usize, Duration>,
}

impl Flights {
    /// Rows that leave the hand unpublished are not announced here. Beyond this many it is cheaper to
    /// count the latency of those in hand from their publishing than to go on remembering.
    const SEEN_MAX: usize = 100_000;

    /// Notes when rows were first seen. Those that say when they were created need no note.
    pub(super) fn saw(&mut self, now: Duration, rows: &[Routed]) {
        if self.seen.len() + rows.len() > Self::SEEN_MAX {
            self.seen.clear();
        }
        let records = rows.iter().filter_map(|row| row.content.as_ref().ok());
        for record in records.filter(|record| record.timestamp_ms.is_none()) {
            self.seen.insert(address(record), now);
        }
    }

    pub(super) fn start(&mut self, now: Duration, shipment: &Shipment, destination: u32) {
        let record = address(&shipment.record);
        let slot = slot(shipment.token);
        if self.slots.len() <= slot {
            self.slots.resize(slot + 1, None);
        }
        let born = match shipment.record.timestamp_ms {
            Some(created) => Born::Created(created),
            None => self.first_sight(now, slot, record),
        };
        let bytes = shipment.record.bytes() as u64;
        let token = shipment.token;
        self.slots[slot] = Some(Flight { token, record, destination, bytes, sent_at: now, born });
    }

    /// A record that failed is published again from the same slot. Another one at the same address was
    /// noted when it was read.
    fn first_sight(&mut self, now: Duration, slot: usize, record: usize) -> Born {
        let earlier = self.slots[slot].filter(|flight| flight.record == record).map(|flight| flight.born);
        self.seen.remove(&record).map(Born::Seen).or(earlier).unwrap_or(Born::Seen(now))
    }

    /// The flight that `token` named, the first time it is asked for.
    pub(super) fn land(&mut self, token: Token) -> Option<Flight> {
        let flight = self.slots.get_mut(slot(token))?.as_mut().filter(|flight| flight.token == token)?;
        let landed = *flight;
        flight.token = LANDED;
        Some(landed)
    }
}

/// A token that no publishing has: the upper half of one counts from 1.
const LANDED: Token = Token(0);

fn slot(token: Token) -> usize {
    #[allow(clippy::cast_possible_truncation, reason = "the lower half is the slot's number")]
    let number = token.0 as u32;
    number as usize
}

fn address(record: &Arc<Record>) -> usize {
    Arc::as_ptr(record).addr()
}

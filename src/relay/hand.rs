//! The rows in hand: read and not yet settled, each in one slot.
//!
//! A slot's number together with how often it was used is the [`Token`] under which its record is
//! published, so an outcome finds its row without a search and a late or doubled one finds nothing.

use foldhash::HashMap;
use std::sync::Arc;

use crate::message::{RowId, RowRef};
use crate::sink::{Destination, Failure, Record, Token};

/// Rows and bytes: what a window limits, and how much of it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    pub rows: usize,
    pub bytes: usize,
}

impl Load {
    pub(super) fn add(&mut self, bytes: usize) {
        self.rows += 1;
        self.bytes += bytes;
    }

    pub(super) fn remove(&mut self, bytes: usize) {
        self.rows -= 1;
        self.bytes -= bytes;
    }

    /// There is room for one more. Bytes may be exceeded by the last row let in, which is the only
    /// way for a row larger than the window to ever pass.
    pub(super) const fn below(self, limit: Self) -> bool {
        self.rows < limit.rows && self.bytes < limit.bytes
    }

    /// A share of this load: `numerator / denominator`, never less than one row.
    pub(super) const fn share(self, numerator: usize, denominator: usize) -> Self {
        let rows = self.rows * numerator / denominator;
        Self { rows: if rows == 0 { 1 } else { rows }, bytes: self.bytes * numerator / denominator }
    }
}

/// How far a row in hand has come.
///
/// ```text
///            publish            confirmed           settle             done
///   Ready ────────────▶ Sent ─────────────▶ Confirmed ──────▶ Settling ─────▶ (leaves the hand)
///     ▲                  │ unavailable                          │  │ unknown: Confirmed again
///     └──────────────────┘                                      ▼  │
///   (any other failure: leaves the hand, its lane closes)     Refused
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Ready,
    Sent,
    Confirmed,
    Settling,
    /// The database would not mark it; asked again later.
    Refused,
}

#[derive(Debug)]
pub(super) struct Slot {
    pub(super) row: RowRef,
    pub(super) lane: Option<u32>,
    pub(super) destination: u32,
    pub(super) bytes: usize,
    /// What to publish, or why it cannot be. Gone once confirmed.
    pub(super) content: Option<Result<Arc<Record>, Failure>>,
    pub(super) stage: Stage,
    /// The term it was read in. A slot of an earlier term only waits to be settled.
    pub(super) term: u64,
    uses: u32,
}

impl Slot {
    /// Where its record goes, if it has one.
    pub(super) fn record_destination(&self) -> Option<&Destination> {
        self.content.as_ref()?.as_ref().ok().map(|record| &record.destination)
    }
}

/// Slots in use, their tokens, and which row is where.
#[derive(Debug, Default)]
pub(super) struct Hand {
    slots: Vec<Option<Slot>>,
    uses: Vec<u32>,
    free: Vec<u32>,
    by_row: HashMap<RowId, u32>,
    /// Read but not sent.
    pub(super) ready: Load,
    /// Queued at the broker but not settled: what a crash may repeat.
    pub(super) in_flight: Load,
    /// Of those, sent and neither confirmed nor failed.
    pub(super) sent: usize,
}

/// A row that enters the hand.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) row: RowRef,
    pub(super) lane: Option<u32>,
    pub(super) destination: u32,
    pub(super) bytes: usize,
    pub(super) content: Result<Arc<Record>, Failure>,
    pub(super) term: u64,
}

impl Hand {
    pub(super) fn take(&mut self, entry: Entry) -> u32 {
        let number = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.uses.push(0);
            u32::try_from(self.slots.len() - 1).expect("the windows keep slots far below 2^32")
        });
        self.by_row.insert(entry.row.id.clone(), number);
        self.ready.add(entry.bytes);
        self.slots[number as usize] = Some(Slot {
            row: entry.row,
            lane: entry.lane,
            destination: entry.destination,
            bytes: entry.bytes,
            content: Some(entry.content),
            stage: Stage::Ready,
            term: entry.term,
            uses: self.uses[number as usize],
        });
        number
    }

    pub(super) fn holds(&self, id: &RowId) -> bool {
        self.by_row.contains_key(id)
    }

    /// Marks a ready slot as sent, and names this publishing of it.
    pub(super) fn send(&mut self, number: u32) -> Token {
        let uses = &mut self.uses[number as usize];
        *uses = uses.wrapping_add(1);
        let uses = *uses;
        let slot = self.slots[number as usize].as_mut().expect("a slot in use");
        assert_eq!(slot.stage, Stage::Ready, "only a ready row is sent");
        slot.stage = Stage::Sent;
        slot.uses = uses;
        self.ready.remove(slot.bytes);
        self.in_flight.add(slot.bytes);
        self.sent += 1;
        Token(u64::from(uses) << 32 | u64::from(number))
    }

    /// The slot that `token` named, if its outcome is still awaited.
    pub(super) fn awaiting(&self, token: Token) -> Option<u32> {
        #[allow(clippy::cast_possible_truncation, reason = "a token is two 32-bit numbers")]
        let (uses, number) = ((token.0 >> 32) as u32, token.0 as u32);
        let slot = self.slots.get(number as usize)?.as_ref()?;
        (slot.uses == uses && slot.stage == Stage::Sent).then_some(number)
    }

    /// A sent slot was confirmed: its record is no longer needed.
    pub(super) fn confirm(&mut self, number: u32) {
        let slot = self.slots[number as usize].as_mut().expect("a slot in use");
        assert_eq!(slot.stage, Stage::Sent, "only a sent row is confirmed");
        slot.stage = Stage::Confirmed;
        slot.content = None;
        self.sent -= 1;
    }

    /// A sent slot was not confirmed and may be sent again.
    pub(super) fn return_to_ready(&mut self, number: u32) {
        let slot = self.slots[number as usize].as_mut().expect("a slot in use");
        assert_eq!(slot.stage, Stage::Sent, "only a sent row returns");
        slot.stage = Stage::Ready;
        self.sent -= 1;
        self.in_flight.remove(slot.bytes);
        self.ready.add(slot.bytes);
    }

    pub(super) fn set_stage(&mut self, number: u32, stage: Stage) {
        self.slots[number as usize].as_mut().expect("a slot in use").stage = stage;
    }

    /// Takes a slot out of the hand.
    pub(super) fn drop_slot(&mut self, number: u32) -> Slot {
        let slot = self.slots[number as usize].take().expect("a slot in use");
        self.free.push(number);
        if self.by_row.get(&slot.row.id) == Some(&number) {
            self.by_row.remove(&slot.row.id);
        }
        match slot.stage {
            Stage::Ready => self.ready.remove(slot.bytes),
            Stage::Sent => {
                self.sent -= 1;
                self.in_flight.remove(slot.bytes);
            }
            Stage::Confirmed | Stage::Settling | Stage::Refused => self.in_flight.remove(slot.bytes),
        }
        slot
    }

    /// A new term may read this row again: from now on the slot only waits to be settled.
    pub(super) fn disown(&mut self, number: u32) {
        let slot = self.slots[number as usize].as_ref().expect("a slot in use");
        if self.by_row.get(&slot.row.id) == Some(&number) {
            self.by_row.remove(&slot.row.id);
        }
    }

    /// The row is queued at the broker, or confirmed and not settled.
    pub(super) fn flies(&self, id: &RowId) -> bool {
        self.by_row.get(id).is_some_and(|&number| self.get(number).stage != Stage::Ready)
    }

    pub(super) fn get(&self, number: u32) -> &Slot {
        self.slots[number as usize].as_ref().expect("a slot in use")
    }

    /// The slots in use, by number.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Slot)> {
        (0..).zip(&self.slots).filter_map(|(number, slot)| Some((number, slot.as_ref()?)))
    }
}

//! Lanes and outlets: order within a key, and fairness between destinations.
//!
//! A **lane** holds the messages of one key within a topic or an exchange, in outbox order, and lets one of them be
//! unconfirmed at a time: the only setting in which nothing can overtake. When its head fails, the
//! lane closes, its successors leave the hand, and the head is read again when it is due.
//!
//! ```text
//!            head fails                    due                     a read from below the gap
//!   Flowing ───────────▶ Closed(until) ─────────▶ Flowing with a gap ─────────────────────▶ Flowing
//! ```
//!
//! An **outlet** is the share of the windows of one topic or exchange, so that a slow one leaves room for others.

use std::collections::VecDeque;
use std::time::Duration;

use super::hand::Load;
use super::reading::Gap;
use crate::message::{Position, RowId, RowRef};

#[derive(Debug, Default)]
pub(super) struct Lane {
    /// Slots in outbox order; the first is the one to be published.
    pub(super) queue: VecDeque<u32>,
    /// Sent and unanswered: 0 or 1.
    pub(super) flying: usize,
    /// Stands in the relay's list of what can be sent next.
    pub(super) listed: bool,
    /// Reached its cap; passed over by reads until half of it is gone.
    pub(super) full: bool,
    pub(super) closed_until: Option<Duration>,
    pub(super) gap: Option<Gap>,
    pub(super) trouble: Option<Trouble>,
}

/// The message that closed a lane, and how often.
#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) id: RowId,
    pub(super) position: Position,
    pub(super) tries: u32,
}

impl Lane {
    /// Nothing in hand, nothing awaited, nothing lost: it can be forgotten.
    pub(super) fn idle(&self) -> bool {
        self.queue.is_empty()
            && self.flying == 0
            && !self.listed
            && self.closed_until.is_none()
            && self.gap.is_none()
    }

    /// Counts another failure of `head` and says how many it has had.
    pub(super) fn count_failure(&mut self, head: &RowRef) -> u32 {
        let tries = match &self.trouble {
            Some(trouble) if trouble.id == head.id => trouble.tries.saturating_add(1),
            _ => 1,
        };
        self.trouble = Some(Trouble { id: head.id.clone(), position: head.position, tries });
        tries
    }
}

/// What can be sent next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// The head of this lane.
    Lane(u32),
    /// This slot, which has no lane.
    Slot(u32),
}

#[derive(Debug, Default)]
pub(super) struct Outlet {
    pub(super) ready: Load,
    pub(super) in_flight: Load,
    /// Since when more than half of its share of the read-ahead is taken.
    pub(super) crowded_since: Option<Duration>,
    pub(super) gap: Option<Gap>,
    /// What could be sent but for this outlet's share of the flight.
    pub(super) waiting: VecDeque<Next>,
}

impl Outlet {
    pub(super) fn idle(&self) -> bool {
        self.ready.rows == 0 && self.in_flight.rows == 0 && self.gap.is_none() && self.waiting.is_empty()
    }
}

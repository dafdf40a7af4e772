//! Where the next read starts, and what an answer may be believed about.
//!
//! Ids are allocated before they become visible, so a plain cursor loses rows, and paging from the
//! highest id in hand lets a successor pass its predecessor. Instead:
//!
//! * The **safe id** is a position below which no row can appear any more: the highest position one
//!   read saw, once every other transaction that held the insert lock at that moment has ended, as
//!   told by a read started later.
//! * The **cursor** never passes the safe id known when a read started. Above it, every read starts
//!   anew, with the rows in hand left out.
//! * Reads are **numbered**: an answer may be older than what happened since it was asked for. They
//!   follow one another; two at a time would see the same rows, and the older one, answered last,
//!   would show successors of rows that only the newer one was started to find. A row that is settled
//!   while a read is under way cannot come back by it: it was in hand when the read started, and so
//!   it was left out.

use std::collections::BTreeSet;

use super::rules::{Rule, Rules};
use crate::message::Position;
use crate::sink::Destination;
use crate::source::{Skip, Writer};

/// Rows of a lane or destination that a read passed over or that left the hand unsettled.
///
/// Its rows are taken again only from a read that started after the last such loss and below the
/// lowest row lost; otherwise a successor would pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) lowest: Position,
    /// The latest read that had started when the last loss was noted.
    pub(super) noted: u64,
}

impl Gap {
    /// Widens `gap` down to `position`, noted now.
    pub(super) fn note(gap: &mut Option<Self>, position: Position, number: u64) {
        let lowest = gap.map_or(position, |gap| gap.lowest.min(position));
        *gap = Some(Self { lowest, noted: number });
    }

    /// A row just read could not be taken. The read that brought it proves nothing new about when
    /// the loss began, so an existing gap only grows downwards.
    pub(super) fn miss(gap: &mut Option<Self>, position: Position, number: u64) {
        match gap {
            Some(gap) => gap.lowest = gap.lowest.min(position),
            None => Self::note(gap, position, number),
        }
    }

    /// Whether a read's answer shows everything that was lost.
    pub(super) fn closed_by(self, read: &Outstanding, rules: Rules) -> bool {
        (read.after < self.lowest || !rules.keep(Rule::CursorBack))
            && (read.number > self.noted || !rules.keep(Rule::DropNumber))
    }
}

/// A read that has not been answered.
#[derive(Debug)]
pub(super) struct Outstanding {
    pub(super) number: u64,
    pub(super) term: u64,
    pub(super) after: Position,
    /// The safe id known when it started.
    safe: Position,
    pub(super) skip: Skip,
}

impl Outstanding {
    /// Whether the read left out a destination's rows; `None` is one not known, that any may be.
    pub(super) fn passed_over(&self, destination: Option<&Destination>) -> bool {
        let skipped = &self.skip.scopes;
        destination.map_or(!skipped.is_empty(), |destination| skipped.contains(destination))
    }
}

/// The highest position a read saw, and who might still show a row below it.
#[derive(Debug)]
struct Candidate {
    highest: Position,
    writers: BTreeSet<Writer>,
}

#[derive(Debug)]
pub(super) struct Reading {
    rules: Rules,
    /// The number of the latest read started.
    number: u64,
    outstanding: Option<Outstanding>,
    cursor: Position,
    safe: Position,
    candidate: Option<Candidate>,
}

impl Reading {
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            rules,
            number: 0,
            outstanding: None,
            cursor: Position::START,
            safe: Position::START,
            candidate: None,
        }
    }

    /// Forgets what an earlier term learned; its read may still answer and is told by its term.
    pub(super) fn restart(&mut self) {
        self.cursor = Position::START;
        self.safe = Position::START;
        self.candidate = None;
    }

    pub(super) const fn number(&self) -> u64 {
        self.number
    }

    pub(super) const fn in_progress(&self) -> bool {
        self.outstanding.is_some()
    }

    /// Takes the cursor back so that the next read shows `lowest` again.
    pub(super) fn go_back_below(&mut self, lowest: Position) {
        self.cursor = self.cursor.min(lowest.before());
    }

    /// Starts a read: its number, and the position it starts after.
    pub(super) fn start(&mut self, term: u64, skip: Skip) -> (u64, Position) {
        assert!(self.outstanding.is_none(), "one read at a time");
        self.number += 1;
        let (number, after, safe) = (self.number, self.cursor, self.safe);
        self.outstanding = Some(Outstanding { number, term, after, safe, skip });
        (number, after)
    }

    /// The read `number` was answered or failed: it is no longer outstanding.
    pub(super) fn finish(&mut self, number: u64) -> Option<Outstanding> {
        self.outstanding.take_if(|read| read.number == number)
    }

    /// Learns what an answer says about which positions are safe.
    pub(super) fn learn(&mut self, highest: Option<Position>, writers: Vec<Writer>) {
        let Some(highest) = highest else { return };
        if !self.rules.keep(Rule::SafeId) {
            self.safe = self.safe.max(highest);
            return;
        }
        let writers: BTreeSet<Writer> = writers.into_iter().collect();
        if let Some(candidate) = &mut self.candidate {
            candidate.writers.retain(|writer| writers.contains(writer));
            if candidate.writers.is_empty() {
                self.safe = self.safe.max(candidate.highest);
                self.candidate = None;
            }
        }
        if self.candidate.is_none() && highest > self.safe {
            self.candidate = Some(Candidate { highest, writers });
        }
    }

    /// Moves the cursor past what an answer has shown. `last` is its last row's position if it was cut.
    pub(super) fn advance(&mut self, read: &Outstanding, last: Option<Position>) {
        let safe = if self.rules.keep(Rule::SafeAtStart) { read.safe } else { self.safe };
        self.cursor = self.cursor.max(last.map_or(safe, |last| last.min(safe)));
    }
}

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
//! * Reads are **numbered**: an answer may be older than what happened since it was asked for.

use std::collections::{BTreeSet, HashMap, VecDeque};

use super::rules::{Rule, Rules};
use crate::message::{Position, RowId};
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

/// The highest position a read saw, and who might still show a row below it.
#[derive(Debug)]
struct Candidate {
    highest: Position,
    writers: BTreeSet<Writer>,
    noted: u64,
}

#[derive(Debug)]
pub(super) struct Reading {
    rules: Rules,
    /// The number of the latest read started.
    number: u64,
    outstanding: Vec<Outstanding>,
    cursor: Position,
    safe: Position,
    candidate: Option<Candidate>,
    /// Reads older than this say nothing about the cursor: it went back after they started.
    cursor_set_for: u64,
    /// Settled rows and the latest read that had started by then, oldest first.
    settled: VecDeque<(u64, RowId)>,
    settled_ids: HashMap<RowId, u64>,
}

impl Reading {
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            rules,
            number: 0,
            outstanding: Vec::new(),
            cursor: Position::START,
            safe: Position::START,
            candidate: None,
            cursor_set_for: 0,
            settled: VecDeque::new(),
            settled_ids: HashMap::new(),
        }
    }

    /// Forgets what an earlier term learned; its reads may still answer and are told by their term.
    pub(super) fn restart(&mut self) {
        self.cursor = Position::START;
        self.safe = Position::START;
        self.candidate = None;
        self.cursor_set_for = self.number;
        self.settled.clear();
        self.settled_ids.clear();
    }

    pub(super) const fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn in_progress(&self) -> usize {
        self.outstanding.len()
    }

    /// Takes the cursor back so that the next read shows `lowest` again.
    pub(super) fn go_back_below(&mut self, lowest: Position) {
        if lowest.before() < self.cursor {
            self.cursor = lowest.before();
            self.cursor_set_for = self.number + 1;
        }
    }

    /// Starts a read: its number, and the position it starts after.
    pub(super) fn start(&mut self, term: u64, skip: Skip) -> (u64, Position) {
        self.number += 1;
        self.outstanding.push(Outstanding {
            number: self.number,
            term,
            after: self.cursor,
            safe: self.safe,
            skip,
        });
        (self.number, self.cursor)
    }

    /// The read `number` was answered or failed: it is no longer outstanding.
    pub(super) fn finish(&mut self, number: u64) -> Option<Outstanding> {
        let at = self.outstanding.iter().position(|read| read.number == number)?;
        Some(self.outstanding.swap_remove(at))
    }

    /// Learns what an answer says about which positions are safe.
    pub(super) fn learn(&mut self, read: &Outstanding, highest: Option<Position>, writers: Vec<Writer>) {
        let Some(highest) = highest else { return };
        if !self.rules.keep(Rule::SafeId) {
            self.safe = self.safe.max(highest);
            return;
        }
        let writers: BTreeSet<Writer> = writers.into_iter().collect();
        if let Some(candidate) = &mut self.candidate
            && (read.number > candidate.noted || !self.rules.keep(Rule::WritersLater))
        {
            candidate.writers.retain(|writer| writers.contains(writer));
            if candidate.writers.is_empty() {
                self.safe = self.safe.max(candidate.highest);
                self.candidate = None;
            }
        }
        if self.candidate.is_none() && highest > self.safe {
            self.candidate = Some(Candidate { highest, writers, noted: self.number });
        }
    }

    /// Moves the cursor past what an answer has shown. `last` is its last row's position if it was cut.
    pub(super) fn advance(&mut self, read: &Outstanding, last: Option<Position>) {
        if read.number < self.cursor_set_for {
            return;
        }
        let safe = if self.rules.keep(Rule::SafeAtStart) { read.safe } else { self.safe };
        self.cursor = self.cursor.max(last.map_or(safe, |last| last.min(safe)));
        if let Some(last) = last
            && last < self.cursor
            && self.rules.keep(Rule::CutBack)
        {
            self.cursor = last;
            self.cursor_set_for = self.number + 1;
        }
    }

    /// A row was settled. An outstanding read may have seen it pending.
    pub(super) fn remember_settled(&mut self, id: &RowId) {
        if self.outstanding.is_empty() || !self.rules.keep(Rule::FetchNumbers) {
            return;
        }
        self.settled.push_back((self.number, id.clone()));
        self.settled_ids.insert(id.clone(), self.number);
    }

    /// The row was settled after an outstanding read may have seen it.
    pub(super) fn was_settled(&self, id: &RowId) -> bool {
        self.settled_ids.contains_key(id)
    }

    /// Forgets the settled rows that no answer still to come can show. What the last answer showed must
    /// have been taken in before: it may be as old as any.
    pub(super) fn forget_settled(&mut self) {
        let oldest = self.outstanding.iter().map(|read| read.number).min().unwrap_or(u64::MAX);
        while let Some((number, _)) = self.settled.front()
            && *number < oldest
        {
            let (number, id) = self.settled.pop_front().expect("it has a front");
            if self.settled_ids.get(&id) == Some(&number) {
                self.settled_ids.remove(&id);
            }
        }
    }
}

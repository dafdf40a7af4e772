//! What was published, answered, settled and repeated in one run, and every promise it broke.
//!
//! Kept apart from the relay's own books on purpose: a relay that miscounts is found by another count.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use outbox_relay::message::Position;
use outbox_relay::relay::Exit;
use outbox_relay::sink::Token;

/// A process of the relay: which of the two, and how often it was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Life {
    pub process: usize,
    pub number: u64,
}

/// A promise broken; `promise` as in the design, `what` for whoever reads the trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub promise: &'static str,
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.promise, self.what)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Not answered.
    Flying,
    /// Confirmed to the relay, not yet settled.
    Confirmed,
    /// The relay knows that it is marked.
    Settled,
    /// Ended without a confirmation: the relay may send the row again.
    Open,
}

/// One publishing of one row.
#[derive(Debug)]
struct Sending {
    life: Life,
    /// How often the process had taken or lost the lease.
    term: u64,
    state: State,
    /// A crash, a takeover or an unfinished exit came before it was settled.
    excused: bool,
    /// The broker holds it, or will.
    reached: bool,
}

/// What order is kept within: destination and key.
pub type Lane = (Option<Arc<str>>, Bytes);

/// What happened in one run, added up over many.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    pub records: usize,
    pub repeats: usize,
    pub crashes: usize,
    pub takeovers: usize,
    pub drained: usize,
    pub unfinished: usize,
}

impl Tally {
    pub fn add(&mut self, other: Self) {
        self.records += other.records;
        self.repeats += other.repeats;
        self.crashes += other.crashes;
        self.takeovers += other.takeovers;
        self.drained += other.drained;
        self.unfinished += other.unfinished;
    }
}

#[derive(Debug, Default)]
pub struct Books {
    window_rows: usize,
    sendings: BTreeMap<Position, Vec<Sending>>,
    tokens: HashMap<(Life, Token), (Position, usize)>,
    /// Rows sent by a process and neither refused nor settled: what its crash may repeat.
    unsettled: BTreeMap<Life, BTreeSet<Position>>,
    /// Rows a process knows to be unmarkable although the mark succeeds.
    vanished: BTreeMap<Life, BTreeSet<Position>>,
    /// The last first occurrence in each lane.
    last: BTreeMap<Lane, Position>,
    applied: BTreeSet<Position>,
    /// What a process that gives its lease back leaves in doubt.
    handed_over: BTreeMap<Life, Vec<Position>>,
    pub violations: Vec<Violation>,
    pub tally: Tally,
}

impl Books {
    pub fn new(window_rows: usize) -> Self {
        Self { window_rows, ..Self::default() }
    }

    pub fn violated(&mut self, promise: &'static str, what: String) {
        self.violations.push(Violation { promise, what });
    }

    pub fn holds(&self, position: Position) -> bool {
        self.applied.contains(&position)
    }

    /// A row goes to the broker. Was it allowed to, after all that became of it before?
    pub fn published(&mut self, life: Life, term: u64, token: Token, position: Position) {
        let earlier = self.sendings.entry(position).or_default();
        let needless = earlier.iter().find(|sending| {
            let excused = sending.excused && (sending.life, sending.term) != (life, term);
            sending.state != State::Open && !excused
        });
        let needless = needless.map(|sending| format!("{position} goes out again after {sending:?}"));
        let number = earlier.len();
        earlier.push(Sending { life, term, state: State::Flying, excused: false, reached: false });
        self.tokens.insert((life, token), (position, number));
        if let Some(what) = needless {
            self.violated("I4 bounded repeats", what);
        }
        let unsettled = self.unsettled.entry(life).or_default();
        unsettled.insert(position);
        let rows = unsettled.len();
        if rows > self.window_rows {
            self.violated("I4 window", format!("{rows} rows are published and not settled"));
        }
        if self.vanished.get(&life).is_some_and(|rows| !rows.is_empty()) {
            self.violated("marks vanish", format!("{position} goes out all the same"));
        }
    }

    /// The relay is told what became of a record.
    pub fn answered(&mut self, life: Life, token: Token, confirmed: bool) {
        let Some(&(position, number)) = self.tokens.get(&(life, token)) else { return };
        let sending = &mut self.sendings.get_mut(&position).expect("a row that was sent")[number];
        if sending.state != State::Flying {
            return;
        }
        sending.state = if confirmed { State::Confirmed } else { State::Open };
        if !confirmed {
            self.forget(life, position);
        }
    }

    /// The sink was made anew: what it had not answered it never will.
    pub fn reopened(&mut self, life: Life) {
        let mut open = Vec::new();
        for (&position, sendings) in &mut self.sendings {
            for sending in sendings.iter_mut().filter(|s| s.life == life && s.state == State::Flying) {
                sending.state = State::Open;
                open.push(position);
            }
        }
        open.into_iter().for_each(|position| self.forget(life, position));
    }

    /// The relay is told that a row is marked.
    pub fn settled(&mut self, life: Life, position: Position) {
        let sendings = self.sendings.get_mut(&position).expect("a row that was sent");
        for sending in sendings.iter_mut().filter(|s| s.life == life && s.state == State::Confirmed) {
            sending.state = State::Settled;
        }
        self.forget(life, position);
        self.vanished.entry(life).or_default().remove(&position);
    }

    /// The relay is told that a mark left its row pending.
    pub fn vanished(&mut self, life: Life, position: Position) {
        self.vanished.entry(life).or_default().insert(position);
    }

    /// The database would not mark a row; before that, a mark may have vanished.
    pub fn unvanished(&mut self, life: Life, position: Position) {
        self.vanished.entry(life).or_default().remove(&position);
    }

    /// A row with nothing of it under way any more is no longer part of what a crash repeats.
    fn forget(&mut self, life: Life, position: Position) {
        let under_way = |s: &Sending| s.life == life && matches!(s.state, State::Flying | State::Confirmed);
        if !self.sendings[&position].iter().any(under_way) {
            self.unsettled.entry(life).or_default().remove(&position);
        }
    }

    /// A crash, a takeover or the end of a lease: what is not settled now may be repeated.
    pub fn excuse(&mut self, life: Life) {
        for sending in self.sendings.values_mut().flatten() {
            sending.excused |= sending.life == life && sending.state != State::Settled;
        }
    }

    /// A record has arrived at the broker, or nothing can keep it from arriving.
    pub fn reached(&mut self, life: Life, token: Token) {
        let &(position, number) = &self.tokens[&(life, token)];
        self.sendings.get_mut(&position).expect("a row that was sent")[number].reached = true;
    }

    /// The broker holds one more record.
    pub fn applied(&mut self, position: Position, lane: Option<Lane>) {
        self.tally.records += 1;
        if !self.applied.insert(position) {
            self.tally.repeats += 1;
            return;
        }
        let Some(lane) = lane else { return };
        let last = self.last.insert(lane.clone(), position);
        if let Some(last) = last.filter(|last| *last > position) {
            self.violated("I3 key order", format!("{position} comes after {last} in {lane:?}"));
            self.last.insert(lane, last);
        }
    }

    /// A process gives its lease back: from now on its successor may repeat what is not marked.
    pub fn released(&mut self, life: Life, term: u64, pending: impl Fn(Position) -> bool) {
        let rows = self.repeatable(life, term, pending);
        if !rows.is_empty() {
            self.excuse(life);
        }
        self.handed_over.insert(life, rows);
    }

    /// Rows of a process that are at the broker and not marked.
    fn repeatable(&self, life: Life, term: u64, pending: impl Fn(Position) -> bool) -> Vec<Position> {
        let ours = |s: &Sending| s.life == life && s.term == term && s.reached;
        let rows = self.sendings.iter();
        rows.filter(|(position, sendings)| pending(**position) && sendings.iter().any(ours))
            .map(|(&position, _)| position)
            .collect()
    }

    /// A process stopped of its own accord. `pending` tells whether a row is unmarked.
    pub fn stopped(&mut self, life: Life, term: u64, exit: Exit, pending: impl Fn(Position) -> bool) {
        let mut repeats = self.repeatable(life, term, pending);
        let handed_over = self.handed_over.remove(&life).unwrap_or_default();
        if repeats.len() < handed_over.len() {
            repeats = handed_over;
        }
        let admitted = match exit {
            Exit::Drained => 0,
            Exit::Unfinished { unknown } => unknown,
        };
        if repeats.len() > admitted {
            self.violated("I4 drain", format!("{exit:?}, and {repeats:?} will be repeated"));
        }
        match exit {
            Exit::Drained => self.tally.drained += 1,
            Exit::Unfinished { .. } => {
                self.tally.unfinished += 1;
                self.excuse(life);
            }
        }
    }
}

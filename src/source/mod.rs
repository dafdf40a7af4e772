//! Where messages come from and where their end is recorded: [`Source`], what it is asked, and what
//! it answers.
//!
//! A source reads, marks and keeps the lease. It never decides a retry, publishes, or touches a
//! metric. Everything crosses in batches.

mod connection;
mod decode;
mod floor;
mod indexes;
mod lease;
mod listener;
mod mark;
pub mod migrate;
mod outbox;
mod page;
pub mod poll;
mod schema;
mod start;
mod state;
mod statement;
mod wire;
mod writers;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::message::{Message, Position, RowId, RowRef, Timestamp};
use crate::sink::Destination;

/// The messages of one key within a topic or an exchange: what order is kept within.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LaneKey {
    /// The [scope](Destination::scope) of their destinations; `None` for rows that name no topic or exchange,
    /// because a value is NULL.
    pub scope: Option<Destination>,
    pub key: bytes::Bytes,
}

/// The lease's fencing number: it grows each time the lease changes hands.
pub type Epoch = u64;

/// Who may publish, as the database had it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    Us(Epoch),
    /// Another relay, for this long unless it renews. By the database's clock, when it was asked.
    Other {
        expires_in: Duration,
    },
}

impl Holder {
    /// Ours, if it is ours.
    #[must_use]
    pub const fn epoch(self) -> Option<Epoch> {
        match self {
            Self::Us(epoch) => Some(epoch),
            Self::Other { .. } => None,
        }
    }
}

/// What one read is asked for. Reads are numbered, so that a late answer can be told from a new one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetch {
    pub number: u64,
    pub epoch: Epoch,
    /// Only rows above this position.
    pub after: Position,
    /// Rows above `after` that are in hand or held: left out.
    pub exclude: Vec<RowId>,
    /// What is left out besides.
    pub skip: Skip,
    /// At most this many rows, at least 1.
    pub rows_max: usize,
    /// Stop once this many bytes of payload were read; one row may go over it.
    pub bytes_max: usize,
}

/// What a read passes over: lanes that are full or wait for a retry, and whole topics or
/// exchanges that are full.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Skip {
    pub lanes: Vec<LaneKey>,
    /// [Scopes](Destination::scope).
    pub scopes: Vec<Destination>,
}

impl Skip {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lanes.is_empty() && self.scopes.is_empty()
    }
}

/// A transaction that may still make rows of the outbox visible. Equal means the same transaction.
pub type Writer = Arc<str>;

/// What one read found. `M` is what a row has become: a [`Message`] as the source returns it, a
/// routed one when the relay gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch<M = Message> {
    /// Pending rows in outbox order, durable in the database.
    pub messages: Vec<M>,
    /// The read stopped at `rows_max` or `bytes_max`: more may follow the last row.
    pub cut: bool,
    /// The highest position visible to the read (at least the last row's, if there is one).
    pub highest: Option<Position>,
    /// Other transactions that held the lock an insert takes when `highest` was read, or later.
    pub writers: Vec<Writer>,
    /// What people should know of the outbox; with the first read over each connection, and when it is found.
    pub remarks: Vec<Remark>,
}

/// Something about the database that people should know, though nothing waits for it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Remark {
    pub text: Arc<str>,
    /// What mends it; `None` if nothing is wrong.
    pub hint: Option<Arc<str>>,
}

impl Remark {
    pub(crate) fn notice(text: impl Into<Arc<str>>) -> Self {
        Self { text: text.into(), hint: None }
    }

    pub(crate) fn warning(text: impl Into<Arc<str>>, hint: impl Into<Arc<str>>) -> Self {
        Self { text: text.into(), hint: Some(hint.into()) }
    }
}

/// How our work on a message ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settlement {
    /// A broker confirmed it: mark the row. A fact, so it is never fenced.
    Delivered(RowRef),
}

impl Settlement {
    #[must_use]
    pub const fn row(&self) -> &RowRef {
        match self {
            Self::Delivered(row) => row,
        }
    }
}

/// What became of a batch of settlements: every row is in exactly one of the two.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settled {
    /// No longer pending: marked now, marked before, or gone.
    pub done: Vec<RowRef>,
    pub refused: Vec<(RowRef, Refusal)>,
}

/// Why a row could not be marked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The statement succeeded and the row is still pending: row security, a trigger, a rule.
    /// Marks that vanish would make every delivery a repeat, so publishing stops.
    Vanished(Arc<str>),
    /// The database refused this row and no other, with this error.
    Failed(Arc<str>),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vanished(reason) | Self::Failed(reason) => reason.fmt(f),
        }
    }
}

/// What is left to do, by the database's clock.
#[derive(Debug, Clone, PartialEq)]
pub struct Backlog {
    /// Due, undelivered rows, counted up to [`Backlog::COUNT_MAX`].
    pub pending_rows: u64,
    /// When the oldest of them was created. `None` without pending rows.
    pub oldest: Option<Timestamp>,
    /// When this was read.
    pub measured_at: Timestamp,
}

impl Backlog {
    /// Counting stops here, so that a large backlog does not make its own measurement slow.
    pub const COUNT_MAX: u64 = 10_000;

    /// What to count up to in SQL: one more, which tells that there are more.
    fn counted_max() -> i64 {
        i64::try_from(Self::COUNT_MAX + 1).expect("the limit is small")
    }

    /// A count of pending rows, for people.
    fn counted(rows: u64) -> String {
        match rows > Self::COUNT_MAX {
            true => format!("more than {} pending rows", Self::COUNT_MAX),
            false => format!("{rows} pending rows"),
        }
    }

    /// The count stopped: there are more rows than `pending_rows`.
    #[must_use]
    pub const fn limited(&self) -> bool {
        self.pending_rows > Self::COUNT_MAX
    }
}

/// Why the database did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SourceError {
    pub kind: SourceErrorKind,
    /// `could not read the outbox: connection refused`.
    pub message: Arc<str>,
    /// What a person can do about it; often the SQL that mends it.
    pub hint: Option<Arc<str>>,
}

/// All of them are retried for ever; the kind says what to tell people meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SourceErrorKind {
    /// The database cannot be reached or broke off.
    Unavailable,
    /// It answers, and refuses: a missing table, column or grant, a wrong type, a read-only server.
    Unfit,
}

/// The outbox of one pipeline.
///
/// The contract, each sentence tested by the conformance suite in `tests/it/contract/source.rs`:
///
/// * `lease` takes the lease if it is free or expired, renews it if it is ours, and says who holds
///   it then, and for how long unless it is us. Two relays never hold the same epoch.
/// * `release` gives the lease back at once, if it is ours.
/// * `fetch` returns pending rows above `after` in ascending position (any order without an order
///   column), without those in `exclude` and `skip`, from one snapshot taken after the call began.
///   It returns them only once they are durable: a crash of the database cannot take them back.
/// * A batch that is not `cut` holds every such row. One row may exceed `bytes_max`.
/// * `highest` and `writers` belong together: a transaction that may still show a row at or below
///   `highest` is among `writers`, which were read after `highest`.
/// * A payload over the source's limit comes as [`Payload::Oversize`](crate::message::Payload).
/// * `settle` marks rows. It may be repeated, and may be called for rows that are gone; such rows
///   are `done`. A row that cannot be marked does not keep the others from being marked.
/// * `settle` returning an error means that the outcome is unknown: ask again.
/// * `backlog` counts what `fetch` could return if it were due now and asked from the start.
/// * `listen` returns when rows may have become pending, and at once where it begins to listen. It
///   is a hint: it may come early, late, twice, or never, and no read depends on it.
/// * No transaction is open once a call has returned.
/// * Calls of different kinds may overlap; calls of one kind come one after the other. Dropping a
///   future gives up its call, and the next call starts afresh.
pub trait Source: Send + Sync {
    fn lease(&self) -> impl Future<Output = Result<Holder, SourceError>> + Send;
    fn release(&self) -> impl Future<Output = Result<(), SourceError>> + Send;
    fn fetch(&self, fetch: Fetch) -> impl Future<Output = Result<Batch, SourceError>> + Send;
    fn settle(
        &self,
        settlements: Vec<Settlement>,
    ) -> impl Future<Output = Result<Settled, SourceError>> + Send;
    fn backlog(&self) -> impl Future<Output = Result<Backlog, SourceError>> + Send;
    fn listen(&self) -> impl Future<Output = Result<(), SourceError>> + Send;
}

//! Decides what happens to messages: what may be read, published and settled now, and what then.
//!
//! [`Relay`] does no I/O, reads no clock and draws no randomness it was not seeded with. What happened
//! goes in through [`Relay::handle`]; what to do comes out of [`Relay::next_action`]; when to come back
//! though nothing happened is [`Relay::wake_at`]. The [`pump`](crate::pump) carries actions out.
//!
//! ```text
//!                 lease taken            sink opened
//!   standing by ─────────────▶ opening ─────────────▶ relaying ──┐ read, publish, settle: overlapping
//!        ▲                        │                      │  ▲    │
//!        └──── lease lost ────────┴──────────────────────┘  └────┘
//!                                                        │ drain asked for
//!                                                        ▼
//!                         stopped ◀── lease given back ── draining: nothing read, what flies is awaited
//! ```
//!
//! Its parts, in the order a message meets them: `tenure` (the lease), `reading` (where the next read
//! starts and what its answer may be believed about), `hand` (rows in hand and the windows), `lane`
//! (order within a key), `gate` (the broker's health), `policy` (what a failure means), `settling`.
//! The rules they keep are named in [`Rule`].

use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

mod backoff;
mod fetching;
mod gate;
mod hand;
mod lane;
mod listening;
pub mod policy;
mod publishing;
mod reading;
mod register;
mod rules;
mod settling;
mod stopping;
mod tenure;

pub use backoff::Backoff;
pub use gate::GateState;
pub use hand::Load;
pub use rules::{Rule, Rules};
pub use tenure::LeaseTiming;

use crate::message::{Position, RowId, RowRef};
use crate::route::Routed;
use crate::sink::{Destination, Failure, Shipment, SinkEvent};
use crate::source::{
    Backlog, Batch, Epoch, Fetch, Holder, LaneKey, Refusal, Settled, Settlement, SourceError,
};
use gate::Gate;
use hand::Hand;
use lane::{Lane, Next, Outlet};
use listening::Listening;
use reading::Reading;
use register::Register;
use settling::Settling;
use tenure::{Change, Tenure};

/// Every bound the relay keeps.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Queued at the broker but not settled: the most that a crash repeats.
    pub in_flight: Load,
    /// Read but not sent.
    pub read_ahead: Load,
    /// Rows of one read.
    pub fetch_rows_max: usize,
    /// Rows of one settlement, so that its transaction stays far below a second.
    pub settle_rows_max: usize,
    /// Lanes and rows held back after a failure; reading pauses beyond it.
    pub held_max: usize,
    /// The longest pause between two reads.
    pub poll_interval: Duration,
    /// Ask to be told of rows meanwhile.
    pub listen: bool,
    /// Between two tries of a failed message.
    pub backoff: Backoff,
    pub lease: LeaseTiming,
    pub drain_timeout: Duration,
    /// Between two measurements of the backlog.
    pub backlog_interval: Duration,
}

impl Limits {
    /// The part of the read-ahead that one lane may fill.
    fn lane_rows_max(&self) -> usize {
        (self.read_ahead.rows / 16).max(3)
    }

    /// The part of a window that one topic or exchange may fill, so that a slow one leaves room for others.
    fn outlet_share(window: Load) -> Load {
        window.share(1, 2)
    }
}

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// Answers [`Action::Lease`].
    Lease(Result<Holder, SourceError>),
    /// Answers [`Action::Release`]; whether it worked changes nothing.
    Released(Result<(), SourceError>),
    /// Answers [`Action::Open`]: rows known to be delivered though perhaps not marked.
    Opened(Result<Vec<RowRef>, Failure>),
    /// Answers [`Action::Fetch`].
    Fetched { number: u64, result: Result<Batch<Routed>, SourceError> },
    /// The sink reports.
    Sink(Vec<SinkEvent>),
    /// Answers [`Action::Settle`].
    Settled(Result<Settled, SourceError>),
    /// Answers [`Action::Measure`]; for the metrics, which listen to inputs.
    Measured(Result<Backlog, SourceError>),
    /// Answers [`Action::Listen`]: rows may have become pending.
    Hinted(Result<(), SourceError>),
    /// Time has passed.
    Tick,
    /// Stop reading, finish what flies, settle, stop.
    Drain,
    /// Stop at once.
    Abort,
}

/// What to do.
#[derive(Debug)]
pub enum Action {
    Lease,
    Release,
    Open(Epoch),
    Fetch(Fetch),
    Publish(Vec<Shipment>),
    /// Empty the broker client's queue.
    Purge,
    Settle(Vec<Settlement>),
    Measure,
    Listen,
    /// Nothing to do but to say it, in a log line or a metric.
    Tell(News),
    Stop(Exit),
}

/// A change worth telling people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    LeaseTaken(Epoch),
    LeaseLost,
    /// The lease could not be renewed in time; publishing stops until it is.
    TrustEnded,
    GateShut(Failure),
    GateOpened,
    /// The broker client is broken and is made anew.
    SinkFailed(Failure),
    /// A message failed for a reason other than an outage: it and its key wait.
    Held {
        row: RowRef,
        /// Its scope alone where nothing more can be said.
        destination: Option<Destination>,
        failure: Failure,
        tries: u32,
        again_in: Duration,
    },
    MarkRefused {
        row: RowRef,
        refusal: Refusal,
    },
    /// Every row that could not be marked is marked now.
    MarksAccepted,
    Draining,
}

/// How the relay ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Nothing is left unknown, and the lease was given back if the database could be reached.
    Drained,
    /// So many rows were published and not settled, or may have been: they may be repeated.
    Unfinished { unknown: usize },
}

/// Why ready rows are not being published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The in-flight window is full.
    Window,
    /// The broker's gate is not open.
    Broker,
    /// Marks vanish, so publishing would only make repeats.
    Marks,
    /// The lease may have run out.
    Lease,
}

impl Cause {
    pub const ALL: [Self; 4] = [Self::Window, Self::Broker, Self::Marks, Self::Lease];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Window => "window",
            Self::Broker => "broker",
            Self::Marks => "marks",
            Self::Lease => "lease",
        }
    }
}

/// The relay's state, for metrics and the status page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    pub epoch: Option<Epoch>,
    pub trusted: bool,
    pub draining: bool,
    pub gate: GateState,
    pub ready: Load,
    pub in_flight: Load,
    /// Lanes closed and rows held after a failure.
    pub held: usize,
    /// Rows the database would not mark.
    pub refused: usize,
    /// Why ready rows wait, if they do.
    pub held_back: Option<Cause>,
}

/// What becomes due: a closed lane, or a held row without a lane.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Lane(u32),
    Row(RowId),
}

/// A failed row without a lane.
#[derive(Debug)]
struct HeldRow {
    position: Position,
    scope: Option<Destination>,
    tries: u32,
    /// `None` once it is due and may be read again.
    until: Option<Duration>,
    /// The latest read that had started when it became due.
    noted: u64,
}

/// The decisions of one pipeline.
#[derive(Debug)]
pub struct Relay {
    limits: Limits,
    rules: Rules,
    rng: SmallRng,
    actions: VecDeque<Action>,
    tenure: Tenure,
    /// The epoch the sink was last opened for, once it has answered.
    opened: Option<Epoch>,
    opening: Option<Epoch>,
    /// A broken sink is opened again no earlier.
    open_after: Duration,
    purged: bool,
    /// Grows whenever the lease is taken: what was read in an earlier term is not published.
    term: u64,
    reading: Reading,
    fetch_next: Duration,
    fetch_pause: Duration,
    fetch_failures: u32,
    listening: Listening,
    /// The next read starts at the beginning once this has come.
    sweep_next: Duration,
    /// A read waits until then for a crowded outlet to clear.
    crowded_until: Option<Duration>,
    hand: Hand,
    lanes: Register<LaneKey, Lane>,
    gapped_lanes: BTreeSet<u32>,
    closed_lanes: BTreeSet<u32>,
    full_lanes: BTreeSet<u32>,
    outlets: Register<Option<Destination>, Outlet>,
    gapped_outlets: BTreeSet<u32>,
    held_rows: BTreeMap<RowId, HeldRow>,
    /// One entry for each closed lane and each row held until then.
    due: BinaryHeap<std::cmp::Reverse<(Duration, Due)>>,
    next: VecDeque<Next>,
    gate: Gate,
    settling: Settling,
    drain_until: Option<Duration>,
    releasing: bool,
    /// Rows that were in doubt when the lease was given back.
    handed_over: usize,
    /// Rows that were sent and not confirmed, and which the broker may hold all the same.
    doubted: BTreeSet<RowId>,
    stopped: bool,
    measuring: bool,
    measure_next: Duration,
}

/// The shortest pause between two reads that found nothing; the pause doubles from here.
const POLL_MIN: Duration = Duration::from_millis(2);

/// How often a read starts at the beginning although nothing asks for it. Rows can become pending below
/// the cursor where positions go back: a table that was truncated or restored, a sequence that was
/// set, a mark that somebody took away.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// Between tries to reach the database.
const DATABASE_BACKOFF: Backoff = Backoff { min: Duration::from_millis(100), max: Duration::from_secs(5) };

impl Relay {
    /// A relay that holds nothing yet. `seed` spreads its pauses.
    #[must_use]
    pub fn new(limits: Limits, rules: Rules, seed: u64) -> Self {
        Self {
            limits,
            rules,
            rng: SmallRng::seed_from_u64(seed),
            actions: VecDeque::new(),
            tenure: Tenure::new(limits.lease),
            opened: None,
            opening: None,
            open_after: Duration::ZERO,
            purged: false,
            term: 0,
            reading: Reading::new(rules),
            fetch_next: Duration::ZERO,
            fetch_pause: POLL_MIN,
            fetch_failures: 0,
            listening: Listening::default(),
            sweep_next: SWEEP_EVERY,
            crowded_until: None,
            hand: Hand::default(),
            lanes: Register::default(),
            gapped_lanes: BTreeSet::new(),
            closed_lanes: BTreeSet::new(),
            full_lanes: BTreeSet::new(),
            outlets: Register::default(),
            gapped_outlets: BTreeSet::new(),
            held_rows: BTreeMap::new(),
            due: BinaryHeap::new(),
            next: VecDeque::new(),
            gate: Gate::new(limits.backoff),
            settling: Settling::default(),
            drain_until: None,
            releasing: false,
            handed_over: 0,
            doubted: BTreeSet::new(),
            stopped: false,
            measuring: false,
            measure_next: Duration::ZERO,
        }
    }

    /// Takes in what happened at `now` (a monotonic time since any fixed start).
    pub fn handle(&mut self, now: Duration, input: Input) {
        match input {
            Input::Lease(answer) => self.lease_answered(now, answer),
            Input::Released(_) => self.stop(self.exit_now()),
            Input::Opened(answer) => self.sink_opened(now, answer),
            Input::Fetched { number, result } => self.fetched(now, number, result),
            Input::Sink(events) => self.sink_reported(now, events),
            Input::Settled(result) => self.settled(now, result),
            Input::Measured(answer) => self.measured(now, answer.as_ref().ok()),
            Input::Hinted(answer) => self.hinted(now, &answer),
            Input::Tick => {}
            Input::Drain => self.drain(now),
            Input::Abort => self.stop(self.exit_now()),
        }
        self.plan(now);
    }

    /// What to do next; `None` until something else happens or [`wake_at`](Self::wake_at) has come.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Input::Tick`] is due if nothing else happens.
    #[must_use]
    pub fn wake_at(&self, now: Duration) -> Duration {
        let mut at = self.tenure.trust_ends_at(now).unwrap_or(Duration::MAX);
        let mut earlier = |time: Duration| at = at.min(time);
        if self.wants_lease()
            && let Some(time) = self.tenure.asks_at()
        {
            earlier(time);
        }
        if self.may_fetch() {
            earlier(self.crowded_until.unwrap_or(self.fetch_next));
        }
        if !self.measuring && self.tenure.epoch().is_some() {
            earlier(self.measure_next);
        }
        if let Some(time) = self.listens_at() {
            earlier(time);
        }
        if let Some(time) = self.stops_at(now) {
            earlier(time);
        }
        if self.opened.is_none() && self.opening.is_none() && self.tenure.epoch().is_some() {
            earlier(self.open_after);
        }
        if let Some(time) = self.gate.wake_at() {
            earlier(time);
        }
        if let Some(std::cmp::Reverse((time, _))) = self.due.peek() {
            earlier(*time);
        }
        if let Some(time) = self.settling.wake_at() {
            earlier(time);
        }
        at.max(now)
    }

    /// The state, for those who show it.
    #[must_use]
    pub fn view(&self, now: Duration) -> View {
        View {
            epoch: self.tenure.epoch(),
            trusted: self.tenure.trusted(now),
            draining: self.drain_until.is_some(),
            gate: self.gate.state(),
            ready: self.hand.ready,
            in_flight: self.hand.in_flight,
            held: self.due.len(),
            refused: self.settling.refused(),
            held_back: self.held_back(now),
        }
    }

    fn held_back(&self, now: Duration) -> Option<Cause> {
        if self.next.is_empty() || self.drain_until.is_some() || self.tenure.epoch().is_none() {
            None
        } else if !self.tenure.trusted(now) {
            Some(Cause::Lease)
        } else if self.settling.marks_vanish() {
            Some(Cause::Marks)
        } else if !self.window_open() {
            Some(Cause::Window)
        } else if self.gate.state() != GateState::Open {
            Some(Cause::Broker)
        } else {
            None
        }
    }

    /// Does whatever `now` allows, in the order in which one thing makes room for the next.
    fn plan(&mut self, now: Duration) {
        if self.stopped {
            return;
        }
        self.gate.tick(now);
        self.reopen_due(now);
        self.plan_lease(now);
        self.plan_sink(now);
        self.plan_settle(now);
        self.plan_publish(now);
        self.plan_fetch(now);
        self.plan_measure(now);
        self.plan_listen(now);
        self.plan_stop(now);
    }

    /// The lease is worth a question: not any more to a relay that gives it back, or drains without it.
    fn wants_lease(&self) -> bool {
        !self.releasing && (self.drain_until.is_none() || self.tenure.epoch().is_some())
    }

    fn plan_lease(&mut self, now: Duration) {
        if self.wants_lease() && self.tenure.ask(now) {
            self.actions.push_back(Action::Lease);
        }
        if self.tenure.epoch().is_some() && !self.tenure.trusted(now) && !self.purged {
            self.tell(News::TrustEnded);
            self.purge();
        }
    }

    fn plan_sink(&mut self, now: Duration) {
        if let Some(epoch) = self.tenure.epoch()
            && self.opened.is_none()
            && self.opening.is_none()
            && now >= self.open_after
        {
            self.opening = Some(epoch);
            self.actions.push_back(Action::Open(epoch));
        }
    }

    fn plan_measure(&mut self, now: Duration) {
        if self.tenure.epoch().is_some() && !self.measuring && now >= self.measure_next {
            self.measuring = true;
            self.actions.push_back(Action::Measure);
        }
    }

    fn measured(&mut self, now: Duration, backlog: Option<&Backlog>) {
        self.measuring = false;
        // Rows are pending and none is in sight: they are where no read looks.
        let in_sight = self.hand.ready.rows + self.hand.in_flight.rows + self.due.len() > 0;
        if backlog.is_some_and(|backlog| backlog.pending_rows > 0) && !in_sight {
            self.sweep_next = now;
        }
        self.measure_next = now + self.limits.backlog_interval;
    }

    fn lease_answered(&mut self, now: Duration, answer: Result<Holder, SourceError>) {
        let Ok(holder) = answer else {
            let pause = DATABASE_BACKOFF.pause(2, self.draw());
            return self.tenure.failed(now, pause);
        };
        match self.tenure.answered(now, holder) {
            Change::None => {
                if self.tenure.trusted(now) {
                    self.purged = false;
                }
            }
            Change::Taken(epoch) => {
                self.start_afresh();
                self.tell(News::LeaseTaken(epoch));
            }
            Change::Lost => self.lose_lease(),
        }
    }

    /// A new epoch: nothing read in an earlier one may be published.
    fn start_afresh(&mut self) {
        self.end_term();
        self.opened = None;
        self.purged = false;
        self.fetch_next = Duration::ZERO;
        self.measure_next = Duration::ZERO;
        self.open_after = Duration::ZERO;
    }

    fn lose_lease(&mut self) {
        self.end_term();
        self.opened = None;
        self.purge();
        self.tell(News::LeaseLost);
    }

    fn purge(&mut self) {
        if self.rules.keep(Rule::PurgeQueue) && !self.purged {
            self.actions.push_back(Action::Purge);
        }
        self.purged = true;
    }

    fn sink_opened(&mut self, now: Duration, answer: Result<Vec<RowRef>, Failure>) {
        let epoch = self.opening.take();
        match answer {
            // What an earlier opening left unanswered will never be answered.
            Ok(_) => {
                self.opened = epoch.filter(|_| epoch == self.tenure.epoch());
                self.give_up_unanswered();
            }
            Err(failure) => {
                let pause = DATABASE_BACKOFF.pause(3, self.draw());
                self.open_after = now + pause;
                self.tell(News::SinkFailed(failure));
            }
        }
    }

    fn tell(&mut self, news: News) {
        self.actions.push_back(Action::Tell(news));
    }

    fn draw(&mut self) -> f64 {
        self.rng.random()
    }
}

//! The relay's state as one page for people: what it does now, and what last went wrong.
//!
//! [`Reporter`] listens at the pump and writes on the [`Board`]; whoever serves HTTP reads it. Nothing
//! on it is a key, a payload or a secret.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;

use crate::clock::Clock;
use crate::health::{Health, advice, blames_broker, database_answer};
use crate::log::clean;
use crate::metrics::{Page, REVISION, VERSION};
use crate::pump::Observer;
use crate::relay::{Action, GateState, Input, Load, News, View};
use crate::sink::Failure;
use crate::source::{Epoch, Refusal, SourceError};

/// The pump turns every few seconds even when nothing happens and nothing answers. One that was silent
/// for so long is stuck, and only a restart helps.
pub const LOOP_SILENCE_MAX: Duration = Duration::from_secs(60);

/// What is known of the relay now. Written by the pump, read by anyone.
#[derive(Debug)]
pub struct Board {
    pipeline: String,
    clock: Clock,
    page: Arc<Page>,
    notes: Mutex<Notes>,
}

#[derive(Debug, Default)]
struct Notes {
    view: Option<View>,
    turned_at: Option<Duration>,
    lease_answered: bool,
    stopped: bool,
    database_up: Option<bool>,
    broker_up: Option<bool>,
    errors: Errors<Noted>,
}

/// The last thing that went wrong, by where.
#[derive(Debug, Serialize)]
struct Errors<T> {
    database: Option<T>,
    broker: Option<T>,
    message: Option<T>,
    mark: Option<T>,
}

#[derive(Debug, Clone)]
struct Noted {
    at: Duration,
    text: String,
    hint: Option<String>,
    row: Option<String>,
}

/// How far the relay has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The database has not yet said who holds the lease.
    Starting,
    Standby,
    Leader,
    Draining,
    Stopped,
}

#[derive(Debug, Serialize)]
struct Amount {
    rows: usize,
    bytes: usize,
}

/// An error on the page.
#[derive(Debug, Clone, Serialize)]
struct Shown {
    seconds_ago: u64,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    /// The id of the row it was about.
    #[serde(skip_serializing_if = "Option::is_none")]
    row: Option<String>,
}

/// The page. What is unknown is null.
#[derive(Debug, Serialize)]
pub struct Status {
    pipeline: String,
    version: &'static str,
    revision: &'static str,
    uptime_seconds: u64,
    role: Role,
    epoch: Option<Epoch>,
    /// The lease may be relied on now.
    trusted: bool,
    draining: bool,
    database_up: Option<bool>,
    broker_up: Option<bool>,
    gate: Option<&'static str>,
    ready: Amount,
    in_flight: Amount,
    held_messages: usize,
    refused_marks: usize,
    /// Why rows in hand are not published, if they are not.
    held_back: Option<&'static str>,
    lag_seconds: Option<f64>,
    pending_rows: Option<f64>,
    loop_turned_seconds_ago: Option<f64>,
    last_errors: Errors<Shown>,
}

impl Board {
    /// A board on which nothing has been written. `page` knows the lag.
    #[must_use]
    pub fn new(pipeline: &str, page: Arc<Page>, clock: Clock) -> Arc<Self> {
        Arc::new(Self { pipeline: pipeline.to_owned(), clock, page, notes: Mutex::default() })
    }

    /// The pump has turned at least once.
    #[must_use]
    pub fn started(&self) -> bool {
        self.notes().turned_at.is_some()
    }

    /// How long the pump has been silent, if that is too long.
    #[must_use]
    pub fn stalled(&self) -> Option<Duration> {
        let now = self.clock.monotonic();
        let notes = self.notes();
        let silence = now.saturating_sub(notes.turned_at.filter(|_| !notes.stopped)?);
        (silence > LOOP_SILENCE_MAX).then_some(silence)
    }

    #[must_use]
    pub fn status(&self) -> Status {
        let now = self.clock.monotonic();
        let (lag_seconds, pending_rows) = (self.page.lag_seconds(), self.page.pending_rows());
        let notes = self.notes();
        let view = notes.view.as_ref();
        Status {
            pipeline: self.pipeline.clone(),
            version: VERSION,
            revision: REVISION,
            uptime_seconds: now.as_secs(),
            role: notes.role(),
            epoch: view.and_then(|view| view.epoch),
            trusted: view.is_some_and(|view| view.trusted),
            draining: view.is_some_and(|view| view.draining),
            database_up: notes.database_up,
            broker_up: notes.broker_up,
            gate: view.map(|view| gate(view.gate)),
            ready: amount(view.map(|view| view.ready)),
            in_flight: amount(view.map(|view| view.in_flight)),
            held_messages: view.map_or(0, |view| view.held),
            refused_marks: view.map_or(0, |view| view.refused),
            held_back: view.and_then(|view| view.held_back).map(|cause| cause.as_str()),
            lag_seconds,
            pending_rows,
            loop_turned_seconds_ago: notes.turned_at.map(|at| now.saturating_sub(at).as_secs_f64()),
            last_errors: notes.errors.shown(now),
        }
    }

    /// A panic while it was held leaves notes that are old, not broken.
    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Status {
    #[must_use]
    pub const fn role(&self) -> Role {
        self.role
    }

    /// The page in a line, for displays that have no more room.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut line = self.role.phrase().to_owned();
        let mut add = |part: &str| line.extend([", ", part]);
        if self.database_up == Some(false) {
            add("database out");
        }
        if self.broker_up == Some(false) {
            add("broker out");
        }
        if self.role == Role::Leader {
            add(&self.lag_seconds.map_or("lag unknown".into(), |lag| format!("lag {lag:.1} s")));
        }
        if self.held_messages > 0 {
            add(&format!("{} messages held", self.held_messages));
        }
        line
    }
}

impl Role {
    const fn phrase(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Standby => "standing by",
            Self::Leader => "relaying",
            Self::Draining => "draining",
            Self::Stopped => "stopped",
        }
    }
}

impl Notes {
    fn role(&self) -> Role {
        match self.view {
            _ if self.stopped => Role::Stopped,
            Some(view) if view.draining => Role::Draining,
            Some(view) if view.epoch.is_some() => Role::Leader,
            _ if self.lease_answered => Role::Standby,
            _ => Role::Starting,
        }
    }

    fn told(&mut self, at: Duration, news: &News) {
        let errors = &mut self.errors;
        match news {
            News::GateShut(failure) if !blames_broker(failure) => {}
            News::GateShut(failure) | News::SinkFailed(failure) => {
                errors.broker = Some(Noted::failure(at, failure, None));
            }
            News::Held { row, failure, .. } => {
                errors.message = Some(Noted::failure(at, failure, Some(row.id.to_string())));
            }
            News::MarkRefused { row, refusal } => {
                errors.mark = Some(Noted::refusal(at, refusal, row.id.to_string()));
            }
            News::LeaseTaken(_)
            | News::LeaseLost
            | News::TrustEnded
            | News::GateOpened
            | News::MarksAccepted
            | News::Draining => {}
        }
    }
}

impl Noted {
    fn failure(at: Duration, failure: &Failure, row: Option<String>) -> Self {
        let hint = advice(failure.error_type).map(str::to_owned);
        Self { at, text: clean(&failure.reason), hint, row: row.as_deref().map(clean) }
    }

    fn refusal(at: Duration, refusal: &Refusal, row: String) -> Self {
        Self { at, text: clean(&refusal.to_string()), hint: None, row: Some(clean(&row)) }
    }

    fn database(at: Duration, error: &SourceError) -> Self {
        Self { at, text: clean(&error.message), hint: error.hint.as_deref().map(clean), row: None }
    }

    fn shown(&self, now: Duration) -> Shown {
        let seconds_ago = now.saturating_sub(self.at).as_secs();
        Shown { seconds_ago, message: self.text.clone(), hint: self.hint.clone(), row: self.row.clone() }
    }
}

impl<T> Default for Errors<T> {
    fn default() -> Self {
        Self { database: None, broker: None, message: None, mark: None }
    }
}

impl Errors<Noted> {
    fn shown(&self, now: Duration) -> Errors<Shown> {
        let show = |noted: &Option<Noted>| noted.as_ref().map(|noted| noted.shown(now));
        Errors {
            database: show(&self.database),
            broker: show(&self.broker),
            message: show(&self.message),
            mark: show(&self.mark),
        }
    }
}

/// Writes on the board what passes the pump.
#[derive(Debug)]
pub struct Reporter {
    board: Arc<Board>,
    health: Health,
}

impl Reporter {
    #[must_use]
    pub fn new(board: Arc<Board>) -> Self {
        Self { board, health: Health::default() }
    }
}

impl Observer for Reporter {
    fn action(&mut self, _: Duration, action: &Action) {
        let now = self.board.clock.monotonic();
        match action {
            Action::Tell(news) => self.board.notes().told(now, news),
            Action::Stop(_) => self.board.notes().stopped = true,
            Action::Lease
            | Action::Release
            | Action::Open(_)
            | Action::Fetch(_)
            | Action::Publish(_)
            | Action::Purge
            | Action::Settle(_)
            | Action::Measure
            | Action::Listen => {}
        }
    }

    fn input(&mut self, _: Duration, input: &Input) {
        self.health.hear(input);
        let Some((_, answer)) = database_answer(input) else { return };
        let mut notes = self.board.notes();
        notes.lease_answered |= matches!(input, Input::Lease(Ok(_)));
        if let Err(error) = answer {
            notes.errors.database = Some(Noted::database(self.board.clock.monotonic(), error));
        }
    }

    fn view(&mut self, _: Duration, view: &View) {
        if view.epoch.is_none() {
            self.health.stand_by();
        }
        let mut notes = self.board.notes();
        notes.turned_at = Some(self.board.clock.monotonic());
        notes.view = Some(*view);
        notes.database_up = self.health.database();
        notes.broker_up = self.health.broker();
    }
}

const fn gate(state: GateState) -> &'static str {
    match state {
        GateState::Probing => "probing",
        GateState::Open => "open",
        GateState::Shut => "shut",
    }
}

fn amount(load: Option<Load>) -> Amount {
    let load = load.unwrap_or_default();
    Amount { rows: load.rows, bytes: load.bytes }
}

//! How old the oldest undelivered row is, told at any moment from what was last measured. Pure.
//!
//! The database is asked for its backlog every few seconds, the page is read at any time, and a number
//! that stands still while the measuring has stopped would be a lie. So the age runs on between two
//! measurements, and is unknown (NaN) once the last one failed or is too old.
//!
//! Running on, it would reach a whole interval while rows come and go within milliseconds. What bounds
//! it then is the **clear read**: one that started with nothing in hand, asked for everything, and found
//! nothing. A row that is pending now became visible after it.

use std::time::Duration;

use crate::message::Timestamp;
use crate::relay::View;
use crate::source::{Backlog, Fetch};

/// A measurement older than this many intervals says nothing about now.
const INTERVALS_MAX: u32 = 3;

/// The least age of a row that is pending, in seconds: 0 means that there is none.
const AGE_MIN: f64 = 0.001;

/// What is known of the backlog.
#[derive(Debug)]
pub(super) struct Ledger {
    interval: Duration,
    leading: bool,
    hand_empty: bool,
    /// When the measurement that is under way was asked for.
    asked_at: Duration,
    /// Gone once a later one failed.
    measured: Option<Measured>,
    last_measured: Option<Timestamp>,
    read: Option<Read>,
    /// When the latest clear read started.
    clear_at: Option<Duration>,
}

#[derive(Debug)]
struct Measured {
    backlog: Backlog,
    /// When it was asked for. The database looked later, so an age that runs from here may be too
    /// high by the time the call took, and is never too low.
    at: Duration,
}

/// A read that is under way.
#[derive(Debug)]
struct Read {
    number: u64,
    started: Duration,
    clear: bool,
}

/// What the page shows of the backlog; NaN is unknown.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shown {
    pub(super) lag: f64,
    /// Unix time in seconds by the database's clock.
    pub(super) oldest: f64,
    pub(super) pending_rows: f64,
    pub(super) limited: f64,
    pub(super) last_measured: f64,
}

impl Ledger {
    pub(super) const fn new(interval: Duration) -> Self {
        Self {
            interval,
            leading: false,
            hand_empty: true,
            asked_at: Duration::ZERO,
            measured: None,
            last_measured: None,
            read: None,
            clear_at: None,
        }
    }

    pub(super) fn measure_asked(&mut self, now: Duration) {
        self.asked_at = now;
    }

    pub(super) fn measured(&mut self, backlog: Option<&Backlog>) {
        self.measured = backlog.map(|backlog| Measured { backlog: backlog.clone(), at: self.asked_at });
        self.last_measured = backlog.map_or(self.last_measured, |backlog| Some(backlog.measured_at));
    }

    pub(super) fn read_started(&mut self, now: Duration, fetch: &Fetch) {
        let clear = fetch.exclude.is_empty() && fetch.skip.is_empty();
        self.read = Some(Read { number: fetch.number, started: now, clear });
    }

    pub(super) fn read_answered(&mut self, number: u64, found_nothing: bool) {
        if let Some(read) = self.read.take_if(|read| read.number == number)
            && read.clear
            && found_nothing
        {
            self.clear_at = Some(read.started);
        }
    }

    /// Takes in the relay's state after its decisions. A read cannot be clear if anything was in hand
    /// while it was under way: rows below its start are not in `exclude`.
    pub(super) fn view(&mut self, view: &View) {
        let leading = view.epoch.is_some();
        if !leading && self.leading {
            *self = Self::new(self.interval);
        }
        self.leading = leading;
        self.hand_empty = view.ready.rows + view.in_flight.rows + view.held == 0;
        if let Some(read) = &mut self.read {
            read.clear &= self.hand_empty;
        }
    }

    pub(super) fn shown(&self, now: Duration) -> Shown {
        let last_measured = self.last_measured.map_or(f64::NAN, Timestamp::as_seconds);
        let Some(Measured { backlog, at }) = self.known(now) else {
            let nan = f64::NAN;
            return Shown { lag: nan, oldest: nan, pending_rows: nan, limited: nan, last_measured };
        };
        let lag = self.lag(now, backlog, *at);
        let database_now = backlog.measured_at.as_seconds() + now.saturating_sub(*at).as_secs_f64();
        #[allow(clippy::cast_precision_loss, reason = "at most 10,000")]
        let pending_rows = backlog.pending_rows.min(Backlog::COUNT_MAX) as f64;
        let limited = f64::from(u8::from(backlog.limited()));
        Shown { lag, oldest: database_now - lag, pending_rows, limited, last_measured }
    }

    fn known(&self, now: Duration) -> Option<&Measured> {
        let age_max = self.interval * INTERVALS_MAX;
        self.measured.as_ref().filter(|measured| self.leading && now.saturating_sub(measured.at) <= age_max)
    }

    /// In seconds; NaN where rows are pending and the table does not say when they were created.
    fn lag(&self, now: Duration, backlog: &Backlog, at: Duration) -> f64 {
        let since = |time: Duration| now.saturating_sub(time).as_secs_f64();
        if backlog.pending_rows == 0 {
            let bound = since(self.clear_at.map_or(at, |clear_at| clear_at.max(at)));
            return if self.hand_empty { 0.0 } else { bound.max(AGE_MIN) };
        }
        let Some(oldest) = backlog.oldest else { return f64::NAN };
        // Writers may have clocks of their own, ahead of the database's.
        let age = (backlog.measured_at.as_seconds() - oldest.as_seconds()).max(0.0) + since(at);
        let bound = self.clear_at.filter(|&clear_at| clear_at > at).map_or(age, since);
        age.min(bound).max(AGE_MIN)
    }
}

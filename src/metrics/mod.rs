//! What can be counted of a running relay, and the page that shows it.
//!
//! [`Meter`] listens at the pump; nothing in the relay, the source or the sink knows that it is there.
//! [`Page`] is the other end, read whenever somebody scrapes: what depends on the time of the scrape is
//! computed then. The metrics themselves are one table, in [`table`].

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::local::LocalHistogram;
use prometheus::{Registry, TextEncoder};

mod backlog;
mod flight;
mod instruments;
pub mod table;

pub use instruments::{DESTINATIONS_MAX, REVISION, VERSION};

use crate::clock::Clock;
use crate::health::Health;
use crate::pump::Observer;
use crate::relay::{Action, Cause, Input, View};
use crate::route::Routed;
use crate::sink::{Destination, Outcome, Shipment, SinkEvent};
use crate::source::{Backlog, Batch, Settled, SourceError};
use backlog::{Ledger, Shown};
use flight::{Born, Flights};
use instruments::{BacklogGauges, Instruments};

/// The metrics as they stand, to be read at any time.
pub struct Page {
    clock: Clock,
    relay: Registry,
    process: Registry,
    backlog: BacklogGauges,
    ledger: Mutex<Ledger>,
}

impl Page {
    /// The page in the text format of Prometheus, version 0.0.4.
    ///
    /// # Errors
    ///
    /// If the encoder refuses what was gathered, which would be a bug.
    pub fn text(&self) -> Result<String, prometheus::Error> {
        self.backlog.show(self.shown());
        let mut families = self.relay.gather();
        families.extend(self.process.gather());
        TextEncoder::new().encode_to_string(&families)
    }

    /// Age in seconds of the oldest undelivered row; `None` if unknown.
    #[must_use]
    pub fn lag_seconds(&self) -> Option<f64> {
        Some(self.shown().lag).filter(|lag| !lag.is_nan())
    }

    /// Undelivered rows at the last measurement; `None` if unknown.
    #[must_use]
    pub fn pending_rows(&self) -> Option<f64> {
        Some(self.shown().pending_rows).filter(|rows| !rows.is_nan())
    }

    fn shown(&self) -> Shown {
        let now = self.clock.monotonic();
        self.ledger().shown(now)
    }

    /// A panic while it was held leaves numbers that are old, not broken.
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Page")
    }
}

/// Turns what passes the pump into metrics.
///
/// A message costs it one look-up in a slab, three counters and two histograms that are private until
/// the batch is through. Everything else is done once a batch.
#[derive(Debug)]
pub struct Meter {
    page: Arc<Page>,
    clock: Clock,
    instruments: Instruments,
    publish_duration: LocalHistogram,
    delivery_latency: LocalHistogram,
    health: Health,
    flights: Flights,
    /// Rows of the settlement that is under way.
    settling: u64,
    viewed_at: Duration,
    held_back: Option<Cause>,
    /// This machine's wall clock when the measurement under way was asked for.
    asked_at_micros: i64,
    skew_micros: i64,
}

impl Meter {
    /// A meter of `pipeline`, whose backlog is measured every `backlog_interval`. The series of
    /// `destinations`, as far as they are known beforehand, are there from the start.
    #[must_use]
    pub fn new(
        pipeline: &str,
        backlog_interval: Duration,
        destinations: &[Destination],
        clock: Clock,
    ) -> Self {
        let relay = relay_registry(pipeline);
        let mut instruments = Instruments::register(&relay);
        for destination in destinations {
            instruments.destinations.number(destination.name());
        }
        let page = Page {
            clock: clock.clone(),
            relay,
            process: process_registry(),
            backlog: instruments.backlog.clone(),
            ledger: Mutex::new(Ledger::new(backlog_interval)),
        };
        let mut meter = Self {
            page: Arc::new(page),
            clock,
            publish_duration: instruments.publish_duration.local(),
            delivery_latency: instruments.delivery_latency.local(),
            instruments,
            health: Health::default(),
            flights: Flights::default(),
            settling: 0,
            viewed_at: Duration::ZERO,
            held_back: None,
            asked_at_micros: 0,
            skew_micros: 0,
        };
        meter.show_health();
        meter
    }

    /// What it shows, for whoever is asked for it.
    #[must_use]
    pub fn page(&self) -> Arc<Page> {
        Arc::clone(&self.page)
    }

    fn fetched(&mut self, now: Duration, number: u64, result: &Result<Batch<Routed>, SourceError>) {
        let found_nothing = result.as_ref().is_ok_and(|batch| batch.messages.is_empty() && !batch.cut);
        self.page.ledger().read_answered(number, found_nothing);
        let Ok(batch) = result else { return };
        if !batch.messages.is_empty() {
            self.flights.saw(now, &batch.messages);
            self.instruments.count_rows(batch.messages.len());
        }
    }

    fn published(&mut self, now: Duration, shipments: &[Shipment]) {
        for shipment in shipments {
            let destination = self.instruments.destinations.number(shipment.record.destination.name());
            self.instruments.destinations.series(destination).attempts.inc();
            self.flights.start(now, shipment, destination);
        }
    }

    fn sink_reported(&mut self, now: Duration, events: &[SinkEvent]) {
        let database_millis = (self.clock.wall_micros() + self.skew_micros).div_euclid(1_000);
        for event in events {
            match event {
                SinkEvent::Outcomes(outcomes) => {
                    outcomes.iter().for_each(|outcome| self.landed(now, database_millis, outcome));
                }
                SinkEvent::Down(_) | SinkEvent::Up => {}
            }
        }
        self.publish_duration.flush();
        self.delivery_latency.flush();
    }

    fn landed(&mut self, now: Duration, database_millis: i64, outcome: &Outcome) {
        // A late or doubled outcome finds nothing, as in the relay.
        let Some(flight) = self.flights.land(outcome.token) else { return };
        let series = self.instruments.destinations.series(flight.destination);
        match &outcome.result {
            Ok(()) => {
                series.published.inc();
                series.bytes.inc_by(flight.bytes);
                self.publish_duration.observe(now.saturating_sub(flight.sent_at).as_secs_f64());
                self.delivery_latency.observe(match flight.born {
                    Born::Created(millis) => seconds(database_millis - millis),
                    Born::Seen(at) => now.saturating_sub(at).as_secs_f64(),
                });
            }
            Err(failure) => series.failure(failure.error_type).inc(),
        }
    }

    fn settled(&mut self, result: &Result<Settled, SourceError>) {
        let asked = std::mem::take(&mut self.settling);
        match result {
            Ok(settled) => {
                self.instruments.marked.inc_by(settled.done.len() as u64);
                self.instruments.mark_failures.inc_by(settled.refused.len() as u64);
            }
            Err(_) => self.instruments.mark_failures.inc_by(asked),
        }
    }

    fn measured(&mut self, result: &Result<Backlog, SourceError>) {
        if let Ok(backlog) = result {
            let asked = self.asked_at_micros;
            self.skew_micros = skew(backlog.measured_at.0, asked, self.clock.wall_micros());
        }
        self.page.ledger().measured(result.as_ref().ok());
    }

    fn show_health(&mut self) {
        self.instruments.database_up.set(known(self.health.database()));
        self.instruments.broker_up.set(known(self.health.broker()));
    }
}

impl Observer for Meter {
    fn action(&mut self, now: Duration, action: &Action) {
        match action {
            Action::Publish(shipments) => self.published(now, shipments),
            Action::Settle(batch) => self.settling = batch.len() as u64,
            Action::Fetch(fetch) => self.page.ledger().read_started(self.clock.monotonic(), fetch),
            Action::Measure => {
                self.asked_at_micros = self.clock.wall_micros();
                self.page.ledger().measure_asked(self.clock.monotonic());
            }
            Action::Lease
            | Action::Release
            | Action::Open(_)
            | Action::Purge
            | Action::Listen
            | Action::Tell(_)
            | Action::Stop(_) => {}
        }
    }

    fn input(&mut self, now: Duration, input: &Input) {
        self.health.hear(input);
        match input {
            Input::Sink(events) => self.sink_reported(now, events),
            Input::Settled(result) => self.settled(result),
            Input::Measured(result) => self.measured(result),
            Input::Fetched { number, result } => self.fetched(now, *number, result),
            Input::Lease(_)
            | Input::Released(_)
            | Input::Opened(_)
            | Input::Hinted(_)
            | Input::Tick
            | Input::Drain
            | Input::Abort => {}
        }
    }

    fn view(&mut self, now: Duration, view: &View) {
        if let Some(cause) = self.held_back {
            let waited = now.saturating_sub(self.viewed_at).as_secs_f64();
            self.instruments.backpressure[cause as usize].inc_by(waited);
        }
        self.viewed_at = now;
        self.held_back = view.held_back;
        if view.epoch.is_none() {
            self.health.stand_by();
        }
        self.show_health();
        self.instruments.show(view);
        self.page.ledger().view(view);
    }
}

/// How far the database's clock is ahead of ours: as little as what was seen allows. It read its clock
/// between our asking and its answer, so that nothing is corrected where the two may agree.
const fn skew(measured: i64, asked: i64, answered: i64) -> i64 {
    if measured < asked {
        measured - asked
    } else if measured > answered {
        measured - answered
    } else {
        0
    }
}

/// 1 or 0, and NaN for what is unknown.
fn known(claim: Option<bool>) -> f64 {
    claim.map_or(f64::NAN, |claim| f64::from(u8::from(claim)))
}

/// Never negative: a writer's clock may be ahead.
fn seconds(millis: i64) -> f64 {
    Duration::from_millis(u64::try_from(millis).unwrap_or(0)).as_secs_f64()
}

/// Puts the prefix before every name and the pipeline among every metric's labels.
fn relay_registry(pipeline: &str) -> Registry {
    let labels = HashMap::from([("pipeline".to_owned(), pipeline.to_owned())]);
    Registry::new_custom(Some(table::PREFIX.to_owned()), Some(labels)).expect("the prefix is not empty")
}

/// The metrics of the process, under the names that every program has for them. They are read off /proc,
/// so elsewhere there are none.
fn process_registry() -> Registry {
    let registry = Registry::new();
    #[cfg(target_os = "linux")]
    {
        let collector = prometheus::process_collector::ProcessCollector::for_self();
        registry.register(Box::new(collector)).expect("the registry is empty");
    }
    registry
}

//! The metrics of the table, registered: what the meter turns and the page reads.

use std::collections::{BTreeSet, HashMap};

use prometheus::core::Collector;
use prometheus::{
    Counter, CounterVec, Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, Opts, Registry,
};

use super::backlog::Shown;
use super::table::{Kind, Spec, TABLE};
use crate::relay::{Cause, View};
use crate::sink::ErrorType;

/// The value of the label `destination` once [`DESTINATIONS_MAX`] others are taken.
pub(super) const OTHER: &str = "_other";

/// Destinations with series of their own. Each has sixteen, so that a page stays below 2,000 lines;
/// topics named after customers would otherwise grow it without end.
pub const DESTINATIONS_MAX: usize = 100;

#[derive(Debug)]
pub(super) struct Instruments {
    pub(super) leader: Gauge,
    pub(super) database_up: Gauge,
    pub(super) broker_up: Gauge,
    pub(super) backlog: BacklogGauges,
    pub(super) rows_fetched: IntCounter,
    pub(super) batch_rows: Histogram,
    pub(super) backpressure: [Counter; Cause::ALL.len()],
    pub(super) publish_duration: Histogram,
    pub(super) delivery_latency: Histogram,
    pub(super) inflight_messages: Gauge,
    pub(super) inflight_bytes: Gauge,
    pub(super) held_messages: Gauge,
    pub(super) marked: IntCounter,
    pub(super) mark_failures: IntCounter,
    pub(super) refused_marks: Gauge,
    pub(super) destinations: Destinations,
}

/// What is computed anew for every scrape.
#[derive(Debug, Clone)]
pub(super) struct BacklogGauges {
    lag: Gauge,
    oldest: Gauge,
    pending_rows: Gauge,
    limited: Gauge,
    last_measured: Gauge,
}

impl BacklogGauges {
    pub(super) fn show(&self, shown: Shown) {
        self.lag.set(shown.lag);
        self.oldest.set(shown.oldest);
        self.pending_rows.set(shown.pending_rows);
        self.limited.set(shown.limited);
        self.last_measured.set(shown.last_measured);
    }
}

impl Instruments {
    /// Registers every metric of the table, with each series that is known beforehand.
    pub(super) fn register(registry: &Registry) -> Self {
        let mut desk = Desk { registry, open: TABLE.iter().map(|spec| spec.name).collect() };
        desk.gauges("build_info").with_label_values(&[VERSION, REVISION]).set(1.0);
        let backpressure = desk.counters("backpressure_seconds_total");
        let instruments = Self {
            leader: desk.gauge("leader"),
            database_up: desk.gauge("database_up"),
            broker_up: desk.gauge("broker_up"),
            backlog: BacklogGauges {
                lag: desk.gauge("lag_seconds"),
                oldest: desk.gauge("oldest_pending_timestamp_seconds"),
                pending_rows: desk.gauge("pending_rows"),
                limited: desk.gauge("pending_rows_limited"),
                last_measured: desk.gauge("backlog_last_measured_timestamp_seconds"),
            },
            rows_fetched: desk.counter("rows_fetched_total"),
            batch_rows: desk.histogram("batch_rows"),
            backpressure: Cause::ALL.map(|cause| backpressure.with_label_values(&[cause.as_str()])),
            publish_duration: desk.histogram("publish_duration_seconds"),
            delivery_latency: desk.histogram("delivery_latency_seconds"),
            inflight_messages: desk.gauge("inflight_messages"),
            inflight_bytes: desk.gauge("inflight_bytes"),
            held_messages: desk.gauge("held_messages"),
            marked: desk.counter("marked_total"),
            mark_failures: desk.counter("mark_failures_total"),
            refused_marks: desk.gauge("refused_marks"),
            destinations: Destinations::new(Families {
                attempts: desk.int_counters("publish_attempts_total"),
                published: desk.int_counters("published_total"),
                bytes: desk.int_counters("published_bytes_total"),
                failures: desk.int_counters("publish_failures_total"),
            }),
        };
        assert!(desk.open.is_empty(), "metrics of the table that nothing turns: {:?}", desk.open);
        instruments
    }

    pub(super) fn count_rows(&self, rows: usize) {
        self.rows_fetched.inc_by(rows as u64);
        self.batch_rows.observe(count(rows));
    }

    /// Shows the relay's state.
    pub(super) fn show(&self, view: &View) {
        self.leader.set(count(usize::from(view.epoch.is_some())));
        self.inflight_messages.set(count(view.in_flight.rows));
        self.inflight_bytes.set(count(view.in_flight.bytes));
        self.held_messages.set(count(view.held));
        self.refused_marks.set(count(view.refused));
    }
}

/// The version of this build.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit the binary was built from, where the build says so.
pub const REVISION: &str = match option_env!("OUTBOX_RELAY_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};

/// Hands out the metrics of the table by name, each once.
struct Desk<'a> {
    registry: &'a Registry,
    open: BTreeSet<&'static str>,
}

impl Desk<'_> {
    fn take(&mut self, name: &str) -> &'static Spec {
        assert!(self.open.remove(name), "`{name}` is in the table, and handed out once");
        TABLE.iter().find(|spec| spec.name == name).expect("what is open is in the table")
    }

    fn register<C: Collector + Clone + 'static>(&self, metric: prometheus::Result<C>) -> C {
        let metric = metric.expect("the table holds valid names");
        self.registry.register(Box::new(metric.clone())).expect("the table holds each name once");
        metric
    }

    fn gauge(&mut self, name: &str) -> Gauge {
        let spec = self.take(name);
        self.register(Gauge::with_opts(options(spec)))
    }

    fn gauges(&mut self, name: &str) -> GaugeVec {
        let spec = self.take(name);
        self.register(GaugeVec::new(options(spec), spec.labels))
    }

    fn counter(&mut self, name: &str) -> IntCounter {
        let spec = self.take(name);
        self.register(IntCounter::with_opts(options(spec)))
    }

    fn counters(&mut self, name: &str) -> CounterVec {
        let spec = self.take(name);
        self.register(CounterVec::new(options(spec), spec.labels))
    }

    fn int_counters(&mut self, name: &str) -> IntCounterVec {
        let spec = self.take(name);
        self.register(IntCounterVec::new(options(spec), spec.labels))
    }

    fn histogram(&mut self, name: &str) -> Histogram {
        let spec = self.take(name);
        let Kind::Histogram(bounds) = spec.kind else { panic!("`{name}` is a histogram in the table") };
        let options = HistogramOpts::from(options(spec)).buckets(bounds.to_vec());
        self.register(Histogram::with_opts(options))
    }
}

#[allow(clippy::cast_precision_loss, reason = "windows stay far below 2^52 rows and bytes")]
fn count(number: usize) -> f64 {
    number as f64
}

fn options(spec: &Spec) -> Opts {
    Opts::new(spec.name, spec.help)
}

/// The metrics that have a label `destination`.
#[derive(Debug)]
struct Families {
    attempts: IntCounterVec,
    published: IntCounterVec,
    bytes: IntCounterVec,
    failures: IntCounterVec,
}

/// The series of one destination.
#[derive(Debug)]
pub(super) struct Series {
    pub(super) attempts: IntCounter,
    pub(super) published: IntCounter,
    pub(super) bytes: IntCounter,
    failures: [IntCounter; ErrorType::ALL.len()],
}

impl Series {
    pub(super) fn failure(&self, error_type: ErrorType) -> &IntCounter {
        &self.failures[error_type as usize]
    }
}

/// The destinations seen so far, each with its series. Number 0 is `_other`.
#[derive(Debug)]
pub(super) struct Destinations {
    families: Families,
    series: Vec<Series>,
    numbers: HashMap<String, u32>,
    /// The one looked up last: messages come in runs.
    latest: (String, u32),
}

impl Destinations {
    const OTHER: u32 = 0;

    fn new(families: Families) -> Self {
        let other = families.series(OTHER);
        Self {
            families,
            series: vec![other],
            numbers: HashMap::new(),
            latest: (OTHER.to_owned(), Self::OTHER),
        }
    }

    /// The number of a destination's series, which appear at 0 when it is first seen.
    pub(super) fn number(&mut self, name: &str) -> u32 {
        if self.latest.0 != name {
            let number = self.numbers.get(name).copied().unwrap_or_else(|| self.enter(name));
            self.latest.0.replace_range(.., name);
            self.latest.1 = number;
        }
        self.latest.1
    }

    fn enter(&mut self, name: &str) -> u32 {
        if name == OTHER || self.numbers.len() >= DESTINATIONS_MAX {
            return Self::OTHER;
        }
        self.series.push(self.families.series(name));
        let number = u32::try_from(self.series.len() - 1).expect("a hundred and one fit");
        self.numbers.insert(name.to_owned(), number);
        number
    }

    pub(super) fn series(&self, number: u32) -> &Series {
        &self.series[number as usize]
    }
}

impl Families {
    fn series(&self, name: &str) -> Series {
        Series {
            attempts: self.attempts.with_label_values(&[name]),
            published: self.published.with_label_values(&[name]),
            bytes: self.bytes.with_label_values(&[name]),
            failures: ErrorType::ALL.map(|error| self.failures.with_label_values(&[name, error.as_str()])),
        }
    }
}

//! Every metric there is: name, type, labels and help. The page and its documentation come from here.

use std::fmt::Write;

/// What a metric is, as the page tells Prometheus.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    Counter,
    Gauge,
    /// With the upper bounds of its buckets.
    Histogram(&'static [f64]),
}

impl Kind {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

/// One metric.
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    /// Without the prefix.
    pub name: &'static str,
    pub kind: Kind,
    /// Besides `pipeline`, which all of them have.
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

/// Goes before every name, with an underscore.
pub const PREFIX: &str = "outbox_relay";

/// Upper bounds in seconds of what takes milliseconds while all is well.
const DURATION: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Upper bounds in seconds that still tell an hour's backlog from a day's while it drains.
const LATENCY: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 3600.0, 21600.0,
];

const ROWS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0];

const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Spec {
    Spec { name, kind: Kind::Counter, labels, help }
}

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Spec {
    Spec { name, kind: Kind::Gauge, labels, help }
}

const fn histogram(name: &'static str, bounds: &'static [f64], help: &'static str) -> Spec {
    Spec { name, kind: Kind::Histogram(bounds), labels: &[], help }
}

/// The table itself, in the order a message meets it.
pub const TABLE: &[Spec] = &[
    gauge("build_info", &["version", "revision"], "Build of the running binary; always 1."),
    gauge("leader", &[], "Whether this relay holds the lease of the pipeline."),
    gauge(
        "database_up",
        &[],
        "Whether the last call of every kind on the database succeeded; NaN before the first.",
    ),
    gauge(
        "broker_up",
        &[],
        "Whether the last thing heard of the broker was good; NaN until there is one and without the lease.",
    ),
    gauge(
        "lag_seconds",
        &[],
        "Age of the oldest committed, undelivered row by the clock of the database, computed when scraped; 0 only if there is none, NaN if unknown.",
    ),
    gauge(
        "oldest_pending_timestamp_seconds",
        &[],
        "Unix time at which that row was created; the time of the scrape if there is none, NaN if unknown.",
    ),
    gauge(
        "pending_rows",
        &[],
        "Undelivered rows at the last measurement, counted up to 10,000; NaN if unknown.",
    ),
    gauge(
        "pending_rows_limited",
        &[],
        "Whether the count stopped at its limit, so that there are more rows than it says.",
    ),
    gauge(
        "backlog_last_measured_timestamp_seconds",
        &[],
        "Unix time, by the clock of the database, at which the backlog was last measured.",
    ),
    counter("rows_fetched_total", &[], "Rows read from the outbox."),
    histogram("batch_rows", ROWS, "Rows of a read that found any."),
    counter(
        "backpressure_seconds_total",
        &["cause"],
        "Time during which rows in hand could not be published, by cause.",
    ),
    counter("publish_attempts_total", &["destination"], "Messages handed to the broker client."),
    counter("published_total", &["destination"], "Messages confirmed by the broker."),
    counter(
        "published_bytes_total",
        &["destination"],
        "Bytes of key, headers and payload confirmed by the broker.",
    ),
    counter("publish_failures_total", &["destination", "error_type"], "Attempts that ended in a failure."),
    histogram(
        "publish_duration_seconds",
        DURATION,
        "Time from handing a message to the broker client to its confirmation.",
    ),
    histogram(
        "delivery_latency_seconds",
        LATENCY,
        "Time from the creation of a row to the confirmation of its message.",
    ),
    gauge("inflight_messages", &[], "Messages handed to the broker client and not yet marked delivered."),
    gauge("inflight_bytes", &[], "Bytes of key, headers and payload of the messages in flight."),
    gauge(
        "held_messages",
        &[],
        "Keys, and messages without one, that wait after a failure which was not an outage.",
    ),
    counter("marked_total", &[], "Rows marked delivered, or found to be no longer pending."),
    counter(
        "mark_failures_total",
        &[],
        "Rows whose mark was refused, or whose marking had no known outcome.",
    ),
    gauge("refused_marks", &[], "Delivered rows that the database will not mark."),
];

impl Spec {
    /// The name as it stands on the page.
    #[must_use]
    pub fn full_name(&self) -> String {
        format!("{PREFIX}_{}", self.name)
    }
}

/// The table as Markdown, for docs/metrics.md.
#[must_use]
pub fn markdown() -> String {
    let mut text = String::from("| name | type | labels | meaning |\n|---|---|---|---|\n");
    for spec in TABLE {
        let labels: Vec<String> =
            ["pipeline"].iter().chain(spec.labels).map(|label| format!("`{label}`")).collect();
        let (name, kind, help) = (spec.full_name(), spec.kind.as_str(), spec.help);
        writeln!(text, "| `{name}` | {kind} | {} | {help} |", labels.join(", ")).expect("a string takes all");
    }
    text
}

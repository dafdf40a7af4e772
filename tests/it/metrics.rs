//! The metrics: what they promise to whoever reads the page.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use outbox_relay::metrics::table::{self, Kind, TABLE};
use outbox_relay::metrics::{DESTINATIONS_MAX, Meter};
use outbox_relay::pump::Observer;
use outbox_relay::relay::{Action, Cause, Input, View};
use outbox_relay::sink::{ErrorType, Failure, Fault, Shipment};
use outbox_relay::source::{Backlog, Holder, Refusal, Settled, Settlement};

use crate::heard::{
    Time, broker_out, confirmed, database_out, failed, fetch, fetched, holding, leading, measured, routed,
    row, shipment, standing_by, topic,
};

const INTERVAL: Duration = Duration::from_secs(5);

/// A meter, and the time it lives in.
struct Metered {
    time: Time,
    meter: Meter,
}

impl Metered {
    fn new() -> Self {
        let time = Time::default();
        let meter = Meter::new("orders", INTERVAL, &[topic("known")], time.clock());
        Self { time, meter }
    }

    /// One that holds the lease.
    fn leading() -> Self {
        let mut metered = Self::new();
        metered.view(&leading());
        metered
    }

    fn act(&mut self, action: &Action) {
        self.meter.action(self.time.now(), action);
    }

    fn hear(&mut self, input: &Input) {
        self.meter.input(self.time.now(), input);
    }

    fn view(&mut self, view: &View) {
        self.meter.view(self.time.now(), view);
    }

    fn measure(&mut self, pending_rows: u64, age: Duration) {
        self.act(&Action::Measure);
        self.hear(&measured(&self.time, pending_rows, age));
    }

    fn publish(&mut self, shipments: &[Shipment]) {
        self.act(&Action::Publish(shipments.to_vec()));
    }

    fn text(&self) -> String {
        self.meter.page().text().unwrap()
    }

    /// The value of a series, written as on the page.
    fn value(&self, series: &str) -> f64 {
        let text = self.text();
        let line = text.lines().find(|line| line.starts_with(&format!("{series} ")));
        line.unwrap_or_else(|| panic!("no {series} in\n{text}")).rsplit_once(' ').unwrap().1.parse().unwrap()
    }

    /// The value of a metric that has no labels but the pipeline.
    fn plain(&self, name: &str) -> f64 {
        self.value(&format!("outbox_relay_{name}{{pipeline=\"orders\"}}"))
    }

    fn lag(&self) -> f64 {
        self.plain("lag_seconds")
    }
}

#[track_caller]
fn assert_near(value: f64, expected: f64) {
    assert!((value - expected).abs() < 1e-6, "{value} is not {expected}");
}

#[test]
fn lag_is_nan_before_the_first_measurement() {
    let metered = Metered::leading();
    for gauge in ["lag_seconds", "oldest_pending_timestamp_seconds", "pending_rows", "pending_rows_limited"] {
        assert!(metered.plain(gauge).is_nan(), "{gauge}");
    }
}

#[test]
fn lag_runs_on_between_two_measurements() {
    let mut metered = Metered::leading();
    metered.measure(3, Duration::from_secs(7));
    assert_near(metered.lag(), 7.0);
    let oldest = metered.plain("oldest_pending_timestamp_seconds");
    metered.time.pass(Duration::from_secs(4));
    assert_near(metered.lag(), 11.0);
    assert_near(metered.plain("oldest_pending_timestamp_seconds"), oldest);
    assert_near(metered.plain("pending_rows"), 3.0);
}

#[test]
fn lag_is_never_zero_while_a_row_is_pending() {
    let mut metered = Metered::leading();
    metered.measure(1, Duration::ZERO);
    assert!(metered.lag() > 0.0, "a row that was created just now is pending");

    metered.measure(0, Duration::ZERO);
    assert_near(metered.lag(), 0.0);
    metered.view(&holding(1));
    assert!(metered.lag() > 0.0, "a row that came after the measurement is in hand");
    metered.view(&View { held: 1, ..leading() });
    assert!(metered.lag() > 0.0, "a message is held back");
    metered.view(&leading());
    assert_near(metered.lag(), 0.0);
}

#[test]
fn lag_is_unknown_once_measuring_fails_or_stops() {
    let mut metered = Metered::leading();
    metered.measure(0, Duration::ZERO);
    metered.time.pass(INTERVAL * 3);
    assert_near(metered.lag(), 0.0);
    metered.time.pass(Duration::from_millis(1));
    assert!(metered.lag().is_nan(), "the measurement is too old");

    metered.measure(2, Duration::from_secs(1));
    assert_near(metered.lag(), 1.0);
    let last = metered.plain("backlog_last_measured_timestamp_seconds");
    metered.hear(&Input::Measured(Err(database_out())));
    assert!(metered.lag().is_nan(), "the last measurement failed");
    assert_near(metered.plain("backlog_last_measured_timestamp_seconds"), last);
}

#[test]
fn a_standby_says_nothing_of_the_backlog() {
    let mut metered = Metered::leading();
    metered.measure(5, Duration::from_secs(9));
    metered.view(&standing_by());
    for gauge in ["lag_seconds", "pending_rows", "backlog_last_measured_timestamp_seconds", "broker_up"] {
        assert!(metered.plain(gauge).is_nan(), "{gauge}");
    }
    assert_near(metered.plain("leader"), 0.0);
    metered.view(&leading());
    assert!(metered.lag().is_nan(), "what was measured under the earlier lease says nothing now");
}

#[test]
fn lag_of_rows_without_a_creation_time_is_unknown() {
    let mut metered = Metered::leading();
    metered.act(&Action::Measure);
    let measured_at = metered.time.timestamp();
    metered.hear(&Input::Measured(Ok(Backlog { pending_rows: 4, oldest: None, measured_at })));
    assert!(metered.lag().is_nan());
    assert_near(metered.plain("pending_rows"), 4.0);
}

#[test]
fn a_clear_read_bounds_the_lag() {
    let mut metered = Metered::leading();
    metered.measure(1, Duration::from_millis(2));
    metered.time.pass(Duration::from_secs(4));
    metered.act(&Action::Fetch(fetch(1)));
    metered.view(&leading());
    metered.time.pass(Duration::from_millis(30));
    metered.hear(&fetched(1, Vec::new()));
    assert_near(metered.lag(), 0.030);
}

#[test]
fn a_read_that_may_have_missed_a_row_bounds_nothing() {
    let mut metered = Metered::leading();
    metered.measure(1, Duration::from_secs(1));
    let lag_after = |metered: &mut Metered, number, at_start: &View, in_between: &View| {
        let mut read = fetch(number);
        read.exclude = if number == 3 { vec![row(1).id] } else { Vec::new() };
        metered.act(&Action::Fetch(read));
        metered.view(at_start);
        metered.view(in_between);
        metered.time.pass(Duration::from_millis(100));
        metered.hear(&fetched(number, Vec::new()));
        metered.view(&leading());
        metered.lag()
    };
    assert_near(lag_after(&mut metered, 1, &holding(1), &leading()), 1.1);
    assert_near(lag_after(&mut metered, 2, &leading(), &View { held: 1, ..leading() }), 1.2);
    assert_near(lag_after(&mut metered, 3, &leading(), &leading()), 1.3);
}

#[test]
fn a_count_that_stopped_says_so() {
    let mut metered = Metered::leading();
    metered.measure(Backlog::COUNT_MAX, Duration::from_secs(1));
    assert_near(metered.plain("pending_rows_limited"), 0.0);
    metered.measure(Backlog::COUNT_MAX + 1, Duration::from_secs(1));
    assert_near(metered.plain("pending_rows_limited"), 1.0);
    assert_near(metered.plain("pending_rows"), 10_000.0);
}

#[test]
fn a_thousand_topics_make_a_hundred_series() {
    let mut metered = Metered::leading();
    let shipments: Vec<Shipment> = (0..1000).map(|n| shipment(n, &format!("tenant-{n}"), None)).collect();
    metered.publish(&shipments);
    metered.hear(&confirmed(&shipments));

    let text = metered.text();
    let series = text.lines().filter(|line| line.starts_with("outbox_relay_published_total{")).count();
    assert_eq!(series, DESTINATIONS_MAX + 1, "and one for the rest");
    let other = metered.value("outbox_relay_published_total{destination=\"_other\",pipeline=\"orders\"}");
    assert_near(other, 901.0); // The topic known beforehand took one of the hundred.
}

#[test]
fn every_known_series_is_there_at_zero() {
    let metered = Metered::new();
    for destination in ["known", "_other"] {
        for error_type in ErrorType::ALL {
            let labels = format!("destination=\"{destination}\",error_type=\"{}\"", error_type.as_str());
            let series = format!("outbox_relay_publish_failures_total{{{labels},pipeline=\"orders\"}}");
            assert_near(metered.value(&series), 0.0);
        }
        for name in ["publish_attempts_total", "published_total", "published_bytes_total"] {
            let labels = format!("destination=\"{destination}\",pipeline=\"orders\"");
            assert_near(metered.value(&format!("outbox_relay_{name}{{{labels}}}")), 0.0);
        }
    }
    for cause in Cause::ALL {
        let labels = format!("cause=\"{}\",pipeline=\"orders\"", cause.as_str());
        assert_near(metered.value(&format!("outbox_relay_backpressure_seconds_total{{{labels}}}")), 0.0);
    }
    let text = metered.text();
    for spec in TABLE {
        let head = format!("# TYPE {} {}", spec.full_name(), spec.kind.as_str());
        assert!(text.contains(&head), "{head}");
    }
    assert!(text.contains("\nprocess_resident_memory_bytes "), "the process is there under its own names");
}

#[test]
fn every_failure_counts_under_its_own_error_type() {
    for error_type in ErrorType::ALL {
        let mut metered = Metered::leading();
        let sent = [shipment(1, "known", None)];
        metered.publish(&sent);
        metered.hear(&failed(&sent, &Failure::refused(Fault::Transient, error_type, "no")));
        let labels = format!("destination=\"known\",error_type=\"{}\"", error_type.as_str());
        let series = format!("outbox_relay_publish_failures_total{{{labels},pipeline=\"orders\"}}");
        assert_near(metered.value(&series), 1.0);
    }
}

#[test]
fn an_outcome_counts_once() {
    let mut metered = Metered::leading();
    let sent = [shipment(1, "known", None), shipment(2, "known", None)];
    metered.publish(&sent);
    metered.hear(&confirmed(&sent[..1]));
    metered.hear(&confirmed(&sent[..1]));
    metered.hear(&confirmed(&[shipment(7, "known", None)]));
    let labels = "{destination=\"known\",pipeline=\"orders\"}";
    assert_near(metered.value(&format!("outbox_relay_publish_attempts_total{labels}")), 2.0);
    assert_near(metered.value(&format!("outbox_relay_published_total{labels}")), 1.0);
    assert_near(metered.value(&format!("outbox_relay_published_bytes_total{labels}")), 10.0);
}

#[test]
fn latency_starts_when_the_row_was_created() {
    let mut metered = Metered::leading();
    metered.time.pass(Duration::from_secs(60));
    let created = metered.time.timestamp().as_millis() - 40_000;
    let sent = [shipment(1, "known", Some(created))];
    metered.publish(&sent);
    metered.time.pass(Duration::from_secs(2));
    metered.hear(&confirmed(&sent));
    assert_near(metered.plain("delivery_latency_seconds_sum"), 42.0);
    assert_near(metered.plain("publish_duration_seconds_sum"), 2.0);
}

#[test]
fn latency_is_by_the_clock_of_the_database() {
    let mut metered = Metered::leading();
    let ahead = 3_600_000_000;
    metered.act(&Action::Measure);
    let mut measured_at = metered.time.timestamp();
    measured_at.0 += ahead;
    metered.hear(&Input::Measured(Ok(Backlog { pending_rows: 0, oldest: None, measured_at })));
    let sent = [shipment(1, "known", Some(measured_at.as_millis() - 5_000))];
    metered.publish(&sent);
    metered.hear(&confirmed(&sent));
    assert_near(metered.plain("delivery_latency_seconds_sum"), 5.0);
}

#[test]
fn latency_without_a_creation_time_starts_at_first_sight() {
    let mut metered = Metered::leading();
    let first = shipment(1, "known", None);
    metered.hear(&fetched(1, vec![routed(1, &first)]));
    metered.time.pass(Duration::from_secs(3));
    metered.publish(std::slice::from_ref(&first));
    metered.time.pass(Duration::from_secs(1));
    metered.hear(&failed(std::slice::from_ref(&first), &broker_out()));
    metered.time.pass(Duration::from_secs(5));
    let again = Shipment { token: outbox_relay::sink::Token(2 << 32 | 1), ..first };
    metered.publish(std::slice::from_ref(&again));
    metered.time.pass(Duration::from_secs(1));
    metered.hear(&confirmed(&[again]));
    assert_near(metered.plain("delivery_latency_seconds_sum"), 10.0);
    assert_near(metered.plain("publish_duration_seconds_sum"), 1.0);
}

#[test]
fn marks_are_counted_by_row_however_they_fail() {
    let mut metered = Metered::leading();
    let batch: Vec<Settlement> = (1..=5).map(|id| Settlement::Delivered(row(id))).collect();
    metered.act(&Action::Settle(batch.clone()));
    metered.hear(&Input::Settled(Err(database_out())));
    metered.act(&Action::Settle(batch));
    let refused = vec![(row(5), Refusal::Vanished("a trigger".into()))];
    metered.hear(&Input::Settled(Ok(Settled { done: (1..=4).map(row).collect(), refused })));
    assert_near(metered.plain("marked_total"), 4.0);
    assert_near(metered.plain("mark_failures_total"), 6.0);
}

#[test]
fn backpressure_is_the_time_rows_waited() {
    let mut metered = Metered::leading();
    metered.view(&View { held_back: Some(Cause::Broker), ..holding(3) });
    metered.time.pass(Duration::from_secs(3));
    metered.view(&leading());
    metered.time.pass(Duration::from_secs(3));
    metered.view(&leading());
    let waited =
        metered.value("outbox_relay_backpressure_seconds_total{cause=\"broker\",pipeline=\"orders\"}");
    assert_near(waited, 3.0);
}

#[test]
fn up_is_unknown_until_something_was_heard() {
    let mut metered = Metered::leading();
    assert!(metered.plain("database_up").is_nan());
    assert!(metered.plain("broker_up").is_nan());
    let sent = [shipment(1, "known", None)];
    metered.publish(&sent);
    metered.hear(&failed(&sent, &broker_out()));
    metered.hear(&Input::Lease(Ok(Holder::Us(1))));
    metered.view(&leading());
    assert_near(metered.plain("database_up"), 1.0);
    assert_near(metered.plain("broker_up"), 0.0);
}

#[test]
fn a_failing_read_is_not_hidden_by_a_renewed_lease() {
    let mut metered = Metered::leading();
    metered.hear(&Input::Fetched { number: 1, result: Err(database_out()) });
    metered.hear(&Input::Lease(Ok(Holder::Us(1))));
    metered.view(&leading());
    assert_near(metered.plain("database_up"), 0.0);
}

#[test]
fn emptying_our_own_queue_is_no_outage_of_the_broker() {
    let mut metered = Metered::leading();
    let sent = [shipment(1, "known", None), shipment(2, "known", None)];
    metered.publish(&sent);
    metered.hear(&confirmed(&sent[..1]));
    metered.hear(&failed(&sent[1..], &Failure::unknown(Fault::Unavailable, ErrorType::Purged, "purged")));
    metered.view(&leading());
    assert_near(metered.plain("broker_up"), 1.0);
}

#[test]
fn metric_names_keep_the_conventions() {
    let units = ["_seconds", "_bytes", "_rows", "_messages", "_marks", "_info", "_up", "leader", "_limited"];
    let mut names = BTreeSet::new();
    for spec in TABLE {
        let name = spec.name;
        assert!(names.insert(name), "{name} stands twice");
        assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
        assert_eq!(name.ends_with("_total"), spec.kind == Kind::Counter, "{name}: counters end in _total");
        let unit = spec.kind == Kind::Counter || units.iter().any(|unit| name.ends_with(unit));
        assert!(unit, "{name} does not end in a unit");
        for label in spec.labels {
            assert!(!["type", "service", "instance", "job", "env", "le"].contains(label), "{name}: {label}");
        }
        let help = spec.help;
        let sentence = help.starts_with(|c: char| c.is_ascii_uppercase()) && help.ends_with('.');
        assert!(sentence, "{name}: `{help}` is not a sentence");
        if let Kind::Histogram(bounds) = spec.kind {
            assert!(bounds.windows(2).all(|pair| pair[0] < pair[1]), "{name}: bounds ascend");
        }
    }
}

const BEGIN: &str = "<!-- table: begin, written by the test docs_list_every_metric -->\n";
const END: &str = "<!-- table: end -->\n";

/// With `UPDATE_DOCS=1` in the environment, writes the table instead of comparing it.
#[test]
fn docs_list_every_metric() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
    let docs = fs::read_to_string(path).unwrap();
    let (before, rest) = docs.split_once(BEGIN).expect("a place for the table");
    let (_, after) = rest.split_once(END).expect("the end of the table");
    let wanted = format!("{before}{BEGIN}{}{END}{after}", table::markdown());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(path, &wanted).unwrap();
    } else {
        assert!(docs == wanted, "docs/metrics.md is not up to date: run this test with UPDATE_DOCS=1");
    }
}

//! The ledger in words and as JSON, and what to do next.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::json;

use super::ledger::{Audit, Latency};
use super::screen::{Paint, grouped};
use super::{Left, Options, Target};

#[derive(Debug)]
pub(super) struct Report {
    pub(super) audit: Audit,
    /// Its name.
    pub(super) broker: &'static str,
    /// Orders that were placed and taken back.
    pub(super) rolled_back: u64,
    pub(super) customers: u64,
    pub(super) kills: u64,
    /// Rows in flight at most: the bound of the repeats after each kill.
    pub(super) window: u64,
    pub(super) latencies: Latencies,
    pub(super) peak_per_second: u64,
    /// From the first order to the arrival of the last.
    pub(super) took: Duration,
}

/// `None` where no row arrived.
#[derive(Debug, Clone, Copy)]
pub(super) struct Latencies {
    /// Until the first kill.
    pub(super) undisturbed: Option<Latency>,
    pub(super) overall: Option<Latency>,
}

impl Report {
    /// Whether every promise was kept.
    pub(super) fn is_kept(&self) -> bool {
        self.broken().is_empty()
    }

    fn repeated_max(&self) -> u64 {
        self.kills * self.window
    }

    /// Every promise that was not kept, in words.
    fn broken(&self) -> Vec<String> {
        let audit = &self.audit;
        let few = |what: &str, found: &[String]| {
            let first = found.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
            (!found.is_empty()).then(|| format!("{} {what}, such as {first}", found.len()))
        };
        let rows = |ids: &[i64]| ids.iter().map(|id| format!("row {id}")).collect::<Vec<_>>();
        let records = audit.phantom.iter().map(|(partition, offset)| format!("{partition}:{offset}"));
        let too_often = audit.repeated > self.repeated_max();
        [
            few("lost", &rows(&audit.lost)),
            few("phantom, by partition and offset", &records.collect::<Vec<_>>()),
            few("out of order", &rows(&audit.disorder)),
            too_often.then(|| format!("{} repeated, more than {}", audit.repeated, self.repeated_max())),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    #[allow(clippy::cast_precision_loss, reason = "nobody places 2^52 orders")]
    fn per_second(&self) -> f64 {
        self.audit.delivered as f64 / self.took.as_secs_f64().max(0.001)
    }

    /// For people; ends with a line break.
    pub(super) fn text(&self, paint: Paint) -> String {
        let (audit, count) = (&self.audit, |list: usize| list as u64);
        let rows = [
            (
                "committed",
                audit.committed,
                format!("orders in Postgres; {} more were rolled back", grouped(self.rolled_back)),
            ),
            ("delivered", audit.delivered, format!("of them read back from {}", self.broker)),
            ("lost", count(audit.lost.len()), "committed and not delivered".to_owned()),
            ("phantom", count(audit.phantom.len()), "delivered and not committed".to_owned()),
            ("out of order", count(audit.disorder.len()), format!("within {} customers", self.customers)),
            (
                "repeated",
                audit.repeated,
                format!("after {} kills; at most {} each is the promise", self.kills, self.window),
            ),
        ];
        let mut text = String::new();
        for (name, number, rest) in rows {
            let number = paint.bold(&format!("{:>9}", grouped(number)));
            writeln!(text, "  {name:<12} {number}  {rest}").expect("a String takes everything");
        }
        let latency = |latency: Option<Latency>| match latency {
            Some(Latency { p50, p99 }) => format!("p50 {}, p99 {}", rounded(p50), rounded(p99)),
            None => "unknown: nothing arrived".to_owned(),
        };
        let _ = write!(
            text,
            "  {:<12} {:>9}  a second on average, {} at the peak\n  {:<12} {}, commit to consumer, before the first kill\n  {:<12} {}, with both kills\n",
            "rate",
            grouped(self.per_second().round() as u64),
            grouped(self.peak_per_second),
            "latency",
            latency(self.latencies.undisturbed),
            "",
            latency(self.latencies.overall),
        );
        text.push_str(&self.verdict(paint));
        text
    }

    fn verdict(&self, paint: Paint) -> String {
        let broken = self.broken();
        if broken.is_empty() {
            let kept = "kept: nothing lost, nothing invented, every customer's orders in order";
            return format!("\n  {}\n", paint.green(kept));
        }
        let mut text = String::from("\n");
        for what in broken {
            writeln!(text, "  {}", paint.red(&format!("BROKEN: {what}"))).expect("a String takes everything");
        }
        text
    }

    /// For programs, on one line.
    pub(super) fn json(&self) -> String {
        let latency = |latency: Option<Latency>| {
            let ms = |duration: Duration| (duration.as_secs_f64() * 1e4).round() / 10.0;
            latency.map(|latency| json!({"p50": ms(latency.p50), "p99": ms(latency.p99)}))
        };
        let audit = &self.audit;
        json!({
            "kept": self.is_kept(),
            "broken": self.broken(),
            "committed": audit.committed,
            "rolled_back": self.rolled_back,
            "delivered": audit.delivered,
            "lost": audit.lost.len(),
            "phantom": audit.phantom.len(),
            "disorder": audit.disorder.len(),
            "repeated": audit.repeated,
            "repeated_max": self.repeated_max(),
            "kills": self.kills,
            "customers": self.customers,
            "latency_ms": {
                "undisturbed": latency(self.latencies.undisturbed),
                "overall": latency(self.latencies.overall),
            },
            "per_second": {"mean": self.per_second().round(), "peak": self.peak_per_second},
            "seconds": (self.took.as_secs_f64() * 10.0).round() / 10.0,
        })
        .to_string()
    }
}

/// With as many digits as are worth reading.
fn rounded(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    match duration.as_millis() {
        0..10 => format!("{:.1} ms", seconds * 1e3),
        10..1_000 => format!("{:.0} ms", seconds * 1e3),
        1_000.. => format!("{seconds:.1} s"),
    }
}

const RUN_TO_KAFKA: &str = "  outbox-relay run --set sink.kafka.brokers=localhost:9092";
const RUN_TO_RABBITMQ: &str = "  export OUTBOX_RELAY__SINK__RABBITMQ__URL=amqp://localhost/%2f
  outbox-relay run --set sink.type=rabbitmq --set route.exchange=amq.topic";

/// Where to go from here.
pub(super) fn next_steps(report: &Report, left: &Left, options: &Options) -> String {
    let papers = match (&left.papers, &options.keep) {
        (Some(papers), _) => format!("; the configuration and the logs are in {}", papers.display()),
        (None, None) => "; --keep DIR leaves the configuration and the logs there".to_owned(),
        (None, Some(_)) => String::new(),
    };
    let removed = format!("Everything of the demo has ended; {}{papers}.", left.removed());
    if !report.is_kept() {
        return format!("\nA promise was broken. Please report it, with the logs.\n{removed}\n");
    }
    let (run, memory) = match options.broker {
        Target::Mock => (RUN_TO_KAFKA, " and of a Kafka in memory"),
        Target::Kafka(_) => (RUN_TO_KAFKA, ""),
        Target::RabbitMq(_) => (RUN_TO_RABBITMQ, ""),
    };
    format!(
        "
Next, with your own database and {}:
  export DATABASE_URL=postgres://localhost/app
  outbox-relay migrate                # or: migrate --print-sql
{run}

{removed}
Latencies here are those of a Postgres without fsync{memory}; for others see docs/performance.md.
",
        report.broker
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(audit: Audit) -> Report {
        Report {
            audit,
            broker: "Kafka",
            rolled_back: 1_234,
            customers: 200,
            kills: 2,
            window: 500,
            latencies: Latencies { undisturbed: None, overall: None },
            peak_per_second: 9_000,
            took: Duration::from_secs(10),
        }
    }

    #[test]
    fn every_broken_promise_is_named_and_none_counts_as_kept() {
        let broken = [
            (Audit { lost: vec![7], ..Audit::default() }, "1 lost, such as row 7"),
            (
                Audit { phantom: vec![(2, 9)], ..Audit::default() },
                "1 phantom, by partition and offset, such as 2:9",
            ),
            (Audit { disorder: vec![8; 6], ..Audit::default() }, "6 out of order, such as row 8, row 8"),
            (Audit { repeated: 1_001, ..Audit::default() }, "1001 repeated, more than 1000"),
        ];
        for (audit, expected) in broken {
            let report = report(audit);
            assert!(!report.is_kept());
            assert!(report.text(Paint::plain()).contains(&format!("BROKEN: {expected}")), "{expected}");
            assert!(report.json().contains("\"kept\":false") && report.json().contains(expected));
        }
    }

    #[test]
    fn a_time_has_the_digits_that_are_worth_reading() {
        let written =
            [8_349, 27_400, 999_999, 3_390_000].map(|micros| rounded(Duration::from_micros(micros)));
        assert_eq!(written, ["8.3 ms", "27 ms", "1000 ms", "3.4 s"]);
    }

    #[test]
    fn a_kept_ledger_says_so_and_its_json_has_every_number() {
        let report =
            report(Audit { committed: 20_000, delivered: 20_000, repeated: 1_000, ..Audit::default() });
        assert!(report.is_kept());
        let text = report.text(Paint::plain());
        assert!(text.contains("kept: nothing lost") && text.contains("20,000") && !text.contains('\u{1b}'));
        let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!((&json["repeated"], &json["repeated_max"]), (&json!(1_000), &json!(1_000)));
        assert_eq!((&json["lost"], &json["kept"]), (&json!(0), &json!(true)));
    }
}

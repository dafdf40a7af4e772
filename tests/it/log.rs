//! The log: how much it says, and what it never says.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use outbox_relay::log::{Chronicle, clean};
use outbox_relay::pump::Observer;
use outbox_relay::relay::{Action, Exit, GateState, Input, News, View};
use outbox_relay::sink::{ErrorType, Failure, Fault};
use outbox_relay::source::{Batch, Holder, Refusal, Remark, SourceError, SourceErrorKind};

use crate::heard::{
    Time, broker_out, confirmed, database_out, failed, holding, leading, row, shipment, standing_by, topic,
};

/// Where the lines of a test go.
#[derive(Debug, Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Runs `story` with a chronicle and returns the lines it wrote, at every level.
fn lines_of(story: impl FnOnce(&mut Chronicle, &Time)) -> Vec<String> {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::INFO)
        .with_ansi(false)
        .without_time()
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, || {
        story(&mut Chronicle::new("orders"), &Time::default());
    });
    let bytes = lines.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
}

#[track_caller]
fn assert_line(lines: &[String], words: &[&str]) {
    let found = lines.iter().any(|line| words.iter().all(|word| line.contains(word)));
    assert!(found, "no line with {words:?} among\n{}", lines.join("\n"));
}

fn tell(chronicle: &mut Chronicle, time: &Time, news: News) {
    chronicle.action(time.now(), &Action::Tell(news));
}

fn held(id: i64, destination: &str, failure: Failure) -> News {
    let again_in = Duration::from_millis(200);
    News::Held { row: row(id), destination: Some(topic(destination)), failure, tries: 1, again_in }
}

fn missing_topic() -> Failure {
    Failure::refused(Fault::Blocked, ErrorType::UnknownDestination, "could not publish: unknown topic")
}

/// Everything fails at once for two minutes: the broker and the database are out, and as rows come back
/// from what was queued, 50,000 messages fail for reasons of their own over 500 topics.
fn two_minutes_of_outage(chronicle: &mut Chronicle, time: &Time) {
    chronicle.view(time.now(), &leading());
    tell(chronicle, time, News::GateShut(broker_out()));
    let shut = View { gate: GateState::Shut, ..holding(10_000) };
    for step in 0..1_200_i64 {
        chronicle.input(time.now(), &Input::Lease(Err(database_out())));
        chronicle.input(time.now(), &Input::Settled(Err(database_out())));
        chronicle.input(time.now(), &failed(&[shipment(1, "orders", None)], &broker_out()));
        for n in 0..42 {
            let id = step * 42 + n;
            tell(chronicle, time, held(id, &format!("topic-{}", id % 500), missing_topic()));
            tell(chronicle, time, News::MarkRefused { row: row(id), refusal: Refusal::Failed("no".into()) });
        }
        tell(chronicle, time, News::SinkFailed(Failure::refused(Fault::Fatal, ErrorType::Other, "broken")));
        chronicle.view(time.now(), &shut);
        time.pass(Duration::from_millis(100));
    }
    chronicle.input(time.now(), &Input::Settled(Ok(Default::default())));
    chronicle.input(time.now(), &Input::Lease(Ok(Holder::Us(1))));
    chronicle.input(time.now(), &confirmed(&[shipment(1, "orders", None)]));
    tell(chronicle, time, News::GateOpened);
    tell(chronicle, time, News::MarksAccepted);
    chronicle.view(time.now(), &leading());
}

#[test]
fn two_minutes_of_outage_write_at_most_fifty_lines() {
    let lines = lines_of(two_minutes_of_outage);
    assert!(lines.len() <= 50, "{} lines:\n{}", lines.len(), lines.join("\n"));
    assert_line(&lines, &["WARN", "broker lost", "kafka:9092"]);
    assert_line(&lines, &["broker still out", "lasted_s=90"]);
    assert_line(&lines, &["database lost", "connection refused", "see whether Postgres runs"]);
    assert_line(&lines, &["database regained", "lasted_s=120"]);
    assert_line(&lines, &["broker regained", "lasted_s=120"]);
    assert_line(&lines, &["ERROR", "unknown topic", "create the topic"]);
    assert_line(&lines, &["messages held back again", "times="]);
}

#[test]
fn a_quiet_relay_says_nothing() {
    let lines = lines_of(|chronicle, time| {
        for n in 0..1_000 {
            let sent = [shipment(n, "orders", None)];
            chronicle.action(time.now(), &Action::Publish(sent.to_vec()));
            chronicle.input(time.now(), &confirmed(&sent));
            chronicle.input(time.now(), &Input::Lease(Ok(Holder::Us(1))));
            chronicle.view(time.now(), &leading());
            time.pass(Duration::from_secs(1));
        }
    });
    assert_eq!(lines, Vec::<String>::new());
}

#[test]
fn a_failure_of_a_new_kind_is_said_at_once() {
    let lines = lines_of(|chronicle, time| {
        tell(chronicle, time, held(1, "orders", missing_topic()));
        tell(chronicle, time, held(2, "orders", missing_topic()));
        let too_large = Failure::refused(Fault::Permanent, ErrorType::TooLarge, "too large");
        tell(chronicle, time, held(3, "orders", too_large));
        chronicle.view(time.now(), &leading());
    });
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_line(&lines, &["row=\"1\"", "orders", "unknown_destination"]);
    assert_line(&lines, &["row=\"3\"", "too_large"]);
}

#[test]
fn what_was_quiet_for_a_while_is_said_again() {
    let lines = lines_of(|chronicle, time| {
        for id in 1..=3 {
            tell(chronicle, time, held(id, "orders", missing_topic()));
            for _ in 0..70 {
                time.pass(Duration::from_secs(1));
                chronicle.view(time.now(), &leading());
            }
        }
    });
    assert_eq!(lines.len(), 3, "{lines:?}");
}

#[test]
fn text_from_elsewhere_cannot_forge_a_line() {
    let forged = format!("no\nINFO stopped\x1b[2J{}", "x".repeat(1_000));
    assert!(!clean(&forged).contains(char::is_control));
    assert_eq!(clean(&forged).chars().count(), 600);
    let lines = lines_of(|chronicle, time| {
        let failure = Failure::refused(Fault::Transient, ErrorType::Other, forged.as_str());
        tell(chronicle, time, held(1, "a\nb", failure.clone()));
        tell(chronicle, time, News::GateShut(Failure { fault: Fault::Unavailable, ..failure }));
        let refusal = Refusal::Vanished(forged.as_str().into());
        tell(chronicle, time, News::MarkRefused { row: row(1), refusal });
        let message = forged.as_str().into();
        let error = SourceError { kind: SourceErrorKind::Unfit, message, hint: Some("do\nthis".into()) };
        chronicle.input(time.now(), &Input::Lease(Err(error)));
    });
    assert_eq!(lines.len(), 4, "{lines:?}");
}

#[test]
fn the_database_is_regained_only_once_every_call_works() {
    let lines = lines_of(|chronicle, time| {
        chronicle.input(time.now(), &Input::Fetched { number: 1, result: Err(database_out()) });
        chronicle.input(time.now(), &Input::Lease(Ok(Holder::Us(1))));
        chronicle.input(time.now(), &Input::Fetched { number: 2, result: Err(database_out()) });
        chronicle.input(time.now(), &Input::Lease(Ok(Holder::Us(1))));
    });
    assert_eq!(lines.len(), 1, "{lines:?}");
}

#[test]
fn a_standby_says_so_once() {
    let lines = lines_of(|chronicle, time| {
        for _ in 0..10 {
            chronicle
                .input(time.now(), &Input::Lease(Ok(Holder::Other { expires_in: Duration::from_secs(1) })));
            chronicle.view(time.now(), &standing_by());
        }
        tell(chronicle, time, News::LeaseTaken(7));
    });
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_line(&lines, &["standing by"]);
    assert_line(&lines, &["lease taken", "epoch=7", "pipeline=\"orders\""]);
}

#[test]
fn an_end_that_leaves_something_open_says_how_much() {
    let lines = lines_of(|chronicle, time| {
        tell(chronicle, time, News::Draining);
        chronicle.action(time.now(), &Action::Stop(Exit::Unfinished { unknown: 3 }));
    });
    assert_line(&lines, &["draining"]);
    assert_line(&lines, &["WARN", "may repeat", "unknown=3"]);
}

#[test]
fn what_people_should_know_of_the_database_is_said_once() {
    let warning = Remark { text: "no index".into(), hint: Some("create index".into()) };
    let notice = Remark { text: "works as the role relay".into(), hint: None };
    let lines = lines_of(|chronicle, time| {
        for number in 1..4 {
            let remarks = vec![warning.clone(), notice.clone()];
            let batch =
                Batch { messages: Vec::new(), cut: false, highest: None, writers: Vec::new(), remarks };
            chronicle.input(time.now(), &Input::Fetched { number, result: Ok(batch) });
        }
    });
    assert_eq!(lines.len(), 2, "{}", lines.join("\n"));
    assert_line(&lines, &["WARN", "no index", "create index"]);
    assert_line(&lines, &["INFO", "works as the role relay"]);
}

//! What librdkafka calls back on its polling thread: deliveries, errors, logs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{DeliveryResult, ProducerContext};

use super::classify;
use crate::sink::inbox::Inbox;
use crate::sink::{ErrorType, Failure, Fault, SinkEvent, Token, printable};

/// Characters of a broker's or the client's own words that are passed on.
const REASON_CHARS_MAX: usize = 300;

/// The callbacks of one client. They run on one thread, one after the other.
pub(super) struct Deliveries {
    inbox: Arc<Inbox>,
    /// See [`settings::batch_bytes_max`](super::settings::batch_bytes_max).
    batch_bytes_max: usize,
    /// `Down` was reported and no `Up` since.
    down: AtomicBool,
    /// The last error of a single broker: why all of them are down, once they are.
    cause: Mutex<Option<Failure>>,
    logs: Mutex<Logs>,
}

impl Deliveries {
    pub(super) fn new(inbox: Arc<Inbox>, batch_bytes_max: usize) -> Self {
        Self {
            inbox,
            batch_bytes_max,
            down: AtomicBool::new(false),
            cause: Mutex::default(),
            logs: Mutex::new(Logs::new(now())),
        }
    }

    fn confirmed(&self) {
        if self.down.load(Ordering::Relaxed) && self.down.swap(false, Ordering::Relaxed) {
            *self.cause.lock().expect("no panic holds the cause") = None;
            self.inbox.event(SinkEvent::Up);
        }
    }

    /// librdkafka repeats it, and its binding hands over each error twice; one is enough.
    fn all_down(&self, reason: &str) {
        if !self.down.swap(true, Ordering::Relaxed) {
            let cause = self.cause.lock().expect("no panic holds the cause").take();
            self.inbox.event(SinkEvent::Down(cause.unwrap_or_else(|| {
                Failure::unknown(Fault::Unavailable, ErrorType::BrokerUnavailable, shown(reason))
            })));
        }
    }

    fn broker_error(&self, code: RDKafkaErrorCode, reason: &str) {
        let error_type = match classify::classify(code) {
            classify::Verdict::Failed { fault: Fault::Unavailable, error_type, .. } => error_type,
            classify::Verdict::Failed { .. } | classify::Verdict::Delivered => ErrorType::BrokerUnavailable,
        };
        let cause = Failure::unknown(Fault::Unavailable, error_type, shown(reason));
        *self.cause.lock().expect("no panic holds the cause") = Some(cause);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, token: usize) {
        let failure = match result {
            Ok(_) => None,
            Err((KafkaError::MessageProduction(code), record)) => {
                let bytes = record.payload_len() + record.key_len();
                classify::failure(*code, bytes > self.batch_bytes_max)
            }
            Err((error, _)) => {
                Some(Failure::unknown(Fault::Transient, ErrorType::Other, shown(&error.to_string())))
            }
        };
        if failure.is_none() {
            self.confirmed();
        }
        self.inbox.outcome(Token(token as u64), failure.map_or(Ok(()), Err));
    }
}

impl ClientContext for Deliveries {
    fn error(&self, error: KafkaError, reason: &str) {
        match error {
            KafkaError::Global(RDKafkaErrorCode::AllBrokersDown) => self.all_down(reason),
            // Shows in the outcomes, where it has consequences.
            KafkaError::Global(RDKafkaErrorCode::Fatal) => {}
            KafkaError::Global(code) => self.broker_error(code, reason),
            _ => {}
        }
    }

    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        // Transitions are told by the relay; what librdkafka says of its connections is for those who
        // look closely, and even they do not want a line per attempt for hours.
        let passed = self.logs.lock().expect("no panic holds the logs").pass(now());
        if let Some(dropped) = passed {
            tracing::debug!(target: "librdkafka", dropped, "{facility}: {}", shown(message));
        }
    }

    fn stats_raw(&self, _statistics: &[u8]) {}
}

fn shown(text: &str) -> String {
    printable(text, REASON_CHARS_MAX)
}

/// Lets a few lines through in each period and counts the rest.
#[derive(Debug)]
struct Logs {
    period_start: Instant,
    lines: u32,
    dropped: u64,
}

impl Logs {
    const PERIOD: Duration = Duration::from_secs(30);
    /// Enough for a start against a few brokers, little enough for an outage of hours.
    const LINES_MAX: u32 = 20;

    fn new(now: Instant) -> Self {
        Self { period_start: now, lines: 0, dropped: 0 }
    }

    /// `Some` if a line may pass: with the number of lines dropped since the last one that did.
    fn pass(&mut self, now: Instant) -> Option<u64> {
        if now.saturating_duration_since(self.period_start) >= Self::PERIOD {
            self.period_start = now;
            self.lines = 0;
        }
        if self.lines == Self::LINES_MAX {
            self.dropped += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.dropped))
    }
}

#[allow(clippy::disallowed_methods, reason = "callbacks of the client come without a time")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn deliveries() -> (Arc<Inbox>, Deliveries) {
        let inbox = Arc::new(Inbox::default());
        (Arc::clone(&inbox), Deliveries::new(inbox, 1_000_000))
    }

    fn taken(inbox: &Inbox) -> Vec<SinkEvent> {
        inbox.take(1).now_or_never().unwrap_or_default()
    }

    #[test]
    fn an_outage_is_told_once_with_its_cause_and_so_is_its_end() {
        let (inbox, deliveries) = deliveries();
        deliveries.error(KafkaError::Global(RDKafkaErrorCode::Authentication), "wrong\npassword");
        for _ in 0..3 {
            deliveries.error(KafkaError::Global(RDKafkaErrorCode::AllBrokersDown), "1/1 brokers are down");
        }
        let cause = Failure::unknown(Fault::Unavailable, ErrorType::Auth, "wrong\u{fffd}password");
        assert_eq!(taken(&inbox), [SinkEvent::Down(cause)]);
        deliveries.confirmed();
        deliveries.confirmed();
        assert_eq!(taken(&inbox), [SinkEvent::Up]);
        deliveries.error(KafkaError::Global(RDKafkaErrorCode::AllBrokersDown), "1/1 brokers are down");
        let cause =
            Failure::unknown(Fault::Unavailable, ErrorType::BrokerUnavailable, "1/1 brokers are down");
        assert_eq!(taken(&inbox), [SinkEvent::Down(cause)]);
    }

    #[test]
    fn one_broker_of_many_being_away_is_no_outage() {
        let (inbox, deliveries) = deliveries();
        deliveries.error(KafkaError::Global(RDKafkaErrorCode::BrokerTransportFailure), "refused");
        assert_eq!(taken(&inbox), []);
    }

    #[test]
    fn an_hour_of_complaints_is_a_few_lines_and_says_how_many_were_dropped() {
        let start = now();
        let mut logs = Logs::new(start);
        let hour = (0..36_000).map(|tenth| start + Duration::from_millis(100 * tenth));
        let passed: Vec<u64> = hour.filter_map(|now| logs.pass(now)).collect();
        assert_eq!(passed.len(), 120 * Logs::LINES_MAX as usize);
        assert_eq!(passed.iter().sum::<u64>() + logs.dropped + passed.len() as u64, 36_000);
    }
}

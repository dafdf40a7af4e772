//! When the broker last answered on a connection, and whether it owes an answer for too long.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

/// While the broker answers others, one window may wait this many times as long: its messages may stand
/// behind theirs, but not for ever.
const LAG_MAX: u32 = 10;

/// The last answer of the broker, whatever it was to.
#[derive(Debug)]
pub(super) struct Pulse(Mutex<Instant>);

impl Pulse {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Instant::now()))
    }

    pub(super) fn beat(&self) {
        *self.0.lock().expect("no thread panics while it holds the time") = Instant::now();
    }

    fn last(&self) -> Instant {
        *self.0.lock().expect("no thread panics while it holds the time")
    }

    /// Whether a broker that has owed an answer since `oldest` is to be given up.
    pub(super) fn has_stopped(&self, oldest: Instant, now: Instant, confirm_timeout: Duration) -> bool {
        let silent = now.saturating_duration_since(self.last().max(oldest));
        let owed = now.saturating_duration_since(oldest);
        silent >= confirm_timeout || owed >= confirm_timeout.saturating_mul(LAG_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(30);

    #[test]
    fn a_broker_that_answers_slowly_is_kept_and_one_that_answers_nothing_is_not() {
        let pulse = Pulse::new();
        let last = pulse.last();
        let second = Duration::from_secs(1);
        let asked_long_ago = last.checked_sub(TIMEOUT * 2).expect("the machine is up for a minute");
        assert!(!pulse.has_stopped(asked_long_ago, last + TIMEOUT - second, TIMEOUT), "it spoke since");
        assert!(pulse.has_stopped(asked_long_ago, last + TIMEOUT, TIMEOUT));
        // It had nothing to answer for an hour.
        let asked_late = last + Duration::from_secs(3_600);
        assert!(!pulse.has_stopped(asked_late, asked_late + TIMEOUT - second, TIMEOUT));
        assert!(pulse.has_stopped(asked_late, asked_late + TIMEOUT, TIMEOUT));
    }

    #[test]
    fn one_window_does_not_wait_for_ever_while_others_are_answered() {
        let pulse = Pulse::new();
        let asked = pulse.last();
        *pulse.0.lock().unwrap() = asked + TIMEOUT * LAG_MAX;
        assert!(!pulse.has_stopped(asked + TIMEOUT, asked + TIMEOUT * LAG_MAX, TIMEOUT));
        assert!(pulse.has_stopped(asked, asked + TIMEOUT * LAG_MAX, TIMEOUT));
    }
}

//! Exchanges just looked for in vain: while that is news, their messages fail without another look. Pure.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::sink::Failure;

/// How long a miss is remembered: thousands of messages cost one channel, and an exchange that was just
/// declared is soon used.
const MEMORY: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Misses(HashMap<Arc<str>, (Instant, Failure)>);

impl Misses {
    pub(super) fn add(&mut self, exchange: Arc<str>, failure: Failure, now: Instant) {
        // Rows may name exchanges without number.
        self.0.retain(|_, (since, _)| is_recent(*since, now));
        self.0.insert(exchange, (now, failure));
    }

    /// Why messages to `exchange` fail just now.
    pub(super) fn recent(&self, exchange: &str, now: Instant) -> Option<&Failure> {
        let (since, failure) = self.0.get(exchange)?;
        is_recent(*since, now).then_some(failure)
    }
}

fn is_recent(since: Instant, now: Instant) -> bool {
    now.saturating_duration_since(since) < MEMORY
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::{ErrorType, Fault};

    #[test]
    #[allow(clippy::disallowed_methods, reason = "a point to count from")]
    fn a_miss_is_remembered_for_a_second_and_then_forgotten() {
        let (mut misses, start) = (Misses::default(), Instant::now());
        let failure = Failure::refused(Fault::Blocked, ErrorType::UnknownDestination, "no exchange");
        misses.add("missing".into(), failure.clone(), start);
        assert_eq!(misses.recent("missing", start + MEMORY / 2), Some(&failure));
        assert_eq!(misses.recent("other", start), None);
        assert_eq!(misses.recent("missing", start + MEMORY), None);
        misses.add("other".into(), failure, start + MEMORY);
        assert_eq!(misses.0.len(), 1);
    }
}

//! Notifications that rows were written. They bring the next read of an idle relay forward, and nothing
//! rests on them: without any, reads come at their own pace.

use std::time::Duration;

use super::{Action, DATABASE_BACKOFF, POLL_MIN, Relay};
use crate::source::SourceError;

#[derive(Debug, Default)]
pub(super) struct Listening {
    /// A call that has not returned.
    asked: bool,
    next: Duration,
    failures: u32,
}

impl Relay {
    /// When to listen again. A relay that may not read has no use for it.
    pub(super) fn listens_at(&self) -> Option<Duration> {
        let useful = self.limits.listen && self.tenure.epoch().is_some() && self.drain_until.is_none();
        (useful && !self.listening.asked).then_some(self.listening.next)
    }

    pub(super) fn plan_listen(&mut self, now: Duration) {
        if self.listens_at().is_some_and(|at| now >= at) {
            self.listening.asked = true;
            self.actions.push_back(Action::Listen);
        }
    }

    pub(super) fn hinted(&mut self, now: Duration, answer: &Result<(), SourceError>) {
        self.listening.asked = false;
        if answer.is_err() {
            self.listening.next = now + DATABASE_BACKOFF.pause(self.listening.failures, self.draw());
            self.listening.failures += 1;
            return;
        }
        self.listening.failures = 0;
        self.hurry_fetch(now);
    }

    /// Ends a pause. A relay at work pauses so little that it would gain nothing, and one that cannot
    /// reach the database has a reason to wait.
    fn hurry_fetch(&mut self, now: Duration) {
        if self.fetch_failures > 0 {
            return;
        }
        if self.fetch_pause > POLL_MIN {
            self.hasten_fetch(now);
        }
        // The read under way may be older than the row: the next one follows it soon.
        self.fetch_pause = POLL_MIN;
    }
}

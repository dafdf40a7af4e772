//! The way out: nothing is read or sent any more, what flies is awaited for a while, the lease is given
//! back.

use std::time::Duration;

use super::{Action, Exit, News, Relay};

/// How long a relay whose time to drain is over tries to give the lease back.
const HAND_BACK_PATIENCE: Duration = Duration::from_secs(1);

impl Relay {
    pub(super) fn drain(&mut self, now: Duration) {
        if self.drain_until.is_none() {
            self.drain_until = Some(now + self.limits.drain_timeout);
            self.drop_ready();
            self.tell(News::Draining);
        }
    }

    /// When a drain goes on though nothing happens.
    pub(super) fn stops_at(&self, now: Duration) -> Option<Duration> {
        let until = self.drain_until?;
        Some(if now < until { until } else { until + HAND_BACK_PATIENCE })
    }

    pub(super) fn plan_stop(&mut self, now: Duration) {
        let Some(until) = self.drain_until else { return };
        if now >= until + HAND_BACK_PATIENCE {
            return self.stop(self.exit_now());
        }
        // A question for the lease that is still under way could take it again after it was given back.
        if self.tenure.asking() || self.releasing || !self.nothing_leaves(now >= until) {
            return;
        }
        if self.tenure.epoch().is_none() {
            return self.stop(self.exit_now());
        }
        self.releasing = true;
        self.handed_over = self.unknown();
        self.actions.push_back(Action::Release);
    }

    /// Whether nothing of ours can leave any more, so that another relay may begin: all is settled or, out of
    /// time, everything the client was given is answered. What it gave up though it had been sent may still
    /// arrive, as a repeat: a lane has one row in flight, and it is the first that the successor reads.
    fn nothing_leaves(&mut self, out_of_time: bool) -> bool {
        if self.hand.in_flight.rows == 0 {
            return true;
        }
        if out_of_time && self.hand.sent > 0 {
            self.purge();
        }
        out_of_time && self.hand.sent == 0
    }

    /// What the successor may have repeated stays in doubt, though it was marked in the end.
    pub(super) fn exit_now(&self) -> Exit {
        match self.unknown().max(self.handed_over) {
            0 => Exit::Drained,
            unknown => Exit::Unfinished { unknown },
        }
    }

    pub(super) fn stop(&mut self, exit: Exit) {
        if !self.stopped {
            self.stopped = true;
            self.actions.push_back(Action::Stop(exit));
        }
    }
}

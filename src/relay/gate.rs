//! The broker's gate: what may be published while the broker's health is unknown, good or bad.
//!
//! ```text
//!            confirmed                       outage
//!   Probing ───────────▶ Open ───────────────────────────────▶ Shut
//!      │  ▲                                                     │
//!      │  └─────────── after a pause, or it is up again ──────────┘
//!      └───────────────────────── outage ───────────────────────▶
//! ```
//!
//! A gate is born probing: one record goes out, and the rest wait for its confirmation. A shut gate
//! loses nothing and blames nobody; it probes again by itself, after pauses that grow, and at once when the
//! broker is said to be up. Only a confirmation opens it: an accepted connection proves little.

use std::time::Duration;

use super::backoff::Backoff;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GateState {
    Probing,
    Open,
    Shut,
}

#[derive(Debug)]
pub(super) struct Gate {
    state: GateState,
    until: Duration,
    outages: u32,
    probe_out: bool,
    /// Probes in a row without an answer, and when the next may follow.
    unanswered: u32,
    probe_next: Duration,
    backoff: Backoff,
}

impl Gate {
    /// A probe may have gone to the one partition that answers nobody: then another goes, later and later.
    const PROBE_PATIENCE: Backoff = Backoff { min: Duration::from_secs(5), max: Duration::from_secs(60) };

    /// The longest pause between two probes: an outage is noticed to be over within this time.
    const PAUSE_MAX: Duration = Duration::from_secs(5);

    pub(super) fn new(backoff: Backoff) -> Self {
        let backoff = backoff.capped(Self::PAUSE_MAX);
        Self {
            state: GateState::Probing,
            until: Duration::ZERO,
            outages: 0,
            probe_out: false,
            unanswered: 0,
            probe_next: Duration::ZERO,
            backoff,
        }
    }

    pub(super) const fn state(&self) -> GateState {
        self.state
    }

    /// How many records may go out now.
    pub(super) const fn permits(&self) -> usize {
        match self.state {
            GateState::Open => usize::MAX,
            GateState::Probing if !self.probe_out => 1,
            GateState::Probing | GateState::Shut => 0,
        }
    }

    pub(super) fn sent(&mut self, now: Duration) {
        self.probe_out = self.state == GateState::Probing;
        if self.probe_out {
            self.probe_next = now + Self::PROBE_PATIENCE.pause(self.unanswered, 1.0);
            self.unanswered = self.unanswered.saturating_add(1);
        }
    }

    /// The broker confirmed something. Returns whether that opened the gate after an outage.
    pub(super) fn confirmed(&mut self) -> bool {
        let reopened = self.outages > 0;
        self.state = GateState::Open;
        self.probe_out = false;
        self.unanswered = 0;
        self.outages = 0;
        reopened
    }

    /// The broker can be reached again: no need to sit out the pause. The next outage has a longer one.
    pub(super) fn reached(&mut self) {
        if self.state == GateState::Shut {
            self.state = GateState::Probing;
            self.probe_out = false;
        }
    }

    /// The broker is out. Returns whether that is news.
    pub(super) fn shut(&mut self, now: Duration, draw: f64) -> bool {
        if self.state == GateState::Shut {
            return false;
        }
        let news = self.outages == 0;
        self.state = GateState::Shut;
        self.probe_out = false;
        self.until = now + self.backoff.pause(self.outages, draw);
        self.outages = self.outages.saturating_add(1);
        news
    }

    /// The probe was answered, though not confirmed, or never will be: another may go out.
    pub(super) fn answered(&mut self) {
        self.probe_out = false;
        self.unanswered = 0;
    }

    /// Lets a shut gate probe once its pause is over, and an unanswered probe be followed by another.
    pub(super) fn tick(&mut self, now: Duration) {
        match self.state {
            GateState::Shut if self.until <= now => {
                self.state = GateState::Probing;
                self.probe_out = false;
            }
            GateState::Probing if self.probe_out && self.probe_next <= now => {
                self.probe_out = false;
            }
            GateState::Shut | GateState::Probing | GateState::Open => {}
        }
    }

    pub(super) fn wake_at(&self) -> Option<Duration> {
        match self.state {
            GateState::Shut => Some(self.until),
            GateState::Probing if self.probe_out => Some(self.probe_next),
            GateState::Probing | GateState::Open => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_that_is_up_again_is_probed_at_once_and_the_pause_of_its_next_outage_is_longer() {
        let backoff = Backoff { min: Duration::from_millis(200), max: Duration::from_secs(60) };
        let (mut gate, now) = (Gate::new(backoff), Duration::from_secs(100));
        gate.confirmed();
        let mut pauses = Vec::new();
        for _ in 0..3 {
            gate.shut(now, 1.0);
            pauses.push(gate.wake_at().expect("it is shut") - now);
            gate.reached();
            assert_eq!((gate.state(), gate.permits()), (GateState::Probing, 1));
        }
        assert_eq!(pauses, [200, 400, 800].map(Duration::from_millis));
        assert!(gate.confirmed(), "this ended the outage");
        assert_eq!(gate.permits(), usize::MAX);
    }
}

//! The lease as the relay knows it: the database decides who holds it, and local time only decides
//! when to stop trusting oneself.
//!
//! ```text
//!              taken (epoch e)                       trust runs out
//!   Standby ───────────────────▶ Trusted(e, until) ─────────────────▶ Doubtful(e)
//!      ▲                              ▲                                  │
//!      │                              └───────── renewed (epoch e) ──────┤
//!      └───────────────── someone else holds it ─────────────────────────┘
//! ```
//!
//! Trust lasts `ttl − margin` from the moment the last successful renewal *started*: the database
//! stamped the expiry no earlier than that. The margin covers clocks that run at different speeds and
//! the way from the decision to publish to the broker client's queue.

use std::time::Duration;

use crate::source::{Epoch, Holder};

/// Timing of the lease, all derived from its time to live.
#[derive(Debug, Clone, Copy)]
pub struct LeaseTiming {
    pub ttl: Duration,
}

impl LeaseTiming {
    /// How long before the expiry publishing stops.
    #[must_use]
    pub fn margin(self) -> Duration {
        self.ttl / 5
    }

    /// How often a holder renews: four tries fit into the time of trust.
    #[must_use]
    pub fn renew_every(self) -> Duration {
        self.ttl / 5
    }

    /// How often a standby asks: a lease given back is taken over within this time. One that expires is
    /// asked for when it does.
    #[must_use]
    pub fn ask_every(self) -> Duration {
        (self.ttl / 4).min(Duration::from_millis(500))
    }
}

/// A lease is free after its last moment, not in it.
const EXPIRED: Duration = Duration::from_millis(1);

#[derive(Debug)]
pub(super) struct Tenure {
    timing: LeaseTiming,
    epoch: Option<Epoch>,
    trusted_until: Duration,
    /// When the question that has no answer yet was asked.
    asked_at: Option<Duration>,
    ask_next: Duration,
}

/// What a lease answer changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    None,
    Taken(Epoch),
    Lost,
}

impl Tenure {
    pub(super) const fn new(timing: LeaseTiming) -> Self {
        Self { timing, epoch: None, trusted_until: Duration::ZERO, asked_at: None, ask_next: Duration::ZERO }
    }

    pub(super) const fn epoch(&self) -> Option<Epoch> {
        self.epoch
    }

    pub(super) fn trusted(&self, now: Duration) -> bool {
        self.epoch.is_some() && now < self.trusted_until
    }

    /// A question has no answer yet.
    pub(super) const fn asking(&self) -> bool {
        self.asked_at.is_some()
    }

    /// Whether to ask now; notes that it was asked.
    pub(super) fn ask(&mut self, now: Duration) -> bool {
        if self.asked_at.is_some() || now < self.ask_next {
            return false;
        }
        self.asked_at = Some(now);
        true
    }

    pub(super) fn answered(&mut self, now: Duration, holder: Holder) -> Change {
        let asked_at = self.asked_at.take().unwrap_or(now);
        self.ask_next = match holder {
            Holder::Us(_) => asked_at + self.timing.renew_every(),
            // It was measured before it was answered, so by then it has expired.
            Holder::Other { expires_in } => {
                (asked_at + self.timing.ask_every()).min(now + expires_in + EXPIRED)
            }
        };
        let epoch = holder.epoch();
        if epoch.is_some() {
            self.trusted_until = asked_at + self.timing.ttl.saturating_sub(self.timing.margin());
        }
        if epoch == self.epoch {
            return Change::None;
        }
        self.epoch = epoch;
        epoch.map_or(Change::Lost, Change::Taken)
    }

    /// The question failed. Asked again soon; trust runs on.
    pub(super) fn failed(&mut self, now: Duration, pause: Duration) {
        self.asked_at = None;
        self.ask_next = now + pause.min(self.timing.renew_every());
    }

    /// Stops believing in the lease without being told, and stays away from it for a while.
    pub(super) fn step_down(&mut self, now: Duration) {
        self.epoch = None;
        self.trusted_until = now;
        self.ask_next = now + self.timing.ttl;
    }

    /// When the next question is due, unless one has no answer yet.
    pub(super) fn asks_at(&self) -> Option<Duration> {
        self.asked_at.is_none().then_some(self.ask_next)
    }

    pub(super) fn trust_ends_at(&self, now: Duration) -> Option<Duration> {
        self.trusted(now).then_some(self.trusted_until)
    }
}

//! The time of this machine, as metrics and health checks are given it.
//!
//! The relay core has no clock and the pump has its own; this one is for those who show what happened.
//! Tests put their own in its place.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

type Hand = Arc<dyn Fn() -> Duration + Send + Sync>;

/// Where the time is read. Clones read the same clock.
#[derive(Clone)]
pub struct Clock {
    monotonic: Hand,
    wall: Hand,
}

impl Clock {
    /// The clocks of this machine; the monotonic one starts now.
    #[must_use]
    #[allow(
        clippy::disallowed_methods,
        reason = "the one place where the process reads its clocks for people"
    )]
    pub fn system() -> Self {
        let started = Instant::now();
        Self::new(
            move || started.elapsed(),
            || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO),
        )
    }

    /// A clock made of `monotonic`, the time since any fixed start, and `wall`, the time since 1970.
    pub fn new(
        monotonic: impl Fn() -> Duration + Send + Sync + 'static,
        wall: impl Fn() -> Duration + Send + Sync + 'static,
    ) -> Self {
        Self { monotonic: Arc::new(monotonic), wall: Arc::new(wall) }
    }

    /// Time since a fixed start; never goes back.
    #[must_use]
    pub fn monotonic(&self) -> Duration {
        (self.monotonic)()
    }

    /// Microseconds since 1970-01-01 UTC; goes wherever the machine's clock is set.
    #[must_use]
    pub fn wall_micros(&self) -> i64 {
        i64::try_from((self.wall)().as_micros()).unwrap_or(i64::MAX)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

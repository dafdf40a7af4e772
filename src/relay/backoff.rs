//! How long to wait before trying again: exponential, capped, with full jitter.

use std::time::Duration;

/// The pause doubles from `min` to `max`; the draw spreads it, so that many who failed together do not
/// come back together.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    pub min: Duration,
    pub max: Duration,
}

impl Backoff {
    /// The pause before try number `tries` (0 is the first retry). `draw` is uniform in 0..1.
    ///
    /// Full jitter over the upper half of the interval: a pause of nearly nothing would make the
    /// first retry hit whatever failed before it had a chance to recover.
    #[must_use]
    pub fn pause(self, tries: u32, draw: f64) -> Duration {
        let ceiling = self.min.saturating_mul(1 << tries.min(24)).min(self.max).max(self.min);
        let floor = (ceiling / 2).max(self.min.min(ceiling));
        floor + (ceiling - floor).mul_f64(draw.clamp(0.0, 1.0))
    }

    /// The same, never longer than `max`.
    #[must_use]
    pub fn capped(self, max: Duration) -> Self {
        let max = self.max.min(max);
        Self { min: self.min.min(max), max }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_stays_between_its_bounds_and_grows() {
        let backoff = Backoff { min: Duration::from_millis(200), max: Duration::from_secs(300) };
        for tries in 0..40 {
            for draw in [0.0, 0.3, 1.0] {
                let pause = backoff.pause(tries, draw);
                assert!(pause >= backoff.min && pause <= backoff.max, "{tries} {draw} {pause:?}");
                assert!(backoff.pause(tries + 1, draw) >= pause);
            }
        }
        assert_eq!(backoff.pause(30, 1.0), backoff.max);
    }
}

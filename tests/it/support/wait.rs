//! Waiting for something to become true: the only place of the tests that sleeps. A test never sleeps
//! for luck; it names the condition it waits for and the time after which that is a failure.

use std::time::{Duration, Instant};

/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Returns as soon as `condition` holds; panics with `what` if it does not within `deadline`.
pub async fn eventually(deadline: Duration, what: &str, mut condition: impl AsyncFnMut() -> bool) {
    eventually_some(deadline, what, async || condition().await.then_some(())).await;
}

/// As [`eventually`], and returns what was found.
pub async fn eventually_some<T>(
    deadline: Duration,
    what: &str,
    mut find: impl AsyncFnMut() -> Option<T>,
) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = find().await {
            return found;
        }
        assert!(started.elapsed() < deadline, "after {deadline:?} still not: {what}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// For destructors, which cannot be async: whether `condition` came to hold within `deadline`.
pub fn blocking(deadline: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let started = Instant::now();
    while !condition() {
        if started.elapsed() >= deadline {
            return false;
        }
        std::thread::sleep(LOOK_EVERY);
    }
    true
}

/// Part of a load or of a fault, as in "a transaction stays open this long" or "the broker is away for
/// a minute". Never a wait for something to have happened.
pub async fn pass(duration: Duration) {
    tokio::time::sleep(duration).await;
}

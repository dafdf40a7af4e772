//! How often the same thing is said: when it begins, and then every 30 seconds in one line.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

/// Between two lines about something that goes on.
pub(super) const REMIND_EVERY: Duration = Duration::from_secs(30);

/// Something that is out, and why as it was last heard.
#[derive(Debug)]
pub(super) struct Outage<E> {
    since: Duration,
    said_at: Duration,
    pub(super) latest: E,
}

impl<E: Clone> Outage<E> {
    /// An outage that was just said.
    pub(super) const fn new(now: Duration, failure: E) -> Self {
        Self { since: now, said_at: now, latest: failure }
    }

    pub(super) fn goes_on(&mut self, failure: &E) {
        self.latest = failure.clone();
    }

    /// Whether it is to be said again now; notes that it was.
    pub(super) fn due(&mut self, now: Duration) -> bool {
        let due = now.saturating_sub(self.said_at) >= REMIND_EVERY;
        if due {
            self.said_at = now;
        }
        due
    }

    pub(super) const fn lasted_s(&self, now: Duration) -> u64 {
        now.saturating_sub(self.since).as_secs()
    }
}

/// Counts by kind what happens too often to be said each time.
///
/// A kind is said when it first happens in a window of 30 seconds in which it did not happen before;
/// the rest of the window is one summary.
#[derive(Debug)]
pub(super) struct Tally<K> {
    window_ends: Option<Duration>,
    /// What happened in this window or the one before, and how often unsaid in this one.
    kinds: HashMap<K, Count>,
    firsts: usize,
    /// Of kinds beyond the limit.
    uncounted: u64,
}

#[derive(Debug, Default)]
struct Count {
    unsaid: u64,
    seen: bool,
}

/// What a window held besides what was said.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Summary<K> {
    pub(super) times: u64,
    pub(super) kinds: usize,
    pub(super) most: K,
}

impl<K> Default for Tally<K> {
    fn default() -> Self {
        Self { window_ends: None, kinds: HashMap::new(), firsts: 0, uncounted: 0 }
    }
}

impl<K: Hash + Eq + Clone> Tally<K> {
    /// New kinds said in a window. A thousand topics that vanish at once are five lines and a number.
    const FIRSTS_MAX: usize = 5;
    const KINDS_MAX: usize = 100;

    /// Notes that `kind` happened. Returns whether to say it now.
    pub(super) fn note(&mut self, now: Duration, kind: K) -> bool {
        self.window_ends.get_or_insert(now + REMIND_EVERY);
        if !self.kinds.contains_key(&kind) && self.kinds.len() >= Self::KINDS_MAX {
            self.uncounted += 1;
            return false;
        }
        let new = !self.kinds.contains_key(&kind);
        let count = self.kinds.entry(kind).or_default();
        count.seen = true;
        if new && self.firsts < Self::FIRSTS_MAX {
            self.firsts += 1;
            return true;
        }
        count.unsaid += 1;
        false
    }

    /// The summary of a window that has ended, if it held anything unsaid.
    pub(super) fn due(&mut self, now: Duration) -> Option<Summary<K>> {
        if self.window_ends.is_none_or(|end| now < end) {
            return None;
        }
        let counted: u64 = self.kinds.values().map(|count| count.unsaid).sum();
        let kinds = self.kinds.values().filter(|count| count.unsaid > 0).count();
        let most = self.kinds.iter().filter(|(_, count)| count.unsaid > 0).max_by_key(|(_, c)| c.unsaid);
        let times = counted + self.uncounted;
        let summary = most.map(|(kind, _)| Summary { times, kinds, most: kind.clone() });
        self.start_window(now);
        summary
    }

    fn start_window(&mut self, now: Duration) {
        self.kinds.retain(|_, count| count.seen);
        self.kinds.values_mut().for_each(|count| *count = Count::default());
        self.firsts = 0;
        self.uncounted = 0;
        self.window_ends = (!self.kinds.is_empty()).then_some(now + REMIND_EVERY);
    }
}

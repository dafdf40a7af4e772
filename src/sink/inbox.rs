//! Events on their way from a client's own thread to the pump.

use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::{Failure, Outcome, SinkEvent, Token};

/// How long outcomes may wait for others to join them. Under load it makes bursts out of a trickle,
/// and each burst of confirmations frees a burst of lanes: fewer and larger requests to the broker.
const PATIENCE: Duration = Duration::from_millis(1);

/// Any thread puts events in, in order; one task takes all of them out at once.
///
/// It has no bound of its own: a sink reports one outcome for each shipment it was handed, so the
/// relay's window bounds it.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    held: Mutex<Held>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Held {
    events: Vec<SinkEvent>,
    outcomes: usize,
    /// When the first event came in.
    since: Option<Instant>,
    /// The taker does not wait for more outcomes than these.
    enough: usize,
}

impl Held {
    fn arrived(&mut self) {
        if self.since.is_none() {
            self.since = Some(now());
        }
    }

    /// When what is here may be taken: at once if it is enough, or not an outcome.
    fn ripe_at(&self) -> Option<Instant> {
        let since = self.since?;
        let only_outcomes = matches!(self.events[..], [SinkEvent::Outcomes(_)]);
        let waits = only_outcomes && self.outcomes < self.enough;
        Some(if waits { since + PATIENCE } else { since })
    }
}

#[allow(clippy::disallowed_methods, reason = "how long outcomes have waited is measured where they wait")]
fn now() -> Instant {
    Instant::now()
}

impl Inbox {
    /// Outcomes that come one after the other are taken out as one event.
    pub(super) fn outcome(&self, token: Token, result: Result<(), Failure>) {
        let outcome = Outcome { token, result };
        let mut held = self.held();
        held.arrived();
        held.outcomes += 1;
        let news = held.outcomes == 1 || held.outcomes == held.enough;
        match held.events.last_mut() {
            Some(SinkEvent::Outcomes(outcomes)) => outcomes.push(outcome),
            None | Some(SinkEvent::Down(_) | SinkEvent::Up) => {
                held.events.push(SinkEvent::Outcomes(vec![outcome]));
            }
        }
        drop(held);
        self.wake_if(news);
    }

    pub(super) fn event(&self, event: SinkEvent) {
        let mut held = self.held();
        held.arrived();
        held.events.push(event);
        drop(held);
        self.wake_if(true);
    }

    pub(super) fn clear(&self) {
        *self.held() = Held::default();
    }

    /// Waits until there is something, and for up to [`PATIENCE`] until there are `enough` outcomes.
    /// Cancel safe: events leave the inbox and are returned without an await in between.
    pub(super) async fn take(&self, enough: usize) -> Vec<SinkEvent> {
        loop {
            // A wake that comes after this look is stored, so it is not missed.
            match self.look(enough) {
                Look::Ripe(events) => return events,
                Look::Ripens(at) => {
                    let _ = tokio::time::timeout_at(at.into(), self.filled.notified()).await;
                }
                Look::Empty => self.filled.notified().await,
            }
        }
    }

    fn look(&self, enough: usize) -> Look {
        let mut held = self.held();
        held.enough = enough;
        match held.ripe_at() {
            None => Look::Empty,
            Some(at) if at > now() => Look::Ripens(at),
            Some(_) => Look::Ripe(std::mem::take(&mut *held).events),
        }
    }

    /// One wake a batch: whoever finds the inbox empty or makes it full rings.
    fn wake_if(&self, news: bool) {
        if news {
            self.filled.notify_one();
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().expect("no thread panics while it holds the events")
    }
}

/// Up to this many unanswered shipments, every outcome is passed on at once.
const TRICKLE_MAX: usize = 64;

/// How many shipments have no outcome that was taken.
#[derive(Debug, Default)]
pub(super) struct Unanswered(usize);

impl Unanswered {
    pub(super) fn add(&mut self, shipments: usize) {
        self.0 += shipments;
    }

    pub(super) fn taken(&mut self, events: &[SinkEvent]) {
        self.0 = self.0.saturating_sub(answered(events));
    }

    /// How many outcomes are worth taking before others join them: with many on their way the next ones
    /// are close behind; with few, each is waited for.
    pub(super) const fn enough(&self) -> usize {
        enough(self.0)
    }
}

/// The same for whoever counts the `unanswered` ones himself.
pub(super) const fn enough(unanswered: usize) -> usize {
    if unanswered < TRICKLE_MAX { 1 } else { unanswered / 2 }
}

/// How many outcomes these events bring.
fn answered(events: &[SinkEvent]) -> usize {
    let outcomes = |event: &SinkEvent| match event {
        SinkEvent::Outcomes(outcomes) => outcomes.len(),
        SinkEvent::Down(_) | SinkEvent::Up => 0,
    };
    events.iter().map(outcomes).sum()
}

enum Look {
    Empty,
    Ripens(Instant),
    Ripe(Vec<SinkEvent>),
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "a test owns its tasks")]

    use futures_util::FutureExt as _;

    use super::super::{ErrorType, Fault};
    use super::*;

    #[tokio::test]
    async fn outcomes_are_taken_in_batches_and_in_order_around_other_events() {
        let inbox = Inbox::default();
        let down = Failure::unknown(Fault::Unavailable, ErrorType::BrokerUnavailable, "gone");
        inbox.outcome(Token(1), Ok(()));
        inbox.outcome(Token(2), Ok(()));
        inbox.event(SinkEvent::Down(down.clone()));
        inbox.outcome(Token(3), Ok(()));
        let ok = |token| Outcome { token: Token(token), result: Ok(()) };
        let expected = [
            SinkEvent::Outcomes(vec![ok(1), ok(2)]),
            SinkEvent::Down(down),
            SinkEvent::Outcomes(vec![ok(3)]),
        ];
        assert_eq!(inbox.take(1).await, expected);
        assert_eq!(inbox.take(1).now_or_never(), None);
    }

    #[tokio::test]
    async fn a_wait_that_is_dropped_loses_nothing() {
        let inbox = Inbox::default();
        assert_eq!(inbox.take(1).now_or_never(), None);
        inbox.event(SinkEvent::Up);
        drop(inbox.take(1));
        assert_eq!(inbox.take(1).await, [SinkEvent::Up]);
    }

    #[tokio::test]
    async fn a_task_that_waits_is_woken_by_another_thread() {
        let inbox = std::sync::Arc::new(Inbox::default());
        let filler = std::sync::Arc::clone(&inbox);
        let taken = tokio::spawn(async move { inbox.take(1).await });
        tokio::task::yield_now().await;
        std::thread::spawn(move || filler.event(SinkEvent::Up));
        assert_eq!(taken.await.expect("the task ends"), [SinkEvent::Up]);
    }
}

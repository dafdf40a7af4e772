//! Events on their way from a client's own thread to the pump.

use std::sync::{Mutex, MutexGuard};

use tokio::sync::Notify;

use super::{Failure, Outcome, SinkEvent, Token};

/// Any thread puts events in, in order; one task takes all of them out at once.
///
/// It has no bound of its own: a sink reports one outcome for each shipment it was handed, so the
/// relay's window bounds it.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    events: Mutex<Vec<SinkEvent>>,
    filled: Notify,
}

impl Inbox {
    /// Outcomes that come one after the other are taken out as one event.
    pub(super) fn outcome(&self, token: Token, result: Result<(), Failure>) {
        let outcome = Outcome { token, result };
        let mut events = self.events();
        match events.last_mut() {
            Some(SinkEvent::Outcomes(outcomes)) => outcomes.push(outcome),
            None | Some(SinkEvent::Down(_) | SinkEvent::Up) => {
                let wake = events.is_empty();
                events.push(SinkEvent::Outcomes(vec![outcome]));
                drop(events);
                self.wake_if(wake);
            }
        }
    }

    pub(super) fn event(&self, event: SinkEvent) {
        let mut events = self.events();
        let wake = events.is_empty();
        events.push(event);
        drop(events);
        self.wake_if(wake);
    }

    pub(super) fn clear(&self) {
        self.events().clear();
    }

    /// Waits until there is something. Cancel safe: events leave the inbox and are returned without an
    /// await in between.
    pub(super) async fn take(&self) -> Vec<SinkEvent> {
        loop {
            let events = std::mem::take(&mut *self.events());
            if !events.is_empty() {
                return events;
            }
            // A wake that came since the look above is stored, so it is not missed.
            self.filled.notified().await;
        }
    }

    /// One wake a batch: whoever finds the inbox empty rings, the others find it ringing.
    fn wake_if(&self, was_empty: bool) {
        if was_empty {
            self.filled.notify_one();
        }
    }

    fn events(&self) -> MutexGuard<'_, Vec<SinkEvent>> {
        self.events.lock().expect("no thread panics while it holds the events")
    }
}

#[cfg(test)]
mod tests {
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
        assert_eq!(inbox.take().await, expected);
        assert_eq!(inbox.take().now_or_never(), None);
    }

    #[tokio::test]
    async fn a_wait_that_is_dropped_loses_nothing() {
        let inbox = Inbox::default();
        assert_eq!(inbox.take().now_or_never(), None);
        inbox.event(SinkEvent::Up);
        drop(inbox.take());
        assert_eq!(inbox.take().await, [SinkEvent::Up]);
    }

    #[tokio::test]
    async fn a_task_that_waits_is_woken_by_another_thread() {
        let inbox = std::sync::Arc::new(Inbox::default());
        let filler = std::sync::Arc::clone(&inbox);
        let taken = tokio::spawn(async move { inbox.take().await });
        tokio::task::yield_now().await;
        std::thread::spawn(move || filler.event(SinkEvent::Up));
        assert_eq!(taken.await.expect("the task ends"), [SinkEvent::Up]);
    }
}

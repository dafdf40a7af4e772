//! The only loop: carries the relay's actions out and what came of them back in. It decides nothing.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::time::Instant;

use crate::relay::{Action, Exit, Input, Relay, View};
use crate::route::Route;
use crate::sink::Sink;
use crate::source::{Batch, Source, SourceError};

/// Listens to everything that passes the pump: metrics and logs.
pub trait Observer: Send {
    /// An action about to be carried out, at `now` since the pump started.
    fn action(&mut self, now: Duration, action: &Action);
    /// Something that happened, before the relay hears of it.
    fn input(&mut self, now: Duration, input: &Input);
    /// The relay's state once it has decided.
    fn view(&mut self, now: Duration, view: &View);
}

/// Several listeners, told one after the other.
impl Observer for Vec<Box<dyn Observer>> {
    fn action(&mut self, now: Duration, action: &Action) {
        self.iter_mut().for_each(|observer| observer.action(now, action));
    }

    fn input(&mut self, now: Duration, input: &Input) {
        self.iter_mut().for_each(|observer| observer.input(now, input));
    }

    fn view(&mut self, now: Duration, view: &View) {
        self.iter_mut().for_each(|observer| observer.view(now, view));
    }
}

/// What people ask of a running relay.
pub trait Requests: Send {
    /// Resolves with [`Input::Drain`] or [`Input::Abort`] when one is asked for. Cancel safe.
    fn next(&mut self) -> impl Future<Output = Input> + Send;
}

/// A call on the source that is under way; at most one of each kind.
type Work<'a> = Pin<Box<dyn Future<Output = Answer> + Send + 'a>>;

/// What a call on the source came to: rows are still to be made records.
enum Answer {
    Read { number: u64, result: Result<Batch, SourceError> },
    Else(Input),
}

use Answer::{Else, Read};

impl Answer {
    fn routed(self, route: &mut Route) -> Input {
        match self {
            Self::Else(input) => input,
            Self::Read { number, result } => Input::Fetched {
                number,
                result: result.map(|batch| Batch {
                    messages: batch.messages.into_iter().map(|message| route.apply(message)).collect(),
                    cut: batch.cut,
                    highest: batch.highest,
                    writers: batch.writers,
                    remarks: batch.remarks,
                }),
            },
        }
    }
}

/// Runs `relay` between `source` and `sink` until it stops.
pub async fn pump<S: Source, K: Sink>(
    mut relay: Relay,
    source: &S,
    sink: &mut K,
    route: &mut Route,
    observer: &mut dyn Observer,
    requests: &mut impl Requests,
) -> Exit {
    let started = Instant::now();
    let mut under_way: FuturesUnordered<Work<'_>> = FuturesUnordered::new();
    relay.handle(Duration::ZERO, Input::Tick);
    loop {
        while let Some(action) = relay.next_action() {
            observer.action(started.elapsed(), &action);
            match action {
                Action::Lease => under_way.push(Box::pin(source.lease().map(|a| Else(Input::Lease(a))))),
                Action::Release => {
                    under_way.push(Box::pin(source.release().map(|a| Else(Input::Released(a)))))
                }
                Action::Fetch(fetch) => {
                    let number = fetch.number;
                    under_way.push(Box::pin(source.fetch(fetch).map(move |result| Read { number, result })));
                }
                Action::Settle(batch) => {
                    under_way.push(Box::pin(source.settle(batch).map(|a| Else(Input::Settled(a)))));
                }
                Action::Measure => {
                    under_way.push(Box::pin(source.backlog().map(|a| Else(Input::Measured(a)))));
                }
                Action::Listen => under_way.push(Box::pin(source.listen().map(|a| Else(Input::Hinted(a))))),
                Action::Open(epoch) => {
                    let opened = Input::Opened(sink.open(epoch).await);
                    observer.input(started.elapsed(), &opened);
                    relay.handle(started.elapsed(), opened);
                }
                Action::Publish(shipments) => sink.publish(shipments),
                Action::Purge => sink.purge(),
                Action::Tell(_) => {}
                Action::Stop(exit) => return exit,
            }
        }
        let now = started.elapsed();
        observer.view(now, &relay.view(now));
        let wake_at = started + relay.wake_at(now).min(now + TURN_EVERY);
        let input = tokio::select! { biased;
            // 1 A request to stop comes before any work.
            request = requests.next() => request,
            // 2 Confirmations free lanes; they are facts that must be marked.
            events = sink.events() => Input::Sink(events),
            // 3 The database's answers: settlements free the window, reads fill it.
            Some(answer) = under_way.next() => answer.routed(route),
            // 4 Time. Every input also makes the relay look at the clock, so 1 to 3 cannot starve it.
            () = tokio::time::sleep_until(wake_at) => Input::Tick,
        };
        let now = started.elapsed();
        observer.input(now, &input);
        relay.handle(now, input);
    }
}

/// The loop turns at least this often, though nothing happens and nothing answers: a loop that waits
/// can be told from one that is stuck, and observers hear the time.
const TURN_EVERY: Duration = Duration::from_secs(5);

//! RabbitMQ, by lapin and one task that keeps its connection.
//!
//! What is published goes to the `keeper`, which connects and takes the pipeline's lock queue; `service`
//! publishes on a connection, over several channels, in windows that are settled as a whole (`window`);
//! `stock` and `queue` say what is next, `misses` what need not be tried just now,
//! `pulse` whether the broker still answers. A record becomes a message in `parcel`; what the broker's codes
//! mean is in `classify`; how a connection is made, and ended for good, in `link`.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use foldhash::{HashSet, HashSetExt as _};
use futures_util::FutureExt as _;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::inbox::{Inbox, enough};
use super::{ErrorType, Failure, Fault, Outcome, Shipment, Sink, SinkEvent, Token};
use crate::config;
use crate::message::RowRef;

mod classify;
mod keeper;
mod link;
mod misses;
mod parcel;
mod pulse;
mod queue;
mod service;
mod stock;
mod teller;
mod tls;
mod window;

pub(crate) use classify::outage;
use keeper::{Keeper, Order};
use link::{Settings, Wire};

/// How long `open` and `close` wait for the keeper to end: longer than a close in good order may take.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// A RabbitMQ broker as a [`Sink`]. It connects when it is opened, holding the pipeline's lock queue.
pub struct RabbitSink {
    settings: Arc<Settings>,
    inbox: Arc<Inbox>,
    /// Shipments without an outcome that was taken.
    open: HashSet<Token>,
    kept: Option<Kept>,
}

/// A connection for whoever is not a relay: the sink's own in all but the lock queue.
pub(crate) async fn connect(broker: &config::RabbitMq) -> Result<lapin::Connection, Failure> {
    let settings = Settings { broker: broker.clone(), pipeline: String::new() };
    link::greeted(&settings, &Arc::default()).await
}

/// A keeper at work.
struct Kept {
    orders: mpsc::UnboundedSender<Order>,
    switch: Arc<Switch>,
    task: JoinHandle<()>,
}

/// Ends whatever connection the keeper has or makes, without its help.
#[derive(Debug, Default)]
struct Switch(Mutex<Arc<Wire>>);

impl Switch {
    /// The wire of the next attempt to connect.
    fn renew(&self) -> Arc<Wire> {
        let wire = Arc::default();
        *self.wire() = Arc::clone(&wire);
        wire
    }

    fn off(&self) {
        self.wire().cut();
    }

    fn wire(&self) -> std::sync::MutexGuard<'_, Arc<Wire>> {
        self.0.lock().expect("no thread panics while it holds the wire")
    }
}

impl RabbitSink {
    #[must_use]
    pub fn new(broker: &config::RabbitMq, pipeline: &str) -> Self {
        let settings = Settings { broker: broker.clone(), pipeline: pipeline.to_owned() };
        Self { settings: Arc::new(settings), inbox: Arc::default(), open: HashSet::new(), kept: None }
    }

    /// Ends the keeper of an earlier epoch. Nobody reads its inbox any more.
    fn retire(&mut self) -> Option<JoinHandle<()>> {
        self.inbox = Arc::default();
        self.open.clear();
        let Kept { orders, switch, task } = self.kept.take()?;
        drop(orders);
        switch.off();
        Some(task)
    }
}

impl Sink for RabbitSink {
    async fn open(&mut self, _epoch: u64) -> Result<Vec<RowRef>, Failure> {
        if let Some(task) = self.retire() {
            // Late or not: its connection is cut, and the lock queue free as soon as the broker sees it.
            let _ = tokio::time::timeout(END_TIMEOUT, task).await;
        }
        let (orders, taken) = mpsc::unbounded_channel();
        let switch = Arc::new(Switch::default());
        let keeper =
            Keeper::new(Arc::clone(&self.settings), Arc::clone(&self.inbox), taken, Arc::clone(&switch));
        #[allow(
            clippy::disallowed_methods,
            reason = "`retire` and `close` await it, and it ends with its orders"
        )]
        let task = tokio::spawn(keeper.run());
        self.kept = Some(Kept { orders, switch, task });
        Ok(Vec::new())
    }

    fn publish(&mut self, shipments: Vec<Shipment>) {
        self.open.extend(shipments.iter().map(|shipment| shipment.token));
        let Some(kept) = &self.kept else { return self.turn_away(&shipments) };
        if let Err(mpsc::error::SendError(Order::Publish(shipments))) =
            kept.orders.send(Order::Publish(shipments))
        {
            self.turn_away(&shipments);
        }
    }

    async fn events(&mut self) -> Vec<SinkEvent> {
        loop {
            let end = tokio::select! { biased;
                events = self.inbox.take(enough(self.open.len())) => return self.taken(events),
                end = ended(&mut self.kept) => end,
            };
            // It cannot end while it may still get orders, but by a panic.
            self.kept = None;
            let events = self.abandoned(&end);
            if !events.is_empty() {
                return events;
            }
        }
    }

    fn purge(&mut self) {
        if let Some(kept) = &self.kept {
            // In this order: whoever sees the connection end finds out why.
            let _ = kept.orders.send(Order::Purge);
            kept.switch.off();
        }
    }

    async fn close(&mut self) {
        let Some(Kept { orders, switch, task }) = self.kept.take() else { return };
        drop(orders);
        let _ = tokio::time::timeout(END_TIMEOUT, task).await;
        switch.off();
    }
}

/// The end of the keeper's task.
async fn ended(kept: &mut Option<Kept>) -> String {
    match kept {
        Some(kept) => match (&mut kept.task).await {
            Ok(()) => "it has ended".to_owned(),
            Err(error) => error.to_string(),
        },
        None => std::future::pending().await,
    }
}

impl RabbitSink {
    fn taken(&mut self, events: Vec<SinkEvent>) -> Vec<SinkEvent> {
        for event in &events {
            match event {
                SinkEvent::Outcomes(outcomes) => {
                    for outcome in outcomes {
                        self.open.remove(&outcome.token);
                    }
                }
                SinkEvent::Down(_) | SinkEvent::Up => {}
            }
        }
        events
    }

    /// What the keeper still told, and the failure of everything it left without an answer.
    fn abandoned(&mut self, end: &str) -> Vec<SinkEvent> {
        let told = self.inbox.take(1).now_or_never().unwrap_or_default();
        let mut events = self.taken(told);
        let reason = format!("the task that keeps the connection to RabbitMQ failed: {end}");
        let failure = Failure::unknown(Fault::Fatal, ErrorType::Other, reason);
        let mut left: Vec<Token> = self.open.drain().collect();
        left.sort_unstable();
        if !left.is_empty() {
            let outcome = |token| Outcome { token, result: Err(failure.clone()) };
            events.push(SinkEvent::Outcomes(left.into_iter().map(outcome).collect()));
        }
        events
    }

    /// Without a keeper nothing can be sent until the sink is opened again.
    fn turn_away(&self, shipments: &[Shipment]) {
        let failure = Failure::refused(Fault::Fatal, ErrorType::Other, "the RabbitMQ client is not open");
        for shipment in shipments {
            self.inbox.outcome(shipment.token, Err(failure.clone()));
        }
    }
}

impl Drop for RabbitSink {
    fn drop(&mut self) {
        self.retire();
    }
}

impl fmt::Debug for RabbitSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RabbitSink").field("open", &self.kept.is_some()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::{Destination, Record};

    fn shipment(token: u64) -> Shipment {
        let record = Record {
            destination: Destination::Topic("anywhere".into()),
            key: None,
            headers: vec![],
            body: None,
            timestamp_ms: None,
            properties: None,
        };
        Shipment { token: Token(token), record: Arc::new(record) }
    }

    /// A sink whose keeper confirms the first message it is given and panics over the next.
    #[allow(clippy::disallowed_methods, reason = "the sink owns the task")]
    fn with_a_bad_keeper() -> RabbitSink {
        let settings = crate::config::RabbitMq {
            url: crate::config::Secret::new("amqp://localhost"),
            ca_file: None,
            identity: None,
            channels: 1,
            confirm_timeout: Duration::from_secs(20),
            heartbeat: Duration::from_secs(5),
            connection_name: None,
            lock: None,
            message_bytes_max: 1_000,
        };
        let mut sink = RabbitSink::new(&settings, "orders");
        let (orders, mut taken) = mpsc::unbounded_channel();
        let inbox = Arc::clone(&sink.inbox);
        let task = tokio::spawn(async move {
            let Some(Order::Publish(first)) = taken.recv().await else { return };
            inbox.outcome(first[0].token, Ok(()));
            panic!("over the second");
        });
        sink.kept = Some(Kept { orders, switch: Arc::default(), task });
        sink
    }

    #[tokio::test]
    async fn when_its_task_panics_every_open_message_fails_once_and_says_so() {
        let mut sink = with_a_bad_keeper();
        sink.publish((0..200).map(shipment).collect());
        let mut outcomes = Vec::new();
        while outcomes.len() < 200 {
            let events = tokio::time::timeout(END_TIMEOUT, sink.events()).await;
            for event in events.expect("an event before the deadline") {
                let SinkEvent::Outcomes(told) = event else { panic!("{event:?}") };
                outcomes.extend(told);
            }
        }
        assert_eq!(outcomes[0], Outcome { token: Token(0), result: Ok(()) });
        for (token, outcome) in (1..200).zip(&outcomes[1..]) {
            let failure = outcome.result.as_ref().expect_err("a failure");
            assert_eq!((outcome.token, failure.fault), (Token(token), Fault::Fatal));
            assert!(failure.maybe_published && failure.reason.contains("over the second"), "{failure}");
        }
        // Until it is opened again there is nothing to send with.
        sink.publish(vec![shipment(200)]);
        let [SinkEvent::Outcomes(told)] = &sink.events().await[..] else { panic!("one outcome") };
        assert!(told[0].result.as_ref().is_err_and(|failure| failure.fault == Fault::Fatal));
    }
}

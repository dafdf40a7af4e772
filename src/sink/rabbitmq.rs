//! RabbitMQ, by lapin and one task that keeps its connection.
//!
//! What is published goes to the `keeper`, which connects and takes the pipeline's lock queue; `service`
//! publishes on a connection, over several channels, in windows that are settled as a whole (`window`);
//! `stock` and `queue` say what is next, `misses` what need not be tried just now. A record becomes a message in `parcel`; what the broker's codes
//! mean is in `classify`; how a connection is made, and ended for good, in `link`.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::inbox::{Inbox, Unanswered};
use super::{ErrorType, Failure, Fault, Shipment, Sink, SinkEvent};
use crate::config;
use crate::message::RowRef;

mod classify;
mod keeper;
mod link;
mod misses;
mod parcel;
mod queue;
mod service;
mod stock;
mod teller;
mod tls;
mod window;

use keeper::{Keeper, Order};
use link::{Settings, Wire};

/// How long `open` and `close` wait for the keeper to end: longer than a close in good order may take.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// A RabbitMQ broker as a [`Sink`]. It connects when it is opened, holding the pipeline's lock queue.
pub struct RabbitSink {
    settings: Arc<Settings>,
    inbox: Arc<Inbox>,
    unanswered: Unanswered,
    kept: Option<Kept>,
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
        Self {
            settings: Arc::new(settings),
            inbox: Arc::default(),
            unanswered: Unanswered::default(),
            kept: None,
        }
    }

    /// Ends the keeper of an earlier epoch. Nobody reads its inbox any more.
    fn retire(&mut self) -> Option<JoinHandle<()>> {
        let Kept { orders, switch, task } = self.kept.take()?;
        self.inbox = Arc::default();
        self.unanswered = Unanswered::default();
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
        self.unanswered.add(shipments.len());
        let Some(kept) = &self.kept else { return self.turn_away(&shipments) };
        if let Err(mpsc::error::SendError(Order::Publish(shipments))) =
            kept.orders.send(Order::Publish(shipments))
        {
            self.turn_away(&shipments);
        }
    }

    async fn events(&mut self) -> Vec<SinkEvent> {
        let events = self.inbox.take(self.unanswered.enough()).await;
        self.unanswered.taken(&events);
        events
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

impl RabbitSink {
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

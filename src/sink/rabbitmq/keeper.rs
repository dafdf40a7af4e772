//! The one task behind the sink: it connects, and connects again. What it does on a connection is in
//! `service`.
//!
//! ```text
//!              something to do            connected, lock queue ours
//!   Resting ────────────────────▶ Linking ───────────────────────────▶ Serving
//!      ▲                            ▲ ▲│ with pauses                    │ │
//!      │                            │ └┘                                │ │
//!      │                            └──── connection lost, a pause ─────┘ │
//!      └─────────────────────────────── purged ───────────────────────────┘
//! ```
//!
//! It starts with linking, so that the lock queue is ours as soon as the lease is. After a purge it rests
//! until there is something to publish: whoever purged may have lost the lease, and the lock with it.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Switch;
use super::link::{Link, Settings};
use super::service::Service;
use super::stock::Stock;
use super::teller::Teller;
use crate::relay::Backoff;
use crate::sink::inbox::Inbox;
use crate::sink::{ErrorType, Failure, Shipment};

/// Between two attempts to connect: a broker that restarts is found soon, one that is gone is no load, nor
/// is one that ends every connection it has just accepted.
const RECONNECT: Backoff = Backoff { min: Duration::from_millis(100), max: Duration::from_secs(5) };

/// The lock queue of a connection that has just ended takes the broker a moment to delete; what takes
/// longer is another relay.
const LOCK_GRACE: Duration = Duration::from_secs(1);

/// What the sink asks of its keeper.
#[derive(Debug)]
pub(super) enum Order {
    Publish(Vec<Shipment>),
    Purge,
}

/// Why a state ended before its work was done.
#[derive(Debug)]
pub(super) enum End {
    /// The sink was closed, opened again or dropped: nobody waits for an outcome.
    Closed,
    Purged,
    /// The connection is gone, which has been told.
    Lost,
}

pub(super) struct Keeper {
    settings: Arc<Settings>,
    orders: mpsc::UnboundedReceiver<Order>,
    switch: Arc<Switch>,
    stock: Stock,
    teller: Teller,
    /// To connect since the broker last confirmed something: an accepted connection proves nothing yet.
    attempts: u32,
    /// Spreads the attempts of many relays that lost the same broker.
    chance: SmallRng,
}

impl Keeper {
    pub(super) fn new(
        settings: Arc<Settings>,
        inbox: Arc<Inbox>,
        orders: mpsc::UnboundedReceiver<Order>,
        switch: Arc<Switch>,
    ) -> Self {
        let stock = Stock::new(settings.broker.channels);
        let (teller, chance) = (Teller::new(inbox), SmallRng::from_os_rng());
        Self { settings, orders, switch, stock, teller, attempts: 0, chance }
    }

    /// Until the sink lets go of its end of the orders.
    pub(super) async fn run(mut self) {
        loop {
            match self.hold().await {
                End::Closed => return,
                End::Lost => {}
                End::Purged => {
                    self.attempts = 0;
                    if self.rest().await.is_none() {
                        return;
                    }
                }
            }
        }
    }

    /// One connection, from its making to its end.
    async fn hold(&mut self) -> End {
        let link = match self.link().await {
            Ok(link) => link,
            Err(end) => return end,
        };
        let Self { settings, orders, stock, teller, .. } = self;
        let end = Service::new(settings, link, orders, stock, teller).run().await;
        if self.teller.take_confirmed() {
            // It was a good connection. The next one has a pause before it all the same.
            self.attempts = 1;
        }
        end
    }

    /// Gives everything back and waits for something new; `None` if nothing ever comes.
    async fn rest(&mut self) -> Option<()> {
        loop {
            let (doubtful, unsent) = self.stock.drain();
            self.teller.purged(&doubtful, &unsent);
            match self.orders.recv().await? {
                Order::Publish(shipments) => {
                    self.stock.admit(shipments);
                    return Some(());
                }
                Order::Purge => {}
            }
        }
    }

    /// Connects, however long it takes.
    async fn link(&mut self) -> Result<Link, End> {
        let since = Instant::now();
        loop {
            self.pause().await?;
            match self.attempt().await? {
                Ok(link) => {
                    self.stock.forget_exchanges();
                    self.teller.up();
                    return Ok(link);
                }
                Err(failure) => {
                    let is_locked = failure.error_type == ErrorType::Fenced;
                    if !is_locked || since.elapsed() >= LOCK_GRACE {
                        self.teller.down(failure);
                    }
                }
            }
        }
    }

    /// Before every attempt but the first.
    async fn pause(&mut self) -> Result<(), End> {
        let earlier = self.attempts;
        self.attempts = earlier.saturating_add(1);
        let Some(retry) = earlier.checked_sub(1) else { return Ok(()) };
        let pause = RECONNECT.pause(retry, self.chance.random());
        self.meanwhile(tokio::time::sleep(pause)).await
    }

    async fn attempt(&mut self) -> Result<Result<Link, Failure>, End> {
        let wire = self.switch.renew();
        let link = Link::make(Arc::clone(&self.settings), Arc::clone(&wire));
        let made = self.meanwhile(link).await;
        if !matches!(made, Ok(Ok(_))) {
            // It may be half connected, or will be in a moment.
            wire.cut();
        }
        made
    }

    /// Takes orders until `work` is done.
    async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> Result<T, End> {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! { biased;
                order = self.orders.recv() => match order {
                    Some(Order::Publish(shipments)) => self.stock.admit(shipments),
                    Some(Order::Purge) => return Err(End::Purged),
                    None => return Err(End::Closed),
                },
                done = &mut work => return Ok(done),
            }
        }
    }
}

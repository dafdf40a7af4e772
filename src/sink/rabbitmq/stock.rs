//! Everything that waits to be published: by channel, once its exchange was seen to exist. Pure.
//!
//! A message to an exchange that does not exist ends its channel, and with it its neighbours' hopes of an
//! answer. So an exchange is looked for, on a channel of its own, before the first message goes there.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::queue::{Batch, Queue, exchange, queue_of};
use crate::sink::Shipment;

#[derive(Debug)]
pub(super) struct Stock {
    queues: Vec<Queue>,
    /// Whose turn it is among those without a key.
    turn: usize,
    /// Exchanges the present connection has seen.
    seen: HashSet<Arc<str>>,
    /// What waits until its exchange was looked for.
    unseen: BTreeMap<Arc<str>, Vec<Shipment>>,
}

impl Stock {
    pub(super) fn new(channels: usize) -> Self {
        let queues = (0..channels).map(|_| Queue::default()).collect();
        Self { queues, turn: 0, seen: HashSet::new(), unseen: BTreeMap::new() }
    }

    /// On a new connection every exchange is looked for again: the broker may be another.
    pub(super) fn forget_exchanges(&mut self) {
        self.seen.clear();
    }

    pub(super) fn forget_exchange_of(&mut self, shipment: &Shipment) {
        if let Some(exchange) = exchange(shipment) {
            self.seen.remove(exchange);
        }
    }

    pub(super) fn admit(&mut self, shipments: Vec<Shipment>) {
        for shipment in shipments {
            match exchange(&shipment) {
                Some(exchange) if !self.seen.contains(exchange) => {
                    self.unseen.entry(Arc::clone(exchange)).or_default().push(shipment);
                }
                Some(_) | None => self.enqueue(shipment),
            }
        }
    }

    fn enqueue(&mut self, shipment: Shipment) {
        self.turn = self.turn.wrapping_add(1);
        let queue = queue_of(&shipment, self.turn, self.queues.len());
        self.queues[queue].push(shipment);
    }

    /// An exchange to look for.
    pub(super) fn exchange_to_see(&self) -> Option<Arc<str>> {
        self.unseen.keys().next().map(Arc::clone)
    }

    /// The exchange exists: what waited for it may go.
    pub(super) fn seen(&mut self, exchange: Arc<str>) {
        let waiting = self.unseen.remove(&exchange).unwrap_or_default();
        self.seen.insert(exchange);
        waiting.into_iter().for_each(|shipment| self.enqueue(shipment));
    }

    /// The exchange cannot be used: takes out what waited for it.
    pub(super) fn missed(&mut self, exchange: &Arc<str>) -> Vec<Shipment> {
        self.unseen.remove(exchange).unwrap_or_default()
    }

    /// The next window of a channel.
    pub(super) fn next(&mut self, channel: usize) -> Option<Batch> {
        self.queues[channel].next()
    }

    pub(super) fn queue(&mut self, channel: usize) -> &mut Queue {
        &mut self.queues[channel]
    }

    /// Takes out everything: what may have been published before, and what never was.
    pub(super) fn drain(&mut self) -> (Vec<Shipment>, Vec<Shipment>) {
        let (mut doubtful, mut unsent) = (Vec::new(), Vec::new());
        for queue in &mut self.queues {
            let (apart, queued) = queue.drain();
            doubtful.extend(apart);
            unsent.extend(queued);
        }
        unsent.extend(std::mem::take(&mut self.unseen).into_values().flatten());
        (doubtful, unsent)
    }
}

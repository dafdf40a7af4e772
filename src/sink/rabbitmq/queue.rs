//! What waits to be published, and on which channel: windows are cut here, and suspects set apart. Pure.
//!
//! A channel that the broker closes leaves all its unconfirmed messages in doubt for one that was at
//! fault. They are published again in halves, before anything else on their channel, until the guilty
//! one is alone: its neighbours are delivered, perhaps twice, and only it fails.

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasher as _, Hash as _, Hasher as _};
use std::sync::Arc;

use bytes::Bytes;

use crate::sink::{Destination, Shipment};

/// Messages of one window. The client looks through all unconfirmed ones of a channel when many are
/// confirmed at once, so there must not be too many; and enough to cover a broker's sync to disk.
const WINDOW_ROWS_MAX: usize = 512;

/// Bytes of one window, beyond which nothing is gained by more.
const WINDOW_BYTES_MAX: usize = 1 << 20;

/// A window to be: whose messages are to be published together.
#[derive(Debug, Clone)]
pub(super) struct Batch {
    pub(super) shipments: Vec<Shipment>,
    /// One of them may be to blame for the end of a channel, so they may have been published before.
    pub(super) suspected: bool,
}

/// What waits for one channel.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// The next last. Before anything else, so that order within a key is kept.
    set_apart: Vec<Batch>,
    queued: VecDeque<Shipment>,
}

impl Queue {
    pub(super) fn push(&mut self, shipment: Shipment) {
        self.queued.push_back(shipment);
    }

    /// Takes what is to be published next.
    pub(super) fn next(&mut self) -> Option<Batch> {
        if let Some(batch) = self.set_apart.pop() {
            return Some(batch);
        }
        let (mut shipments, mut bytes, mut ids) = (Vec::new(), 0, HashSet::new());
        while let Some(shipment) = self.queued.front() {
            let full = shipments.len() == WINDOW_ROWS_MAX || bytes >= WINDOW_BYTES_MAX;
            if full || !ids.insert(message_id(shipment)) {
                break;
            }
            bytes += shipment.record.bytes();
            shipments.extend(self.queued.pop_front());
        }
        (!shipments.is_empty()).then_some(Batch { shipments, suspected: false })
    }

    /// Messages that did not leave, or that somebody else's fault left in doubt, go first again.
    pub(super) fn put_back(&mut self, batch: Batch) {
        if !batch.shipments.is_empty() {
            self.set_apart.push(batch);
        }
    }

    /// Messages one of which is to blame go first, in halves.
    pub(super) fn suspect(&mut self, shipments: Vec<Shipment>, blames_destination: bool) {
        let (first, second) = halves(shipments, blames_destination);
        for shipments in [second, first] {
            self.put_back(Batch { shipments, suspected: true });
        }
    }

    /// Takes out everything: what may have been published before, and what never was.
    pub(super) fn drain(&mut self) -> (Vec<Shipment>, Vec<Shipment>) {
        let apart = self.set_apart.drain(..).rev().flat_map(|batch| batch.shipments).collect();
        (apart, self.queued.drain(..).collect())
    }
}

/// Which of `count` queues takes a shipment: always the same for one key of an exchange, by whatever it is
/// routed. Those without a key take turns.
pub(super) fn queue_of(shipment: &Shipment, turn: usize, count: usize) -> usize {
    let Some(key) = &shipment.record.key else { return turn % count };
    let mut hasher = foldhash::fast::FixedState::default().build_hasher();
    destination(shipment).name().hash(&mut hasher);
    key.hash(&mut hasher);
    usize::try_from(hasher.finish() % count as u64).expect("less than count")
}

/// Whether all of them go to one place.
pub(super) fn share_destination(shipments: &[Shipment]) -> bool {
    shipments.windows(2).all(|pair| destination(&pair[0]) == destination(&pair[1]))
}

/// The id by which a returned message is recognised.
pub(super) fn message_id(shipment: &Shipment) -> Bytes {
    shipment.record.properties.as_ref().map_or_else(Bytes::new, |said| said.message_id.clone())
}

/// The exchange, if there is one to look for: the default exchange is always there.
pub(super) fn exchange(shipment: &Shipment) -> Option<&Arc<str>> {
    match destination(shipment) {
        Destination::Exchange { exchange, .. } if !exchange.is_empty() => Some(exchange),
        Destination::Exchange { .. } | Destination::Topic(_) => None,
    }
}

fn destination(shipment: &Shipment) -> &Destination {
    &shipment.record.destination
}

/// Where a destination is to blame, its messages stay together: they fail together. Messages of one
/// destination keep their order.
fn halves(mut shipments: Vec<Shipment>, blames_destination: bool) -> (Vec<Shipment>, Vec<Shipment>) {
    let mut middle = shipments.len() / 2;
    if blames_destination {
        shipments.sort_by(|a, b| destination(a).cmp(destination(b)));
        let borders = 1..shipments.len();
        let borders = borders.filter(|at| destination(&shipments[at - 1]) != destination(&shipments[*at]));
        middle = borders.min_by_key(|at| at.abs_diff(middle)).unwrap_or(middle);
    }
    let second = shipments.split_off(middle);
    (shipments, second)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::{OnUnroutable, Properties, Record, Token};

    fn shipment(token: u64, routing_key: &str, id: &str) -> Shipment {
        let properties = Properties {
            message_id: Bytes::copy_from_slice(id.as_bytes()),
            kind: None,
            content_type: None,
            correlation_id: None,
            reply_to: None,
            app_id: None,
            on_unroutable: OnUnroutable::Block,
        };
        let destination =
            Destination::Exchange { exchange: "events".into(), routing_key: routing_key.into() };
        let record = Record {
            destination,
            key: None,
            headers: vec![],
            body: Some(Bytes::from_static(b"body")),
            timestamp_ms: None,
            properties: Some(Box::new(properties)),
        };
        Shipment { token: Token(token), record: Arc::new(record) }
    }

    fn tokens(batch: Option<Batch>) -> Vec<u64> {
        batch.map_or(vec![], |batch| batch.shipments.iter().map(|shipment| shipment.token.0).collect())
    }

    fn numbered(count: u64) -> Vec<Shipment> {
        (0..count).map(|n| shipment(n, "key", &n.to_string())).collect()
    }

    #[test]
    fn no_window_holds_an_id_twice() {
        let mut queue = Queue::default();
        for (token, id) in [(0, "a"), (1, "b"), (2, "a"), (3, "c")] {
            queue.push(shipment(token, "key", id));
        }
        assert_eq!(tokens(queue.next()), [0, 1]);
        assert_eq!(tokens(queue.next()), [2, 3]);
        assert!(queue.next().is_none());
    }

    #[test]
    fn one_guilty_of_many_is_found_in_a_few_steps_and_the_others_are_published_in_order() {
        let mut queue = Queue::default();
        numbered(512).into_iter().for_each(|shipment| queue.push(shipment));
        queue.push(shipment(999, "key", "999"));
        let (mut delivered, mut guilty, mut ends) = (Vec::new(), Vec::new(), 0);
        while let Some(batch) = queue.next() {
            let is_bad = batch.shipments.iter().any(|shipment| shipment.token.0 == 300);
            match (is_bad, batch.shipments.len()) {
                (false, _) => delivered.extend(tokens(Some(batch))),
                (true, 1) => guilty.extend(tokens(Some(batch))),
                (true, _) => {
                    ends += 1;
                    queue.suspect(batch.shipments, false);
                }
            }
        }
        assert_eq!((guilty, ends), (vec![300], 9));
        let expected: Vec<u64> = (0..512).filter(|n| *n != 300).chain([999]).collect();
        assert_eq!(delivered, expected);
    }

    #[test]
    fn a_blamed_destination_s_messages_stay_together() {
        let keys = ["a", "b", "a", "b", "b", "a", "a", "a", "a"];
        let mixed: Vec<Shipment> = (0..).zip(keys).map(|(n, key)| shipment(n, key, &n.to_string())).collect();
        assert!(!share_destination(&mixed));
        let mut queue = Queue::default();
        queue.suspect(mixed, true);
        assert_eq!(tokens(queue.next()), [0, 2, 5, 6, 7, 8]);
        assert_eq!(tokens(queue.next()), [1, 3, 4]);
    }

    #[test]
    fn a_key_of_an_exchange_always_takes_the_same_channel() {
        let keyed = |routing_key: &str, key: &str| {
            let plain = shipment(0, routing_key, "id");
            let key = Some(Bytes::copy_from_slice(key.as_bytes()));
            Shipment { record: Arc::new(Record { key, ..(*plain.record).clone() }), ..plain }
        };
        let taken: HashSet<usize> =
            (0..100).map(|n| queue_of(&keyed("orders", &format!("key-{n}")), n, 8)).collect();
        assert_eq!(taken.len(), 8);
        let routing_keys = ["placed", "paid", "shipped", "returned"];
        let taken: HashSet<usize> =
            (0..).zip(routing_keys).map(|(turn, routed)| queue_of(&keyed(routed, "k"), turn, 8)).collect();
        assert_eq!(taken.len(), 1);
        assert_eq!(queue_of(&shipment(0, "orders", "id"), 9, 8), 1);
    }
}

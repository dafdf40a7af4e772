//! What was committed against what arrived: nothing lost, nothing invented, order within each customer,
//! and how many arrived more than once. Pure; neither Postgres nor a broker is known here.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

/// An order the database holds, and the event it put in the outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Order {
    /// The outbox row's.
    pub(super) id: i64,
    pub(super) customer: String,
    /// Counts the orders of the customer: the order they were placed in, whatever the outbox says.
    pub(super) number: i64,
    pub(super) payload: String,
}

/// A record that was read from the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Arrival {
    pub(super) partition: i32,
    pub(super) offset: i64,
    /// The outbox row it says it comes from.
    pub(super) id: Option<i64>,
    pub(super) key: Option<Vec<u8>>,
    pub(super) payload: Option<Vec<u8>>,
    pub(super) at: Instant,
}

/// Records in the order they were read; within a partition, that of their offsets.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    all: Vec<Arrival>,
    ids: HashSet<i64>,
}

impl Arrivals {
    pub(super) fn push(&mut self, arrival: Arrival) {
        self.ids.extend(arrival.id);
        self.all.push(arrival);
    }

    /// Different rows among them.
    pub(super) fn distinct(&self) -> u64 {
        self.ids.len() as u64
    }
}

/// The comparison.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Audit {
    pub(super) committed: u64,
    pub(super) delivered: u64,
    /// Committed and not on the broker, by the row's id.
    pub(super) lost: Vec<i64>,
    /// On the broker and not committed, or with another key or other bytes, by partition and offset.
    pub(super) phantom: Vec<(i32, i64)>,
    /// Arrived for the first time after a later order of the customer, or in another partition than it,
    /// by the row's id.
    pub(super) disorder: Vec<i64>,
    /// Arrivals of rows that had arrived before.
    pub(super) repeated: u64,
    /// When each row arrived for the first time.
    pub(super) first_arrivals: HashMap<i64, Instant>,
}

pub(super) fn audit(orders: &[Order], arrivals: &Arrivals) -> Audit {
    let known: HashMap<i64, &Order> = orders.iter().map(|order| (order.id, order)).collect();
    let mut audit = Audit { committed: orders.len() as u64, ..Audit::default() };
    // Of each customer: the latest order that has arrived, and where.
    let mut latest: HashMap<&str, (i64, i32)> = HashMap::new();
    for arrival in &arrivals.all {
        let order = arrival.id.and_then(|id| known.get(&id)).filter(|order| is_of(arrival, order));
        let Some(order) = order else {
            audit.phantom.push((arrival.partition, arrival.offset));
            continue;
        };
        if audit.first_arrivals.contains_key(&order.id) {
            audit.repeated += 1;
            continue;
        }
        audit.first_arrivals.insert(order.id, arrival.at);
        let seen = latest.entry(&order.customer).or_insert((order.number, arrival.partition));
        if order.number < seen.0 || arrival.partition != seen.1 {
            audit.disorder.push(order.id);
        }
        seen.0 = seen.0.max(order.number);
    }
    let arrived = |id: &i64| audit.first_arrivals.contains_key(id);
    audit.lost = orders.iter().map(|order| order.id).filter(|id| !arrived(id)).collect();
    audit.delivered = audit.first_arrivals.len() as u64;
    audit
}

fn is_of(arrival: &Arrival, order: &Order) -> bool {
    arrival.key.as_deref() == Some(order.customer.as_bytes())
        && arrival.payload.as_deref() == Some(order.payload.as_bytes())
}

/// When a row's COMMIT was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Commit {
    pub(super) id: i64,
    pub(super) at: Instant,
}

/// From the sending of COMMIT until the record was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Latency {
    pub(super) p50: Duration,
    pub(super) p99: Duration,
}

impl Latency {
    /// Of those rows that have arrived; `None` if there are none.
    pub(super) fn of(
        commits: impl Iterator<Item = Commit>,
        arrivals: &HashMap<i64, Instant>,
    ) -> Option<Self> {
        let taken = |commit: Commit| Some(arrivals.get(&commit.id)?.saturating_duration_since(commit.at));
        let mut all: Vec<Duration> = commits.filter_map(taken).collect();
        all.sort_unstable();
        // The smallest that this share of all does not exceed.
        let at = |percent: usize| all.get((all.len() * percent).div_ceil(100).max(1) - 1).copied();
        Some(Self { p50: at(50)?, p99: at(99)? })
    }
}

/// First arrivals within any one second, at most.
pub(super) fn peak_per_second(arrivals: &HashMap<i64, Instant>) -> u64 {
    let mut times: Vec<Instant> = arrivals.values().copied().collect();
    times.sort_unstable();
    let mut first = 0;
    let mut peak = 0;
    for (last, time) in times.iter().enumerate() {
        while time.duration_since(times[first]) >= Duration::from_secs(1) {
            first += 1;
        }
        peak = peak.max(last - first + 1);
    }
    peak as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Orders 1 and 3 of ann, 2 of bob.
    fn orders() -> Vec<Order> {
        let order = |id, customer: &str, number| Order {
            id,
            customer: customer.to_owned(),
            number,
            payload: format!("order {id}"),
        };
        vec![order(1, "ann", 1), order(2, "bob", 1), order(3, "ann", 2)]
    }

    /// As the relay would publish it.
    fn record(id: i64, offset: i64) -> Arrival {
        let customer = if id == 2 { "bob" } else { "ann" };
        Arrival {
            partition: 0,
            offset,
            id: Some(id),
            key: Some(customer.into()),
            payload: Some(format!("order {id}").into()),
            at: Instant::now(),
        }
    }

    fn audited(records: impl IntoIterator<Item = Arrival>) -> Audit {
        let mut arrivals = Arrivals::default();
        records.into_iter().for_each(|record| arrivals.push(record));
        audit(&orders(), &arrivals)
    }

    fn in_order(ids: &[i64]) -> Vec<Arrival> {
        (0..).zip(ids).map(|(offset, id)| record(*id, offset)).collect()
    }

    #[test]
    fn all_that_was_committed_and_nothing_else_is_a_clean_ledger() {
        let audit = audited(in_order(&[2, 1, 3]));
        assert_eq!((audit.committed, audit.delivered, audit.repeated), (3, 3, 0));
        assert!(audit.lost.is_empty() && audit.phantom.is_empty() && audit.disorder.is_empty());
    }

    #[test]
    fn an_order_that_did_not_arrive_is_lost() {
        let audit = audited(in_order(&[1, 3]));
        assert_eq!((audit.lost, audit.delivered), (vec![2], 2));
    }

    #[test]
    fn a_record_of_a_row_that_was_rolled_back_is_a_phantom() {
        let audit = audited(in_order(&[1, 2, 7, 3]));
        assert_eq!(audit.phantom, [(0, 2)]);
        assert_eq!(audit.delivered, 3);
    }

    #[test]
    fn other_bytes_another_key_or_no_id_are_phantoms_and_deliver_nothing() {
        let changed = Arrival { payload: Some(b"order 1 ".to_vec()), ..record(1, 0) };
        let misplaced = Arrival { key: Some(b"ann".to_vec()), ..record(2, 1) };
        let anonymous = Arrival { id: None, ..record(3, 2) };
        let audit = audited([changed, misplaced, anonymous]);
        assert_eq!(audit.phantom, [(0, 0), (0, 1), (0, 2)]);
        assert_eq!(audit.lost, [1, 2, 3]);
    }

    #[test]
    fn a_later_order_first_is_disorder_and_a_repeat_of_an_earlier_one_is_not() {
        assert_eq!(audited(in_order(&[3, 1, 2])).disorder, [1]);
        let repeated = audited(in_order(&[1, 3, 1, 3, 2]));
        assert!(repeated.disorder.is_empty());
        assert_eq!(repeated.repeated, 2);
    }

    #[test]
    fn a_customer_in_two_partitions_has_no_order() {
        let elsewhere = Arrival { partition: 1, ..record(3, 0) };
        assert_eq!(audited([record(1, 0), elsewhere, record(2, 1)]).disorder, [3]);
    }

    #[test]
    fn percentiles_are_those_of_the_rows_that_arrived() {
        let start = Instant::now();
        let arrivals = (1..=100_u8).map(|n| (n.into(), start + Duration::from_millis(n.into()))).collect();
        let commits = (1..=200).map(|id| Commit { id, at: start });
        let latency = Latency::of(commits, &arrivals);
        let expected = Latency { p50: Duration::from_millis(50), p99: Duration::from_millis(99) };
        assert_eq!(latency, Some(expected));
        assert_eq!(Latency::of(std::iter::empty(), &arrivals), None);
    }

    #[test]
    fn the_peak_is_that_of_the_fullest_second() {
        let start = Instant::now();
        let at = [0, 900, 1_800, 1_850, 2_799, 5_000].map(|ms| start + Duration::from_millis(ms));
        assert_eq!(peak_per_second(&(0..).zip(at).collect()), 3);
        assert_eq!(peak_per_second(&HashMap::new()), 0);
    }
}

//! The application: writers that lock the keys they write before they allocate positions, commit in any
//! order, and roll some of it back.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{Event, World};
use crate::sim::dice::Dice;
use crate::sim::memory_outbox::{NewRow, Transaction};

/// Topics a row may go to; a row of the last one has no destination until its route is mended.
pub(super) const DESTINATIONS: [Option<&str>; 4] = [Some("red"), Some("green"), Some("blue"), None];

#[derive(Debug)]
pub(super) struct Writers {
    /// Writing at the same time.
    pub(super) count: usize,
    keys: u8,
    rows_left: usize,
    destinations: usize,
    /// The share of rows without a key.
    keyless: f64,
    /// Every key that is being written, and by whom.
    locked: BTreeMap<u8, Transaction>,
    /// What each open transaction has still to write.
    plans: BTreeMap<Transaction, Vec<Option<u8>>>,
}

impl Writers {
    pub(super) fn new(dice: &mut Dice) -> Self {
        Self {
            count: dice.pick(&[2, 3, 4]),
            keys: dice.pick(&[2, 3, 5]),
            rows_left: dice.pick(&[8, 20, 40, 80]),
            destinations: dice.pick(&[1, 2, 3]),
            keyless: dice.pick(&[0.0, 0.0, 0.2]),
            locked: BTreeMap::new(),
            plans: BTreeMap::new(),
        }
    }

    pub(super) fn done(&self) -> bool {
        self.rows_left == 0
    }
}

impl World {
    pub(super) fn begin(&mut self) {
        if self.writers.rows_left == 0 {
            return;
        }
        let keys = self.draw_keys();
        if keys.iter().any(|key| self.writers.locked.contains_key(key)) {
            let again = self.now + self.dice.millis(50, 300);
            return self.at(again, Event::Begin);
        }
        let rows = 1 + self.dice.index(4);
        let keyless = self.writers.keyless;
        let plan = (0..rows)
            .map(|_| if self.dice.chance(keyless) { None } else { Some(self.dice.pick(&keys)) })
            .collect();
        let transaction = self.outbox.begin();
        keys.into_iter().for_each(|key| {
            self.writers.locked.insert(key, transaction);
        });
        self.writers.plans.insert(transaction, plan);
        let next = self.now + self.dice.millis(1, 50);
        self.at(next, Event::Insert(transaction));
    }

    fn draw_keys(&mut self) -> Vec<u8> {
        let mut keys: Vec<u8> = (0..self.writers.keys).collect();
        let count = 1 + self.dice.index(keys.len().min(3));
        while keys.len() > count {
            keys.remove(self.dice.index(keys.len()));
        }
        keys
    }

    pub(super) fn insert(&mut self, transaction: Transaction) {
        let plan = self.writers.plans.get_mut(&transaction).expect("an open transaction");
        let key = plan.pop().expect("a row to write");
        let more = !plan.is_empty();
        let row = self.draw_row(key);
        let position = self.outbox.insert(transaction, row.clone());
        self.writers.rows_left = self.writers.rows_left.saturating_sub(1);
        say!(self, "transaction {transaction} allocates {position}: {row:?}");
        let pause = match self.dice.below(4) {
            0 => Duration::ZERO,
            1 => self.dice.millis(1, 100),
            2 => self.dice.millis(100, 500),
            _ => self.dice.millis(1, 2_000),
        };
        let next = if more { Event::Insert(transaction) } else { Event::End(transaction) };
        self.at(self.now + pause, next);
    }

    fn draw_row(&mut self, key: Option<u8>) -> NewRow {
        // A few rows have no destination; theirs is a lane of its own.
        let destination = if self.weather.unroutable > 0.0 && self.dice.chance(0.1) {
            DESTINATIONS.len() - 1
        } else {
            self.dice.index(self.writers.destinations)
        };
        let bytes = self.dice.pick(&[8, 20, 100, 200]);
        NewRow {
            key: key.map(|key| Bytes::copy_from_slice(&[key])),
            destination: DESTINATIONS[destination].map(Arc::from),
            payload: Some(Bytes::from(vec![b'.'; bytes])),
        }
    }

    pub(super) fn end(&mut self, transaction: Transaction) {
        self.writers.plans.remove(&transaction);
        self.writers.locked.retain(|_, holder| *holder != transaction);
        if self.dice.chance(0.15) {
            say!(self, "transaction {transaction} rolls back");
            self.outbox.roll_back(transaction);
        } else {
            say!(self, "transaction {transaction} commits");
            self.outbox.commit(transaction);
        }
        let next = self.now + self.dice.millis(20, 500);
        self.at(next, Event::Begin);
    }
}

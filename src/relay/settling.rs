//! Recording how messages ended, until the database says that it is recorded.
//!
//! One settlement is under way at a time; what is confirmed meanwhile joins the next. A settlement of
//! unknown outcome is sent again: marks are absolute, so that does no harm.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::Duration;

use super::hand::Stage;
use super::{Action, Backoff, DATABASE_BACKOFF, News, Relay, Rule};
use crate::message::RowId;
use crate::source::{Refusal, Settled, Settlement, SourceError};

/// Between two tries to mark a row that the database would not mark.
const REFUSED_BACKOFF: Backoff = Backoff { min: Duration::from_secs(1), max: Duration::from_secs(30) };

#[derive(Debug, Default)]
pub(super) struct Settling {
    queue: VecDeque<u32>,
    under_way: Option<Vec<u32>>,
    not_before: Duration,
    failures: u32,
    refused: BTreeMap<u32, RefusedRow>,
}

/// A row that the database would not mark.
#[derive(Debug)]
struct RefusedRow {
    /// `None` while it is being asked again.
    until: Option<Duration>,
    tries: u32,
    vanished: bool,
}

impl Settling {
    pub(super) fn add(&mut self, number: u32) {
        self.queue.push_back(number);
    }

    pub(super) fn refused(&self) -> usize {
        self.refused.len()
    }

    /// Marks succeed and leave rows pending.
    pub(super) fn marks_vanish(&self) -> bool {
        self.refused.values().any(|row| row.vanished)
    }

    pub(super) fn wake_at(&self) -> Option<Duration> {
        if self.under_way.is_some() {
            return None;
        }
        let queued = (!self.queue.is_empty()).then_some(self.not_before);
        let refused = self.refused.values().filter_map(|row| row.until).min();
        queued.into_iter().chain(refused.map(|time| time.max(self.not_before))).min()
    }

    fn queue_due(&mut self, now: Duration) {
        for (&number, row) in &mut self.refused {
            if row.until.is_some_and(|until| until <= now) {
                row.until = None;
                self.queue.push_back(number);
            }
        }
    }
}

impl Relay {
    pub(super) fn plan_settle(&mut self, now: Duration) {
        if self.settling.under_way.is_some() || now < self.settling.not_before {
            return;
        }
        self.settling.queue_due(now);
        if self.settling.queue.is_empty() {
            return;
        }
        let rows = self.settling.queue.len().min(self.limits.settle_rows_max);
        let batch: Vec<u32> = self.settling.queue.drain(..rows).collect();
        let mut settlements = Vec::with_capacity(rows);
        for &number in &batch {
            self.hand.set_stage(number, Stage::Settling);
            settlements.push(Settlement::Delivered(self.hand.get(number).row.clone()));
        }
        self.settling.under_way = Some(batch);
        self.actions.push_back(Action::Settle(settlements));
    }

    pub(super) fn settled(&mut self, now: Duration, result: Result<Settled, SourceError>) {
        let Some(batch) = self.settling.under_way.take() else { return };
        match result {
            Ok(settled) => {
                self.settling.failures = 0;
                self.apply(now, &batch, settled);
            }
            Err(_) if self.rules.keep(Rule::ResendUnknown) => {
                let pause = DATABASE_BACKOFF.pause(self.settling.failures, self.draw());
                self.settling.failures += 1;
                self.settling.not_before = now + pause;
                self.queue_again(&batch);
            }
            Err(_) => batch.iter().for_each(|&number| self.finish(number)),
        }
    }

    fn apply(&mut self, now: Duration, batch: &[u32], settled: Settled) {
        if settled.refused.is_empty() && settled.done.len() == batch.len() {
            batch.iter().for_each(|&number| self.finish(number));
            return;
        }
        let done: HashSet<RowId> = settled.done.into_iter().map(|row| row.id).collect();
        let mut refused: HashMap<RowId, Refusal> =
            settled.refused.into_iter().map(|(row, refusal)| (row.id, refusal)).collect();
        let mut unknown = Vec::new();
        for &number in batch {
            let id = &self.hand.get(number).row.id;
            if done.contains(id) {
                self.finish(number);
            } else if let Some(refusal) = refused.remove(id) {
                self.refuse(now, number, refusal);
            } else {
                unknown.push(number);
            }
        }
        self.queue_again(&unknown);
    }

    /// The row is marked, or gone: its room in the window is free.
    fn finish(&mut self, number: u32) {
        self.release_flight(number);
        if self.settling.refused.remove(&number).is_some() && self.settling.refused.is_empty() {
            self.tell(News::MarksAccepted);
        }
    }

    fn refuse(&mut self, now: Duration, number: u32, refusal: Refusal) {
        self.hand.set_stage(number, Stage::Refused);
        let draw = self.draw();
        let tries = self.settling.refused.get(&number).map_or(0, |row| row.tries + 1);
        let until = Some(now + REFUSED_BACKOFF.pause(tries, draw));
        let vanished = matches!(refusal, Refusal::Vanished(_));
        self.settling.refused.insert(number, RefusedRow { until, tries, vanished });
        let row = self.hand.get(number).row.clone();
        self.tell(News::MarkRefused { row, refusal });
    }

    fn queue_again(&mut self, batch: &[u32]) {
        for &number in batch.iter().rev() {
            self.hand.set_stage(number, Stage::Confirmed);
            self.settling.queue.push_front(number);
        }
    }
}

//! Which rows to ask for, and which of the rows that come may enter the hand.

use std::collections::BTreeSet;
use std::time::Duration;

use super::hand::Entry;
use super::lane::Next;
use super::reading::{Gap, Outstanding};
use super::{Action, DATABASE_BACKOFF, GateState, Limits, POLL_MIN, Relay, Rule, SWEEP_EVERY};
use crate::message::{Position, RowId};
use crate::route::Routed;
use crate::source::{Batch, Fetch, LaneKey, Skip, SourceError};

impl Relay {
    /// Whether a read may start as soon as its time has come.
    pub(super) fn may_fetch(&self) -> bool {
        self.tenure.epoch().is_some()
            && self.opened.is_some()
            && self.drain_until.is_none()
            && !self.reading.in_progress()
            && self.due.len() < self.limits.held_max
            && self.hand.ready.below(self.limits.read_ahead.share(3, 4))
    }

    pub(super) fn plan_fetch(&mut self, now: Duration) {
        self.crowded_until = None;
        if !self.may_fetch() || now < self.fetch_next {
            return;
        }
        self.note_crowds(now);
        self.crowded_until = self.wait_for_crowds(now);
        if self.crowded_until.is_none() {
            self.start_fetch(now);
        }
    }

    /// Notes since when each outlet has taken more than half of its share.
    fn note_crowds(&mut self, now: Duration) {
        let half = Limits::outlet_share(self.limits.read_ahead).share(1, 2);
        for number in self.outlets.numbers() {
            let outlet = &mut self.outlets[number];
            if outlet.ready.below(half) {
                outlet.crowded_since = None;
            } else {
                outlet.crowded_since.get_or_insert(now);
            }
        }
    }

    /// A crowded outlet usually clears in milliseconds, and passing over its rows costs a longer read
    /// and another one from further back. Only one that stays crowded is passed over, and that only
    /// while the broker takes records at all.
    fn wait_for_crowds(&self, now: Duration) -> Option<Duration> {
        let patience = self.limits.poll_interval;
        let until = self.outlets.iter().filter_map(|(_, _, o)| o.crowded_since).max()? + patience;
        if now < until {
            Some(until)
        } else if self.gate.state() == GateState::Open {
            None
        } else {
            Some(now + patience)
        }
    }

    fn start_fetch(&mut self, now: Duration) {
        let Some(epoch) = self.tenure.epoch() else { return };
        if now >= self.sweep_next {
            self.sweep_next = now + SWEEP_EVERY;
            self.reading.restart();
        }
        if let Some(lowest) = self.lowest_gap()
            && self.rules.keep(Rule::CursorBack)
        {
            self.reading.go_back_below(lowest);
        }
        let skip = self.skip();
        let (number, after) = self.reading.start(self.term, skip.clone());
        let room = Limits::outlet_share(self.limits.read_ahead).share(1, 2);
        let rows_left = self.limits.read_ahead.rows - self.hand.ready.rows;
        let bytes_left = self.limits.read_ahead.bytes.saturating_sub(self.hand.ready.bytes);
        self.actions.push_back(Action::Fetch(Fetch {
            number,
            epoch,
            after,
            exclude: self.exclude(after),
            skip,
            rows_max: self.limits.fetch_rows_max.min(room.rows).min(rows_left).max(1),
            bytes_max: bytes_left.min(room.bytes).max(1),
        }));
    }

    /// The lowest row lost by a lane or outlet that takes rows again, or held and due.
    fn lowest_gap(&self) -> Option<Position> {
        let lanes = self
            .gapped_lanes
            .iter()
            .filter(|number| !self.closed_lanes.contains(number) && !self.full_lanes.contains(number))
            .filter_map(|&number| self.lanes[number].gap);
        let outlets = self
            .gapped_outlets
            .iter()
            .map(|&number| &self.outlets[number])
            .filter(|outlet| outlet.crowded_since.is_none())
            .filter_map(|outlet| outlet.gap);
        let due = self.held_rows.iter().filter(|(id, held)| held.until.is_none() && !self.hand.holds(id));
        lanes.chain(outlets).map(|gap| gap.lowest).chain(due.map(|(_, held)| held.position)).min()
    }

    fn skip(&self) -> Skip {
        let lanes: BTreeSet<u32> = self.closed_lanes.union(&self.full_lanes).copied().collect();
        Skip {
            lanes: lanes.into_iter().map(|number| self.lanes.key(number).clone()).collect(),
            scopes: self
                .outlets
                .iter()
                .filter(|(_, _, outlet)| outlet.crowded_since.is_some())
                .filter_map(|(_, scope, _)| scope.clone())
                .collect(),
        }
    }

    /// The rows above `after` that must not come back: in hand, or held.
    fn exclude(&self, after: Position) -> Vec<RowId> {
        let in_hand = self
            .hand
            .iter()
            .filter(|(_, slot)| slot.term == self.term)
            .map(|(_, slot)| &slot.row)
            .filter(|row| row.position > after || row.position == Position::default())
            .map(|row| row.id.clone());
        let held = self.held_rows.iter().filter(|(_, held)| held.until.is_some()).map(|(id, _)| id.clone());
        in_hand.chain(held).collect()
    }

    pub(super) fn fetched(&mut self, now: Duration, number: u64, result: Result<Batch<Routed>, SourceError>) {
        let Some(read) = self.reading.finish(number) else { return };
        let stale = read.term != self.term && self.rules.keep(Rule::EpochFetch);
        if stale || self.tenure.epoch().is_none() || self.drain_until.is_some() {
            return;
        }
        match result {
            Ok(batch) => self.take_in(now, &read, batch),
            Err(_) => {
                let pause = DATABASE_BACKOFF.pause(self.fetch_failures, self.draw());
                self.fetch_failures += 1;
                self.fetch_next = now + pause;
            }
        }
    }

    fn take_in(&mut self, now: Duration, read: &Outstanding, batch: Batch<Routed>) {
        self.fetch_failures = 0;
        self.reading.learn(batch.highest, batch.writers);
        let last = batch.messages.last().map(|routed| routed.row.position).filter(|_| batch.cut);
        let whole = self.update_gaps(read);
        let mut admitted = 0_usize;
        for routed in batch.messages {
            admitted += usize::from(self.admit(routed));
        }
        self.reading.advance(read, last);
        self.forget_held_rows(read, last);
        for lane in whole {
            self.forget_lane_of_none(lane, read, last);
        }
        self.pace(now, admitted > 0, batch.cut);
    }

    /// Notes what the read passed over, and closes the gaps it has shown whole. Returns the lanes among them.
    fn update_gaps(&mut self, read: &Outstanding) -> Vec<u32> {
        let first = Position(read.after.0.saturating_add(1));
        let number = self.reading.number();
        let mut passed_over = BTreeSet::new();
        for key in &read.skip.lanes {
            let lane = self.lanes.enter(key);
            Gap::note(&mut self.lanes[lane].gap, first, number);
            self.gapped_lanes.insert(lane);
            passed_over.insert(lane);
        }
        let mut passed_over_outlets = BTreeSet::new();
        for scope in &read.skip.scopes {
            let outlet = self.outlets.enter(&Some(scope.clone()));
            Gap::note(&mut self.outlets[outlet].gap, first, number);
            self.gapped_outlets.insert(outlet);
            passed_over_outlets.insert(outlet);
        }
        let rules = self.rules;
        let candidates: Vec<u32> = self.gapped_lanes.difference(&passed_over).copied().collect();
        let mut whole = Vec::new();
        for lane in candidates {
            let state = &mut self.lanes[lane];
            if state.closed_until.is_none() && state.gap.take_if(|gap| gap.closed_by(read, rules)).is_some() {
                self.gapped_lanes.remove(&lane);
                whole.push(lane);
            }
        }
        let candidates: Vec<u32> = self.gapped_outlets.difference(&passed_over_outlets).copied().collect();
        for outlet in candidates {
            if self.outlets[outlet].gap.is_some_and(|gap| gap.closed_by(read, rules)) {
                self.outlets[outlet].gap = None;
                self.gapped_outlets.remove(&outlet);
            }
        }
        whole
    }

    /// Lets a row into the hand, or notes that its lane lost it. Returns whether it entered.
    fn admit(&mut self, routed: Routed) -> bool {
        let id = &routed.row.id;
        // It was left out by the read already; a source that gets this wrong must not make two of it.
        let known = self.hand.holds(id);
        let held = self.held_rows.get(id).is_some_and(|held| held.until.is_some());
        if known || held {
            return false;
        }
        let scope = routed.content.as_ref().ok().map(|record| record.destination.scope());
        let outlet = self.outlets.enter(&scope);
        let lane = routed.lane.as_ref().map(|key| self.lanes.enter(key));
        if self.refuses(outlet, lane, routed.row.position) {
            return false;
        }
        self.outlets[outlet].ready.add(routed.bytes);
        let number = self.hand.take(Entry {
            row: routed.row,
            lane,
            destination: outlet,
            bytes: routed.bytes,
            content: routed.content,
            term: self.term,
        });
        self.enqueue(number, lane);
        true
    }

    /// Whether the row's outlet or lane cannot take it now; notes the loss if so.
    fn refuses(&mut self, outlet: u32, lane: Option<u32>, position: Position) -> bool {
        let number = self.reading.number();
        if self.outlets[outlet].gap.is_some() {
            Gap::miss(&mut self.outlets[outlet].gap, position, number);
            self.forget_if_idle(lane, outlet);
            return true;
        }
        let Some(lane) = lane else { return false };
        let state = &mut self.lanes[lane];
        if state.closed_until.is_some() || state.full || state.gap.is_some() {
            Gap::miss(&mut state.gap, position, number);
            self.gapped_lanes.insert(lane);
            self.forget_if_idle(None, outlet);
            return true;
        }
        false
    }

    fn enqueue(&mut self, number: u32, lane: Option<u32>) {
        let Some(lane) = lane else { return self.next.push_back(Next::Slot(number)) };
        let state = &mut self.lanes[lane];
        state.queue.push_back(number);
        if state.queue.len() >= self.limits.lane_rows_max() {
            state.full = true;
            self.full_lanes.insert(lane);
        }
        self.list(lane);
    }

    /// Entries of rows that were due, and are gone: a read that must have shown them did not.
    fn forget_held_rows(&mut self, read: &Outstanding, last: Option<Position>) {
        let (hand, doubted) = (&self.hand, &mut self.doubted);
        self.held_rows.retain(|id, held| {
            let covered = read.after < held.position
                && last.is_none_or(|last| last >= held.position)
                && !read.passed_over(held.scope.as_ref());
            let gone = covered && read.number > held.noted && held.until.is_none() && !hand.holds(id);
            if gone {
                doubted.remove(id);
            }
            !gone
        });
    }

    /// Reads follow one another at once while there is more, and ever more slowly while there is nothing.
    fn pace(&mut self, now: Duration, found: bool, more: bool) {
        if more {
            self.fetch_next = now;
            self.fetch_pause = POLL_MIN;
        } else if found {
            self.fetch_next = now + POLL_MIN;
            self.fetch_pause = POLL_MIN;
        } else {
            self.fetch_next = now + self.fetch_pause;
            self.fetch_pause = (self.fetch_pause * 2).min(self.limits.poll_interval);
        }
    }

    /// A lane or outlet takes rows again that a read would find now.
    pub(super) fn hasten_fetch(&mut self, now: Duration) {
        self.fetch_next = self.fetch_next.min(now);
    }

    pub(super) fn forget_if_idle(&mut self, lane: Option<u32>, outlet: u32) {
        if let Some(lane) = lane {
            self.forget_lane_if_idle(lane);
        }
        if self.outlets.get_mut(outlet).is_some_and(|outlet| outlet.idle()) {
            self.outlets.leave(outlet);
        }
    }

    /// A read that closed a lane's gap brought none of its rows. The message that once closed the lane is
    /// gone too if the read would have shown it: the application took it back.
    fn forget_lane_of_none(&mut self, lane: u32, read: &Outstanding, last: Option<Position>) {
        let shows = |position: Position| read.after < position && last.is_none_or(|last| last >= position);
        let Some(state) = self.lanes.get_mut(lane) else { return };
        let known = state.trouble.as_ref().is_none_or(|trouble| shows(trouble.position));
        if known && !read.passed_over(self.lanes.key(lane).scope.as_ref()) {
            self.forget_lane_if_idle(lane);
        }
    }

    fn forget_lane_if_idle(&mut self, lane: u32) {
        if self.lanes.get_mut(lane).is_some_and(|lane| lane.idle()) {
            self.forget_trouble(lane);
            self.closed_lanes.remove(&lane);
            self.full_lanes.remove(&lane);
            self.lanes.leave(lane);
        }
    }

    /// The lane's key, for the news.
    pub(super) fn lane_key(&self, lane: Option<u32>) -> Option<&LaneKey> {
        lane.map(|lane| self.lanes.key(lane))
    }
}

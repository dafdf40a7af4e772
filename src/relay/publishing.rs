//! What goes to the broker now, and what its answers mean.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use super::hand::{Load, Stage};
use super::lane::Next;
use super::policy::{Verdict, judge};
use super::reading::Gap;
use super::{Action, Due, HeldRow, Limits, News, Relay, Rule};
use crate::message::RowRef;
use crate::sink::{Destination, Failure, OnUnroutable, Outcome, Record, Shipment, SinkEvent};

impl Relay {
    /// Room in the window of what a crash may repeat.
    pub(super) fn window_open(&self) -> bool {
        let used = if self.rules.keep(Rule::CountUnmarked) {
            self.hand.in_flight
        } else {
            Load { rows: self.hand.sent, bytes: 0 }
        };
        used.below(self.limits.in_flight)
    }

    fn may_publish(&self, now: Duration) -> bool {
        self.opened.is_some()
            && self.opened == self.tenure.epoch()
            && self.drain_until.is_none()
            && (self.tenure.trusted(now) || !self.rules.keep(Rule::TrustEnd))
            && !(self.settling.marks_vanish() && self.rules.keep(Rule::VanishedMarks))
    }

    pub(super) fn plan_publish(&mut self, now: Duration) {
        if !self.may_publish(now) {
            return;
        }
        let mut shipments = Vec::new();
        while self.gate.permits() > 0 && self.window_open() {
            let Some(next) = self.next.pop_front() else { break };
            if let Some(shipment) = self.ship(now, next) {
                shipments.push(shipment);
            }
        }
        if !shipments.is_empty() {
            self.actions.push_back(Action::Publish(shipments));
        }
    }

    /// Sends what `next` names, if its outlet has room and it can be published at all.
    fn ship(&mut self, now: Duration, next: Next) -> Option<Shipment> {
        let number = self.candidate(next)?;
        let slot = self.hand.get(number);
        let (bytes, outlet, lane) = (slot.bytes, slot.destination, slot.lane);
        let record = match slot.content.as_ref().expect("a ready row has content") {
            Ok(record) => Arc::<Record>::clone(record),
            Err(failure) => {
                let failure = failure.clone();
                self.hold(now, number, failure);
                return None;
            }
        };
        let share = Limits::outlet_share(self.limits.in_flight);
        let outlet = &mut self.outlets[outlet];
        if !outlet.in_flight.below(share) {
            outlet.waiting.push_back(next);
            if let Some(lane) = lane {
                self.lanes[lane].listed = true;
            }
            return None;
        }
        outlet.ready.remove(bytes);
        outlet.in_flight.add(bytes);
        // A large row makes room for many small ones: each that goes lets the next one try.
        if outlet.in_flight.below(share)
            && let Some(waiting) = outlet.waiting.pop_front()
        {
            self.next.push_front(waiting);
        }
        let token = self.hand.send(number);
        self.gate.sent(now);
        if let Some(lane) = lane {
            self.lanes[lane].flying += 1;
            if !self.rules.keep(Rule::OnePerLane) {
                self.list(lane);
            }
        }
        Some(Shipment { token, record })
    }

    /// The slot that `next` names: a lane's first ready one.
    fn candidate(&mut self, next: Next) -> Option<u32> {
        match next {
            Next::Slot(number) => Some(number),
            Next::Lane(lane) => {
                self.lanes[lane].listed = false;
                let ready = |number: &&u32| self.hand.get(**number).stage == Stage::Ready;
                self.lanes[lane].queue.iter().find(ready).copied()
            }
        }
    }

    /// Lists a lane as one that can send, if it can.
    pub(super) fn list(&mut self, lane: u32) {
        let one = self.rules.keep(Rule::OnePerLane);
        let state = &mut self.lanes[lane];
        if !state.listed && !state.queue.is_empty() && (state.flying == 0 || !one) {
            state.listed = true;
            self.next.push_back(Next::Lane(lane));
        }
    }

    pub(super) fn sink_reported(&mut self, now: Duration, events: Vec<SinkEvent>) {
        for event in events {
            match event {
                SinkEvent::Outcomes(outcomes) => {
                    for outcome in outcomes {
                        self.answered(now, outcome);
                    }
                }
                SinkEvent::Down(failure) => self.shut_gate(now, failure),
                SinkEvent::Up => self.gate.reached(),
            }
        }
    }

    fn answered(&mut self, now: Duration, outcome: Outcome) {
        // A late or doubled answer finds nothing: its slot has gone on.
        let Some(number) = self.hand.awaiting(outcome.token) else { return };
        match outcome.result {
            Ok(()) => self.confirmed(now, number),
            Err(failure) => self.failed(now, number, failure),
        }
    }

    /// A confirmation is a fact, under whichever lease it was asked for: the row will be marked.
    fn confirmed(&mut self, now: Duration, number: u32) {
        self.hand.confirm(number);
        self.settling.add(number);
        self.open_gate();
        let slot = self.hand.get(number);
        if slot.term != self.term {
            return;
        }
        self.doubted.remove(&slot.row.id);
        match slot.lane {
            Some(lane) => self.leave_lane(now, lane, number),
            None => {
                self.held_rows.remove(&slot.row.id);
            }
        }
    }

    /// A published row leaves its lane's queue, and the next may go.
    fn leave_lane(&mut self, now: Duration, lane: u32, number: u32) {
        let id = &self.hand.get(number).row.id;
        let state = &mut self.lanes[lane];
        if state.trouble.as_ref().is_some_and(|trouble| trouble.id == *id) {
            state.trouble = None;
        }
        state.flying -= 1;
        if let Some(at) = state.queue.iter().position(|&queued| queued == number) {
            state.queue.remove(at);
        }
        if state.full && state.queue.len() <= self.limits.lane_rows_max() / 2 {
            state.full = false;
            self.full_lanes.remove(&lane);
            self.hasten_fetch(now);
        }
        self.list(lane);
        let outlet = self.hand.get(number).destination;
        self.forget_if_idle(Some(lane), outlet);
    }

    fn failed(&mut self, now: Duration, number: u32, failure: Failure) {
        self.gate.answered();
        let verdict = judge(&failure, self.on_unroutable(number));
        if verdict == Verdict::Accept {
            return self.confirmed(now, number);
        }
        if failure.maybe_published {
            self.doubt(number);
        }
        if self.hand.get(number).term != self.term || self.drain_until.is_some() {
            return self.drop_sent(number);
        }
        match verdict {
            Verdict::Accept => {}
            Verdict::Keep => {
                self.gate.answered();
                self.keep(number);
            }
            Verdict::Outage => {
                self.keep(number);
                self.shut_gate(now, failure);
            }
            Verdict::Hold => self.hold(now, number, failure),
            Verdict::StepDown => {
                self.drop_sent(number);
                self.tenure.step_down(now);
                self.lose_lease();
            }
            Verdict::Reopen => {
                self.keep(number);
                self.reopen_sink(now, failure);
            }
        }
    }

    fn on_unroutable(&self, number: u32) -> OnUnroutable {
        let content = self.hand.get(number).content.as_ref();
        content
            .and_then(|content| content.as_ref().ok())
            .map_or_else(OnUnroutable::default, |r| r.on_unroutable())
    }

    /// An unconfirmed row goes back to the head of its lane, to be sent again.
    fn keep(&mut self, number: u32) {
        self.hand.return_to_ready(number);
        let slot = self.hand.get(number);
        let outlet = &mut self.outlets[slot.destination];
        outlet.in_flight.remove(slot.bytes);
        outlet.ready.add(slot.bytes);
        match slot.lane {
            Some(lane) => {
                self.lanes[lane].flying -= 1;
                self.list(lane);
            }
            None => self.next.push_front(Next::Slot(number)),
        }
    }

    /// The broker may hold the row though it did not confirm it. What an earlier term left open is for
    /// the present holder to repeat.
    fn doubt(&mut self, number: u32) {
        let slot = self.hand.get(number);
        if slot.term == self.term {
            self.doubted.insert(slot.row.id.clone());
        }
    }

    /// The message that closed a lane is no longer in the outbox, so nothing about it is left to doubt.
    pub(super) fn forget_trouble(&mut self, lane: u32) {
        if let Some(trouble) = self.lanes[lane].trouble.take() {
            self.doubted.remove(&trouble.id);
        }
    }

    /// Rows that may be repeated if the relay ends now.
    pub(super) fn unknown(&self) -> usize {
        self.hand.in_flight.rows + self.doubted.iter().filter(|id| !self.hand.flies(id)).count()
    }

    /// An unconfirmed row leaves the hand: whoever holds the lease next will read it.
    fn drop_sent(&mut self, number: u32) {
        let lane = self.hand.get(number).lane.filter(|_| self.hand.get(number).term == self.term);
        if let Some(lane) = lane {
            self.lanes[lane].flying -= 1;
            self.lanes[lane].queue.retain(|&queued| queued != number);
        }
        self.release_flight(number);
    }

    /// Takes a slot out of the hand and gives its room to what waited for it.
    pub(super) fn release_flight(&mut self, number: u32) {
        let slot = self.hand.drop_slot(number);
        let outlet = &mut self.outlets[slot.destination];
        match slot.stage {
            Stage::Ready => outlet.ready.remove(slot.bytes),
            Stage::Sent | Stage::Confirmed | Stage::Settling | Stage::Refused => {
                outlet.in_flight.remove(slot.bytes);
            }
        }
        if let Some(waiting) = outlet.waiting.pop_front() {
            self.next.push_front(waiting);
        }
        self.forget_if_idle(None, slot.destination);
    }

    /// A message failed and it was not an outage: it waits, and its key with it.
    fn hold(&mut self, now: Duration, number: u32, failure: Failure) {
        let slot = self.hand.get(number);
        let (lane, row, outlet) = (slot.lane, slot.row.clone(), slot.destination);
        let scope = self.scope(lane, outlet);
        let destination = slot.record_destination().cloned().or_else(|| scope.clone());
        let was_sent = slot.stage == Stage::Sent;
        if let Some(lane) = lane {
            let state = &mut self.lanes[lane];
            state.flying -= usize::from(was_sent);
            state.queue.retain(|&queued| queued != number);
        }
        self.release_flight(number);
        let (tries, again_in) = match lane {
            Some(lane) if self.rules.keep(Rule::DropSuccessors) => self.close_lane(now, lane, &row),
            Some(lane) => {
                self.list(lane);
                self.hold_row(now, &row, scope)
            }
            None => self.hold_row(now, &row, scope),
        };
        self.tell(News::Held { row, destination, failure, tries, again_in });
    }

    fn scope(&self, lane: Option<u32>, outlet: u32) -> Option<Destination> {
        match self.lane_key(lane) {
            Some(key) => key.scope.clone(),
            None => self.outlets.key(outlet).clone(),
        }
    }

    /// Closes the lane of a failed head: its successors leave the hand until the head is due.
    fn close_lane(&mut self, now: Duration, lane: u32, head: &RowRef) -> (u32, Duration) {
        let successors: Vec<u32> = self.lanes[lane].queue.drain(..).collect();
        for number in successors {
            self.release_flight(number);
        }
        let draw = self.draw();
        if self.lanes[lane].trouble.as_ref().is_some_and(|trouble| trouble.id != head.id) {
            self.forget_trouble(lane);
        }
        let state = &mut self.lanes[lane];
        let tries = state.count_failure(head);
        let again_in = self.limits.backoff.pause(tries - 1, draw);
        state.closed_until = Some(now + again_in);
        state.full = false;
        Gap::note(&mut state.gap, head.position, self.reading.number());
        self.full_lanes.remove(&lane);
        self.closed_lanes.insert(lane);
        self.gapped_lanes.insert(lane);
        self.due.push(Reverse((now + again_in, Due::Lane(lane))));
        (tries, again_in)
    }

    fn hold_row(&mut self, now: Duration, row: &RowRef, scope: Option<Destination>) -> (u32, Duration) {
        let draw = self.draw();
        let tries = self.held_rows.get(&row.id).map_or(1, |held| held.tries.saturating_add(1));
        let again_in = self.limits.backoff.pause(tries - 1, draw);
        let held = HeldRow { position: row.position, scope, tries, until: Some(now + again_in), noted: 0 };
        self.held_rows.insert(row.id.clone(), held);
        self.due.push(Reverse((now + again_in, Due::Row(row.id.clone()))));
        (tries, again_in)
    }

    /// Lets what is due be read again, from its own row on.
    pub(super) fn reopen_due(&mut self, now: Duration) {
        while let Some(Reverse((time, _))) = self.due.peek()
            && *time <= now
        {
            let Some(Reverse((time, due))) = self.due.pop() else { break };
            match due {
                Due::Lane(lane) => self.reopen_lane(time, lane),
                Due::Row(id) => {
                    if let Some(held) = self.held_rows.get_mut(&id)
                        && held.until == Some(time)
                    {
                        held.until = None;
                        held.noted = self.reading.number();
                    }
                }
            }
            self.hasten_fetch(now);
        }
    }

    fn reopen_lane(&mut self, time: Duration, lane: u32) {
        let number = self.reading.number();
        let Some(state) = self.lanes.get_mut(lane) else { return };
        if state.closed_until == Some(time) {
            state.closed_until = None;
            if let Some(gap) = &mut state.gap {
                gap.noted = number;
            }
            self.closed_lanes.remove(&lane);
        }
    }

    fn shut_gate(&mut self, now: Duration, failure: Failure) {
        let draw = self.draw();
        if self.gate.shut(now, draw) {
            self.tell(News::GateShut(failure));
        }
    }

    fn open_gate(&mut self) {
        if self.gate.confirmed() {
            self.tell(News::GateOpened);
        }
    }

    fn reopen_sink(&mut self, now: Duration, failure: Failure) {
        if self.opened.take().is_some() {
            let draw = self.draw();
            self.open_after = now + self.limits.backoff.capped(Duration::from_secs(5)).pause(2, draw);
            self.tell(News::SinkFailed(failure));
        }
    }

    /// The sink was made anew: shipments it had not answered never will be.
    pub(super) fn give_up_unanswered(&mut self) {
        self.gate.answered();
        let sent: Vec<u32> = self
            .hand
            .iter()
            .filter(|(_, slot)| slot.stage == Stage::Sent)
            .map(|(number, _)| number)
            .collect();
        for number in sent {
            self.doubt(number);
            if self.hand.get(number).term == self.term && self.drain_until.is_none() {
                self.keep(number);
            } else {
                self.drop_sent(number);
            }
        }
    }

    /// Rows read and not sent leave the hand.
    pub(super) fn drop_ready(&mut self) {
        let ready: Vec<u32> = self
            .hand
            .iter()
            .filter(|(_, slot)| slot.stage == Stage::Ready)
            .map(|(number, _)| number)
            .collect();
        for number in ready {
            if let Some(lane) = self.hand.get(number).lane {
                self.lanes[lane].queue.retain(|&queued| queued != number);
            }
            self.release_flight(number);
        }
        self.next.clear();
        for number in self.outlets.numbers() {
            self.outlets[number].waiting.clear();
        }
        for number in self.lanes.numbers() {
            self.lanes[number].listed = false;
        }
    }

    /// Nothing read so far may be published any more; what flies only waits to be settled.
    pub(super) fn end_term(&mut self) {
        self.drop_ready();
        self.term += 1;
        let in_flight: Vec<u32> = self.hand.iter().map(|(number, _)| number).collect();
        for number in in_flight {
            self.hand.disown(number);
        }
        self.lanes = super::Register::default();
        self.gapped_lanes.clear();
        self.closed_lanes.clear();
        self.full_lanes.clear();
        self.gapped_outlets.clear();
        self.held_rows.clear();
        self.doubted.clear();
        self.due.clear();
        self.next.clear();
        for number in self.outlets.numbers() {
            let outlet = &mut self.outlets[number];
            outlet.gap = None;
            outlet.crowded_since = None;
            self.forget_if_idle(None, number);
        }
        self.reading.restart();
    }
}

//! The broker and the clients' queues: what is published arrives later, and what it says of it is lost,
//! late, doubled, or about something else.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use outbox_relay::relay::Input;
use outbox_relay::sink::{ErrorType, Failure, Fault, Outcome, Record, Shipment, SinkEvent, Token};

use super::writers::DESTINATIONS;
use super::{Event, WIRE_MILLIS, World, owner};
use crate::sim::books::Life;
use crate::sim::memory_broker::position;

/// Why a client's queue is emptied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Emptied {
    /// The relay asked for it, and hears what became of each record.
    Purged,
    /// The process ended, or the client was made anew: nobody hears anything.
    Closed,
}

/// What becomes of a record at the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Confirmed,
    /// Held, and the confirmation lost.
    Lost,
    /// The outcome is unknown, and the broker takes it later.
    Late,
    Failed(Fault),
    /// Held, and reported as an outage.
    LostInOutage,
}

impl World {
    pub(super) fn publish(&mut self, life: Life, shipments: Vec<Shipment>) {
        let term = self.processes[life.process].term;
        if !self.outbox.held_by(owner(life), self.now) {
            self.books.violated("one publishes", format!("{life:?} publishes without the lease"));
        }
        for Shipment { token, record } in shipments {
            say!(self, "{life:?} sends {}", position(&record));
            self.books.published(life, term, token, position(&record));
            let at = self.arrival(life, &record);
            self.broker.queue(client(life), Shipment { token, record });
            self.at(at, Event::Arrive(life, token));
        }
    }

    /// Records of one lane arrive in the order in which they were published.
    fn arrival(&mut self, life: Life, record: &Record) -> Duration {
        let weather = self.weather();
        let (from, to) = if self.dice.chance(weather.queued) { (60, 3_000) } else { (1, 60) };
        let drawn = self.now + self.dice.millis(from, to);
        let lane = (record.destination.clone(), record.key.clone());
        let last = self.processes[life.process].last_arrival.entry(lane).or_default();
        *last = drawn.max(*last);
        *last
    }

    pub(super) fn arrive(&mut self, life: Life, token: Token) {
        if self.broker.down {
            let at = self.now + Duration::from_millis(50);
            return self.at(at, Event::Arrive(life, token));
        }
        let Some(record) = self.broker.take(client(life), token) else { return };
        self.check_fence(life, &record);
        let fate = self.draw_fate(&record);
        say!(self, "broker: {} of {life:?} {fate:?}", position(&record));
        let unknown = |fault, error| Err(Failure::unknown(fault, error, "no answer"));
        let result = match fate {
            Fate::Confirmed => {
                self.reach(life, token, &record);
                Ok(())
            }
            Fate::Lost => {
                self.reach(life, token, &record);
                unknown(Fault::Transient, ErrorType::Timeout)
            }
            Fate::LostInOutage => {
                self.reach(life, token, &record);
                unknown(Fault::Unavailable, ErrorType::BrokerUnavailable)
            }
            Fate::Late => {
                self.books.reached(life, token);
                let at = self.now + self.dice.millis(1, 1_500);
                self.at(at, Event::Stray(record));
                unknown(Fault::Transient, ErrorType::Timeout)
            }
            Fate::Failed(fault) => Err(Failure::refused(fault, ErrorType::Other, "refused")),
        };
        self.answer_record(life, Outcome { token, result });
    }

    fn answer_record(&mut self, life: Life, outcome: Outcome) {
        let at = self.now + self.lag();
        let weather = self.weather();
        if self.dice.chance(weather.double) {
            let again = at + self.dice.millis(0, 1_000);
            let events = vec![SinkEvent::Outcomes(vec![outcome.clone()])];
            self.at(again, Event::Tell(life, Box::new(Input::Sink(events))));
        }
        let events = vec![SinkEvent::Outcomes(vec![outcome])];
        self.at(at, Event::Tell(life, Box::new(Input::Sink(events))));
    }

    fn draw_fate(&mut self, record: &Record) -> Fate {
        let weather = self.weather();
        let topic = record.destination.name();
        let blocked = |until: &Duration| *until > self.now;
        if !self.calm() && self.blocked_until.get(topic).is_some_and(blocked) {
            return Fate::Failed(Fault::Blocked);
        }
        if self.dice.chance(weather.blocked)
            && let Some(name) = DESTINATIONS.iter().flatten().find(|name| ***name == *topic)
        {
            let until = self.now + self.dice.millis(50, 1_000);
            self.blocked_until.insert(name, until);
            return Fate::Failed(Fault::Blocked);
        }
        let fates = [
            (weather.lost, Fate::Lost),
            (weather.late, Fate::Late),
            (weather.fail, Fate::Failed(Fault::Transient)),
            (weather.unavailable / 2.0, Fate::Failed(Fault::Unavailable)),
            (weather.unavailable / 2.0, Fate::LostInOutage),
            (weather.fatal, Fate::Failed(Fault::Fatal)),
            (weather.fenced, Fate::Failed(Fault::Fenced)),
        ];
        let drawn = fates.into_iter().find(|(probability, _)| self.dice.chance(*probability));
        drawn.map_or(Fate::Confirmed, |(_, fate)| fate)
    }

    /// A relay that runs sends nothing once its lease is over: it stopped in time and emptied its queue.
    /// One that stands still cannot, nor one that has ended.
    fn check_fence(&mut self, life: Life, record: &Record) {
        let process = &self.processes[life.process];
        let awake = self.now > process.stalled_until + Duration::from_millis(WIRE_MILLIS + 50);
        if process.life == life && awake && !self.outbox.held_by(owner(life), self.now) {
            let what = format!("{} of {life:?} arrives after its lease has ended", position(record));
            self.books.violated("one publishes", what);
        }
    }

    fn reach(&mut self, life: Life, token: Token, record: &Arc<Record>) {
        self.books.reached(life, token);
        self.apply(record);
    }

    /// The broker holds one more record.
    pub(super) fn apply(&mut self, record: &Arc<Record>) {
        let position = position(record);
        self.note(position.0.unsigned_abs());
        self.broker.apply(Arc::clone(record));
        say!(self, "broker: holds {position}");
        let row = &self.outbox.row(position).new;
        let lane = row.key.clone().map(|key| (row.destination.clone(), key));
        self.books.applied(position, lane);
    }

    /// Empties the queue of a client; what was already under way arrives all the same.
    pub(super) fn empty_client(&mut self, life: Life, why: Emptied) {
        for (token, record) in self.broker.empty(client(life)) {
            let under_way = !self.broker.down && self.dice.chance(0.3);
            let at = self.now + self.dice.millis(1, WIRE_MILLIS);
            match (under_way, why) {
                (true, Emptied::Purged) => self.at(at, Event::Purged(life, token, record)),
                (true, Emptied::Closed) => {
                    self.books.reached(life, token);
                    self.at(at, Event::Stray(record));
                }
                (false, Emptied::Purged) => {
                    let failure = Failure::refused(Fault::Unavailable, ErrorType::Purged, "purged");
                    self.answer_record(life, Outcome { token, result: Err(failure) });
                }
                (false, Emptied::Closed) => {}
            }
        }
    }

    /// A record was purged from its queue while it was being sent.
    pub(super) fn purged(&mut self, life: Life, token: Token, record: &Arc<Record>) {
        self.check_fence(life, record);
        self.reach(life, token, record);
        let failure = Failure::unknown(Fault::Unavailable, ErrorType::Purged, "purged while it was sent");
        self.answer_record(life, Outcome { token, result: Err(failure) });
    }

    pub(super) fn schedule_outage(&mut self) {
        let outages = self.weather.outage * 10.0;
        if self.dice.chance(outages * 5.0) {
            let at = self.now + self.dice.millis(500, 10_000);
            if at < self.calm_from {
                self.at(at, Event::Outage);
            }
        }
    }

    pub(super) fn outage(&mut self) {
        say!(self, "broker: down");
        self.broker.down = true;
        let over = self.now + self.dice.millis(50, 5_000);
        self.at(over, Event::OutageOver);
        let failure = || Failure::refused(Fault::Unavailable, ErrorType::BrokerUnavailable, "down");
        self.tell_all(|| SinkEvent::Down(failure()));
    }

    pub(super) fn outage_over(&mut self) {
        say!(self, "broker: up");
        self.broker.down = false;
        self.tell_all(|| SinkEvent::Up);
        self.schedule_outage();
    }

    fn tell_all(&mut self, event: impl Fn() -> SinkEvent) {
        for process in 0..self.processes.len() {
            let at = self.now + self.dice.millis(0, 100);
            let life = self.processes[process].life;
            self.at(at, Event::Tell(life, Box::new(Input::Sink(vec![event()]))));
        }
    }
}

/// A process has one client.
fn client(life: Life) -> u64 {
    owner(life)
}

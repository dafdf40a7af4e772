//! The way to the database and back: every call takes effect at one moment and is answered at another,
//! if at all.

use std::io::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use outbox_relay::message::{Header, Message, Payload, Position};
use outbox_relay::relay::Input;
use outbox_relay::route::Routed;
use outbox_relay::sink::{Destination, ErrorType, Failure, Fault, Record};
use outbox_relay::source::{
    Batch, Fetch, Holder, LaneKey, Refusal, Settled, Settlement, SourceError, SourceErrorKind,
};

use super::{Event, World, owner};
use crate::sim::books::Life;
use crate::sim::memory_broker::ID_HEADER;

/// A statement on its way to the database.
pub(super) struct Call {
    life: Life,
    what: What,
    /// It was given up, and takes effect all the same.
    ghost: bool,
}

#[derive(Debug)]
enum What {
    Lease,
    Release,
    /// The first half of a read: the rows and the highest position, from one snapshot.
    Snapshot(Fetch),
    /// The second half: the writers, read later.
    Writers(u64, Batch),
    Settle(Vec<Settlement>),
    Measure,
}

impl World {
    pub(super) fn ask_lease(&mut self, life: Life) {
        self.send(life, What::Lease);
    }

    pub(super) fn ask_release(&mut self, life: Life) {
        self.send(life, What::Release);
    }

    pub(super) fn ask_rows(&mut self, life: Life, fetch: Fetch) {
        self.send(life, What::Snapshot(fetch));
    }

    pub(super) fn ask_to_settle(&mut self, life: Life, settlements: Vec<Settlement>) {
        self.send(life, What::Settle(settlements));
    }

    pub(super) fn ask_backlog(&mut self, life: Life) {
        self.send(life, What::Measure);
    }

    /// Answered at any time, whatever was written: a hint may be early, late, lost, or one too many.
    pub(super) fn ask_to_be_told(&mut self, life: Life) {
        let fails = self.weather().database_error;
        let answer = if self.hints.chance(fails) { Err(away()) } else { Ok(()) };
        let at = self.now + self.hints.millis(1, 1_500);
        self.at(at, Event::Tell(life, Box::new(Input::Hinted(answer))));
    }

    fn send(&mut self, life: Life, what: What) {
        let at = self.now + self.lag();
        self.at(at, Event::Database(Box::new(Call { life, what, ghost: false })));
    }

    fn answer(&mut self, life: Life, input: Input) {
        let at = self.now + self.lag();
        self.at(at, Event::Tell(life, Box::new(input)));
    }

    pub(super) fn call(&mut self, call: Call) {
        let Call { life, what, ghost } = call;
        let weather = self.weather();
        if !ghost && self.dice.chance(weather.database_error) {
            return self.fail(life, what);
        }
        if let Some(answer) = self.carry_out(life, what)
            && !ghost
        {
            self.answer(life, answer);
        }
    }

    /// The caller learns nothing; the call took effect, takes effect later, or never does.
    fn fail(&mut self, life: Life, what: What) {
        let ghostly = self.weather().ghost;
        let fate = self.dice.unit();
        let error = away();
        say!(self, "database: {life:?} gets an error for {what:?}");
        let answer = match &what {
            What::Lease => Input::Lease(Err(error)),
            What::Release => Input::Released(Err(error)),
            What::Snapshot(Fetch { number, .. }) | What::Writers(number, _) => {
                Input::Fetched { number: *number, result: Err(error) }
            }
            What::Settle(_) => Input::Settled(Err(error)),
            What::Measure => Input::Measured(Err(error)),
        };
        self.answer(life, answer);
        let has_effect = matches!(what, What::Lease | What::Release | What::Settle(_));
        if has_effect && fate < 0.4 {
            self.carry_out(life, what);
        } else if has_effect && fate < 0.4 + ghostly {
            let at = self.now + self.dice.millis(20, 3_000);
            self.at(at, Event::Database(Box::new(Call { life, what, ghost: true })));
        }
    }

    fn carry_out(&mut self, life: Life, what: What) -> Option<Input> {
        match what {
            What::Lease => Some(self.take_lease(life)),
            What::Release => {
                say!(self, "database: {life:?} gives the lease back");
                self.outbox.release(owner(life));
                Some(Input::Released(Ok(())))
            }
            What::Snapshot(fetch) => {
                let batch = self.outbox.fetch(&fetch);
                let gap = if self.dice.chance(0.5) { self.lag() } else { std::time::Duration::ZERO };
                let what = What::Writers(fetch.number, batch);
                self.at(self.now + gap, Event::Database(Box::new(Call { life, what, ghost: false })));
                None
            }
            What::Writers(number, batch) => Some(self.answer_read(life, number, batch)),
            What::Settle(settlements) => Some(self.settle(life, &settlements)),
            What::Measure => Some(Input::Measured(Ok(self.outbox.backlog(self.now)))),
        }
    }

    /// Who loses the lease by expiry may have published what is not marked yet.
    fn take_lease(&mut self, life: Life) -> Input {
        let before = self.outbox.lease.owner;
        let holder = self.outbox.lease(owner(life), self.now);
        if let Holder::Us(epoch) = holder
            && before != Some(owner(life))
        {
            say!(self, "database: {life:?} takes the lease, epoch {epoch}");
            if let Some(loser) = self.processes.iter().map(|p| p.life).find(|&l| before == Some(owner(l))) {
                self.books.tally.takeovers += 1;
                self.books.excuse(loser);
            }
        }
        Input::Lease(Ok(holder))
    }

    fn settle(&mut self, life: Life, settlements: &[Settlement]) -> Input {
        let weather = self.weather();
        let dice = &mut self.dice;
        let all_vanish = dice.chance(weather.vanish);
        let settled = self.outbox.settle(settlements, |_| {
            if all_vanish {
                Some(Refusal::Vanished("a trigger put it back".into()))
            } else {
                dice.chance(weather.refuse).then(|| Refusal::Failed("a check failed".into()))
            }
        });
        say!(self, "database: {life:?} settles {settled:?}");
        Input::Settled(Ok(settled))
    }

    fn answer_read(&mut self, life: Life, number: u64, batch: Batch) -> Input {
        let writers = self.outbox.writers();
        let positions: Vec<i64> = batch.messages.iter().map(|message| message.row.position.0).collect();
        say!(self, "database: {life:?} read {number} shows {positions:?} of {:?}", batch.highest);
        let messages = batch.messages.into_iter().map(|message| self.route(message)).collect();
        let result =
            Ok(Batch { messages, cut: batch.cut, highest: batch.highest, writers, remarks: batch.remarks });
        Input::Fetched { number, result }
    }

    /// Some rows have no record until the calm; it depends on the row alone which they are.
    fn route(&self, message: Message) -> Routed {
        let bytes = message.bytes();
        let topic = self.outbox.row(message.row.position).new.destination.clone();
        let destination = topic.clone().map(Destination::Topic);
        let lane = message.key.clone().map(|key| LaneKey { scope: destination.clone(), key });
        let content = if !self.calm() && (topic.is_none() || self.unroutable(message.row.position)) {
            let reason = "the route needs a value that is null";
            Err(Failure::refused(Fault::Permanent, ErrorType::InvalidRecord, reason))
        } else {
            let body = match message.payload {
                Payload::Stored(body) => Some(body),
                Payload::Null | Payload::Oversize(_) => None,
            };
            let id = Bytes::from(message.row.id.to_string());
            Ok(Arc::new(Record {
                destination: destination.unwrap_or(Destination::Topic("mended".into())),
                key: message.key,
                headers: vec![Header { name: ID_HEADER.into(), value: Some(id) }],
                body,
                timestamp_ms: None,
                properties: None,
            }))
        };
        Routed { row: message.row, lane, bytes, content, created_at: None }
    }

    fn unroutable(&self, position: Position) -> bool {
        let mut dice = crate::sim::dice::Dice::new(self.seed ^ position.0.unsigned_abs());
        dice.chance(self.weather.unroutable)
    }

    /// What the books learn from an answer about marks.
    pub(super) fn note_settled(&mut self, life: Life, settled: &Settled) {
        for row in &settled.done {
            self.books.settled(life, row.position);
        }
        for (row, refusal) in &settled.refused {
            match refusal {
                Refusal::Vanished(_) => self.books.vanished(life, row.position),
                Refusal::Failed(_) => self.books.unvanished(life, row.position),
            }
        }
    }
}

fn away() -> SourceError {
    let message = "could not reach the database".into();
    SourceError { kind: SourceErrorKind::Unavailable, message, hint: None }
}

//! A process with a relay in it: started, stalled, crashed, drained, and always obeyed to the letter.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::Duration;

use bytes::Bytes;
use outbox_relay::relay::{Action, Exit, Input, News, Relay};
use outbox_relay::sink::{Destination, ErrorType, Failure, Fault, SinkEvent};
use outbox_relay::source::Fetch;

use super::broker::Emptied;
use super::{Event, World};
use crate::sim::books::Life;

/// Between two looks at what may befall a process.
const LOOK: Duration = Duration::from_millis(100);

/// More steps than this in a virtual second means that the relay spins.
const STEPS_PER_SECOND_MAX: u32 = 3_000;

pub(super) struct Process {
    pub(super) life: Life,
    pub(super) relay: Option<Relay>,
    /// Nothing reaches the relay until then.
    pub(super) stalled_until: Duration,
    /// How often it took or lost the lease.
    pub(super) term: u64,
    wake_serial: u64,
    /// When the last record of each lane will arrive.
    pub(super) last_arrival: BTreeMap<(Destination, Option<Bytes>), Duration>,
    asked: Asked,
    second: u64,
    steps: u32,
}

/// What the relay has asked for and not been answered.
#[derive(Debug, Default)]
struct Asked {
    lease: bool,
    settle: bool,
    measure: bool,
    listen: bool,
    open: bool,
    read: bool,
}

impl Process {
    pub(super) fn new(process: usize) -> Self {
        Self {
            life: Life { process, number: 0 },
            relay: None,
            stalled_until: Duration::ZERO,
            term: 0,
            wake_serial: 0,
            last_arrival: BTreeMap::new(),
            asked: Asked::default(),
            second: 0,
            steps: 0,
        }
    }
}

impl World {
    pub(super) fn start(&mut self, process: usize) {
        let number = self.processes[process].life.number + 1;
        let life = Life { process, number };
        let relay = Relay::new(self.limits, self.rules, self.dice.next());
        self.processes[process] = Process { life, relay: Some(relay), ..Process::new(process) };
        say!(self, "{life:?} starts");
        self.at(self.now + LOOK, Event::Mischief(life));
        self.tell(life, Box::new(Input::Tick));
    }

    pub(super) fn mischief(&mut self, life: Life) {
        if self.calm() || self.gone(life) {
            return;
        }
        let weather = self.weather;
        if self.dice.chance(weather.crash) {
            return self.crash(life);
        }
        if self.dice.chance(weather.stall) {
            let until = self.now + self.dice.millis(300, 8_000);
            say!(self, "{life:?} stalls until {until:?}");
            let stalled_until = &mut self.processes[life.process].stalled_until;
            *stalled_until = until.max(*stalled_until);
        }
        if self.dice.chance(weather.drain) {
            self.at(self.now, Event::Tell(life, Box::new(Input::Drain)));
        }
        if self.dice.chance(weather.abort) {
            self.at(self.now, Event::Tell(life, Box::new(Input::Abort)));
        }
        self.at(self.now + LOOK, Event::Mischief(life));
    }

    fn gone(&self, life: Life) -> bool {
        let process = &self.processes[life.process];
        process.life != life || process.relay.is_none()
    }

    fn crash(&mut self, life: Life) {
        say!(self, "{life:?} crashes");
        self.books.tally.crashes += 1;
        self.books.excuse(life);
        self.end_process(life);
    }

    fn end_process(&mut self, life: Life) {
        self.empty_client(life, Emptied::Closed);
        self.processes[life.process].relay = None;
        // No longer the same life, so that nothing reaches it and nothing is asked of it.
        self.processes[life.process].life.number += 1;
        let at = self.now + self.dice.millis(50, 5_000);
        self.at(at, Event::Start(life.process));
    }

    pub(super) fn tell(&mut self, life: Life, input: Box<Input>) {
        if self.gone(life) {
            return;
        }
        let stalled_until = self.processes[life.process].stalled_until;
        if stalled_until > self.now {
            return self.at(stalled_until, Event::Tell(life, input));
        }
        self.listen(life, &input);
        self.processes[life.process].relay.as_mut().expect("it is not gone").handle(self.now, *input);
        self.obey(life);
        self.schedule_wake(life);
    }

    pub(super) fn wake(&mut self, life: Life, serial: u64) {
        let process = &self.processes[life.process];
        if self.gone(life) || process.wake_serial != serial {
            return;
        }
        if process.stalled_until > self.now {
            return self.at(process.stalled_until, Event::Wake(life, serial));
        }
        self.processes[life.process].relay.as_mut().expect("it is not gone").handle(self.now, Input::Tick);
        let actions = self.obey(life);
        let woken_again = self.processes[life.process].relay.as_ref().map(|relay| relay.wake_at(self.now));
        if actions == 0 && woken_again.is_some_and(|at| at <= self.now) {
            self.books.violated("progress", format!("{life:?} wants to be woken at once, again"));
        }
        self.schedule_wake(life);
    }

    fn schedule_wake(&mut self, life: Life) {
        let process = &mut self.processes[life.process];
        let Some(relay) = process.relay.as_ref().filter(|_| process.life == life) else { return };
        let at = relay.wake_at(self.now).max(self.now);
        process.wake_serial += 1;
        if self.now.as_secs() != process.second {
            (process.second, process.steps) = (self.now.as_secs(), 0);
        }
        process.steps += 1;
        let (serial, steps) = (process.wake_serial, process.steps);
        if steps > STEPS_PER_SECOND_MAX {
            self.books.violated("progress", format!("{life:?} takes {steps} steps in a second"));
        }
        self.at(at, Event::Wake(life, serial));
    }

    /// Notes what the relay is about to hear.
    fn listen(&mut self, life: Life, input: &Input) {
        let asked = &mut self.processes[life.process].asked;
        match input {
            Input::Lease(_) => asked.lease = false,
            Input::Settled(_) => asked.settle = false,
            Input::Measured(_) => asked.measure = false,
            Input::Hinted(_) => asked.listen = false,
            Input::Opened(_) => asked.open = false,
            Input::Fetched { .. } => asked.read = false,
            Input::Sink(_) | Input::Released(_) | Input::Tick | Input::Drain | Input::Abort => {}
        }
        match input {
            Input::Settled(Ok(settled)) => self.note_settled(life, settled),
            Input::Opened(Ok(_)) => self.books.reopened(life),
            Input::Sink(events) => {
                say!(self, "{life:?} hears {events:?}");
                for event in events {
                    if let SinkEvent::Outcomes(outcomes) = event {
                        for outcome in outcomes {
                            self.books.answered(life, outcome.token, outcome.result.is_ok());
                        }
                    }
                }
            }
            other => say!(self, "{life:?} hears {other:?}"),
        }
    }

    /// Carries out what the relay asks for, and returns how much that was.
    fn obey(&mut self, life: Life) -> usize {
        let mut actions = 0;
        while let Some(relay) = &mut self.processes[life.process].relay
            && let Some(action) = relay.next_action()
        {
            self.check(life, &action);
            actions += 1;
            match action {
                Action::Lease => self.ask_lease(life),
                Action::Release => self.give_back(life),
                Action::Open(epoch) => self.open(life, epoch),
                Action::Fetch(fetch) => {
                    say!(self, "{life:?} {fetch:?}");
                    self.ask_rows(life, fetch);
                }
                Action::Publish(shipments) => self.publish(life, shipments),
                Action::Purge => {
                    say!(self, "{life:?} purges");
                    self.empty_client(life, Emptied::Purged);
                }
                Action::Settle(settlements) => {
                    say!(self, "{life:?} {settlements:?}");
                    self.ask_to_settle(life, settlements);
                }
                Action::Measure => self.ask_backlog(life),
                Action::Listen => self.ask_to_be_told(life),
                Action::Tell(news) => self.heed(life, &news),
                Action::Stop(exit) => self.stopped(life, exit),
            }
        }
        actions
    }

    /// Actions are well formed, and none is asked for again before it is answered.
    fn check(&mut self, life: Life, action: &Action) {
        let asked = &mut self.processes[life.process].asked;
        let fine = match action {
            Action::Lease => !std::mem::replace(&mut asked.lease, true),
            Action::Settle(rows) => !std::mem::replace(&mut asked.settle, true) && !rows.is_empty(),
            Action::Measure => !std::mem::replace(&mut asked.measure, true),
            Action::Listen => !std::mem::replace(&mut asked.listen, true),
            Action::Open(_) => !std::mem::replace(&mut asked.open, true),
            Action::Fetch(fetch) => {
                !std::mem::replace(&mut asked.read, true) && self.well_formed(life, fetch)
            }
            Action::Publish(shipments) => !shipments.is_empty(),
            Action::Release | Action::Purge | Action::Tell(_) | Action::Stop(_) => true,
        };
        if !fine {
            self.books.violated("well-formed actions", format!("{life:?} {action:?}"));
        }
    }

    fn well_formed(&self, life: Life, fetch: &Fetch) -> bool {
        let view = self.processes[life.process].relay.as_ref().map(|relay| relay.view(self.now));
        view.is_some_and(|view| view.epoch == Some(fetch.epoch))
            && fetch.rows_max >= 1
            && fetch.bytes_max >= 1
    }

    fn open(&mut self, life: Life, epoch: u64) {
        say!(self, "{life:?} opens its sink for epoch {epoch}");
        self.empty_client(life, Emptied::Closed);
        let weather = self.weather();
        let result = if self.dice.chance(weather.open_fails) {
            Err(Failure::refused(Fault::Fatal, ErrorType::Other, "could not make a client"))
        } else {
            Ok(Vec::new())
        };
        let at = self.now + self.dice.millis(0, 30);
        self.at(at, Event::Tell(life, Box::new(Input::Opened(result))));
    }

    fn give_back(&mut self, life: Life) {
        let (term, outbox) = (self.processes[life.process].term, &self.outbox);
        self.books.released(life, term, |position| outbox.row(position).pending);
        self.ask_release(life);
    }

    fn heed(&mut self, life: Life, news: &News) {
        say!(self, "{life:?} {news:?}");
        match news {
            News::LeaseTaken(_) | News::LeaseLost => {
                self.books.excuse(life);
                self.processes[life.process].term += 1;
            }
            News::TrustEnded
            | News::GateShut(_)
            | News::GateOpened
            | News::SinkFailed(_)
            | News::Held { .. }
            | News::MarkRefused { .. }
            | News::MarksAccepted
            | News::Draining => {}
        }
    }

    fn stopped(&mut self, life: Life, exit: Exit) {
        say!(self, "{life:?} stops: {exit:?}");
        let term = self.processes[life.process].term;
        self.end_process(life);
        let outbox = &self.outbox;
        self.books.stopped(life, term, exit, |position| outbox.row(position).pending);
    }
}

//! The relay's decisions alone: messages through `Relay`, with a source and a broker that answer at
//! once and cost next to nothing.
//!
//! Made for an instruction counter rather than a clock: `scripts/bench core` runs it under callgrind
//! for two numbers of messages, with and without the relay, so that what the start and the making of
//! messages cost cancels out.
//!
//! ```text
//! core 200000           relay so many messages
//! core 200000 messages  only make them
//! ```

#![allow(clippy::disallowed_methods, reason = "a benchmark measures time and owns its tasks")]
#![allow(clippy::print_stdout, reason = "the report is the data")]

use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use outbox_relay::message::{Header, Position, RowId, RowRef};
use outbox_relay::relay::{Action, Backoff, Input, LeaseTiming, Limits, Load, Relay, Rules};
use outbox_relay::route::Routed;
use outbox_relay::sink::{Destination, Outcome, Record, Shipment, SinkEvent};
use outbox_relay::source::{Backlog, Batch, Fetch, Holder, LaneKey, Settled};

/// Enough for keys to follow one another closely without waiting much.
const KEYS: i64 = 1_000;

/// Time moves on by this much with every answer.
const STEP: Duration = Duration::from_micros(100);

fn main() {
    // `cargo bench` and `cargo test` pass flags of their own.
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with("--"));
    let messages = arguments.next().map_or(200_000, |n| n.parse().expect("a number of messages"));
    let started = Instant::now();
    match arguments.next().as_deref() {
        None => relay(messages),
        Some("messages") => make(messages),
        Some(other) => panic!("{other}: only \"messages\" is understood"),
    }
    let nanos = started.elapsed().as_secs_f64() * 1e9 / u32::try_from(messages).map_or(1.0, f64::from);
    println!("{messages} messages, {nanos:.0} ns each");
}

/// Makes the messages, in batches as the relay would read them, and drops them.
fn make(messages: i64) {
    let template = Template::new();
    let numbers: Vec<i64> = (1..=messages).collect();
    for batch in numbers.chunks(2_500) {
        let made: Vec<Routed> = batch.iter().map(|&n| template.message(n)).collect();
        black_box(made);
    }
}

/// Relays the messages until all are settled.
fn relay(messages: i64) {
    let mut relay = Relay::new(limits(), Rules::default(), 1);
    let mut world =
        World { template: Template::new(), last: messages, read: 0, settled: 0, answers: VecDeque::new() };
    let mut now = Duration::ZERO;
    relay.handle(now, Input::Tick);
    while world.settled < messages {
        while let Some(action) = relay.next_action() {
            world.carry_out(action);
        }
        now += STEP;
        let input = match world.answers.pop_front() {
            Some(input) => input,
            None => {
                now = relay.wake_at(now);
                Input::Tick
            }
        };
        relay.handle(now, input);
    }
}

/// The limits of a relay with the default configuration.
const fn limits() -> Limits {
    let bytes = 16 << 20;
    Limits {
        in_flight: Load { rows: 10_000, bytes },
        read_ahead: Load { rows: 20_000, bytes },
        fetch_rows_max: 5_000,
        settle_rows_max: 5_000,
        held_max: 1_000,
        poll_interval: Duration::from_millis(250),
        listen: false,
        backoff: Backoff { min: Duration::from_millis(200), max: Duration::from_secs(300) },
        lease: LeaseTiming { ttl: Duration::from_secs(10) },
        drain_timeout: Duration::from_secs(10),
        backlog_interval: Duration::from_secs(2),
    }
}

/// A database and a broker without faults: every action is answered, in turn.
struct World {
    template: Template,
    last: i64,
    read: i64,
    settled: i64,
    answers: VecDeque<Input>,
}

impl World {
    fn carry_out(&mut self, action: Action) {
        let answer = match action {
            Action::Lease => Input::Lease(Ok(Holder::Us(1))),
            Action::Release => Input::Released(Ok(())),
            Action::Open(_) => Input::Opened(Ok(Vec::new())),
            Action::Fetch(fetch) => Input::Fetched { number: fetch.number, result: Ok(self.read(&fetch)) },
            Action::Publish(shipments) => Input::Sink(vec![confirm(&shipments)]),
            Action::Settle(settlements) => {
                self.settled += i64::try_from(settlements.len()).expect("a batch is small");
                let done = settlements.iter().map(|settlement| settlement.row().clone()).collect();
                Input::Settled(Ok(Settled { done, refused: Vec::new() }))
            }
            Action::Listen => Input::Hinted(Ok(())),
            Action::Measure => Input::Measured(Ok(Backlog {
                pending_rows: 0,
                oldest: None,
                measured_at: outbox_relay::message::Timestamp(0),
            })),
            Action::Purge | Action::Tell(_) => return,
            Action::Stop(exit) => panic!("the relay stopped unasked: {exit:?}"),
        };
        self.answers.push_back(answer);
    }

    /// Without faults a row that was read once never has to be read again, so the next rows are those
    /// the relay asks for.
    fn read(&mut self, fetch: &Fetch) -> Batch<Routed> {
        let rows = i64::try_from(fetch.rows_max).expect("a read is small");
        let end = self.last.min(self.read + rows);
        let messages = (self.read + 1..=end).map(|n| self.template.message(n)).collect();
        self.read = end;
        let highest = Some(Position(self.last));
        Batch { messages, cut: end < self.last, highest, writers: Vec::new(), remarks: Vec::new() }
    }
}

fn confirm(shipments: &[Shipment]) -> SinkEvent {
    let outcomes = shipments.iter().map(|shipment| Outcome { token: shipment.token, result: Ok(()) });
    SinkEvent::Outcomes(outcomes.collect())
}

/// What all messages share.
struct Template {
    destination: Destination,
    header: Arc<str>,
    keys: Vec<Bytes>,
    body: Bytes,
}

impl Template {
    fn new() -> Self {
        Self {
            destination: Destination::Topic("orders".into()),
            header: "outbox-id".into(),
            keys: (0..KEYS).map(|key| format!("key-{key}").into()).collect(),
            body: vec![b'x'; 500].into(),
        }
    }

    fn message(&self, n: i64) -> Routed {
        let key = &self.keys[usize::try_from(n % KEYS).expect("a remainder is small")];
        let value = Bytes::copy_from_slice(&n.to_le_bytes());
        let record = Record {
            destination: self.destination.clone(),
            key: Some(key.clone()),
            headers: vec![Header { name: Arc::clone(&self.header), value: Some(value) }],
            body: Some(self.body.clone()),
            timestamp_ms: None,
            properties: None,
        };
        Routed {
            row: RowRef { id: RowId::Int(n), position: Position(n) },
            lane: Some(LaneKey { scope: Some(self.destination.scope()), key: key.clone() }),
            bytes: record.bytes(),
            content: Ok(Arc::new(record)),
            created_at: None,
        }
    }
}

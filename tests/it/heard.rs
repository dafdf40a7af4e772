//! What an observer hears at the pump, made by hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use outbox_relay::clock::Clock;
use outbox_relay::message::{Position, RowId, RowRef, Timestamp};
use outbox_relay::relay::{GateState, Input, Load, View};
use outbox_relay::route::Routed;
use outbox_relay::sink::{
    Destination, ErrorType, Failure, Fault, Outcome, Record, Shipment, SinkEvent, Token,
};
use outbox_relay::source::{Backlog, Batch, Fetch, Skip, SourceError, SourceErrorKind};

/// 2026-01-01 in seconds: when every test begins, by both clocks.
pub(crate) const BEGIN: u64 = 1_767_225_600;

/// A time that passes when told to; clones are the same time.
#[derive(Debug, Clone, Default)]
pub(crate) struct Time(Arc<AtomicU64>);

impl Time {
    pub(crate) fn pass(&self, time: Duration) {
        let millis = u64::try_from(time.as_millis()).expect("a test is short");
        self.0.fetch_add(millis, Ordering::SeqCst);
    }

    /// Since the test began, which is also when the pump started.
    pub(crate) fn now(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::SeqCst))
    }

    pub(crate) fn clock(&self) -> Clock {
        let (monotonic, wall) = (self.clone(), self.clone());
        Clock::new(move || monotonic.now(), move || Duration::from_secs(BEGIN) + wall.now())
    }

    /// What the database's clock shows, which agrees with ours.
    pub(crate) fn timestamp(&self) -> Timestamp {
        let micros = (Duration::from_secs(BEGIN) + self.now()).as_micros();
        Timestamp(i64::try_from(micros).expect("it is not far in the future"))
    }
}

/// A relay that holds the lease and has nothing to do.
pub(crate) fn leading() -> View {
    View {
        epoch: Some(1),
        trusted: true,
        draining: false,
        gate: GateState::Open,
        ready: Load::default(),
        in_flight: Load::default(),
        held: 0,
        refused: 0,
        held_back: None,
    }
}

pub(crate) fn standing_by() -> View {
    View { epoch: None, trusted: false, gate: GateState::Probing, ..leading() }
}

pub(crate) fn holding(rows: usize) -> View {
    View { ready: Load { rows, bytes: rows * 100 }, ..leading() }
}

pub(crate) fn topic(name: &str) -> Destination {
    Destination::Topic(name.into())
}

pub(crate) fn shipment(number: u64, destination: &str, timestamp_ms: Option<i64>) -> Shipment {
    let record = Record {
        destination: topic(destination),
        key: None,
        headers: Vec::new(),
        body: Some(bytes::Bytes::from_static(b"0123456789")),
        timestamp_ms,
        properties: None,
    };
    Shipment { token: Token(1 << 32 | number), record: Arc::new(record) }
}

pub(crate) fn row(id: i64) -> RowRef {
    RowRef { id: RowId::Int(id), position: Position(id) }
}

/// The row that `shipment` carries, as it was read.
pub(crate) fn routed(id: i64, shipment: &Shipment) -> Routed {
    let record = Arc::clone(&shipment.record);
    Routed { row: row(id), lane: None, bytes: record.bytes(), content: Ok(record), created_at: None }
}

pub(crate) fn confirmed(shipments: &[Shipment]) -> Input {
    answered(shipments, &Ok(()))
}

pub(crate) fn failed(shipments: &[Shipment], failure: &Failure) -> Input {
    answered(shipments, &Err(failure.clone()))
}

fn answered(shipments: &[Shipment], result: &Result<(), Failure>) -> Input {
    let outcomes =
        shipments.iter().map(|shipment| Outcome { token: shipment.token, result: result.clone() }).collect();
    Input::Sink(vec![SinkEvent::Outcomes(outcomes)])
}

pub(crate) fn broker_out() -> Failure {
    Failure::unknown(Fault::Unavailable, ErrorType::BrokerUnavailable, "could not reach kafka:9092")
}

pub(crate) fn database_out() -> SourceError {
    SourceError {
        kind: SourceErrorKind::Unavailable,
        message: "could not read the outbox: connection refused".into(),
        hint: Some("see whether Postgres runs".into()),
    }
}

pub(crate) fn fetch(number: u64) -> Fetch {
    Fetch {
        number,
        epoch: 1,
        after: Position::START,
        exclude: Vec::new(),
        skip: Skip::default(),
        rows_max: 100,
        bytes_max: 1 << 20,
    }
}

pub(crate) fn fetched(number: u64, messages: Vec<Routed>) -> Input {
    let batch = Batch { messages, cut: false, highest: None, writers: Vec::new(), remarks: Vec::new() };
    Input::Fetched { number, result: Ok(batch) }
}

/// A measurement that found `pending_rows`, the oldest of them `age` old.
pub(crate) fn measured(time: &Time, pending_rows: u64, age: Duration) -> Input {
    let measured_at = time.timestamp();
    let age = i64::try_from(age.as_micros()).expect("it is not older than the world");
    let oldest = (pending_rows > 0).then_some(Timestamp(measured_at.0 - age));
    Input::Measured(Ok(Backlog { pending_rows, oldest, measured_at }))
}

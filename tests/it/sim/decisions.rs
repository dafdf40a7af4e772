//! Single decisions of the core, asked for one input at a time: what a seed would meet too seldom.

use std::sync::Arc;
use std::time::Duration;

use outbox_relay::message::{Position, RowId, RowRef};
use outbox_relay::relay::{Action, Backoff, Exit, Input, LeaseTiming, Limits, Load, News, Relay, Rules};
use outbox_relay::route::Routed;
use outbox_relay::sink::{Destination, ErrorType, Failure, Fault, Outcome, Record, Shipment, SinkEvent};
use outbox_relay::source::{Batch, Holder, LaneKey};

const HELD_FOR: Duration = Duration::from_secs(1);

/// A relay that has the lease and an open sink, and was not yet answered about its first read.
struct Core {
    relay: Relay,
    now: Duration,
}

impl Core {
    fn new(in_flight: Load) -> Self {
        let limits = Limits {
            in_flight,
            read_ahead: Load { rows: 1_000, bytes: 1 << 20 },
            fetch_rows_max: 100,
            settle_rows_max: 100,
            held_max: 100,
            poll_interval: Duration::from_millis(250),
            backoff: Backoff { min: HELD_FOR, max: HELD_FOR },
            lease: LeaseTiming { ttl: Duration::from_secs(3_600) },
            drain_timeout: Duration::from_secs(10),
            backlog_interval: Duration::from_secs(3_600),
            listen: false,
        };
        let mut core = Self { relay: Relay::new(limits, Rules::default(), 1), now: Duration::ZERO };
        core.tell(Input::Tick);
        core.tell(Input::Lease(Ok(Holder::Us(1))));
        core.tell(Input::Opened(Ok(Vec::new())));
        core
    }

    fn tell(&mut self, input: Input) -> Vec<Action> {
        self.relay.handle(self.now, input);
        std::iter::from_fn(|| self.relay.next_action()).collect()
    }

    fn wait(&mut self, pause: Duration) -> Vec<Action> {
        self.now += pause;
        self.tell(Input::Tick)
    }

    /// Answers the read of that number.
    fn read(&mut self, number: u64, messages: Vec<Routed>) -> Vec<Action> {
        let highest = Some(Position(1_000));
        let batch = Batch { messages, cut: false, highest, writers: Vec::new(), remarks: Vec::new() };
        self.tell(Input::Fetched { number, result: Ok(batch) })
    }

    fn answer(&mut self, shipments: &[Shipment], result: &Result<(), Failure>) -> Vec<Action> {
        let outcome = |shipment: &Shipment| Outcome { token: shipment.token, result: result.clone() };
        let outcomes = shipments.iter().map(outcome).collect();
        self.tell(Input::Sink(vec![SinkEvent::Outcomes(outcomes)]))
    }
}

fn row(number: i64, key: &'static str, bytes: usize) -> Routed {
    row_to(Destination::Topic("orders".into()), number, key, bytes)
}

fn row_to(destination: Destination, number: i64, key: &'static str, bytes: usize) -> Routed {
    let record = Record {
        destination: destination.clone(),
        key: Some(key.into()),
        headers: Vec::new(),
        body: None,
        timestamp_ms: None,
        properties: None,
    };
    Routed {
        row: RowRef { id: RowId::Int(number), position: Position(number) },
        lane: Some(LaneKey { scope: Some(destination.scope()), key: key.into() }),
        bytes,
        content: Ok(Arc::new(record)),
        created_at: None,
    }
}

fn shipped(actions: Vec<Action>) -> Vec<Shipment> {
    let shipments = actions.into_iter().filter_map(|action| match action {
        Action::Publish(shipments) => Some(shipments),
        _other => None,
    });
    shipments.flatten().collect()
}

fn fetched(actions: &[Action]) -> Option<u64> {
    actions.iter().find_map(|action| match action {
        Action::Fetch(fetch) => Some(fetch.number),
        _other => None,
    })
}

fn stopped(actions: &[Action]) -> Option<Exit> {
    actions.iter().find_map(|action| match action {
        Action::Stop(exit) => Some(*exit),
        _other => None,
    })
}

#[test]
fn a_doubtful_message_that_the_application_took_back_leaves_nothing_unknown() {
    let mut core = Core::new(Load { rows: 100, bytes: 1 << 20 });
    let shipments = shipped(core.read(1, vec![row(1, "a", 10)]));
    let late = Failure::unknown(Fault::Transient, ErrorType::Timeout, "no answer");
    core.answer(&shipments, &Err(late));
    // Due again, it is looked for and not found: somebody deleted it.
    let mut actions = core.wait(2 * HELD_FOR);
    while let Some(number) = fetched(&actions) {
        actions = core.read(number, Vec::new());
    }
    core.tell(Input::Drain);
    let end = core.tell(Input::Released(Ok(())));
    assert_eq!(stopped(&end), Some(Exit::Drained));
}

#[test]
fn a_large_record_that_is_done_makes_room_for_all_the_small_ones_behind_it() {
    // A destination may take half of the window: 10,000 bytes.
    let mut core = Core::new(Load { rows: 100, bytes: 20_000 });
    // Until the first confirmation the gate lets one record pass.
    let first =
        shipped(core.read(1, vec![row(1, "a", 12_000), row(2, "b", 10), row(3, "c", 10), row(4, "d", 10)]));
    assert_eq!(first.len(), 1);
    core.answer(&first, &Ok(()));
    let rest = core.tell(Input::Settled(Ok(outbox_relay::source::Settled {
        done: vec![RowRef { id: RowId::Int(1), position: Position(1) }],
        refused: Vec::new(),
    })));
    assert_eq!(shipped(rest).len(), 3, "the others go as soon as the large one is settled");
}

fn event(number: i64, key: &'static str, routing_key: &str) -> Routed {
    let destination = Destination::Exchange { exchange: "events".into(), routing_key: routing_key.into() };
    row_to(destination, number, key, 10)
}

#[test]
fn an_exchange_has_one_share_of_the_window_however_many_routing_keys_it_has() {
    let mut core = Core::new(Load { rows: 10, bytes: 1 << 20 });
    let keys = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let events = (1..).zip(keys).map(|(number, key)| event(number, key, key)).collect();
    let first = shipped(core.read(1, events));
    let rest = shipped(core.answer(&first, &Ok(())));
    assert_eq!(first.len() + rest.len(), 5, "half of the window is for others");
}

#[test]
fn a_held_message_is_told_with_its_routing_key_and_holds_back_its_key_under_all_others() {
    let mut core = Core::new(Load { rows: 100, bytes: 1 << 20 });
    let first = shipped(core.read(1, vec![event(1, "a", "placed"), event(2, "a", "shipped")]));
    assert_eq!(first.len(), 1);
    let unroutable = Failure::refused(Fault::Blocked, ErrorType::Unroutable, "no queue is bound");
    let actions = core.answer(&first, &Err(unroutable));
    let told = actions.iter().find_map(|action| match action {
        Action::Tell(News::Held { destination, .. }) => destination.as_ref().map(ToString::to_string),
        _other => None,
    });
    assert_eq!(told.as_deref(), Some("events:placed"));
    assert!(shipped(actions).is_empty(), "the other routing key waits behind it");
}

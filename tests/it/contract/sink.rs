//! The contract of [`Sink`], sentence by sentence, over anything that can be read back.
//!
//! A broker that offers less than another (it cannot be stopped, say) passes over what it cannot show.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use outbox_relay::message::Header;
use outbox_relay::sink::{
    Destination, ErrorType, Failure, Fault, OnUnroutable, Outcome, Properties, Record, Shipment, Sink,
    SinkEvent, Token,
};

mod kafka;
mod rabbitmq;

/// Longer than any of this takes on a busy machine; reached only by a test that fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// Long enough for a confirmation to arrive that must not.
const SILENCE: Duration = Duration::from_millis(300);

/// A broker and a way to look into it.
pub(crate) trait Broker {
    type Sink: Sink;

    fn sink(&self) -> Self::Sink;
    /// A new, empty destination.
    async fn destination(&self) -> Destination;
    /// A destination that does not exist.
    fn missing_destination(&self) -> Option<Destination>;
    /// What remains of a record at a broker that cannot hold all of it.
    fn held(&self, record: Record) -> Record {
        record
    }
    /// Everything the destination holds, in the order of its partitions and offsets.
    async fn read(&self, destination: &Destination) -> Vec<Record>;
    /// Cuts the broker off, and returns when its clients have noticed; false if it cannot be.
    async fn stop(&self) -> bool;
    fn start(&self);
    /// More bytes than the sink takes in one record.
    fn oversize(&self) -> usize;
}

pub(crate) fn record(destination: &Destination, key: &str, body: &str) -> Record {
    Record {
        destination: destination.clone(),
        key: Some(Bytes::copy_from_slice(key.as_bytes())),
        headers: vec![Header { name: "id".into(), value: Some(Bytes::copy_from_slice(body.as_bytes())) }],
        body: Some(Bytes::copy_from_slice(body.as_bytes())),
        timestamp_ms: Some(1_700_000_000_123),
        properties: match destination {
            Destination::Topic(_) => None,
            Destination::Exchange { .. } => Some(Box::new(properties(body))),
        },
    }
}

fn properties(id: &str) -> Properties {
    // As long as an id may be.
    let id = &id[..id.len().min(255)];
    Properties {
        message_id: Bytes::copy_from_slice(id.as_bytes()),
        kind: Some(Bytes::from_static(b"OrderPlaced")),
        content_type: None,
        correlation_id: None,
        reply_to: None,
        app_id: None,
        on_unroutable: OnUnroutable::Block,
    }
}

pub(crate) fn shipment(token: u64, record: Record) -> Shipment {
    Shipment { token: Token(token), record: Arc::new(record) }
}

/// Records numbered by token, over ten keys.
pub(crate) fn shipments(destination: &Destination, tokens: std::ops::Range<u64>) -> Vec<Shipment> {
    let numbered = |n: u64| record(destination, &format!("key-{}", n % 10), &n.to_string());
    tokens.map(|token| shipment(token, numbered(token))).collect()
}

pub(crate) async fn events(sink: &mut impl Sink) -> Vec<SinkEvent> {
    tokio::time::timeout(PATIENCE, sink.events()).await.expect("an event before the deadline")
}

/// Waits for outcomes until `count` have come; what else was reported comes beside them.
pub(crate) async fn outcomes(
    sink: &mut impl Sink,
    count: usize,
) -> (BTreeMap<Token, Result<(), Failure>>, Vec<SinkEvent>) {
    let (mut results, mut others) = (BTreeMap::new(), Vec::new());
    while results.len() < count {
        for event in events(sink).await {
            match event {
                SinkEvent::Outcomes(outcomes) => collect(&mut results, outcomes),
                SinkEvent::Down(_) | SinkEvent::Up => others.push(event),
            }
        }
    }
    assert_eq!(results.len(), count, "more outcomes than shipments");
    (results, others)
}

fn collect(results: &mut BTreeMap<Token, Result<(), Failure>>, outcomes: Vec<Outcome>) {
    for Outcome { token, result } in outcomes {
        assert!(results.insert(token, result).is_none(), "a second outcome for {token:?}");
    }
}

pub(crate) async fn confirmed(sink: &mut impl Sink, count: usize) {
    let (results, _) = outcomes(sink, count).await;
    for (token, result) in results {
        assert_eq!(result, Ok(()), "{token:?}");
    }
}

/// No outcome comes; `Down` and `Up` may.
pub(crate) async fn silence(sink: &mut impl Sink) {
    let listen = async {
        loop {
            for event in sink.events().await {
                assert!(!matches!(event, SinkEvent::Outcomes(_)), "{event:?}");
            }
        }
    };
    let silent: Result<(), _> = tokio::time::timeout(SILENCE, listen).await;
    silent.expect_err("listening ends with the deadline");
}

async fn opened<B: Broker>(broker: &B) -> B::Sink {
    let mut sink = broker.sink();
    assert_eq!(sink.open(1).await.expect("the sink opens"), []);
    sink
}

fn bodies(records: &[Record]) -> Vec<&[u8]> {
    records.iter().filter_map(|record| record.body.as_deref()).collect()
}

pub(crate) async fn what_is_confirmed_is_held_byte_for_byte<B: Broker>(broker: &B) {
    let (mut sink, destination) = (opened(broker).await, broker.destination().await);
    let plain = record(&destination, "key", "body");
    let header = |name: &str, value| Header { name: name.into(), value };
    let odd = [
        Record { body: None, ..plain.clone() },
        Record { body: Some(Bytes::new()), ..plain.clone() },
        Record { headers: vec![], ..plain.clone() },
        Record { body: Some(Bytes::from_static(b"\0\xff\xfe")), ..plain.clone() },
        Record {
            headers: vec![
                header("twice", Some(Bytes::from_static(b"1"))),
                header("twice", None),
                header("", Some(Bytes::new())),
            ],
            ..plain.clone()
        },
    ];
    for (token, record) in (0..).zip(&odd) {
        sink.publish(vec![shipment(token, record.clone())]);
        confirmed(&mut sink, 1).await;
    }
    let held: Vec<Record> = odd.into_iter().map(|record| broker.held(record)).collect();
    assert_eq!(broker.read(&destination).await, held);
}

pub(crate) async fn a_record_without_a_key_arrives_without_one<B: Broker>(broker: &B) {
    let (mut sink, destination) = (opened(broker).await, broker.destination().await);
    let keyless = Record { key: None, ..record(&destination, "", "body") };
    sink.publish(vec![shipment(1, keyless.clone())]);
    confirmed(&mut sink, 1).await;
    assert_eq!(broker.read(&destination).await, [broker.held(keyless)]);
}

pub(crate) async fn records_of_a_key_arrive_in_the_order_they_were_published<B: Broker>(broker: &B) {
    let (mut sink, destination) = (opened(broker).await, broker.destination().await);
    for batch in 0..10 {
        sink.publish(shipments(&destination, batch * 100..(batch + 1) * 100));
    }
    confirmed(&mut sink, 1_000).await;
    let mut last = BTreeMap::new();
    let held = broker.read(&destination).await;
    assert_eq!(held.len(), 1_000);
    for record in held {
        let body = String::from_utf8(record.body.expect("a body").to_vec()).expect("a number");
        let number: u64 = body.parse().expect("a number");
        let before = last.insert(number % 10, number);
        assert!(before.is_none_or(|before| before < number), "{number} after {before:?}");
    }
}

pub(crate) async fn an_oversize_record_is_permanent_and_leaves_its_neighbours_alone<B: Broker>(broker: &B) {
    let (mut sink, destination) = (opened(broker).await, broker.destination().await);
    let mut batch = shipments(&destination, 0..100);
    batch[50] = shipment(50, record(&destination, "key-0", &"x".repeat(broker.oversize())));
    sink.publish(batch);
    let (mut results, _) = outcomes(&mut sink, 100).await;
    let failure = results.remove(&Token(50)).expect("an outcome").expect_err("a failure");
    assert_eq!((failure.fault, failure.error_type), (Fault::Permanent, ErrorType::TooLarge));
    assert!(!failure.maybe_published);
    assert!(results.values().all(Result::is_ok), "{results:?}");
    assert_eq!(broker.read(&destination).await.len(), 99);
}

pub(crate) async fn a_missing_destination_blocks_itself_and_no_other<B: Broker>(broker: &B) {
    let Some(missing) = broker.missing_destination() else { return };
    let (mut sink, destination) = (opened(broker).await, broker.destination().await);
    sink.publish(shipments(&missing, 0..3));
    sink.publish(shipments(&destination, 3..6));
    let (results, _) = outcomes(&mut sink, 6).await;
    for (token, result) in results {
        let fault = result.err().map(|failure| (failure.fault, failure.error_type));
        let expected = (token.0 < 3).then_some((Fault::Blocked, ErrorType::UnknownDestination));
        assert_eq!(fault, expected, "{token:?}");
    }
}

pub(crate) async fn a_wait_that_is_dropped_loses_no_outcome<B: Broker>(broker: &B) {
    let (mut sink, destination) = (opened(broker).await, broker.destination().await);
    sink.publish(shipments(&destination, 0..100));
    let mut results = BTreeMap::new();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while results.len() < 100 {
        assert!(tokio::time::Instant::now() < deadline, "{} outcomes", results.len());
        // Polled once and dropped, over and over.
        let polled = tokio::time::timeout(Duration::ZERO, sink.events()).await;
        for event in polled.into_iter().flatten() {
            if let SinkEvent::Outcomes(outcomes) = event {
                collect(&mut results, outcomes);
            }
        }
    }
}

pub(crate) async fn opening_needs_no_broker<B: Broker>(broker: &B) {
    let destination = broker.destination().await;
    if !broker.stop().await {
        return;
    }
    let mut sink = opened(broker).await;
    sink.publish(shipments(&destination, 0..10));
    silence(&mut sink).await;
    broker.start();
    confirmed(&mut sink, 10).await;
}

pub(crate) async fn an_outage_is_told_and_what_was_queued_is_delivered_after_it<B: Broker>(broker: &B) {
    let (mut sink, destination) = (opened(broker).await, broker.destination().await);
    sink.publish(shipments(&destination, 0..10));
    confirmed(&mut sink, 10).await;
    if !broker.stop().await {
        return;
    }
    sink.publish(shipments(&destination, 10..20));
    let told = events(&mut sink).await;
    let [SinkEvent::Down(failure)] = told.as_slice() else { panic!("{told:?} instead of one Down") };
    assert_eq!(failure.fault, Fault::Unavailable);
    silence(&mut sink).await;
    broker.start();
    let (results, others) = outcomes(&mut sink, 10).await;
    assert!(results.values().all(Result::is_ok), "{results:?}");
    assert_eq!(others, [SinkEvent::Up]);
    assert_eq!(broker.read(&destination).await.len(), 20, "each once");
}

pub(crate) async fn a_purge_brings_everything_back_and_none_of_it_is_sent<B: Broker>(broker: &B) {
    let (mut sink, destination) = (opened(broker).await, broker.destination().await);
    sink.publish(shipments(&destination, 0..1));
    confirmed(&mut sink, 1).await;
    if !broker.stop().await {
        return;
    }
    sink.publish(shipments(&destination, 1..101));
    sink.purge();
    let (results, _) = outcomes(&mut sink, 100).await;
    for result in results.into_values() {
        let failure = result.expect_err("a failure");
        assert_eq!((failure.fault, failure.error_type), (Fault::Unavailable, ErrorType::Purged));
    }
    broker.start();
    // A purge still under way may bring back what was queued just after it, too.
    let mut token = 101;
    loop {
        sink.publish(shipments(&destination, token..token + 1));
        let (results, _) = outcomes(&mut sink, 1).await;
        match &results[&Token(token)] {
            Ok(()) => break,
            Err(failure) => assert_eq!(failure.error_type, ErrorType::Purged),
        }
        token += 1;
    }
    let mut held: Vec<_> = broker.read(&destination).await;
    held.sort_by(|a, b| a.body.cmp(&b.body));
    assert_eq!(bodies(&held), [b"0".as_slice(), token.to_string().as_bytes()]);
}

pub(crate) async fn opening_again_drops_what_was_queued_and_owes_no_outcome_for_it<B: Broker>(broker: &B) {
    let (mut sink, destination) = (opened(broker).await, broker.destination().await);
    if !broker.stop().await {
        return;
    }
    sink.publish(shipments(&destination, 0..100));
    sink.open(2).await.expect("the sink opens");
    broker.start();
    sink.publish(shipments(&destination, 100..110));
    confirmed(&mut sink, 10).await;
    silence(&mut sink).await;
    assert_eq!(broker.read(&destination).await.len(), 10);
}

pub(crate) async fn closing_does_not_wait_for_a_broker_that_is_away<B: Broker>(broker: &B) {
    let (mut sink, destination) = (opened(broker).await, broker.destination().await);
    if !broker.stop().await {
        return;
    }
    sink.publish(shipments(&destination, 0..100));
    tokio::time::timeout(PATIENCE, sink.close()).await.expect("the sink closes");
    broker.start();
    assert_eq!(broker.read(&destination).await, []);
}

/// The whole suite over one kind of broker, a test for each sentence.
macro_rules! sink_contract {
    ($broker:expr) => {
        $crate::contract::sink::sink_contract! { $broker =>
            what_is_confirmed_is_held_byte_for_byte
            a_record_without_a_key_arrives_without_one
            records_of_a_key_arrive_in_the_order_they_were_published
            an_oversize_record_is_permanent_and_leaves_its_neighbours_alone
            a_missing_destination_blocks_itself_and_no_other
            a_wait_that_is_dropped_loses_no_outcome
            opening_needs_no_broker
            an_outage_is_told_and_what_was_queued_is_delivered_after_it
            a_purge_brings_everything_back_and_none_of_it_is_sent
            opening_again_drops_what_was_queued_and_owes_no_outcome_for_it
            closing_does_not_wait_for_a_broker_that_is_away
        }
    };
    ($broker:expr => $($promise:ident)+) => {
        $(#[tokio::test]
        async fn $promise() {
            if let Some(broker) = $broker {
                $crate::contract::sink::$promise(&broker).await;
            }
        })+
    };
}
pub(crate) use sink_contract;

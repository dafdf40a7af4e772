//! The contract over librdkafka's mock cluster and, where `OUTBOX_TEST_KAFKA` names one, a real Kafka;
//! and what only Kafka promises: partitions and error codes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::support::services::Services;
use bytes::Bytes;
use outbox_relay::config;
use outbox_relay::message::Header;
use outbox_relay::sink::kafka::{KafkaSink, Limits};
use outbox_relay::sink::{Destination, ErrorType, Failure, Fault, Record, Sink as _, Token};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use super::{Broker, PATIENCE, confirmed, outcomes, record, shipment, shipments};

const PARTITIONS: i32 = 3;

const LIMITS: Limits =
    Limits { message_bytes_max: 100_000, in_flight_rows_max: 10_000, in_flight_bytes_max: 16 << 20 };

fn sink(brokers: &str) -> KafkaSink {
    KafkaSink::new(&config::Kafka { brokers: brokers.to_owned(), properties: BTreeMap::new() }, LIMITS)
}

fn topic_of(destination: &Destination) -> &str {
    destination.name()
}

/// librdkafka's broker inside the test process.
struct Mock {
    cluster: MockCluster<'static, DefaultProducerContext>,
    topics: AtomicU32,
}

impl Mock {
    fn new() -> Self {
        Self { cluster: MockCluster::new(1).expect("a mock cluster"), topics: AtomicU32::new(0) }
    }

    fn topic(&self, partitions: i32) -> Destination {
        let name = format!("topic-{}", self.topics.fetch_add(1, Ordering::Relaxed));
        self.cluster.create_topic(&name, partitions, 1).expect("a topic");
        Destination::Topic(name.into())
    }

    fn fail_produce(&self, codes: &[RDKafkaRespErr]) {
        self.cluster.request_errors(RDKafkaApiKey::Produce, codes);
    }
}

impl Broker for Mock {
    type Sink = KafkaSink;

    fn sink(&self) -> KafkaSink {
        sink(&self.cluster.bootstrap_servers())
    }

    async fn destination(&self) -> Destination {
        self.topic(PARTITIONS)
    }

    fn missing_destination(&self) -> Option<Destination> {
        Some(Destination::Topic("missing".into()))
    }

    async fn read(&self, destination: &Destination) -> Vec<Record> {
        read(&self.cluster.bootstrap_servers(), destination).into_values().flatten().collect()
    }

    async fn stop(&self) -> bool {
        self.cluster.broker_down(-1).expect("the mock broker goes down");
        true
    }

    fn start(&self) {
        self.cluster.broker_up(-1).expect("the mock broker comes up");
    }

    fn oversize(&self) -> usize {
        LIMITS.message_bytes_max * 10
    }
}

/// A Kafka that somebody else runs.
struct Real {
    brokers: String,
}

impl Real {
    fn from_env() -> Option<Self> {
        let services = Services::find("the sink's contract over Kafka")?;
        Some(Self { brokers: services.kafka_brokers })
    }

    async fn topic(&self, partitions: i32) -> Destination {
        let name = format!("contract-{}", uuid::Uuid::new_v4());
        let admin: AdminClient<DefaultClientContext> =
            ClientConfig::new().set("bootstrap.servers", &self.brokers).create().expect("an admin client");
        let topic = NewTopic::new(&name, partitions, TopicReplication::Fixed(1));
        let created = admin.create_topics([&topic], &AdminOptions::new()).await.expect("an answer");
        created.into_iter().for_each(|topic| drop(topic.expect("a topic")));
        Destination::Topic(name.into())
    }
}

impl Broker for Real {
    type Sink = KafkaSink;

    fn sink(&self) -> KafkaSink {
        sink(&self.brokers)
    }

    async fn destination(&self) -> Destination {
        self.topic(PARTITIONS).await
    }

    fn missing_destination(&self) -> Option<Destination> {
        Some(Destination::Topic(format!("missing-{}", uuid::Uuid::new_v4()).into()))
    }

    async fn read(&self, destination: &Destination) -> Vec<Record> {
        read(&self.brokers, destination).into_values().flatten().collect()
    }

    async fn stop(&self) -> bool {
        false
    }

    fn start(&self) {}

    fn oversize(&self) -> usize {
        LIMITS.message_bytes_max * 10
    }
}

/// What a topic holds, by partition.
fn read(brokers: &str, destination: &Destination) -> BTreeMap<i32, Vec<Record>> {
    let topic = topic_of(destination);
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "contract")
        .set("fetch.wait.max.ms", "10")
        .set("enable.auto.commit", "false")
        .create()
        .expect("a consumer");
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).expect("metadata");
    let partitions: Vec<i32> = metadata.topics()[0].partitions().iter().map(|p| p.id()).collect();
    partitions.into_iter().map(|p| (p, read_partition(&consumer, topic, p))).collect()
}

fn read_partition(consumer: &BaseConsumer, topic: &str, partition: i32) -> Vec<Record> {
    let (low, high) = consumer.fetch_watermarks(topic, partition, PATIENCE).expect("watermarks");
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(topic, partition, Offset::Beginning).expect("an offset");
    consumer.assign(&assignment).expect("an assignment");
    let count = usize::try_from(high - low).expect("low is not above high");
    let mut records = Vec::with_capacity(count);
    while records.len() < count {
        let message = consumer.poll(PATIENCE).expect("a message before the deadline").expect("a message");
        records.push(held(&message));
    }
    records
}

fn held(message: &BorrowedMessage<'_>) -> Record {
    let header = |header: rdkafka::message::Header<'_, &[u8]>| Header {
        name: header.key.into(),
        value: header.value.map(Bytes::copy_from_slice),
    };
    Record {
        destination: Destination::Topic(message.topic().into()),
        key: message.key().map(Bytes::copy_from_slice),
        headers: message.headers().map(|headers| headers.iter().map(header).collect()).unwrap_or_default(),
        body: message.payload().map(Bytes::copy_from_slice),
        timestamp_ms: message.timestamp().to_millis(),
        properties: None,
    }
}

mod mock_cluster {
    use super::*;

    super::super::sink_contract! { Some(Mock::new()) }
}

mod real_kafka {
    use super::*;

    super::super::sink_contract! { Real::from_env() }
}

/// Hashes from Kafka's own test of its murmur2.
const MURMUR2: [(&str, i32); 6] = [
    ("21", -973_932_308),
    ("foobar", -790_332_482),
    ("a-little-bit-long-string", -985_981_536),
    ("a-little-bit-longer-string", -1_486_304_829),
    ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
    ("abc", 479_470_107),
];

fn assert_on_the_partitions_of_java(partitions: i32, held: &BTreeMap<i32, Vec<Record>>) {
    for (key, hash) in MURMUR2 {
        let expected = (hash & i32::MAX) % partitions;
        let key = Some(Bytes::from_static(key.as_bytes()));
        let found = held.iter().find(|(_, records)| records.iter().any(|record| record.key == key));
        assert_eq!(found.map(|(partition, _)| *partition), Some(expected), "{key:?}");
    }
}

async fn publish_the_keys_of_java(sink: &mut KafkaSink, destination: &Destination) {
    sink.open(1).await.expect("the sink opens");
    let records = MURMUR2.iter().map(|(key, _)| record(destination, key, "body"));
    sink.publish((0..).zip(records).map(|(token, record)| shipment(token, record)).collect());
    confirmed(sink, MURMUR2.len()).await;
}

#[tokio::test]
async fn keys_land_on_the_partitions_the_java_client_chooses() {
    let mock = Mock::new();
    for partitions in [3, 7, 12] {
        let destination = mock.topic(partitions);
        publish_the_keys_of_java(&mut mock.sink(), &destination).await;
        let held = read(&mock.cluster.bootstrap_servers(), &destination);
        assert_on_the_partitions_of_java(partitions, &held);
    }
}

#[tokio::test]
async fn keys_land_on_the_partitions_the_java_client_chooses_in_a_real_kafka() {
    let Some(kafka) = Real::from_env() else { return };
    let destination = kafka.topic(7).await;
    publish_the_keys_of_java(&mut kafka.sink(), &destination).await;
    assert_on_the_partitions_of_java(7, &read(&kafka.brokers, &destination));
}

async fn failure_of(mock: &Mock, code: RDKafkaRespErr) -> Failure {
    let (mut sink, destination) = (mock.sink(), mock.destination().await);
    sink.open(1).await.expect("the sink opens");
    mock.fail_produce(&[code]);
    sink.publish(shipments(&destination, 0..1));
    let (mut results, _) = outcomes(&mut sink, 1).await;
    results.remove(&Token(0)).expect("an outcome").expect_err("a failure")
}

#[tokio::test]
async fn a_broker_that_refuses_is_classified_by_its_code() {
    use {ErrorType as E, Fault as F, RDKafkaRespErr as C};
    let mock = Mock::new();
    for (code, fault, error_type) in [
        (C::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, F::Blocked, E::Auth),
        (C::RD_KAFKA_RESP_ERR_POLICY_VIOLATION, F::Blocked, E::Other),
        (C::RD_KAFKA_RESP_ERR_INVALID_RECORD, F::Permanent, E::InvalidRecord),
        (C::RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP, F::Permanent, E::InvalidRecord),
        (C::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE, F::Transient, E::TooLarge),
        (C::RD_KAFKA_RESP_ERR_THROTTLING_QUOTA_EXCEEDED, F::Transient, E::Throttled),
        (C::RD_KAFKA_RESP_ERR_UNSUPPORTED_FOR_MESSAGE_FORMAT, F::Fatal, E::Other),
        (C::RD_KAFKA_RESP_ERR_OFFSET_METADATA_TOO_LARGE, F::Transient, E::Other),
    ] {
        let failure = failure_of(&mock, code).await;
        assert_eq!((failure.fault, failure.error_type), (fault, error_type), "{code:?}: {failure}");
    }
}

#[tokio::test]
async fn a_broker_that_is_not_ready_is_tried_again_by_the_client() {
    use RDKafkaRespErr as C;
    let mock = Mock::new();
    let (mut sink, destination) = (mock.sink(), mock.destination().await);
    sink.open(1).await.expect("the sink opens");
    mock.fail_produce(&[
        C::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
        C::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
        C::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
        C::RD_KAFKA_RESP_ERR__TRANSPORT,
    ]);
    sink.publish(shipments(&destination, 0..10));
    confirmed(&mut sink, 10).await;
    // The mock does not look at the sequence numbers of a plain idempotent client, so a batch whose
    // answer was cut off may be in its log twice; a real broker keeps one.
    let held: BTreeSet<_> = mock.read(&destination).await.into_iter().map(|record| record.body).collect();
    assert_eq!(held.len(), 10);
}

#[tokio::test]
async fn a_client_that_lost_count_is_fatal_for_all_it_holds_and_works_once_opened_again() {
    let mock = Mock::new();
    let (mut sink, destination) = (mock.sink(), mock.destination().await);
    sink.open(1).await.expect("the sink opens");
    mock.fail_produce(&[RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER]);
    sink.publish(shipments(&destination, 0..1));
    let (results, _) = outcomes(&mut sink, 1).await;
    let faults: Vec<_> =
        results.into_values().map(|result| result.map_err(|failure| failure.fault)).collect();
    assert_eq!(faults, [Err(Fault::Fatal)]);

    sink.publish(shipments(&destination, 1..2));
    let (mut results, _) = outcomes(&mut sink, 1).await;
    let failure = results.remove(&Token(1)).expect("an outcome").expect_err("a failure");
    assert_eq!(failure.fault, Fault::Fatal, "{failure}");
    assert!(!failure.maybe_published, "it was never queued");

    sink.open(2).await.expect("the sink opens");
    sink.publish(shipments(&destination, 2..3));
    confirmed(&mut sink, 1).await;
}

#[tokio::test]
async fn what_a_dying_client_still_holds_is_fatal_and_no_outage() {
    let mock = Mock::new();
    let (mut sink, destination) = (mock.sink(), mock.destination().await);
    let missing = mock.missing_destination().expect("a mock can miss a topic");
    sink.open(1).await.expect("the sink opens");
    mock.fail_produce(&[RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER]);
    // The first waits for its topic while the second kills the client.
    sink.publish(shipments(&missing, 0..1));
    sink.publish(shipments(&destination, 1..2));
    let (results, _) = outcomes(&mut sink, 2).await;
    for result in results.into_values() {
        let failure = result.expect_err("a failure");
        assert_eq!(failure.fault, Fault::Fatal, "{failure}");
    }
}

/// Publishes to the topic until it is confirmed.
async fn recover(sink: &mut KafkaSink, destination: &Destination) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    for token in 1_000.. {
        sink.publish(shipments(destination, token..token + 1));
        let (results, _) = outcomes(sink, 1).await;
        if results[&Token(token)].is_ok() {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "the topic is still unusable");
    }
}

#[tokio::test]
async fn a_topic_that_appears_is_noticed_without_a_restart() {
    let mock = Mock::new();
    let missing = mock.missing_destination().expect("a mock can miss a topic");
    let mut sink = mock.sink();
    sink.open(1).await.expect("the sink opens");
    sink.publish(shipments(&missing, 0..1));
    let (results, _) = outcomes(&mut sink, 1).await;
    assert!(results[&Token(0)].is_err());
    mock.cluster.create_topic(topic_of(&missing), 1, 1).expect("a topic");
    recover(&mut sink, &missing).await;
}

#[tokio::test]
async fn a_topic_that_is_permitted_again_is_noticed_without_a_restart() {
    let mock = Mock::new();
    let (mut sink, destination) = (mock.sink(), mock.destination().await);
    let forbidden = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
    mock.cluster.topic_error(topic_of(&destination), forbidden).expect("a topic error");
    sink.open(1).await.expect("the sink opens");
    sink.publish(shipments(&destination, 0..1));
    let (mut results, _) = outcomes(&mut sink, 1).await;
    let failure = results.remove(&Token(0)).expect("an outcome").expect_err("a failure");
    assert_eq!((failure.fault, failure.error_type), (Fault::Blocked, ErrorType::Auth));
    let permitted = RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR;
    mock.cluster.topic_error(topic_of(&destination), permitted).expect("a topic without error");
    recover(&mut sink, &destination).await;
}

#[tokio::test]
async fn a_property_librdkafka_refuses_is_named_and_its_value_is_not() {
    for (name, said) in [("no.such.property", "has no property"), ("linger.ms", "does not take the value")] {
        let properties = BTreeMap::from([(name.to_owned(), config::Secret::new("hunter2"))]);
        let kafka = config::Kafka { brokers: "localhost:1".to_owned(), properties };
        let failure = KafkaSink::new(&kafka, LIMITS).open(1).await.expect_err("a failure");
        assert_eq!(failure.fault, Fault::Fatal);
        assert!(failure.reason.contains(name) && failure.reason.contains(said), "{failure}");
        assert!(!failure.reason.contains("hunter2"), "{failure}");
    }
}

#[tokio::test]
async fn a_full_client_queue_comes_back_as_outcomes() {
    let mock = Mock::new();
    let destination = mock.destination().await;
    let properties = BTreeMap::from([("queue.buffering.max.messages".to_owned(), config::Secret::new("10"))]);
    let kafka = config::Kafka { brokers: mock.cluster.bootstrap_servers(), properties };
    let mut sink = KafkaSink::new(&kafka, LIMITS);
    sink.open(1).await.expect("the sink opens");
    assert!(mock.stop().await);
    sink.publish(shipments(&destination, 0..15));
    let (results, _) = outcomes(&mut sink, 5).await;
    for (token, result) in results {
        let failure = result.expect_err("a failure");
        assert!(token.0 >= 10);
        assert_eq!((failure.fault, failure.error_type), (Fault::Transient, ErrorType::ClientQueueFull));
        assert!(!failure.maybe_published);
    }
    mock.start();
    confirmed(&mut sink, 10).await;
}

//! A Kafka: librdkafka's mock cluster in this process, or a real one that is left as it was.
//!
//! The mock cluster is a Kafka to whoever connects to it, and the relay does so from another process. It
//! keeps the last 5 MB of a partition, in memory: everything is read as it comes.

use std::fmt;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::{Offset, TopicPartitionList};
use tokio::time::Instant;

use super::{ANSWER_MAX, LOOK_EVERY, Reader, State, checked, consent_line, random};
use crate::demo::DemoError;
use crate::demo::ledger::{Arrival, Arrivals};
use crate::demo::relay::quoted;

const PARTITIONS: i32 = 3;

/// The relay's default name for the header that carries the row's id.
const ID_HEADER: &str = "outbox-id";

/// A Kafka with a topic for the demo.
pub(in crate::demo) struct Kafka {
    addresses: String,
    topic: String,
    kind: Kind,
}

enum Kind {
    /// Lives as long as this value.
    Mock(#[allow(dead_code, reason = "only kept")] MockCluster<'static, DefaultProducerContext>),
    Real {
        consent: bool,
        /// It was asked for: whatever the answer, if any came, it may be there.
        has_topic: bool,
    },
}

impl fmt::Debug for Kafka {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kafka").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl Kafka {
    pub(super) fn mock() -> Result<Self, KafkaError> {
        let (cluster, topic) = (MockCluster::new(1)?, "orders".to_owned());
        cluster.create_topic(&topic, PARTITIONS, 1)?;
        Ok(Self { addresses: cluster.bootstrap_servers(), topic, kind: Kind::Mock(cluster) })
    }

    pub(super) fn real(addresses: &str, consent: bool) -> Result<Self, DemoError> {
        let keys = [
            ("sink.kafka.brokers", addresses),
            ("sink.kafka.insecure_allow_plaintext", if consent { "true" } else { "false" }),
        ];
        let hint = "write host:port; beyond this host, consent with --insecure-allow-plaintext";
        checked("--kafka", &keys, hint)?;
        let topic = format!("outbox-relay-demo-{:08x}", random()?);
        Ok(Self { addresses: addresses.to_owned(), topic, kind: Kind::Real { consent, has_topic: false } })
    }

    pub(super) async fn open(&mut self) -> Result<(), DemoError> {
        let Kind::Real { has_topic, .. } = &mut self.kind else { return Ok(()) };
        // Before it is: whoever gives up waiting has to remove it.
        *has_topic = true;
        self.create_topic().await.map_err(|reason| {
            DemoError::new(format!("create a topic on Kafka at {}", self.addresses), reason)
                .hint("name a broker that needs neither TLS nor a login, or leave --kafka out: the demo has a Kafka")
        })
    }

    async fn create_topic(&self) -> Result<(), String> {
        // The broker's own default: not every cluster has room for one replica, or for three.
        let topic = NewTopic::new(&self.topic, PARTITIONS, TopicReplication::Fixed(-1));
        let created = async { self.admin()?.create_topics([&topic], &admin_options()).await };
        let created = created.await.map_err(|error| error.to_string())?;
        match created.into_iter().find_map(Result::err) {
            Some((_, code)) => Err(code.to_string()),
            None => Ok(()),
        }
    }

    fn admin(&self) -> Result<AdminClient<DefaultClientContext>, KafkaError> {
        self.client().create()
    }

    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.addresses);
        config
    }

    pub(super) async fn close(self) -> Result<(), DemoError> {
        match self.kind {
            Kind::Real { has_topic: true, .. } => self.delete_topic().await.map_err(|reason| {
                let what = format!("remove the topic {} from Kafka at {}", self.topic, self.addresses);
                DemoError::new(what, reason).hint("remove it if it is there: nothing else uses it")
            }),
            Kind::Real { has_topic: false, .. } | Kind::Mock(_) => Ok(()),
        }
    }

    async fn delete_topic(&self) -> Result<(), String> {
        let deleted = async { self.admin()?.delete_topics(&[&self.topic], &admin_options()).await };
        let deleted = deleted.await.map_err(|error| error.to_string())?;
        match deleted.into_iter().find_map(Result::err) {
            Some((_, RDKafkaErrorCode::UnknownTopicOrPartition)) | None => Ok(()),
            Some((_, code)) => Err(code.to_string()),
        }
    }

    pub(super) fn description(&self) -> String {
        let Self { addresses, topic, kind } = self;
        match kind {
            Kind::Mock(_) => {
                format!("Kafka is librdkafka's mock cluster, in this process at {addresses}; topic {topic}")
            }
            Kind::Real { .. } => {
                format!("Kafka is the one at {addresses}; topic {topic}, removed in the end")
            }
        }
    }

    pub(super) fn configuration(&self) -> String {
        let consent = match self.kind {
            Kind::Mock(_) => false,
            Kind::Real { consent, .. } => consent,
        };
        format!("[sink.kafka]\nbrokers = {}\n{}", quoted(&self.addresses), consent_line(consent))
    }

    pub(super) fn topic(&self) -> &str {
        &self.topic
    }

    pub(super) fn reader(&self) -> Result<Reader, DemoError> {
        let consumer = self.consumer().map_err(|error| unreadable(&error))?;
        let topic = self.topic.clone();
        Reader::start(move |state| read(&consumer, &topic, state).map_err(|error| unreadable(&error)))
    }

    fn consumer(&self) -> Result<BaseConsumer, KafkaError> {
        let mut config = self.client();
        config
            .set("group.id", "outbox-relay-demo")
            .set("enable.auto.commit", "false")
            // A record that is gone before it was read is a failure of the demo, not of the relay.
            .set("auto.offset.reset", "error");
        if matches!(self.kind, Kind::Mock(_)) {
            // The mock cluster waits this long if there is nothing yet, whatever comes meanwhile.
            config.set("fetch.wait.max.ms", "2");
        }
        let consumer: BaseConsumer = config.create()?;
        consumer.assign(&partitions(&self.topic))?;
        Ok(consumer)
    }
}

fn unreadable(error: &KafkaError) -> DemoError {
    DemoError::new("read from Kafka", error)
}

fn admin_options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(ANSWER_MAX)).operation_timeout(Some(ANSWER_MAX))
}

fn partitions(topic: &str) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        list.add_partition(topic, partition);
    }
    list.set_all_offsets(Offset::Offset(0)).expect("no offset is the only one that is refused");
    list
}

fn read(consumer: &BaseConsumer, topic: &str, state: &State) -> Result<Arrivals, KafkaError> {
    let mut arrivals = Arrivals::default();
    let mut next = [0; PARTITIONS as usize];
    while !state.is_abandoned() {
        // Asked before the poll: what comes after the last word is not waited for.
        let is_last = state.is_last();
        match consumer.poll(LOOK_EVERY) {
            Some(Ok(message)) => {
                next[usize::try_from(message.partition()).expect("partitions count from 0")] =
                    message.offset() + 1;
                arrivals.push(arrival(&message));
                state.arrived(&arrivals);
            }
            Some(Err(error)) if is_final(&error) => return Err(error),
            // librdkafka connects and asks again by itself.
            Some(Err(_)) => {}
            None if is_last && is_at_the_end(consumer, topic, next)? => break,
            None => {}
        }
    }
    Ok(arrivals)
}

fn is_final(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::UnknownTopicOrPartition)
    )
}

fn is_at_the_end(
    consumer: &BaseConsumer,
    topic: &str,
    next: [i64; PARTITIONS as usize],
) -> Result<bool, KafkaError> {
    for (partition, next) in (0..).zip(next) {
        let (_, end) = consumer.fetch_watermarks(topic, partition, ANSWER_MAX)?;
        if next < end {
            return Ok(false);
        }
    }
    Ok(true)
}

fn arrival(message: &rdkafka::message::BorrowedMessage<'_>) -> Arrival {
    let id = message.headers().and_then(|headers| {
        let header = headers.iter().find(|header| header.key == ID_HEADER)?;
        std::str::from_utf8(header.value?).ok()?.parse().ok()
    });
    Arrival {
        partition: message.partition(),
        offset: message.offset(),
        id,
        key: message.key().map(<[u8]>::to_vec),
        payload: message.payload().map(<[u8]>::to_vec),
        at: Instant::now(),
    }
}

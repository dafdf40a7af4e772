//! Where the records go: the Kafka that librdkafka brings for its own tests, in this process, or a real
//! one; and the reader of what arrived there.
//!
//! The mock cluster is a Kafka to whoever connects to it, and the relay does so from another process. It
//! keeps the last 5 MB of a partition, in memory: everything is read as it comes.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rand::TryRngCore as _;
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

use super::DemoError;
use super::ledger::{Arrival, Arrivals};

const PARTITIONS: i32 = 3;

/// How long a broker may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// How often the reader looks up from waiting for records.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The relay's default name for the header that carries the row's id.
const ID_HEADER: &str = "outbox-id";

/// A Kafka with a topic for the demo.
pub(super) struct Broker {
    addresses: String,
    topic: String,
    /// Lives as long as this value; none if the broker is real.
    mock: Option<MockCluster<'static, DefaultProducerContext>>,
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl Broker {
    /// The one at `addresses`, or one in this process.
    pub(super) async fn open(addresses: Option<&str>) -> Result<Self, DemoError> {
        match addresses {
            Some(addresses) => Self::real(addresses).await,
            None => Self::mock().map_err(|error| DemoError::new("start the mock Kafka", error)),
        }
    }

    fn mock() -> Result<Self, KafkaError> {
        let (cluster, topic) = (MockCluster::new(1)?, "orders".to_owned());
        cluster.create_topic(&topic, PARTITIONS, 1)?;
        Ok(Self { addresses: cluster.bootstrap_servers(), topic, mock: Some(cluster) })
    }

    async fn real(addresses: &str) -> Result<Self, DemoError> {
        let random =
            rand::rngs::OsRng.try_next_u32().map_err(|error| DemoError::new("draw a name", error))?;
        let broker = Self {
            addresses: addresses.to_owned(),
            topic: format!("outbox-relay-demo-{random:08x}"),
            mock: None,
        };
        // The broker's own default: not every cluster has room for one replica, or for three.
        let topic = NewTopic::new(&broker.topic, PARTITIONS, TopicReplication::Fixed(-1));
        let created = async { broker.admin()?.create_topics([&topic], &admin_options()).await };
        let failed = |error: &dyn fmt::Display| {
            DemoError::new(format!("create a topic on Kafka at {addresses}"), error)
                .hint("name a broker that needs neither TLS nor a login, or leave --kafka out: the demo has a Kafka")
        };
        match created.await.map_err(|error| failed(&error))?.into_iter().find_map(Result::err) {
            Some((_, code)) => Err(failed(&code)),
            None => Ok(broker),
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

    /// Removes the topic from a broker that stays.
    pub(super) async fn close(self) {
        if self.mock.is_none()
            && let Ok(admin) = self.admin()
        {
            // Whether it can be removed is up to the broker; its name says where it came from.
            let _ = admin.delete_topics(&[&self.topic], &admin_options()).await;
        }
    }

    /// What it is, for people.
    pub(super) fn description(&self) -> String {
        let Self { addresses, topic, mock } = self;
        match mock {
            Some(_) => {
                format!("Kafka is librdkafka's mock cluster, in this process at {addresses}; topic {topic}")
            }
            None => format!("Kafka is the one at {addresses}; topic {topic}, removed in the end"),
        }
    }

    pub(super) fn addresses(&self) -> &str {
        &self.addresses
    }

    /// What a row's `destination` is for its record to come here.
    pub(super) fn destination(&self) -> &str {
        &self.topic
    }

    /// Reads from the beginning, as records come.
    pub(super) fn reader(&self) -> Result<Reader, DemoError> {
        let failed = |error: &dyn fmt::Display| DemoError::new("read from Kafka", error);
        let mut config = self.client();
        config
            .set("group.id", "outbox-relay-demo")
            .set("enable.auto.commit", "false")
            // A record that is gone before it was read is a failure of the demo, not of the relay.
            .set("auto.offset.reset", "error");
        if self.mock.is_some() {
            // The mock cluster waits this long if there is nothing yet, whatever comes meanwhile.
            config.set("fetch.wait.max.ms", "2");
        }
        let consumer: BaseConsumer = config.create().map_err(|error| failed(&error))?;
        consumer.assign(&partitions(&self.topic)).map_err(|error| failed(&error))?;
        Reader::start(consumer, self.topic.clone()).map_err(|error| failed(&error))
    }
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

/// A thread that reads; it ends with this value.
#[derive(Debug)]
pub(super) struct Reader {
    thread: Option<JoinHandle<Result<Arrivals, KafkaError>>>,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Different rows that have arrived.
    delivered: AtomicU64,
    /// No more records are published: read to the end and return.
    is_last: AtomicBool,
    is_abandoned: AtomicBool,
}

impl Reader {
    fn start(consumer: BaseConsumer, topic: String) -> io::Result<Self> {
        let state = Arc::new(State::default());
        let seen = Arc::clone(&state);
        let read = move || read(&consumer, &topic, &seen);
        let thread = thread::Builder::new().name("demo-reader".to_owned()).spawn(read)?;
        Ok(Self { thread: Some(thread), state })
    }

    /// How many different rows have arrived so far.
    pub(super) fn delivered(&self) -> u64 {
        self.state.delivered.load(Ordering::Relaxed)
    }

    /// Why it gave up, if it has.
    pub(super) fn failure(&mut self) -> Option<DemoError> {
        let has_ended = self.thread.as_ref().is_some_and(JoinHandle::is_finished);
        let thread = self.thread.take_if(|_| has_ended)?;
        joined(thread).err()
    }

    /// Reads what there is, to the end of every partition.
    pub(super) async fn finish(mut self) -> Result<Arrivals, DemoError> {
        self.state.is_last.store(true, Ordering::Relaxed);
        while !self.thread.as_ref().is_none_or(JoinHandle::is_finished) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        joined(self.thread.take().expect("whoever was told of a failure does not go on"))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.state.is_abandoned.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It looks up every few milliseconds.
            let _ = thread.join();
        }
    }
}

fn joined(thread: JoinHandle<Result<Arrivals, KafkaError>>) -> Result<Arrivals, DemoError> {
    let read = thread.join().expect("the reader does not panic");
    read.map_err(|error| DemoError::new("read from Kafka", error))
}

fn read(consumer: &BaseConsumer, topic: &str, state: &State) -> Result<Arrivals, KafkaError> {
    let mut arrivals = Arrivals::default();
    let mut next = [0; PARTITIONS as usize];
    while !state.is_abandoned.load(Ordering::Relaxed) {
        // Asked before the poll: what comes after the last word is not waited for.
        let is_last = state.is_last.load(Ordering::Relaxed);
        match consumer.poll(LOOK_EVERY) {
            Some(Ok(message)) => {
                next[usize::try_from(message.partition()).expect("partitions count from 0")] =
                    message.offset() + 1;
                arrivals.push(arrival(&message));
                state.delivered.store(arrivals.distinct(), Ordering::Relaxed);
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

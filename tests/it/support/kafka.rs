//! Kafka: topics and what is on them, for any broker; and a broker of one's own, for tests that stop it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tempfile::TempDir;

use super::certificates::Pair;
use super::process::{Process, free_port};
use super::{services, wait};

const PROPERTIES: &str = include_str!("kafka.properties");
/// A broker that was killed comes back only when its old registration has run out.
const OWN_PROPERTIES: &str = "broker.session.timeout.ms=3000\nbroker.heartbeat.interval.ms=500\n";
const START_DEADLINE: Duration = Duration::from_secs(60);
const STOP_DEADLINE: Duration = Duration::from_secs(30);
const READ_DEADLINE: Duration = Duration::from_secs(120);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// One record as a consumer finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    pub partition: i32,
    pub offset: i64,
    pub key: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    pub payload: Option<Vec<u8>>,
    /// Milliseconds since 1970.
    pub timestamp_ms: Option<i64>,
}

impl Received {
    /// The value of the first header of that name, as text.
    pub fn header(&self, name: &str) -> Option<String> {
        let (_, value) = self.headers.iter().find(|(its_name, _)| its_name == name)?;
        value.as_deref().map(|value| String::from_utf8_lossy(value).into_owned())
    }
}

impl From<&BorrowedMessage<'_>> for Received {
    fn from(message: &BorrowedMessage<'_>) -> Self {
        let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
        Self {
            partition: message.partition(),
            offset: message.offset(),
            key: message.key().map(<[u8]>::to_vec),
            headers: headers.map(|h| (h.key.to_owned(), h.value.map(<[u8]>::to_vec))).collect(),
            payload: message.payload().map(<[u8]>::to_vec),
            timestamp_ms: message.timestamp().to_millis(),
        }
    }
}

/// A topic name that no other test, process or run uses.
pub fn fresh_topic(prefix: &str) -> String {
    format!("{prefix}.{}", uuid::Uuid::new_v4().simple())
}

/// Creates a topic with topic-level `properties` and waits until the broker serves it.
pub async fn create_topic(brokers: &str, topic: &str, partitions: i32, properties: &[(&str, &str)]) {
    let admin: AdminClient<DefaultClientContext> = client(brokers).create().expect("an admin client");
    let wanted = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
    let wanted = properties.iter().fold(wanted, |wanted, (name, value)| wanted.set(name, value));
    let options = AdminOptions::new().operation_timeout(Some(REQUEST_TIMEOUT));
    let results = admin.create_topics([&wanted], &options).await.expect("the broker answers");
    for result in results {
        result.unwrap_or_else(|(topic, code)| panic!("could not create topic {topic}: {code}"));
    }
    wait::eventually(START_DEADLINE, "the topic has leaders", async || leaders(&admin, topic, partitions))
        .await;
}

fn leaders(admin: &AdminClient<DefaultClientContext>, topic: &str, partitions: i32) -> bool {
    let Ok(metadata) = admin.inner().fetch_metadata(Some(topic), REQUEST_TIMEOUT) else { return false };
    let found = metadata.topics().iter().flat_map(rdkafka::metadata::MetadataTopic::partitions);
    i32::try_from(found.filter(|partition| partition.leader() >= 0).count()) == Ok(partitions)
}

/// Deletes a topic: a destination that goes missing.
pub async fn delete_topic(brokers: &str, topic: &str) {
    let admin: AdminClient<DefaultClientContext> = client(brokers).create().expect("an admin client");
    let options = AdminOptions::new().operation_timeout(Some(REQUEST_TIMEOUT));
    let results = admin.delete_topics(&[topic], &options).await.expect("the broker answers");
    for result in results {
        result.unwrap_or_else(|(topic, code)| panic!("could not delete topic {topic}: {code}"));
    }
}

/// Everything on a topic up to its present end, by partition and offset.
pub async fn read_all(brokers: &str, topic: &str) -> Vec<Received> {
    let (brokers, topic) = (brokers.to_owned(), topic.to_owned());
    // The client blocks; in here it holds up nobody.
    let reading = tokio::task::spawn_blocking(move || read_all_blocking(&brokers, &topic));
    reading.await.expect("reading back succeeded")
}

fn read_all_blocking(brokers: &str, topic: &str) -> Vec<Received> {
    let consumer: BaseConsumer = client(brokers)
        .set("group.id", "never-committed")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("fetch.message.max.bytes", "16777216")
        .create()
        .expect("a consumer");
    let mut unread = assign(&consumer, topic);
    let mut received = Vec::new();
    let started = Instant::now();
    while !unread.is_empty() {
        assert!(started.elapsed() < READ_DEADLINE, "partitions {unread:?} of {topic} did not come to an end");
        match consumer.poll(Duration::from_millis(200)) {
            Some(Ok(message)) => received.push(Received::from(&message)),
            Some(Err(KafkaError::PartitionEOF(partition))) => _ = unread.remove(&partition),
            // Connection losses and the like: the client reconnects, the deadline bounds it.
            Some(Err(_)) | None => {}
        }
    }
    received.sort_by_key(|record| (record.partition, record.offset));
    received
}

/// Every partition from its beginning; which they are.
fn assign(consumer: &BaseConsumer, topic: &str) -> BTreeSet<i32> {
    let metadata = consumer.fetch_metadata(Some(topic), REQUEST_TIMEOUT).expect("the broker answers");
    let partitions = metadata.topics().iter().flat_map(rdkafka::metadata::MetadataTopic::partitions);
    let partitions: BTreeSet<i32> = partitions.map(rdkafka::metadata::MetadataPartition::id).collect();
    assert!(!partitions.is_empty(), "topic {topic} does not exist");
    let mut assignment = TopicPartitionList::new();
    for partition in &partitions {
        let added = assignment.add_partition_offset(topic, *partition, Offset::Beginning);
        added.expect("the beginning is an offset");
    }
    consumer.assign(&assignment).expect("the assignment is well formed");
    partitions
}

fn client(brokers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    // A broker that was just restarted is found again within a test's patience.
    config.set("bootstrap.servers", brokers).set("reconnect.backoff.max.ms", "500");
    config
}

/// Where a broker speaks TLS, and with which certificate.
#[derive(Debug, Clone)]
pub struct Listener {
    pub name: String,
    pub port: u16,
    settings: String,
}

impl Listener {
    pub fn new(name: &str, port: u16, certificate: &Pair) -> Self {
        let mut listener = Self { name: name.replace('_', "").to_uppercase(), port, settings: String::new() };
        let both = certificate.certificate.with_extension("both.pem");
        fs::write(&both, certificate.in_one()).expect("certificates lie where files can be made");
        listener.set("ssl.keystore.type", "PEM");
        listener.set("ssl.keystore.location", &both.to_string_lossy());
        listener
    }

    #[must_use]
    pub fn asking_for_clients_of(mut self, authority: &Path) -> Self {
        self.set("ssl.client.auth", "required");
        self.set("ssl.truststore.type", "PEM");
        self.set("ssl.truststore.location", &authority.to_string_lossy());
        self
    }

    fn set(&mut self, key: &str, value: &str) {
        let name = self.name.to_lowercase();
        self.settings += &format!("listener.name.{name}.{key}={value}\n");
    }
}

/// A private broker. Its port and its log survive a stop; both end with this value.
#[derive(Debug)]
pub struct Kafka {
    /// `host:port` for clients.
    pub brokers: String,
    pub port: u16,
    process: Option<Process>,
    properties: PathBuf,
    _dir: TempDir,
}

impl Kafka {
    pub async fn start() -> Self {
        let port = free_port();
        Self::start_behind(port, port).await
    }

    /// A broker that speaks TLS as well, a certificate for each listener.
    pub async fn start_with(listeners: &[Listener]) -> Self {
        let (port, controller) = (free_port(), free_port());
        let all = |part: fn(&Listener) -> String| listeners.iter().map(part).collect::<String>();
        // The last of two lines counts.
        let more = format!(
            "listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}{}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{port}{}\n\
             listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT{}\n\
             inter.broker.listener.name=PLAINTEXT\n\
             controller.quorum.voters=1@127.0.0.1:{controller}\n{}",
            all(|listener| format!(",{}://127.0.0.1:{}", listener.name, listener.port)),
            all(|listener| format!(",{}://localhost:{}", listener.name, listener.port)),
            all(|listener| format!(",{}:SSL", listener.name)),
            all(|listener| listener.settings.clone()),
        );
        Self::start_configured(port, port, &more).await
    }

    /// A broker on `port` that sends its clients to `advertised_port`, where a proxy stands.
    pub async fn start_behind(port: u16, advertised_port: u16) -> Self {
        Self::start_configured(port, advertised_port, "").await
    }

    async fn start_configured(port: u16, advertised_port: u16, more: &str) -> Self {
        let dir = TempDir::with_prefix("outbox-relay-kafka").expect("the temporary directory takes files");
        let properties = dir.path().join("kafka.properties");
        let text = PROPERTIES
            .replace("@ADVERTISED_PORT@", &advertised_port.to_string())
            .replace("@CONTROLLER_PORT@", &free_port().to_string())
            .replace("@PORT@", &port.to_string())
            .replace("@LOG_DIR@", &dir.path().join("log").to_string_lossy());
        fs::write(&properties, text + OWN_PROPERTIES + more).expect("the temporary directory takes files");
        let brokers = format!("127.0.0.1:{advertised_port}");
        let mut kafka = Self { brokers, port, process: None, properties, _dir: dir };
        kafka.format();
        kafka.restart().await;
        kafka
    }

    /// Starts the stopped broker again, on the same port, and waits until it answers.
    pub async fn restart(&mut self) {
        assert!(self.process.is_none(), "this Kafka is running");
        let mut command = java();
        command.arg("kafka.Kafka").arg(&self.properties);
        self.process = Some(Process::spawn(&mut command));
        let address = ("127.0.0.1", self.port);
        wait::eventually(START_DEADLINE, "Kafka listens", async || {
            let process = self.process.as_mut().expect("just started");
            let log = process.stderr.clone();
            assert!(process.exited().is_none(), "Kafka did not start: {}", log.tail(40));
            tokio::net::TcpStream::connect(address).await.is_ok()
        })
        .await;
    }

    /// Stops the broker in good order and waits until it has.
    pub async fn stop(&mut self) {
        let mut process = self.process.take().expect("this Kafka is stopped");
        process.signal("TERM");
        process.ended(STOP_DEADLINE).await;
    }

    /// Kills the broker.
    pub async fn kill_9(&mut self) {
        let mut process = self.process.take().expect("this Kafka is stopped");
        process.signal("KILL");
        process.ended(STOP_DEADLINE).await;
    }

    fn format(&self) {
        let mut command = java();
        command.args(["kafka.tools.StorageTool", "format", "--cluster-id", "outbox-relay-tests0000"]);
        let done = command.arg("--config").arg(&self.properties).output().expect("java runs");
        assert!(done.status.success(), "could not format: {}", String::from_utf8_lossy(&done.stderr));
    }
}

/// A small Java that starts quickly; several of them run beside each other in a test run.
fn java() -> Command {
    let mut command = Command::new("java");
    command.args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]);
    command.args(["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp"]).arg(services::kafka_classpath());
    command
}

//! The broker's side: topics, producers set up as the relay's, and a consumer that notes the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::mpsc;

use crate::Bench;

pub(crate) const PARTITIONS: i32 = 3;

const TIMEOUT: Duration = Duration::from_secs(10);

/// A topic of its own for each measurement.
pub(crate) struct Topic {
    pub(crate) name: String,
    admin: AdminClient<DefaultClientContext>,
    consumer: BaseConsumer,
}

impl Topic {
    /// Creates a topic and waits until its partitions have leaders.
    pub(crate) async fn create(bench: &Bench, name: &str) -> Result<Self> {
        let name = format!("bench.{name}.{}", uuid::Uuid::new_v4());
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &bench.brokers);
        let topic = Self { admin: config.create()?, consumer: consumer(bench)?, name };
        let new = NewTopic::new(&topic.name, PARTITIONS, TopicReplication::Fixed(1));
        for result in topic.admin.create_topics([&new], &AdminOptions::new()).await? {
            result.map_err(|(name, code)| anyhow::anyhow!("could not create {name}: {code}"))?;
        }
        topic.await_leaders().await?;
        Ok(topic)
    }

    async fn await_leaders(&self) -> Result<()> {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let metadata = self.consumer.fetch_metadata(Some(&self.name), TIMEOUT)?;
            let partitions = metadata.topics().first().context("no such topic")?.partitions();
            if partitions.len() == PARTITIONS as usize && partitions.iter().all(|p| p.leader() >= 0) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "topic {} gets no leaders", self.name);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Records in the topic.
    pub(crate) fn records(&self) -> Result<i64> {
        (0..PARTITIONS).try_fold(0, |sum, partition| {
            let (low, high) = self.consumer.fetch_watermarks(&self.name, partition, TIMEOUT)?;
            Ok(sum + high - low)
        })
    }

    pub(crate) async fn delete(self) -> Result<()> {
        self.admin.delete_topics(&[&self.name], &AdminOptions::new()).await?;
        Ok(())
    }
}

/// The settings of a producer that gives the guarantees the relay's gives.
pub(crate) fn producer(brokers: &str, linger_ms: u32) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", brokers)
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("partitioner", "murmur2_random")
        .set("queue.buffering.max.messages", "100000")
        .set("linger.ms", linger_ms.to_string());
    config
}

fn consumer(bench: &Bench) -> Result<BaseConsumer> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &bench.brokers)
        .set("group.id", "bench")
        .set("enable.auto.commit", "false");
    Ok(config.create()?)
}

/// A record as it came out of the topic.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival {
    /// The number in its payload.
    pub(crate) n: u64,
    pub(crate) at: Instant,
}

/// Reads a topic from its beginning on a thread of its own.
pub(crate) struct Arrivals {
    incoming: mpsc::UnboundedReceiver<Arrival>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Arrivals {
    pub(crate) fn of(bench: &Bench, topic: &Topic) -> Result<Self> {
        let consumer = consumer(bench)?;
        let mut partitions = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            partitions.add_partition_offset(&topic.name, partition, Offset::Beginning)?;
        }
        consumer.assign(&partitions)?;
        let (sender, incoming) = mpsc::unbounded_channel();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
                    let arrival = Arrival { n: number(message.payload()), at: Instant::now() };
                    // Nobody listens any more once the measurement is over.
                    let _ = sender.send(arrival);
                }
            }
        });
        Ok(Self { incoming, stop, thread: Some(thread) })
    }

    /// The next record, within `timeout`.
    pub(crate) async fn next(&mut self, timeout: Duration) -> Result<Arrival> {
        let next = tokio::time::timeout(timeout, self.incoming.recv()).await;
        next.ok().flatten().with_context(|| format!("no record within {timeout:?}"))
    }

    /// Forgets what has arrived so far.
    pub(crate) fn clear(&mut self) {
        while self.incoming.try_recv().is_ok() {}
    }
}

impl Drop for Arrivals {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the consumer does not panic");
        }
    }
}

/// The number of a payload `{"n":1,…`; 0 if it has none.
fn number(payload: Option<&[u8]>) -> u64 {
    let digits = payload.and_then(|payload| payload.strip_prefix(br#"{"n":"#)).unwrap_or_default();
    digits.iter().take_while(|b| b.is_ascii_digit()).fold(0, |n, b| n * 10 + u64::from(b - b'0'))
}

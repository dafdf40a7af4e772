//! The broker alone, with no database: how fast it takes records, and how long it takes for one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rdkafka::ClientContext;
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, DeliveryResult, ProducerContext, ThreadedProducer};

use crate::Bench;
use crate::drain::{KEYS, PAYLOAD_BYTES};
use crate::kafka::{self, PARTITIONS, Topic};
use crate::outbox;
use crate::report;

const TIMEOUT: Duration = Duration::from_secs(60);

struct Counter(Arc<AtomicU64>);

impl ClientContext for Counter {}

impl ProducerContext for Counter {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        self.0.fetch_add(u64::from(result.is_ok()), Ordering::Relaxed);
    }
}

/// Rows of a drain are gone in less than a second here, too short for a rate.
const TIMES: u64 = 5;

/// Records a second when the same payload is produced as fast as the broker takes it.
pub(crate) async fn measure(bench: &Bench) -> Result<()> {
    let count = TIMES * bench.rows;
    let mut rates = Vec::new();
    for _ in 0..bench.pairs {
        let topic = Topic::create(bench, "plain").await?;
        rates.push(produce(bench, &topic, count)?);
        // The client's word is not enough: the first record and all others must be there.
        let records = topic.records()?;
        ensure!(records == i64::try_from(count + 1)?, "the topic holds {records} records");
        topic.delete().await?;
    }
    let each: Vec<String> = rates.iter().map(|&rate| report::show_rate(rate)).collect();
    let rows = [vec![report::show_rate(report::median(&rates)), each.join(" ")]];
    let title = format!("Plain produce loop: {count} records of 0.5 kB, no database");
    report::table(&title, &["median", "each run"], &rows);
    Ok(())
}

fn produce(bench: &Bench, topic: &Topic, count: u64) -> Result<f64> {
    let confirmed = Arc::new(AtomicU64::new(0));
    let producer = ThreadedProducer::from_config_and_context(
        &kafka::producer(&bench.brokers, 5),
        Counter(Arc::clone(&confirmed)),
    )?;
    let payload = outbox::fill(PAYLOAD_BYTES);
    // The first record waits for connections and metadata.
    queue(&producer, &topic.name, "first", &payload)?;
    await_count(&confirmed, 1)?;
    let started = Instant::now();
    for n in 0..count {
        queue(&producer, &topic.name, &format!("key-{}", n % KEYS), &payload)?;
    }
    await_count(&confirmed, count + 1)?;
    Ok(report::rate(count as f64, started.elapsed()))
}

fn queue(producer: &ThreadedProducer<Counter>, topic: &str, key: &str, payload: &str) -> Result<()> {
    let mut record = BaseRecord::to(topic).key(key).payload(payload);
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                record = back;
                std::thread::sleep(Duration::from_millis(1));
            }
            Err((error, _)) => return Err(error.into()),
        }
    }
}

fn await_count(confirmed: &AtomicU64, least: u64) -> Result<()> {
    let deadline = Instant::now() + TIMEOUT;
    while confirmed.load(Ordering::Relaxed) < least {
        ensure!(Instant::now() < deadline, "the broker confirms too little");
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

struct Answer(mpsc::Sender<bool>);

impl ClientContext for Answer {}

impl ProducerContext for Answer {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        // The last answers may find nobody waiting.
        let _ = self.0.send(result.is_ok());
    }
}

/// A producer that waits for the confirmation of each record.
pub(crate) struct OneByOne {
    producer: ThreadedProducer<Answer>,
    answers: mpsc::Receiver<bool>,
}

impl OneByOne {
    pub(crate) fn new(bench: &Bench, linger_ms: u32) -> Result<Self> {
        let (sender, answers) = mpsc::channel();
        let config = kafka::producer(&bench.brokers, linger_ms);
        Ok(Self { producer: ThreadedProducer::from_config_and_context(&config, Answer(sender))?, answers })
    }

    /// Produces one record and waits until it is confirmed.
    pub(crate) fn produce(&self, topic: &str, key: &str, payload: &str) -> Result<()> {
        self.queue(topic, key, payload)?;
        ensure!(self.answers.recv_timeout(TIMEOUT).context("no confirmation")?, "a record was not confirmed");
        Ok(())
    }

    /// Produces one record.
    pub(crate) fn queue(&self, topic: &str, key: &str, payload: &str) -> Result<()> {
        let record = BaseRecord::to(topic).key(key).payload(payload);
        self.producer.send(record).map_err(|(error, _)| error.into())
    }
}

/// The broker's round trip: the time from one record to its confirmation, over `count` records.
pub(crate) fn round_trip(bench: &Bench, topic: &Topic, linger_ms: u32, count: u32) -> Result<Duration> {
    let producer = OneByOne::new(bench, linger_ms)?;
    let payload = outbox::fill(PAYLOAD_BYTES);
    for partition in 0..PARTITIONS {
        producer.produce(&topic.name, &format!("warm-{partition}"), &payload)?;
    }
    let started = Instant::now();
    for _ in 0..count {
        producer.produce(&topic.name, "hot", &payload)?;
    }
    Ok(started.elapsed() / count)
}

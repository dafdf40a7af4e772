//! How many rows a second a full outbox gives to a quorum queue, beside a loop that only publishes the
//! same messages with confirms: no database, no order, nothing kept.

use std::collections::VecDeque;
use std::env;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lapin::options::{
    BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions, ExchangeDeleteOptions,
    QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, ExchangeKind, PublisherConfirm,
};
use tokio::task::JoinSet;

use crate::Bench;
use crate::drain::{KEYS, PAYLOAD_BYTES};
use crate::outbox::{self, Outbox, Rows};
use crate::process::Usage;
use crate::relay::Relay;
use crate::report::{self, median, rate, show_mb, show_rate};

const TIMEOUT: Duration = Duration::from_secs(300);

/// A quorum queue syncs every message to disk: rows of a drain into Kafka would take minutes.
const FEWER: u64 = 3;

/// More gained nothing here, and fewer lost.
const CHANNELS: u64 = 8;
const UNCONFIRMED_MAX: usize = 500;

const ROUTING_KEY: &str = "orders";

/// An exchange and a quorum queue of their own.
struct Target {
    url: String,
    name: String,
    channel: Channel,
    connection: Connection,
}

impl Target {
    async fn create() -> Result<Self> {
        let url = env::var("OUTBOX_TEST_RABBITMQ").context("OUTBOX_TEST_RABBITMQ is not set")?;
        let connection = Connection::connect(&url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        let name = format!("bench-{}", uuid::Uuid::new_v4());
        let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
        channel
            .exchange_declare(name.as_str().into(), ExchangeKind::Topic, durable, FieldTable::default())
            .await?;
        let durable = QueueDeclareOptions { durable: true, ..Default::default() };
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        channel.queue_declare(name.as_str().into(), durable, arguments).await?;
        let (queue, exchange) = (name.as_str().into(), name.as_str().into());
        channel
            .queue_bind(queue, exchange, "#".into(), QueueBindOptions::default(), FieldTable::default())
            .await?;
        Ok(Self { url, name, channel, connection })
    }

    async fn depth(&self) -> Result<u64> {
        let passive = QueueDeclareOptions { passive: true, ..Default::default() };
        let queue =
            self.channel.queue_declare(self.name.as_str().into(), passive, FieldTable::default()).await?;
        Ok(u64::from(queue.message_count()))
    }

    async fn delete(self) -> Result<()> {
        self.channel.queue_delete(self.name.as_str().into(), QueueDeleteOptions::default()).await?;
        self.channel.exchange_delete(self.name.as_str().into(), ExchangeDeleteOptions::default()).await?;
        Ok(self.connection.close(200, "OK".into()).await?)
    }
}

pub(crate) async fn measure(bench: &Bench) -> Result<()> {
    let rows = bench.rows / FEWER;
    let (mut bare, mut ours, mut usages) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bench.pairs {
        bare.push(publish(rows).await?);
        let (rate, usage) = drain(bench, rows).await?;
        ours.push(rate);
        usages.push(usage);
    }
    let ratios: Vec<f64> = ours.iter().zip(&bare).map(|(ours, bare)| ours / bare).collect();
    let each = |rates: &[f64]| {
        let rates: Vec<String> = rates.iter().map(|rate| format!("{:.1}", rate / 1000.0)).collect();
        rates.join(" ")
    };
    let cpu: Vec<Duration> = usages.iter().map(|usage: &Usage| usage.cpu).collect();
    let cpu_micros = median(&cpu).as_secs_f64() * 1e6 / rows as f64;
    let peak = usages.iter().map(|usage| usage.peak).max().unwrap_or(0);
    let table = [
        vec![
            "bare publish loop".to_owned(),
            show_rate(median(&bare)),
            each(&bare),
            String::new(),
            String::new(),
            String::new(),
        ],
        vec![
            "relay, update".to_owned(),
            show_rate(median(&ours)),
            each(&ours),
            format!("{:.2} (reach 0.8)", median(&ratios)),
            format!("{cpu_micros:.1} µs"),
            show_mb(peak),
        ],
    ];
    let title = format!("RabbitMQ: {rows} rows of 0.5 kB, {KEYS} keys, into a quorum queue");
    report::table(&title, &["who", "median", "each run", "ratio", "CPU a row", "peak memory"], &table);
    Ok(())
}

/// Messages a second, published and confirmed.
async fn publish(rows: u64) -> Result<f64> {
    let target = Target::create().await?;
    let payload = outbox::fill(PAYLOAD_BYTES).into_bytes();
    let connection = Connection::connect(&target.url, ConnectionProperties::default()).await?;
    let mut tasks = JoinSet::new();
    let started = Instant::now();
    for number in 0..CHANNELS {
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let numbers = (0..rows).skip(usize::try_from(number)?).step_by(usize::try_from(CHANNELS)?);
        tasks.spawn(publish_all(channel, target.name.clone(), numbers, payload.clone()));
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    let rate = rate(rows as f64, started.elapsed());
    let depth = target.depth().await?;
    ensure!(depth == rows, "the queue holds {depth} messages");
    target.delete().await?;
    Ok(rate)
}

async fn publish_all(
    channel: Channel,
    exchange: String,
    numbers: impl Iterator<Item = u64>,
    payload: Vec<u8>,
) -> Result<()> {
    let mut unconfirmed = VecDeque::with_capacity(UNCONFIRMED_MAX);
    let options = BasicPublishOptions { mandatory: true, immediate: false };
    for number in numbers {
        let properties =
            BasicProperties::default().with_delivery_mode(2).with_message_id(number.to_string().into());
        let (exchange, routing_key) = (exchange.as_str().into(), ROUTING_KEY.into());
        let sent = channel.basic_publish(exchange, routing_key, options, &payload, properties).await?;
        unconfirmed.push_back(sent);
        if unconfirmed.len() == UNCONFIRMED_MAX {
            confirm(&mut unconfirmed).await?;
        }
    }
    while !unconfirmed.is_empty() {
        confirm(&mut unconfirmed).await?;
    }
    Ok(())
}

async fn confirm(unconfirmed: &mut VecDeque<PublisherConfirm>) -> Result<()> {
    let oldest = unconfirmed.pop_front().context("there is one")?;
    ensure!(oldest.await? == Confirmation::Ack(None), "a message was not confirmed");
    Ok(())
}

/// Rows a second, from the first delivery until all are marked; what it took.
async fn drain(bench: &Bench, rows: u64) -> Result<(f64, Usage)> {
    let target = Target::create().await?;
    let drained = Outbox::with(bench, async |outbox: &mut Outbox| {
        outbox
            .fill(&Rows { topic: ROUTING_KEY, count: rows, keys: KEYS, payload_bytes: PAYLOAD_BYTES })
            .await?;
        let settings = [
            r#"sink.type = "rabbitmq""#.to_owned(),
            format!("sink.rabbitmq.url = {:?}", target.url),
            format!("route.exchange = {:?}", target.name),
        ];
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        let mut relay = Relay::start(bench, outbox, &settings)?;
        relay.until("published_total", 1.0, TIMEOUT).await?;
        let (first, marked) = (Instant::now(), relay.metric("marked_total").await);
        relay.until("marked_total", rows as f64, TIMEOUT).await?;
        let rate = rate(rows as f64 - marked, first.elapsed());
        let usage = relay.usage()?;
        relay.stop().await?;
        Ok((rate, usage))
    })
    .await?;
    let depth = target.depth().await?;
    ensure!(depth == rows, "the queue holds {depth} messages");
    target.delete().await?;
    Ok(drained)
}

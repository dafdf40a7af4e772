//! The contract over a real RabbitMQ behind a proxy that can be shut, and what only RabbitMQ promises:
//! returns, channels that end, alarms, the lock queue.

use std::time::Duration;

use bytes::Bytes;
use lapin::message::Delivery;
use lapin::types::AMQPValue;
use outbox_relay::config::{self, Secret};
use outbox_relay::message::Header;
use outbox_relay::sink::rabbitmq::RabbitSink;
use outbox_relay::sink::{
    Destination, ErrorType, Failure, Fault, OnUnroutable, Properties, Record, Shipment, Sink as _, SinkEvent,
    Token,
};

use super::{Broker, PATIENCE, confirmed, events, outcomes, record, shipment, shipments, silence};
use crate::support::proxy::{Network, Proxy};
use crate::support::rabbitmq::Rabbit;
use crate::support::services::Services;
use crate::support::wait;

mod channels;
mod outages;
mod returns;

const MESSAGE_BYTES_MAX: usize = 100_000;

fn config(url: &str) -> config::RabbitMq {
    config::RabbitMq {
        url: Secret::new(url),
        ca_file: None,
        identity: None,
        channels: 4,
        confirm_timeout: Duration::from_secs(20),
        heartbeat: Duration::from_secs(5),
        connection_name: None,
        lock: None,
        message_bytes_max: MESSAGE_BYTES_MAX,
    }
}

/// A sink for a pipeline of its own, so that tests do not wait for each other's lock.
fn sink(url: &str) -> RabbitSink {
    RabbitSink::new(&config(url), &pipeline())
}

fn pipeline() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

async fn opened(url: &str) -> RabbitSink {
    let mut sink = sink(url);
    sink.open(1).await.expect("the sink opens");
    sink
}

fn to(exchange: &str, routing_key: &str) -> Destination {
    Destination::Exchange { exchange: exchange.into(), routing_key: routing_key.into() }
}

/// The fault and the error type of each failure, `None` for what was confirmed.
fn judged(result: &Result<(), Failure>) -> Option<(Fault, ErrorType)> {
    result.as_ref().err().map(|failure| (failure.fault, failure.error_type))
}

/// The shared broker, behind a proxy of this test's own.
struct Proxied {
    rabbit: Rabbit,
    proxy: Proxy,
    pipeline: String,
}

impl Proxied {
    async fn find() -> Option<Self> {
        let services = Services::find("the sink's contract over RabbitMQ")?;
        let address = services.rabbitmq_url.rsplit('@').next().and_then(|rest| rest.split('/').next());
        let address = address.expect("a host and a port").parse().expect("an address");
        let (rabbit, proxy) = (Rabbit::at(&services.rabbitmq_url).await, Proxy::start(0, address).await);
        Some(Self { rabbit, proxy, pipeline: pipeline() })
    }

    fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.proxy.port)
    }
}

impl Broker for Proxied {
    type Sink = RabbitSink;

    fn sink(&self) -> RabbitSink {
        RabbitSink::new(&config(&self.url()), &self.pipeline)
    }

    /// The queue's name is its routing key.
    async fn destination(&self) -> Destination {
        let exchange = self.rabbit.exchange().await;
        let queue = self.rabbit.queue(&exchange, "unused", &[]).await;
        self.rabbit.bind(&queue, &exchange, &queue).await;
        to(&exchange, &queue)
    }

    fn missing_destination(&self) -> Option<Destination> {
        Some(to(&format!("missing-{}", uuid::Uuid::new_v4()), "key"))
    }

    /// A message has no key, its headers are a table, and its time is a second.
    fn held(&self, record: Record) -> Record {
        let mut headers: Vec<Header> = Vec::new();
        for header in record.headers {
            headers.retain(|earlier| earlier.name != header.name);
            headers.push(header);
        }
        headers.sort_by(|a, b| a.name.cmp(&b.name));
        let timestamp_ms = record.timestamp_ms.map(|ms| ms / 1_000 * 1_000);
        Record { key: None, headers, timestamp_ms, ..record }
    }

    async fn read(&self, destination: &Destination) -> Vec<Record> {
        let Destination::Exchange { routing_key: queue, .. } = destination else { panic!("an exchange") };
        self.rabbit.take(queue).await.iter().map(read).collect()
    }

    async fn stop(&self) -> bool {
        self.proxy.set(Network::Refuse);
        wait::eventually(PATIENCE, "the clients are gone", async || self.proxy.connections() == 0).await;
        true
    }

    fn start(&self) {
        self.proxy.set(Network::Forward);
    }

    fn oversize(&self) -> usize {
        MESSAGE_BYTES_MAX + 1
    }
}

fn read(delivery: &Delivery) -> Record {
    let properties = &delivery.properties;
    assert_eq!(properties.delivery_mode(), &Some(2), "persistent");
    let table = properties.headers().as_ref().map(|table| table.inner().clone()).unwrap_or_default();
    let is_null = table.get("relay-null") == Some(&AMQPValue::Boolean(true));
    assert!(!is_null || delivery.data.is_empty());
    let headers = table.iter().filter(|(name, _)| name.as_str() != "relay-null");
    let headers = headers.map(|(name, value)| Header { name: name.as_str().into(), value: bytes(value) });
    let text = |value: &Option<lapin::types::ShortString>| {
        value.as_ref().map(|text| Bytes::copy_from_slice(text.as_str().as_bytes()))
    };
    let timestamp = properties.timestamp().map(|seconds| i64::try_from(seconds).expect("a time"));
    Record {
        destination: to(delivery.exchange.as_str(), delivery.routing_key.as_str()),
        key: None,
        headers: headers.collect(),
        body: (!is_null).then(|| Bytes::from(delivery.data.clone())),
        timestamp_ms: timestamp.map(|seconds| seconds * 1_000),
        properties: Some(Box::new(Properties {
            message_id: text(properties.message_id()).expect("every message has an id"),
            kind: text(properties.kind()),
            content_type: text(properties.content_type()),
            correlation_id: text(properties.correlation_id()),
            reply_to: text(properties.reply_to()),
            app_id: properties.app_id().as_ref().map(|id| id.as_str().into()),
            on_unroutable: OnUnroutable::Block,
        })),
    }
}

fn bytes(value: &AMQPValue) -> Option<Bytes> {
    match value {
        AMQPValue::Void => None,
        AMQPValue::LongString(text) => Some(Bytes::copy_from_slice(text.as_bytes())),
        AMQPValue::ByteArray(bytes) => Some(Bytes::copy_from_slice(bytes.as_slice())),
        other => panic!("{other:?} in a header"),
    }
}

mod real_rabbitmq {
    use super::*;

    super::super::sink_contract! { Proxied::find().await }
}

#[tokio::test]
async fn what_a_record_says_of_itself_are_properties() {
    let Some(broker) = Proxied::find().await else { return };
    let (mut sink, destination) = (broker.sink(), broker.destination().await);
    sink.open(1).await.expect("the sink opens");
    let said = Properties {
        message_id: Bytes::from_static(b"0193-id"),
        kind: Some(Bytes::from_static(b"OrderPlaced")),
        content_type: Some(Bytes::from_static(b"application/json")),
        correlation_id: Some(Bytes::from_static(b"request-1")),
        reply_to: Some(Bytes::from_static(b"replies")),
        app_id: Some("outbox-relay".into()),
        on_unroutable: OnUnroutable::Block,
    };
    let headers = vec![
        Header { name: "bytes".into(), value: Some(Bytes::from_static(b"\xff\x00")) },
        Header { name: "null".into(), value: None },
        Header { name: "text".into(), value: Some(Bytes::from_static("schön".as_bytes())) },
    ];
    let record = Record { properties: Some(Box::new(said)), headers, ..record(&destination, "key", "body") };
    sink.publish(vec![shipment(1, record.clone())]);
    confirmed(&mut sink, 1).await;
    assert_eq!(broker.read(&destination).await, [broker.held(record)]);
}

#[tokio::test]
async fn strings_of_256_bytes_are_refused_and_leave_their_neighbours_alone() {
    let Some(broker) = Proxied::find().await else { return };
    let (mut sink, destination) = (broker.sink(), broker.destination().await);
    sink.open(1).await.expect("the sink opens");
    let long = "x".repeat(256);
    let mut batch = shipments(&destination, 0..9);
    let mut wrong_id = record(&destination, "key-1", "body");
    wrong_id.properties.as_mut().expect("an exchange").message_id = Bytes::from(long.clone());
    batch[1] = shipment(1, wrong_id);
    batch[3] = shipment(3, record(&to(destination.name(), &long), "key-3", "body"));
    let header = Header { name: long.as_str().into(), value: None };
    batch[5] = shipment(5, Record { headers: vec![header], ..record(&destination, "key-5", "body") });
    batch[7] = shipment(7, record(&to(&long, "key"), "key-7", "body"));
    sink.publish(batch);
    let (results, _) = outcomes(&mut sink, 9).await;
    for (Token(token), result) in &results {
        let expected = (token % 2 == 1).then_some((Fault::Permanent, ErrorType::InvalidRecord));
        assert_eq!(judged(result), expected, "{token}: {result:?}");
    }
    assert_eq!(broker.read(&destination).await.len(), 5);
}

//! What knows a secret does not show it, however it is printed.

use std::collections::BTreeMap;
use std::time::Duration;

use outbox_relay::config::{self, Config, Secret, Sources, load};
use outbox_relay::sink::kafka::{self, KafkaSink};
use outbox_relay::sink::rabbitmq::RabbitSink;
use outbox_relay::sink::{Sink as _, SinkEvent};
use outbox_relay::source::Source;
use outbox_relay::source::poll::{Poll, PollSettings};

const CANARY: &str = "canary";

/// A configuration in which everything that may be a secret is one.
fn config() -> Config {
    config_with(&[
        ("sink.kafka.brokers", "localhost:1"),
        ("sink.kafka.properties.sasl.password", CANARY),
        ("sink.kafka.properties.ssl.key.password", CANARY),
    ])
}

/// The same to RabbitMQ, where nobody listens.
fn broker() -> config::RabbitMq {
    let config = config_with(&[
        ("sink.type", "rabbitmq"),
        ("sink.rabbitmq.url", "amqp://relay:canary@localhost:1/%2f"),
        ("route.exchange", "events"),
    ]);
    assert_hidden("configuration", &config);
    let config::Sink::RabbitMq(broker) = config.sink else { panic!("it is RabbitMQ") };
    broker
}

fn config_with(sink: &[(&str, &str)]) -> Config {
    let source = [
        ("database.url", "postgres://relay:canary@localhost:1/app?application_name=x"),
        ("database.listen_url", "postgres://relay@localhost:1/app?password=canary"),
        ("outbox.listen", "true"),
    ];
    let flags =
        source.iter().chain(sink).map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    load(&Sources { flags, ..Sources::default() }).expect("it can be used")
}

fn source(config: &Config) -> Poll {
    let settings = PollSettings {
        pipeline: config.pipeline.clone(),
        database: config.database.clone(),
        state: config.state.clone(),
        outbox: config.outbox.clone(),
        lease: config.lease.clone(),
        ordering: config.delivery.ordering,
        scope_sql: "o.destination".to_owned(),
        scope_columns: Vec::new(),
    };
    assert_hidden("settings", &settings);
    Poll::new(settings).expect("the url can be read")
}

fn assert_hidden(what: &str, shown: &impl std::fmt::Debug) {
    let text = format!("{shown:?} {shown:#?}");
    assert!(!text.contains(CANARY), "{what}: {text}");
}

#[test]
fn a_configuration_a_source_and_a_sink_show_no_secret() {
    let config = config();
    assert_hidden("configuration", &config);
    assert_hidden("source", &source(&config));
    let config::Sink::Kafka(kafka) = &config.sink else { panic!("it is Kafka") };
    let revealed: BTreeMap<_, _> = kafka.properties.iter().map(|(k, v)| (k, Secret::reveal(v))).collect();
    assert!(revealed.values().all(|value| *value == CANARY), "the test has secrets to show");
    let limits = kafka::Limits { message_bytes_max: 1, in_flight_rows_max: 1, in_flight_bytes_max: 1 };
    assert_hidden("sink", &KafkaSink::new(kafka, limits));

    let broker = broker();
    assert_eq!(broker.uri().expect("it was checked").authority.userinfo.password, CANARY);
    assert_hidden("sink", &RabbitSink::new(&broker, "orders"));
}

#[tokio::test]
async fn an_error_of_a_connection_shows_no_secret() {
    let config = config();
    let source = source(&config);
    let read = tokio::time::timeout(Duration::from_secs(20), source.lease()).await;
    assert_hidden("lease", &read.expect("nobody listens there").expect_err("nobody listens there"));
    // The first of these connects; so does the second, since it failed.
    for _ in 0..2 {
        let listening = tokio::time::timeout(Duration::from_secs(20), source.listen()).await;
        assert_hidden("listener", &listening.expect("it gives up").expect_err("nobody listens there"));
    }
    assert_hidden("source", &source);
}

#[tokio::test]
async fn a_broker_that_is_not_there_makes_no_sink_show_a_secret() {
    let mut sink = RabbitSink::new(&broker(), "orders");
    sink.open(1).await.expect("it connects on its own");
    let down =
        tokio::time::timeout(Duration::from_secs(20), sink.events()).await.expect("nobody listens there");
    assert!(matches!(down[..], [SinkEvent::Down(_)]), "{down:?}");
    assert_hidden("outage", &down);
    assert_hidden("sink", &sink);
}

//! How librdkafka is set up: what the promises rest on, what suits a relay, what the operator added.

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};

use crate::config;
use crate::route::HEADER_BYTES_MAX;

/// What the sizes of the client follow from.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub message_bytes_max: usize,
    pub in_flight_rows_max: usize,
    pub in_flight_bytes_max: usize,
}

/// Room beside the payload: headers at their limit, and as much again for the key and the framing.
const ENVELOPE_BYTES_MAX: usize = 2 * HEADER_BYTES_MAX;

/// librdkafka's own bounds for `message.max.bytes`.
const RECORD_BYTES: std::ops::RangeInclusive<usize> = 1_000..=1_000_000_000;

/// librdkafka's default for `batch.size`.
const BATCH_BYTES_MAX: usize = 1_000_000;

/// The configuration of a client for these brokers and limits.
pub(super) fn client_config(kafka: &config::Kafka, limits: Limits) -> ClientConfig {
    let mut client = ClientConfig::new();
    // The filter decides what is shown; see `Logs`.
    client.set_log_level(RDKafkaLogLevel::Info);
    client.set("bootstrap.servers", &kafka.brokers);
    for (name, value) in PROMISES.iter().chain(HABITS) {
        client.set(*name, *value);
    }
    for (name, value) in sizes(limits) {
        client.set(name, value.to_string());
    }
    for (name, value) in &kafka.properties {
        client.set(name, value.reveal());
    }
    client
}

/// The most bytes a record may have on the wire.
pub(super) fn record_bytes_max(client: &ClientConfig) -> usize {
    number(client, "message.max.bytes").unwrap_or(*RECORD_BYTES.end())
}

/// A record of more bytes than this shares its batch with no other.
pub(super) fn batch_bytes_max(client: &ClientConfig) -> usize {
    number(client, "batch.size").unwrap_or(BATCH_BYTES_MAX)
}

fn number(client: &ClientConfig, name: &str) -> Option<usize> {
    client.get(name)?.parse().ok()
}

/// What the relay promises is kept by these; the configuration refuses to have them overridden.
const PROMISES: &[(&str, &str)] = &[
    // No repeats and no reordering while one client lives, and confirmed means replicated.
    ("enable.idempotence", "true"),
    ("acks", "all"),
    // A record never expires: it would leave a gap that its successors pass.
    ("message.timeout.ms", "0"),
    // A misspelt topic waits for its operator; it does not appear with default partitions.
    ("allow.auto.create.topics", "false"),
    // Keys land where the Java client and Debezium put them; librdkafka's default is CRC32.
    ("partitioner", "murmur2_random"),
];

/// What suits a relay; the operator may know better.
const HABITS: &[(&str, &str)] = &[
    ("client.id", "outbox-relay"),
    // Batches form while the previous requests are on their way. Waiting as well makes a drain of many keys
    // an eighth faster, and a hot key, which has one record on its way, four times slower: see
    // docs/performance.md. Who has many keys and is in a hurry can set it.
    ("linger.ms", "0"),
    ("socket.keepalive.enable", "true"),
    // A half-open connection is found within this, not after a minute.
    ("socket.timeout.ms", "30000"),
    ("socket.connection.setup.timeout.ms", "10000"),
    // Back at work soon after the broker is.
    ("reconnect.backoff.ms", "100"),
    ("reconnect.backoff.max.ms", "2000"),
    // How long a topic may be unknown before its records come back as blocked.
    ("topic.metadata.propagation.max.ms", "5000"),
    ("statistics.interval.ms", "0"),
    // An idle connection that the broker closes is not news.
    ("log.connection.close", "false"),
];

/// The client's queue holds twice what the relay's window lets through, so that the window is the
/// bound and a full queue the exception.
fn sizes(limits: Limits) -> [(&'static str, usize); 3] {
    let record = limits.message_bytes_max.saturating_add(ENVELOPE_BYTES_MAX);
    let record = record.clamp(*RECORD_BYTES.start(), *RECORD_BYTES.end());
    let queue = limits.in_flight_bytes_max.saturating_add(record).saturating_mul(2);
    [
        ("message.max.bytes", record),
        (
            "queue.buffering.max.messages",
            limits.in_flight_rows_max.saturating_mul(2).clamp(1, i32::MAX as usize),
        ),
        ("queue.buffering.max.kbytes", (queue / 1024).clamp(1, i32::MAX as usize)),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::Secret;

    const LIMITS: Limits =
        Limits { message_bytes_max: 1 << 20, in_flight_rows_max: 10_000, in_flight_bytes_max: 16 << 20 };

    fn kafka(properties: &[(&str, &str)]) -> config::Kafka {
        config::Kafka {
            brokers: "localhost:9092".to_owned(),
            properties: properties.iter().map(|(k, v)| ((*k).to_owned(), Secret::new(*v))).collect(),
        }
    }

    #[test]
    fn librdkafka_takes_every_setting() {
        for limits in [
            LIMITS,
            Limits { message_bytes_max: 1, in_flight_rows_max: 1, in_flight_bytes_max: 1 },
            Limits {
                message_bytes_max: usize::MAX,
                in_flight_rows_max: usize::MAX,
                in_flight_bytes_max: usize::MAX,
            },
        ] {
            client_config(&kafka(&[]), limits).create_native_config().expect("valid settings");
        }
    }

    #[test]
    fn properties_go_on_top_of_the_habits() {
        let client = client_config(&kafka(&[("linger.ms", "20"), ("compression.type", "lz4")]), LIMITS);
        assert_eq!(client.get("linger.ms"), Some("20"));
        assert_eq!(client.get("compression.type"), Some("lz4"));
        assert_eq!(client.get("acks"), Some("all"));
    }

    #[test]
    fn the_largest_message_fits_with_its_headers() {
        let client = client_config(&kafka(&[]), LIMITS);
        assert!(record_bytes_max(&client) >= LIMITS.message_bytes_max + HEADER_BYTES_MAX);
        assert_eq!(batch_bytes_max(&client), BATCH_BYTES_MAX);
    }

    #[test]
    fn no_setting_is_made_twice() {
        let mut seen = BTreeMap::new();
        let sizes = sizes(LIMITS);
        for name in PROMISES.iter().chain(HABITS).map(|(name, _)| *name).chain(sizes.map(|(name, _)| name)) {
            assert_eq!(seen.insert(name, ()), None, "{name}");
        }
    }
}

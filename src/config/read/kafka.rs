//! `[sink.kafka]`: brokers, and librdkafka properties that do not break a promise.

use std::collections::BTreeMap;

use config::Value;
use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;

use super::secret_file;
use crate::config::check::is_loopback;
use crate::config::problem::Wrong;
use crate::config::section::Section;
use crate::config::value::{boolean, secret, text};
use crate::config::{Kafka, Secret};

const PROPERTIES: &str = "properties";

/// Properties the relay's promises rest on, and why nobody else may set them.
const REFUSED: [(&str, &str); 24] = [
    ("bootstrap.servers", "it is sink.kafka.brokers"),
    ("metadata.broker.list", "it is sink.kafka.brokers"),
    ("enable.idempotence", ORDER),
    ("enable.gapless.guarantee", ORDER),
    ("queuing.strategy", ORDER),
    ("acks", LOSS),
    ("request.required.acks", LOSS),
    ("message.timeout.ms", GAPS),
    ("delivery.timeout.ms", GAPS),
    ("message.send.max.retries", GAPS),
    ("retries", GAPS),
    ("allow.auto.create.topics", "a misspelt topic must be a failure, not a new topic"),
    ("partitioner", "keys must land on the partitions other clients choose"),
    ("transactional.id", "transactions are the relay's own"),
    ("queue.buffering.max.messages", "it follows from delivery.in_flight_rows_max"),
    ("queue.buffering.max.kbytes", "it follows from delivery.in_flight_bytes_max"),
    ("message.max.bytes", "it follows from outbox.message_bytes_max"),
    ("delivery.report.only.error", REPORTS),
    ("dr_cb", REPORTS),
    ("dr_msg_cb", REPORTS),
    ("opaque", REPORTS),
    ("enabled_events", REPORTS),
    ("test.mock.num.brokers", "a mock broker confirms what nobody keeps"),
    ("test.mock.broker.rtt", "a mock broker confirms what nobody keeps"),
];
const ORDER: &str = "order within a key rests on it";
const LOSS: &str = "a confirmed record must be on all in-sync replicas";
const GAPS: &str = "giving up on a record inside the client would let its successors pass it";
const REPORTS: &str = "rows are marked by delivery reports";

/// With idempotence librdkafka keeps order up to this many requests on their way.
const IN_FLIGHT_REQUESTS_MAX: u32 = 5;
const IN_FLIGHT_REQUESTS: [&str; 2] = ["max.in.flight.requests.per.connection", "max.in.flight"];

/// Parts of the names of properties whose values are secrets.
const SECRET_PARTS: [&str; 9] = [
    "password",
    "passphrase",
    "secret",
    "token",
    "credential",
    "private",
    "pem",
    "jaas",
    "oauthbearer.config",
];

pub(super) fn kafka(section: &mut Section<'_>) -> Option<Kafka> {
    let brokers = section.required(
        "brokers",
        text,
        "write host:port, several with commas: \"kafka-1:9092,kafka-2:9092\"",
    );
    let consent = section.defaulted("insecure_allow_plaintext", boolean);
    let properties = properties(section);
    let (brokers, consent, properties) = (brokers?, consent?, properties?);
    if !consent && may_be_plaintext(&brokers, &properties) {
        let hint = "set sink.kafka.properties.\"security.protocol\" to \"ssl\" or \"sasl_ssl\", or consent with \
                    sink.kafka.insecure_allow_plaintext = true";
        section.report("brokers", Wrong::new("leads to another host without TLS", hint));
    }
    Some(Kafka { brokers, properties })
}

/// Knows the keys and judges none: another sink was chosen, perhaps for a moment.
pub(super) fn pass_over(section: &mut Section<'_>) {
    let _brokers = section.optional("brokers", |_| Ok(()));
    let _consent = section.optional("insecure_allow_plaintext", |_| Ok(()));
}

/// Whether records, having been consented to, may leave this host in the clear.
pub(in crate::config) fn is_plaintext_allowed(kafka: &Kafka) -> bool {
    may_be_plaintext(&kafka.brokers, &kafka.properties)
}

/// Whether the value of a property is not for showing.
pub(in crate::config) fn is_secret(property: &str) -> bool {
    SECRET_PARTS.iter().any(|part| property.contains(part))
}

fn may_be_plaintext(brokers: &str, properties: &BTreeMap<String, Secret>) -> bool {
    let protocol = properties.get("security.protocol").map_or("plaintext", Secret::reveal);
    let demands_tls = ["ssl", "sasl_ssl"].iter().any(|tls| tls.eq_ignore_ascii_case(protocol));
    !demands_tls && !brokers.split(',').all(|broker| is_loopback(host(broker.trim())))
}

/// The host of `host`, `host:port`, `[::1]:port`, `PLAINTEXT://host:port`.
fn host(broker: &str) -> &str {
    let address = broker.split_once("://").map_or(broker, |(_, address)| address);
    match address.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => host,
        Some(_) | None => address,
    }
}

fn properties(section: &mut Section<'_>) -> Option<BTreeMap<String, Secret>> {
    let entries = section.open_table(PROPERTIES);
    let count = entries.len();
    let mut properties = BTreeMap::new();
    for (name, value) in entries {
        let read = property(&name, &value).and_then(|(name, value)| match properties.insert(name, value) {
            None => Ok(()),
            Some(_) => Err(Wrong::new("is given twice, once as *_file", "give one of the two")),
        });
        if let Err(wrong) = read {
            section.report_entry(PROPERTIES, &name, &value, wrong);
        }
    }
    (properties.len() == count).then_some(properties)
}

/// The property's own name, without `_file`, and its value.
fn property(name: &str, value: &Value) -> Result<(String, Secret), Wrong> {
    let (name, value) = match name.strip_suffix("_file") {
        Some(stem) => (stem, secret_file(value)?),
        None => (name, secret(value)?),
    };
    if let Some((_, why)) = REFUSED.iter().find(|(refused, _)| *refused == name) {
        return Err(Wrong::new(format!("cannot be set: {why}"), "remove it"));
    }
    let in_flight = value.parse().unwrap_or(0);
    if IN_FLIGHT_REQUESTS.contains(&name) && !(1..=IN_FLIGHT_REQUESTS_MAX).contains(&in_flight) {
        let hint = format!("write between 1 and {IN_FLIGHT_REQUESTS_MAX}, or remove it");
        return Err(Wrong::new(format!("is out of range: {ORDER}"), hint));
    }
    accepted(name, &value)?;
    Ok((name.to_owned(), Secret::new(value)))
}

/// Asks librdkafka itself, which knows some 150 properties and what this build lacks.
fn accepted(name: &str, value: &str) -> Result<(), Wrong> {
    use rdkafka::types::RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN;

    // Its own messages quote the value, which may be a secret.
    let problem = match ClientConfig::new().set(name, value).create_native_config() {
        Ok(_) => return Ok(()),
        Err(KafkaError::ClientConfig(RD_KAFKA_CONF_UNKNOWN, ..)) => "is unknown to librdkafka",
        Err(KafkaError::ClientConfig(_, why, ..)) if why.contains("not supported in this build") => {
            "is not part of this build of librdkafka"
        }
        Err(_) => "has a value librdkafka does not accept",
    };
    Err(Wrong::new(problem, "see CONFIGURATION.md of librdkafka"))
}

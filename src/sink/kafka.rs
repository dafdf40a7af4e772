//! Kafka, by librdkafka's producer and a thread that polls it.
//!
//! A record is copied into the client's queue, its token travels with it as an opaque number, and comes
//! back in the delivery callback; nothing is allocated here per record. librdkafka batches, connects and
//! retries. What its codes mean is in `classify`, how it is set up in `settings`, what it calls back in
//! `deliveries`.

use std::fmt;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header as KafkaHeader, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, PurgeConfig};
use rdkafka::types::RDKafkaConfRes;
use tokio::sync::oneshot;

use super::inbox::{Inbox, Unanswered};
use super::{Destination, ErrorType, Failure, Fault, Record, Shipment, Sink, SinkEvent, printable};
use crate::config;
use crate::message::{Header, RowRef};

mod classify;
mod client;
mod deliveries;
mod settings;

use client::{Client, Unusable};
use deliveries::Deliveries;
pub use settings::Limits;

/// How long `close` waits for the client to be let go of. Its queue is purged by then; its threads end
/// soon after, or with the process.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Past it the client gets its producer id without help.
const HURRY_TIMEOUT: Duration = Duration::from_millis(500);

/// A Kafka cluster as a [`Sink`]. It sends nothing before it is opened.
pub struct KafkaSink {
    config: ClientConfig,
    inbox: Arc<Inbox>,
    unanswered: Unanswered,
    client: Option<Client>,
    /// Whether the client was hurried along since it was opened.
    hurried: bool,
}

impl KafkaSink {
    #[must_use]
    pub fn new(kafka: &config::Kafka, limits: Limits) -> Self {
        let config = settings::client_config(kafka, limits);
        Self {
            config,
            inbox: Arc::default(),
            unanswered: Unanswered::default(),
            client: None,
            hurried: false,
        }
    }

    /// Queues a record, or says why it was not.
    fn send(&self, client: &Client, shipment: &Shipment) -> Result<(), Failure> {
        let record = &*shipment.record;
        let Destination::Topic(topic) = &record.destination else {
            let reason = format!("{} is an exchange, and Kafka has topics", record.destination);
            return Err(Failure::refused(Fault::Permanent, ErrorType::InvalidRecord, reason));
        };
        let token = usize::try_from(shipment.token.0).expect("a token is as wide as a pointer");
        let queued = client.send(BaseRecord {
            topic,
            partition: None,
            payload: record.body.as_deref(),
            key: record.key.as_deref(),
            timestamp: record.timestamp_ms,
            headers: (!record.headers.is_empty()).then(|| native(&record.headers)),
            delivery_opaque: token,
        });
        queued.map_err(|(error, _)| self.not_queued(client, &error, record))
    }

    /// The client turned the record away, so it cannot have been published.
    fn not_queued(&self, client: &Client, error: &KafkaError, record: &Record) -> Failure {
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::InvalidArgument);
        if code == RDKafkaErrorCode::Fatal
            && let Some(fatal) = fatal_failure(client)
        {
            return Failure { maybe_published: false, ..fatal };
        }
        if code == RDKafkaErrorCode::MessageSizeTooLarge {
            return self.too_large(record);
        }
        let reason = || Failure::refused(Fault::Transient, ErrorType::Other, error.to_string());
        Failure { maybe_published: false, ..classify::failure(code, true).unwrap_or_else(reason) }
    }

    fn too_large(&self, record: &Record) -> Failure {
        let (bytes, max) = (record.bytes(), settings::record_bytes_max(&self.config));
        let reason = format!("the record has {bytes} bytes with key and headers, message.max.bytes is {max}");
        Failure::refused(Fault::Permanent, ErrorType::TooLarge, reason)
    }

    /// Brings the first delivery forward by half a second.
    ///
    /// An idempotent client needs a producer id. librdkafka asks for one when it first hears of the
    /// cluster, which is when it closes the bootstrap connection it would ask on; it asks again after
    /// 500 ms, or with the next answer about the cluster. The first look-up may still be answered on the
    /// bootstrap connection, the second is not.
    fn hurry(&mut self, shipments: &[Shipment]) {
        if let (false, Some(client), Some(first)) = (self.hurried, &self.client, shipments.first()) {
            self.hurried = true;
            let (client, record) = (client.clone(), Arc::clone(&first.record));
            let look_up = move || {
                for _ in 0..2 {
                    // An answer or none: the client goes its own way from here.
                    let topic = Some(record.destination.name());
                    let _ = client.client().fetch_metadata(topic, HURRY_TIMEOUT);
                }
            };
            // Without a thread it takes half a second longer.
            let _ = thread::Builder::new().name("kafka-hurry".to_owned()).spawn(look_up);
        }
    }

    /// Ends the client of an earlier epoch without waiting for it. Nobody reads its inbox any more.
    fn retire(&mut self) -> Option<oneshot::Receiver<()>> {
        let client = self.client.take()?;
        self.inbox = Arc::default();
        self.unanswered = Unanswered::default();
        self.hurried = false;
        purge(&client);
        let (ended, end) = oneshot::channel();
        let retiring = thread::Builder::new().name("kafka-retire".to_owned()).spawn(move || {
            drop(client);
            // Nobody may wait for it.
            let _ = ended.send(());
        });
        retiring.is_ok().then_some(end)
    }
}

impl Sink for KafkaSink {
    async fn open(&mut self, _epoch: u64) -> Result<Vec<RowRef>, Failure> {
        self.retire();
        let config = self.config.clone();
        let context = Deliveries::new(Arc::clone(&self.inbox), settings::batch_bytes_max(&config));
        // Certificates are read from files on the way.
        let created = tokio::task::spawn_blocking(move || Client::new(&config, context));
        let client = created.await.map_err(|error| unusable(error.to_string()))?;
        self.client = Some(client.map_err(|error| unusable(creation_reason(&error)))?);
        Ok(Vec::new())
    }

    fn publish(&mut self, shipments: Vec<Shipment>) {
        self.hurry(&shipments);
        self.unanswered.add(shipments.len());
        for shipment in &shipments {
            let queued = match &self.client {
                Some(client) => self.send(client, shipment),
                None => Err(Failure::refused(Fault::Fatal, ErrorType::Other, "the Kafka client is not open")),
            };
            if let Err(failure) = queued {
                self.inbox.outcome(shipment.token, Err(failure));
            }
        }
    }

    async fn events(&mut self) -> Vec<SinkEvent> {
        let mut events = self.inbox.take(self.unanswered.enough()).await;
        self.unanswered.taken(&events);
        if let Some(client) = &self.client {
            blame_client(&mut events, client);
        }
        events
    }

    fn purge(&mut self) {
        if let Some(client) = &self.client {
            purge(client);
        }
    }

    async fn close(&mut self) {
        if let Some(end) = self.retire() {
            // Late or not, there is nothing left to do about it.
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, end).await;
        }
    }
}

impl Drop for KafkaSink {
    /// The last to let go of a client joins its threads; that must not hold up the runtime.
    fn drop(&mut self) {
        self.retire();
    }
}

impl fmt::Debug for KafkaSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaSink").field("open", &self.client.is_some()).finish_non_exhaustive()
    }
}

/// Empties the shared queues at once and asks each broker's thread to empty its own, which takes
/// milliseconds. Does not wait for them: one may hang in a name lookup, and then it sends nothing either.
fn purge(client: &Client) {
    client.purge(PurgeConfig::default().queue().inflight().non_blocking());
}

fn native(headers: &[Header]) -> OwnedHeaders {
    headers.iter().fold(OwnedHeaders::new_with_capacity(headers.len()), |native, header| {
        native.insert(KafkaHeader { key: &header.name, value: header.value.as_deref() })
    })
}

/// A client with a fatal error purges its queue by itself: that is no outage and no purge of ours.
fn blame_client(events: &mut [SinkEvent], client: &Client) {
    let failures = events.iter_mut().flat_map(|event| match event {
        SinkEvent::Outcomes(outcomes) => outcomes.as_mut_slice(),
        SinkEvent::Down(_) | SinkEvent::Up => &mut [],
    });
    let mut purged = failures
        .filter_map(|outcome| outcome.result.as_mut().err())
        .filter(|failure| failure.error_type == ErrorType::Purged)
        .peekable();
    if purged.peek().is_none() {
        return;
    }
    if let Some(fatal) = fatal_failure(client) {
        purged.for_each(|failure| *failure = fatal.clone());
    }
}

/// `Fatal` or `Fenced`, if the client can never send again.
fn fatal_failure(client: &Client) -> Option<Failure> {
    let (code, reason) = client.client().fatal_error()?;
    let reason = format!("{code:?}: {}", printable(&reason, 300));
    let known = classify::failure(code, true);
    let fault = match known.as_ref().map(|failure| failure.fault) {
        Some(Fault::Fenced) => Fault::Fenced,
        Some(Fault::Unavailable | Fault::Blocked | Fault::Transient | Fault::Permanent | Fault::Fatal)
        | None => Fault::Fatal,
    };
    Some(Failure::unknown(fault, known.map_or(ErrorType::Other, |failure| failure.error_type), reason))
}

fn unusable(reason: String) -> Failure {
    Failure::refused(Fault::Fatal, ErrorType::Other, format!("could not set up the Kafka client: {reason}"))
}

/// Names the property, never its value: it may be a password.
fn creation_reason(error: &Unusable) -> String {
    let error = match error {
        Unusable::Config(error) => error,
        Unusable::Thread(_) => return error.to_string(),
    };
    match error {
        KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, _, name, _) => {
            format!("librdkafka has no property \"{name}\"")
        }
        KafkaError::ClientConfig(_, _, name, _) => {
            format!("librdkafka does not take the value of \"{name}\"")
        }
        other => printable(&other.to_string(), 300),
    }
}

//! The producer with a thread that polls it for as long as anybody holds it.
//!
//! rdkafka's own `ThreadedProducer` polls for 100 ms at a time and spins through the last fraction of a
//! millisecond of each: 0.9 % of a core for an idle relay. Longer polls spin as long, and less often.

use std::io;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rdkafka::config::{ClientConfig, FromClientConfigAndContext as _};
use rdkafka::error::KafkaError;
use rdkafka::producer::BaseProducer;

use super::deliveries::Deliveries;

/// One poll. A client that nobody holds any more ends within this time; events end a wait, not a poll,
/// so nothing is reported later for it.
const POLL: Duration = Duration::from_millis(500);

#[derive(Clone)]
pub(super) struct Client {
    producer: Arc<BaseProducer<Deliveries>>,
    /// Ends the thread with the last clone.
    _polling: Arc<Polling>,
}

struct Polling(Arc<AtomicBool>);

impl Drop for Polling {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    #[error(transparent)]
    Config(#[from] KafkaError),
    #[error("could not start a thread: {0}")]
    Thread(#[from] io::Error),
}

impl Client {
    pub(super) fn new(config: &ClientConfig, deliveries: Deliveries) -> Result<Self, Unusable> {
        let producer = Arc::new(BaseProducer::from_config_and_context(config, deliveries)?);
        let abandoned = Arc::new(AtomicBool::new(false));
        let (polled, done) = (Arc::clone(&producer), Arc::clone(&abandoned));
        thread::Builder::new().name("kafka-poll".to_owned()).spawn(move || {
            while !done.load(Ordering::Relaxed) {
                polled.poll(POLL);
            }
        })?;
        Ok(Self { producer, _polling: Arc::new(Polling(abandoned)) })
    }
}

impl Deref for Client {
    type Target = BaseProducer<Deliveries>;

    fn deref(&self) -> &Self::Target {
        &self.producer
    }
}

//! Where the records go, and the reader of what arrived there: the Kafka that librdkafka brings for its
//! own tests, in this process, a real one, or a RabbitMQ.
//!
//! What the two kinds have in common is here; each knows by itself how it is made ready ([`kafka`],
//! [`rabbitmq`]). The ledger is the same for both.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rand::TryRngCore as _;

use super::folder::Folder;
use super::ledger::Arrivals;
use super::{DemoError, Options, Target};
use crate::config::{self, Config};

mod kafka;
mod rabbitmq;

use kafka::Kafka;
use rabbitmq::RabbitMq;

/// How long a broker may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// How often the reader looks up from waiting for records.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A broker with a place for the demo's records, once it is opened.
#[derive(Debug)]
pub(super) enum Broker {
    Kafka(Kafka),
    RabbitMq(Box<RabbitMq>),
}

impl Broker {
    /// The one that was asked for; nothing is connected to. What the relay would refuse is refused here,
    /// before anything is started for it.
    pub(super) fn new(options: &Options) -> Result<Self, DemoError> {
        let consent = options.insecure_allow_plaintext;
        Ok(match &options.broker {
            Target::Mock => {
                Self::Kafka(Kafka::mock().map_err(|error| DemoError::new("start the mock Kafka", error))?)
            }
            Target::Kafka(addresses) => Self::Kafka(Kafka::real(addresses, consent)?),
            Target::RabbitMq(url) => Self::RabbitMq(Box::new(RabbitMq::new(url, consent)?)),
        })
    }

    /// Connects, and makes what records are published to.
    pub(super) async fn open(&mut self) -> Result<(), DemoError> {
        match self {
            Self::Kafka(kafka) => kafka.open().await,
            Self::RabbitMq(rabbitmq) => rabbitmq.open().await,
        }
    }

    /// Removes whatever was made on a broker that stays, however far `open` came.
    ///
    /// # Errors
    /// What is still there.
    pub(super) async fn close(self) -> Result<(), DemoError> {
        match self {
            Self::Kafka(kafka) => kafka.close().await,
            Self::RabbitMq(rabbitmq) => rabbitmq.close().await,
        }
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Kafka(_) => "Kafka",
            Self::RabbitMq(_) => "RabbitMQ",
        }
    }

    /// What it is, for people.
    pub(super) fn description(&self) -> String {
        match self {
            Self::Kafka(kafka) => kafka.description(),
            Self::RabbitMq(rabbitmq) => rabbitmq.description(),
        }
    }

    /// What the relay's configuration says of it, secrets in files of their own.
    pub(super) fn configuration(&self, folder: &Folder) -> Result<String, DemoError> {
        match self {
            Self::Kafka(kafka) => Ok(kafka.configuration()),
            Self::RabbitMq(rabbitmq) => rabbitmq.configuration(folder),
        }
    }

    /// The name of the relay's pipeline.
    pub(super) fn pipeline(&self) -> String {
        match self {
            Self::Kafka(_) => "demo".to_owned(),
            Self::RabbitMq(rabbitmq) => rabbitmq.pipeline(),
        }
    }

    /// What a row's `destination` is for its record to come here.
    pub(super) fn destination(&self) -> &str {
        match self {
            Self::Kafka(kafka) => kafka.topic(),
            Self::RabbitMq(_) => rabbitmq::ROUTING_KEY,
        }
    }

    /// Reads from the beginning, as records come.
    pub(super) async fn reader(&self) -> Result<Reader, DemoError> {
        match self {
            Self::Kafka(kafka) => kafka.reader(),
            Self::RabbitMq(rabbitmq) => rabbitmq.reader().await,
        }
    }
}

/// A name on a broker that others use too, and the number in it.
fn random() -> Result<u32, DemoError> {
    rand::rngs::OsRng.try_next_u32().map_err(|error| DemoError::new("draw a name", error))
}

/// What the relay will make of `keys`, by its own rules; `argument` is what they come from.
fn checked(argument: &str, keys: &[(&str, &str)], hint: &str) -> Result<Config, DemoError> {
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    let assumed = vec![owned(&("database.url", "postgres://localhost/demo"))];
    let sources =
        config::Sources { assumed, flags: keys.iter().map(owned).collect(), ..config::Sources::default() };
    config::load(&sources).map_err(|problems| {
        let said: Vec<_> = problems.0.iter().map(|problem| format!("it {}", problem.problem)).collect();
        DemoError::new(format!("use the value of {argument}"), said.join(", ")).hint(hint)
    })
}

/// The line that consents to a connection others can read, in the words of a configuration file.
fn consent_line(consent: bool) -> &'static str {
    if consent { "insecure_allow_plaintext = true\n" } else { "" }
}

/// A thread that reads; it ends with this value.
#[derive(Debug)]
pub(super) struct Reader {
    thread: Option<JoinHandle<Result<Arrivals, DemoError>>>,
    state: Arc<State>,
}

/// What a reader and whoever waits for it tell each other.
#[derive(Debug, Default)]
struct State {
    /// Different rows that have arrived.
    delivered: AtomicU64,
    /// No more records are published: read to the end and return.
    is_last: AtomicBool,
    is_abandoned: AtomicBool,
}

impl State {
    fn is_last(&self) -> bool {
        self.is_last.load(Ordering::Relaxed)
    }

    fn is_abandoned(&self) -> bool {
        self.is_abandoned.load(Ordering::Relaxed)
    }

    fn arrived(&self, arrivals: &Arrivals) {
        self.delivered.store(arrivals.distinct(), Ordering::Relaxed);
    }
}

impl Reader {
    /// `read` returns once it is at the end after the last, or soon after it was abandoned.
    fn start(
        read: impl FnOnce(&State) -> Result<Arrivals, DemoError> + Send + 'static,
    ) -> Result<Self, DemoError> {
        let state = Arc::new(State::default());
        let seen = Arc::clone(&state);
        let thread = thread::Builder::new().name("demo-reader".to_owned()).spawn(move || read(&seen));
        let thread = thread.map_err(|error| DemoError::new("start a reader", error))?;
        Ok(Self { thread: Some(thread), state })
    }

    /// How many different rows have arrived so far.
    pub(super) fn delivered(&self) -> u64 {
        self.state.delivered.load(Ordering::Relaxed)
    }

    /// Why it gave up, if it has.
    pub(super) fn failure(&mut self) -> Option<DemoError> {
        let has_ended = self.thread.as_ref().is_some_and(JoinHandle::is_finished);
        let thread = self.thread.take_if(|_| has_ended)?;
        joined(thread).err()
    }

    /// Reads all there is.
    pub(super) async fn finish(mut self) -> Result<Arrivals, DemoError> {
        self.state.is_last.store(true, Ordering::Relaxed);
        while !self.thread.as_ref().is_none_or(JoinHandle::is_finished) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        joined(self.thread.take().expect("whoever was told of a failure does not go on"))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.state.is_abandoned.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It looks up every few milliseconds.
            let _ = thread.join();
        }
    }
}

fn joined(thread: JoinHandle<Result<Arrivals, DemoError>>) -> Result<Arrivals, DemoError> {
    thread.join().expect("the reader does not panic")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;
    use crate::demo::warden::Warden;

    fn options(broker: Target, insecure_allow_plaintext: bool) -> Options {
        let surroundings = crate::demo::Surroundings::default();
        Options {
            rows: 1_000,
            json: false,
            broker,
            insecure_allow_plaintext,
            postgres_bin: None,
            keep: None,
            surroundings,
        }
    }

    #[test]
    fn another_host_without_tls_takes_consent_with_either_broker() {
        for target in [
            || Target::Kafka("kafka.internal:9092".to_owned()),
            || Target::RabbitMq(Secret::new("amqp://u:canary@rabbit.internal/%2f")),
        ] {
            let refused = Broker::new(&options(target(), false)).unwrap_err().to_string();
            assert!(refused.contains("without TLS"), "{refused}");
            assert!(refused.contains("--insecure-allow-plaintext"), "{refused}");
            assert!(!refused.contains("canary"), "{refused}");
            let broker = Broker::new(&options(target(), true)).unwrap();
            let warden = Warden::start().unwrap();
            let told = broker.configuration(&Folder::create(&warden).unwrap()).unwrap();
            assert!(told.contains("\ninsecure_allow_plaintext = true\n"), "{told}");
            assert!(!told.contains("canary"), "{told}");
        }
    }

    #[test]
    fn a_url_that_is_none_is_refused_and_not_quoted() {
        let target = Target::RabbitMq(Secret::new("http://u:canary@rabbit"));
        let refused = Broker::new(&options(target, true)).unwrap_err().to_string();
        assert!(refused.contains("could not use the value of --rabbitmq: it does not start"), "{refused}");
        assert!(!refused.contains("canary"), "{refused}");
    }
}

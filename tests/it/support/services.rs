//! Where the services are. They are found by the environment that `scripts/services up` prints; absent,
//! a test fails and says what to do, because a proof that did not run must not look like one that held.

use std::env;

const HOW: &str = "run scripts/test, or: eval \"$(scripts/services up)\"; \
                   OUTBOX_TEST_SKIP_SERVICES=1 skips the tests that need services";

/// What a test needs besides this process.
#[derive(Debug, Clone)]
pub struct Services {
    /// A superuser's URL of the shared Postgres. Not for tests that stop it or change its settings.
    pub postgres_url: String,
    /// `host:port` of the shared Kafka.
    pub kafka_brokers: String,
    /// The url of the shared RabbitMQ. Not for tests that stop it or raise its alarms.
    pub rabbitmq_url: String,
}

impl Services {
    /// The services, or `None` if this test is to be skipped, as a line on stderr then says.
    pub fn find(test: &str) -> Option<Self> {
        if skipped() {
            skip(test);
            return None;
        }
        Some(Self {
            postgres_url: postgres_url(),
            kafka_brokers: kafka_brokers(),
            rabbitmq_url: rabbitmq_url(),
        })
    }
}

/// A superuser's URL of the shared Postgres.
pub fn postgres_url() -> String {
    required("OUTBOX_TEST_POSTGRES")
}

/// `host:port` of the shared Kafka.
pub fn kafka_brokers() -> String {
    required("OUTBOX_TEST_KAFKA")
}

/// The url of the shared RabbitMQ, of a user that may do everything.
pub fn rabbitmq_url() -> String {
    required("OUTBOX_TEST_RABBITMQ")
}

/// What makes `rabbitmqctl` speak to the shared RabbitMQ.
pub fn rabbitmq_environment() -> Vec<(String, String)> {
    let all = required("OUTBOX_TEST_RABBITMQ_ENV");
    let one = |pair: &str| pair.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    all.split_whitespace().filter_map(one).collect()
}

/// The directory of `rabbitmq-server` and `rabbitmqctl`.
pub fn rabbitmq_bin() -> String {
    required("OUTBOX_TEST_RABBITMQ_BIN")
}

/// The directory of `initdb` and `postgres`.
pub fn postgres_bin() -> String {
    required("OUTBOX_TEST_PG_BIN")
}

/// The Java class path of Kafka's jars.
pub fn kafka_classpath() -> String {
    required("OUTBOX_TEST_KAFKA_CLASSPATH")
}

fn required(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("{name} is not set: {HOW}"))
}

/// CI never skips.
fn skipped() -> bool {
    let set = |name| env::var_os(name).is_some_and(|value| !value.is_empty() && value != "0");
    set("OUTBOX_TEST_SKIP_SERVICES") && !set("CI") && !set("OUTBOX_TEST_REQUIRE")
}

#[allow(clippy::print_stderr, reason = "the one line that tells a skipped test from one that passed")]
fn skip(test: &str) {
    eprintln!("skipped: {test} (OUTBOX_TEST_SKIP_SERVICES is set)");
}

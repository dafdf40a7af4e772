//! Where every play takes place: a database with the outbox and the ledger, a topic, and in between
//! whatever relays a test starts.

use std::time::Duration;

use crate::support::database::Database;
use crate::support::kafka;
use crate::support::ledger::{self, Load, Verdict};
use crate::support::relay::{Relay, Settings};
use crate::support::services::Services;

/// Far above what anything takes that works, so that a busy machine is not a failure.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// The lease's shortest time to live: a crash costs every test this much.
pub const LEASE_TTL: Duration = Duration::from_secs(3);

/// A database with the outbox and the ledger, and a topic of three partitions.
#[derive(Debug)]
pub struct Stage {
    pub database: Database,
    pub brokers: String,
    pub topic: String,
}

impl Stage {
    /// On the shared servers; `None` if the test is to be skipped.
    pub async fn open(test: &str) -> Option<Self> {
        let services = Services::find(test)?;
        Some(Self::open_on(&services.postgres_url, &services.kafka_brokers).await)
    }

    pub async fn open_on(postgres_url: &str, brokers: &str) -> Self {
        let database = Database::create_in(postgres_url).await;
        let topic = kafka::fresh_topic("orders");
        kafka::create_topic(brokers, &topic, 3, &[]).await;
        let stage = Self { database, brokers: brokers.to_owned(), topic };
        let migrated = stage.settings().output(&["migrate"]);
        assert!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
        ledger::create(&stage.database.pool).await;
        stage
    }

    /// A relay from this database to this broker.
    pub fn settings(&self) -> Settings {
        self.settings_as("postgres")
    }

    /// The same, logging in as another role.
    pub fn settings_as(&self, role: &str) -> Settings {
        Settings::kafka(&self.database.url_as(role), &self.brokers)
            .text("lease.ttl", &format!("{}s", LEASE_TTL.as_secs()))
    }

    /// What `migrate --print-sql` grants to the relay's role, with `role` in its place.
    pub fn grants(&self, role: &str) -> String {
        let printed = self.settings().output(&["migrate", "--print-sql"]);
        let script = String::from_utf8(printed.stdout).expect("SQL is text");
        let (_, grants) = script.split_once("psql -v relay=<role>\n").expect("the grants come last");
        grants.replace(":relay", role)
    }

    /// Writers to this topic that go on until they are stopped.
    pub fn load(&self) -> Load {
        Load { transactions: u64::MAX, ..Load::to(&self.topic) }
    }

    /// Commits that many orders at once.
    pub async fn backlog(&self, load: &Load, rows: i64) {
        ledger::backlog(&self.database.pool, load, rows).await;
    }

    pub async fn pending(&self) -> i64 {
        self.database.count("outbox.message where delivered_at is null").await
    }

    pub async fn delivered(&self) -> i64 {
        self.database.count("outbox.message where delivered_at is not null").await
    }

    /// Waits until every committed row is marked delivered.
    pub async fn drained(&self, relay: &mut Relay) {
        relay.wait_for(PATIENCE, "every row is delivered", async || self.pending().await == 0).await;
    }

    /// Waits until the relay delivers more than was delivered before.
    pub async fn progress(&self, relay: &mut Relay) {
        let before = self.delivered().await;
        relay.wait_for(PATIENCE, "more rows are delivered", async || self.delivered().await > before).await;
    }

    /// What Kafka holds, compared with what the database holds.
    pub async fn verdict(&self) -> Verdict {
        let entries = ledger::entries(&self.database.pool).await;
        assert!(!entries.is_empty(), "a test without orders proves nothing");
        ledger::audit(&entries, &kafka::read_all(&self.brokers, &self.topic).await)
    }
}

/// Asks for a drain; the relay must end in good order, with nothing unknown.
pub async fn stop(mut relay: Relay) {
    relay.sigterm();
    let code = relay.wait(PATIENCE).await;
    assert_eq!(code, 0, "a drain completes\n{}", relay.stderr().tail(20));
}

//! The relay between a real Postgres and a real RabbitMQ: its death at any moment, its sleep past its
//! lease, and a broker that comes back.

use std::time::Duration;

use lapin::types::AMQPValue;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::stage::{LEASE_TTL, PATIENCE, stop};
use crate::support::database::Database;
use crate::support::kafka::Received;
use crate::support::ledger::{self, Load, Verdict, Writers};
use crate::support::rabbitmq::{Rabbit, RabbitServer, quorum};
use crate::support::relay::{Relay, Settings};
use crate::support::services::Services;
use crate::support::wait;

const KILLS: u64 = 6;

/// Small against the backlog, so that a kill nearly always finds it full.
const WINDOW: u64 = 200;

/// A database with the outbox and the ledger, and an exchange with one queue.
pub struct Stage {
    pub database: Database,
    url: String,
    exchange: String,
    queue: String,
    /// Its lock queue is a name in the broker, which tests share.
    pipeline: String,
}

impl Stage {
    async fn open(test: &str) -> Option<Self> {
        let services = Services::find(test)?;
        Some(Self::open_on(&services, &services.rabbitmq_url, &quorum()).await)
    }

    pub async fn open_on(services: &Services, url: &str, queue: &[(&str, AMQPValue)]) -> Self {
        let database = Database::create_in(&services.postgres_url).await;
        let rabbit = Rabbit::at(url).await;
        let exchange = rabbit.exchange().await;
        let queue = rabbit.queue(&exchange, "#", queue).await;
        let pipeline = uuid::Uuid::new_v4().simple().to_string();
        let stage = Self { database, url: url.to_owned(), exchange, queue, pipeline };
        let migrated = stage.settings().output(&["migrate"]);
        assert!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
        ledger::create(&stage.database.pool).await;
        stage
    }

    pub fn settings(&self) -> Settings {
        Settings::rabbitmq(&self.database.url, &self.url, &self.exchange)
            .text("pipeline.name", &self.pipeline)
            .text("lease.ttl", &format!("{}s", LEASE_TTL.as_secs()))
            .set("delivery.in_flight_rows_max", &WINDOW.to_string())
    }

    pub fn load(&self) -> Load {
        Load { transactions: u64::MAX, keys: 500, ..Load::to("orders.placed") }
    }

    async fn pending(&self) -> i64 {
        self.database.count("outbox.message where delivered_at is null").await
    }

    pub async fn delivered(&self) -> i64 {
        self.database.count("outbox.message where delivered_at is not null").await
    }

    async fn progress(&self, relay: &mut Relay) {
        let before = self.delivered().await;
        relay.wait_for(PATIENCE, "more rows are delivered", async || self.delivered().await > before).await;
    }

    pub async fn drained(&self, relay: &mut Relay) {
        relay.wait_for(PATIENCE, "every row is delivered", async || self.pending().await == 0).await;
    }

    /// What the queue holds, compared with what the database holds.
    pub async fn verdict(&self) -> Verdict {
        let entries = ledger::entries(&self.database.pool).await;
        assert!(!entries.is_empty(), "a test without orders proves nothing");
        let taken = Rabbit::at(&self.url).await.take(&self.queue).await;
        let received = (0..).zip(taken).map(|(offset, delivery)| {
            let headers = delivery.properties.headers().as_ref().expect("the key is a header").inner();
            let AMQPValue::LongString(key) = &headers["outbox-key"] else { panic!("{headers:?}") };
            let key = Some(key.as_bytes().to_vec());
            let payload = Some(delivery.data);
            Received { partition: 0, offset, key, headers: vec![], payload, timestamp_ms: None }
        });
        ledger::audit(&entries, &received.collect::<Vec<_>>())
    }
}

#[tokio::test]
async fn killed_at_random_moments_into_rabbitmq_it_keeps_every_promise() {
    let Some(stage) = Stage::open("kill -9 into RabbitMQ").await else { return };
    let load = stage.load();
    ledger::backlog(&stage.database.pool, &load, 30_000).await;
    let writers = Writers::start(&stage.database.url, &load);
    let settings = stage.settings();

    let mut moments = SmallRng::seed_from_u64(42);
    for _ in 0..KILLS {
        let mut relay = settings.run();
        stage.progress(&mut relay).await;
        wait::pass(Duration::from_millis(moments.random_range(0..300))).await;
        relay.kill_9();
        assert!(stage.pending().await > 0, "a kill after the drain proves nothing");
    }

    writers.stop().await;
    let mut relay = settings.run();
    stage.drained(&mut relay).await;
    stop(relay).await;
    stage.verdict().await.assert_kept(WINDOW * KILLS);
}

#[tokio::test]
async fn one_key_keeps_its_order_in_a_queue_that_takes_many_routing_keys() {
    let Some(stage) = Stage::open("routing keys and order").await else { return };
    let load = Load { keys: 200, ..stage.load() };
    ledger::backlog(&stage.database.pool, &load, 4_000).await;
    let kinds =
        "update outbox.message set kind = 'kind-' || number % 5 from ledger.entry where position = id";
    stage.database.execute(kinds).await;
    let settings = stage.settings().text("route.routing_key", "{kind}");
    let mut relay = settings.set("delivery.in_flight_rows_max", "2000").run();
    stage.drained(&mut relay).await;
    stop(relay).await;
    let kinds: i64 = stage.database.one("select count(distinct (key, kind)) from outbox.message").await;
    assert_eq!(kinds, 1_000, "every key has every kind");
    stage.verdict().await.assert_kept(0);
}

#[tokio::test]
async fn asleep_past_its_lease_the_lock_queue_keeps_it_from_publishing_beside_its_successor() {
    let Some(stage) = Stage::open("SIGSTOP at RabbitMQ").await else { return };
    let load = stage.load();
    ledger::backlog(&stage.database.pool, &load, 20_000).await;
    let writers = Writers::start(&stage.database.url, &load);
    // The broker frees the lock of a silent connection after two heartbeats.
    let settings = stage.settings().text("sink.rabbitmq.heartbeat", "2s");

    let mut sleeper = settings.run();
    stage.progress(&mut sleeper).await;
    let mut successor = settings.run();
    sleeper.signal("STOP");
    let epoch = async || -> i64 { stage.database.one("select epoch from outbox_relay.lease").await };
    let before = epoch().await;
    successor.wait_for(PATIENCE, "the lease changed hands", async || epoch().await > before).await;
    stage.progress(&mut successor).await;
    sleeper.signal("CONT");
    wait::pass(LEASE_TTL).await;

    writers.stop().await;
    stage.drained(&mut successor).await;
    stop(sleeper).await;
    stop(successor).await;
    stage.verdict().await.assert_kept(WINDOW);
}

#[tokio::test]
async fn a_broker_that_crashes_and_comes_back_loses_nothing_and_disorders_nothing() {
    let Some(services) = Services::find("a crash of RabbitMQ") else { return };
    let mut server = RabbitServer::start().await;
    // Not a quorum queue: the only member of one may take minutes to elect itself after a crash.
    let stage = Stage::open_on(&services, &server.url(), &[]).await;
    let load = stage.load();
    ledger::backlog(&stage.database.pool, &load, 20_000).await;
    let writers = Writers::start(&stage.database.url, &load);
    let mut relay = stage.settings().run();
    stage.progress(&mut relay).await;
    server.kill_9().await;
    wait::pass(Duration::from_secs(1)).await;
    server.restart().await;
    stage.progress(&mut relay).await;
    writers.stop().await;
    stage.drained(&mut relay).await;
    stop(relay).await;
    stage.verdict().await.assert_kept(WINDOW);
}

//! The tools are tested too: an auditor that overlooks a loss would make every proof worthless.

use std::time::Duration;

use super::database::Database;
use super::kafka::{self, Kafka, Received};
use super::ledger::{self, Entry, Load, Writers, audit};
use super::postgres::{Postgres, Stop};
use super::proxy::{Network, Proxy};
use super::relay::Metrics;
use super::services::Services;
use super::wait;

use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use sqlx::Connection;
use sqlx::postgres::PgConnection;

const SOON: Duration = Duration::from_secs(10);

/// Three keys, four orders each, and their faithful delivery on three partitions.
fn delivered() -> (Vec<Entry>, Vec<Received>) {
    let entries = (0..12).map(|n| Entry {
        position: n + 1,
        key: format!("k{}", n % 3),
        payload: format!("{{\"order\": \"{n}\"}}"),
    });
    let entries: Vec<Entry> = entries.collect();
    let mut received: Vec<Received> = entries.iter().map(arrival).collect();
    received.sort_by_key(|record| (record.partition, record.offset));
    (entries, received)
}

fn arrival(entry: &Entry) -> Received {
    Received {
        partition: i32::try_from(entry.position % 3).expect("below 3"),
        offset: entry.position * 10,
        key: Some(entry.key.clone().into_bytes()),
        headers: Vec::new(),
        payload: Some(entry.payload.clone().into_bytes()),
        timestamp_ms: None,
    }
}

#[test]
fn the_audit_finds_nothing_wrong_with_a_faithful_delivery() {
    let (entries, received) = delivered();
    audit(&entries, &received).assert_kept(0);
}

#[test]
fn the_audit_finds_an_order_that_was_dropped() {
    let (entries, mut received) = delivered();
    received.remove(5);
    let verdict = audit(&entries, &received);
    assert_eq!((verdict.lost.len(), verdict.disorder.len(), verdict.repeats), (1, 0, 0));
}

#[test]
fn the_audit_finds_two_orders_of_a_key_that_were_swapped() {
    let (entries, mut received) = delivered();
    received.swap(0, 1);
    let verdict = audit(&entries, &received);
    assert_eq!((verdict.lost.len(), verdict.disorder.len(), verdict.repeats), (0, 1, 0));
}

#[test]
fn the_audit_finds_an_order_that_was_never_committed() {
    let (mut entries, received) = delivered();
    let phantom = entries.pop().expect("twelve");
    let verdict = audit(&entries, &received);
    assert_eq!(verdict.phantom, [(0, phantom.position * 10)]);
}

#[test]
fn the_audit_finds_a_payload_that_was_altered_and_a_key_that_was_changed() {
    let (entries, mut received) = delivered();
    received[0].payload = Some(b"{\"order\":\"0\"}".to_vec());
    received[1].key = Some(b"k9".to_vec());
    let verdict = audit(&entries, &received);
    assert_eq!((verdict.phantom.len(), verdict.lost.len()), (2, 2));
}

#[test]
fn the_audit_counts_repeats_and_does_not_call_them_disorder() {
    let (entries, mut received) = delivered();
    received.insert(4, received[0].clone());
    let verdict = audit(&entries, &received);
    assert_eq!((verdict.repeats, verdict.disorder.len(), verdict.lost.len()), (1, 0, 0));
    let judged = std::panic::catch_unwind(|| verdict.assert_kept(0));
    assert!(judged.is_err(), "one repeat is more than none");
}

#[test]
fn the_audit_finds_a_key_on_two_partitions() {
    let (entries, mut received) = delivered();
    let last = received.len() - 1;
    received[last].partition = 7;
    assert_eq!(audit(&entries, &received).disorder.len(), 1);
}

#[test]
fn a_metrics_page_is_read_by_name_and_labels() {
    let page =
        "# HELP outbox_relay_x y\noutbox_relay_x{a=\"1\",b=\"2\"} 3\noutbox_relay_x{a=\"2\"} 4\nup NaN\n";
    let metrics = Metrics::parse(page);
    assert_eq!(metrics.get("x"), Some(7.0));
    assert_eq!(metrics.with("outbox_relay_x", &[("a", "1")]), Some(3.0));
    assert_eq!(metrics.get("y"), None);
    assert!(metrics.get("up").is_some_and(f64::is_nan));
}

const OUTBOX: &str = "create schema outbox;
    create table outbox.message (
        id bigint generated always as identity primary key,
        destination text, key text, kind text not null, payload json)";

/// An outbox table alone: the ledger does not need the relay's migrations.
async fn database_with_ledger(server_url: &str) -> Database {
    let database = Database::create_in(server_url).await;
    database.execute(OUTBOX).await;
    ledger::create(&database.pool).await;
    database
}

#[tokio::test]
async fn the_ledger_holds_what_was_committed_and_nothing_that_was_rolled_back() {
    let Some(services) = Services::find("ledger") else { return };
    let database = database_with_ledger(&services.postgres_url).await;
    let load = Load { transactions: 20, rollback_one_in: 2, ..Load::to("orders") };
    Writers::start(&database.url, &load).finish().await;

    let joined = "ledger.entry join outbox.message on id = position and payload::text = ledger.entry.payload";
    let (entries, rows) = (database.count("ledger.entry").await, database.count("outbox.message").await);
    assert_eq!(database.count(&joined.replace("payload::text", "message.payload::text")).await, entries);
    assert_eq!(entries, rows);
    let last: i64 = database.one("select max(position) from ledger.entry").await;
    assert!(last > entries, "some ids were lost to rollbacks");
    let unordered = "(select number <> row_number() over (partition by key order by position) as wrong
        from ledger.entry) n where wrong";
    assert_eq!(database.count(unordered).await, 0, "a key's ids grow in commit order");
}

#[tokio::test]
async fn what_is_on_a_topic_is_read_back_whole() {
    let Some(services) = Services::find("read_all") else { return };
    let topic = kafka::fresh_topic("selftest");
    kafka::create_topic(&services.kafka_brokers, &topic, 3, &[]).await;
    produce(&services.kafka_brokers, &topic, 100);
    let received = kafka::read_all(&services.kafka_brokers, &topic).await;
    assert_eq!(received.len(), 100);
    assert!(received.iter().all(|record| record.timestamp_ms.is_some() && record.payload.is_some()));
}

fn produce(brokers: &str, topic: &str, count: usize) {
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", brokers).create().expect("a producer");
    for number in 0..count {
        let key = number.to_string();
        let sent = producer.send(BaseRecord::to(topic).key(&key).payload("body"));
        sent.map_err(|(error, _)| error).expect("the queue takes a few");
        producer.poll(Duration::ZERO);
    }
    producer.flush(SOON).expect("the broker confirms");
}

#[tokio::test]
async fn a_private_postgres_keeps_what_was_committed_through_stops_and_crashes() {
    let Some(_) = Services::find("private Postgres") else { return };
    let mut server = Postgres::start(&[("wal_writer_delay", "10s")]).await;
    let database = database_with_ledger(&server.url).await;
    let load = Load { transactions: u64::MAX, ..Load::to("orders") };
    let writers = Writers::start(&database.url, &load);
    let mut enough = 50;
    for round in 0..3 {
        wait::eventually(SOON, "writers are at work", async || writers.committed() > enough).await;
        match round {
            0 => server.crash().await,
            1 => server.stop(Stop::Immediate).await,
            _ => server.stop(Stop::Fast).await,
        }
        enough = writers.committed() + 50;
        server.restart().await;
    }
    wait::eventually(SOON, "writers went on", async || writers.committed() > enough).await;
    let known = writers.committed();
    writers.stop().await;
    let pool = super::database::pool(&database.url).await;
    assert!(ledger::entries(&pool).await.len() as u64 >= known);
}

#[tokio::test]
async fn a_crash_takes_an_asynchronous_commit_with_it() {
    let Some(_) = Services::find("private Postgres") else { return };
    let settings = [("synchronous_commit", "off"), ("wal_writer_delay", "10s")];
    let mut server = Postgres::start(&settings).await;
    let database = database_with_ledger(&server.url).await;
    database.execute("set synchronous_commit = on; create table kept (n int)").await;
    database.execute("begin; set local synchronous_commit = off; insert into kept values (1); commit").await;
    assert_eq!(database.count("kept").await, 1);
    server.crash().await;
    server.restart().await;
    assert_eq!(database.count("kept").await, 0);
}

#[tokio::test]
async fn a_private_kafka_keeps_its_port_and_its_log_through_stop_and_kill() {
    let Some(_) = Services::find("private Kafka") else { return };
    let mut kafka = Kafka::start().await;
    kafka::create_topic(&kafka.brokers, "orders", 1, &[]).await;
    produce(&kafka.brokers, "orders", 10);
    kafka.stop().await;
    kafka.restart().await;
    produce(&kafka.brokers, "orders", 10);
    kafka.kill_9().await;
    kafka.restart().await;
    wait::eventually(SOON, "the broker has its topic again", async || {
        kafka::read_all(&kafka.brokers, "orders").await.len() == 20
    })
    .await;
}

#[tokio::test]
async fn the_proxy_forwards_delays_stalls_and_cuts() {
    let Some(services) = Services::find("proxy") else { return };
    let (_, address) = services.postgres_url.split_once('@').expect("postgres://user@host:port/database");
    let address = address.split_once('/').expect("a database follows").0;
    let proxy = Proxy::start(0, address.parse().expect("host:port")).await;
    let url = format!("postgres://postgres@127.0.0.1:{}/postgres", proxy.port);
    let mut connection = PgConnection::connect(&url).await.expect("bytes go through");
    connection.ping().await.expect("bytes go through");

    proxy.set(Network::Delay(Duration::from_millis(100)));
    let started = std::time::Instant::now();
    connection.ping().await.expect("late, but through");
    assert!(started.elapsed() >= Duration::from_millis(200));

    proxy.set(Network::Stall);
    let silence = tokio::time::timeout(Duration::from_millis(300), connection.ping()).await;
    assert!(silence.is_err(), "nothing arrives and nothing breaks");

    proxy.set(Network::Forward);
    let mut other = PgConnection::connect(&url).await.expect("bytes go through again");
    proxy.reset_connections();
    other.ping().await.expect_err("reset");
    PgConnection::connect(&url).await.expect("new connections go through");

    proxy.set(Network::Cut);
    PgConnection::connect(&url).await.expect_err("cut");
}

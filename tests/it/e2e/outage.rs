//! Kafka is away for a minute, under load. The relay waits, says so in a few lines, tells the truth
//! about the lag, leaves the database alone, and goes on by itself.

use std::time::{Duration, Instant};

use super::stage::{PATIENCE, Stage, stop};
use crate::support::kafka::Kafka;
use crate::support::ledger::{Load, Writers};
use crate::support::relay::{Metrics, Relay};
use crate::support::services::Services;
use crate::support::wait;

const MINUTE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Waiting when the outage begins; writers add to them.
const WAITING_ROWS: i64 = 50_000;
const LOG_LINES_MAX: usize = 50;
/// The windows in bytes, twice, and the process itself with room to spare.
const RESIDENT_MAX: u64 = (25 + 2 * (16 + 16)) << 20;
/// What a flat curve may rise.
const GROWTH_MAX: u64 = 4 << 20;

/// Transactions of the relays of this database that are open for longer than a second.
const LONG_TRANSACTIONS: &str = "pg_stat_activity where application_name like 'outbox-relay/%'
    and datname = current_database() and xact_start < clock_timestamp() - interval '1 second'";

#[tokio::test]
async fn a_minute_without_kafka_under_load_costs_time_and_nothing_else() {
    let Some(services) = Services::find("Kafka outage") else { return };
    let mut kafka = Kafka::start().await;
    let stage = Stage::open_on(&services.postgres_url, &kafka.brokers).await;
    let load = Load { tasks: 2, open_max: Duration::from_millis(40), keys: 1_000, ..stage.load() };
    let writers = Writers::start(&stage.database.url, &load);
    let mut relay = stage.settings().run();
    stage.progress(&mut relay).await;

    kafka.stop().await;
    stage.backlog(&load, WAITING_ROWS).await;
    let lines = relay.stderr().all().len();
    let migration = migrate(&stage);
    tokio::join!(watch(&stage, &mut relay), migration);
    let lines = relay.stderr().all().split_off(lines);
    assert!(lines.len() <= LOG_LINES_MAX, "{} lines:\n{}", lines.len(), lines.join("\n"));
    assert!(stage.pending().await >= WAITING_ROWS);

    kafka.restart().await;
    stage.progress(&mut relay).await;
    writers.stop().await;
    stage.drained(&mut relay).await;
    stop(relay).await;
    // The client outlived the outage and knows what it had sent.
    stage.verdict().await.assert_kept(0);
}

/// Looks on for a minute.
async fn watch(stage: &Stage, relay: &mut Relay) {
    let up = |metrics: &Metrics| metrics.get("broker_up") == Some(1.0);
    relay.wait_until(PATIENCE, "the outage is seen", |metrics| !up(metrics)).await;
    let (began, mut settled) = (Instant::now(), None);
    while began.elapsed() < MINUTE {
        wait::pass(LOOK_EVERY).await;
        let seen = look(stage, relay).await;
        let elapsed = began.elapsed();
        // The oldest row was committed before the outage was seen, and its age is measured by a clock.
        assert!(seen.lag >= elapsed.as_secs_f64() - 1.0, "a lag of {} s after {elapsed:?}", seen.lag);
        assert!(seen.resident < RESIDENT_MAX, "{} bytes resident after {elapsed:?}", seen.resident);
        if elapsed > MINUTE / 4 {
            let first = *settled.get_or_insert(seen.resident);
            assert!(seen.resident < first + GROWTH_MAX, "from {first} to {} bytes resident", seen.resident);
        }
    }
}

/// One look at the relay during the outage.
struct Seen {
    lag: f64,
    resident: u64,
}

async fn look(stage: &Stage, relay: &mut Relay) -> Seen {
    assert!(relay.runs(), "an outage ends nobody\n{}", relay.stderr().tail(20));
    for path in ["/readyz", "/livez"] {
        let (status, body) = relay.get(path).await.expect("the page answers");
        assert_eq!(status, 200, "{path}: {body}");
    }
    assert_eq!(stage.database.count(LONG_TRANSACTIONS).await, 0, "a transaction is open across broker I/O");
    let metrics = relay.metrics().await.expect("the page answers");
    assert_eq!(metrics.get("held_messages"), Some(0.0), "an outage is no message's fault");
    let lag = metrics.get("lag_seconds").expect("it is a known series");
    Seen { lag, resident: relay.resident_bytes() }
}

/// A migration, which nothing keeps waiting.
async fn migrate(stage: &Stage) {
    let alter =
        "set lock_timeout = '2s'; alter table outbox.message add column note text; reset lock_timeout";
    stage.database.execute(alter).await;
}

//! The database stops, crashes, and changes under a relay at work.

use std::time::{Duration, Instant};

use super::stage::{PATIENCE, Stage, stop};
use crate::support::kafka;
use crate::support::ledger::Writers;
use crate::support::postgres::{Postgres, Stop};
use crate::support::relay::get;
use crate::support::services::Services;
use crate::support::wait;

/// How a server goes down.
#[derive(Debug, Clone, Copy)]
enum Down {
    Stopped(Stop),
    Crashed,
}

#[tokio::test]
async fn a_database_that_restarts_or_crashes_under_load_costs_no_order_and_no_restart_of_the_relay() {
    let Some(services) = Services::find("Postgres restarts") else { return };
    let mut server = Postgres::start(&[]).await;
    let stage = Stage::open_on(&server.url, &services.kafka_brokers).await;
    let load = stage.load();
    stage.backlog(&load, 20_000).await;
    let writers = Writers::start(&stage.database.url, &load);
    let mut relay = stage.settings().set("delivery.in_flight_rows_max", "200").run();

    let ways = [Down::Stopped(Stop::Fast), Down::Stopped(Stop::Immediate), Down::Crashed];
    for way in ways {
        stage.progress(&mut relay).await;
        match way {
            Down::Stopped(how) => server.stop(how).await,
            Down::Crashed => server.crash().await,
        }
        assert!(relay.runs(), "a database that is away ends nobody\n{}", relay.stderr().tail(20));
        server.restart().await;
    }
    stage.progress(&mut relay).await;

    writers.stop().await;
    stage.drained(&mut relay).await;
    stop(relay).await;
    // What was confirmed and not yet marked is remembered through an outage of the database.
    stage.verdict().await.assert_kept(0);
}

/// A server that writes its WAL to disk only when somebody insists, and a row whose writer does not.
#[tokio::test]
async fn what_reached_kafka_survives_a_crash_although_its_writer_did_not_wait_for_the_disk() {
    let Some(services) = Services::find("asynchronous commit") else { return };
    let mut server = Postgres::start(&[("wal_writer_delay", "10s")]).await;
    let stage = Stage::open_on(&server.url, &services.kafka_brokers).await;
    // Marks would flush the WAL: they are kept waiting. So would renewals of the lease: they are rare.
    stage.database.execute(SLOW_MARKS).await;
    let mut relay = stage.settings().text("lease.ttl", "60s").run();
    relay.wait_for(PATIENCE, "the relay has the lease", async || leading(&stage).await).await;

    let committed = commit_asynchronously(&stage).await;
    let arrived = async || !kafka::read_all(&stage.brokers, &stage.topic).await.is_empty();
    relay.wait_for(PATIENCE, "the row is published", arrived).await;
    let latency = committed.elapsed();
    server.crash().await;
    server.restart().await;

    assert_eq!(stage.database.count("outbox.message").await, 1, "on Kafka and not in the database");
    assert!(latency < Duration::from_secs(3), "nobody waits {latency:?} for the WAL writer");
}

const SLOW_MARKS: &str = "
    create function outbox.slow() returns trigger language plpgsql as
        'begin perform pg_sleep(25); return new; end';
    create trigger slow before update on outbox.message for each row execute function outbox.slow()";

async fn leading(stage: &Stage) -> bool {
    stage.database.count("outbox_relay.lease where owner is not null").await == 1
}

async fn commit_asynchronously(stage: &Stage) -> Instant {
    let mut writer = stage.database.connection().await;
    sqlx::raw_sql("set synchronous_commit = off").execute(&mut writer).await.expect("it is a setting");
    let insert = "insert into outbox.message (destination, key, kind) values ($1, 'k', 'k')";
    sqlx::query(insert).bind(&stage.topic).execute(&mut writer).await.expect("the outbox takes rows");
    Instant::now()
}

#[tokio::test]
async fn marks_that_a_trigger_makes_vanish_stop_publishing_within_a_window_until_it_is_dropped() {
    const WINDOW: usize = 100;
    let Some(stage) = Stage::open("vanishing marks").await else { return };
    stage.database.execute(FORGETFUL).await;
    stage.backlog(&stage.load(), 2_000).await;
    let mut relay = stage.settings().set("delivery.in_flight_rows_max", &WINDOW.to_string()).run();
    let log = relay.stderr().clone();
    let said = async || log.contain("does not stay marked") && log.contain("a trigger");
    relay.wait_for(PATIENCE, "the log names it", said).await;

    let published = async || kafka::read_all(&stage.brokers, &stage.topic).await.len();
    let stopped_at = published().await;
    // Time enough to publish the rest.
    wait::pass(Duration::from_secs(2)).await;
    assert!(stopped_at <= WINDOW && published().await == stopped_at, "{stopped_at} published");
    assert_eq!(stage.pending().await, 2_000);

    stage.database.execute("drop trigger forget on outbox.message").await;
    stage.drained(&mut relay).await;
    stop(relay).await;
    stage.verdict().await.assert_kept(0);
}

const FORGETFUL: &str = "
    create function outbox.forget() returns trigger language plpgsql as 'begin return null; end';
    create trigger forget before update on outbox.message for each row execute function outbox.forget()";

#[tokio::test]
async fn row_security_is_refused_with_the_sql_that_mends_it_whenever_it_appears() {
    let Some(services) = Services::find("row security") else { return };
    // Roles belong to a server: this one takes its own along.
    let server = Postgres::start(&[]).await;
    let stage = Stage::open_on(&server.url, &services.kafka_brokers).await;
    stage.database.execute(&format!("create role relay login; {}", stage.grants("relay"))).await;
    let writers = Writers::start(&stage.database.url, &stage.load());
    let mut relay = stage.settings_as("relay").run();
    stage.progress(&mut relay).await;

    for mend in ["alter role relay bypassrls", "alter table outbox.message disable row level security"] {
        stage.database.execute("alter role relay nobypassrls").await;
        stage.database.execute("alter table outbox.message enable row level security").await;
        let port = relay.admin_port;
        let hinted = async || get(port, "/status").await.is_some_and(|(_, page)| page.contains(mend));
        relay.wait_for(PATIENCE, "the status page says what mends it", hinted).await;
        assert_ne!(relay.metrics().await.expect("it answers").get("lag_seconds"), Some(0.0));
        stage.database.execute(mend).await;
        stage.progress(&mut relay).await;
    }
    writers.stop().await;
    stage.drained(&mut relay).await;
    stop(relay).await;
    stage.verdict().await.assert_kept(0);
}

#[tokio::test]
async fn a_table_that_is_altered_while_running_needs_no_restart_and_a_renamed_column_is_named() {
    let Some(stage) = Stage::open("DDL").await else { return };
    let writers = Writers::start(&stage.database.url, &stage.load());
    let mut relay = stage.settings().run();
    stage.progress(&mut relay).await;
    for change in [
        "add column note text default 'none'",
        "alter column key type varchar(200)",
        "drop column note",
        "add constraint with_key check (key <> '')",
    ] {
        stage.database.execute(&format!("alter table outbox.message {change}")).await;
        stage.progress(&mut relay).await;
    }
    for index in
        ["create index on outbox.message (kind)", "create index concurrently on outbox.message (key)"]
    {
        stage.database.execute(index).await;
        stage.progress(&mut relay).await;
    }

    assert!(!relay.stderr().contain("ERROR"), "what harms nobody is no error\n{}", relay.stderr().tail(20));

    stage.database.execute("alter table outbox.message rename headers to header").await;
    let port = relay.admin_port;
    for named in ["no column \\\"headers\\\"", "set outbox.columns.headers", "perhaps \\\"header\\\""] {
        let said = async || get(port, "/status").await.is_some_and(|(_, page)| page.contains(named));
        relay.wait_for(PATIENCE, named, said).await;
    }
    let log = relay.stderr().clone();
    let logged = async || log.contain("has no column");
    relay.wait_for(Duration::from_secs(10), "so does the log, at once", logged).await;
    let (status, _) = relay.get("/readyz").await.expect("the page answers");
    assert_eq!(status, 200, "the application must not go down with its outbox");
    stage.database.execute("alter table outbox.message rename header to headers").await;
    stage.progress(&mut relay).await;

    writers.stop().await;
    stage.drained(&mut relay).await;
    stop(relay).await;
    stage.verdict().await.assert_kept(0);
}

//! How it stops: in good order, with a count of what it does not know, or at once.

use std::time::{Duration, Instant};

use super::stage::{PATIENCE, Stage, stop};
use crate::support::kafka::Kafka;
use crate::support::ledger::Writers;
use crate::support::process::free_port;
use crate::support::relay::{Metrics, Relay, Settings};
use crate::support::services::Services;

/// What "at once" may take: the broker client's threads are given two seconds to end.
const AT_ONCE: Duration = Duration::from_secs(4);

#[tokio::test]
async fn stopped_in_the_middle_of_its_work_it_exits_0_and_nothing_is_repeated() {
    let Some(stage) = Stage::open("SIGTERM").await else { return };
    let load = stage.load();
    stage.backlog(&load, 20_000).await;
    let writers = Writers::start(&stage.database.url, &load);
    for _ in 0..3 {
        let mut relay = stage.settings().run();
        stage.progress(&mut relay).await;
        stop(relay).await;
        assert!(stage.pending().await > 0, "a stop after the work proves nothing");
    }
    writers.stop().await;
    let mut relay = stage.settings().run();
    stage.drained(&mut relay).await;
    stop(relay).await;
    stage.verdict().await.assert_kept(0);
}

#[tokio::test]
async fn stopped_while_kafka_is_away_it_exits_75_and_says_how_many_may_repeat() {
    let Some(services) = Services::find("SIGTERM without Kafka") else { return };
    let mut kafka = Kafka::start().await;
    let stage = Stage::open_on(&services.postgres_url, &kafka.brokers).await;
    let load = stage.load();
    stage.backlog(&load, 20_000).await;
    let writers = Writers::start(&stage.database.url, &load);
    let settings = stage.settings().text("delivery.drain_timeout", "1s");
    let mut relay = settings.run();
    stage.progress(&mut relay).await;
    kafka.kill_9().await;
    relay.wait_until(PATIENCE, "the outage is seen", |metrics| metrics.get("broker_up") == Some(0.0)).await;
    relay.sigterm();
    assert_eq!(relay.wait(PATIENCE).await, 75, "{}", relay.stderr().tail(20));
    let unknown = unknown(&relay);
    assert!(unknown > 0, "orders were on their way when Kafka went");

    kafka.restart().await;
    writers.stop().await;
    let mut relay = settings.run();
    stage.drained(&mut relay).await;
    stop(relay).await;
    stage.verdict().await.assert_kept(unknown);
}

/// The number in the last words.
fn unknown(relay: &Relay) -> u64 {
    let log = relay.stderr().all();
    let last = log.iter().find(|line| line.contains("stopped before every published row was settled"));
    let last = last.unwrap_or_else(|| panic!("it does not say what is unknown:\n{}", log.join("\n")));
    let (_, number) = last.split_once("unknown=").expect("the number is a field");
    let number: String = number.chars().take_while(char::is_ascii_digit).collect();
    number.parse().expect("it is a number")
}

#[tokio::test]
async fn a_second_sigterm_ends_it_at_once() {
    let Some(stage) = Stage::open("second SIGTERM").await else { return };
    let nobody = format!("127.0.0.1:{}", free_port());
    let settings = Settings::kafka(&stage.database.url, &nobody).text("delivery.drain_timeout", "60s");
    stage.backlog(&stage.load(), 100).await;
    let mut relay = settings.run();
    let queued = |metrics: &Metrics| metrics.get("inflight_messages") > Some(0.0);
    relay.wait_until(PATIENCE, "a record waits in the client", queued).await;

    relay.sigterm();
    let draining = relay.stderr().clone();
    relay.wait_for(PATIENCE, "it drains", async || draining.contain("draining")).await;
    let asked = Instant::now();
    relay.sigterm();
    assert_eq!(relay.wait(PATIENCE).await, 75);
    assert!(asked.elapsed() < AT_ONCE, "it took {:?}", asked.elapsed());
}

//! The relay's own death: at any moment, without last words, or asleep past its lease.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::stage::{LEASE_TTL, PATIENCE, Stage, stop};
use crate::support::ledger::{Load, Writers};
use crate::support::wait;

const KILLS: u64 = 6;

/// Small against the backlog, so that a kill nearly always finds it full.
const WINDOW: u64 = 200;

#[tokio::test]
async fn killed_at_random_moments_it_loses_nothing_keeps_order_and_repeats_at_most_a_window_each() {
    let Some(stage) = Stage::open("kill -9").await else { return };
    let load = Load { keys: 500, ..stage.load() };
    stage.backlog(&load, 30_000).await;
    let writers = Writers::start(&stage.database.url, &load);
    let settings = stage.settings().set("delivery.in_flight_rows_max", &WINDOW.to_string());

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
async fn asleep_past_its_lease_it_does_not_disturb_the_relay_that_took_over() {
    let Some(stage) = Stage::open("SIGSTOP").await else { return };
    let load = Load { keys: 500, ..stage.load() };
    stage.backlog(&load, 20_000).await;
    let writers = Writers::start(&stage.database.url, &load);
    let settings = stage.settings().set("delivery.in_flight_rows_max", &WINDOW.to_string());

    let mut sleeper = settings.run();
    stage.progress(&mut sleeper).await;
    let mut successor = settings.run();
    sleeper.signal("STOP");
    let epoch = epoch(&stage).await;
    successor.wait_for(PATIENCE, "the lease changed hands", async || self::epoch(&stage).await > epoch).await;
    stage.progress(&mut successor).await;
    sleeper.signal("CONT");
    wait::pass(LEASE_TTL).await;

    writers.stop().await;
    stage.drained(&mut successor).await;
    // It has understood, and stands by like any other.
    stop(sleeper).await;
    stop(successor).await;
    stage.verdict().await.assert_kept(WINDOW);
}

async fn epoch(stage: &Stage) -> i64 {
    stage.database.one("select epoch from outbox_relay.lease").await
}

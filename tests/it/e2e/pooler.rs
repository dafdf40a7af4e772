//! Behind a transaction pooler, where no session is ours.

use super::stage::{Stage, stop};
use crate::support::ledger::{Load, Writers};
use crate::support::pgbouncer::PgBouncer;

const WINDOW: u64 = 200;

#[tokio::test]
async fn through_a_pooler_and_a_kill_9_it_loses_nothing_and_keeps_order() {
    let Some(stage) = Stage::open("a transaction pooler").await else { return };
    let pooler = PgBouncer::start(&stage.database.url).await;
    let load = Load { keys: 500, ..stage.load() };
    stage.backlog(&load, 20_000).await;
    let writers = Writers::start(&stage.database.url, &load);
    let settings = stage
        .settings()
        .text("database.url", &pooler.url(&stage.database.url))
        .text("database.pooler", "transaction")
        .set("delivery.in_flight_rows_max", &WINDOW.to_string());

    let mut relay = settings.run();
    stage.progress(&mut relay).await;
    relay.kill_9();
    assert!(stage.pending().await > 0, "a kill after the drain proves nothing");
    let mut relay = settings.run();
    stage.progress(&mut relay).await;

    writers.stop().await;
    stage.drained(&mut relay).await;
    stop(relay).await;
    stage.verdict().await.assert_kept(WINDOW);
}

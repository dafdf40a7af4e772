//! With notifications: a row after a quiet time is found at once, and without them all the same.

use std::time::{Duration, Instant};

use super::stage::{PATIENCE, Stage, stop};
use crate::support::pgbouncer::PgBouncer;
use crate::support::relay::{Relay, Settings};
use crate::support::wait;

/// A relay that only looks would look again three seconds after a quiet time of this length: its pauses
/// double, and the last look was after four.
const QUIET: Duration = Duration::from_secs(5);
const AT_ONCE: Duration = Duration::from_millis(1_500);

fn listening(stage: &Stage) -> Settings {
    stage.settings().set("outbox.listen", "true").text("outbox.poll_interval", "60s")
}

/// The trigger that `migrate --print-sql` offers.
async fn create_trigger(stage: &Stage, settings: &Settings) {
    let printed = settings.output(&["migrate", "--print-sql"]);
    let script = String::from_utf8(printed.stdout).expect("SQL is text");
    let (_, sql) = script.split_once("for outbox.listen:").expect("the trigger comes last");
    let (_, sql) = sql.split_once('\n').expect("after a line of comment");
    stage.database.execute(sql).await;
}

async fn order(stage: &Stage) {
    let topic = &stage.topic;
    let sql = format!("insert into outbox.message (destination, key, kind) values ('{topic}', 'k', 'x')");
    stage.database.execute(&sql).await;
}

async fn deliver(stage: &Stage, relay: &mut Relay) -> Duration {
    let ordered = Instant::now();
    order(stage).await;
    stage.drained(relay).await;
    ordered.elapsed()
}

async fn connections(stage: &Stage, which: &str) -> i64 {
    let ours = "application_name = 'outbox-relay/default' and datname = current_database()";
    stage.database.count(&format!("pg_stat_activity where {ours} and {which}")).await
}

const LISTENER: &str = "query ilike 'listen%'";

async fn listens(stage: &Stage, relay: &mut Relay) {
    let listens = async || connections(stage, LISTENER).await == 1;
    relay.wait_for(PATIENCE, "it listens", listens).await;
}

async fn assert_told(stage: &Stage, settings: &Settings) {
    create_trigger(stage, settings).await;
    let mut relay = settings.run();
    listens(stage, &mut relay).await;
    deliver(stage, &mut relay).await;
    for _ in 0..2 {
        wait::pass(QUIET).await;
        let took = deliver(stage, &mut relay).await;
        assert!(took < AT_ONCE, "it took {took:?}");
    }
    stop(relay).await;
}

#[tokio::test]
async fn a_row_after_a_quiet_time_is_relayed_at_once() {
    let Some(stage) = Stage::open("notifications").await else { return };
    assert_told(&stage, &listening(&stage)).await;
}

#[tokio::test]
async fn notifications_come_past_a_pooler() {
    let Some(stage) = Stage::open("notifications past a pooler").await else { return };
    let pooler = PgBouncer::start(&stage.database.url).await;
    let settings = listening(&stage)
        .text("database.url", &pooler.url(&stage.database.url))
        .text("database.pooler", "transaction")
        .text("database.listen_url", &stage.database.url);
    assert_told(&stage, &settings).await;
}

#[tokio::test]
async fn a_listener_that_is_lost_costs_time_and_comes_back() {
    let Some(stage) = Stage::open("a lost listener").await else { return };
    let mut relay = listening(&stage).text("outbox.poll_interval", "250ms").run();
    listens(&stage, &mut relay).await;
    deliver(&stage, &mut relay).await;
    assert_eq!(connections(&stage, "true").await, 4, "a reader, a marker, a keeper and a listener");
    let cut = format!("pg_terminate_backend(pid) from pg_stat_activity where {LISTENER}");
    let _: bool = stage.database.one(&format!("select {cut} and datname = current_database()")).await;

    let log = relay.stderr().clone();
    let said = async |text: &str| log.contain(text);
    relay.wait_for(PATIENCE, "it says so", async || said("notifications lost").await).await;
    deliver(&stage, &mut relay).await;
    relay.wait_for(PATIENCE, "it listens again", async || said("notifications regained").await).await;
    listens(&stage, &mut relay).await;
    stop(relay).await;
}

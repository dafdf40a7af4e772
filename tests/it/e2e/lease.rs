//! Several relays of one pipeline, as every rolling deployment makes them overlap.

use std::time::Duration;

use super::stage::{PATIENCE, Stage, stop};
use crate::support::ledger::{Load, Writers};
use crate::support::postgres::Postgres;
use crate::support::relay::{Relay, Settings};
use crate::support::services::Services;

/// How long consumers may wait at a planned hand-over.
const HAND_OVER: Duration = Duration::from_secs(2);

/// Each relay logs in as a role of its own, so that their connections can be told apart.
struct Deployment {
    stage: Stage,
    _server: Postgres,
    started: u32,
}

impl Deployment {
    async fn open() -> Option<Self> {
        let services = Services::find("rolling deployment")?;
        // Roles belong to a server, not to a database: a private one takes them along.
        let server = Postgres::start(&[]).await;
        let stage = Stage::open_on(&server.url, &services.kafka_brokers).await;
        Some(Self { stage, _server: server, started: 0 })
    }

    async fn next(&mut self) -> (String, Settings) {
        self.started += 1;
        let role = format!("relay_{}", self.started);
        self.stage.database.execute(&format!("create role {role} login superuser")).await;
        let settings = self.stage.settings_as(&role);
        (role, settings)
    }

    async fn connections(&self, role: &str) -> i64 {
        let sessions = format!("pg_stat_activity where usename = '{role}' and datname = current_database()");
        self.stage.database.count(&sessions).await
    }

    async fn epoch(&self) -> i64 {
        self.stage.database.one("select coalesce(max(epoch), 0) from outbox_relay.lease").await
    }
}

#[tokio::test]
async fn a_rolling_deployment_repeats_nothing_and_hands_over_within_two_seconds() {
    let Some(mut deployment) = Deployment::open().await else { return };
    let load = deployment.stage.load();
    let writers = Writers::start(&deployment.stage.database.url, &load);
    let (_, settings) = deployment.next().await;
    let mut active = settings.run();
    deployment.stage.progress(&mut active).await;

    for _ in 0..4 {
        let (role, settings) = deployment.next().await;
        let mut standby = settings.run();
        let connected = async || deployment.connections(&role).await == 1;
        standby.wait_for(PATIENCE, "the next relay stands by", connected).await;
        let epoch = deployment.epoch().await;
        stop(active).await;
        standby.wait_for(HAND_OVER, "it takes over", async || deployment.epoch().await > epoch).await;
        deployment.stage.progress(&mut standby).await;
        active = standby;
    }

    writers.stop().await;
    deployment.stage.drained(&mut active).await;
    stop(active).await;
    deployment.stage.verdict().await.assert_kept(0);
    let gap: f64 = deployment.stage.database.one(LONGEST_GAP).await;
    assert!(gap < HAND_OVER.as_secs_f64(), "nothing was delivered for {gap} s");
}

/// The longest time between two marks, in seconds.
const LONGEST_GAP: &str = "select max(extract(epoch from gap))::float8 from (
    select delivered_at - lag(delivered_at) over (order by delivered_at) as gap from outbox.message) gaps";

#[tokio::test]
async fn a_standby_holds_one_connection_and_an_active_relay_at_most_three() {
    let Some(mut deployment) = Deployment::open().await else { return };
    let load = Load { tasks: 2, ..deployment.stage.load() };
    let writers = Writers::start(&deployment.stage.database.url, &load);
    let (active_role, settings) = deployment.next().await;
    // Measured and renewed all the time, so that calls overlap in every way.
    let mut active = settings.text("metrics.backlog_interval", "100ms").run();
    deployment.stage.progress(&mut active).await;
    let (standby_role, settings) = deployment.next().await;
    let mut standby = settings.run();
    let connected = async || deployment.connections(&standby_role).await == 1;
    standby.wait_for(PATIENCE, "the standby is connected", connected).await;

    // A migration holds the table: every call on it waits, while the lease is renewed beside them.
    let (mut held, mut most) = (deployment.stage.database.connection().await, (0, 0));
    for _ in 0..2 {
        sqlx::raw_sql("begin; lock table outbox.message").execute(&mut held).await.expect("the lock is free");
        most = most_connections(&deployment, &active_role, &standby_role, most).await;
        sqlx::raw_sql("rollback").execute(&mut held).await.expect("it can be given up");
        deployment.stage.progress(&mut active).await;
    }
    assert_eq!(most, (3, 1), "connections of the active relay and of the standby");
    writers.stop().await;
    stop_both(active, standby).await;
}

/// The most connections each of them had within a few renewals of the lease.
async fn most_connections(
    deployment: &Deployment,
    active: &str,
    standby: &str,
    so_far: (i64, i64),
) -> (i64, i64) {
    let (mut most, started) = (so_far, std::time::Instant::now());
    while started.elapsed() < Duration::from_secs(3) {
        most.0 = most.0.max(deployment.connections(active).await);
        most.1 = most.1.max(deployment.connections(standby).await);
    }
    most
}

async fn stop_both(active: Relay, standby: Relay) {
    // The standby first, so that it does not take over.
    stop(standby).await;
    stop(active).await;
}

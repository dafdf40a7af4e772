//! The sequence race: ids are taken in one order and become visible in another.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use sqlx::postgres::PgConnection;

use super::stage::{Stage, stop};
use crate::support::ledger::{INSERT, payload, place};
use crate::support::wait;

const ROUNDS: usize = 200;
const KEYS: usize = 7;

/// In every round ids are taken early and committed late, while an id above them is read; then the late
/// ones and their successors appear almost at once. Whoever pages from the highest id loses the late
/// ones; whoever looks back for them may have published their successors.
#[tokio::test]
async fn an_id_that_becomes_visible_late_is_neither_lost_nor_overtaken_by_its_successor() {
    let Some(stage) = Stage::open("sequence race").await else { return };
    let mut relay = stage.settings().run();
    let mut race = Race::open(&stage).await;
    for round in 0..ROUNDS {
        race.round(round).await;
    }
    stage.drained(&mut relay).await;
    stop(relay).await;
    stage.verdict().await.assert_kept(0);
}

/// Three writers whose transactions interleave.
struct Race<'s> {
    stage: &'s Stage,
    rng: SmallRng,
    late: [PgConnection; 2],
    quick: PgConnection,
}

impl<'s> Race<'s> {
    async fn open(stage: &'s Stage) -> Self {
        let (first, second) = (stage.database.connection().await, stage.database.connection().await);
        let quick = stage.database.connection().await;
        Self { stage, rng: SmallRng::seed_from_u64(5), late: [first, second], quick }
    }

    async fn round(&mut self, round: usize) {
        let key = |n: usize| format!("k{}", (round + n) % KEYS);
        for late in 0..2 {
            execute(&mut self.late[late], "begin").await;
            order(self.stage, &mut self.rng, &mut self.late[late], &key(late)).await;
        }
        order(self.stage, &mut self.rng, &mut self.quick, &key(2)).await;
        self.pause().await;
        // The second comes first, and its successor right behind it.
        for late in [1, 0] {
            execute(&mut self.late[late], "commit").await;
            order(self.stage, &mut self.rng, &mut self.quick, &key(late)).await;
            self.pause().await;
        }
    }

    /// From nothing to several reads of the relay.
    async fn pause(&mut self) {
        wait::pass(Duration::from_micros(self.rng.random_range(0..15_000))).await;
    }
}

async fn order(stage: &Stage, rng: &mut SmallRng, connection: &mut PgConnection, key: &str) {
    let payload = payload(rng, key, 0);
    place(connection, INSERT, &stage.topic, key, &payload).await.expect("the order can be placed");
}

async fn execute(connection: &mut PgConnection, sql: &'static str) {
    sqlx::raw_sql(sql).execute(connection).await.expect("transactions begin and end");
}

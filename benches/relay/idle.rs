//! What a relay costs that has nothing to do.

use std::time::Duration;

use anyhow::Result;

use crate::Bench;
use crate::drain::{KEYS, PAYLOAD_BYTES};
use crate::kafka::Topic;
use crate::outbox::{Outbox, Rows};
use crate::relay::Relay;
use crate::report::{self, show_mb};

/// Until pauses have grown to their longest and the server has counted what came before.
const SETTLE: Duration = Duration::from_secs(4);
const WATCH: Duration = Duration::from_secs(20);
const TIMEOUT: Duration = Duration::from_secs(30);

pub(crate) async fn measure(bench: &Bench) -> Result<()> {
    let topic = Topic::create(bench, "idle").await?;
    let row = Outbox::with(bench, async |outbox: &mut Outbox| {
        let one = Rows { topic: &topic.name, count: 1, keys: KEYS, payload_bytes: PAYLOAD_BYTES };
        outbox.fill(&one).await?;
        let mut relay = Relay::start(bench, outbox, &[])?;
        relay.until("marked_total", 1.0, TIMEOUT).await?;
        tokio::time::sleep(SETTLE).await;
        let (before, transactions) = (relay.usage()?, transactions(outbox).await?);
        tokio::time::sleep(WATCH).await;
        let after = relay.usage()?;
        let queries = (self::transactions(outbox).await? - transactions) as f64 / WATCH.as_secs_f64();
        let share = (after.cpu - before.cpu).as_secs_f64() / WATCH.as_secs_f64();
        relay.stop().await?;
        Ok(vec![
            format!("{:.2} % of a core", share * 100.0),
            format!("{queries:.1}/s"),
            show_mb(after.resident),
        ])
    })
    .await?;
    topic.delete().await?;
    let reach = vec!["≤ 0.5 %".to_owned(), "≤ 10/s".to_owned(), String::new()];
    report::table("Idle", &["CPU", "transactions", "memory"], &[row, reach]);
    Ok(())
}

/// Transactions of the outbox's database; outside of a pooler each query of the relay is one.
async fn transactions(outbox: &mut Outbox) -> Result<i64> {
    let sql = "select xact_commit + xact_rollback from pg_stat_database where datname = $1";
    Ok(sqlx::query_scalar(sql).bind(&outbox.name).fetch_one(&mut outbox.admin).await?)
}

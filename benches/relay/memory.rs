//! Resident memory while a backlog drains, for rows of three sizes: bounded by the windows, and flat.

use std::time::Duration;

use anyhow::Result;

use crate::Bench;
use crate::drain::KEYS;
use crate::kafka::Topic;
use crate::outbox::{Outbox, Rows};
use crate::relay::Relay;
use crate::report::{self, show_mb};

/// Size and number of the rows: enough to fill the windows many times.
const SHAPES: [(&str, usize, u64); 3] =
    [("0.5 kB", 500, 300_000), ("50 kB", 50_000, 6_000), ("1 MB", 1_000_000, 400)];

/// 25 MB and twice the two default windows of 16 MiB.
const REACH_BYTES: u64 = 25_000_000 + 2 * 2 * (16 << 20);

const TIMEOUT: Duration = Duration::from_secs(300);

pub(crate) async fn measure(bench: &Bench) -> Result<()> {
    let mut rows = Vec::new();
    for (name, payload_bytes, count) in SHAPES {
        rows.push(drain(bench, name, payload_bytes, count).await?);
    }
    let head = ["row", "rows", "after a third", "after two thirds", "at the end", "peak", "reach"];
    report::table("Memory while draining", &head, &rows);
    Ok(())
}

async fn drain(bench: &Bench, name: &str, payload_bytes: usize, count: u64) -> Result<Vec<String>> {
    let topic = Topic::create(bench, "memory").await?;
    let row = Outbox::with(bench, async |outbox: &mut Outbox| {
        outbox.fill(&Rows { topic: &topic.name, count, keys: KEYS, payload_bytes }).await?;
        let mut relay = Relay::start(bench, outbox, &[])?;
        let mut row = vec![name.to_owned(), count.to_string()];
        for third in 1..=3 {
            relay.until("marked_total", (count * third / 3) as f64, TIMEOUT).await?;
            row.push(show_mb(relay.usage()?.resident));
        }
        row.push(show_mb(relay.usage()?.peak));
        row.push(format!("≤ {}", show_mb(REACH_BYTES)));
        relay.stop().await?;
        Ok(row)
    })
    .await?;
    topic.delete().await?;
    Ok(row)
}

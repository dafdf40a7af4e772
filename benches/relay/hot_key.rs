//! One key: its rows go one after the other, so the broker's round trip is the limit.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::Bench;
use crate::drain::PAYLOAD_BYTES;
use crate::kafka::Topic;
use crate::outbox::{Outbox, Rows};
use crate::plain;
use crate::relay::Relay;
use crate::report::{self, median, rate, show_ms, show_rate};

const ROWS: u64 = 5_000;
const ROUND_TRIPS: u32 = 5_000;
const TIMEOUT: Duration = Duration::from_secs(120);

pub(crate) async fn measure(bench: &Bench) -> Result<()> {
    let (mut trips, mut rates) = (Vec::new(), Vec::new());
    for _ in 0..bench.pairs {
        let topic = Topic::create(bench, "trip").await?;
        trips.push(plain::round_trip(bench, &topic, 0, ROUND_TRIPS)?);
        topic.delete().await?;
        rates.push(drain(bench).await?);
    }
    let trip = median(&trips);
    let limit = 1.0 / trip.as_secs_f64();
    let ours = median(&rates);
    let row = |who: &str, rate: f64, time: Duration, ratio: String| {
        vec![who.to_owned(), show_rate(rate), show_ms(time), ratio]
    };
    let rows = [
        row("produce, confirmed one by one", limit, trip, String::new()),
        row("relay, one key", ours, Duration::from_secs_f64(1.0 / ours), format!("{:.2}", ours / limit)),
    ];
    report::table("One hot key", &["who", "rate", "a record", "ratio"], &rows);
    Ok(())
}

async fn drain(bench: &Bench) -> Result<f64> {
    let topic = Topic::create(bench, "hot").await?;
    let drained = Outbox::with(bench, async |outbox: &mut Outbox| {
        let rows = Rows { topic: &topic.name, count: ROWS, keys: 1, payload_bytes: PAYLOAD_BYTES };
        outbox.fill(&rows).await?;
        let mut relay = Relay::start(bench, outbox, &[])?;
        relay.until("marked_total", 1.0, TIMEOUT).await?;
        let (first, marked) = (Instant::now(), relay.metric("marked_total").await);
        relay.until("marked_total", ROWS as f64, TIMEOUT).await?;
        let drained = rate(ROWS as f64 - marked, first.elapsed());
        relay.stop().await?;
        Ok(drained)
    })
    .await?;
    topic.delete().await?;
    Ok(drained)
}

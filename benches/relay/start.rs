//! From the start of the process until a consumer has its first record.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::Bench;
use crate::drain::{KEYS, PAYLOAD_BYTES};
use crate::kafka::{Arrivals, Topic};
use crate::outbox::{Outbox, Rows};
use crate::relay::Relay;
use crate::report::{self, median, show_ms};

const CLEAN_STOPS: usize = 7;
/// Each costs a lease's time to live.
const CRASHES: usize = 3;
const BACKLOG: u64 = 1_000;
const TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy)]
enum End {
    Clean,
    Crash,
}

pub(crate) async fn measure(bench: &Bench) -> Result<()> {
    let topic = Topic::create(bench, "start").await?;
    let (clean, crash) = Outbox::with(bench, async |outbox: &mut Outbox| {
        let mut arrivals = Arrivals::of(bench, &topic)?;
        let mut clean = Vec::new();
        // The very first start has no predecessor that could have stopped cleanly, and is not counted.
        for _ in 0..=CLEAN_STOPS {
            clean.push(first_record(bench, outbox, &topic, &mut arrivals, End::Clean).await?);
        }
        clean.remove(0);
        let mut crash = Vec::new();
        for _ in 0..=CRASHES {
            crash.push(first_record(bench, outbox, &topic, &mut arrivals, End::Crash).await?);
        }
        crash.remove(0);
        Ok((clean, crash))
    })
    .await?;
    topic.delete().await?;
    let rows = [line("a clean stop", &clean, "≤ 0.3 s"), line("a crash", &crash, "≤ the lease's 10 s")];
    report::table("Start → first record consumed", &["after", "starts", "median", "max", "reach"], &rows);
    Ok(())
}

fn line(after: &str, times: &[Duration], reach: &str) -> Vec<String> {
    let longest = report::percentile(times, 1.0);
    vec![
        after.to_owned(),
        times.len().to_string(),
        show_ms(median(times)),
        show_ms(longest),
        reach.to_owned(),
    ]
}

/// Starts a relay on a backlog, and ends it once all of it is delivered.
async fn first_record(
    bench: &Bench,
    outbox: &mut Outbox,
    topic: &Topic,
    arrivals: &mut Arrivals,
    end: End,
) -> Result<Duration> {
    let rows = Rows { topic: &topic.name, count: BACKLOG, keys: KEYS, payload_bytes: PAYLOAD_BYTES };
    outbox.insert(&rows).await?;
    arrivals.clear();
    let mut relay = Relay::start(bench, outbox, &[])?;
    let first = arrivals.next(TIMEOUT).await?;
    for _ in 1..BACKLOG {
        arrivals.next(TIMEOUT).await?;
    }
    relay.until("marked_total", BACKLOG as f64, TIMEOUT).await?;
    ensure!(first.at >= relay.started, "a record from before the start");
    let time = first.at - relay.started;
    match end {
        End::Clean => relay.stop().await?,
        End::Crash => relay.kill().await?,
    }
    Ok(time)
}

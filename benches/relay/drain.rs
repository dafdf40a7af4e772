//! How many rows a second leave a full outbox, beside the bare loop, run in turn.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::Bench;
use crate::bare::{Bare, Job, Mark};
use crate::kafka::Topic;
use crate::outbox::{Outbox, Rows};
use crate::process::Usage;
use crate::relay::Relay;
use crate::report::{self, median, rate, show_mb, show_rate};

pub(crate) const PAYLOAD_BYTES: usize = 500;
pub(crate) const KEYS: u64 = 1_000;

const TIMEOUT: Duration = Duration::from_secs(300);

/// One drain of a full outbox.
#[derive(Debug, Clone, Copy)]
struct Drain {
    /// Rows a second, from the first delivery until all are marked.
    rate: f64,
    /// Rows a second, from the start of the process.
    rate_from_start: f64,
    usage: Usage,
}

/// One who can drain, and how often it should reach what it is compared with.
struct Comparison {
    mark: Mark,
    reach: f64,
}

const COMPARISONS: [Comparison; 2] =
    [Comparison { mark: Mark::Update, reach: 0.8 }, Comparison { mark: Mark::Delete, reach: 0.7 }];

pub(crate) async fn measure(bench: &Bench) -> Result<()> {
    let mut rows = Vec::new();
    for comparison in COMPARISONS {
        let (mut bare, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..bench.pairs {
            bare.push(drain(bench, comparison.mark, Who::Bare).await?);
            ours.push(drain(bench, comparison.mark, Who::Relay).await?);
        }
        rows.extend(compared(bench, &comparison, &bare, &ours));
    }
    let mut unmarked = Vec::new();
    for _ in 0..bench.pairs {
        unmarked.push(drain(bench, Mark::None, Who::Bare).await?);
    }
    rows.push(row(bench, "bare loop, no mark", &unmarked, String::new()));
    let title = format!("Drain: {} rows of 0.5 kB, {KEYS} keys, Kafka with 3 partitions", bench.rows);
    let head = ["who", "median", "each run", "from process start", "ratio", "CPU a row", "peak memory"];
    report::table(&title, &head, &rows);
    Ok(())
}

fn compared(bench: &Bench, comparison: &Comparison, bare: &[Drain], ours: &[Drain]) -> [Vec<String>; 2] {
    let mark = comparison.mark.as_str();
    // Of neighbours in time, which the machine's other work slowed alike.
    let ratios: Vec<f64> = ours.iter().zip(bare).map(|(ours, bare)| ours.rate / bare.rate).collect();
    let ratio = format!("{:.2} (reach {})", median(&ratios), comparison.reach);
    [
        row(bench, &format!("bare loop, {mark}"), bare, String::new()),
        row(bench, &format!("relay, {mark}"), ours, ratio),
    ]
}

fn row(bench: &Bench, who: &str, drains: &[Drain], ratio: String) -> Vec<String> {
    let rates: Vec<f64> = drains.iter().map(|drain| drain.rate).collect();
    let from_start: Vec<f64> = drains.iter().map(|drain| drain.rate_from_start).collect();
    let cpu: Vec<Duration> = drains.iter().map(|drain| drain.usage.cpu).collect();
    let each: Vec<String> = rates.iter().map(|rate| format!("{:.1}", rate / 1000.0)).collect();
    let cpu_micros = median(&cpu).as_secs_f64() * 1e6 / bench.rows as f64;
    vec![
        who.to_owned(),
        show_rate(median(&rates)),
        each.join(" "),
        show_rate(median(&from_start)),
        ratio,
        format!("{cpu_micros:.1} µs"),
        show_mb(drains.iter().map(|drain| drain.usage.peak).max().unwrap_or(0)),
    ]
}

#[derive(Debug, Clone, Copy)]
enum Who {
    Bare,
    Relay,
}

async fn drain(bench: &Bench, mark: Mark, who: Who) -> Result<Drain> {
    let topic = Topic::create(bench, "drain").await?;
    let drained = Outbox::with(bench, async |outbox: &mut Outbox| {
        let rows = Rows { topic: &topic.name, count: bench.rows, keys: KEYS, payload_bytes: PAYLOAD_BYTES };
        outbox.fill(&rows).await?;
        let drained = match who {
            Who::Bare => drain_bare(bench, outbox, &topic, mark).await?,
            Who::Relay => drain_relay(bench, outbox, mark).await?,
        };
        let pending = outbox.pending().await?;
        ensure!(pending == 0 || mark == Mark::None, "{pending} rows are still pending");
        Ok(drained)
    })
    .await?;
    let records = topic.records()?;
    ensure!(records == i64::try_from(bench.rows)?, "the topic holds {records} records");
    topic.delete().await?;
    Ok(drained)
}

async fn drain_bare(bench: &Bench, outbox: &Outbox, topic: &Topic, mark: Mark) -> Result<Drain> {
    let mut bare = Bare::start(&Job {
        database: outbox.url.clone(),
        brokers: bench.brokers.clone(),
        topic: topic.name.clone(),
        mark,
        rows: usize::try_from(bench.rows)?,
    })?;
    let first = bare.first_delivery().await?;
    let done = bare.all_marked().await?;
    let drain = Drain {
        rate: rate(bench.rows as f64, done - first),
        rate_from_start: rate(bench.rows as f64, done - bare.started),
        usage: bare.usage()?,
    };
    bare.stop().await?;
    Ok(drain)
}

async fn drain_relay(bench: &Bench, outbox: &Outbox, mark: Mark) -> Result<Drain> {
    let setting = format!("outbox.mark = \"{}\"", mark.as_str());
    let mut relay = Relay::start(bench, outbox, &[&setting])?;
    relay.until("published_total", 1.0, TIMEOUT).await?;
    let (first, marked) = (Instant::now(), relay.metric("marked_total").await);
    relay.until("marked_total", bench.rows as f64, TIMEOUT).await?;
    let done = Instant::now();
    let drain = Drain {
        // What was marked before the first look is not counted.
        rate: rate(bench.rows as f64 - marked, done - first),
        rate_from_start: rate(bench.rows as f64, done - relay.started),
        usage: relay.usage()?,
    };
    relay.stop().await?;
    Ok(drain)
}

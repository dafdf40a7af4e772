//! From the moment a commit returns until a consumer has the record.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::task::JoinSet;

use crate::Bench;
use crate::drain::{KEYS, PAYLOAD_BYTES};
use crate::kafka::{Arrivals, Topic};
use crate::outbox::{self, Outbox};
use crate::plain::OneByOne;
use crate::relay::Relay;
use crate::report::{self, percentile, show_ms};

/// The steady load: rows a second and for how long.
const RATE: u32 = 200;
const STEADY: Duration = Duration::from_secs(20);
/// Connections that write in turn, so that a slow commit does not hold up the next.
const WRITERS: u32 = 4;

/// The sparse load: far enough apart for the relay to be fully idle again, at no fixed distance, so
/// that rows meet its poll anywhere.
const SPARSE_ROWS: u32 = 30;
const SPARSE_PAUSE: Duration = Duration::from_millis(2_500);
const SPARSE_SPREAD: Duration = Duration::from_millis(500);

const TIMEOUT: Duration = Duration::from_secs(30);

pub(crate) async fn measure(bench: &Bench) -> Result<()> {
    let rows = vec![
        line(&format!("produced → consumed, {RATE}/s, no database"), "", &produced(bench).await?),
        line(&format!("relay, {RATE} rows/s"), "p50 ≤ 10 ms, p99 ≤ 50 ms", &steady(bench).await?),
        line("relay, a row every 3 s", "p50 ≤ 130 ms", &sparse(bench, &[]).await?),
        line(
            "relay, a row every 3 s, notified",
            "p50 ≤ 10 ms",
            &sparse(bench, &["outbox.listen = true"]).await?,
        ),
    ];
    report::table("Latency: commit → consumed", &["load", "rows", "p50", "p99", "max", "reach"], &rows);
    Ok(())
}

fn line(load: &str, reach: &str, latencies: &[Duration]) -> Vec<String> {
    let at = |share| show_ms(percentile(latencies, share));
    vec![load.to_owned(), latencies.len().to_string(), at(0.5), at(0.99), at(1.0), reach.to_owned()]
}

/// When each numbered row was committed, or each record produced.
type Moments = HashMap<u64, Instant>;

/// The least there can be: a record at the producer until the consumer has it.
async fn produced(bench: &Bench) -> Result<Vec<Duration>> {
    let topic = Topic::create(bench, "produced").await?;
    let mut arrivals = Arrivals::of(bench, &topic)?;
    let producer = OneByOne::new(bench, 0)?;
    let fill = outbox::fill(PAYLOAD_BYTES);
    // Connections and metadata are not what is measured.
    producer.produce(&topic.name, "first", &payload(0, &fill))?;
    arrivals.next(TIMEOUT).await?;
    let mut moments = Moments::new();
    let started = Instant::now();
    for n in 1..=total() {
        tokio::time::sleep_until((started + due(n)).into()).await;
        moments.insert(n, Instant::now());
        producer.queue(&topic.name, &format!("key-{}", n % KEYS), &payload(n, &fill))?;
    }
    let latencies = matched(arrivals, &moments).await?;
    topic.delete().await?;
    Ok(latencies)
}

async fn steady(bench: &Bench) -> Result<Vec<Duration>> {
    with_relay(bench, &[], async |outbox: &Outbox, topic: &Topic| {
        let mut writers = JoinSet::new();
        let started = Instant::now();
        for writer in 0..u64::from(WRITERS) {
            let (url, topic) = (outbox.url.clone(), topic.name.clone());
            let mine = (1..=total()).filter(move |n| n % u64::from(WRITERS) == writer);
            let schedule: Vec<(u64, Instant)> = mine.map(|n| (n, started + due(n))).collect();
            writers.spawn(async move { write(&url, &topic, &schedule).await });
        }
        let mut moments = Moments::new();
        while let Some(written) = writers.join_next().await {
            moments.extend(written??);
        }
        Ok(moments)
    })
    .await
}

/// The trigger is there with and without anybody who listens to it.
const NOTIFY: &str = "
    create function outbox.notify() returns trigger language plpgsql as $$
        begin notify outbox_relay; return null; end $$;
    create trigger notify after insert on outbox.message for each statement execute function outbox.notify()";

async fn sparse(bench: &Bench, settings: &[&str]) -> Result<Vec<Duration>> {
    with_relay(bench, settings, async |outbox: &Outbox, topic: &Topic| {
        sqlx::raw_sql(NOTIFY).execute(&mut outbox::connect(&outbox.url).await?).await?;
        let mut random = SmallRng::seed_from_u64(7);
        let mut at = Instant::now();
        let schedule: Vec<(u64, Instant)> = (1..=u64::from(SPARSE_ROWS))
            .map(|n| {
                at += SPARSE_PAUSE + 2 * SPARSE_SPREAD.mul_f64(random.random());
                (n, at)
            })
            .collect();
        write(&outbox.url, &topic.name, &schedule).await
    })
    .await
}

/// Runs a relay while `load` writes rows, and returns how long each was on its way.
async fn with_relay(
    bench: &Bench,
    settings: &[&str],
    load: impl AsyncFnOnce(&Outbox, &Topic) -> Result<Moments>,
) -> Result<Vec<Duration>> {
    let topic = Topic::create(bench, "latency").await?;
    let latencies = Outbox::with(bench, async |outbox: &mut Outbox| {
        let mut arrivals = Arrivals::of(bench, &topic)?;
        let mut relay = Relay::start(bench, outbox, settings)?;
        // One row to make sure that every part is awake.
        write(&outbox.url, &topic.name, &[(0, Instant::now())]).await?;
        relay.until("marked_total", 1.0, TIMEOUT).await?;
        arrivals.next(TIMEOUT).await?;
        let moments = load(outbox, &topic).await?;
        let latencies = matched(arrivals, &moments).await?;
        relay.stop().await?;
        Ok(latencies)
    })
    .await?;
    topic.delete().await?;
    Ok(latencies)
}

/// Rows of the steady load.
fn total() -> u64 {
    u64::from(RATE) * STEADY.as_secs()
}

/// When row `n` of the steady load is due.
fn due(n: u64) -> Duration {
    Duration::from_secs(n) / RATE
}

fn payload(n: u64, fill: &str) -> String {
    format!(r#"{{"n":{n},"fill":"{fill}"}}"#)
}

/// Commits each row when it is due and notes when the commit returned.
async fn write(url: &str, topic: &str, schedule: &[(u64, Instant)]) -> Result<Moments> {
    let mut connection = outbox::connect(url).await?;
    let fill = outbox::fill(PAYLOAD_BYTES);
    let mut moments = Moments::new();
    for &(n, at) in schedule {
        tokio::time::sleep_until(at.into()).await;
        // A statement by itself is a transaction, and its answer comes once it is committed.
        sqlx::query(
            "insert into outbox.message (destination, key, kind, payload) values ($1, $2, 'OrderPlaced', $3::json)",
        )
        .bind(topic)
        .bind(format!("key-{}", n % KEYS))
        .bind(payload(n, &fill))
        .execute(&mut connection)
        .await?;
        moments.insert(n, Instant::now());
    }
    Ok(moments)
}

async fn matched(mut arrivals: Arrivals, moments: &Moments) -> Result<Vec<Duration>> {
    let mut latencies = Vec::with_capacity(moments.len());
    while latencies.len() < moments.len() {
        let arrival = arrivals.next(TIMEOUT).await?;
        let committed = moments.get(&arrival.n).context("a record nobody wrote")?;
        // The consumer may be faster than the answer to the commit.
        latencies.push(arrival.at.saturating_duration_since(*committed));
    }
    Ok(latencies)
}

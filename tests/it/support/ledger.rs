//! The application of the proofs, and its auditor. Writers commit and roll back orders, each with an
//! outbox row in the same transaction, and the database keeps a ledger of what it committed; [`audit`]
//! holds what the broker has against it: nothing lost, no phantom, order within a key, how many repeats.
//!
//! The ledger is a table of the same database, so it shares the outbox's fate in every crash: whatever
//! the surviving database holds is what should have arrived, and nothing else.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use sqlx::postgres::{PgConnection, PgPool};
use sqlx::{Connection, Executor};
use tokio::task::JoinSet;

use super::kafka::Received;
use super::wait;

const TABLES: &str = "
    create schema if not exists ledger;
    create table ledger.key (key text primary key, orders bigint not null default 0);
    create table ledger.entry (
        position bigint primary key,     -- the outbox row's id
        key text not null,
        number bigint not null,          -- counts a key's committed orders
        payload text not null unique,
        unique (key, number))";

/// Inserts into the table that `migrate` creates.
pub const INSERT: &str = "insert into outbox.message (destination, key, kind, payload)
    values ($1, $2, 'OrderPlaced', $3::json) returning id";

/// What the writers do.
#[derive(Debug, Clone)]
pub struct Load {
    pub destination: String,
    /// Writers at work at the same time.
    pub tasks: u64,
    /// Keys they share.
    pub keys: u64,
    /// Transactions per writer, committed or not; `u64::MAX` until they are stopped.
    pub transactions: u64,
    /// Orders a transaction holds at most.
    pub orders_max: u64,
    /// One transaction in so many is rolled back at its end; 0 for none.
    pub rollback_one_in: u64,
    /// How long a transaction stays open at most after its last insert: ids become visible out of order.
    pub open_max: Duration,
    /// Bytes added to each payload.
    pub padding: usize,
    pub seed: u64,
    /// `$1` destination, `$2` key, `$3` payload; returns the position.
    pub insert: &'static str,
}

impl Load {
    /// Four writers on twenty keys; small transactions, one in five rolled back, ids interleaved.
    pub fn to(destination: &str) -> Self {
        Self {
            destination: destination.to_owned(),
            tasks: 4,
            keys: 20,
            transactions: 100,
            orders_max: 4,
            rollback_one_in: 5,
            open_max: Duration::from_millis(5),
            padding: 0,
            seed: 1,
            insert: INSERT,
        }
    }
}

/// Creates the ledger's tables.
pub async fn create(pool: &PgPool) {
    pool.execute(TABLES).await.expect("the ledger's tables can be created");
}

/// Many orders in one transaction, which locks its keys in the writers' order and before it numbers rows.
const BACKLOG: &str = "
    with locked as (
        insert into ledger.key as known (key, orders)
        select 'k' || n % $3, count(*) from generate_series(0, $2 - 1) n group by n % $3 order by n % $3
        on conflict (key) do update set orders = known.orders + excluded.orders
        returning key, orders
    ), message as (
        insert into outbox.message (destination, key, kind, payload)
        select $1, key, 'OrderPlaced', json_build_object('order', gen_random_uuid(), 'padding', repeat('x', $4))
        from generate_series(0, $2 - 1) n join locked on key = 'k' || n % $3
        returning id, key, payload::text
    ), counted as (
        select *, row_number() over (partition by key order by id desc) - 1 as newer from message
    )
    insert into ledger.entry (position, key, number, payload)
    select id, key, orders - newer, payload from counted join locked using (key)";

/// Commits `rows` orders at once, spread over as many keys as the load has. Writers may be at work.
pub async fn backlog(pool: &PgPool, load: &Load, rows: i64) {
    let keys = i64::try_from(load.keys).expect("fewer keys than 2^63");
    let padding = i32::try_from(load.padding).expect("a payload that memory can hold");
    let insert = sqlx::query(BACKLOG).bind(&load.destination).bind(rows).bind(keys).bind(padding);
    insert.execute(pool).await.expect("ledger::create came before");
}

/// Writers at work.
#[derive(Debug)]
pub struct Writers {
    tasks: JoinSet<()>,
    stop: Arc<AtomicBool>,
    committed: Arc<AtomicU64>,
}

impl Writers {
    /// Starts the load. Writers outlive a restart of the database: a transaction whose end they do not
    /// know is neither repeated nor counted; whether it was committed stands in the ledger.
    pub fn start(database_url: &str, load: &Load) -> Self {
        let (stop, committed) = (Arc::default(), Arc::default());
        let mut tasks = JoinSet::new();
        for number in 0..load.tasks {
            tasks.spawn(write(Writer {
                url: database_url.to_owned(),
                rng: SmallRng::seed_from_u64(load.seed.wrapping_mul(1_000_003).wrapping_add(number)),
                load: load.clone(),
                stop: Arc::clone(&stop),
                committed: Arc::clone(&committed),
            }));
        }
        Self { tasks, stop, committed }
    }

    /// Orders known to be committed so far.
    pub fn committed(&self) -> u64 {
        self.committed.load(Ordering::Relaxed)
    }

    /// Waits until every writer has made its transactions.
    pub async fn finish(mut self) {
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("a writer does not panic");
        }
    }

    /// Ends the load after the transactions under way.
    pub async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.finish().await;
    }
}

struct Writer {
    url: String,
    rng: SmallRng,
    load: Load,
    stop: Arc<AtomicBool>,
    committed: Arc<AtomicU64>,
}

async fn write(mut writer: Writer) {
    let mut connection = None;
    for _ in 0..writer.load.transactions {
        if writer.stop.load(Ordering::Relaxed) {
            return;
        }
        let Some(open) = connected(&mut connection, &writer).await else { return };
        match writer.transaction(open).await {
            Ok(orders) => _ = writer.committed.fetch_add(orders, Ordering::Relaxed),
            // The database went away in between: its recovery decides what was committed.
            Err(sqlx::Error::Io(_) | sqlx::Error::Protocol(_)) => connection = None,
            Err(sqlx::Error::Database(error)) if broken_off(error.code().as_deref()) => connection = None,
            Err(error) => panic!("a writer could not write: {error}"),
        }
    }
}

/// Admin shutdown, crash shutdown, cannot connect now.
fn broken_off(code: Option<&str>) -> bool {
    matches!(code, Some("57P01" | "57P02" | "57P03"))
}

/// The open connection, or a new one as soon as the database gives one; `None` once stopped.
async fn connected<'c>(
    connection: &'c mut Option<PgConnection>,
    writer: &Writer,
) -> Option<&'c mut PgConnection> {
    while connection.is_none() {
        if writer.stop.load(Ordering::Relaxed) {
            return None;
        }
        match PgConnection::connect(&writer.url).await {
            Ok(open) => *connection = Some(open),
            Err(_) => wait::pass(Duration::from_millis(50)).await,
        }
    }
    connection.as_mut()
}

impl Writer {
    /// One transaction; how many orders it committed.
    async fn transaction(&mut self, connection: &mut PgConnection) -> sqlx::Result<u64> {
        let keys = self.keys();
        let mut transaction = connection.begin().await?;
        for key in &keys {
            let payload = payload(&mut self.rng, key, self.load.padding);
            place(&mut transaction, self.load.insert, &self.load.destination, key, &payload).await?;
        }
        let open = self.load.open_max.mul_f64(self.rng.random::<f64>());
        if !open.is_zero() {
            wait::pass(open).await;
        }
        if self.one_in(self.load.rollback_one_in) {
            transaction.rollback().await?;
            return Ok(0);
        }
        transaction.commit().await?;
        Ok(keys.len() as u64)
    }

    /// The keys of a transaction's orders, a key perhaps more than once. Sorted, so that two
    /// transactions never wait for each other.
    fn keys(&mut self) -> Vec<String> {
        let orders = self.rng.random_range(1..=self.load.orders_max);
        let mut keys: Vec<u64> = (0..orders).map(|_| self.rng.random_range(0..self.load.keys)).collect();
        keys.sort_unstable();
        keys.into_iter().map(|key| format!("k{key}")).collect()
    }

    fn one_in(&mut self, count: u64) -> bool {
        count > 0 && self.rng.random_ratio(1, u32::try_from(count).expect("a small count"))
    }
}

/// Places an order within the caller's transaction; returns its position.
///
/// Locks the key first, as an application locks its aggregate: only so do a key's ids grow in the order
/// in which they are committed.
pub async fn place(
    connection: &mut PgConnection,
    insert: &'static str,
    destination: &str,
    key: &str,
    payload: &str,
) -> sqlx::Result<i64> {
    let lock = "insert into ledger.key as known (key, orders) values ($1, 1)
        on conflict (key) do update set orders = known.orders + 1 returning orders";
    let number: i64 = sqlx::query_scalar(lock).bind(key).fetch_one(&mut *connection).await?;
    let insert = sqlx::query_scalar(insert).bind(destination).bind(key).bind(payload);
    let position: i64 = insert.fetch_one(&mut *connection).await?;
    let entry = "insert into ledger.entry (position, key, number, payload) values ($1, $2, $3, $4)";
    let entry = sqlx::query(entry).bind(position).bind(key).bind(number).bind(payload);
    entry.execute(connection).await?;
    Ok(position)
}

/// Unique even among orders that are rolled back and tried again under the same number: that is how a
/// phantom is told from the order that took its place.
pub fn payload(rng: &mut SmallRng, key: &str, padding: usize) -> String {
    let order = rng.random::<u128>();
    let padding = "x".repeat(padding);
    format!(r#"{{"order": "{order:032x}",  "key":"{key}", "padding":"{padding}"}}"#)
}

/// One order the database holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub position: i64,
    pub key: String,
    pub payload: String,
}

/// Every committed order, in outbox order.
pub async fn entries(pool: &PgPool) -> Vec<Entry> {
    let sql = "select position, key, payload from ledger.entry order by position";
    let rows: Vec<(i64, String, String)> =
        sqlx::query_as(sql).fetch_all(pool).await.expect("the ledger can be read");
    rows.into_iter().map(|(position, key, payload)| Entry { position, key, payload }).collect()
}

/// What the broker holds, compared with what the database holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verdict {
    /// Committed and not at the broker.
    pub lost: Vec<i64>,
    /// At the broker and not committed, under another key, or with other bytes; as partition and offset.
    pub phantom: Vec<(i32, i64)>,
    /// Arrived for the first time after a later order of their key, or on another partition than it.
    pub disorder: Vec<i64>,
    /// Arrivals of an order that had arrived before.
    pub repeats: u64,
}

impl Verdict {
    /// Panics unless nothing is lost, nothing is a phantom, every key is in order, and at most
    /// `repeats_max` orders were repeated.
    pub fn assert_kept(&self, repeats_max: u64) {
        let kept = self.lost.is_empty() && self.phantom.is_empty() && self.disorder.is_empty();
        assert!(kept && self.repeats <= repeats_max, "promised at most {repeats_max} repeats: {self}");
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { lost, phantom, disorder, repeats } = self;
        writeln!(
            f,
            "{} lost, {} phantom, {} disorder, {repeats} repeats",
            lost.len(),
            phantom.len(),
            disorder.len()
        )?;
        writeln!(f, "first lost, by position: {:?}", &lost[..lost.len().min(5)])?;
        writeln!(f, "first phantoms, by partition and offset: {:?}", &phantom[..phantom.len().min(5)])?;
        write!(f, "first in disorder, by position: {:?}", &disorder[..disorder.len().min(5)])
    }
}

/// Compares what the broker holds with the ledger. `received` is in the order of partition and offset.
pub fn audit(entries: &[Entry], received: &[Received]) -> Verdict {
    let expected: HashMap<&[u8], &Entry> = entries.iter().map(|e| (e.payload.as_bytes(), e)).collect();
    let mut verdict = Verdict::default();
    let mut arrived = HashSet::with_capacity(entries.len());
    // Of each key: the latest order that has arrived, and on which partition.
    let mut latest: HashMap<&str, (i64, i32)> = HashMap::new();
    for record in received {
        let entry = record.payload.as_deref().and_then(|payload| expected.get(payload));
        let Some(entry) = entry.filter(|entry| record.key.as_deref() == Some(entry.key.as_bytes())) else {
            verdict.phantom.push((record.partition, record.offset));
            continue;
        };
        if !arrived.insert(entry.position) {
            verdict.repeats += 1;
            continue;
        }
        let (position, partition) = latest.entry(&entry.key).or_insert((entry.position, record.partition));
        if entry.position < *position || record.partition != *partition {
            verdict.disorder.push(entry.position);
        }
        *position = entry.position.max(*position);
    }
    let lost = entries.iter().map(|entry| entry.position).filter(|position| !arrived.contains(position));
    verdict.lost = lost.collect();
    verdict
}

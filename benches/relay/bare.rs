//! The bare loop: what the relay is compared with, in a process of its own.
//!
//! It moves the same rows as the same records with the same crates, and keeps none of the promises: it
//! pages by the highest id it saw, so it loses the rows of transactions that commit late; it lets
//! records of one key overtake each other; a failure ends it. Reading, publishing and marking overlap, each
//! on a connection or thread of its own. It is the limit, so it is written as well as we can.

use std::io::Read as _;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Parser, ValueEnum};
use rdkafka::ClientContext;
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer as _, ProducerContext, ThreadedProducer};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::{Notify, mpsc};

use crate::kafka;
use crate::outbox;
use crate::process::Usage;

/// The first argument that makes this program the bare loop.
pub(crate) const NAME: &str = "bare";

/// Rows of one read.
const READ_ROWS: i32 = 5_000;

/// Rows read and not yet marked: as many as the relay's two windows hold together.
const WINDOW: usize = 20_000;

/// Waiting longer for a batch to fill gained nothing here.
const LINGER_MS: u32 = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mark {
    Update,
    Delete,
    /// Confirmed rows are forgotten.
    None,
}

impl Mark {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Update => "update",
            Self::Delete => "delete",
            Self::None => "none",
        }
    }

    const fn statement(self) -> Option<&'static str> {
        match self {
            Self::Update => Some("update outbox.message set delivered_at = now() where id = any($1)"),
            Self::Delete => Some("delete from outbox.message where id = any($1)"),
            Self::None => None,
        }
    }
}

#[derive(Debug, Clone, Parser)]
pub(crate) struct Job {
    #[arg(long)]
    pub(crate) database: String,
    #[arg(long)]
    pub(crate) brokers: String,
    #[arg(long)]
    pub(crate) topic: String,
    #[arg(long, value_enum)]
    pub(crate) mark: Mark,
    #[arg(long)]
    pub(crate) rows: usize,
}

/// The process, from outside.
pub(crate) struct Bare {
    child: Child,
    said: Lines<BufReader<ChildStdout>>,
    pub(crate) started: Instant,
}

impl Bare {
    pub(crate) fn start(job: &Job) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args([NAME, "--database", &job.database, "--brokers", &job.brokers, "--topic", &job.topic])
            .args(["--mark", job.mark.as_str(), "--rows", &job.rows.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let said = BufReader::new(child.stdout.take().context("standard output is piped")?).lines();
        Ok(Self { child, said, started: Instant::now() })
    }

    pub(crate) async fn first_delivery(&mut self) -> Result<Instant> {
        self.hears(FIRST).await
    }

    pub(crate) async fn all_marked(&mut self) -> Result<Instant> {
        self.hears(DONE).await
    }

    async fn hears(&mut self, word: &str) -> Result<Instant> {
        let line = self.said.next_line().await?;
        ensure!(line.as_deref() == Some(word), "the bare loop said {line:?}, not {word}");
        Ok(Instant::now())
    }

    pub(crate) fn usage(&self) -> Result<Usage> {
        Usage::of(self.child.id().context("the bare loop has exited")?)
    }

    pub(crate) async fn stop(mut self) -> Result<()> {
        drop(self.child.stdin.take());
        ensure!(self.child.wait().await?.success(), "the bare loop failed");
        Ok(())
    }
}

const FIRST: &str = "first delivery";
const DONE: &str = "all marked";

/// The process, from inside.
pub(crate) async fn run(job: Job) -> Result<()> {
    let progress = Arc::new(Progress::default());
    let config = kafka::producer(&job.brokers, LINGER_MS);
    let producer = Client::from_config_and_context(&config, Confirmations(Arc::clone(&progress)))?;
    let (batches, filled) = mpsc::channel(1);
    let reading = tokio::spawn(read(job.clone(), batches));
    let publishing = tokio::spawn(publish(job.clone(), producer, filled, Arc::clone(&progress)));
    mark(&job, &progress).await?;
    reading.await??;
    let producer = publishing.await??;
    println!("{DONE}");
    // Stays as it is until somebody has looked at its memory.
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
    producer.purge(rdkafka::producer::PurgeConfig::default().queue());
    Ok(())
}

type Client = ThreadedProducer<Confirmations>;

/// What publishing and marking tell each other.
#[derive(Debug, Default)]
struct Progress {
    confirmed: Mutex<Vec<i64>>,
    more_confirmed: Notify,
    /// Read and not yet marked.
    in_hand: AtomicUsize,
    room: Notify,
    failed: AtomicBool,
}

struct Confirmations(Arc<Progress>);

impl ClientContext for Confirmations {}

impl ProducerContext for Confirmations {
    /// The id of the row: no allocation per record.
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, id: usize) {
        if result.is_err() {
            self.0.failed.store(true, Ordering::Relaxed);
        }
        let mut confirmed = self.0.confirmed.lock().unwrap_or_else(PoisonError::into_inner);
        confirmed.push(i64::try_from(id).expect("it was an id before"));
        if confirmed.len() == 1 {
            self.0.more_confirmed.notify_one();
        }
    }
}

async fn read(job: Job, batches: mpsc::Sender<Vec<PgRow>>) -> Result<()> {
    let mut connection = outbox::connect(&job.database).await?;
    let mut floor = 0_i64;
    let mut left = job.rows;
    while left > 0 {
        let rows = read_batch(&mut connection, floor).await?;
        let last = rows.last().context("there are fewer rows than promised")?;
        floor = last.try_get(0)?;
        left = left.saturating_sub(rows.len());
        batches.send(rows).await?;
    }
    Ok(())
}

/// Its statement is compared with the relay's among ten million rows.
pub(crate) const READ: &str = "
    select id, key, kind, payload
    from outbox.message
    where id > $1 and delivered_at is null
    order by id
    limit $2";

async fn read_batch(connection: &mut PgConnection, floor: i64) -> Result<Vec<PgRow>> {
    Ok(sqlx::query(READ).bind(floor).bind(READ_ROWS).fetch_all(connection).await?)
}

async fn publish(
    job: Job,
    producer: Client,
    mut batches: mpsc::Receiver<Vec<PgRow>>,
    progress: Arc<Progress>,
) -> Result<Client> {
    while let Some(rows) = batches.recv().await {
        while progress.in_hand.load(Ordering::Acquire) + rows.len() > WINDOW {
            progress.room.notified().await;
        }
        progress.in_hand.fetch_add(rows.len(), Ordering::AcqRel);
        for row in &rows {
            send(&producer, &job.topic, row)?;
        }
    }
    Ok(producer)
}

/// The record the relay would make of this row.
fn send(producer: &Client, topic: &str, row: &PgRow) -> Result<()> {
    let id: i64 = row.try_get(0)?;
    let mut digits = [0; 20];
    let headers = OwnedHeaders::new_with_capacity(2)
        .insert(Header { key: "outbox-id", value: Some(decimal(id.unsigned_abs(), &mut digits)) })
        .insert(Header { key: "outbox-kind", value: Some(bytes(row, 2)?) });
    let record = BaseRecord::with_opaque_to(topic, usize::try_from(id)?)
        .key(bytes(row, 1)?)
        .payload(bytes(row, 3)?)
        .headers(headers);
    producer.send(record).map_err(|(error, _)| error.into())
}

/// A column's bytes where they lie.
fn bytes(row: &PgRow, column: usize) -> Result<&[u8]> {
    row.try_get_raw(column)?.as_bytes().map_err(|error| anyhow::anyhow!("column {column}: {error}"))
}

fn decimal(mut number: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[at..];
        }
    }
}

async fn mark(job: &Job, progress: &Progress) -> Result<()> {
    let mut connection = outbox::connect(&job.database).await?;
    let mut left = job.rows;
    while left > 0 {
        let ids = std::mem::take(&mut *progress.confirmed.lock().unwrap_or_else(PoisonError::into_inner));
        if ids.is_empty() {
            progress.more_confirmed.notified().await;
            continue;
        }
        if progress.failed.load(Ordering::Relaxed) {
            bail!("a record was not confirmed");
        }
        if left == job.rows {
            println!("{FIRST}");
        }
        if let Some(statement) = job.mark.statement() {
            sqlx::query(statement).bind(&ids).execute(&mut connection).await?;
        }
        progress.in_hand.fetch_sub(ids.len(), Ordering::AcqRel);
        progress.room.notify_one();
        left -= ids.len();
    }
    Ok(())
}

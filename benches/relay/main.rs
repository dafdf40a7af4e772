//! Measures the relay beside the least a program could do for the same rows, in one run on one machine.
//!
//! The relay is the release binary, as a process of its own with a configuration file; nothing is
//! known of it here but what an operator can see: its metrics, its exit, its memory, the table and the
//! topic. What is compared with is in [`bare`] and [`plain`]. What the numbers mean and how they came
//! about is in `docs/performance.md`; `scripts/bench` runs it all.

#![allow(clippy::disallowed_methods, reason = "a benchmark measures time and owns its tasks")]
#![allow(clippy::print_stdout, reason = "the report is the data")]
#![allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "numbers for people")]

use std::env;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};

mod bare;
mod drain;
mod hot_key;
mod idle;
mod kafka;
mod latency;
mod memory;
mod outbox;
mod plain;
mod process;
mod rabbitmq;
mod read;
mod relay;
mod report;
mod start;

/// Measure the relay. Needs OUTBOX_TEST_POSTGRES, OUTBOX_TEST_KAFKA and OUTBOX_TEST_RABBITMQ: see scripts/bench.
#[derive(Debug, Parser)]
struct Arguments {
    /// What to measure [default: everything]
    #[arg(value_enum)]
    scenarios: Vec<Scenario>,
    /// The relay's release binary
    #[arg(long, default_value = "target/release/outbox-relay")]
    relay: PathBuf,
    /// Rows of one drain
    #[arg(long, default_value_t = 300_000)]
    rows: u64,
    /// Runs of each side of a comparison, taken in turn
    #[arg(long, default_value_t = 3)]
    pairs: usize,
    /// Given by `cargo bench` to whatever it runs
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// Records a second without a database
    Produce,
    /// Rows a second, beside the bare loop
    Drain,
    /// Commit to consumed, beside produced to consumed
    Latency,
    /// Memory while draining small, large and huge rows
    Memory,
    /// What it costs to have nothing to do
    Idle,
    /// From the start of the process to the first record
    Start,
    /// One key, beside the round trip of the broker
    HotKey,
    /// Rows a second into a quorum queue, beside a bare loop without a database
    Rabbitmq,
    /// The read statement among ten million rows, and behind an old snapshot
    Read,
}

/// What every scenario needs.
struct Bench {
    /// A Postgres superuser's URL; databases are created beside the one it names.
    postgres: String,
    brokers: String,
    relay: PathBuf,
    rows: u64,
    pairs: usize,
}

#[tokio::main]
async fn main() -> Result<()> {
    if env::args().nth(1).as_deref() == Some(bare::NAME) {
        return bare::run(bare::Job::parse_from(env::args().skip(1))).await;
    }
    let arguments = Arguments::parse();
    let bench = Bench {
        postgres: env::var("OUTBOX_TEST_POSTGRES").context("OUTBOX_TEST_POSTGRES is not set")?,
        brokers: env::var("OUTBOX_TEST_KAFKA").context("OUTBOX_TEST_KAFKA is not set")?,
        relay: arguments.relay,
        rows: arguments.rows,
        pairs: arguments.pairs,
    };
    report::machine(&bench).await?;
    let all = arguments.scenarios.is_empty();
    for &scenario in Scenario::value_variants() {
        if all || arguments.scenarios.contains(&scenario) {
            measure(&bench, scenario).await?;
        }
    }
    Ok(())
}

async fn measure(bench: &Bench, scenario: Scenario) -> Result<()> {
    match scenario {
        Scenario::Produce => plain::measure(bench).await,
        Scenario::Drain => drain::measure(bench).await,
        Scenario::Latency => latency::measure(bench).await,
        Scenario::Memory => memory::measure(bench).await,
        Scenario::Idle => idle::measure(bench).await,
        Scenario::Start => start::measure(bench).await,
        Scenario::HotKey => hot_key::measure(bench).await,
        Scenario::Rabbitmq => rabbitmq::measure(bench).await,
        Scenario::Read => read::measure(bench).await,
    }
}

//! The report: Markdown on standard output, as it stands in `docs/performance.md`.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::Result;

use crate::Bench;
use crate::outbox;

/// What it was measured on.
pub(crate) async fn machine(bench: &Bench) -> Result<()> {
    let mut connection = outbox::connect(&bench.postgres).await?;
    let postgres: String = sqlx::query_scalar("show server_version").fetch_one(&mut connection).await?;
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cores = thread::available_parallelism()?;
    println!("{cores} cores ({}), Postgres {postgres}", model.map_or("unknown", |(_, name)| name));
    Ok(())
}

/// A heading and a table, its columns aligned for reading as text.
pub(crate) fn table(title: &str, head: &[&str], rows: &[Vec<String>]) {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].as_str()).chain([head[column]]);
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    println!("\n## {title}\n");
    line(&widths, head.iter().copied());
    let rules: Vec<String> = widths.iter().map(|&width| "-".repeat(width)).collect();
    line(&widths, rules.iter().map(String::as_str));
    for row in rows {
        line(&widths, row.iter().map(String::as_str));
    }
}

fn line<'a>(widths: &[usize], cells: impl Iterator<Item = &'a str>) {
    let cells: Vec<String> = cells.zip(widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
    println!("| {} |", cells.join(" | "));
}

/// The value below which `share` of them lie.
///
/// # Panics
/// Without values.
pub(crate) fn percentile<T: Copy + PartialOrd>(values: &[T], share: f64) -> T {
    let mut sorted = values.to_vec();
    sorted.sort_by(|a, b| a.partial_cmp(b).expect("measurements are comparable"));
    #[allow(clippy::cast_sign_loss, reason = "a share is not negative")]
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

pub(crate) fn median<T: Copy + PartialOrd>(values: &[T]) -> T {
    percentile(values, 0.5)
}

/// Rows a second.
pub(crate) fn rate(rows: f64, time: Duration) -> f64 {
    rows / time.as_secs_f64()
}

/// `43.2k/s`, `188/s`
pub(crate) fn show_rate(rate: f64) -> String {
    if rate < 10_000.0 { format!("{rate:.0}/s") } else { format!("{:.1}k/s", rate / 1000.0) }
}

pub(crate) fn show_ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

pub(crate) fn show_mb(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

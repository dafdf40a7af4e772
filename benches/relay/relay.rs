//! The relay as its operator sees it: a binary with a configuration file, a metrics page, signals and
//! an exit code.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::Bench;
use crate::outbox::Outbox;
use crate::process::Usage;

/// How often the metrics page is looked at while waiting: often enough for a clock, too seldom to
/// be a load.
const LOOK: Duration = Duration::from_millis(20);

pub(crate) struct Relay {
    child: Child,
    metrics: SocketAddr,
    files: TempDir,
    pub(crate) started: Instant,
}

impl Relay {
    /// Starts a relay from `outbox` to the broker. `settings` are lines `key = value` with dotted keys, which
    /// go before what is set here.
    pub(crate) fn start(bench: &Bench, outbox: &Outbox, settings: &[&str]) -> Result<Self> {
        let files = TempDir::with_prefix("outbox-bench")?;
        let (metrics, admin) = (free_address()?, free_address()?);
        let file = files.path().join("relay.toml");
        fs::write(&file, configuration(bench, outbox, metrics, admin, settings))?;
        let child = Command::new(&bench.relay)
            .arg("--config")
            .arg(&file)
            .arg("run")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(files.path().join("log"))?)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("could not start {}", bench.relay.display()))?;
        Ok(Self { child, metrics, files, started: Instant::now() })
    }

    pub(crate) fn usage(&self) -> Result<Usage> {
        Usage::of(self.child.id().context("the relay has exited")?)
    }

    /// Everything it logged so far.
    pub(crate) fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.files.path().join("log"))?)
    }

    /// A metric without its prefix, summed over its labels; 0 while there is none.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let page = self.page().await.unwrap_or_default();
        let samples = page.lines().filter_map(|line| line.strip_prefix("outbox_relay_"));
        samples
            .filter_map(|sample| sample.strip_prefix(name))
            .filter(|rest| rest.starts_with(['{', ' ']))
            .filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    async fn page(&self) -> Result<String> {
        let mut stream = TcpStream::connect(self.metrics).await?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await?;
        let mut page = String::new();
        stream.read_to_string(&mut page).await?;
        Ok(page)
    }

    /// Waits until a metric has reached `least`, and returns it.
    pub(crate) async fn until(&mut self, name: &str, least: f64, timeout: Duration) -> Result<f64> {
        let deadline = Instant::now() + timeout;
        loop {
            let value = self.metric(name).await;
            if value >= least {
                return Ok(value);
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("the relay ended with {status}:\n{}", self.log()?);
            }
            ensure!(
                Instant::now() < deadline,
                "{name} is {value}, not {least}, after {timeout:?}:\n{}",
                self.log()?
            );
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Lets it drain and expects that it ends well.
    pub(crate) async fn stop(mut self) -> Result<()> {
        let pid = self.child.id().context("the relay has exited")?;
        let sent = Command::new("kill").args(["-TERM", &pid.to_string()]).status().await?;
        ensure!(sent.success(), "could not send SIGTERM to the relay");
        let status = self.child.wait().await?;
        ensure!(status.success(), "the relay ended with {status}:\n{}", self.log()?);
        Ok(())
    }

    /// Ends it as a crash would.
    pub(crate) async fn kill(mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }
}

fn configuration(
    bench: &Bench,
    outbox: &Outbox,
    metrics: SocketAddr,
    admin: SocketAddr,
    settings: &[&str],
) -> String {
    let mut toml = String::new();
    let defaults = [
        r#"pipeline.name = "bench""#.to_owned(),
        format!("database.url = {:?}", outbox.url),
        r#"sink.type = "kafka""#.to_owned(),
        format!("sink.kafka.brokers = {:?}", bench.brokers),
        format!("metrics.listen = \"{metrics}\""),
        format!("admin.listen = \"{admin}\""),
    ];
    let key = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
    let is_set = |line: &&str| settings.iter().any(|setting| key(setting) == key(line));
    let defaults = defaults.iter().map(String::as_str).filter(|line| !is_set(line));
    for line in defaults.chain(settings.iter().copied()) {
        writeln!(toml, "{line}").expect("a String takes every line");
    }
    toml
}

/// An address nobody listens on.
fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

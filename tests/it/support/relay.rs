//! The relay as its operator sees it: a binary with a configuration file, an environment, signals, an
//! exit code, log lines and a metrics page.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::process::{Command, Output};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::process::{Lines, Process, free_port};
use super::wait;

const HTTP_TIMEOUT: Duration = Duration::from_secs(5);

/// What the relay is started with.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Configuration key → value in TOML, as `"delivery.drain_timeout"` → `"\"2s\""`.
    keys: BTreeMap<String, String>,
    environment: BTreeMap<String, String>,
    arguments: Vec<String>,
}

impl Settings {
    /// A relay from the default outbox table to Kafka, with HTTP on free ports.
    pub fn kafka(database_url: &str, brokers: &str) -> Self {
        Self::default()
            .text("database.url", database_url)
            .text("sink.type", "kafka")
            .text("sink.kafka.brokers", brokers)
    }

    /// A relay from the default outbox table to an exchange; the routing key is the row's destination.
    pub fn rabbitmq(database_url: &str, url: &str, exchange: &str) -> Self {
        Self::default()
            .text("database.url", database_url)
            .text("sink.type", "rabbitmq")
            .text("sink.rabbitmq.url", url)
            .text("route.exchange", exchange)
    }

    /// A relay from the default outbox table to its standard output.
    pub fn stdout(database_url: &str) -> Self {
        Self::default().text("database.url", database_url).text("sink.type", "stdout")
    }

    /// Sets a key to a TOML value: `set("delivery.in_flight_rows_max", "100")`.
    #[must_use]
    pub fn set(mut self, key: &str, value: &str) -> Self {
        self.keys.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Sets a key to a text: `text("delivery.drain_timeout", "2s")`.
    #[must_use]
    pub fn text(self, key: &str, value: &str) -> Self {
        // A JSON string is a TOML string.
        self.set(key, &serde_json::Value::from(value).to_string())
    }

    /// Sets a property of librdkafka, whose dots are part of its name.
    #[must_use]
    pub fn property(self, name: &str, value: &str) -> Self {
        self.text(&format!("sink.kafka.properties.\"{name}\""), value)
    }

    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Adds an argument after `run`.
    #[must_use]
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Starts the relay. It is killed when the returned value is dropped.
    pub fn run(&self) -> Relay {
        let (metrics_port, admin_port) = (free_port(), free_port());
        let settings = self
            .clone()
            .text("metrics.listen", &format!("127.0.0.1:{metrics_port}"))
            .text("admin.listen", &format!("127.0.0.1:{admin_port}"));
        let (mut command, dir) = settings.command();
        command.arg("run").args(&self.arguments);
        Relay { process: Process::spawn(&mut command), metrics_port, admin_port, _dir: dir }
    }

    /// Runs another command, as `["migrate", "--print-sql"]`, to its end.
    pub fn output(&self, arguments: &[&str]) -> Output {
        let (mut command, _dir) = self.command();
        command.args(arguments).output().expect("the binary under test starts")
    }

    /// The binary with these settings, and the directory that holds them.
    fn command(&self) -> (Command, TempDir) {
        let dir = TempDir::with_prefix("outbox-relay").expect("the temporary directory takes files");
        let file = dir.path().join("outbox-relay.toml");
        fs::write(&file, self.toml()).expect("the temporary directory takes files");
        let mut command = binary();
        command.envs(&self.environment).arg("--config").arg(file);
        (command, dir)
    }

    fn toml(&self) -> String {
        let mut toml = String::new();
        for (key, value) in &self.keys {
            writeln!(toml, "{key} = {value}").expect("a String takes everything");
        }
        toml
    }
}

/// The binary under test, with none of the environment that would configure it.
pub fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outbox-relay"));
    command.env_remove("DATABASE_URL").env_remove("RUST_LOG");
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("OUTBOX_RELAY_") {
            command.env_remove(name);
        }
    }
    command
}

/// A relay that was started.
#[derive(Debug)]
pub struct Relay {
    process: Process,
    pub metrics_port: u16,
    pub admin_port: u16,
    _dir: TempDir,
}

impl Relay {
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// No last words: what a machine's end does.
    pub fn kill_9(&mut self) {
        self.process.end("KILL", Duration::from_secs(5));
    }

    /// Asks it to drain and exit.
    pub fn sigterm(&mut self) {
        self.process.signal("TERM");
    }

    /// Sends a signal by its name without SIG, as in `STOP` and `CONT`.
    pub fn signal(&mut self, name: &str) {
        self.process.signal(name);
    }

    /// The exit code; panics if it still runs after `deadline` or was killed.
    pub async fn wait(&mut self, deadline: Duration) -> i32 {
        let status = self.process.ended(deadline).await;
        status.code().unwrap_or_else(|| panic!("the relay was ended by a signal: {status}"))
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.process.exited().is_none()
    }

    pub fn stdout(&self) -> &Lines {
        &self.process.stdout
    }

    pub fn stderr(&self) -> &Lines {
        &self.process.stderr
    }

    /// The metrics page; `None` while nothing answers.
    pub async fn metrics(&self) -> Option<Metrics> {
        Metrics::at(self.metrics_port).await
    }

    /// Memory that is really used.
    pub fn resident_bytes(&self) -> u64 {
        resident_bytes(self.id())
    }

    /// Status code and body of a page of the metrics server, as `/readyz`.
    pub async fn get(&self, path: &str) -> Option<(u16, String)> {
        get(self.metrics_port, path).await
    }

    /// Status code and body of a page of the admin server, as `/status`.
    pub async fn get_admin(&self, path: &str) -> Option<(u16, String)> {
        get(self.admin_port, path).await
    }

    /// Waits until the metrics page satisfies `condition`. Panics with the end of the log if the relay
    /// ends before, or after `deadline`.
    pub async fn wait_until(&mut self, deadline: Duration, what: &str, condition: impl Fn(&Metrics) -> bool) {
        let port = self.metrics_port;
        self.wait_for(deadline, what, async || {
            Metrics::at(port).await.is_some_and(|metrics| condition(&metrics))
        })
        .await;
    }

    /// Waits until `condition` holds, whatever it looks at, while this relay runs. Panics as above.
    pub async fn wait_for(
        &mut self,
        deadline: Duration,
        what: &str,
        mut condition: impl AsyncFnMut() -> bool,
    ) {
        let log = self.stderr().clone();
        // Without an end of its own: only here the log is at hand for the message.
        let reached = wait::eventually(Duration::MAX, what, async || {
            assert!(self.runs(), "the relay ended, still not: {what}\n{}", log.tail(40));
            condition().await
        });
        if tokio::time::timeout(deadline, reached).await.is_err() {
            panic!("after {deadline:?} still not: {what}\n{}", log.tail(40));
        }
    }
}

/// A metrics page, read.
#[derive(Debug, Clone, Default)]
pub struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    async fn at(port: u16) -> Option<Self> {
        let (status, body) = get(port, "/metrics").await?;
        (status == 200).then(|| Self::parse(&body))
    }

    /// Reads the text format: `name{label="value"} number`, one a line, `#` before comments.
    pub fn parse(page: &str) -> Self {
        let lines = page.lines().filter(|line| !line.starts_with('#'));
        let series = lines.filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            Some((series.to_owned(), value.parse().ok()?))
        });
        Self(series.collect())
    }

    /// The sum over all series of that name; `None` if there is none. The prefix may be left out.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.with(name, &[])
    }

    /// As [`Metrics::get`], over those series only that carry all of `labels`.
    pub fn with(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let full =
            if name.starts_with("outbox_relay_") { name.into() } else { format!("outbox_relay_{name}") };
        let matching = self.0.iter().filter(|(series, _)| {
            let (its_name, its_labels) = series.split_once('{').unwrap_or((series, ""));
            (its_name == name || its_name == full)
                && labels.iter().all(|(label, value)| its_labels.contains(&format!("{label}=\"{value}\"")))
        });
        matching.map(|(_, value)| *value).reduce(|sum, value| sum + value)
    }

    /// Every series by its text, as `name{label="value"}`.
    pub fn series(&self) -> &BTreeMap<String, f64> {
        &self.0
    }
}

/// Memory that a process really uses.
pub fn resident_bytes(process_id: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process_id}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux counts it");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("VmRSS is in kB");
    kib * 1024
}

/// A GET over HTTP/1.0, whose answer ends with the connection: nothing to parse but the first line.
pub async fn get(port: u16, path: &str) -> Option<(u16, String)> {
    let exchange = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        let request = format!("GET {path} HTTP/1.0\r\nhost: 127.0.0.1:{port}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.split_whitespace().nth(1)?.parse().ok()?;
        Some((status, body.to_owned()))
    };
    tokio::time::timeout(HTTP_TIMEOUT, exchange).await.ok().flatten()
}

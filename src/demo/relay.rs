//! The relay: this executable, as another process, with a configuration file like anybody's.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use rustix::process::Signal;

use super::broker::Broker;
use super::folder::Folder;
use super::process::Process;
use super::server::Server;
use super::warden::{End, Warden};
use super::{DemoError, Surroundings};

/// At most so many rows are repeated after a crash; small, so that the bound says something.
pub(super) const IN_FLIGHT_ROWS_MAX: u64 = 500;

/// After a crash the next relay waits this long: the shortest there is.
pub(super) const LEASE_TTL: Duration = Duration::from_secs(3);

const LOG: &str = "relay.log";

/// A drain takes 10 s at most.
const STOP_MAX: Duration = Duration::from_secs(20);

/// What it takes to run `outbox-relay`.
pub(super) struct Setup<'a, 'w> {
    program: PathBuf,
    config: PathBuf,
    folder: &'a Folder,
    warden: &'w Warden,
    surroundings: &'a Surroundings,
}

impl<'a, 'w> Setup<'a, 'w> {
    /// Writes the configuration.
    pub(super) fn write(
        server: &Server<'_>,
        broker: &Broker,
        folder: &'a Folder,
        warden: &'w Warden,
        surroundings: &'a Surroundings,
    ) -> Result<Self, DemoError> {
        let program = std::env::current_exe().map_err(|error| DemoError::new("find this program", error))?;
        let config = folder
            .write("relay.toml", &config(server, &broker.pipeline(), &broker.configuration(folder)?))?;
        Ok(Self { program, config, folder, warden, surroundings })
    }

    /// The configuration as it was written.
    pub(super) fn text(&self) -> Result<String, DemoError> {
        let read = std::fs::read_to_string(&self.config);
        read.map_err(|error| DemoError::new(format!("read {}", self.config.display()), error))
    }

    pub(super) fn config(&self) -> &Path {
        &self.config
    }

    /// Runs `outbox-relay migrate`.
    pub(super) async fn migrate(&self) -> Result<(), DemoError> {
        let mut migrate = self.start("migrate")?;
        let status = migrate.process.finished().await;
        let status = status.map_err(|error| DemoError::new("wait for outbox-relay migrate", error))?;
        if status.success() { Ok(()) } else { Err(self.ended("migrate", status)) }
    }

    /// Starts `outbox-relay run`.
    pub(super) fn run(&self) -> Result<Relay<'w>, DemoError> {
        self.start("run")
    }

    fn start(&self, verb: &str) -> Result<Relay<'w>, DemoError> {
        let failed = |error| DemoError::new(format!("start outbox-relay {verb}"), error);
        let log = self.folder.log(LOG)?;
        let mut command = Command::new(&self.program);
        command.arg(verb).arg("--config").arg(&self.config);
        command.stdout(log.try_clone().map_err(failed)?).stderr(log);
        for name in &self.surroundings.ours {
            command.env_remove(name);
        }
        let process = Process::start(&mut command, self.warden, End::Kill).map_err(failed)?;
        Ok(Relay { process })
    }

    /// The error of a relay that should not have ended.
    pub(super) fn ended(&self, verb: &str, status: ExitStatus) -> DemoError {
        let reason = format!("it ended with {status}; the end of its log:\n{}", self.folder.tail(LOG));
        DemoError::new(format!("go on with outbox-relay {verb}"), reason)
    }

    /// The error of a relay that runs and publishes nothing.
    pub(super) fn stalled(&self, patience: Duration) -> DemoError {
        let reason =
            format!("nothing happens for {patience:?}; the end of its log:\n{}", self.folder.tail(LOG));
        DemoError::new("go on with outbox-relay run", reason)
    }

    /// Asks `relay` to drain, and waits until it has.
    pub(super) async fn stop(&self, mut relay: Relay<'_>) -> Result<(), DemoError> {
        relay.process.signal(Signal::TERM);
        match tokio::time::timeout(STOP_MAX, relay.process.finished()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(self.ended("run", status)),
            Ok(Err(error)) => Err(DemoError::new("wait for outbox-relay run", error)),
            Err(_) => {
                Err(DemoError::new("stop outbox-relay run", format!("it still runs after {STOP_MAX:?}")))
            }
        }
    }
}

/// A relay that runs; killed when dropped.
#[derive(Debug)]
pub(super) struct Relay<'w> {
    process: Process<'w>,
}

impl Relay<'_> {
    pub(super) fn id(&self) -> u32 {
        self.process.id()
    }

    /// How it ended, if it has.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.process.ended().ok().flatten()
    }

    /// SIGKILL: no last words, as when a machine ends. Returns the number it had.
    pub(super) fn kill(self) -> u32 {
        let id = self.id();
        drop(self);
        id
    }
}

/// In the quotes of a configuration file.
pub(super) fn quoted(text: &str) -> String {
    // A JSON string is a TOML string.
    serde_json::Value::from(text).to_string()
}

fn config(server: &Server<'_>, pipeline: &str, broker: &str) -> String {
    format!(
        "\
[pipeline]
name = {}

[database]
url = {}
password_file = {}

{broker}
[delivery]
in_flight_rows_max = {IN_FLIGHT_ROWS_MAX}    # at most so many orders are repeated after a crash

[lease]
ttl = \"{}s\"                  # after a crash the next relay takes over this much later

[metrics]
listen = \"127.0.0.1:0\"      # any free port, for the demo; otherwise 9717

[admin]
listen = \"127.0.0.1:0\"
",
        quoted(pipeline),
        quoted(&server.url()),
        quoted(&server.password_file.display().to_string()),
        LEASE_TTL.as_secs(),
    )
}

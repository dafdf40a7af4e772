//! A Postgres of the demo's own: private, temporary, gone with it. Other users of the machine cannot log
//! in: it listens on loopback alone and asks for a password nobody is told.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rand::TryRngCore as _;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{ConnectOptions as _, Connection as _, Executor as _, PgConnection};
use tokio::time::Instant;

use super::DemoError;
use super::account::Account;
use super::binaries::Binaries;
use super::folder::Folder;
use super::process::Process;
use super::warden::{End, Warden};

/// The role that owns everything.
const USER: &str = "demo";
/// Created by [`Server::create_database`].
const DATABASE: &str = "shop";
const LOG: &str = "postgres.log";

/// Far above what a start takes.
const START_MAX: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A free port may be taken by somebody else before Postgres listens on it.
const PORTS_TRIED: u32 = 3;

/// Only the relay is killed here, never the machine: what a crash of it would do is not shown.
const SETTINGS: [&str; 4] =
    ["listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off", "max_connections=40"];

/// A running server; ended when dropped.
#[derive(Debug)]
pub(super) struct Server<'w> {
    _process: Process<'w>,
    pub(super) port: u16,
    password: String,
    /// Holds the password, for the relay.
    pub(super) password_file: PathBuf,
}

/// What it takes to make a server.
struct Plan<'a, 'w> {
    binaries: &'a Binaries,
    account: Option<Account>,
    folder: &'a Folder,
    warden: &'w Warden,
}

impl<'w> Server<'w> {
    /// Makes a cluster in `folder`, starts it, and creates the database.
    pub(super) async fn start(
        binaries: &Binaries,
        folder: &Folder,
        warden: &'w Warden,
    ) -> Result<Self, DemoError> {
        let plan = Plan { binaries, account: Account::for_postgres()?, folder, warden };
        let password = password()?;
        let password_file = folder.write("password", &password)?;
        plan.create(&password_file).await?;
        for _ in 0..PORTS_TRIED {
            if let Some((process, port)) = plan.serve(&password).await? {
                let server = Self { _process: process, port, password, password_file };
                server.create_database().await?;
                return Ok(server);
            }
        }
        let reason = format!("it ended at once; the end of its log:\n{}", folder.tail(LOG));
        Err(DemoError::new("start Postgres", reason))
    }

    /// How to connect to the database.
    pub(super) fn options(&self) -> PgConnectOptions {
        login(self.port, &self.password).database(DATABASE)
    }

    /// The same for a configuration, without the password.
    pub(super) fn url(&self) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/{DATABASE}", self.port)
    }

    async fn create_database(&self) -> Result<(), DemoError> {
        let failed = |error: sqlx::Error| DemoError::new("create the database", error);
        let options = login(self.port, &self.password).database("postgres");
        let mut connection = PgConnection::connect_with(&options).await.map_err(failed)?;
        connection.execute("create database shop").await.map_err(failed)?;
        connection.close().await.map_err(failed)
    }
}

impl<'w> Plan<'_, 'w> {
    /// A program of this version, as somebody Postgres accepts.
    fn command(&self, program: &str) -> Result<Command, DemoError> {
        let mut command = Command::new(self.binaries.folder.join(program));
        if let Some(account) = &self.account {
            account.assume(&mut command);
        }
        let log = self.folder.log(LOG)?;
        let errors = log.try_clone().map_err(|error| DemoError::new("write the log of Postgres", error))?;
        command.current_dir(self.data()).env("LC_ALL", "C").stdout(log).stderr(errors);
        Ok(command)
    }

    fn data(&self) -> PathBuf {
        self.folder.path("postgres")
    }

    async fn create(&self, password_file: &Path) -> Result<(), DemoError> {
        let data = self.data();
        fs::create_dir(&data).map_err(|error| DemoError::new(format!("create {}", data.display()), error))?;
        if let Some(account) = &self.account {
            account.give(&data)?;
            account.give(password_file)?;
        }
        let mut command = self.command("initdb")?;
        command.arg("-D").arg(&data).args(["-U", USER, "-A", "scram-sha-256", "-E", "UTF8", "--locale=C"]);
        command.arg("--no-sync").arg("--pwfile").arg(password_file);
        let mut running = self.spawn(command)?;
        let status = running.finished().await.map_err(|error| DemoError::new("wait for initdb", error))?;
        if status.success() {
            return Ok(());
        }
        let reason = format!("initdb failed; the end of its log:\n{}", self.folder.tail(LOG));
        Err(DemoError::new("create a Postgres cluster", reason))
    }

    fn spawn(&self, mut command: Command) -> Result<Process<'w>, DemoError> {
        Process::start(&mut command, self.warden, End::Quit).map_err(|error| {
            let whom = self.account.as_ref().map_or(String::new(), |a| format!(" as the user {}", a.name));
            let program = command.get_program().display();
            DemoError::new(format!("start {program}{whom}"), error).hint(
                "that user must be able to reach and run it; name other programs with --pg-bin, or set \
                 TMPDIR to a folder that programs may be run from",
            )
        })
    }

    /// Starts the server on a free port; `None` if it ended before it took a connection.
    async fn serve(&self, password: &str) -> Result<Option<(Process<'w>, u16)>, DemoError> {
        let port = free_port().map_err(|error| DemoError::new("find a free port", error))?;
        let mut command = self.command("postgres")?;
        command.arg("-D").arg(self.data()).args(["-c", &format!("port={port}")]);
        SETTINGS.iter().for_each(|setting| _ = command.args(["-c", setting]));
        let mut running = self.spawn(command)?;
        let deadline = Instant::now() + START_MAX;
        let options = login(port, password).database("postgres");
        while Instant::now() < deadline {
            if !matches!(running.ended(), Ok(None)) {
                return Ok(None);
            }
            if let Ok(connection) = PgConnection::connect_with(&options).await {
                let _ = connection.close().await;
                return Ok(Some((running, port)));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let reason = format!("no answer after {START_MAX:?}; the end of its log:\n{}", self.folder.tail(LOG));
        Err(DemoError::new("start Postgres", reason))
    }
}

fn login(port: u16, password: &str) -> PgConnectOptions {
    // Nothing from the variables and files that psql and its like are told by.
    PgConnectOptions::new_without_pgpass()
        .host("127.0.0.1")
        .port(port)
        .username(USER)
        .password(password)
        .ssl_mode(PgSslMode::Disable)
        .application_name("outbox-relay-demo")
        .disable_statement_logging()
}

fn password() -> Result<String, DemoError> {
    let draw = || rand::rngs::OsRng.try_next_u64();
    let drawn = draw().and_then(|first| Ok(format!("{first:016x}{:016x}", draw()?)));
    drawn.map_err(|error| DemoError::new("draw a password", error))
}

fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

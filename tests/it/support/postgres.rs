//! A Postgres of one's own, for tests that stop it, crash it or change its settings.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use sqlx::Connection;
use sqlx::postgres::PgConnection;
use tempfile::TempDir;

use super::process::{Process, free_port, signal};
use super::{services, wait};

const SETTINGS: &str = include_str!("postgresql.conf");
const START_DEADLINE: Duration = Duration::from_secs(60);
const STOP_DEADLINE: Duration = Duration::from_secs(30);

/// How a server is told to stop.
#[derive(Debug, Clone, Copy)]
pub enum Stop {
    /// Sessions are broken off, everything is written: an orderly restart.
    Fast,
    /// Nothing is written any more; the next start recovers from the WAL on disk.
    Immediate,
}

/// A private server. Its port and data survive a stop; both end with this value.
#[derive(Debug)]
pub struct Postgres {
    /// `postgres://…/postgres`, as a superuser.
    pub url: String,
    pub port: u16,
    process: Option<Process>,
    bin: PathBuf,
    dir: TempDir,
}

impl Postgres {
    /// Starts a server with `settings` (name, value) on top of those all test servers have.
    pub async fn start(settings: &[(&str, &str)]) -> Self {
        let dir = TempDir::with_prefix("outbox-relay-postgres").expect("the temporary directory takes files");
        let port = free_port();
        let url = format!("postgres://postgres@127.0.0.1:{port}/postgres");
        let bin = PathBuf::from(services::postgres_bin());
        let mut server = Self { url, port, process: None, bin, dir };
        server.create(settings);
        server.restart().await;
        server
    }

    /// A second server that follows this one, read-only until it is promoted.
    pub async fn standby(&self) -> Self {
        let dir = TempDir::with_prefix("outbox-relay-standby").expect("the temporary directory takes files");
        let port = free_port();
        let url = format!("postgres://postgres@127.0.0.1:{port}/postgres");
        let mut server = Self { url, port, process: None, bin: self.bin.clone(), dir };
        if root() {
            server.give_to_postgres();
        }
        let mut copy = server.command("pg_basebackup");
        copy.args(["-d", &self.url, "-R", "-c", "fast", "--no-sync", "-D"]);
        let done = copy.arg(server.data()).output().expect("OUTBOX_TEST_PG_BIN has a pg_basebackup");
        assert!(done.status.success(), "pg_basebackup failed: {}", String::from_utf8_lossy(&done.stderr));
        let socket = server.dir.path().display();
        server.set(&format!("port = {port}\nunix_socket_directories = '{socket}'\n"));
        server.restart().await;
        server
    }

    /// Starts the stopped server again, on the same port, and waits until it takes connections.
    pub async fn restart(&mut self) {
        assert!(self.process.is_none(), "this Postgres is running");
        let mut command = self.command("postgres");
        self.process = Some(Process::spawn(command.arg("-D").arg(self.data())));
        wait::eventually(START_DEADLINE, "Postgres takes connections", async || {
            let process = self.process.as_mut().expect("just started");
            let log = process.stderr.clone();
            assert!(process.exited().is_none(), "Postgres did not start: {}", log.tail(40));
            PgConnection::connect(&self.url).await.is_ok()
        })
        .await;
    }

    /// Stops the server and waits until it has.
    pub async fn stop(&mut self, how: Stop) {
        let mut process = self.process.take().expect("this Postgres is stopped");
        process.signal(match how {
            Stop::Fast => "INT",
            Stop::Immediate => "QUIT",
        });
        process.ended(STOP_DEADLINE).await;
    }

    /// Kills every process of the server at once, as a machine's end would: what was not written to
    /// disk by then is gone.
    pub async fn crash(&mut self) {
        let mut process = self.process.take().expect("this Postgres is stopped");
        // Stopped first, it can neither start another child nor restart a killed one.
        process.signal("STOP");
        let children = children(process.id());
        for child in &children {
            signal(*child, "KILL");
        }
        process.signal("KILL");
        process.ended(STOP_DEADLINE).await;
        wait::eventually(STOP_DEADLINE, "the backends are gone", async || {
            children.iter().all(|child| !alive(*child))
        })
        .await;
    }

    /// A copy of `file` in the server's data directory, readable for the server alone.
    pub fn take(&self, file: &Path, name: &str) {
        let copy = self.data().join(name);
        // Written anew: the copy before it may belong to the server's user.
        _ = fs::remove_file(&copy);
        fs::copy(file, &copy).expect("the data directory takes files");
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o600)).expect("the copy is ours");
        if root() {
            let given = Command::new("chown").arg("postgres:").arg(&copy).status();
            assert!(given.is_ok_and(|status| status.success()), "could not give {name} to postgres");
        }
    }

    /// Puts lines before all others of pg_hba.conf; they count from the next [`reload`](Self::reload).
    pub fn admit(&self, lines: &str) {
        let file = self.data().join("pg_hba.conf");
        let others = fs::read_to_string(&file).expect("initdb wrote it");
        fs::write(&file, format!("{lines}\n{others}")).expect("the data directory takes files");
    }

    /// Has the server read its settings again.
    pub fn reload(&mut self) {
        self.process.as_mut().expect("this Postgres is stopped").signal("HUP");
    }

    /// What the server logged since it was last started.
    pub fn log(&self) -> Vec<String> {
        self.process.as_ref().map_or_else(Vec::new, |process| process.stderr.all())
    }

    fn create(&self, settings: &[(&str, &str)]) {
        if root() {
            self.give_to_postgres();
        }
        let mut initdb = self.command("initdb");
        initdb.args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "-D"]);
        let done = initdb.arg(self.data()).output().expect("OUTBOX_TEST_PG_BIN has an initdb");
        assert!(done.status.success(), "initdb failed: {}", String::from_utf8_lossy(&done.stderr));

        let own = settings.iter().map(|(name, value)| format!("{name} = '{value}'\n")).collect::<String>();
        let socket = self.dir.path().display();
        let given = format!("{SETTINGS}port = {}\nunix_socket_directories = '{socket}'\n{own}", self.port);
        self.set(&given);
    }

    /// Appends to the settings; what comes last wins.
    fn set(&self, settings: &str) {
        let file = self.data().join("postgresql.conf");
        let all = fs::read_to_string(&file).expect("initdb wrote it") + settings;
        fs::write(file, all).expect("the data directory takes files");
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A program of this server's version, as a user it agrees to run as.
    fn command(&self, program: &str) -> Command {
        let program = self.bin.join(program);
        let mut command = if root() { as_postgres(&program) } else { Command::new(program) };
        command.current_dir("/");
        command
    }

    fn give_to_postgres(&self) {
        let open = fs::Permissions::from_mode(0o755);
        fs::set_permissions(self.dir.path(), open).expect("the directory is ours");
        let given = Command::new("chown").arg("postgres:").arg(self.dir.path()).status();
        assert!(given.is_ok_and(|status| status.success()), "could not give the data directory to postgres");
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Not KILL: that would leave shared memory behind.
        if let Some(process) = &mut self.process {
            process.end("QUIT", Duration::from_secs(10));
        }
    }
}

/// Postgres refuses to run as root.
fn as_postgres(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--init-groups", "--"]).arg(program);
    command
}

pub fn root() -> bool {
    fs::metadata("/proc/self").expect("Linux has /proc").uid() == 0
}

/// The processes whose parent is `parent`.
fn children(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").expect("Linux has /proc").flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.filter(|id| stat(*id).is_some_and(|(_, its_parent)| its_parent == parent)).collect()
}

/// A zombie holds no memory and no file any more: it counts as gone.
fn alive(id: u32) -> bool {
    stat(id).is_some_and(|(state, _)| state != "Z")
}

/// State and parent of a process. The name before them may hold spaces, but is in parentheses.
fn stat(id: u32) -> Option<(String, u32)> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}

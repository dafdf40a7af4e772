//! A transaction pooler between the tests and a Postgres: few sessions, each lent to whoever comes next.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection};
use tempfile::TempDir;

use super::postgres::root;
use super::process::{Process, free_port};
use super::wait;

const START_DEADLINE: Duration = Duration::from_secs(30);

/// Sessions of each database: few enough that everybody meets what others left behind.
const SESSIONS: u32 = 4;

/// A private PgBouncer; ends with this value.
#[derive(Debug)]
pub struct PgBouncer {
    pub port: u16,
    _process: Process,
    _dir: TempDir,
}

impl PgBouncer {
    /// In front of the server that `server_url` leads to, for any of its databases. It ignores no startup
    /// parameter: a client that sends one it cannot keep is refused.
    pub async fn start(server_url: &str) -> Self {
        Self::start_with(server_url, "").await
    }

    /// One that passes over these startup parameters, as many are set up.
    pub async fn ignoring(server_url: &str, parameters: &str) -> Self {
        Self::start_with(server_url, &format!("ignore_startup_parameters = {parameters}\n")).await
    }

    async fn start_with(server_url: &str, more: &str) -> Self {
        let server: PgConnectOptions = server_url.parse().expect("test URLs are well formed");
        let dir =
            TempDir::with_prefix("outbox-relay-pgbouncer").expect("the temporary directory takes files");
        let port = free_port();
        let file = write_settings(&dir, port, &server, more);
        let mut command = Command::new(program());
        if root() {
            command.args(["-u", "postgres"]);
        }
        let mut process = Process::spawn(command.arg(file));
        let through = server.port(port);
        let log = process.stderr.clone();
        wait::eventually(START_DEADLINE, "PgBouncer takes connections", async || {
            assert!(process.exited().is_none(), "PgBouncer did not start: {}", log.tail(40));
            match through.clone().extra_float_digits(None).connect().await {
                Ok(connection) => connection.close().await.is_ok(),
                Err(_) => false,
            }
        })
        .await;
        Self { port, _process: process, _dir: dir }
    }

    /// The same database and user as `url`, through the pooler.
    pub fn url(&self, url: &str) -> String {
        let options: PgConnectOptions = url.parse().expect("test URLs are well formed");
        options.port(self.port).to_url_lossy().to_string()
    }
}

/// Round robin, so that hardly two transactions in a row meet the same session.
fn write_settings(dir: &TempDir, port: u16, server: &PgConnectOptions, more: &str) -> PathBuf {
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(dir.path(), open).expect("the directory is ours");
    let (host, server_port) = (server.get_host(), server.get_port());
    let users = dir.path().join("users.txt");
    let text = format!(
        "[databases]\n* = host={host} port={server_port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
         listen_port = {port}\nunix_socket_dir =\nauth_type = trust\nauth_file = {}\npool_mode = transaction\n\
         default_pool_size = {SESSIONS}\nmin_pool_size = {SESSIONS}\nserver_round_robin = 1\n\
         max_client_conn = 200\n{more}",
        users.display()
    );
    fs::write(users, "\"postgres\" \"\"\n").expect("the temporary directory takes files");
    let file = dir.path().join("pgbouncer.ini");
    fs::write(&file, text).expect("the temporary directory takes files");
    file
}

/// Debian keeps it where only root looks.
fn program() -> &'static str {
    let debian = "/usr/sbin/pgbouncer";
    if fs::exists(debian).is_ok_and(|exists| exists) { debian } else { "pgbouncer" }
}

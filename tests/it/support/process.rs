//! A child process whose output is kept and which does not outlive its owner. Shared by everything the
//! tests start: the relay, Postgres, Kafka.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::wait;

/// Lines a process wrote, as they come.
#[derive(Debug, Clone, Default)]
pub struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The last `count` lines, for a failure's message.
    pub fn tail(&self, count: usize) -> String {
        let lines = self.all();
        lines[lines.len().saturating_sub(count)..].join("\n")
    }

    pub fn contain(&self, text: &str) -> bool {
        self.all().iter().any(|line| line.contains(text))
    }

    fn follow(&self, output: impl Read + Send + 'static) {
        let lines = self.clone();
        thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                lines.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
    }
}

/// A running child; killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    pub stdout: Lines,
    pub stderr: Lines,
}

impl Process {
    pub fn spawn(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("could not start {command:?}: {error}"));
        let (stdout, stderr) = (Lines::default(), Lines::default());
        stdout.follow(child.stdout.take().expect("stdout was piped"));
        stderr.follow(child.stderr.take().expect("stderr was piped"));
        Self { child, stdout, stderr }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by its name without SIG: `TERM`, `KILL`, `STOP`. Nothing happens if it has ended.
    pub fn signal(&mut self, name: &str) {
        if self.exited().is_none() {
            signal(self.child.id(), name);
        }
    }

    /// How it ended, if it has.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the child is ours to wait for")
    }

    /// Waits until it has ended; panics after `deadline`.
    pub async fn ended(&mut self, deadline: Duration) -> ExitStatus {
        let what = format!("process {} has ended", self.id());
        wait::eventually_some(deadline, &what, async || self.exited()).await
    }

    /// Asks with `name`, insists with KILL after `patience`. For destructors.
    pub fn end(&mut self, name: &str, patience: Duration) {
        self.signal(name);
        if !wait::blocking(patience, || self.exited().is_some()) {
            self.signal("KILL");
            self.child.wait().expect("a killed child ends");
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end("KILL", Duration::from_secs(5));
    }
}

/// Sends a signal with the shell's own `kill`, the one that is on every machine.
pub fn signal(process_id: u32, name: &str) {
    let status = Command::new("sh")
        .args(["-c", "kill -s \"$1\" \"$2\" 2>/dev/null", "sh", name, &process_id.to_string()])
        .status();
    status.expect("every machine has sh");
}

/// A port nobody listens on, below the range of outgoing connections, so that it is still free when a
/// server that was stopped wants it back. Never the same twice in a process.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 25_000;
    const COUNT: u16 = 7_000;
    // Test processes that run side by side start from different places.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    let start = std::process::id().wrapping_mul(131).wrapping_add(now.subsec_micros()) % u32::from(COUNT);
    let start = u16::try_from(start).expect("below COUNT");
    _ = NEXT.compare_exchange(0, start + 1, Ordering::Relaxed, Ordering::Relaxed);
    loop {
        let port = FIRST + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

//! Tells the service manager that started us how we are, if one did and wants to know: systemd, by its
//! notify protocol (`Type=notify`, `WatchdogSec=`).
//!
//! Ready means that the configuration is valid, the pages answer and the loop turns. It does not mean
//! that the database or the broker is up: waiting for them is the relay's work, and units ordered after
//! ours should not wait with it. The watchdog is fed by the same liveness as `/livez`, so the two cannot
//! disagree. What is known of the relay is on the [`Board`]; this module only reads it.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::status::{Board, Role};

/// How often the board is looked at: soon enough that nobody waits for `READY`, and that `STOPPING` comes
/// before the end; four looks a second cost nothing one could measure.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How often the status line is said again while the role stays the same: its numbers move all the time.
const STATUS_EVERY: Duration = Duration::from_secs(5);

/// One thing to tell the service manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    Ready,
    /// Feeds the watchdog.
    Alive,
    Stopping,
    /// One line for people, as `systemctl status` shows it.
    Status(String),
}

impl Word {
    const fn state(&self) -> NotifyState<'_> {
        match self {
            Self::Ready => NotifyState::Ready,
            Self::Alive => NotifyState::Watchdog,
            Self::Stopping => NotifyState::Stopping,
            Self::Status(line) => NotifyState::Status(line.as_str()),
        }
    }
}

/// Knows what was told, and what is to be told next.
#[derive(Debug, Default)]
pub struct Herald {
    alive_every: Option<Duration>,
    ready: bool,
    stopping: bool,
    alive_at: Option<Duration>,
    status_at: Option<Duration>,
    role: Option<Role>,
}

impl Herald {
    /// One that feeds a watchdog which bites after `watchdog`, if there is one. Three times in that
    /// time, so that a late look is not a bite.
    #[must_use]
    pub fn new(watchdog: Option<Duration>) -> Self {
        Self { alive_every: watchdog.map(|watchdog| watchdog / 3), ..Self::default() }
    }

    /// What is to be told at `now`, since any fixed start. Nothing before the loop has begun to turn.
    pub fn due(&mut self, now: Duration, board: &Board) -> Vec<Word> {
        let mut words = Vec::new();
        if !board.started() {
            return words;
        }
        let status = board.status();
        if !std::mem::replace(&mut self.ready, true) {
            words.push(Word::Ready);
        }
        if board.stalled().is_none() && self.alive_is_due(now) {
            words.push(Word::Alive);
        }
        let stopping = matches!(status.role(), Role::Draining | Role::Stopped);
        if stopping && !std::mem::replace(&mut self.stopping, true) {
            words.push(Word::Stopping);
        }
        if self.status_is_due(now, status.role()) {
            words.push(Word::Status(status.summary()));
        }
        words
    }

    fn alive_is_due(&mut self, now: Duration) -> bool {
        self.alive_every.is_some_and(|every| due(&mut self.alive_at, now, every))
    }

    fn status_is_due(&mut self, now: Duration, role: Role) -> bool {
        if self.role.replace(role) != Some(role) {
            self.status_at = None;
        }
        due(&mut self.status_at, now, STATUS_EVERY)
    }
}

/// Whether `every` has passed since `last`, which is then `now`.
fn due(last: &mut Option<Duration>, now: Duration, every: Duration) -> bool {
    let is_due = last.is_none_or(|last| now.saturating_sub(last) >= every);
    if is_due {
        *last = Some(now);
    }
    is_due
}

/// The task that tells, while the relay runs.
#[derive(Debug)]
pub struct Supervisor {
    task: JoinHandle<()>,
    closing: watch::Sender<bool>,
}

impl Supervisor {
    /// A service manager that does not listen is not waited for any longer than this.
    const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

    /// Begins to tell the service manager what is on `board`; `None` if there is none.
    #[must_use]
    #[allow(
        clippy::disallowed_methods,
        reason = "the variable is the service manager's; the task is awaited in `close`"
    )]
    pub fn start(board: Arc<Board>) -> Option<Self> {
        std::env::var_os("NOTIFY_SOCKET")?;
        let watchdog = sd_notify::watchdog_enabled().filter(|watchdog| !watchdog.is_zero());
        let (closing, closed) = watch::channel(false);
        let task = tokio::spawn(tell(board, Herald::new(watchdog), closed));
        Some(Self { task, closing })
    }

    /// Tells what is still to be told, and ends.
    pub async fn close(mut self) {
        self.closing.send_replace(true);
        if tokio::time::timeout(Self::CLOSE_TIMEOUT, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

async fn tell(board: Arc<Board>, mut herald: Herald, mut closed: watch::Receiver<bool>) {
    let started = Instant::now();
    // A watchdog of microseconds should not keep a core busy.
    let look_every = herald.alive_every.unwrap_or(LOOK_EVERY).clamp(Duration::from_millis(10), LOOK_EVERY);
    let mut heard = true;
    loop {
        let closing = *closed.borrow();
        let words = herald.due(started.elapsed(), &board);
        if !words.is_empty() {
            heard = said(words, heard).await;
        }
        if closing {
            return;
        }
        tokio::select! {
            // An error means that the supervisor was dropped, which closes it as well.
            _ = closed.wait_for(|&closed| closed) => {}
            () = tokio::time::sleep(look_every) => {}
        }
    }
}

/// Says `words`; whether they were heard. A manager that does not hear us is reported once each time it
/// stops hearing, and told all the same.
async fn said(words: Vec<Word>, heard: bool) -> bool {
    // The socket blocks while the manager is busy; pages are served from this thread.
    let sending = tokio::task::spawn_blocking(move || {
        let states: Vec<NotifyState<'_>> = words.iter().map(Word::state).collect();
        sd_notify::notify(&states)
    });
    match sending.await {
        Ok(Err(error)) => {
            if heard {
                tracing::warn!("could not tell the service manager how we are: {error}");
            }
            false
        }
        // An error of the task itself means that the process ends.
        Ok(Ok(())) | Err(_) => true,
    }
}

//! A process the demo started and does not leave behind.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::warden::{End, Warden};

const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Ended when dropped; by the warden, if the demo does not get to that.
#[derive(Debug)]
pub(super) struct Process<'w> {
    child: Child,
    warden: &'w Warden,
    end: End,
}

impl<'w> Process<'w> {
    pub(super) fn start(command: &mut Command, warden: &'w Warden, end: End) -> io::Result<Self> {
        // Ctrl-C goes to everything in the demo's own group; ending this one is the demo's to do.
        let child = command.stdin(Stdio::null()).process_group(0).spawn()?;
        warden.end(child.id(), end);
        Ok(Self { child, warden, end })
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub(super) fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Waits until it has ended by itself.
    pub(super) async fn finished(&mut self) -> io::Result<ExitStatus> {
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Sends a signal; nothing happens if it has ended.
    pub(super) fn signal(&mut self, signal: Signal) {
        // Until it is waited for, the number is still its own.
        let runs = matches!(self.ended(), Ok(None));
        let id = i32::try_from(self.id()).ok().and_then(Pid::from_raw);
        if let Some(id) = id.filter(|_| runs) {
            let _ = kill_process(id, signal);
        }
    }
}

impl Drop for Process<'_> {
    fn drop(&mut self) {
        self.signal(match self.end {
            End::Quit => Signal::QUIT,
            End::Kill => Signal::KILL,
        });
        self.warden.forget(self.id());
        let _ = self.child.wait();
    }
}

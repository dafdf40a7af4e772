//! Sees to it that nothing outlives the demo: neither a process nor a file, whether the demo ends by
//! itself, by Ctrl-C, or by a SIGKILL that leaves it no last word.
//!
//! It is a shell that waits for a pipe to close. A handler or a destructor is not run by a process that is
//! killed; the death signal of Linux needs unsafe code between fork and exec, and is Linux's alone.

use std::fmt;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use super::DemoError;

/// How a process is ended.
#[derive(Debug, Clone, Copy)]
pub(super) enum End {
    /// Postgres leaves at once and takes its shared memory along.
    Quit,
    Kill,
}

/// Held for as long as there is something to end or to remove; dropping it does both, and waits.
pub(super) struct Warden {
    shell: Child,
    pipe: Mutex<Option<ChildStdin>>,
}

impl fmt::Debug for Warden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Warden").field("shell", &self.shell.id()).finish_non_exhaustive()
    }
}

impl Warden {
    pub(super) fn start() -> Result<Self, DemoError> {
        let shell = Command::new("sh")
            .args(["-c", include_str!("warden.sh"), "outbox-relay-demo-warden"])
            // A folder that nobody wants to remove or unmount meanwhile.
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C is sent to everything in the demo's own group.
            .process_group(0)
            .spawn();
        let mut shell = shell.map_err(|error| DemoError::new("start sh", error))?;
        let pipe = shell.stdin.take();
        Ok(Self { shell, pipe: Mutex::new(pipe) })
    }

    /// This process is ended with the demo.
    pub(super) fn end(&self, process: u32, how: End) {
        match how {
            End::Quit => self.tell(b"QUIT", process.to_string().as_bytes()),
            End::Kill => self.tell(b"KILL", process.to_string().as_bytes()),
        }
    }

    /// This process has been ended; its number may soon be another's.
    pub(super) fn forget(&self, process: u32) {
        self.tell(b"forget", process.to_string().as_bytes());
    }

    /// This file or folder is removed with the demo.
    pub(super) fn remove(&self, path: &Path) {
        self.tell(b"remove", path.as_os_str().as_bytes());
    }

    fn tell(&self, verb: &[u8], what: &[u8]) {
        let mut pipe = self.pipe.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pipe) = pipe.as_mut() {
            // One write, so that a line is told whole or not at all. A shell that somebody killed
            // cannot be told anything; the demo goes on without.
            let _ = pipe.write_all(&[verb, b" ", what, b"\n"].concat());
        }
    }
}

impl Drop for Warden {
    fn drop(&mut self) {
        *self.pipe.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let _ = self.shell.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_named_is_removed_and_ended_and_what_was_forgotten_is_not() {
        let folder = tempfile::TempDir::with_prefix("outbox-relay demo").unwrap();
        let (kept, removed) = (folder.path().join("kept"), folder.path().join("re moved"));
        std::fs::create_dir(&kept).unwrap();
        std::fs::create_dir_all(removed.join("below")).unwrap();
        let mut sleeping = [0; 2].map(|_| Command::new("sleep").arg("60").spawn().unwrap());

        let warden = Warden::start().unwrap();
        warden.remove(&removed);
        for process in &sleeping {
            warden.end(process.id(), End::Kill);
        }
        warden.forget(sleeping[1].id());
        // Reaped as it ends: nobody waits for a process that only waits for its parent.
        std::thread::scope(|scope| {
            let [ended, _] = &mut sleeping;
            scope.spawn(|| ended.wait().unwrap());
            drop(warden);
        });

        assert!(kept.exists() && !removed.exists());
        assert!(sleeping[0].try_wait().unwrap().is_some());
        assert!(sleeping[1].try_wait().unwrap().is_none());
        sleeping[1].kill().unwrap();
        sleeping[1].wait().unwrap();
    }
}

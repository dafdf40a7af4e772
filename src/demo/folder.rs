//! The demo's private folder: everything it writes is in here, and goes with it.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rand::TryRngCore as _;

use super::DemoError;
use super::account;
use super::warden::Warden;

/// What may be of use after the demo: no secrets, no data.
const PAPERS: [&str; 3] = ["relay.toml", "relay.log", "postgres.log"];

#[derive(Debug)]
pub(super) struct Folder(PathBuf);

impl Folder {
    /// Below the folder for temporary files, for nobody else's eyes.
    pub(super) fn create(warden: &Warden) -> Result<Self, DemoError> {
        let parent = std::env::temp_dir();
        let random =
            rand::rngs::OsRng.try_next_u64().map_err(|error| DemoError::new("draw a name", error))?;
        let path = parent.join(format!("outbox-relay-demo-{random:016x}"));
        let failed = |error: io::Error| DemoError::new(format!("create {}", path.display()), error);
        DirBuilder::new().mode(0o700).create(&path).map_err(failed)?;
        warden.remove(&path);
        if account::is_root() {
            // Postgres will run as somebody else, who has to pass through to what is given to them.
            fs::set_permissions(&path, Permissions::from_mode(0o711)).map_err(failed)?;
            account::require_passage(&path)?;
        }
        Ok(Self(path))
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file that nobody else can read.
    pub(super) fn write(&self, name: &str, text: &str) -> Result<PathBuf, DemoError> {
        let path = self.path(name);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
        written.map_err(|error| DemoError::new(format!("write {}", path.display()), error))?;
        Ok(path)
    }

    /// Opens a log that several may write to.
    pub(super) fn log(&self, name: &str) -> Result<fs::File, DemoError> {
        let path = self.path(name);
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
        file.map_err(|error| DemoError::new(format!("write {}", path.display()), error))
    }

    /// The last lines of a log, for an error.
    pub(super) fn tail(&self, name: &str) -> String {
        const LINES: usize = 15;
        let text = fs::read(self.path(name)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LINES)..].join("\n")
    }

    /// Copies what there is of configuration and logs to a folder that stays.
    pub(super) fn copy_papers(&self, to: &Path) -> Result<(), DemoError> {
        for name in PAPERS.into_iter().filter(|name| self.path(name).exists()) {
            let copied = fs::copy(self.path(name), to.join(name));
            copied.map_err(|error| DemoError::new(format!("keep {name} in {}", to.display()), error))?;
        }
        Ok(())
    }
}

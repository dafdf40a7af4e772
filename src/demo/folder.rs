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
}

/// A folder of somebody's own, where the papers stay. Nothing in it is overwritten.
#[derive(Debug)]
pub(super) struct Keep(PathBuf);

impl Keep {
    /// Before the play, so that what could not be written after it is known.
    pub(super) fn at(path: &Path) -> Result<Self, DemoError> {
        let made = fs::create_dir_all(path);
        made.map_err(|error| DemoError::new(format!("create {}", path.display()), error))?;
        match PAPERS.into_iter().find(|name| is_taken(&path.join(name))) {
            None => Ok(Self(path.to_owned())),
            Some(name) => {
                let what = format!("keep {name} in {}", path.display());
                let failed = DemoError::new(what, "there is a file of that name");
                Err(failed.hint("name another folder, or move the file away"))
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Copies what there is of configuration and logs.
    pub(super) fn take(&self, folder: &Folder) -> Result<(), DemoError> {
        for name in PAPERS.into_iter().filter(|name| folder.path(name).exists()) {
            let copied = copy(&folder.path(name), &self.0.join(name));
            copied.map_err(|error| DemoError::new(format!("keep {name} in {}", self.0.display()), error))?;
        }
        Ok(())
    }
}

/// A link is something too, wherever it leads.
fn is_taken(path: &Path) -> bool {
    !fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// To a file that is made by this: what came there during the play is neither overwritten nor followed.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut source = fs::File::open(from)?;
    let mut target = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    io::copy(&mut source, &mut target).map(drop)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn taken_by(make: impl Fn(&Path)) -> (DemoError, DemoError) {
        let (warden, place) = (Warden::start().unwrap(), tempfile::tempdir().unwrap());
        let folder = Folder::create(&warden).unwrap();
        folder.write("relay.toml", "the demo's").unwrap();
        let keep = Keep::at(place.path()).unwrap();
        make(place.path());
        (Keep::at(place.path()).unwrap_err(), keep.take(&folder).unwrap_err())
    }

    #[test]
    fn a_file_that_is_there_is_refused_before_the_play_and_left_alone_after_it() {
        let mine = tempfile::tempdir().unwrap();
        let mine = mine.path().join("mine");
        fs::write(&mine, "mine").unwrap();
        let make = |place: &Path| fs::write(place.join("relay.toml"), "mine").unwrap();
        let link = |place: &Path| symlink(&mine, place.join("relay.toml")).unwrap();
        let dangling = |place: &Path| symlink("/nowhere/else", place.join("relay.toml")).unwrap();
        for (before, after) in [taken_by(make), taken_by(link), taken_by(dangling)] {
            assert!(before.to_string().contains("keep relay.toml in "), "{before}");
            assert!(before.to_string().contains("hint: name another folder"), "{before}");
            assert!(after.to_string().contains("File exists"), "{after}");
        }
        assert_eq!(fs::read_to_string(mine).unwrap(), "mine");
    }

    #[test]
    fn papers_are_kept_for_their_owner_alone() {
        let (warden, place) = (Warden::start().unwrap(), tempfile::tempdir().unwrap());
        let folder = Folder::create(&warden).unwrap();
        folder.write("relay.toml", "the demo's").unwrap();
        Keep::at(&place.path().join("new")).unwrap().take(&folder).unwrap();
        let kept = place.path().join("new/relay.toml");
        assert_eq!(fs::read_to_string(&kept).unwrap(), "the demo's");
        assert_eq!(fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

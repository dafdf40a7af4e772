//! As whom Postgres runs: it refuses to do so as root.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use super::DemoError;

/// Those who may be asked, the best first; the second is on every system.
const NAMES: [&str; 2] = ["postgres", "nobody"];

/// An account that is not root's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) name: String,
    user: u32,
    group: u32,
}

pub(super) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

impl Account {
    /// Whom to run Postgres as; `None` for ourselves.
    pub(super) fn for_postgres() -> Result<Option<Self>, DemoError> {
        if !is_root() {
            return Ok(None);
        }
        let known = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let found = NAMES.iter().find_map(|name| Self::find(&known, name));
        let missing = || {
            DemoError::new("run Postgres, which refuses root", "there is neither a user postgres nor nobody")
                .hint("start the demo as another user")
        };
        found.map(Some).ok_or_else(missing)
    }

    /// In the format of `/etc/passwd`.
    fn find(known: &str, name: &str) -> Option<Self> {
        let fields = known.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let fields = fields.into_iter().find(|fields| fields[0] == name)?;
        let number = |at: usize| fields.get(at)?.parse().ok();
        Some(Self { name: name.to_owned(), user: number(2)?, group: number(3)? })
    }

    /// Makes `command` run as this account.
    pub(super) fn assume(&self, command: &mut Command) {
        command.uid(self.user).gid(self.group);
    }

    /// Makes `path` this account's own.
    pub(super) fn give(&self, path: &Path) -> Result<(), DemoError> {
        let given = chown(path, Some(self.user), Some(self.group));
        given.map_err(|error| DemoError::new(format!("give {} to {}", path.display(), self.name), error))
    }
}

/// Every folder on the way must let others pass.
pub(super) fn require_passage(path: &Path) -> Result<(), DemoError> {
    let closed = path
        .ancestors()
        .find(|folder| fs::metadata(folder).is_ok_and(|metadata| metadata.permissions().mode() & 0o001 == 0));
    let Some(closed) = closed else { return Ok(()) };
    let reason =
        format!("only root may pass through {}, and Postgres refuses to run as root", closed.display());
    Err(DemoError::new(format!("use {}", path.display()), reason)
        .hint("set TMPDIR to a folder that all users may pass through, as TMPDIR=/tmp"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_found_by_its_whole_name() {
        let known = "root:x:0:0::/:/bin/sh\nnobody2:x:7:7:::\nnobody:x:65534:65533:::\n+\n";
        let nobody = Account { name: "nobody".to_owned(), user: 65534, group: 65533 };
        assert_eq!(Account::find(known, "nobody"), Some(nobody));
        assert_eq!(Account::find(known, "postgres"), None);
    }

    #[test]
    fn a_folder_below_a_closed_one_is_refused() {
        let folder = tempfile::TempDir::with_prefix("outbox-relay-demo").unwrap();
        let below = folder.path().join("below");
        fs::create_dir(&below).unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let refused = require_passage(&below).unwrap_err().to_string();
        assert!(refused.contains("TMPDIR") && refused.contains(&folder.path().display().to_string()));
    }
}

//! Where Postgres is on this machine, if it is.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{DemoError, Surroundings};

/// The oldest that makes uuids without an extension, as the default outbox table does.
const OLDEST: u32 = 13;

/// Folders that hold one folder for each version, and where in it the programs are: Debian, Red Hat,
/// Homebrew on both kinds of Mac, Postgres.app.
const KEPT_BY_VERSION: [(&str, &str, &str); 5] = [
    ("/usr/lib/postgresql", "", "bin"),
    ("/usr", "pgsql-", "bin"),
    ("/opt/homebrew/opt", "postgresql", "bin"),
    ("/usr/local/opt", "postgresql", "bin"),
    ("/Applications/Postgres.app/Contents/Versions", "", "bin"),
];

/// `initdb` and `postgres` of one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Binaries {
    pub(super) folder: PathBuf,
    /// As it calls itself: `15.14`.
    pub(super) version: String,
}

impl Binaries {
    /// Those of a folder somebody named.
    pub(super) fn given(folder: &Path) -> Result<Self, DemoError> {
        let what = || format!("use the Postgres in {}", folder.display());
        let hint = "name the folder that holds initdb and postgres, as /usr/lib/postgresql/17/bin";
        let found = Self::look_in(folder)
            .ok_or_else(|| DemoError::new(what(), "initdb and postgres are not there").hint(hint))?;
        if found.is_fit() {
            return Ok(found);
        }
        let reason = format!("it is version {}, and the default outbox table needs {OLDEST}", found.version);
        Err(DemoError::new(what(), reason))
    }

    /// The first of the search path, otherwise the newest where packages put them.
    pub(super) fn find(surroundings: &Surroundings) -> Option<Self> {
        let packaged =
            KEPT_BY_VERSION.iter().flat_map(|(parent, prefix, below)| versions(parent, prefix, below));
        let folders = surroundings.path.iter().cloned().chain(packaged);
        folders.filter_map(|folder| Self::look_in(&folder)).find(Self::is_fit)
    }

    /// What is in `folder`, if both are and can be started.
    pub(super) fn look_in(folder: &Path) -> Option<Self> {
        if !folder.join("initdb").is_file() {
            return None;
        }
        let answer = Command::new(folder.join("postgres")).arg("--version").output().ok()?;
        let version = named(&String::from_utf8_lossy(&answer.stdout))?;
        Some(Self { folder: folder.to_owned(), version })
    }

    fn is_fit(&self) -> bool {
        major(&self.version) >= OLDEST
    }
}

/// The version in `postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)`.
fn named(answer: &str) -> Option<String> {
    answer.strip_prefix("postgres (PostgreSQL) ")?.split_whitespace().next().map(str::to_owned)
}

/// `15.14` and `18beta1` are of 15 and 18.
fn major(version: &str) -> u32 {
    let digits = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
    version[..digits].parse().unwrap_or(0)
}

/// The program folders below `parent`, the newest version first.
fn versions(parent: &str, prefix: &str, below: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let mut found: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| {
            let name = entry.file_name();
            let version = name.to_str()?.strip_prefix(prefix)?.trim_start_matches('@');
            Some((major(version), entry.path().join(below)))
        })
        .collect();
    found.sort_by(|(left, _), (right, _)| right.cmp(left));
    found.into_iter().map(|(_, folder)| folder).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_goes_first_and_numbers_are_not_words() {
        let folder = tempfile::TempDir::with_prefix("outbox-relay-demo").unwrap();
        for name in ["pg@9.6", "pg@17", "pg@9", "pg@100", "other"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let found = versions(folder.path().to_str().unwrap(), "pg", "bin");
        assert!(found[0].ends_with("pg@100/bin") && found[1].ends_with("pg@17/bin"));
        assert_eq!(found.len(), 4);
    }

    #[test]
    fn a_version_that_is_too_old_is_passed_over() {
        let fit = |answer: &str| {
            let version = named(answer).unwrap();
            Binaries { folder: PathBuf::new(), version }.is_fit()
        };
        assert!(fit("postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)\n"));
        assert!(fit("postgres (PostgreSQL) 18beta1\n") && fit("postgres (PostgreSQL) 13.0\n"));
        assert!(!fit("postgres (PostgreSQL) 12.22\n") && !fit("postgres (PostgreSQL) 9.6.24\n"));
        assert_eq!(named("echo (GNU coreutils) 9.1"), None);
    }

    #[test]
    fn a_folder_without_programs_is_refused_with_what_to_write() {
        let refused = Binaries::given(Path::new("/nowhere")).unwrap_err().to_string();
        assert!(refused.contains("/nowhere") && refused.contains("hint: name the folder"), "{refused}");
    }
}

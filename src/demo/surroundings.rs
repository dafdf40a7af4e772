//! What the demo needs to know of the environment it was started in.

use std::path::PathBuf;

/// Taken from the variables of the process, once.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// The folders programs are looked for in.
    pub(super) path: Vec<PathBuf>,
    /// Where a user's programs keep what they can fetch again.
    pub(super) cache: Option<PathBuf>,
    /// Certificates of those to trust, instead of the system's.
    pub(super) certificates: Option<PathBuf>,
    /// Nothing that moves, and no escape codes, even in a terminal.
    pub(super) is_dumb: bool,
    pub(super) wants_no_color: bool,
    /// The terminal can show more than ASCII.
    pub(super) is_utf8: bool,
    /// Variables that would configure the demo's relay behind its file's back.
    pub(super) ours: Vec<String>,
}

impl Surroundings {
    /// Reads names and values; an empty value counts as unset.
    #[must_use]
    pub fn read(environment: &[(String, String)]) -> Self {
        let get = |name: &str| {
            let found = environment.iter().find(|(known, value)| known == name && !value.is_empty());
            found.map(|(_, value)| value.as_str())
        };
        let home = get("HOME").map(|home| PathBuf::from(home).join(".cache"));
        let locale = get("LC_ALL").or(get("LC_CTYPE")).or(get("LANG")).unwrap_or_default().to_lowercase();
        let ours = |name: &&String| *name == "DATABASE_URL" || name.starts_with("OUTBOX_RELAY_");
        Self {
            path: get("PATH").map(|path| std::env::split_paths(path).collect()).unwrap_or_default(),
            cache: get("XDG_CACHE_HOME").map(PathBuf::from).or(home),
            certificates: get("SSL_CERT_FILE").map(PathBuf::from),
            is_dumb: get("TERM") == Some("dumb"),
            wants_no_color: get("NO_COLOR").is_some(),
            is_utf8: locale.contains("utf-8") || locale.contains("utf8"),
            ours: environment.iter().map(|(name, _)| name).filter(ours).cloned().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_configure_the_relay_is_known_by_name() {
        let environment =
            [("OUTBOX_RELAY__LEASE__TTL", "9s"), ("DATABASE_URL", "secret"), ("HOME", "/home/a")];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let found = Surroundings::read(&environment);
        assert_eq!(found.ours, ["OUTBOX_RELAY__LEASE__TTL", "DATABASE_URL"]);
        assert_eq!(found.cache, Some(PathBuf::from("/home/a/.cache")));
        assert!(!format!("{found:?}").contains("secret"));
    }

    #[test]
    fn an_empty_variable_counts_as_unset() {
        let environment = [("NO_COLOR", ""), ("XDG_CACHE_HOME", ""), ("LANG", "de_CH.UTF-8")];
        let found = Surroundings::read(&environment.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert!(!found.wants_no_color && found.cache.is_none() && found.is_utf8);
    }
}

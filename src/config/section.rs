//! Walks the merged tree, one key at a time, and collects every problem on the way.
//!
//! A key becomes known by being asked for, so there is no second list of keys to keep true: what was
//! never asked for is unknown. What a value may be is in [`value`](super::value).

use std::collections::BTreeSet;

use config::{Map, Value, ValueKind};

use super::merge::{OPEN_TABLES, Tree};
use super::problem::{Problem, Problems, Wrong, nearest};

/// Origins nobody wrote: a value from them was not given.
pub(super) const DEFAULTS: &str = "the defaults";
pub(super) const PRESET: &str = "the preset";

/// Keys of later versions: known, so that nobody searches for a typing error.
const NOT_YET: [&str; 6] = [
    "outbox.columns.due_at",
    "outbox.columns.expires_at",
    "delivery.on_permanent_failure",
    "delivery.retry.attempts_max",
    "delivery.retry.retry_for",
    "lease.shards",
];

pub(super) struct Reader {
    tree: Tree,
    known: BTreeSet<String>,
    problems: Vec<Problem>,
}

impl Reader {
    pub(super) fn new(tree: Tree) -> Self {
        let known = OPEN_TABLES.iter().map(|table| (*table).to_owned()).collect();
        Self { tree, known, problems: Vec::new() }
    }

    /// The section at a dotted path, given or not.
    pub(super) const fn section(&mut self, path: &'static str) -> Section<'_> {
        Section { reader: self, path }
    }

    /// Reports a problem with the key at `path`.
    pub(super) fn report(&mut self, path: impl Into<String>, wrong: Wrong) {
        let key = path.into();
        let origin = self.tree.get(&key).and_then(Value::origin).filter(|origin| given(origin));
        let origin = origin.map(str::to_owned);
        self.problems.push(Problem { key, origin, problem: wrong.problem, hint: wrong.hint });
    }

    /// Reports what nobody asked for; to be called when everything was read.
    pub(super) fn report_unknown(&mut self) {
        let mut unknown = Vec::new();
        self.find_unknown("", self.tree.root(), &mut unknown);
        for path in unknown {
            let wrong = self.unknown(&path);
            self.report(path, wrong);
        }
    }

    pub(super) fn into_problems(self) -> Problems {
        Problems(self.problems)
    }

    pub(super) const fn is_content(&self) -> bool {
        self.problems.is_empty()
    }

    pub(super) fn into_known(self) -> BTreeSet<String> {
        self.known
    }

    fn find_unknown(&self, prefix: &str, table: &Map<String, Value>, unknown: &mut Vec<String>) {
        let mut names: Vec<_> = table.keys().collect();
        names.sort_unstable(); // the map has no order, and reports should not change between runs
        for name in names {
            let path = join(prefix, name);
            if self.known.contains(&path) {
                continue;
            }
            match &table[name].kind {
                ValueKind::Table(inner) if self.is_section(&path) => self.find_unknown(&path, inner, unknown),
                _stray => unknown.push(path),
            }
        }
    }

    fn unknown(&self, path: &str) -> Wrong {
        if self.is_section(path) {
            return Wrong::new("is a section, not a key", format!("write [{path}] and its keys below it"));
        }
        if NOT_YET.iter().any(|key| is_within(path, key)) {
            return Wrong::new("is not available yet", "remove it, or use a version that has it");
        }
        let (parent, name) = path.rsplit_once('.').unwrap_or(("", path));
        let siblings = self.names_in(parent);
        let elsewhere = || self.known.iter().find(|known| last(known) == name);
        if let Some(meant) = elsewhere() {
            Wrong::new("is an unknown key", format!("did you mean {meant}?"))
        } else if let Some(meant) = nearest(name, siblings.iter().copied()) {
            Wrong::new("is an unknown key", format!("did you mean {}?", join(parent, meant)))
        } else {
            Wrong::new("is an unknown key", format!("remove it; known here: {}", siblings.join(", ")))
        }
    }

    fn is_section(&self, path: &str) -> bool {
        self.known.iter().any(|known| known != path && is_within(known, path))
    }

    /// Keys and sections just below `parent`.
    fn names_in(&self, parent: &str) -> Vec<&str> {
        let below = self.known.iter().filter_map(|known| {
            let rest =
                if parent.is_empty() { known } else { known.strip_prefix(parent)?.strip_prefix('.')? };
            rest.split('.').next()
        });
        below.collect::<BTreeSet<_>>().into_iter().collect()
    }
}

/// The keys of one table.
pub(super) struct Section<'r> {
    reader: &'r mut Reader,
    path: &'static str,
}

impl Section<'_> {
    /// The key's value, or `None` once what is wrong with it, or that it is missing, was reported.
    pub(super) fn required<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&Value) -> Result<T, Wrong>,
        hint: &str,
    ) -> Option<T> {
        let found = self.optional(key, read)?;
        if found.is_none() && self.is_a_section() {
            self.report(key, Wrong::new("is missing", hint));
        }
        found
    }

    /// The value of a key that [`DEFAULTS`] holds.
    pub(super) fn defaulted<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&Value) -> Result<T, Wrong>,
    ) -> Option<T> {
        self.required(key, read, "give it a value, or remove what removed its default")
    }

    /// `Some(None)` if the key was not given, `None` if its value is wrong, which is reported.
    #[allow(clippy::option_option)] // absent and wrong are different answers, and `?` serves the latter
    pub(super) fn optional<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&Value) -> Result<T, Wrong>,
    ) -> Option<Option<T>> {
        let path = join(self.path, key);
        let result = self.reader.tree.get(&path).map(read).transpose();
        self.reader.known.insert(path);
        result.map_err(|wrong| self.report(key, wrong)).ok()
    }

    /// No value stands where the section should; its keys would be missing only for that.
    fn is_a_section(&self) -> bool {
        let value = self.reader.tree.get(self.path);
        value.is_none_or(|value| matches!(value.kind, ValueKind::Table(_)))
    }

    /// Someone wrote this key, rather than a default or a preset.
    pub(super) fn is_given(&self, key: &str) -> bool {
        let value = self.reader.tree.get(&join(self.path, key));
        value.is_some_and(|value| value.origin().is_none_or(given))
    }

    /// Names and values of an open table, sorted by name.
    pub(super) fn open_table(&mut self, key: &'static str) -> Vec<(String, Value)> {
        let path = join(self.path, key);
        let (entries, stray) = match self.reader.tree.get(&path).map(|value| &value.kind) {
            Some(ValueKind::Table(table)) => (table.clone(), false),
            Some(_scalar) => (Map::new(), true),
            None => (Map::new(), false),
        };
        if stray {
            let hint = format!("write [{path}] and its entries below it");
            self.report(key, Wrong::new("is a section, not a key", hint));
        }
        let mut entries: Vec<_> = entries.into_iter().collect();
        entries.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        entries
    }

    /// The entries of an array of tables. A single variable cannot say one, and no entry has a name that
    /// it could be overridden by.
    pub(super) fn tables(&mut self, key: &'static str) -> Option<Vec<Map<String, Value>>> {
        let path = join(self.path, key);
        let entries = self.reader.tree.get(&path).map(|value| match &value.kind {
            ValueKind::Array(entries) => {
                entries.iter().map(|entry| entry.clone().into_table().ok()).collect()
            }
            _other => None,
        });
        let is_wrong = entries == Some(None);
        self.reader.known.insert(path.clone());
        if is_wrong {
            let hint = format!("write [[{path}]] and the keys of each below it, in the file");
            self.report(key, Wrong::new("is not an array of tables", hint));
        }
        entries.unwrap_or(Some(Vec::new()))
    }

    pub(super) fn report(&mut self, key: &str, wrong: Wrong) {
        self.reader.report(join(self.path, key), wrong);
    }

    /// Reports a problem with an entry of an open table.
    pub(super) fn report_entry(&mut self, key: &str, entry: &str, value: &Value, wrong: Wrong) {
        self.reader.problems.push(Problem {
            key: format!("{}.{entry}", join(self.path, key)),
            origin: value.origin().map(str::to_owned),
            problem: wrong.problem,
            hint: wrong.hint,
        });
    }
}

fn given(origin: &str) -> bool {
    origin != DEFAULTS && origin != PRESET
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn last(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

/// `path` is `section` or lies below it.
fn is_within(path: &str, section: &str) -> bool {
    path.strip_prefix(section).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

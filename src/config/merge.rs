//! Lays the defaults, the file, the environment and flags over one another.
//!
//! Everything becomes a [`Tree`] first, in which each value knows where it came from and the names of
//! an open table (broker properties, header names) are flat, however they were nested. Nothing is
//! judged here.

use std::fmt;

use config::{ConfigError, Environment, File, FileFormat, Map, Source, Value, ValueKind};

use super::problem::Wrong;

/// Tables whose keys are not ours. A name in them may hold dots.
pub(super) const OPEN_TABLES: [&str; 2] = ["outbox.header_columns", "sink.kafka.properties"];

const PREFIX: &str = "OUTBOX_RELAY";

/// Nested values of one origin or of several merged ones.
#[derive(Clone, Default)]
pub(super) struct Tree(Map<String, Value>);

/// Shows no values: some are secrets.
impl fmt::Debug for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tree").field("sections", &self.0.keys()).finish_non_exhaustive()
    }
}

impl Source for Tree {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        Ok(self.0.clone())
    }
}

impl Tree {
    /// Reads TOML.
    ///
    /// # Errors
    /// Says where the syntax breaks, without quoting the line: it may hold a password.
    pub(super) fn from_toml(text: &str, origin: &str) -> Result<Self, Wrong> {
        let table = File::from_str(text, FileFormat::Toml).collect().map_err(|error| syntax(&error))?;
        Ok(Self(normal_table(table, "", origin)))
    }

    /// Takes every `OUTBOX_RELAY__SECTION__KEY`; an empty value counts as unset. All stay text.
    pub(super) fn from_environment(variables: &[(String, String)]) -> Self {
        let mut tree = Self::default();
        for (name, value) in variables {
            let one = Map::from_iter([(name.clone(), value.clone())]);
            let source = Environment::with_prefix(PREFIX)
                .prefix_separator("__")
                .separator("__")
                .ignore_empty(true)
                .source(Some(one));
            let found = source.collect().expect("text variables are always collected");
            for key in found.into_keys() {
                tree.set(&key, value, name);
            }
        }
        tree
    }

    /// Takes dotted keys with text values; a later one wins.
    pub(super) fn from_pairs(pairs: &[(String, String)], origin: &str) -> Self {
        let mut tree = Self::default();
        for (key, value) in pairs {
            tree.set(key, value, origin);
        }
        tree
    }

    /// The trees in one, later ones winning key by key.
    pub(super) fn merged(trees: Vec<Self>) -> Self {
        let builder = trees.into_iter().fold(config::Config::builder(), |all, tree| all.add_source(tree));
        let merged = builder.build().expect("trees in memory always merge");
        Self(merged.cache.into_table().expect("merged trees are a table"))
    }

    /// The value at a dotted path.
    pub(super) fn get(&self, path: &str) -> Option<&Value> {
        let (sections, key) = path.rsplit_once('.').unwrap_or(("", path));
        let mut table = &self.0;
        for section in sections.split('.').filter(|section| !section.is_empty()) {
            match &table.get(section)?.kind {
                ValueKind::Table(inner) => table = inner,
                _scalar => return None,
            }
        }
        table.get(key)
    }

    pub(super) const fn root(&self) -> &Map<String, Value> {
        &self.0
    }

    pub(super) fn set(&mut self, path: &str, value: &str, origin: &str) {
        let value = Value::new(Some(&origin.to_owned()), value);
        let mut table = &mut self.0;
        let (sections, key) = split(path);
        for section in sections {
            let inner = table.entry(section.to_owned()).or_default();
            if !matches!(inner.kind, ValueKind::Table(_)) {
                inner.kind = ValueKind::Table(Map::new());
            }
            let ValueKind::Table(next) = &mut inner.kind else { unreachable!("made a table above") };
            table = next;
        }
        table.insert(key.to_owned(), value);
    }
}

/// The sections a path leads through, and the key, which in an open table may hold dots.
fn split(path: &str) -> (Vec<&str>, &str) {
    for open in OPEN_TABLES {
        if let Some(name) = path.strip_prefix(open).and_then(|rest| rest.strip_prefix('.')) {
            return (open.split('.').collect(), name);
        }
    }
    let (sections, key) = path.rsplit_once('.').unwrap_or(("", path));
    (sections.split('.').filter(|section| !section.is_empty()).collect(), key)
}

fn normal_table(table: Map<String, Value>, path: &str, origin: &str) -> Map<String, Value> {
    let mut normal = Map::new();
    for (name, value) in table {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        normal.insert(name, normal_value(value, &path, origin));
    }
    normal
}

fn normal_value(value: Value, path: &str, origin: &str) -> Value {
    let kind = match value.kind {
        ValueKind::Table(table) if OPEN_TABLES.contains(&path) => {
            let mut flat = Map::new();
            flatten(table, "", origin, &mut flat);
            ValueKind::Table(flat)
        }
        ValueKind::Table(table) => ValueKind::Table(normal_table(table, path, origin)),
        other => other,
    };
    Value::new(Some(&origin.to_owned()), kind)
}

/// `ssl.ca.location = …` without quotes is three tables to TOML and one property to people.
fn flatten(table: Map<String, Value>, prefix: &str, origin: &str, flat: &mut Map<String, Value>) {
    for (name, value) in table {
        let name = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
        match value.kind {
            ValueKind::Table(inner) => flatten(inner, &name, origin, flat),
            kind => {
                flat.insert(name, Value::new(Some(&origin.to_owned()), kind));
            }
        }
    }
}

fn syntax(error: &ConfigError) -> Wrong {
    let report = match error {
        ConfigError::FileParse { cause, .. } => cause.to_string(),
        _other => String::new(),
    };
    Wrong::new(unquoted(&report), "mend the line; text goes between double quotes, as in name = \"orders\"")
}

/// Keeps the first line (where) and the last (what) of the parser's report; those between quote the
/// file, behind a `|`.
fn unquoted(report: &str) -> String {
    let mut lines = report.lines().map(str::trim).filter(|line| !line.is_empty());
    let place = lines.next().and_then(|line| line.strip_prefix("TOML parse error "));
    let what = lines.next_back().filter(|line| !line.contains('|'));
    match (place, what) {
        (Some(place), Some(what)) => format!("is not valid TOML {place}: {what}"),
        (Some(place), None) => format!("is not valid TOML {place}"),
        (None, _) => "is not valid TOML".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_shape_of_a_parse_error_quotes_the_file() {
        let whole =
            "TOML parse error at line 2, column 7\n  |\n2 | url = canary\n  |       ^\nmust be quoted\n";
        assert_eq!(unquoted(whole), "is not valid TOML at line 2, column 7: must be quoted");
        let cut = "TOML parse error at line 2, column 7\n  |\n2 | url = canary\n";
        assert_eq!(unquoted(cut), "is not valid TOML at line 2, column 7");
        assert_eq!(unquoted("url = canary"), "is not valid TOML");
    }
}

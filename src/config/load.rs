//! Gathers what the operator asked for and turns it into a [`Config`], or into every problem at once.
//!
//! From weak to strong: built-in defaults, the preset of the outbox table, the file, the environment,
//! flags. What a key may hold is in [`read`]; what keys may say together in
//! [`check`](super::check).

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use super::merge::Tree;
use super::problem::{Problem, Problems, Wrong};
use super::section::{DEFAULTS, PRESET, Reader};
use super::{Config, TableName, read, value};

/// Everything a configuration is made of.
#[derive(Clone, Default)]
pub struct Sources {
    /// A TOML file.
    pub file: Option<PathBuf>,
    /// Names and values; those that are not ours are passed over.
    pub environment: Vec<(String, String)>,
    /// Dotted keys and values from the command line.
    pub flags: Vec<(String, String)>,
    /// Dotted keys and values for what a command does not need and should not ask for; weakest.
    pub assumed: Vec<(String, String)>,
}

impl Sources {
    /// With the environment of this process; variables that are not UTF-8 are passed over.
    #[must_use]
    pub fn from_process(file: Option<PathBuf>, flags: Vec<(String, String)>) -> Self {
        Self { file, environment: process_environment(), flags, assumed: Vec::new() }
    }
}

/// The environment of this process; variables that are not UTF-8 are passed over.
#[must_use]
#[allow(clippy::disallowed_methods, reason = "the one place where configuration meets the environment")]
pub fn process_environment() -> Vec<(String, String)> {
    let text = |name: std::ffi::OsString| name.into_string().ok();
    std::env::vars_os().filter_map(|(name, value)| Some((text(name)?, text(value)?))).collect()
}

/// Shows no values: some are secrets.
impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").field("file", &self.file).finish_non_exhaustive()
    }
}

/// Reads the sources and the secret files they name. Connects to nothing.
///
/// # Errors
/// Every problem found, in one go. A file that cannot be read is reported alone, since most of what
/// would be missing then is in it.
pub fn load(sources: &Sources) -> Result<Config, Problems> {
    let mut reader = Reader::new(gather(sources)?);
    let config = read::config(&mut reader);
    match config {
        Some(config) if reader.is_content() => Ok(config),
        Some(_) | None => Err(reader.into_problems()),
    }
}

/// The path of every key there is, for documentation to be compared with. A table whose keys are not
/// ours (broker properties, header names) counts as one key.
#[must_use]
pub fn keys() -> BTreeSet<String> {
    let mut reader = Reader::new(defaults());
    let _without_a_database = read::config(&mut reader);
    reader.into_known()
}

fn gather(sources: &Sources) -> Result<Tree, Problems> {
    let file = sources.file.as_deref().map(read_file).transpose()?.unwrap_or_default();
    let assumed = Tree::from_pairs(&sources.assumed, DEFAULTS);
    let environment = Tree::from_environment(&sources.environment);
    let flags = Tree::from_pairs(&sources.flags, "--set");
    let given = Tree::merged(vec![assumed, file, environment, flags]);
    let preset = preset(&Tree::merged(vec![defaults(), given.clone()]));

    let mut tree = Tree::merged(vec![defaults(), preset, given]);
    add_database_url(&mut tree, &sources.environment);
    Ok(tree)
}

fn defaults() -> Tree {
    Tree::from_toml(include_str!("defaults.toml"), DEFAULTS).expect("the defaults are valid TOML")
}

/// The mapping that was asked for, or that goes with the outbox table.
fn preset(given: &Tree) -> Tree {
    let text = |key| given.get(key).and_then(|value| value::text(value).ok());
    let preset = match text("outbox.preset").as_deref() {
        Some("none") => return Tree::default(),
        Some("debezium") => include_str!("presets/debezium.toml"),
        // An unknown one is reported when it is read; all that it leaves out need not be as well.
        Some(_) => include_str!("presets/default.toml"),
        None if text("outbox.table").is_some_and(|table| is_default_table(&table)) => {
            include_str!("presets/default.toml")
        }
        None => return Tree::default(),
    };
    Tree::from_toml(preset, PRESET).expect("the presets are valid TOML")
}

fn is_default_table(table: &str) -> bool {
    TableName::parse(table)
        .is_ok_and(|name| name.schema.as_deref() == Some("outbox") && name.table == "message")
}

/// `DATABASE_URL` is what most platforms set. Our own keys go before it.
fn add_database_url(tree: &mut Tree, environment: &[(String, String)]) {
    const NAME: &str = "DATABASE_URL";
    if tree.get("database.url").is_some() || tree.get("database.url_file").is_some() {
        return;
    }
    let found = environment.iter().find(|(name, value)| name == NAME && !value.is_empty());
    if let Some((_, url)) = found {
        tree.set("database.url", url, NAME);
    }
}

fn read_file(path: &Path) -> Result<Tree, Problems> {
    let name = path.display().to_string();
    let alone = |wrong: Wrong| {
        let Wrong { problem, hint } = wrong;
        Problems(vec![Problem { key: name.clone(), origin: None, problem, hint }])
    };
    let text = std::fs::read_to_string(path).map_err(|error| {
        let hint = "give the path of a readable TOML file, or none to use the environment alone";
        alone(Wrong::new(format!("could not read this file: {error}"), hint))
    })?;
    Tree::from_toml(&text, &name).map_err(alone)
}

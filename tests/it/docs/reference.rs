//! The reference of the configuration, made of `config.example.toml`, which other tests hold against the
//! code: every key, its default, and the comment above it.

use std::collections::BTreeSet;
use std::fmt::Write;

const EXAMPLE: &str = include_str!("../../../config.example.toml");

/// What a line of the example is.
#[derive(Debug)]
enum Line<'a> {
    Nothing,
    Comment(&'a str),
    /// The header of a table, as it is written.
    Section(&'a str),
    Key {
        key: &'a str,
        value: &'a str,
        is_default: bool,
    },
}

/// Keys that share a comment.
#[derive(Debug, Default)]
struct Entry<'a> {
    about: String,
    keys: Vec<(&'a str, String)>,
}

#[derive(Debug)]
struct Section<'a> {
    header: &'a str,
    about: String,
    entries: Vec<Entry<'a>>,
}

fn lines() -> impl Iterator<Item = Line<'static>> {
    EXAMPLE.lines().map(|line| {
        if let Some(comment) = line.strip_prefix("# ") {
            return Line::Comment(comment.trim());
        }
        let (setting, is_sample) = match line.split_once("# sample") {
            Some((setting, _)) => (setting.trim(), true),
            None => (line.trim(), false),
        };
        let (setting, is_default) = match setting.strip_prefix('#') {
            Some(setting) => (setting, !is_sample),
            None => (setting, false),
        };
        match setting.split_once(" = ") {
            _ if setting.starts_with('[') => Line::Section(setting),
            Some((key, value)) => Line::Key { key, value, is_default },
            None => Line::Nothing,
        }
    })
}

/// The tables of the example in their order.
fn sections() -> Vec<Section<'static>> {
    let mut sections: Vec<Section> = Vec::new();
    let mut about = Vec::new();
    for line in lines() {
        match line {
            Line::Comment(comment) => about.push(comment),
            Line::Nothing => about.clear(),
            Line::Section(header) => {
                let about = std::mem::take(&mut about).join(" ");
                sections.push(Section { header, about, entries: Vec::new() });
            }
            Line::Key { key, value, is_default } => {
                let entries = &mut sections.last_mut().expect("a key is in a table").entries;
                if !about.is_empty() || entries.is_empty() {
                    let about = std::mem::take(&mut about).join(" ");
                    entries.push(Entry { about, keys: Vec::new() });
                }
                let default = if is_default { format!("`{value}`") } else { format!("none; as `{value}`") };
                entries.last_mut().expect("just made").keys.push((key, default));
            }
        }
    }
    sections
}

/// A table for each table.
pub fn markdown() -> String {
    let mut text = String::new();
    for section in sections() {
        writeln!(text, "\n### `{}`\n", section.header).expect("a String takes everything");
        if !section.about.is_empty() {
            writeln!(text, "{}\n", prose(&section.about)).expect("a String takes everything");
        }
        text += "| key | default | what and why |\n|---|---|---|\n";
        for entry in &section.entries {
            let column = |cells: Vec<String>| cells.join("<br>").replace('|', "\\|");
            let keys = column(entry.keys.iter().map(|(key, _)| format!("`{key}`")).collect());
            let defaults = column(entry.keys.iter().map(|(_, default)| default.clone()).collect());
            writeln!(text, "| {keys} | {defaults} | {} |", prose(&entry.about))
                .expect("a String takes everything");
        }
    }
    text + "\n"
}

/// A comment as Markdown: nothing of it is markup but its code.
fn prose(comment: &str) -> String {
    let escaped = |(at, part): (usize, &str)| {
        let code = at % 2 == 1;
        let part = part.replace('|', "\\|");
        if code { format!("`{part}`") } else { part.replace('*', "\\*").replace('<', "\\<") }
    };
    comment.split('`').enumerate().map(escaped).collect()
}

/// The path of every key, as `lease.ttl`, and of every table.
pub fn keys() -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    for section in sections() {
        let table = section.header.trim_matches(['[', ']']);
        keys.insert(table.to_owned());
        for (key, _) in section.entries.iter().flat_map(|entry| &entry.keys) {
            keys.insert(format!("{table}.{key}"));
        }
    }
    keys
}

/// The paths of the keys that a piece of TOML sets.
pub fn keys_of(toml: &str) -> Vec<String> {
    let mut table = String::new();
    let mut keys = Vec::new();
    for line in toml.lines().map(str::trim) {
        if let Some((header, _)) = line.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            table = header.trim_matches('[').to_owned();
            keys.push(table.clone());
        } else if let Some((key, _)) = line.split_once('=').filter(|_| !line.starts_with('#')) {
            keys.push(format!("{table}.{}", key.trim()).trim_start_matches('.').to_owned());
        }
    }
    keys
}

/// Whether there is such a key, such a table, or a table that takes any name.
pub fn is_known(key: &str, known: &BTreeSet<String>) -> bool {
    let open = ["outbox.header_columns", "sink.kafka.properties", "route.when"];
    let beneath = |table: &str| key.strip_prefix(table).is_some_and(|rest| rest.starts_with('.'));
    known.contains(key)
        || open.into_iter().any(beneath)
        || known.iter().any(|known| known.strip_prefix(key).is_some_and(|rest| rest.starts_with('.')))
}

//! What a single value may be. Pure: a value in, a typed one or what is wrong with it out.
//!
//! Numbers and booleans may be written as text, because the environment has nothing else. Only
//! [`secret`] reads values that must not be shown, and it shows none.

use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use config::{Value, ValueKind};

use super::name::{ColumnName, TableName};
use super::problem::{Wrong, nearest};
use super::size;

pub(super) fn text(value: &Value) -> Result<String, Wrong> {
    match &value.kind {
        ValueKind::String(text) if text.is_empty() => {
            Err(Wrong::new("is empty", "give it a value or remove it"))
        }
        ValueKind::String(text) => Ok(text.clone()),
        other => {
            Err(Wrong::new(format!("is {}, not text", article(other)), "write it between double quotes"))
        }
    }
}

/// Text whose value must not be shown; numbers and booleans are taken as they are written.
pub(super) fn secret(value: &Value) -> Result<String, Wrong> {
    scalar(value)
}

/// Text, or a number or boolean as it is written; may be empty.
pub(super) fn scalar(value: &Value) -> Result<String, Wrong> {
    match &value.kind {
        kind @ (ValueKind::Nil | ValueKind::Table(_) | ValueKind::Array(_)) => {
            Err(Wrong::new(format!("is {}, not text", article(kind)), "write text between double quotes"))
        }
        scalar => Ok(scalar.to_string()),
    }
}

pub(super) fn path(value: &Value) -> Result<PathBuf, Wrong> {
    text(value).map(PathBuf::from)
}

pub(super) fn boolean(value: &Value) -> Result<bool, Wrong> {
    let written = scalar(value)?;
    written.parse().map_err(|_| Wrong::new(format!("{written:?} is not a boolean"), "write true or false"))
}

pub(super) fn count(range: RangeInclusive<usize>) -> impl FnOnce(&Value) -> Result<usize, Wrong> {
    move |value| {
        let written = scalar(value)?;
        let number = written.replace('_', "").parse().map_err(|_| {
            Wrong::new(
                format!("{written:?} is not a whole number"),
                format!("write one such as {}", range.end()),
            )
        })?;
        within(number, &range, |number| number.to_string())
    }
}

pub(super) fn bytes(range: RangeInclusive<usize>) -> impl FnOnce(&Value) -> Result<usize, Wrong> {
    move |value| {
        let written = scalar(value)?;
        let size = size::parse(&written).and_then(|size| usize::try_from(size).ok());
        let size = size.ok_or_else(|| {
            let hint = "write a whole number with B, kB, MB, GB, KiB, MiB or GiB, such as \"16MiB\"";
            Wrong::new(format!("{written:?} is not a size"), hint)
        })?;
        within(size, &range, |size| size::written(*size as u64))
    }
}

pub(super) fn duration(range: RangeInclusive<Duration>) -> impl FnOnce(&Value) -> Result<Duration, Wrong> {
    move |value| {
        let written = scalar(value)?;
        let duration = humantime::parse_duration(&written).map_err(|_| {
            let hint = "write a number with ms, s, m or h, such as \"250ms\" or \"10s\"";
            Wrong::new(format!("{written:?} is not a duration"), hint)
        })?;
        within(duration, &range, |duration| humantime::format_duration(*duration).to_string())
    }
}

/// One of `names`; `not_yet` are names of later versions.
pub(super) fn choice<T: Copy + 'static>(
    names: &'static [(&'static str, T)],
    not_yet: &'static [&'static str],
) -> impl FnOnce(&Value) -> Result<T, Wrong> {
    move |value| {
        let written = text(value)?;
        if let Some((_, chosen)) = names.iter().find(|(name, _)| *name == written) {
            return Ok(*chosen);
        }
        let all = names.iter().map(|(name, _)| format!("{name:?}")).collect::<Vec<_>>().join(" or ");
        if not_yet.contains(&written.as_str()) {
            return Err(Wrong::new(format!("{written:?} is not available yet"), format!("write {all}")));
        }
        let hint = match nearest(&written, names.iter().map(|(name, _)| *name)) {
            Some(meant) => format!("did you mean {meant:?}? it may be {all}"),
            None => format!("write {all}"),
        };
        Err(Wrong::new(format!("{written:?} is not a choice here"), hint))
    }
}

pub(super) fn address(value: &Value) -> Result<SocketAddr, Wrong> {
    let written = text(value)?;
    written.parse().map_err(|_| {
        let hint = "write an IP address and a port, such as 127.0.0.1:9718, 0.0.0.0:9717 or [::]:9717";
        Wrong::new(format!("{written:?} is not an address to listen on"), hint)
    })
}

pub(super) fn column(value: &Value) -> Result<ColumnName, Wrong> {
    let written = text(value)?;
    ColumnName::parse(&written)
        .map_err(|why| Wrong::new(format!("{written:?} {why}"), "write the name as \\d shows it in psql"))
}

pub(super) fn table(value: &Value) -> Result<TableName, Wrong> {
    let written = text(value)?;
    TableName::parse(&written).map_err(|why| {
        let hint = "write schema.table; a part that holds a dot goes between double quotes";
        Wrong::new(format!("{written:?} {why}"), hint)
    })
}

/// An array of texts; the environment may write it as JSON, `["a", "b"]`.
pub(super) fn texts(value: &Value) -> Option<Vec<String>> {
    match &value.kind {
        ValueKind::Array(values) => values.iter().map(|value| text(value).ok()).collect(),
        ValueKind::String(text) if text.starts_with('[') => serde_json::from_str(text).ok(),
        _other => None,
    }
}

fn within<T: PartialOrd>(
    value: T,
    range: &RangeInclusive<T>,
    written: impl Fn(&T) -> String,
) -> Result<T, Wrong> {
    if range.contains(&value) {
        return Ok(value);
    }
    let hint = format!("write between {} and {}", written(range.start()), written(range.end()));
    Err(Wrong::new(format!("{} is out of range", written(&value)), hint))
}

fn article(kind: &ValueKind) -> impl Display + use<> {
    match kind {
        ValueKind::Nil => "nothing",
        ValueKind::Boolean(_) => "a boolean",
        ValueKind::I64(_)
        | ValueKind::I128(_)
        | ValueKind::U64(_)
        | ValueKind::U128(_)
        | ValueKind::Float(_) => "a number",
        ValueKind::String(_) => "text",
        ValueKind::Table(_) => "a section",
        ValueKind::Array(_) => "an array",
    }
}

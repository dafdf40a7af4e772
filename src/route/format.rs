//! How key, body and header values are written: as they are stored, or as Debezium's event router writes
//! them, byte for byte, for consumers that read its records. Pure; the stored bytes are only ever quoted.

use std::fmt::Write as _;

use bytes::Bytes;

use super::row::Row;
use super::{invalid, too_large};
use crate::config::{EnvelopeField, Format};
use crate::message::{Header, Timestamp};
use crate::sink::Failure;

/// Place of the row's time in an envelope. No template has it: it is no text.
pub(super) const CREATED_AT: &str = "created_at";

/// What is sent for a payload that is NULL within JSON.
const NULL: &str = "null";

/// The body as it is sent.
pub(super) fn body(
    format: &Format,
    payload: Option<Bytes>,
    row: Row<'_>,
    bytes_max: usize,
) -> Result<Option<Bytes>, Failure> {
    let json = match format {
        // Debezium's own records of a NULL payload never arrive in this format: it is a tombstone here.
        Format::Raw | Format::Plain => return Ok(payload),
        Format::JsonString => string_or_null(payload.as_deref(), "payload")?,
        Format::Envelope(fields) => envelope(payload.as_deref(), fields, row)?,
    };
    if json.len() > bytes_max {
        let bytes = json.len();
        return Err(too_large(format!(
            "as JSON the payload has {bytes} bytes, message_bytes_max is {bytes_max}"
        )));
    }
    Ok(Some(json.into()))
}

/// The key as it is sent; order is kept by the key as it is stored.
pub(super) fn key(format: &Format, key: Option<Bytes>) -> Result<Option<Bytes>, Failure> {
    match format {
        Format::Raw | Format::Plain => Ok(key),
        Format::JsonString | Format::Envelope(_) => {
            key.map(|key| string(&key, "key").map(Bytes::from)).transpose()
        }
    }
}

/// Header values as they are sent; a null one stays null.
pub(super) fn headers(format: &Format, headers: &mut [Header]) -> Result<(), Failure> {
    match format {
        Format::Raw => Ok(()),
        Format::Plain | Format::JsonString | Format::Envelope(_) => {
            headers.iter_mut().try_for_each(|header| {
                let quoted = header.value.as_deref().map(|value| string(value, "header")).transpose()?;
                header.value = quoted.map(Bytes::from);
                Ok(())
            })
        }
    }
}

fn envelope(payload: Option<&[u8]>, fields: &[EnvelopeField], row: Row<'_>) -> Result<String, Failure> {
    let mut json = String::from("{\"payload\":");
    json.push_str(&string_or_null(payload, "payload")?);
    for EnvelopeField { place, name } in fields {
        json.push(',');
        quote(&mut json, name);
        json.push(':');
        json.push_str(&field(place, row)?);
    }
    json.push('}');
    Ok(json)
}

fn field(place: &str, row: Row<'_>) -> Result<String, Failure> {
    if place == CREATED_AT {
        let time = row.message.created_at.map(|time| format!("\"{}\"", iso(time)));
        return Ok(time.unwrap_or_else(|| NULL.to_owned()));
    }
    string_or_null(row.value(place).as_deref(), place)
}

fn string_or_null(bytes: Option<&[u8]>, what: &str) -> Result<String, Failure> {
    bytes.map_or_else(|| Ok(NULL.to_owned()), |bytes| string(bytes, what))
}

fn string(bytes: &[u8], what: &str) -> Result<String, Failure> {
    let text = std::str::from_utf8(bytes)
        .map_err(|_| invalid(format!("its {what} is not UTF-8 text, which route.format needs")))?;
    let mut json = String::with_capacity(text.len() + text.len() / 8 + 2);
    quote(&mut json, text);
    Ok(json)
}

/// Appends `text` as a JSON string, escaped as Jackson escapes it when it writes UTF-8: characters beyond
/// the basic plane become two escapes, all other text beyond ASCII stays as it is.
fn quote(json: &mut String, text: &str) {
    json.push('"');
    let mut written = 0;
    for (at, c) in text.char_indices() {
        if c < ' ' || c == '"' || c == '\\' || c > '\u{ffff}' {
            json.push_str(&text[written..at]);
            escape(json, c);
            written = at + c.len_utf8();
        }
    }
    json.push_str(&text[written..]);
    json.push('"');
}

fn escape(json: &mut String, c: char) {
    match c {
        '"' => json.push_str("\\\""),
        '\\' => json.push_str("\\\\"),
        '\u{8}' => json.push_str("\\b"),
        '\t' => json.push_str("\\t"),
        '\n' => json.push_str("\\n"),
        '\u{c}' => json.push_str("\\f"),
        '\r' => json.push_str("\\r"),
        other => {
            for unit in other.encode_utf16(&mut [0; 2]) {
                write!(json, "\\u{unit:04X}").expect("a string can be written to");
            }
        }
    }
}

const MICROS_PER_DAY: i64 = 86_400_000_000;

/// ISO 8601 in UTC, with as many digits after the second as there are.
fn iso(Timestamp(micros): Timestamp) -> String {
    let (year, month, day) = date(micros.div_euclid(MICROS_PER_DAY));
    let of_day = micros.rem_euclid(MICROS_PER_DAY);
    let (seconds, micros) = (of_day / 1_000_000, of_day % 1_000_000);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    // Java writes a sign before a year of more than four digits, and before a negative one.
    let year = match year {
        0..=9_999 => format!("{year:04}"),
        10_000.. => format!("+{year}"),
        _ => format!("{year:05}"),
    };
    let fraction = format!(".{micros:06}");
    let fraction = fraction.trim_end_matches('0').trim_end_matches('.');
    format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

/// Year, month and day of a number of days since 1970-01-01, in the Gregorian calendar before its time too.
fn date(days: i64) -> (i64, i64, i64) {
    const DAYS_PER_ERA: i64 = 146_097;
    /// From 0000-03-01, where a year that ends with its leap day begins, to 1970-01-01.
    const MARCH_0000: i64 = 719_468;

    let days = days + MARCH_0000;
    let (era, day) = (days.div_euclid(DAYS_PER_ERA), days.rem_euclid(DAYS_PER_ERA));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn quoted(text: &str) -> String {
        let mut json = String::new();
        quote(&mut json, text);
        json
    }

    #[test]
    fn text_is_escaped_as_jackson_does() {
        for (text, json) in [
            ("", r#""""#),
            ("a\"b\\c/d", r#""a\"b\\c/d""#),
            ("\u{8}\t\n\u{c}\r", r#""\b\t\n\f\r""#),
            ("\u{0}\u{1f}\u{7f}", "\"\\u0000\\u001F\u{7f}\""),
            ("Zoë ☕ \u{2028}", "\"Zoë ☕ \u{2028}\""),
            ("-🔑-", r#""-\uD83D\uDD11-""#),
        ] {
            assert_eq!(quoted(text), json);
        }
    }

    #[test]
    fn a_time_is_written_as_java_does() {
        const SECOND: i64 = 1_000_000;
        for (micros, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (1_767_323_045_678_901, "2026-01-02T03:04:05.678901Z"),
            (-1, "1969-12-31T23:59:59.999999Z"),
            (951_782_400 * SECOND + 120_000, "2000-02-29T00:00:00.12Z"),
            (253_402_300_800 * SECOND, "+10000-01-01T00:00:00Z"),
            (-62_167_219_200 * SECOND, "0000-01-01T00:00:00Z"),
            (-62_198_755_200 * SECOND, "-0001-01-01T00:00:00Z"),
        ] {
            assert_eq!(iso(Timestamp(micros)), text);
        }
        // What infinity is stored as: nonsense, but no panic.
        assert!(
            iso(Timestamp(i64::MAX)).starts_with("+294247-") && iso(Timestamp(i64::MIN)).starts_with('-')
        );
    }

    proptest! {
        #[test]
        fn what_is_quoted_reads_back(text in any::<String>()) {
            prop_assert_eq!(serde_json::from_str::<String>(&quoted(&text)).expect("JSON"), text);
        }

        #[test]
        fn days_follow_one_another(day in -800_000_i64..3_000_000) {
            let (today, tomorrow) = (date(day), date(day + 1));
            let expected = if today.1 == tomorrow.1 { today.2 + 1 } else { 1 };
            prop_assert!(today < tomorrow);
            prop_assert_eq!(tomorrow.2, expected);
        }
    }
}

//! Rows as the server sends them become messages. Copies every byte once, into one allocation a row;
//! looks into nothing but the headers.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;
use sqlx::postgres::PgRow;
use sqlx::{Row, ValueRef};
use uuid::Uuid;

use super::outbox::IdKind;
use crate::config::HeaderColumns;
use crate::message::{Header, Message, Payload, Position, RowId, RowRef, Timestamp};

/// Columns about the moment, before those of a row.
const MOMENT: usize = 4;

const ID: usize = MOMENT;
const POSITION: usize = MOMENT + 1;
const KEY: usize = MOMENT + 2;
const KIND: usize = MOMENT + 3;
const DESTINATION: usize = MOMENT + 4;
const CREATED_AT: usize = MOMENT + 5;
const HEADERS: usize = MOMENT + 6;
const HEADER_VALUES: usize = MOMENT + 7;
const MAPPED_HEADERS: usize = MOMENT + 8;

/// Microseconds from 1970 to 2000, where the server's timestamps start.
const EPOCH_2000: i64 = 946_684_800_000_000;

/// Header names repeat in every row; so many different ones share their text, further ones do not.
const NAMES_MAX: usize = 256;

/// A row that does not look as the statement promised.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Misread(pub(crate) &'static str);

/// Reads rows of the fetch statement.
#[derive(Debug)]
pub(crate) struct Decoder {
    id: IdKind,
    headers: Option<HeaderColumns>,
    mapped: Vec<Arc<str>>,
    names: HashMap<Box<str>, Arc<str>>,
}

/// A message with the sizes that the byte budget is computed from.
#[derive(Debug)]
pub(crate) struct Decoded {
    pub(crate) message: Message,
    /// As the table stores the payload.
    pub(crate) stored: u64,
    /// As it was sent.
    pub(crate) sent: u64,
}

impl Decoder {
    /// `mapped`: names of the headers made from columns, in the order of the statement.
    pub(crate) fn new(id: IdKind, headers: Option<HeaderColumns>, mapped: Vec<Arc<str>>) -> Self {
        Self { id, headers, mapped, names: HashMap::new() }
    }

    pub(crate) fn row(&mut self, row: &PgRow) -> Result<Decoded, Misread> {
        let size_column = MAPPED_HEADERS + self.mapped.len() + 1;
        let size = bytes(row, size_column).map(int).transpose()?;
        let body = bytes(row, size_column + 1);
        let mut text = Text::with_capacity(row, body);
        let (key, kind) = (text.copy(bytes(row, KEY)), text.copy(bytes(row, KIND)));
        let destination = text.copy(bytes(row, DESTINATION));
        let mut headers = Vec::new();
        let malformed = self.headers(row, &mut text, &mut headers).err();
        for (i, name) in self.mapped.iter().enumerate() {
            headers.push((Arc::clone(name), text.copy(bytes(row, MAPPED_HEADERS + i))));
        }
        let body = text.copy(body);
        let text = text.freeze();
        let message = Message {
            row: RowRef { id: id(self.id, bytes(row, ID))?, position: position(row)? },
            key: text.slice(key),
            kind: text.slice(kind),
            destination: text.slice(destination),
            headers: headers
                .into_iter()
                .map(|(name, value)| Header { name, value: text.slice(value) })
                .collect(),
            payload: payload(size, text.slice(body)),
            created_at: bytes(row, CREATED_AT).map(timestamp).transpose()?,
            malformed,
        };
        let stored = bytes(row, size_column - 1).map(int).transpose()?.unwrap_or(0);
        let sent = match &message.payload {
            Payload::Stored(body) => body.len() as u64,
            Payload::Null | Payload::Oversize(_) => 0,
        };
        Ok(Decoded { message, stored: stored.unsigned_abs(), sent })
    }

    /// Appends the row's headers; `Err` says what is wrong with the stored ones.
    fn headers(&mut self, row: &PgRow, text: &mut Text, headers: &mut Headers) -> Result<(), Arc<str>> {
        let (names, values) = (bytes(row, HEADERS), bytes(row, HEADER_VALUES));
        match (&self.headers, names) {
            (Some(HeaderColumns::Json(_)), Some(json)) => self.json_headers(json, text, headers),
            (Some(HeaderColumns::Arrays { .. }), _) => self.array_headers(names, values, text, headers),
            (Some(HeaderColumns::Json(_)) | None, _) => Ok(()),
        }
    }

    fn json_headers(&mut self, json: &[u8], text: &mut Text, headers: &mut Headers) -> Result<(), Arc<str>> {
        if json == b"null" {
            return Ok(());
        }
        let mut reader = serde_json::Deserializer::from_slice(json);
        let visitor = Object { decoder: self, text, headers };
        serde::Deserializer::deserialize_map(&mut reader, visitor)
            .map_err(|_| "its headers are not a JSON object of names to values".into())
    }

    fn array_headers(
        &mut self,
        names: Option<&[u8]>,
        values: Option<&[u8]>,
        text: &mut Text,
        headers: &mut Headers,
    ) -> Result<(), Arc<str>> {
        let (names, values) = (elements(names)?, elements(values)?);
        if names.len() != values.len() {
            return Err(format!("it has {} header names and {} values", names.len(), values.len()).into());
        }
        for (name, value) in names.into_iter().zip(values) {
            let name = name.and_then(|name| std::str::from_utf8(name).ok());
            let name = self.name(name.ok_or("one of its header names is NULL")?);
            headers.push((name, text.copy(value)));
        }
        Ok(())
    }

    fn name(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.names.get(name) {
            return Arc::clone(known);
        }
        let shared: Arc<str> = name.into();
        if self.names.len() < NAMES_MAX {
            self.names.insert(name.into(), Arc::clone(&shared));
        }
        shared
    }
}

type Headers = Vec<(Arc<str>, Option<Range<usize>>)>;

/// The bytes of one row, in the making.
struct Text(Vec<u8>);

impl Text {
    /// Room for all that may be copied out of `row`; no header takes more than it does as JSON.
    fn with_capacity(row: &PgRow, body: Option<&[u8]>) -> Self {
        let size_of = |i| bytes(row, i).map_or(0, <[u8]>::len);
        let fields: usize = (KEY..row.len() - 3).map(size_of).sum();
        Self(Vec::with_capacity(fields + body.map_or(0, <[u8]>::len)))
    }

    fn copy(&mut self, value: Option<&[u8]>) -> Option<Range<usize>> {
        let start = self.0.len();
        self.0.extend_from_slice(value?);
        Some(start..self.0.len())
    }

    fn freeze(self) -> Frozen {
        Frozen(Bytes::from(self.0))
    }
}

struct Frozen(Bytes);

impl Frozen {
    fn slice(&self, range: Option<Range<usize>>) -> Option<Bytes> {
        range.map(|range| self.0.slice(range))
    }
}

/// A JSON object read as headers: strings as they are, null as no value, all else as its JSON text.
struct Object<'a> {
    decoder: &'a mut Decoder,
    text: &'a mut Text,
    headers: &'a mut Headers,
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object of header names to values")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
            let value = json_value(value.get()).map_err(serde::de::Error::custom)?;
            let range = self.text.copy(value.as_deref().map(str::as_bytes));
            self.headers.push((self.decoder.name(&name), range));
        }
        Ok(())
    }
}

fn json_value(json: &str) -> serde_json::Result<Option<std::borrow::Cow<'_, str>>> {
    match json.as_bytes() {
        [b'"', ..] if !json.contains('\\') => Ok(Some(json[1..json.len() - 1].into())),
        [b'"', ..] => serde_json::from_str::<String>(json).map(|value| Some(value.into())),
        b"null" => Ok(None),
        _ => Ok(Some(json.into())),
    }
}

/// The elements of a one-dimensional array in the server's binary format.
fn elements(array: Option<&[u8]>) -> Result<Vec<Option<&[u8]>>, Arc<str>> {
    let Some(array) = array else { return Ok(Vec::new()) };
    let dimensions = array.first_chunk().map_or(0, |head| i32::from_be_bytes(*head));
    if dimensions == 0 {
        return Ok(Vec::new());
    }
    // Dimensions, flags, element type, then length and lower bound of the one dimension.
    let mut rest = array.get(20..).filter(|_| dimensions == 1).ok_or("one of its header arrays is nested")?;
    let mut elements = Vec::new();
    while let Some((head, tail)) = rest.split_first_chunk() {
        let length = usize::try_from(i32::from_be_bytes(*head)).ok();
        let (element, tail) =
            tail.split_at_checked(length.unwrap_or(0)).ok_or("a header array ends early")?;
        elements.push(length.map(|_| element));
        rest = tail;
    }
    Ok(elements)
}

/// A column's bytes, borrowed. `None` is NULL.
pub(crate) fn bytes(row: &PgRow, column: usize) -> Option<&[u8]> {
    let value = row.try_get_raw(column).expect("the statement has a fixed number of columns");
    if value.is_null() { None } else { value.as_bytes().ok() }
}

/// A column's text. `None` is NULL.
pub(crate) fn text(row: &PgRow, column: usize) -> Option<&str> {
    bytes(row, column).and_then(|bytes| std::str::from_utf8(bytes).ok())
}

/// `smallint`, `integer` or `bigint`, told by its width.
pub(crate) fn int(bytes: &[u8]) -> Result<i64, Misread> {
    match *bytes {
        [a, b] => Ok(i16::from_be_bytes([a, b]).into()),
        [a, b, c, d] => Ok(i32::from_be_bytes([a, b, c, d]).into()),
        _ => bytes.try_into().map(i64::from_be_bytes).map_err(|_| Misread("an integer has an odd width")),
    }
}

/// `timestamp` or `timestamptz`, the former taken as UTC.
pub(crate) fn timestamp(bytes: &[u8]) -> Result<Timestamp, Misread> {
    Ok(Timestamp(int(bytes)?.saturating_add(EPOCH_2000)))
}

pub(crate) fn id(kind: IdKind, bytes: Option<&[u8]>) -> Result<RowId, Misread> {
    let bytes = bytes.ok_or(Misread("a row has no id: the id column must be not null"))?;
    match kind {
        IdKind::Int => int(bytes).map(RowId::Int),
        IdKind::Uuid => {
            Uuid::from_slice(bytes).map(RowId::Uuid).map_err(|_| Misread("a uuid is not 16 bytes"))
        }
        IdKind::Text => std::str::from_utf8(bytes)
            .map(|text| RowId::Text(text.into()))
            .map_err(|_| Misread("an id is not UTF-8")),
    }
}

fn position(row: &PgRow) -> Result<Position, Misread> {
    bytes(row, POSITION).ok_or(Misread("a row has no position")).and_then(int).map(Position)
}

fn payload(size: Option<i64>, body: Option<Bytes>) -> Payload {
    match (size, body) {
        (None, _) => Payload::Null,
        (Some(_), Some(body)) => Payload::Stored(body),
        (Some(size), None) => Payload::Oversize(size.unsigned_abs()),
    }
}

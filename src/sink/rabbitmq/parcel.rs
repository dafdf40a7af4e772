//! A record as an AMQP message, or why there can be none. Pure.
//!
//! The client panics where a short string is too long, and the broker ends the channel, or the whole
//! connection, where a message is: so nothing of that kind gets as far as either.

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, ByteArray, FieldTable, LongString, ShortString};

use crate::message::Header;
use crate::sink::{Destination, ErrorType, Failure, Fault, Properties, Record};

/// Kept on disk by a durable queue.
const PERSISTENT: u8 = 2;

/// The header that tells an absent body from an empty one.
pub(super) const NULL_HEADER: &str = "relay-null";

/// A frame's own bytes beside what it carries, and those of a content header beside its properties.
const FRAME_OVERHEAD: usize = 8 + 14;

/// What the broker takes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) message_bytes_max: usize,
    /// Properties and headers of a message share one frame; a larger one ends the connection.
    pub(super) frame_bytes_max: usize,
}

/// All that a publish takes.
#[derive(Debug)]
pub(super) struct Parcel {
    pub(super) exchange: ShortString,
    pub(super) routing_key: ShortString,
    pub(super) properties: BasicProperties,
    pub(super) body: Bytes,
}

impl Parcel {
    pub(super) fn new(record: &Record, limits: Limits) -> Result<Self, Failure> {
        let Destination::Exchange { exchange, routing_key } = &record.destination else {
            return Err(invalid(format!("{} is a topic, and RabbitMQ has exchanges", record.destination)));
        };
        let Some(said) = &record.properties else {
            return Err(invalid("the record says nothing of itself, not even its id".to_owned()));
        };
        let body = record.body.clone().unwrap_or_default();
        fits("the body", body.len(), limits.message_bytes_max)?;
        let headers = headers(&record.headers, record.body.is_none())?;
        let bytes = property_bytes(said) + header_bytes(&record.headers) + FRAME_OVERHEAD;
        fits("all headers and properties", bytes, limits.frame_bytes_max)?;
        Ok(Self {
            exchange: short("the exchange", exchange.as_bytes())?,
            routing_key: short("the routing key", routing_key.as_bytes())?,
            properties: properties(said, headers, record.timestamp_ms)?,
            body,
        })
    }
}

/// Sets one property.
type With = fn(BasicProperties, ShortString) -> BasicProperties;

fn properties(
    said: &Properties,
    headers: FieldTable,
    timestamp_ms: Option<i64>,
) -> Result<BasicProperties, Failure> {
    let mut properties = BasicProperties::default()
        .with_delivery_mode(PERSISTENT)
        .with_message_id(short("message_id", &said.message_id)?);
    if !headers.inner().is_empty() {
        properties = properties.with_headers(headers);
    }
    // The protocol counts seconds, from 1970 on.
    if let Some(seconds) = timestamp_ms.and_then(|ms| u64::try_from(ms.div_euclid(1_000)).ok()) {
        properties = properties.with_timestamp(seconds);
    }
    let optional: [(&str, Option<&[u8]>, With); 5] = [
        ("type", said.kind.as_deref(), BasicProperties::with_type),
        ("content_type", said.content_type.as_deref(), BasicProperties::with_content_type),
        ("correlation_id", said.correlation_id.as_deref(), BasicProperties::with_correlation_id),
        ("reply_to", said.reply_to.as_deref(), BasicProperties::with_reply_to),
        ("app_id", said.app_id.as_deref().map(str::as_bytes), BasicProperties::with_app_id),
    ];
    for (name, value, with) in optional {
        if let Some(value) = value {
            properties = with(properties, short(name, value)?);
        }
    }
    Ok(properties)
}

/// A table holds each name once: the last value of a name stands.
fn headers(headers: &[Header], is_null: bool) -> Result<FieldTable, Failure> {
    let mut table = FieldTable::default();
    for header in headers {
        table.insert(short("a header's name", header.name.as_bytes())?, value(header.value.as_ref()));
    }
    if is_null {
        table.insert(NULL_HEADER.into(), AMQPValue::Boolean(true));
    }
    Ok(table)
}

/// Text is text to every client; what is not is bytes.
fn value(value: Option<&Bytes>) -> AMQPValue {
    match value {
        None => AMQPValue::Void,
        Some(bytes) if std::str::from_utf8(bytes).is_ok() => {
            AMQPValue::LongString(LongString::from(bytes.to_vec()))
        }
        Some(bytes) => AMQPValue::ByteArray(ByteArray::from(bytes.to_vec())),
    }
}

fn short(what: &str, bytes: &[u8]) -> Result<ShortString, Failure> {
    let text = std::str::from_utf8(bytes).map_err(|_| invalid(format!("{what} is not UTF-8")))?;
    ShortString::try_new(text)
        .map_err(|_| invalid(format!("{what} has {} bytes, AMQP takes 255", bytes.len())))
}

fn fits(what: &str, bytes: usize, bytes_max: usize) -> Result<(), Failure> {
    if bytes <= bytes_max {
        return Ok(());
    }
    let reason = format!("{what} take {bytes} bytes, the broker takes {bytes_max}");
    Err(Failure::refused(Fault::Permanent, ErrorType::TooLarge, reason))
}

/// Length bytes, type bytes and values, at most.
fn header_bytes(headers: &[Header]) -> usize {
    let one = |header: &Header| 6 + header.name.len() + header.value.as_ref().map_or(0, Bytes::len);
    4 + headers.iter().map(one).sum::<usize>() + 2 + NULL_HEADER.len()
}

fn property_bytes(said: &Properties) -> usize {
    let optional = [&said.kind, &said.content_type, &said.correlation_id, &said.reply_to];
    let optional: usize = optional.iter().map(|value| 1 + value.as_ref().map_or(0, Bytes::len)).sum();
    let fixed = 2 + 8 + 1;
    1 + said.message_id.len() + optional + 1 + said.app_id.as_ref().map_or(0, |id| id.len()) + fixed
}

fn invalid(reason: String) -> Failure {
    Failure::refused(Fault::Permanent, ErrorType::InvalidRecord, reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::OnUnroutable;

    const LIMITS: Limits = Limits { message_bytes_max: 1_000, frame_bytes_max: 4_096 };

    fn record() -> Record {
        Record {
            destination: Destination::Exchange { exchange: "events".into(), routing_key: "orders".into() },
            key: None,
            headers: vec![],
            body: Some(Bytes::from_static(b"body")),
            timestamp_ms: Some(1_700_000_000_999),
            properties: Some(Box::new(Properties {
                message_id: Bytes::from_static(b"1"),
                kind: None,
                content_type: None,
                correlation_id: None,
                reply_to: None,
                app_id: None,
                on_unroutable: OnUnroutable::Block,
            })),
        }
    }

    fn refusal(record: &Record) -> (Fault, ErrorType) {
        let failure = Parcel::new(record, LIMITS).map(drop).unwrap_err();
        assert!(!failure.maybe_published);
        (failure.fault, failure.error_type)
    }

    fn header(name: &str, value: Option<&'static [u8]>) -> Header {
        Header { name: name.into(), value: value.map(Bytes::from_static) }
    }

    #[test]
    fn every_message_is_persistent_and_has_its_id_and_the_second_it_was_written_in() {
        let parcel = Parcel::new(&record(), LIMITS).unwrap();
        let expected = BasicProperties::default().with_delivery_mode(2).with_message_id("1".into());
        assert_eq!(parcel.properties, expected.with_timestamp(1_700_000_000));
    }

    #[test]
    fn header_values_are_text_where_they_can_be_and_bytes_where_not() {
        let headers = vec![
            header("text", Some("schön".as_bytes())),
            header("bytes", Some(b"\xff\x00")),
            header("null", None),
            header("twice", Some(b"1")),
            header("twice", Some(b"2")),
        ];
        let parcel = Parcel::new(&Record { headers, body: None, ..record() }, LIMITS).unwrap();
        let table = parcel.properties.headers().as_ref().unwrap().inner().clone();
        assert_eq!(table["text"], AMQPValue::LongString("schön".into()));
        assert_eq!(table["bytes"], AMQPValue::ByteArray(vec![0xff, 0].into()));
        assert_eq!(table["null"], AMQPValue::Void);
        assert_eq!(table["twice"], AMQPValue::LongString("2".into()));
        assert_eq!(table[NULL_HEADER], AMQPValue::Boolean(true));
        assert!(parcel.body.is_empty());
    }

    #[test]
    fn a_short_string_of_256_bytes_is_refused_wherever_it_stands() {
        let long = "x".repeat(256);
        let bytes = Bytes::from("x".repeat(256));
        let with = |change: &dyn Fn(&mut Properties)| {
            let mut record = record();
            change(record.properties.as_mut().unwrap());
            record
        };
        let exchange = |exchange: &str, routing_key: &str| Destination::Exchange {
            exchange: exchange.into(),
            routing_key: routing_key.into(),
        };
        let cases = [
            Record { destination: exchange(&long, "k"), ..record() },
            Record { destination: exchange("e", &long), ..record() },
            Record { headers: vec![header(&long, None)], ..record() },
            with(&|said| said.message_id = bytes.clone()),
            with(&|said| said.kind = Some(bytes.clone())),
            with(&|said| said.content_type = Some(bytes.clone())),
            with(&|said| said.correlation_id = Some(bytes.clone())),
            with(&|said| said.reply_to = Some(bytes.clone())),
            with(&|said| said.app_id = Some(long.as_str().into())),
            with(&|said| said.message_id = Bytes::from_static(b"\xff")),
            Record { destination: Destination::Topic("topic".into()), ..record() },
            Record { properties: None, ..record() },
        ];
        for record in cases {
            assert_eq!(refusal(&record), (Fault::Permanent, ErrorType::InvalidRecord), "{record:?}");
        }
        let fits = Record { destination: exchange(&"x".repeat(255), &"x".repeat(255)), ..record() };
        assert!(Parcel::new(&fits, LIMITS).is_ok());
    }

    #[test]
    fn what_the_broker_would_end_a_channel_or_a_connection_for_is_too_large() {
        let body = Record { body: Some(Bytes::from(vec![0; 1_001])), ..record() };
        assert_eq!(refusal(&body), (Fault::Permanent, ErrorType::TooLarge));
        let value = Some(Bytes::from(vec![b'x'; 4_096]));
        let headers = Record { headers: vec![Header { name: "h".into(), value }], ..record() };
        assert_eq!(refusal(&headers), (Fault::Permanent, ErrorType::TooLarge));
    }
}

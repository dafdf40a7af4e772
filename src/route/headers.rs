//! What a record carries beside its key and body: headers, and on AMQP properties.
//!
//! Rows are written by the application's users, in part: what a row may not say about itself, and how
//! much it may say, is decided here.

use std::sync::Arc;

use bytes::Bytes;

use super::name::AMQP_BYTES_MAX;
use super::row::id_text;
use super::{format, invalid, too_large};
use crate::config;
use crate::message::{Header, RowId};
use crate::sink::{Failure, Properties, printable};

/// Headers of one record, the relay's own included. Consumers read them all before they look at the
/// payload, and a row that wants more has put its payload in the wrong column.
pub const HEADERS_MAX: usize = 64;

/// Bytes of all header names and values of one record together; the client's size limit adds them to
/// the payload's, and RabbitMQ takes them in one frame, of 128 KiB unless told otherwise.
pub const HEADER_BYTES_MAX: usize = 64 * 1024;

/// Bytes of one header's value: leaves room for all that others have to say, such as a trace.
pub const HEADER_VALUE_BYTES_MAX: usize = 32 * 1024;

/// Mapped headers that AMQP has properties for.
pub(crate) const CORRELATION_ID: &str = "correlation-id";
pub(crate) const REPLY_TO: &str = "reply-to";
pub(crate) const CONTENT_TYPE: &str = "content-type";

/// What RabbitMQ takes for more than a header.
const AMQP_RESERVED: [&str; 4] = ["CC", "BCC", "user_id", "expiration"];

/// Answers to this queue go to whoever consumes on the publisher's channel. There is nobody, and RabbitMQ
/// closes the channel, with all that is on its way.
const DIRECT_REPLY_TO: &[u8] = b"amq.rabbitmq.reply-to";

/// Which headers the relay writes, and which rows may bring.
#[derive(Debug, Clone)]
pub(super) struct Headers {
    id: Arc<str>,
    /// `None` if none is wanted.
    kind: Option<Arc<str>>,
    key: Option<Arc<str>>,
    is_kind_mapped: bool,
    /// Names that a row's own headers may not have, beside those that follow a rule.
    reserved: Vec<Arc<str>>,
    /// The destinations are exchanges.
    amqp: bool,
    content_type: Option<Bytes>,
    /// Mapped columns that are in the envelope instead.
    enveloped: Vec<Arc<str>>,
    /// How many of a message's last headers are mapped columns.
    mapped: usize,
}

/// The parts of a message that become headers and properties.
pub(super) struct Parts<'m> {
    pub(super) id: &'m RowId,
    pub(super) kind: Option<Bytes>,
    pub(super) key: Option<&'m Bytes>,
    /// The row's own, followed by the mapped columns.
    pub(super) headers: Vec<Header>,
}

impl Headers {
    pub(super) fn new(route: &config::Route, columns: &config::Columns) -> Self {
        let name = |name: &String| Arc::from(name.as_str());
        let (id, kind, key) = (
            name(&route.id_header),
            route.kind_header.as_ref().map(name),
            route.key_header.as_ref().map(name),
        );
        let lifted = [CORRELATION_ID, REPLY_TO, CONTENT_TYPE].into_iter();
        let lifted = lifted.filter(|header| columns.to_headers.contains_key(*header)).map(Arc::from);
        let own = std::iter::once(&id).chain(&kind).chain(&key).map(Arc::clone);
        let reserved = own.chain(lifted).collect();
        Self {
            reserved,
            id,
            kind,
            key,
            is_kind_mapped: columns.kind.is_some(),
            amqp: matches!(route.rest.target, config::Target::Exchange { .. }),
            content_type: route.content_type.as_ref().map(|text| Bytes::copy_from_slice(text.as_bytes())),
            enveloped: enveloped(&route.format),
            mapped: columns.to_headers.len(),
        }
    }

    /// How many of a message's last headers are mapped columns.
    pub(super) const fn mapped(&self) -> usize {
        self.mapped
    }

    /// Headers in the order they are sent, and properties where the destination is an exchange.
    pub(super) fn made(
        &self,
        mut parts: Parts<'_>,
        way: &config::Way,
        format: &config::Format,
    ) -> Result<(Vec<Header>, Option<Box<Properties>>), Failure> {
        let own = parts.headers.len().saturating_sub(self.mapped);
        self.check_names(&parts.headers[..own])?;
        let mut mapped = self.mapped;
        for name in &self.enveloped {
            lift(&mut parts.headers, &mut mapped, name);
        }
        let (mut headers, properties) = if self.amqp {
            let (headers, properties) = self.amqp(parts, mapped, way)?;
            (headers, Some(Box::new(properties)))
        } else {
            (self.plain(parts), None)
        };
        format::headers(format, &mut headers)?;
        check_sizes(&headers)?;
        Ok((headers, properties))
    }

    fn plain(&self, parts: Parts<'_>) -> Vec<Header> {
        let mut headers = Vec::with_capacity(2 + parts.headers.len());
        headers.push(Header { name: Arc::clone(&self.id), value: Some(id_bytes(parts.id)) });
        if let Some(name) = self.kind.as_ref().filter(|_| self.is_kind_mapped) {
            headers.push(Header { name: Arc::clone(name), value: parts.kind });
        }
        headers.extend(parts.headers);
        headers
    }

    fn amqp(
        &self,
        parts: Parts<'_>,
        mut mapped: usize,
        way: &config::Way,
    ) -> Result<(Vec<Header>, Properties), Failure> {
        let mut rest = parts.headers;
        let mut lift =
            |name| lift(&mut rest, &mut mapped, name).map(|value| property(name, value)).transpose();
        let correlation_id = lift(CORRELATION_ID)?;
        let reply_to = lift(REPLY_TO)?;
        let content_type = lift(CONTENT_TYPE)?.or_else(|| self.content_type.clone());
        if reply_to.as_deref() == Some(DIRECT_REPLY_TO) {
            return Err(invalid(
                "its reply-to is amq.rabbitmq.reply-to, which only its consumer may use".into(),
            ));
        }
        let mut headers = Vec::with_capacity(1 + rest.len());
        if let (Some(name), Some(key)) = (&self.key, parts.key) {
            headers.push(Header { name: Arc::clone(name), value: Some(key.clone()) });
        }
        headers.extend(rest);
        let properties = Properties {
            message_id: property("id", id_bytes(parts.id))?,
            kind: parts.kind.map(|kind| property("kind", kind)).transpose()?,
            content_type,
            correlation_id,
            reply_to,
            app_id: way.app_id.clone(),
            on_unroutable: way.on_unroutable,
        };
        Ok((headers, properties))
    }

    /// What a row's own headers may be called.
    fn check_names(&self, own: &[Header]) -> Result<(), Failure> {
        for header in own {
            let name = &*header.name;
            check_name(name).map_err(|rule| invalid(format!("a header's name {rule}")))?;
            if self.reserves(name) {
                let name = printable(name, 64);
                return Err(invalid(format!("the row has a header \"{name}\", which rows may not set")));
            }
        }
        Ok(())
    }

    /// A second header of the relay's would let a row pass for another one; the others are read as
    /// orders by brokers and frameworks. However they are spelt: many readers do not mind case.
    fn reserves(&self, name: &str) -> bool {
        self.reserved.iter().any(|reserved| reserved.eq_ignore_ascii_case(name))
            || name.starts_with("__")
            || is_relays(name)
            || self.amqp && is_amqps(name)
    }
}

fn enveloped(format: &config::Format) -> Vec<Arc<str>> {
    match format {
        config::Format::Raw | config::Format::Plain | config::Format::JsonString => Vec::new(),
        config::Format::Envelope(fields) => fields.iter().map(|field| field.place.as_str().into()).collect(),
    }
}

fn begins(name: &str, prefix: &str) -> bool {
    name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// Names that RabbitMQ takes for orders: to which other queues a message goes, among other things.
pub(super) fn is_amqps(name: &str) -> bool {
    begins(name, "x-") || AMQP_RESERVED.iter().any(|reserved| reserved.eq_ignore_ascii_case(name))
}

/// Names that are kept for the relay, whatever it comes to say.
pub(super) fn is_relays(name: &str) -> bool {
    begins(name, "relay-")
}

/// What any header may be called, whoever sets it: the rule it breaks, to be read after it.
pub(super) fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        Err("is empty")
    } else if name.len() > AMQP_BYTES_MAX {
        Err("is longer than 255 bytes")
    } else if name.chars().any(char::is_control) {
        Err("has a control character")
    } else {
        Ok(())
    }
}

fn check_sizes(headers: &[Header]) -> Result<(), Failure> {
    let count = headers.len();
    if count > HEADERS_MAX {
        return Err(invalid(format!("the record has {count} headers, at most {HEADERS_MAX} are sent")));
    }
    let size = |header: &Header| header.value.as_ref().map_or(0, Bytes::len);
    if let Some(header) = headers.iter().find(|header| size(header) > HEADER_VALUE_BYTES_MAX) {
        let (name, bytes) = (printable(&header.name, 64), size(header));
        let reason =
            format!("the header \"{name}\" has {bytes} bytes, at most {HEADER_VALUE_BYTES_MAX} are sent");
        return Err(too_large(reason));
    }
    let bytes: usize = headers.iter().map(|header| header.name.len() + size(header)).sum();
    if bytes > HEADER_BYTES_MAX {
        return Err(too_large(format!(
            "the headers have {bytes} bytes, at most {HEADER_BYTES_MAX} are sent"
        )));
    }
    Ok(())
}

/// Takes the mapped column of that name out of the headers. A row's own header is never it.
fn lift(headers: &mut Vec<Header>, mapped: &mut usize, name: &str) -> Option<Bytes> {
    let first = headers.len().saturating_sub(*mapped);
    let at = headers[first..].iter().position(|header| *header.name == *name)?;
    *mapped -= 1;
    headers.remove(first + at).value
}

/// AMQP's properties are short strings.
fn property(name: &str, value: Bytes) -> Result<Bytes, Failure> {
    if value.len() > AMQP_BYTES_MAX {
        let bytes = value.len();
        return Err(invalid(format!(
            "its {name} has {bytes} bytes, a property of a message takes {AMQP_BYTES_MAX}"
        )));
    }
    if std::str::from_utf8(&value).is_err() || value.contains(&0) {
        return Err(invalid(format!("its {name} is not UTF-8 text, and a property of a message must be")));
    }
    Ok(value)
}

fn id_bytes(id: &RowId) -> Bytes {
    Bytes::from(id_text(id).into_owned())
}

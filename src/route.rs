//! A row becomes a record: topic, key, headers, timestamp. Pure.
//!
//! [`Route`] is made once from the configuration and then applied to every message. It decides nothing
//! about delivery: a row that cannot become a record is handed on with the reason. What a record holds
//! is documented to the byte in `docs/record.md`.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;

use crate::config;
use crate::message::{Header, Message, Payload, RowId, RowRef, Timestamp};
use crate::sink::{Destination, ErrorType, Failure, Fault, Record, printable};
use crate::source::LaneKey;

mod template;
mod topic;

pub use template::Template;

use template::Part;

/// Headers of one record, the id's and the kind's included. Consumers read them all before they look
/// at the payload, and a row that wants more has put its payload in the wrong column.
pub const HEADERS_MAX: usize = 64;

/// Bytes of all header names and values of one record together; the client's size limit adds them to
/// the payload's.
pub const HEADER_BYTES_MAX: usize = 64 * 1024;

/// Topic names kept for reuse, at most 249 bytes each. Past it every record pays for its own copy.
const TOPICS_KEPT_MAX: usize = 10_000;

/// A row on its way to the broker, or the reason why it has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routed {
    pub row: RowRef,
    /// `None` where there is no order to keep: a row without a key, or `ordering = "none"`.
    pub lane: Option<LaneKey>,
    /// Bytes it counts for in the windows.
    pub bytes: usize,
    /// The failure is always `Permanent`: the row has to change, or the configuration.
    pub content: Result<Arc<Record>, Failure>,
    pub created_at: Option<Timestamp>,
}

/// How messages become records.
#[derive(Debug, Clone)]
pub struct Route {
    topic: Template,
    id_header: Arc<str>,
    /// `None` if no kind column is mapped.
    kind_header: Option<Arc<str>>,
    /// How many of a message's last headers are mapped columns.
    mapped_headers: usize,
    ordering: config::Ordering,
    message_bytes_max: usize,
    /// Valid names seen so far, so that equal topics share one allocation and one validation.
    topics: HashSet<Arc<str>>,
    /// The name being rendered; kept for its allocation.
    rendered: String,
}

/// A topic name as rendered, and the rule it breaks if it is not valid.
struct Topic {
    name: Arc<str>,
    verdict: Result<(), &'static str>,
}

/// Why a message has no topic.
enum NoTopic {
    /// This place of the template is NULL.
    Null(String),
    /// This place of the template is not UTF-8.
    Binary(String),
}

impl Route {
    /// # Errors
    /// Everything that is wrong with the route, each with what to write instead.
    pub fn new(
        route: &config::Route,
        outbox: &config::Outbox,
        ordering: config::Ordering,
    ) -> Result<Self, Vec<String>> {
        let problems = problems(route, &outbox.columns);
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(Self {
            topic: route.topic.clone(),
            id_header: route.id_header.as_str().into(),
            kind_header: outbox.columns.kind.as_ref().map(|_| route.kind_header.as_str().into()),
            mapped_headers: outbox.columns.to_headers.len(),
            ordering,
            message_bytes_max: outbox.message_bytes_max,
            topics: HashSet::new(),
            rendered: String::new(),
        })
    }

    /// Where every row goes, if that does not depend on the row.
    #[must_use]
    pub fn fixed_destination(&self) -> Option<Destination> {
        match self.topic.parts() {
            [Part::Literal(name)] => Some(Destination::Topic(name.as_str().into())),
            _ => None,
        }
    }

    /// The topic as an SQL expression of type text, equal byte for byte to what [`apply`](Self::apply)
    /// computes and NULL where that finds no value. `column` gives the SQL of a place of the template
    /// as text: `o."kind"::text`.
    pub fn destination_sql(&self, column: impl Fn(&str) -> String) -> String {
        self.topic.sql(column)
    }

    /// Takes the message apart; its bytes are shared with the record, never copied.
    #[must_use]
    pub fn apply(&mut self, message: Message) -> Routed {
        let bytes = message.bytes();
        let row = message.row.clone();
        let created_at = message.created_at;
        let topic = self.topic_of(&message);
        let lane = self.lane_of(&message, topic.as_ref().ok());
        let content = self.record_of(message, topic);
        let bytes = content.as_ref().map_or(bytes, |record| record.bytes());
        Routed { row, lane, bytes, content: content.map(Arc::new), created_at }
    }

    fn topic_of(&mut self, message: &Message) -> Result<Topic, NoTopic> {
        self.rendered.clear();
        for part in self.topic.parts() {
            match part {
                Part::Literal(text) => self.rendered.push_str(text),
                Part::Place(name) => render(&mut self.rendered, name, message, self.mapped_headers)?,
            }
        }
        if let Some(name) = self.topics.get(self.rendered.as_str()) {
            return Ok(Topic { name: Arc::clone(name), verdict: Ok(()) });
        }
        let name: Arc<str> = self.rendered.as_str().into();
        let verdict = topic::check(&name);
        if verdict.is_ok() && self.topics.len() < TOPICS_KEPT_MAX {
            self.topics.insert(Arc::clone(&name));
        }
        Ok(Topic { name, verdict })
    }

    fn lane_of(&self, message: &Message, topic: Option<&Topic>) -> Option<LaneKey> {
        match self.ordering {
            config::Ordering::None => None,
            config::Ordering::Key => message.key.clone().map(|key| LaneKey {
                destination: topic.map(|topic| Destination::Topic(Arc::clone(&topic.name))),
                key,
            }),
        }
    }

    fn record_of(&self, message: Message, topic: Result<Topic, NoTopic>) -> Result<Record, Failure> {
        if let Some(reason) = message.malformed {
            return Err(Failure::refused(Fault::Permanent, ErrorType::InvalidRecord, reason));
        }
        let Topic { name, verdict } = topic.map_err(NoTopic::into_failure)?;
        verdict.map_err(|rule| bad_topic(&name, rule))?;
        Ok(Record {
            destination: Destination::Topic(name),
            body: self.body(message.payload)?,
            headers: self.headers(&message.row.id, message.kind, message.headers)?,
            key: message.key,
            timestamp_ms: message.created_at.map(Timestamp::as_millis).filter(|ms| *ms >= 0),
            properties: None,
        })
    }

    fn body(&self, payload: Payload) -> Result<Option<Bytes>, Failure> {
        match payload {
            Payload::Null => Ok(None),
            Payload::Stored(bytes) => Ok(Some(bytes)),
            Payload::Oversize(bytes) => Err(Failure::refused(
                Fault::Permanent,
                ErrorType::TooLarge,
                format!("the payload has {bytes} bytes, message_bytes_max is {}", self.message_bytes_max),
            )),
        }
    }

    fn headers(&self, id: &RowId, kind: Option<Bytes>, rest: Vec<Header>) -> Result<Vec<Header>, Failure> {
        let own = 1 + usize::from(self.kind_header.is_some());
        self.check_headers(own, &rest)?;
        let mut headers = Vec::with_capacity(own + rest.len());
        headers.push(Header { name: Arc::clone(&self.id_header), value: Some(id_text(id)) });
        if let Some(name) = &self.kind_header {
            headers.push(Header { name: Arc::clone(name), value: kind });
        }
        headers.extend(rest);
        Ok(headers)
    }

    fn check_headers(&self, own: usize, rest: &[Header]) -> Result<(), Failure> {
        let count = own + rest.len();
        if count > HEADERS_MAX {
            return Err(invalid(format!("the record has {count} headers, at most {HEADERS_MAX} are sent")));
        }
        if let Some(header) = rest.iter().find(|header| self.reserves(&header.name)) {
            let name = &header.name;
            return Err(invalid(format!("the row has a header {name:?}, which the relay sets itself")));
        }
        let bytes: usize = rest.iter().map(|h| h.name.len() + h.value.as_ref().map_or(0, Bytes::len)).sum();
        if bytes > HEADER_BYTES_MAX {
            return Err(Failure::refused(
                Fault::Permanent,
                ErrorType::TooLarge,
                format!("the headers have {bytes} bytes, at most {HEADER_BYTES_MAX} are sent"),
            ));
        }
        Ok(())
    }

    /// A second header of that name would let a row pass for another one.
    fn reserves(&self, name: &str) -> bool {
        *name == *self.id_header || self.kind_header.as_deref().is_some_and(|kind| kind == name)
    }
}

impl NoTopic {
    fn into_failure(self) -> Failure {
        match self {
            Self::Null(place) => invalid(format!("the topic needs {{{place}}}, which is NULL in this row")),
            Self::Binary(place) => {
                invalid(format!("the topic needs {{{place}}}, which is not UTF-8 text in this row"))
            }
        }
    }
}

/// Appends the value of the place `name`, as the database writes it.
fn render(topic: &mut String, name: &str, message: &Message, mapped_headers: usize) -> Result<(), NoTopic> {
    let value = match name {
        "id" => return render_id(topic, &message.row.id),
        "destination" => message.destination.as_ref(),
        "kind" => message.kind.as_ref(),
        "key" => message.key.as_ref(),
        header => mapped_header(message, mapped_headers, header),
    };
    let value = value.ok_or_else(|| NoTopic::Null(name.to_owned()))?;
    topic.push_str(std::str::from_utf8(value).map_err(|_| NoTopic::Binary(name.to_owned()))?);
    Ok(())
}

fn render_id(topic: &mut String, id: &RowId) -> Result<(), NoTopic> {
    write!(topic, "{id}").expect("writing to a string does not fail");
    Ok(())
}

/// Mapped columns come last and always; a header of the same name from the row itself is not one.
fn mapped_header<'a>(message: &'a Message, mapped_headers: usize, name: &str) -> Option<&'a Bytes> {
    let mapped = message.headers.iter().rev().take(mapped_headers);
    mapped.into_iter().find(|header| *header.name == *name)?.value.as_ref()
}

fn id_text(id: &RowId) -> Bytes {
    match id {
        RowId::Int(_) | RowId::Uuid(_) => Bytes::from(id.to_string()),
        RowId::Text(text) => Bytes::copy_from_slice(text.as_bytes()),
    }
}

fn invalid(reason: String) -> Failure {
    Failure::refused(Fault::Permanent, ErrorType::InvalidRecord, reason)
}

fn bad_topic(topic: &str, rule: &str) -> Failure {
    invalid(format!("the topic \"{}\" {rule}", printable(topic, 64)))
}

fn problems(route: &config::Route, columns: &config::Columns) -> Vec<String> {
    let topic = topic_problems(&route.topic, columns).into_iter();
    let mut problems: Vec<_> =
        topic.map(|(problem, hint)| format!("route.topic {problem}: {hint}")).collect();
    for (key, name) in [("id_header", &route.id_header), ("kind_header", &route.kind_header)] {
        if name.is_empty() {
            problems.push(format!("route.{key} is empty: write the name of a header"));
        } else if columns.to_headers.contains_key(name) {
            problems.push(format!(
                "route.{key} is \"{name}\", as is a header of outbox.header_columns: rename one of them"
            ));
        }
    }
    if route.id_header == route.kind_header {
        problems.push("route.id_header and route.kind_header are equal: rename one of them".to_owned());
    }
    problems
}

/// What is wrong with the topic over these columns, and what to write instead; both to be read after
/// the name of the key.
pub(crate) fn topic_problems(topic: &Template, columns: &config::Columns) -> Vec<(String, String)> {
    topic.parts().iter().filter_map(|part| topic_problem(part, columns)).collect()
}

fn topic_problem(part: &Part, columns: &config::Columns) -> Option<(String, String)> {
    let name = match part {
        Part::Literal(text) => {
            let rule = topic::check_characters(text).err()?;
            let hint =
                "write a name that Kafka takes, with {destination}, {kind} or {key} where a row decides";
            return Some((format!("holds \"{}\", which {rule}", printable(text, 64)), hint.to_owned()));
        }
        Part::Place(name) => name.as_str(),
    };
    let mapped = match name {
        "id" => true,
        "destination" => columns.destination.is_some(),
        "kind" => columns.kind.is_some(),
        "key" => columns.key.is_some(),
        header if columns.to_headers.contains_key(header) => true,
        other => {
            let hint = "write {destination}, {kind}, {key}, {id} or a header named in outbox.header_columns";
            return Some((format!("uses {{{other}}}, which is not known"), hint.to_owned()));
        }
    };
    (!mapped).then(|| {
        let hint = format!("set outbox.columns.{name}, or write a topic without {{{name}}}");
        (format!("uses {{{name}}}, but outbox.columns.{name} is not set"), hint)
    })
}

#[cfg(test)]
mod tests;

//! `[route]` and `[[route.when]]`: where rows go, and what is said of them there. Whether all of it fits
//! together and the columns is [`check`](crate::config::check)'s business.

use std::sync::Arc;

use config::{Map, Value};

use crate::config::problem::Wrong;
use crate::config::section::{Reader, Section};
use crate::config::value::{choice, scalar, text, texts};
use crate::config::{EnvelopeField, Format, Route, Rule, Target, Way};
use crate::route::{Allowed, Glob, Template};
use crate::sink::OnUnroutable;

const ON_UNROUTABLE: [(&str, OnUnroutable); 3] = [
    ("block", OnUnroutable::Block),
    ("dead-letter", OnUnroutable::DeadLetter),
    ("accept", OnUnroutable::Accept),
];

/// AMQP's short strings.
const PROPERTY_BYTES_MAX: usize = 255;

pub(super) fn route(reader: &mut Reader) -> Option<Route> {
    let to_exchange = is_to_exchange(reader);
    let mut section = reader.section("route");
    let keys = keys(&mut section);
    let allow = section.defaulted("allow", allowed);
    let id_header = section.defaulted("id_header", text);
    let kind_header = section.defaulted("kind_header", name_or_none);
    let key_header = section.defaulted("key_header", name_or_none);
    let content_type = section.optional("content_type", property);
    let format = format(&mut section);
    let keys = keys?;
    let rest = if to_exchange { to_exchanges(&mut section, &keys) } else { Some(to_topics(&keys)) };
    let when = rules(&mut section, &keys, to_exchange);
    Some(Route {
        rest: rest?,
        when: when?,
        allow: allow?,
        id_header: id_header?,
        kind_header: kind_header?,
        key_header: key_header?,
        content_type: content_type?,
        format: format?,
    })
}

fn format(section: &mut Section<'_>) -> Option<Format> {
    #[derive(Clone, Copy, PartialEq)]
    enum Kind {
        Raw,
        Plain,
        JsonString,
        Envelope,
    }
    const KINDS: [(&str, Kind); 4] = [
        ("raw", Kind::Raw),
        ("plain", Kind::Plain),
        ("json-string", Kind::JsonString),
        ("envelope", Kind::Envelope),
    ];

    let kind = section.defaulted("format", choice(&KINDS, &[]));
    let fields = section.defaulted("envelope_fields", envelope_fields);
    let (kind, fields) = (kind?, fields?);
    if (kind == Kind::Envelope) == fields.is_empty() {
        let (problem, hint) = if fields.is_empty() {
            (
                "is empty with format = \"envelope\"",
                "name what goes beside the payload, such as [\"kind:eventType\"]",
            )
        } else {
            ("has no effect: only format = \"envelope\" has fields", "remove it, or change the other")
        };
        section.report("envelope_fields", Wrong::new(problem, hint));
        return None;
    }
    Some(match kind {
        Kind::Raw => Format::Raw,
        Kind::Plain => Format::Plain,
        Kind::JsonString => Format::JsonString,
        Kind::Envelope => Format::Envelope(fields),
    })
}

/// What is wrong with `sink.type` is reported where the sink is read.
fn is_to_exchange(reader: &mut Reader) -> bool {
    let is_rabbitmq = |value: &Value| Ok(text(value).is_ok_and(|kind| kind == "rabbitmq"));
    reader.section("sink").optional("type", is_rabbitmq).flatten().unwrap_or(false)
}

/// The keys that a rule may override. Those of the other kind of sink are read, and wait for it.
#[derive(Clone)]
struct Keys {
    topic: Template,
    exchange: Option<Template>,
    routing_key: Template,
    on_unroutable: OnUnroutable,
    app_id: Option<Arc<str>>,
}

fn keys(section: &mut Section<'_>) -> Option<Keys> {
    let topic = section.defaulted("topic", template);
    let exchange = section.optional("exchange", template);
    let routing_key = section.defaulted("routing_key", template);
    let on_unroutable = section.defaulted("on_unroutable", choice(&ON_UNROUTABLE, &[]));
    let app_id = section.optional("app_id", property);
    Some(Keys {
        topic: topic?,
        exchange: exchange?,
        routing_key: routing_key?,
        on_unroutable: on_unroutable?,
        app_id: app_id?.map(Arc::from),
    })
}

fn to_topics(keys: &Keys) -> Way {
    way(keys, Target::Topic(keys.topic.clone()))
}

fn to_exchanges(section: &mut Section<'_>, keys: &Keys) -> Option<Way> {
    let Some(exchange) = keys.exchange.clone() else {
        let hint = "name the exchange that queues are bound to, such as \"events\"";
        section.report("exchange", Wrong::new("is missing with sink.type = \"rabbitmq\"", hint));
        return None;
    };
    Some(way(keys, Target::Exchange { exchange, routing_key: keys.routing_key.clone() }))
}

fn way(keys: &Keys, target: Target) -> Way {
    Way { target, on_unroutable: keys.on_unroutable, app_id: keys.app_id.clone() }
}

fn rules(section: &mut Section<'_>, keys: &Keys, to_exchange: bool) -> Option<Vec<Rule>> {
    let entries = section.tables("when")?;
    let rules: Vec<Option<Rule>> =
        entries.iter().enumerate().map(|(i, entry)| rule(section, i, entry, keys, to_exchange)).collect();
    rules.into_iter().collect()
}

fn rule(
    section: &mut Section<'_>,
    index: usize,
    entry: &Map<String, Value>,
    inherited: &Keys,
    to_exchange: bool,
) -> Option<Rule> {
    let mut keys = inherited.clone();
    let mut conditions = Vec::new();
    let mut is_content = true;
    for (key, value) in sorted(entry) {
        let read = match key.as_str() {
            "topic" => template(value).map(|topic| keys.topic = topic),
            "exchange" => template(value).map(|exchange| keys.exchange = Some(exchange)),
            "routing_key" => template(value).map(|routing_key| keys.routing_key = routing_key),
            "on_unroutable" => choice(&ON_UNROUTABLE, &[])(value).map(|choice| keys.on_unroutable = choice),
            "app_id" => property(value).map(|app_id| keys.app_id = Some(app_id.into())),
            place => {
                text(value).and_then(|text| glob(&text)).map(|glob| conditions.push((place.to_owned(), glob)))
            }
        };
        if let Err(wrong) = read {
            section.report(&format!("when[{index}].{key}"), wrong);
            is_content = false;
        }
    }
    // Without an exchange of its own it has the one of [route], which was reported if it is missing.
    let way = if to_exchange {
        let target =
            Target::Exchange { exchange: keys.exchange.clone()?, routing_key: keys.routing_key.clone() };
        way(&keys, target)
    } else {
        to_topics(&keys)
    };
    is_content.then_some(Rule { conditions, way })
}

/// The map has no order, and reports should not change between runs.
fn sorted(entry: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut entries: Vec<_> = entry.iter().collect();
    entries.sort_unstable_by_key(|(key, _)| *key);
    entries
}

fn template(value: &Value) -> Result<Template, Wrong> {
    let hint = "write a name, with {destination}, {kind} or {key} where a row decides";
    Template::parse(&scalar(value)?).map_err(|why| Wrong::new(why, hint))
}

/// Names of destinations; the environment may write them as JSON.
fn allowed(value: &Value) -> Result<Vec<Allowed>, Wrong> {
    let hint = "write names in an array, with * for any run of characters: [\"orders.*\"]; routing keys behind \
                an arrow: [\"events -> orders.*\"]";
    let names = texts(value).ok_or_else(|| Wrong::new("is not an array of names", hint))?;
    let read =
        |name: &String| Allowed::parse(name).map_err(|why| Wrong::new(format!("{name:?} {why}"), hint));
    names.iter().map(read).collect()
}

fn envelope_fields(value: &Value) -> Result<Vec<EnvelopeField>, Wrong> {
    let hint =
        "write an array of a place, a colon and the field's name: [\"kind:eventType\", \"created_at:when\"]";
    let fields = texts(value).ok_or_else(|| Wrong::new("is not an array of fields", hint))?;
    let field = |field: &String| match field.split_once(':') {
        Some((place, name)) if !place.is_empty() && !name.is_empty() => {
            Ok(EnvelopeField { place: place.to_owned(), name: name.to_owned() })
        }
        Some(_) | None => Err(Wrong::new(format!("{field:?} is not a field"), hint)),
    };
    fields.iter().map(field).collect()
}

fn glob(text: &str) -> Result<Glob, Wrong> {
    let hint = "write a value, with * for any run of characters, such as \"Ship*\"";
    Glob::parse(text).map_err(|why| Wrong::new(format!("{text:?} {why}"), hint))
}

fn name_or_none(value: &Value) -> Result<Option<String>, Wrong> {
    scalar(value).map(|name| Some(name).filter(|name| !name.is_empty()))
}

fn property(value: &Value) -> Result<String, Wrong> {
    let written = text(value)?;
    if written.len() <= PROPERTY_BYTES_MAX && !written.contains('\0') {
        return Ok(written);
    }
    Err(Wrong::new(
        "is no property of a message",
        format!("write at most {PROPERTY_BYTES_MAX} bytes of text"),
    ))
}

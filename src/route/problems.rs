//! What is wrong with a route over a mapping, found before any row is: said at the start, all at once.

use std::fmt;

use super::destination::is_allowed_to_some;
use super::format::CREATED_AT;
use super::headers::{check_name, is_amqps, is_relays};
use super::name;
use super::row::{PLACES, is_mapped};
use super::template::{Part, Template};
use crate::config::problem::nearest;
use crate::config::{Columns, EnvelopeField, Format, Route, Rule, Target, header_key};
use crate::sink::printable;

/// One thing to mend.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// The key's path, as in `route.when[0].exchange`.
    pub(crate) key: String,
    /// What is wrong, to be read after the key.
    pub(crate) problem: String,
    /// What to write instead.
    pub(crate) hint: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.key, self.problem, self.hint)
    }
}

/// Everything that is wrong with `route` over these columns.
pub(crate) fn problems(route: &Route, columns: &Columns) -> Vec<Problem> {
    let mut finder = Finder { columns, found: Vec::new() };
    finder.target("route", &route.rest.target, None);
    for (i, rule) in route.when.iter().enumerate() {
        let path = format!("route.when[{i}]");
        finder.conditions(&path, rule);
        finder.target(&path, &rule.way.target, Some(&route.rest.target));
    }
    finder.allow(route);
    finder.headers(route);
    finder.envelope(route);
    finder.found
}

struct Finder<'c> {
    columns: &'c Columns,
    found: Vec<Problem>,
}

/// A piece of a name, or all of it, is checked by the rules of its kind.
struct Rules {
    whole: fn(&str) -> Result<(), &'static str>,
    piece: fn(&str) -> Result<(), &'static str>,
    hint: &'static str,
}

const TOPIC: Rules = Rules {
    whole: name::check_topic,
    piece: name::check_topic_characters,
    hint: "write a name that Kafka takes, with {destination}, {kind} or {key} where a row decides",
};
const EXCHANGE: Rules = Rules {
    whole: name::check_exchange,
    piece: name::check_amqp_characters,
    hint: "write the name of an exchange, with {destination}, {kind} or {key} where a row decides",
};
const ROUTING_KEY: Rules = Rules {
    whole: name::check_routing_key,
    piece: name::check_amqp_characters,
    hint: "write a routing key, with {destination}, {kind} or {key} where a row decides",
};

impl Finder<'_> {
    fn report(&mut self, key: String, problem: impl Into<String>, hint: impl Into<String>) {
        self.found.push(Problem { key, problem: problem.into(), hint: hint.into() });
    }

    /// What is inherited was looked at where it was written.
    fn target(&mut self, path: &str, target: &Target, inherited: Option<&Target>) {
        for (key, template, rules) in keys(target) {
            let is_inherited =
                inherited.into_iter().flat_map(keys).any(|(its, other, _)| its == key && other == template);
            if !is_inherited {
                self.template(&format!("{path}.{key}"), template, &rules);
            }
        }
    }

    fn template(&mut self, key: &str, template: &Template, rules: &Rules) {
        if let Some(name) = template.literal() {
            if let Err(rule) = (rules.whole)(name) {
                self.report(key.to_owned(), rule, rules.hint);
            }
            return;
        }
        for part in template.parts() {
            match part {
                Part::Literal(text) => {
                    if let Err(rule) = (rules.piece)(text) {
                        let problem = format!("holds \"{}\", which {rule}", printable(text, 64));
                        self.report(key.to_owned(), problem, rules.hint);
                    }
                }
                Part::Place(place) => self.place(key, place),
            }
        }
    }

    fn place(&mut self, key: &str, place: &str) {
        match is_mapped(place, self.columns) {
            Some(true) => {}
            Some(false) => {
                let problem = format!("uses {{{place}}}, but outbox.columns.{place} is not set");
                let hint = format!("set outbox.columns.{place}, or write it without {{{place}}}");
                self.report(key.to_owned(), problem, hint);
            }
            None => {
                let hint =
                    "write {destination}, {kind}, {key}, {id} or a header named in outbox.header_columns";
                self.report(key.to_owned(), format!("uses {{{place}}}, which is not known"), hint);
            }
        }
    }

    fn conditions(&mut self, path: &str, rule: &Rule) {
        if rule.conditions.is_empty() {
            let hint = "write which rows it is for, such as kind = \"Ship*\", or write its keys into [route]";
            self.report(path.to_owned(), "has no condition, so that no rule after it counts", hint);
        }
        for (place, _) in &rule.conditions {
            let key = format!("{path}.{place}");
            match is_mapped(place, self.columns) {
                Some(true) => {}
                Some(false) => {
                    let hint = format!("set outbox.columns.{place}, or remove the condition");
                    self.report(key, format!("looks at outbox.columns.{place}, which is not set"), hint);
                }
                None => {
                    let hint = unknown_key_hint(place);
                    self.report(key, "is neither a key of a rule nor something a row has", hint);
                }
            }
        }
    }

    /// A name that nobody but the configuration chose would only show at the first row.
    fn allow(&mut self, route: &Route) {
        if matches!(route.rest.target, Target::Topic(_)) {
            for allowed in route.allow.iter().filter(|allowed| allowed.has_routing_key()) {
                let problem = format!("has \"{allowed}\", and a topic has no routing key");
                self.report("route.allow".to_owned(), problem, "write the topic alone");
            }
        }
        let ways = std::iter::once(("route".to_owned(), &route.rest));
        let rules = route.when.iter().enumerate();
        let ways = ways.chain(rules.map(|(i, rule)| (format!("route.when[{i}]"), &rule.way)));
        for (path, way) in ways.filter(|(_, way)| !is_allowed_to_some(&route.allow, &way.target)) {
            let (key, name) = match &way.target {
                Target::Topic(topic) => ("topic", topic),
                Target::Exchange { exchange, .. } => ("exchange", exchange),
            };
            let problem = format!("leads to \"{name}\", which is not among those of route.allow");
            self.report(format!("{path}.{key}"), problem, "add it to route.allow, or write another name");
        }
    }

    fn headers(&mut self, route: &Route) {
        let own = [
            ("id_header", Some(&route.id_header)),
            ("kind_header", route.kind_header.as_ref()),
            ("key_header", route.key_header.as_ref()),
        ];
        let own: Vec<_> = own.into_iter().filter_map(|(key, name)| Some((key, name?))).collect();
        for (i, (key, name)) in own.iter().enumerate() {
            if let Err(rule) = check_name(name) {
                self.report(format!("route.{key}"), rule, "write the name of a header");
            }
            let same = own[..i].iter().find(|(_, other)| other.eq_ignore_ascii_case(name));
            if let Some((other, _)) = same {
                self.report(format!("route.{key}"), format!("is the same as {other}"), "write another name");
            }
        }
        self.mapped_headers(&own, matches!(route.rest.target, Target::Exchange { .. }));
    }

    fn mapped_headers(&mut self, own: &[(&str, &String)], to_exchange: bool) {
        for header in self.columns.to_headers.keys() {
            let key = format!("outbox.{}", header_key(header));
            if let Err(rule) = check_name(header) {
                self.report(key, rule, "write the name of a header");
            } else if is_relays(header) {
                self.report(
                    key,
                    "begins with \"relay-\", as only the relay's headers do",
                    "write another name",
                );
            } else if to_exchange && is_amqps(header) {
                let problem = "is reserved: RabbitMQ would take it for more than a header";
                self.report(key, problem, "write another name, without CC, BCC, user_id, expiration and x-");
            } else if own.iter().any(|(_, name)| name.eq_ignore_ascii_case(header)) {
                let hint = "remove it, or rename route.id_header, route.kind_header or route.key_header";
                self.report(key, "is a header the relay writes itself", hint);
            }
        }
    }

    fn envelope(&mut self, route: &Route) {
        let Format::Envelope(fields) = &route.format else { return };
        let mut names = vec!["payload"];
        for EnvelopeField { place, name } in fields {
            let key = "route.envelope_fields".to_owned();
            if !in_envelope(place, self.columns) {
                let hint = "write id, kind, key, destination or created_at, whose column is set, or a header named in \
                            outbox.header_columns";
                self.report(key, format!("uses {place:?}, which the mapping does not have"), hint);
            } else if names.contains(&name.as_str()) {
                self.report(key, format!("has {name:?} twice"), "write another name");
            }
            names.push(name);
        }
    }
}

fn in_envelope(place: &str, columns: &Columns) -> bool {
    let is_time = place == CREATED_AT && columns.created_at.is_some();
    is_time || is_mapped(place, columns) == Some(true)
}

fn keys(target: &Target) -> Vec<(&'static str, &Template, Rules)> {
    match target {
        Target::Topic(topic) => vec![("topic", topic, TOPIC)],
        Target::Exchange { exchange, routing_key } => {
            vec![("exchange", exchange, EXCHANGE), ("routing_key", routing_key, ROUTING_KEY)]
        }
    }
}

fn unknown_key_hint(place: &str) -> String {
    let keys = ["topic", "exchange", "routing_key", "on_unroutable", "app_id"];
    match nearest(place, keys.into_iter().chain(PLACES)) {
        Some(meant) => format!("did you mean {meant}?"),
        None => "write kind, destination, key, id or a header named in outbox.header_columns".to_owned(),
    }
}

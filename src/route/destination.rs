//! Where a row goes: names are made of its values, checked, and kept for the next row.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::allow::Allowed;
use super::glob::Glob;
use super::name;
use super::row::{Row, Unfilled};
use super::template::{Part, Template};
use crate::config::{Rule, Target, Way};
use crate::sink::{Destination, Failure, printable};

/// Destinations kept for reuse, at most 766 bytes each. Past it every record pays for its own copy.
pub(super) const KEPT_MAX: usize = 10_000;

/// Characters of a bad name that a reason shows.
const SHOWN_MAX: usize = 64;

/// A destination as rendered, and why no record may go there. Its scope can be relied on even so: a
/// routing key that a row has no value for is left empty.
pub(super) struct Found {
    pub(super) destination: Destination,
    pub(super) verdict: Result<(), Failure>,
}

/// Makes destinations.
#[derive(Debug, Clone)]
pub(super) struct Destinations {
    /// Those a row may reach; empty: all that are valid.
    allow: Vec<Allowed>,
    /// Valid ones seen so far by their identity, so that equal ones share one allocation and one
    /// validation.
    kept: HashMap<Box<str>, Destination>,
    /// The identity being rendered; kept for its allocation.
    rendered: String,
}

impl Destinations {
    pub(super) fn new(allow: Vec<Allowed>) -> Self {
        Self { allow, kept: HashMap::new(), rendered: String::new() }
    }

    /// The destination that `target` means for this row, or why it has not even a scope.
    pub(super) fn find(&mut self, target: &Target, row: Row<'_>) -> Result<Found, Failure> {
        self.rendered.clear();
        match target {
            Target::Topic(topic) => {
                self.render("topic", topic, row)?;
                Ok(self.known(None))
            }
            Target::Exchange { exchange, routing_key } => {
                self.render("exchange", exchange, row)?;
                self.rendered.push(Destination::SEPARATOR);
                let at = self.rendered.len();
                Ok(match self.render("routing key", routing_key, row) {
                    Ok(()) => self.known(Some(at)),
                    Err(failure) => self.without_routing_key(at, failure),
                })
            }
        }
    }

    fn render(&mut self, what: &str, template: &Template, row: Row<'_>) -> Result<(), Failure> {
        row.fill(&mut self.rendered, template).map_err(|why| unfilled(what, &why))
    }

    /// The destination of what is rendered, in which the routing key begins there.
    fn known(&mut self, routing_key_at: Option<usize>) -> Found {
        if let Some(kept) = self.kept.get(self.rendered.as_str()) {
            return Found { destination: kept.clone(), verdict: Ok(()) };
        }
        let destination = self.made(routing_key_at);
        let verdict = check(&destination).and_then(|()| self.allowed(&destination));
        if verdict.is_ok() && self.kept.len() < KEPT_MAX {
            self.kept.insert(self.rendered.as_str().into(), destination.clone());
        }
        Found { destination, verdict }
    }

    fn without_routing_key(&mut self, at: usize, failure: Failure) -> Found {
        self.rendered.truncate(at);
        Found { destination: self.made(Some(at)), verdict: Err(failure) }
    }

    fn made(&self, routing_key_at: Option<usize>) -> Destination {
        let Some(at) = routing_key_at else { return Destination::Topic(self.rendered.as_str().into()) };
        let (exchange, routing_key) = self.rendered.split_at(at);
        let exchange = &exchange[..exchange.len() - Destination::SEPARATOR.len_utf8()];
        Destination::Exchange { exchange: exchange.into(), routing_key: routing_key.into() }
    }

    fn allowed(&self, destination: &Destination) -> Result<(), Failure> {
        if is_allowed(&self.allow, destination) {
            return Ok(());
        }
        let name = printable(&destination.to_string(), SHOWN_MAX);
        Err(super::invalid(format!("the destination \"{name}\" is not among those of route.allow")))
    }

    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.kept.len()
    }
}

pub(super) fn is_allowed(allow: &[Allowed], destination: &Destination) -> bool {
    allow.is_empty() || allow.iter().any(|allowed| allowed.covers(destination))
}

/// Whether any row of this way may go where it leads. What rows decide is left to them.
pub(super) fn is_allowed_to_some(allow: &[Allowed], target: &Target) -> bool {
    if let Some(destination) = fixed(target) {
        return is_allowed(allow, &destination);
    }
    let Target::Exchange { exchange, .. } = target else { return true };
    let Some(exchange) = exchange.literal() else { return true };
    allow.is_empty() || allow.iter().any(|allowed| allowed.covers_some_of(exchange))
}

fn check(destination: &Destination) -> Result<(), Failure> {
    let named = |what, name: &Arc<str>, verdict: Result<(), &str>| {
        verdict
            .map_err(|rule| super::invalid(format!("the {what} \"{}\" {rule}", printable(name, SHOWN_MAX))))
    };
    match destination {
        Destination::Topic(topic) => named("topic", topic, name::check_topic(topic)),
        Destination::Exchange { exchange, routing_key } => {
            named("exchange", exchange, name::check_exchange(exchange))?;
            named("routing key", routing_key, name::check_routing_key(routing_key))
        }
    }
}

fn unfilled(what: &str, why: &Unfilled) -> Failure {
    super::invalid(match why {
        Unfilled::Null(place) => format!("the {what} needs {{{place}}}, which is NULL in this row"),
        Unfilled::Binary(place) => {
            format!("the {what} needs {{{place}}}, which is not UTF-8 text in this row")
        }
    })
}

/// The way of a row: that of the first rule it meets.
pub(super) fn way<'r>(rules: &'r [Rule], rest: &'r Way, row: Row<'_>) -> &'r Way {
    let meets = |rule: &&Rule| {
        let holds =
            |(place, glob): &(String, Glob)| row.value(place).is_some_and(|value| glob.matches(&value));
        rule.conditions.iter().all(holds)
    };
    rules.iter().find(meets).map_or(rest, |rule| &rule.way)
}

/// Where every row of this way goes, if that does not depend on the row.
pub(super) fn fixed(target: &Target) -> Option<Destination> {
    match target {
        Target::Topic(topic) => Some(Destination::Topic(topic.literal()?.into())),
        Target::Exchange { exchange, routing_key } => Some(Destination::Exchange {
            exchange: exchange.literal()?.into(),
            routing_key: routing_key.literal()?.into(),
        }),
    }
}

/// The identity of the scope of a row's destination as an SQL expression; NULL where [`Destinations::find`] finds no
/// value. `column` gives the SQL of a place as text.
pub(super) fn scope_sql(rules: &[Rule], rest: &Way, column: impl Fn(&str) -> String) -> String {
    let rest = target_sql(&rest.target, &column);
    if rules.is_empty() {
        return rest;
    }
    let whens: Vec<String> = rules.iter().map(|rule| when_sql(rule, &column)).collect();
    format!("(case {} else {rest} end)", whens.join(" "))
}

/// The places in [`scope_sql`].
pub(super) fn scope_places<'r>(rules: &'r [Rule], rest: &'r Way) -> BTreeSet<&'r str> {
    let conditions = rules.iter().flat_map(|rule| &rule.conditions).map(|(place, _)| place.as_str());
    let ways = rules.iter().map(|rule| &rule.way).chain([rest]);
    let parts = ways.flat_map(|way| scope_template(&way.target).parts());
    conditions.chain(parts.filter_map(Part::place)).collect()
}

fn scope_template(target: &Target) -> &Template {
    match target {
        Target::Topic(name) | Target::Exchange { exchange: name, routing_key: _ } => name,
    }
}

fn when_sql(rule: &Rule, column: &impl Fn(&str) -> String) -> String {
    let condition = |(place, glob): &(String, Glob)| {
        let like = glob.like().replace('\'', "''");
        // Byte for byte: a collation may think different texts equal, or refuse `like` altogether.
        format!(r#"({}) collate "C" like '{like}' escape '\'"#, column(place))
    };
    let conditions: Vec<String> = rule.conditions.iter().map(condition).collect();
    format!("when {} then {}", conditions.join(" and "), target_sql(&rule.way.target, column))
}

fn target_sql(target: &Target, column: &impl Fn(&str) -> String) -> String {
    let name = scope_template(target).sql(column);
    match target {
        Target::Topic(_) => name,
        Target::Exchange { .. } => format!("({name} || chr({}))", u32::from(Destination::SEPARATOR)),
    }
}

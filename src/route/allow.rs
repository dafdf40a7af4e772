//! Where rows may go: the patterns of `route.allow`. What a name may be at all is [`name`](super::name)'s.

use std::fmt;

use super::glob::Glob;
use crate::sink::Destination;

/// Between the two parts of a pattern. A colon would not do: the names of exchanges hold them.
const ARROW: &str = " -> ";

/// `orders.*`: topics, or exchanges whatever the routing key. `events -> orders.*`: routing keys of these
/// exchanges. Each part is matched against all of its own name and against nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed {
    name: Glob,
    routing_key: Option<Glob>,
}

impl Allowed {
    /// # Errors
    /// What is wrong with the pattern, to be read after it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, routing_key) = match text.split_once(ARROW) {
            Some((name, routing_key)) => (name, Some(routing_key)),
            None => (text, None),
        };
        let part = |of: &str, text: &str| Glob::parse(text).map_err(|why| format!("{why}{of}"));
        Ok(Self {
            name: part(if routing_key.is_some() { " before the arrow" } else { "" }, name)?,
            routing_key: routing_key.map(|text| part(" behind the arrow", text)).transpose()?,
        })
    }

    pub(super) fn covers(&self, destination: &Destination) -> bool {
        match destination {
            Destination::Topic(topic) => self.routing_key.is_none() && self.name.matches(topic.as_bytes()),
            Destination::Exchange { exchange, routing_key } => {
                self.covers_some_of(exchange)
                    && self.routing_key.as_ref().is_none_or(|glob| glob.matches(routing_key.as_bytes()))
            }
        }
    }

    /// Whether it is about this exchange, perhaps for some routing keys only.
    pub(super) fn covers_some_of(&self, exchange: &str) -> bool {
        self.name.matches(exchange.as_bytes())
    }

    pub(super) fn has_routing_key(&self) -> bool {
        self.routing_key.is_some()
    }
}

/// As it is written in the configuration.
impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.routing_key {
            Some(routing_key) => write!(f, "{}{ARROW}{routing_key}", self.name),
            None => self.name.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(exchange: &str, routing_key: &str) -> Destination {
        Destination::Exchange { exchange: exchange.into(), routing_key: routing_key.into() }
    }

    #[test]
    fn each_part_of_a_pattern_is_about_its_own_name() {
        let masstransit = "Shop.Messages:OrderPlaced";
        for (pattern, destination, expected) in [
            ("orders:*", exchange("orders:admin", ""), true),
            ("orders:*", exchange("orders", "admin"), false),
            ("orders -> *", exchange("orders", "a:b"), true),
            ("orders -> *", exchange("orders:admin", ""), false),
            ("orders -> *", exchange("orders -> admin", ""), false),
            ("orders -> *:b", exchange("orders:a", "b"), false),
            ("orders", exchange("orders", "anything"), true),
            ("*rs -> a*", exchange("orders", "ab"), true),
            ("*rs -> a*", exchange("orders", "ba"), false),
            (masstransit, exchange(masstransit, ""), true),
            ("Shop.Messages:* -> x", exchange(masstransit, "x"), true),
            ("orders", Destination::Topic("orders".into()), true),
            ("orders -> *", Destination::Topic("orders".into()), false),
        ] {
            let allowed = Allowed::parse(pattern).expect("a pattern");
            assert_eq!(allowed.covers(&destination), expected, "{pattern} over {destination:?}");
            assert_eq!(allowed.to_string(), pattern);
        }
    }

    #[test]
    fn a_pattern_without_one_of_its_parts_is_refused() {
        for (text, expected) in
            [("", "is empty"), (" -> a", "is empty before the arrow"), ("a -> ", "is empty behind the arrow")]
        {
            assert_eq!(Allowed::parse(text).expect_err(text), expected);
        }
    }
}

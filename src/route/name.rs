//! Which names the brokers take, and which of them a row may reach. Every error is the rule that a
//! name breaks, to be read after it.

/// Kafka's own limit: a topic is a directory name with room for a partition number.
const TOPIC_BYTES_MAX: usize = 249;

/// AMQP counts the bytes of a name in one byte.
pub(super) const AMQP_BYTES_MAX: usize = 255;

pub(super) fn check_topic(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("is empty");
    }
    if name.len() > TOPIC_BYTES_MAX {
        return Err("is longer than 249 bytes");
    }
    if name == "." || name == ".." {
        return Err("is a directory, not a name");
    }
    // Rows come from the application's users; the broker's own topics are none of their business.
    if name.starts_with("__") {
        return Err("is reserved: names that begin with \"__\" belong to the broker");
    }
    check_topic_characters(name)
}

/// The part of [`check_topic`] that holds for any piece of a name.
pub(super) fn check_topic_characters(text: &str) -> Result<(), &'static str> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if text.bytes().all(allowed) {
        Ok(())
    } else {
        Err("has a character other than ASCII letters, digits, \".\", \"_\" and \"-\"")
    }
}

pub(super) fn check_exchange(name: &str) -> Result<(), &'static str> {
    // The default exchange is a door to every queue there is, by its name.
    if name.is_empty() {
        return Err(
            "is the default exchange, which leads to every queue: bind the queue to an exchange and \
                    name that",
        );
    }
    check_routing_key(name)
}

/// May be empty: a fanout exchange asks for none.
pub(super) fn check_routing_key(key: &str) -> Result<(), &'static str> {
    if key.len() > AMQP_BYTES_MAX {
        return Err("is longer than 255 bytes");
    }
    check_amqp_characters(key)
}

/// The part of [`check_routing_key`] that holds for any piece of a name.
pub(super) fn check_amqp_characters(text: &str) -> Result<(), &'static str> {
    if text.chars().any(char::is_control) { Err("has a control character") } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_kafka_takes_pass() {
        for name in ["orders", "Orders.v1_eu-west", "_one", "a", "...", &"x".repeat(249)] {
            assert_eq!(check_topic(name), Ok(()), "{name}");
        }
    }

    #[test]
    fn a_name_kafka_refuses_or_reserves_is_told_which_rule_it_breaks() {
        for (name, rule) in [
            ("", "empty"),
            (".", "directory"),
            ("..", "directory"),
            ("__consumer_offsets", "reserved"),
            ("a b", "character"),
            ("a/b", "character"),
            ("ä", "character"),
            ("a\n", "character"),
            (&"x".repeat(250), "longer"),
        ] {
            assert!(check_topic(name).expect_err(name).contains(rule), "{name}");
        }
    }

    #[test]
    fn names_that_rabbitmq_takes_pass() {
        for name in ["events", "amq.topic", "Shop.Messages:OrderPlaced", "ü b", &"x".repeat(255)] {
            assert_eq!(check_exchange(name), Ok(()), "{name}");
            assert_eq!(check_routing_key(name), Ok(()), "{name}");
        }
        assert_eq!(check_routing_key(""), Ok(()));
    }

    #[test]
    fn the_default_exchange_and_what_amqp_cannot_carry_are_refused() {
        for (name, rule) in [
            ("", "default exchange"),
            ("a\u{1f}b", "control"),
            ("a\0", "control"),
            (&"x".repeat(256), "longer"),
        ] {
            assert!(check_exchange(name).expect_err(name).contains(rule), "{name}");
        }
        assert!(check_routing_key(&"ü".repeat(128)).is_err());
    }
}

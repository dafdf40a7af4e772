//! Which topic names Kafka takes, and which of them a row may reach.

/// Kafka's own limit: a topic is a directory name with room for a partition number.
const BYTES_MAX: usize = 249;

/// Err is the rule that `name` breaks, to be read after it.
pub(super) fn check(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("is empty");
    }
    if name.len() > BYTES_MAX {
        return Err("is longer than 249 bytes");
    }
    if name == "." || name == ".." {
        return Err("is a directory, not a name");
    }
    // Rows come from the application's users; the broker's own topics are none of their business.
    if name.starts_with("__") {
        return Err("is reserved: names that begin with \"__\" belong to the broker");
    }
    check_characters(name)
}

/// The part of [`check`] that holds for any piece of a name.
pub(super) fn check_characters(text: &str) -> Result<(), &'static str> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if text.bytes().all(allowed) {
        Ok(())
    } else {
        Err("has a character other than ASCII letters, digits, \".\", \"_\" and \"-\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_kafka_takes_pass() {
        for name in ["orders", "Orders.v1_eu-west", "_one", "a", "...", &"x".repeat(249)] {
            assert_eq!(check(name), Ok(()), "{name}");
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
            assert!(check(name).expect_err(name).contains(rule), "{name}");
        }
    }
}

//! Patterns over a row's values: `*` stands for any run of characters, everything else for itself.
//!
//! A pattern is matched here and, for the same answer, by the database's `like`.

use std::fmt;

/// `orders.*`: a whole value, with any run of characters, none too, for each `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob(String);

impl Glob {
    /// # Errors
    /// What is wrong with the pattern, to be read after it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            Err("is empty".to_owned())
        } else if text.chars().any(char::is_control) {
            Err("has a control character".to_owned())
        } else {
            Ok(Self(text.to_owned()))
        }
    }

    /// Whether the whole of `value` is covered. Takes memory for nothing, and time for the product of
    /// both lengths at most: the value is a row's.
    #[must_use]
    pub fn matches(&self, value: &[u8]) -> bool {
        let pattern = self.0.as_bytes();
        let (mut at, mut next) = (0, 0);
        // Where to go on in the pattern, and in the value, if the last star has to take one byte more.
        let mut star = None;
        while next < value.len() {
            match (pattern.get(at), star) {
                (Some(b'*'), _) => {
                    at += 1;
                    star = Some((at, next));
                }
                (Some(byte), _) if *byte == value[next] => {
                    at += 1;
                    next += 1;
                }
                (_, Some((after, from))) => {
                    (at, next) = (after, from + 1);
                    star = Some((after, from + 1));
                }
                (_, None) => return false,
            }
        }
        pattern[at..].iter().all(|byte| *byte == b'*')
    }

    /// The same as a pattern of `like … escape '\'`, not yet quoted.
    pub(super) fn like(&self) -> String {
        let mut like = String::with_capacity(self.0.len());
        for c in self.0.chars() {
            match c {
                '*' => like.push('%'),
                '%' | '_' | '\\' => like.extend(['\\', c]),
                other => like.push(other),
            }
        }
        like
    }
}

/// As it is written in the configuration.
impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn glob(text: &str) -> Glob {
        Glob::parse(text).expect("a pattern")
    }

    #[test]
    fn a_star_is_any_run_and_everything_else_is_itself() {
        for (pattern, value, expected) in [
            ("Ship*", "Shipped", true),
            ("Ship*", "Ship", true),
            ("Ship*", "aShip", false),
            ("*.v1", "orders.v1", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("*", "", true),
            ("**", "x", true),
            ("a", "", false),
            ("a?[b]", "a?[b]", true),
            ("a?", "ab", false),
            ("Ü*", "Übersee", true),
            ("*aab", "aaaab", true),
        ] {
            assert_eq!(glob(pattern).matches(value.as_bytes()), expected, "{pattern} over {value}");
        }
    }

    #[test]
    fn what_like_takes_for_a_wildcard_is_escaped() {
        assert_eq!(glob(r"100%_of\*").like(), r"100\%\_of\\%");
    }

    #[test]
    fn a_pattern_that_matches_nothing_anybody_means_is_refused() {
        for text in ["", "a\nb", "\0"] {
            assert!(Glob::parse(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_a_star_stood_for_is_matched(parts in prop::collection::vec("[ab]{0,3}", 1..5), runs in prop::collection::vec("[ab*]{0,4}", 5)) {
            let mut value = parts[0].clone();
            for (part, run) in parts[1..].iter().zip(&runs) {
                value.push_str(run);
                value.push_str(part);
            }
            let pattern = parts.join("*");
            prop_assume!(!pattern.is_empty());
            prop_assert!(glob(&pattern).matches(value.as_bytes()));
        }
    }
}

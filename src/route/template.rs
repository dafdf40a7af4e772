//! Text with places for a row's values: `orders.{kind}`.

use std::fmt;

/// What a destination is made of. Which places exist is for [`Route`](super::Route) to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    Literal(String),
    Place(String),
}

impl Part {
    /// The name of the place, if it is one.
    pub(super) fn place(&self) -> Option<&str> {
        match self {
            Self::Place(name) => Some(name),
            Self::Literal(_) => None,
        }
    }
}

impl Template {
    /// Reads literal text and `{name}` places; `{{` and `}}` stand for the braces themselves.
    ///
    /// # Errors
    /// What is wrong, and what to write instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            literal.push_str(&rest[..at]);
            let (brace, tail) = rest[at..].split_at(1);
            if let Some(tail) = tail.strip_prefix(brace) {
                literal.push_str(brace);
                rest = tail;
            } else {
                let (name, tail) = place(brace, tail)?;
                push_literal(&mut parts, &mut literal);
                parts.push(Part::Place(name.to_owned()));
                rest = tail;
            }
        }
        literal.push_str(rest);
        push_literal(&mut parts, &mut literal);
        Ok(Self { parts })
    }

    /// The text itself, if no row has a say in it.
    #[must_use]
    pub fn literal(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [] => Some(""),
            [Part::Literal(text)] => Some(text),
            [Part::Place(_) | Part::Literal(_), ..] => None,
        }
    }

    pub(super) fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The same text computed by the database; NULL if any place is NULL.
    pub(super) fn sql(&self, column: impl Fn(&str) -> String) -> String {
        if self.parts.is_empty() {
            return "(''::text)".to_owned();
        }
        let terms: Vec<String> = self
            .parts
            .iter()
            .map(|part| match part {
                Part::Literal(text) => format!("'{}'::text", text.replace('\'', "''")),
                Part::Place(name) => column(name),
            })
            .collect();
        format!("({})", terms.join(" || "))
    }
}

/// The name of a place, and what follows it.
fn place<'a>(brace: &str, tail: &'a str) -> Result<(&'a str, &'a str), String> {
    if brace == "}" {
        return Err("has a \"}\" that closes nothing: write \"}}\" for the brace itself".to_owned());
    }
    let Some((name, tail)) = tail.split_once('}') else {
        return Err("has a \"{\" that is never closed: write \"{{\" for the brace itself".to_owned());
    };
    if name.is_empty() || name.contains('{') || name != name.trim() {
        return Err(format!(
            "has a place \"{{{name}}}\" without a usable name: write {{destination}} or {{kind}}"
        ));
    }
    Ok((name, tail))
}

fn push_literal(parts: &mut Vec<Part>, literal: &mut String) {
    if !literal.is_empty() {
        parts.push(Part::Literal(std::mem::take(literal)));
    }
}

/// As it is written in the configuration.
impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in &self.parts {
            match part {
                Part::Literal(text) => f.write_str(&text.replace('{', "{{").replace('}', "}}"))?,
                Part::Place(name) => write!(f, "{{{name}}}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn literal(text: &str) -> Part {
        Part::Literal(text.to_owned())
    }

    fn at(name: &str) -> Part {
        Part::Place(name.to_owned())
    }

    #[test]
    fn text_and_places_are_told_apart() {
        let template = Template::parse("a.{kind}{key}-b").expect("a template");
        assert_eq!(template.parts, [literal("a."), at("kind"), at("key"), literal("-b")]);
    }

    #[test]
    fn doubled_braces_are_braces() {
        let template = Template::parse("{{{kind}}}").expect("a template");
        assert_eq!(template.parts, [literal("{"), at("kind"), literal("}")]);
    }

    #[test]
    fn an_unusable_template_says_what_to_write() {
        for (text, hint) in [
            ("a{kind", "never closed"),
            ("a}b", "closes nothing"),
            ("{}", "without a usable name"),
            ("{ kind }", "without a usable name"),
            ("{a{b}", "without a usable name"),
        ] {
            let error = Template::parse(text).expect_err(text);
            assert!(error.contains(hint) && error.contains("write"), "{text}: {error}");
        }
    }

    #[test]
    fn nothing_is_a_template_too() {
        let template = Template::parse("").expect("a template");
        assert_eq!(
            (template.literal(), template.sql(|_| unreachable!())),
            (Some(""), "(''::text)".to_owned())
        );
    }

    #[test]
    fn sql_joins_the_parts_and_quotes_the_text() {
        let template = Template::parse("o'brien.{kind}").expect("a template");
        let sql = template.sql(|name| format!("o.\"{name}\"::text"));
        assert_eq!(sql, "('o''brien.'::text || o.\"kind\"::text)");
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_back(text in "[a-z.{}]{1,12}") {
            if let Ok(template) = Template::parse(&text) {
                prop_assert_eq!(Template::parse(&template.to_string()), Ok(template));
            }
        }
    }
}

//! SQL text: fills the places of the `.sql` files. What goes into a place is SQL already, quoted by
//! whoever made it; values travel as parameters.

use std::sync::Arc;

use sqlx::AssertSqlSafe;

/// A complete statement, cheap to run again: the text is also the key of the prepared statement.
#[derive(Debug, Clone)]
pub(crate) struct Statement(Arc<str>);

impl Statement {
    /// Fills every `{place}` of `template` and drops its comment lines.
    ///
    /// One pass, so that a name with braces in it stays a name.
    pub(crate) fn fill(template: &str, places: &[(&str, &str)]) -> Self {
        let mut rest = without_comments(template);
        let mut sql = String::with_capacity(rest.len() * 2);
        while let Some((before, place, after)) = next_place(&rest) {
            sql.push_str(before);
            let value = places.iter().find(|(name, _)| *name == place);
            sql.push_str(value.unwrap_or_else(|| panic!("the place {{{place}}} has no value")).1);
            rest = after.to_owned();
        }
        sql.push_str(&rest);
        Self(sql.into())
    }

    /// The text, for sqlx: every name in it is quoted, every value a parameter.
    pub(crate) fn sql(&self) -> AssertSqlSafe<Arc<str>> {
        AssertSqlSafe(Arc::clone(&self.0))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

fn without_comments(template: &str) -> String {
    let lines = template.lines().filter(|line| !line.trim_start().starts_with("--"));
    lines.collect::<Vec<_>>().join("\n").trim_end().trim_end_matches(';').to_owned()
}

fn next_place(text: &str) -> Option<(&str, &str, &str)> {
    let (before, opened) = text.split_once('{')?;
    let (place, after) = opened.split_once('}')?;
    Some((before, place, after))
}

/// `text` as an SQL string constant. The server runs with `standard_conforming_strings = on`.
pub(crate) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_with_braces_is_not_filled_again() {
        let filled = Statement::fill("-- gone\nselect {a} from {b};\n", &[("a", "\"{b}\""), ("b", "t")]);
        assert_eq!(filled.as_str(), "select \"{b}\" from t");
    }

    #[test]
    fn a_quote_cannot_leave_its_constant() {
        assert_eq!(literal("o'; drop"), "'o''; drop'");
    }
}

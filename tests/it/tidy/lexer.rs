//! Just enough of Rust to tell code from comments and literals. Leans on rustfmt for the rest: a
//! function ends at the first closing brace that stands where its own line begins.

/// A Rust file, taken apart.
#[derive(Debug)]
pub struct Source {
    /// Within the project, with forward slashes.
    pub path: String,
    pub text: String,
    pub literals: Vec<Literal>,
    /// The text with comments and the insides of literals blanked; same lines.
    code: String,
}

/// A string literal, without its quotes.
#[derive(Debug)]
pub struct Literal {
    /// Where it begins, from 1.
    pub line: usize,
    pub text: String,
}

/// A function with a body.
#[derive(Debug)]
pub struct Function {
    pub name: String,
    /// From its signature to its closing brace.
    pub lines: usize,
}

impl Source {
    pub fn new(path: String, text: String) -> Self {
        let (code, literals) = take_apart(&text);
        Self { path, text, literals, code }
    }

    /// The code of each line, with its number from 1.
    pub fn code_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.code.lines())
    }

    pub fn functions(&self) -> impl Iterator<Item = Function> + '_ {
        let lines: Vec<&str> = self.code.lines().collect();
        let begins: Vec<(usize, String)> =
            lines.iter().enumerate().filter_map(|(at, line)| Some((at, function_name(line)?))).collect();
        begins.into_iter().filter_map(move |(begin, name)| {
            let indent = lines[begin].len() - lines[begin].trim_start().len();
            let brace = format!("{:indent$}}}", "");
            // A declaration in a trait has no body; neither has one that ends on its own line.
            let ends = |line: &str| line.trim_end() == brace || line.trim_end() == format!("{brace},");
            let length = lines[begin..].iter().position(|line| ends(line))?;
            let bodiless = lines[begin..=begin + length].iter().find(|line| line.contains(['{', ';']))?;
            bodiless.contains('{').then_some(Function { name, lines: length + 1 })
        })
    }
}

/// The name, if the line begins a function.
fn function_name(line: &str) -> Option<String> {
    let (before, after) = line.trim_start().split_once("fn ")?;
    let qualifiers = ["pub", "const", "async", "unsafe", "pub(crate)", "pub(super)"];
    let begins = before.split_whitespace().all(|word| qualifiers.contains(&word));
    let name: String = after.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (begins && !name.is_empty() && !line.trim_end().ends_with(['}', ';'])).then_some(name)
}

/// The code, and the literals that were in it.
fn take_apart(text: &str) -> (String, Vec<Literal>) {
    let (mut code, mut literals) = (String::with_capacity(text.len()), Vec::new());
    let mut rest = text;
    while !rest.is_empty() {
        let (length, literal) = piece(rest, code.chars().next_back());
        let (taken, after) = rest.split_at(length);
        if let Some(inside) = literal {
            let line = 1 + code.matches('\n').count();
            literals.push(Literal { line, text: inside.to_owned() });
        }
        if length == 1 || literal.is_none() && !taken.starts_with('/') && !taken.starts_with('\'') {
            code.push_str(taken);
        } else {
            code.extend(taken.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        }
        rest = after;
    }
    (code, literals)
}

/// Length of the comment, literal or single character that `text` begins with, and what is inside of a
/// string literal.
fn piece(text: &str, before: Option<char>) -> (usize, Option<&str>) {
    let first = text.chars().next().expect("not empty");
    if text.starts_with("//") {
        return (text.find('\n').unwrap_or(text.len()), None);
    }
    if text.starts_with("/*") {
        return (block_comment(text), None);
    }
    if let Some((open, close)) = raw_quotes(text).filter(|_| !before.is_some_and(char::is_alphanumeric)) {
        let inside = text[open..].find(&close).unwrap_or(text.len() - open - close.len());
        return (open + inside + close.len(), Some(&text[open..open + inside]));
    }
    if first == '"' {
        let length = quoted(text, '"');
        return (length, Some(&text[1..length - 1]));
    }
    if first == '\'' && is_char(text) {
        return (quoted(text, '\''), None);
    }
    (first.len_utf8(), None)
}

/// `r"`, `br##"` and so on: the length of the opening quotes and what closes them.
fn raw_quotes(text: &str) -> Option<(usize, String)> {
    let after = text.strip_prefix("br").or_else(|| text.strip_prefix('r'))?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    let opens = after[hashes..].starts_with('"');
    opens.then(|| (text.len() - after.len() + hashes + 1, format!("\"{}", "#".repeat(hashes))))
}

/// A character, and not a lifetime: the closing quote follows one character or an escape.
fn is_char(text: &str) -> bool {
    let mut characters = text.chars().skip(1);
    match characters.next() {
        Some('\\') => true,
        Some(_) => characters.next() == Some('\''),
        None => false,
    }
}

/// Length up to and with the closing quote, past escaped ones.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Block comments nest.
fn block_comment(text: &str) -> usize {
    let mut depth = 0_usize;
    for (at, _) in text.char_indices() {
        match &text.as_bytes()[at..] {
            [b'/', b'*', ..] => depth += 1,
            [b'*', b'/', ..] => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 2;
        }
    }
    text.len()
}

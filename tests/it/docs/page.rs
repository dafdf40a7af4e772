//! Just enough of Markdown: links, code in a line, headings, blocks of code.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A page.
#[derive(Debug)]
pub struct Page {
    pub path: PathBuf,
    pub text: String,
}

#[derive(Debug, PartialEq)]
pub struct Link {
    /// From 1.
    pub line: usize,
    pub target: String,
}

/// Code within a line, and where it leads if it is a link.
#[derive(Debug)]
pub struct Code {
    pub line: usize,
    pub text: String,
    pub link: Option<String>,
}

impl Page {
    pub fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self::new(path.to_owned(), text)
    }

    pub fn new(path: PathBuf, text: String) -> Self {
        Self { path, text }
    }

    /// A path as a link of this page writes it.
    pub fn beside(&self, path: &str) -> PathBuf {
        self.path.parent().expect("a page is in a directory").join(path)
    }

    /// The lines outside of blocks of code, with their numbers from 1.
    fn prose(&self) -> impl Iterator<Item = (usize, &str)> {
        let mut in_code = false;
        (1..).zip(self.text.lines()).filter(move |(_, line)| {
            let fence = line.trim_start().starts_with("```");
            in_code ^= fence;
            !in_code && !fence
        })
    }

    pub fn links(&self) -> impl Iterator<Item = Link> {
        self.prose().flat_map(|(line, text)| {
            let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
            targets.map(move |target| Link { line, target: target.to_owned() })
        })
    }

    pub fn code(&self) -> impl Iterator<Item = Code> {
        self.prose().flat_map(|(line, text)| {
            let parts: Vec<&str> = text.split('`').collect();
            let code = move |at: usize| Code {
                line,
                text: parts[at].to_owned(),
                link: parts
                    .get(at + 1)
                    .and_then(|after| after.strip_prefix("](")?.split(')').next())
                    .map(str::to_owned),
            };
            (1..text.split('`').count().saturating_sub(1)).step_by(2).map(code)
        })
    }

    /// The anchors of the headings.
    pub fn headings(&self) -> BTreeSet<String> {
        let headings = self.prose().filter(|(_, line)| line.starts_with('#'));
        headings.map(|(_, line)| slug(line.trim_start_matches('#').trim())).collect()
    }

    /// The blocks of TOML.
    pub fn toml(&self) -> impl Iterator<Item = String> {
        self.text
            .split("```toml\n")
            .skip(1)
            .map(|rest| rest.split("```").next().expect("split yields something").to_owned())
    }

    /// The page with each block after `<!-- from FILE -->` replaced by what `read` returns for the file.
    pub fn with_shown(&self, mut read: impl FnMut(&str) -> String) -> String {
        let mut parts = self.text.split("<!-- from ");
        let mut whole = parts.next().expect("split yields something").to_owned();
        for part in parts {
            let (file, rest) = part.split_once(" -->\n").expect("`<!-- from FILE -->` ends its line");
            let (fence, rest) = rest.split_once('\n').expect("a block of code follows");
            let (_, after) = rest.split_once("\n```\n").expect("the block of code ends");
            assert!(fence.starts_with("```"), "{file}: a block of code follows");
            whole += &format!("<!-- from {file} -->\n{fence}\n{}```\n{after}", read(file));
        }
        whole
    }
}

/// The anchor that a heading gets on the web.
pub fn slug(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

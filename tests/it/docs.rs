//! The documentation, held against what it speaks of: links lead somewhere, the tests and keys it names
//! exist, examples are shown as they are, and the reference has every key. `UPDATE_DOCS=1` writes what
//! can be written instead of comparing it. The table of metrics is beside the tests of the metrics.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

mod page;
mod reference;

use page::{Page, slug};

use crate::tidy::{files, name, root};

/// Every Markdown file of the project.
fn pages() -> Vec<Page> {
    let markdown = |path: &Path| path.extension().is_some_and(|extension| extension == "md");
    let pages: Vec<Page> = files(&root(), &markdown).iter().map(|path| Page::read(path)).collect();
    assert!(pages.len() > 5, "the documentation is found");
    pages
}

fn assert_none(wrong: &[String], rule: &str) {
    assert!(wrong.is_empty(), "{rule}\n{}", wrong.join("\n"));
}

#[test]
fn every_link_leads_somewhere() {
    let pages = pages();
    let mut wrong = Vec::new();
    for page in &pages {
        for link in page.links().filter(|link| !link.target.contains("://")) {
            if let Err(reason) = follow(page, &link.target, &pages) {
                wrong.push(format!("{}:{}: {}: {reason}", name(&page.path), link.line, link.target));
            }
        }
    }
    assert_none(&wrong, "links of the documentation:");
}

fn follow(page: &Page, target: &str, pages: &[Page]) -> Result<(), String> {
    let (path, anchor) = target.split_once('#').map_or((target, None), |(path, anchor)| (path, Some(anchor)));
    let there = if path.is_empty() { page.path.clone() } else { page.beside(path) };
    let there = there.canonicalize().map_err(|_| "no such file".to_owned())?;
    let Some(anchor) = anchor else { return Ok(()) };
    let there = pages.iter().find(|page| page.path.canonicalize().is_ok_and(|path| path == there));
    let headings = there.ok_or("an anchor in what is no page")?.headings();
    if headings.contains(anchor) { Ok(()) } else { Err("no such heading".into()) }
}

#[test]
fn the_index_lists_every_page_of_the_documentation() {
    let docs = root().join("docs");
    let pages = pages();
    let index = pages.iter().find(|page| page.path == docs.join("README.md")).expect("there is an index");
    let listed: BTreeSet<PathBuf> = index.links().map(|link| index.beside(&link.target)).collect();
    let all =
        pages.iter().map(|page| &page.path).filter(|path| path.starts_with(&docs) && **path != index.path);
    let missing: Vec<String> = all.filter(|path| !listed.contains(*path)).map(|path| name(path)).collect();
    assert_none(&missing, "pages that docs/README.md does not list:");
}

/// The modules of this very binary, as `main.rs` has them.
fn test_modules() -> Vec<String> {
    let main = fs::read_to_string(root().join("tests/it/main.rs")).expect("this binary has one");
    let declared = main.lines().filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';'));
    declared.map(str::to_owned).collect()
}

/// A test in code font, as `sim::the_same_seed_is_the_same_run`; a name may be cut short with `…`.
#[test]
fn every_test_that_is_named_exists() {
    let modules = test_modules();
    let mut wrong = Vec::new();
    let mut named = 0;
    for page in pages() {
        for code in page.code() {
            let Some((module, _)) = code.text.split_once("::") else { continue };
            if !modules.iter().any(|known| known == module) {
                continue;
            }
            named += 1;
            if let Err(reason) = find_test(&code.text, code.link.map(|target| page.beside(&target))) {
                wrong.push(format!("{}:{}: {}: {reason}", name(&page.path), code.line, code.text));
            }
        }
    }
    assert!(named > 20, "the documentation names the tests that prove what it says");
    assert_none(&wrong, "tests that the documentation names:");
}

/// A module, or a function of one; where it is linked, the link leads to its file.
fn find_test(path: &str, linked: Option<PathBuf>) -> Result<(), String> {
    let (module, last) = path.rsplit_once("::").expect("a path has two parts");
    let file = match file_of(path) {
        Some(file) => file,
        None => {
            let file = file_of(module).ok_or("no such module")?;
            let text = fs::read_to_string(&file).expect("a file that is there can be read");
            match functions(&text).filter(|function| is_meant(last, function)).count() {
                0 => return Err("no such test".into()),
                1 => file,
                _ => return Err("more than one test begins so".into()),
            }
        }
    };
    let same = |linked: PathBuf| linked.canonicalize().ok() == file.canonicalize().ok();
    if linked.is_none_or(same) { Ok(()) } else { Err(format!("is in {}", name(&file))) }
}

fn file_of(module: &str) -> Option<PathBuf> {
    let path = root().join("tests/it").join(module.replace("::", "/"));
    [path.with_extension("rs"), path.join("mod.rs")].into_iter().find(|file| file.exists())
}

fn functions(text: &str) -> impl Iterator<Item = &str> {
    text.split("fn ").skip(1).map(|rest| {
        rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().expect("split yields something")
    })
}

fn is_meant(named: &str, function: &str) -> bool {
    named.strip_suffix('…').map_or(named == function, |beginning| function.starts_with(beginning))
}

/// A key in code font, as `lease.ttl`, or in a block of TOML.
#[test]
fn every_key_that_is_named_exists() {
    let known = reference::keys();
    let sections: BTreeSet<&str> = known.iter().filter_map(|key| key.split('.').next()).collect();
    let mut wrong = Vec::new();
    for page in pages().iter().filter(|page| !page.path.ends_with("CHANGELOG.md")) {
        let named = page.code().filter(|code| is_key(&code.text, &sections)).map(|code| code.text);
        for key in named.chain(page.toml().flat_map(|block| reference::keys_of(&block))) {
            if !reference::is_known(&key, &known) {
                wrong.push(format!("{}: {key}", name(&page.path)));
            }
        }
    }
    assert_none(&wrong, "keys that the documentation names and config.example.toml lacks:");
}

fn is_key(text: &str, sections: &BTreeSet<&str>) -> bool {
    // Files and the default table are written the same way.
    let other = [".rs", ".sql", ".md"].iter().any(|end| text.ends_with(end)) || text == "outbox.message";
    let plain = text.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c == '.');
    let section = text.split_once('.').map(|(section, _)| section);
    !other && plain && section.is_some_and(|section| sections.contains(section))
}

/// `<!-- from FILE -->` before a block of code: the part of the file between its lines `docs: begin` and
/// `docs: end`.
#[test]
fn docs_show_the_examples_as_they_are() {
    let mut shown = 0;
    for page in pages() {
        let wanted = page.with_shown(|path| {
            shown += 1;
            excerpt(&root().join(path))
        });
        keep(&page, &wanted, "docs_show_the_examples_as_they_are");
    }
    assert!(shown > 8, "the documentation shows its examples");
}

fn excerpt(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let lines = text.lines().skip_while(|line| !line.ends_with("docs: begin")).skip(1);
    let lines: Vec<&str> = lines.take_while(|line| !line.ends_with("docs: end")).collect();
    assert!(!lines.is_empty(), "{} does not say which part is shown", path.display());
    unindented(&lines).trim_end().to_owned() + "\n"
}

fn unindented(lines: &[&str]) -> String {
    let filled = lines.iter().filter(|line| !line.trim().is_empty());
    let indent = filled.map(|line| line.len() - line.trim_start().len()).min().unwrap_or(0);
    lines.iter().map(|line| line.get(indent..).unwrap_or("").to_owned() + "\n").collect()
}

const BEGIN: &str = "<!-- keys: begin, written by the test docs_list_every_key -->\n";
const END: &str = "<!-- keys: end -->\n";

#[test]
fn docs_list_every_key() {
    let page = Page::read(&root().join("docs/configuration.md"));
    let (before, rest) = page.text.split_once(BEGIN).expect("a place for the keys");
    let (_, after) = rest.split_once(END).expect("the end of the keys");
    let wanted = format!("{before}{BEGIN}{}{END}{after}", reference::markdown());
    keep(&page, &wanted, "docs_list_every_key");
}

/// Compares, or writes with `UPDATE_DOCS=1`.
fn keep(page: &Page, wanted: &str, test: &str) {
    if page.text == wanted {
        return;
    }
    assert!(
        std::env::var_os("UPDATE_DOCS").is_some(),
        "{} is not up to date: run the test {test} with UPDATE_DOCS=1",
        name(&page.path)
    );
    fs::write(&page.path, wanted).expect("the page can be written");
}

#[test]
fn what_docs_get_wrong_is_noticed() {
    let page = Page::new(
        root().join("docs/a.md"),
        "# A `b` -- c?\n[x](design.md#nowhere) `sim::no_such_test`\n```toml\n[lease]\nttl = 1\nttk = 2\n```\n\
         [`tidy`](no.md)\n"
            .into(),
    );
    let targets: Vec<_> = page.links().map(|link| (link.line, link.target)).collect();
    assert_eq!(targets, [(2, "design.md#nowhere".to_owned()), (8, "no.md".to_owned())]);
    assert!(follow(&page, "design.md#nowhere", &pages()).is_err() && follow(&page, "no.md", &[]).is_err());
    assert_eq!(slug("A `b` -- c?"), "a-b----c");
    assert!(find_test("sim::no_such_test", None).is_err() && find_test("sim::the_same_seed_…", None).is_ok());
    assert!(find_test("sim::the_same_seed_…", Some(root().join("README.md"))).is_err());
    let keys: Vec<String> = page.toml().flat_map(|block| reference::keys_of(&block)).collect();
    let known = reference::keys();
    let unknown: Vec<_> = keys.iter().filter(|key| !reference::is_known(key, &known)).collect();
    assert_eq!(unknown, ["lease.ttk"]);
}

//! House rules as tests: what a reviewer would otherwise have to say again. A rule that the compiler or
//! clippy can check is in `Cargo.toml` or `clippy.toml` and not here.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

mod lexer;

use lexer::Source;

/// Functions this long are explained or split.
const FUNCTION_LINES_MAX: usize = 70;

/// Files this long tell two stories.
const FILE_LINES_MAX: usize = 600;

/// Functions that may be longer, with the reason. The list only ever gets shorter: an entry that is no
/// longer needed fails too.
const LONG_FUNCTIONS: &[(&str, &str)] =
    &[("src/sink/kafka/classify.rs: classify", "the table of codes; a line a code reads best whole")];

/// Files that may be longer, with the reason.
const LONG_FILES: &[(&str, &str)] = &[("tests/it/config.rs", "one promise after the other over one subject")];

/// A rule's breaches; a test fails with all of them at once.
#[derive(Default)]
struct Breaches(Vec<String>);

impl Breaches {
    fn at(&mut self, source: &Source, line: usize, what: &str) {
        self.0.push(format!("{}:{line}: {what}", source.path));
    }

    fn assert_none(self, rule: &str) {
        assert!(self.0.is_empty(), "{rule}\n{}", self.0.join("\n"));
    }
}

#[test]
fn the_core_knows_no_runtime_no_clock_no_driver() {
    let banned = [
        "tokio",
        "sqlx",
        "rdkafka",
        "lapin",
        "axum",
        "tracing",
        "std::env",
        "std::thread",
        "Instant::now",
        "SystemTime",
        ".await",
        "async fn",
        "rand::rng",
        "rand::random",
        "thread_rng",
        "from_os_rng",
    ];
    let mut breaches = Breaches::default();
    let core: Vec<Source> = sources("src").into_iter().filter(core).collect();
    for module in ["relay", "route"].into_iter().filter(|module| declared(module)) {
        let prefix = format!("src/{module}");
        assert!(
            core.iter().any(|source| source.path.starts_with(&prefix)),
            "{module} is declared and not found"
        );
    }
    for source in &core {
        for (line, code) in source.code_lines() {
            for word in banned.iter().filter(|word| names(code, word)) {
                breaches.at(source, line, &format!("`{word}`"));
            }
        }
    }
    breaches.assert_none("src/relay and src/route decide; time, chance and the world are given to them:");
}

fn core(source: &Source) -> bool {
    source.path.starts_with("src/relay") || source.path.starts_with("src/route")
}

#[test]
fn the_policy_names_every_case() {
    let mut breaches = Breaches::default();
    for source in sources("src").iter().filter(|source| source.path.ends_with("relay/policy.rs")) {
        for (line, _) in source.code_lines().filter(|(_, code)| code.contains("_ =>")) {
            breaches.at(source, line, "`_ =>`");
        }
    }
    breaches.assert_none("a failure nobody thought of must not be judged by accident:");
}

#[test]
fn sql_of_more_than_one_line_is_in_a_file_that_psql_can_run() {
    // Statements the relay runs; what a hint offers to a person is prose.
    let openings = ["select ", "insert into ", "update ", "delete from ", "with ", "create table "];
    let mut breaches = Breaches::default();
    for source in sources("src") {
        for literal in source.literals.iter().filter(|literal| literal.text.contains('\n')) {
            let text = literal.text.trim_start().to_lowercase();
            for opening in openings.iter().filter(|opening| text.starts_with(**opening)) {
                breaches.at(&source, literal.line, opening);
            }
        }
    }
    breaches.assert_none("put it into a .sql file and include_str! it:");
}

#[test]
fn functions_are_short() {
    let mut long = BTreeMap::new();
    for source in sources("src").iter().chain(&sources("tests")) {
        for function in source.functions().filter(|function| function.lines > FUNCTION_LINES_MAX) {
            long.insert(format!("{}: {}", source.path, function.name), function.lines);
        }
    }
    ratchet(&long, LONG_FUNCTIONS, FUNCTION_LINES_MAX);
}

#[test]
fn files_are_short() {
    let all = sources("src").into_iter().chain(sources("tests"));
    let lengths = all.map(|source| (source.path.clone(), source.text.lines().count()));
    let long = lengths.filter(|(_, lines)| *lines > FILE_LINES_MAX).collect();
    ratchet(&long, LONG_FILES, FILE_LINES_MAX);
}

/// What is too long is listed with a reason, and what is listed is too long.
fn ratchet(long: &BTreeMap<String, usize>, listed: &[(&str, &str)], lines_max: usize) {
    let listed: BTreeMap<&str, &str> = listed.iter().copied().collect();
    for (name, lines) in long {
        assert!(listed.contains_key(name.as_str()), "{name} has {lines} lines, more than {lines_max}");
    }
    for name in listed.keys() {
        assert!(long.contains_key(*name), "{name} is short by now: take it off the list");
    }
}

#[test]
fn nothing_is_left_for_later() {
    let banned = ["TODO", "FIXME", "XXX", "todo!", "unimplemented!", "dbg!"];
    let mut breaches = Breaches::default();
    for source in sources("src") {
        for (number, text) in (1..).zip(source.text.lines()) {
            for word in banned.iter().filter(|word| names(text, word)) {
                breaches.at(&source, number, word);
            }
        }
    }
    breaches.assert_none("finish it, or leave it out:");
}

#[test]
fn every_file_says_what_it_is_for() {
    let mut breaches = Breaches::default();
    for source in sources("src").iter().chain(&sources("tests")) {
        if !source.text.starts_with("//! ") {
            breaches.at(source, 1, "does not open with `//!`");
        }
    }
    breaches.assert_none("a file opens with what it is for and what it leaves to others:");
}

#[test]
fn no_test_sleeps() {
    let mut breaches = Breaches::default();
    // Below sim/ time is virtual: a sleep there takes none.
    let may = |path: &str| path == "tests/it/support/wait.rs" || path.starts_with("tests/it/sim/");
    for source in sources("tests").iter().filter(|source| !may(&source.path)) {
        for (line, _) in source.code_lines().filter(|(_, code)| names(code, "sleep")) {
            breaches.at(source, line, "`sleep`");
        }
    }
    breaches.assert_none("wait for a condition, with support::wait:");
}

#[test]
fn nothing_depends_on_where_it_was_written() {
    // In pieces, so that this file does not speak of them.
    let paths = [concat!("/wo", "rk/"), concat!("/ro", "ot/")];
    for file in files(&root(), &|_| true) {
        let Ok(text) = fs::read_to_string(&file) else { continue };
        for path in paths {
            assert!(!text.contains(path), "{} mentions {path}", file.display());
        }
    }
}

#[test]
fn the_rules_can_be_broken() {
    let text = r##"//! A file.
        fn long(c: char) -> &'static str { // tokio, in a comment
            if c == '"' { return "a // b"; } /* _ => /* nested */ */
            sqlx::query(r#"select "x"
                from y"#)
        }"##;
    let source = Source::new("src/a.rs".into(), text.into());
    let code: Vec<&str> = source.code_lines().map(|(_, code)| code).collect();
    assert!(!code.iter().any(|code| names(code, "tokio") || code.contains("_ =>")));
    assert!(code.iter().any(|code| names(code, "sqlx")));
    assert!(
        !names("tokio_like", "tokio") && names("use tokio::net;", "tokio") && names("a.await?", ".await")
    );
    let literals: Vec<(usize, &str)> = source.literals.iter().map(|l| (l.line, l.text.as_str())).collect();
    assert_eq!(literals[0], (3, "a // b"));
    assert!(literals[1].0 == 4 && literals[1].1.starts_with("select \"x\"\n"));
    let functions: Vec<_> = source.functions().map(|function| (function.name, function.lines)).collect();
    assert_eq!(functions, [("long".to_owned(), 5)]);
}

/// Whether `text` holds `word` as a word of its own: neither end goes on in an identifier.
fn names(text: &str, word: &str) -> bool {
    let identifier = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        let goes_on = |here: Option<char>, edge: Option<char>| {
            here.is_some_and(identifier) && edge.is_some_and(identifier)
        };
        !goes_on(text[..at].chars().next_back(), word.chars().next())
            && !goes_on(text[at + word.len()..].chars().next(), word.chars().next_back())
    })
}

/// Whether `lib.rs` has that module: the rules about a module bind once it exists.
fn declared(module: &str) -> bool {
    let lib = fs::read_to_string(root().join("src/lib.rs")).expect("every crate has one");
    lib.contains(&format!("pub mod {module};"))
}

/// Every Rust file below a directory of the project.
fn sources(directory: &str) -> Vec<Source> {
    let rust = |path: &Path| path.extension().is_some_and(|extension| extension == "rs");
    let files = files(&root().join(directory), &rust);
    assert!(!files.is_empty(), "{directory} holds Rust files");
    files.into_iter().map(|file| Source::new(name(&file), read(&file))).collect()
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).expect("a file just listed can be read")
}

/// A file's path within the project.
pub(crate) fn name(file: &Path) -> String {
    file.strip_prefix(root()).expect("it is below the root").to_string_lossy().into_owned()
}

/// The files below `directory`, without what is built or belongs to a tool.
pub(crate) fn files(directory: &Path, wanted: &dyn Fn(&Path) -> bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("the directory can be read").flatten() {
        let path = entry.path();
        let skipped = [".git", "target", "node_modules"].iter().any(|name| path.ends_with(name));
        if path.is_dir() && !skipped {
            found.extend(files(&path, wanted));
        } else if !skipped && wanted(&path) {
            found.push(path);
        }
    }
    found.sort();
    found
}

pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

//! What every file of the tree keeps to: openings, sizes, widths, who talks to the network, and
//! what must not be in a repository that others read.

use super::root;
use countersign_core::refusal::Code;
use std::{fs, path::Path};

/// Folders that are made, not written.
const MADE: [&str; 6] = ["target", "node_modules", ".venv", ".git", "__pycache__", "wip"];
/// The longest file, without its tests.
const FILE_LINES_MAX: usize = 800;
/// The widest line; quoted text, names in backticks and tests not counted.
const COLUMNS_MAX: usize = 100;
/// The longest function of the path.
const PATH_LINES_MAX: usize = 60;

/// Every file below a folder, as path from the root and content; what is no text is left out.
fn files(folder: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    collect(&root().join(folder), &mut found);
    found.sort();
    found
}

fn collect(folder: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap()) {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        // In a linked worktree `.git` is a file.
        if MADE.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        if kind.is_dir() {
            collect(&path, found);
        } else if kind.is_file()
            && let Ok(text) = fs::read_to_string(&path)
        {
            found.push((relative(&path), text));
        }
    }
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().to_string_lossy().into_owned()
}

/// Every Rust file of ours.
fn sources() -> Vec<(String, String)> {
    let all = ["crates", "bench"].into_iter().flat_map(files);
    all.filter(|(path, _)| path.ends_with(".rs")).collect()
}

fn is_test(path: &str) -> bool {
    path.contains("/tests/") || path.ends_with("/tests.rs") || path.starts_with("bench/")
}

/// A file without the tests at its foot.
fn without_tests(text: &str) -> &str {
    text.split("mod tests {").next().unwrap_or(text)
}

#[test]
fn every_file_says_what_it_is() {
    for (path, text) in sources() {
        // A `tests.rs` is the foot of the module beside it.
        let is_foot = path.ends_with("/tests.rs");
        assert!(is_foot || text.starts_with("//! "), "{path} does not open with `//!`");
    }
}

#[test]
fn no_file_is_too_long_to_read() {
    for (path, text) in sources().into_iter().filter(|(path, _)| !is_test(path)) {
        let lines = without_tests(&text).lines().count();
        assert!(lines <= FILE_LINES_MAX, "{path} has {lines} lines without its tests");
    }
}

#[test]
fn no_line_is_too_wide_to_read() {
    let mut wide = Vec::new();
    for (path, text) in sources().into_iter().filter(|(path, _)| !is_test(path)) {
        for (number, line) in without_raw_texts(without_tests(&text)).lines().enumerate() {
            let width = unquoted(line).chars().count();
            if width > COLUMNS_MAX {
                wide.push(format!("{path}:{}: {width} columns", number + 1));
            }
        }
    }
    assert!(wide.is_empty(), "{}", wide.join("\n"));
}

/// The file with the lines of its raw texts empty.
fn without_raw_texts(text: &str) -> String {
    let mut pieces = text.split("r#\"");
    let mut out = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (inside, after) = piece.split_once("\"#").unwrap_or((piece, ""));
        out.extend(inside.chars().filter(|c| *c == '\n'));
        out.push_str(after);
    }
    out
}

/// The line without its text literals and names in backticks: those cannot be broken.
fn unquoted(line: &str) -> String {
    let mut out = String::new();
    let (mut open, mut escaped) = (None, false);
    for c in line.chars() {
        let is_quote = matches!(c, '"' | '`') && !escaped;
        match open {
            None if is_quote => open = Some(c),
            None => out.push(c),
            Some(quote) if is_quote && c == quote => open = None,
            Some(_) => {}
        }
        escaped = open.is_some() && c == '\\' && !escaped;
    }
    // Left open: the line is part of a text that spans lines.
    if open.is_some() { String::new() } else { out }
}

#[test]
fn the_path_fits_a_screen() {
    let path = "crates/gateway/src/call.rs";
    let text = fs::read_to_string(root().join(path)).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let starts = lines.iter().enumerate().filter(|(_, line)| {
        ["fn ", "async fn ", "pub async fn ", "pub fn "].iter().any(|s| line.starts_with(s))
    });
    let mut seen = 0;
    for (start, line) in starts {
        let length = lines.iter().skip(start).position(|line| *line == "}").unwrap() + 1;
        assert!(length <= PATH_LINES_MAX, "{path}: {length} lines: {line}");
        seen += 1;
    }
    assert!(seen > 0, "{path} has no functions: is the path elsewhere now?");
}

/// Who may open connections to others.
const OUTBOUND: [&str; 9] = [
    // To the admin socket of the same machine, and nowhere else.
    "crates/gateway/src/cli/link.rs",
    "crates/gateway/src/fetch",
    "crates/gateway/src/upstream",
    "crates/gateway/src/prove/",
    "crates/gateway/src/rails/",
    "crates/client/src/",
    "crates/client/examples/",
    "crates/testkit/tests/arrows/tidy.rs",
    "bench/",
];

#[test]
fn only_a_few_places_talk_to_others() {
    let signs = [
        "HttpConnector",
        "HttpsConnector",
        "client::legacy",
        "hyper::client",
        "client::conn",
        "TcpStream::connect",
        "reqwest::",
        "ureq::",
    ];
    for (path, text) in sources() {
        if is_test(&path) || OUTBOUND.iter().any(|allowed| path.starts_with(allowed)) {
            continue;
        }
        for sign in signs {
            assert!(!text.contains(sign), "{path} has `{sign}`: it must go through `fetch`");
        }
    }
}

#[test]
fn nothing_here_speaks_of_the_machine_it_was_made_on() {
    let signs = [
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/"),
        concat!("/ho", "me/"),
        concat!("registry", ".npmjs", ".org"),
        concat!("files.python", "hosted.org"),
        concat!("pypi", ".org"),
        concat!("index.crates", ".io"),
        concat!("static", ".crates", ".io"),
    ];
    for (path, text) in files("") {
        // Ada is a person of our examples.
        let text = text.replace(concat!("/ho", "me/ada"), "");
        for sign in signs {
            assert!(!text.contains(sign), "{path} has `{sign}`");
        }
    }
}

#[test]
fn no_merge_was_left_half_done() {
    let is_marker = |line: &str| {
        let sides = ["<<<<<<< ", "||||||| ", ">>>>>>> "];
        line == "=======" || sides.iter().any(|side| line.starts_with(side))
    };
    for (path, text) in files("") {
        let is_leftover = [".orig", ".rej"].iter().any(|end| path.ends_with(end));
        assert!(!is_leftover, "{path} is left of a merge");
        let marker = text.lines().position(is_marker);
        assert_eq!(marker, None, "{path} has a conflict marker, counting lines from 0");
    }
}

#[test]
fn links_between_pages_lead_somewhere() {
    for (path, text) in files("").into_iter().filter(|(path, _)| path.ends_with(".md")) {
        let folder = root().join(&path).parent().unwrap().to_owned();
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.contains("://")) {
            let file = target.split('#').next().unwrap_or(target);
            assert!(file.is_empty() || folder.join(file).exists(), "{path}: {target}");
        }
    }
}

#[test]
fn each_attack_names_tests_that_are_there() {
    let page = fs::read_to_string(root().join("docs/threats.md")).unwrap();
    let mut named = 0;
    for cell in page.lines().filter(|line| line.starts_with("| ")).flat_map(|l| l.split("](../")) {
        let Some((file, rest)) = cell.split_once(") “") else { continue };
        let name = rest.split('”').next().unwrap_or_default();
        let text = fs::read_to_string(root().join(file)).unwrap_or_else(|_| panic!("{file}"));
        let escaped = name.replace('\'', "\\'");
        let says = [format!("fn {name}("), format!("'{escaped}'"), format!("\"{name}\"")];
        assert!(says.iter().any(|says| text.contains(says)), "{file} has no test `{name}`");
        named += 1;
    }
    assert!(named > 60, "{named}");
}

#[test]
fn a_code_is_given_somewhere_or_its_page_says_reserved() {
    let rules = sources().into_iter().filter(|(path, _)| {
        let ours = ["crates/core/src", "crates/store/src", "crates/gateway/src"];
        ours.iter().any(|folder| path.starts_with(folder)) && !path.ends_with("/refusal.rs")
    });
    let rules: Vec<String> = rules.map(|(_, text)| without_tests(&text).to_owned()).collect();
    for code in Code::ALL {
        let name = format!("Code::{code:?}");
        let is_named = |text: &String| {
            let rules = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            rules
                .flat_map(|line| line.split(&name).skip(1))
                .any(|rest| !rest.starts_with(char::is_alphanumeric))
        };
        let page = root().join(format!("docs/refusals/{code}.md"));
        let is_reserved = fs::read_to_string(page).unwrap().contains("\nReserved. ");
        let is_given = rules.iter().any(is_named);
        assert!(is_given != is_reserved, "{code}: given: {is_given}, reserved: {is_reserved}");
    }
}

//! Where commands write: tables for people on a terminal, JSON for programs.
//!
//! INVARIANT: text that came from outside never reaches a terminal as control characters, so no
//! agent's name can rewrite what a person reads before approving.
//! INVARIANT: a reader that has gone ends the command quietly.

use super::stop::Stop;
use serde::Serialize;
use std::io::{self, ErrorKind, IsTerminal as _, Write as _};

/// The form of a command's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Out {
    /// For people.
    Text,
    /// For programs.
    Json,
}

impl Out {
    /// Text on a terminal, unless JSON is asked for.
    #[must_use]
    pub fn new(wants_json: bool) -> Self {
        if wants_json || !io::stdout().is_terminal() { Self::Json } else { Self::Text }
    }

    /// The form of what is said beside the output: text where a person sees it.
    pub(super) fn beside(self) -> Self {
        match self {
            Self::Json if io::stderr().is_terminal() => Self::Text,
            Self::Json | Self::Text => self,
        }
    }

    /// Writes one value: as JSON, or as `text` says it.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn show<T: Serialize>(
        self,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<(), Stop> {
        match self {
            Self::Text => write(&printable(&text(value))),
            Self::Json => write(&serde_json::to_string_pretty(value).map_err(Stop::internal)?),
        }
    }

    /// Writes one value of a stream: JSON on one line, or as `text` says it.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn item<T: Serialize>(
        self,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<(), Stop> {
        match self {
            Self::Text => write(&printable(&text(value))),
            Self::Json => write(&serde_json::to_string(value).map_err(Stop::internal)?),
        }
    }
}

/// Writes text and a newline.
///
/// # Errors
/// The output cannot be written. That nobody reads it any more is a quiet stop.
pub(super) fn write(text: &str) -> Result<(), Stop> {
    let mut out = io::stdout().lock();
    match out.write_all(format!("{text}\n").as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Stop::quiet()),
        Err(error) => Err(Stop::internal(error)),
    }
}

/// Writes a line beside the output: a note, a warning, an error.
pub(super) fn note(text: &str) {
    // Nobody is left to be told that this failed.
    let _unheard = writeln!(io::stderr().lock(), "{}", printable(text));
}

/// The text with control characters, and those that reorder text, made visible.
#[must_use]
pub(super) fn printable(text: &str) -> String {
    let hides = |c: char| {
        c.is_control() && c != '\n'
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
                | '\u{2060}'..='\u{2069}' | '\u{feff}')
    };
    if !text.contains(hides) {
        return text.to_owned();
    }
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if hides(c) { shown.extend(c.escape_unicode()) } else { shown.push(c) }
    }
    shown
}

/// Columns under their names, as wide as they need.
#[must_use]
pub(super) fn table(names: &[&str], rows: &[Vec<String>]) -> String {
    let clean = |cell: &str| printable(cell).replace('\n', " ");
    let head: Vec<String> = names.iter().map(|name| name.to_uppercase()).collect();
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| clean(cell)).collect()).collect();
    let all = || std::iter::once(&head).chain(&rows);
    let width = |column: usize| {
        let cells = all().filter_map(|row: &Vec<String>| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    all().map(line).collect::<Vec<_>>().join("\n")
}

/// Names and values, one a line; those without a value are left out.
#[must_use]
pub(super) fn facts(facts: &[(&str, Option<String>)]) -> String {
    let width = facts.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let line = |(name, value): &(&str, Option<String>)| {
        value.as_ref().map(|value| format!("{name:<width$}  {value}"))
    };
    facts.iter().filter_map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn tables_are_aligned_and_clean() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let text = table(
            &["id", "agent", "price"],
            &[row(["1", "planner", "0.01 USDC"]), row(["22", "a\u{1b}[2Jb\nc", ""])],
        );
        expect![[r#"
            ID  AGENT          PRICE
            1   planner        0.01 USDC
            22  a\u{1b}[2Jb c"#]]
        .assert_eq(&text);
        expect!["ID  AGENT"].assert_eq(&table(&["id", "agent"], &[]));
    }

    #[test]
    fn facts_are_aligned_and_absent_ones_left_out() {
        let text = facts(&[
            ("grant", Some("grant_1".to_owned())),
            ("total", None),
            ("expires", Some("soon".to_owned())),
        ]);
        expect![[r#"
            grant    grant_1
            expires  soon"#]]
        .assert_eq(&text);
    }

    #[test]
    fn text_from_outside_cannot_rewrite_the_screen() {
        assert_eq!(printable("plain é\n"), "plain é\n");
        assert_eq!(printable("a\u{202e}b\r"), "a\\u{202e}b\\u{d}");
    }
}

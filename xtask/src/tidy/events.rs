//! The table of Events tells the truth.
//!
//! In the document about compatibility, below the heading "Events", the first cell of a row names reasons. Where the row names
//! Rust files, each reason is a literal in one of them, and each file has one of the reasons. Where it names none, nobody emits
//! the reasons: no crate has such a literal.

use super::{Finding, Tree};

const RULE: &str = "events";

/// The document with the table.
const DOCUMENT: &str = "docs/compatibility.md";

/// The heading above it.
const HEADING: &str = "## Events";

pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let text = tree.text(DOCUMENT).unwrap_or_default();
    rows(text)
        .flat_map(|(line, row)| untrue(tree, row).into_iter().map(move |what| (line, what)))
        .map(|(line, what)| Finding::new(DOCUMENT, line, RULE, what))
        .collect()
}

/// What is not true of a row.
fn untrue(tree: &Tree, row: &str) -> Vec<String> {
    let (reasons, rest) = row[1..].split_once('|').unwrap_or_default();
    let files: Vec<&str> = spans(rest).filter(|span| span.ends_with(".rs")).collect();
    let has = |file: &str, reason: &str| {
        tree.text(file).is_some_and(|text| text.contains(&format!("\"{reason}\"")))
    };
    let untrue = spans(reasons).filter_map(|reason| {
        if files.is_empty() {
            let place = tree.paths().find(|path| path.starts_with("crates/") && has(path, reason))?;
            return Some(format!("`{reason}` is emitted after all, in {place}: name the file in the row"));
        }
        let is_somewhere = files.iter().any(|file| has(file, reason));
        (!is_somewhere).then(|| format!("`{reason}` is in none of these files: correct the row"))
    });
    let without = files.iter().filter(|file| !spans(reasons).any(|reason| has(file, reason)));
    untrue.chain(without.map(|file| format!("`{file}` has none of these reasons: leave it out"))).collect()
}

/// Rows of tables between the heading and the next one of its kind, with their lines.
fn rows(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().skip_while(|(_, line)| *line != HEADING).skip(1);
    let of_section = lines.take_while(|(_, line)| !line.starts_with("## "));
    of_section.filter(|(_, line)| line.starts_with("| `")).map(|(index, line)| (index + 1, line))
}

/// What stands in single backticks.
fn spans(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::check_rule;

    #[test]
    fn each_row_is_true() {
        let code = ("crates/a/src/status.rs", "tell(\"Ready\"); tell(\"Gone\");");
        let other = ("crates/b/src/other.rs", "");
        for (rows, expect) in [
            ("| `Ready`, `Gone` | Pod | `crates/a/src/status.rs` |", &[][..]),
            ("| `Ready`, `Lost` | Pod | `crates/a/src/status.rs` |", &["docs/compatibility.md:5"]),
            (
                "| `Ready` | Pod | `crates/a/src/status.rs`, `crates/b/src/other.rs` |",
                &["docs/compatibility.md:5"],
            ),
            ("| `Lost` | Pod | cannot occur |", &[]),
            ("| `Ready` | Pod | cannot occur; see `Gone` |", &["docs/compatibility.md:5"]),
            ("\n## Other\n\n| `Lost` | Pod | `crates/a/src/status.rs` |", &[]),
        ] {
            let text = format!("{HEADING}\n\n| reason | on | here |\n|---|---|---|\n{rows}\n");
            check_rule(check, &[code, other, (DOCUMENT, &text)], expect);
        }
        check_rule(check, &[code], &[]);
    }
}

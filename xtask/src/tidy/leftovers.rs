//! Nothing is committed that its author has marked as unfinished.

use super::{Finding, Tree, source::lines_naming};

const RULE: &str = "leftovers";

/// Marks of unfinished work, each written in two halves so that this file does not find itself.
const MARKS: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X"), concat!("TB", "D")];

pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for path in tree.paths().filter(|path| !path.ends_with(".lock") && *path != "LICENSE") {
        let Some(text) = tree.text(path) else { continue };
        for mark in MARKS {
            findings.extend(lines_naming(text, mark).map(|line| {
                Finding::new(
                    path,
                    line,
                    RULE,
                    format!("`{mark}`: finish it, or open an issue and leave it out"),
                )
            }));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::check_rule;

    #[test]
    fn marks_are_found_as_words() {
        for mark in MARKS {
            check_rule(check, &[("a.rs", &format!("fn a() {{}}\n// {mark}: later"))], &["a.rs:2"]);
            check_rule(check, &[("a.rs", &format!("mktemp -t x.{mark}{mark}"))], &[]);
        }
    }
}

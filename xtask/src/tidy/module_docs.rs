//! Every Rust file begins with a module documentation: what it decides or which world it talks to.

use super::{Finding, Tree};

const RULE: &str = "module-docs";

pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    tree.texts(&[".rs"])
        .filter(|(_, text)| !begins_with_documentation(text))
        .map(|(path, _)| {
            Finding::new(path, 1, RULE, "begin with `//!`: what it decides or which world it talks to")
        })
        .collect()
}

fn begins_with_documentation(text: &str) -> bool {
    let first = text.lines().map(str::trim).find(|line| !line.is_empty());
    // A lone marker says nothing.
    first.and_then(|line| line.strip_prefix("//!")).is_some_and(|words| words.trim().len() >= 3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::check_rule;

    #[test]
    fn a_file_says_what_it_is() {
        let cases: &[(&str, &[&str])] = &[
            ("//! Ports.\nfn a() {}", &[]),
            ("\n//! Ports.", &[]),
            ("fn a() {}\n//! Ports.", &["crates/a/src/lib.rs:1"]),
            ("// Ports.\nfn a() {}", &["crates/a/src/lib.rs:1"]),
            ("//!\nfn a() {}", &["crates/a/src/lib.rs:1"]),
            ("", &["crates/a/src/lib.rs:1"]),
        ];
        for (text, expect) in cases {
            check_rule(check, &[("crates/a/src/lib.rs", text)], expect);
        }
    }
}

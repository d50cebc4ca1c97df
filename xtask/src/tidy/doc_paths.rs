//! Paths named in documents exist.
//!
//! A path is what stands in backticks, has a slash and begins with a folder of this repository. Braces list
//! several (`src/{link,netns}.rs`); a placeholder in angle brackets, a star or `NNNN` ends the check at the
//! folder before it. Fenced blocks are commands or pictures and not looked at.

use std::collections::BTreeSet;

use super::{Finding, Tree};

const RULE: &str = "doc-paths";

/// Folders at the root, whether or not they exist yet: a document may not promise one.
const ROOMS: &[&str] = &["crates", "xtask", "docs", "lab", "e2e", "demo", "deploy", "test", ".ci", ".cargo"];

pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let known: BTreeSet<&str> = ROOMS.iter().copied().chain(tree.paths().filter_map(top_folder)).collect();
    let mut findings = Vec::new();
    for (path, text) in tree.texts(&[".md"]).filter(|(path, _)| is_document(path)) {
        for (line, span) in code_spans(text) {
            for named in expand(span) {
                if known.contains(named.split('/').next().unwrap_or_default()) && !exists(tree, &named) {
                    let what = format!("`{named}` does not exist: correct the path");
                    findings.push(Finding::new(path, line, RULE, what));
                }
            }
        }
    }
    findings
}

fn top_folder(path: &str) -> Option<&str> {
    path.split_once('/').map(|(folder, _)| folder)
}

/// Documents about the repository as it is; decisions may tell of what was.
fn is_document(path: &str) -> bool {
    let at_root = matches!(path, "ARCHITECTURE.md" | "CONTRIBUTING.md" | "README.md" | "STYLE.md");
    at_root || path.starts_with("docs/") || path.ends_with("/README.md")
}

/// Finds `(line, text)` of everything in single backticks outside fenced blocks.
fn code_spans(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().enumerate().flat_map(move |(index, line)| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        let hidden = fenced || fence;
        line.split('`').skip(1).step_by(2).filter(move |_| !hidden).map(move |span| (index + 1, span))
    })
}

/// Reads a span as paths; nothing if it is none.
fn expand(span: &str) -> Vec<String> {
    let of_path = |c: char| c.is_ascii_alphanumeric() || "-_./{},<>*".contains(c);
    if !span.contains('/') || !span.chars().all(of_path) || span.starts_with('/') {
        return Vec::new();
    }
    let Some((before, rest)) = span.split_once('{') else { return vec![span.to_owned()] };
    let Some((list, after)) = rest.split_once('}') else { return Vec::new() };
    list.split(',').flat_map(|item| expand(&format!("{before}{item}{after}"))).collect()
}

fn exists(tree: &Tree, path: &str) -> bool {
    let open = |part: &&str| part.contains(['<', '*']) || part.contains("NNNN");
    let parts: Vec<&str> =
        path.trim_end_matches(['/', '.']).split('/').take_while(|part| !open(part)).collect();
    tree.has(&parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::check_rule;

    #[test]
    fn named_paths_exist() {
        let code = ("crates/a/src/link.rs", "");
        let cases: &[(&str, &[&str])] = &[
            ("See `crates/a/src/link.rs` and `crates/a/`.", &[]),
            ("`crates/a/src/{link,netns}.rs`", &["README.md:1"]),
            ("\n`crates/b/src/lib.rs`", &["README.md:2"]),
            ("`lab/lab up`, `openstack.org/v1`, `/etc/kuryr/kuryr.conf`", &[]),
            ("`lab/lab`", &["README.md:1"]),
            ("`crates/<room>/src/error.rs` and `crates/*/tests`", &[]),
            ("`docs/adr/NNNN-title.md`", &["README.md:1"]),
            ("```\n`crates/b`\n```\n", &[]),
            ("a `word` and `crates/b`", &["README.md:1"]),
        ];
        for (text, expect) in cases {
            check_rule(check, &[code, ("README.md", text)], expect);
        }
        check_rule(check, &[("NOTES.md", "`crates/b`")], &[]);
    }
}

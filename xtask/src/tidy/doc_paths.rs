//! Paths and tests named in documents exist.
//!
//! A path is what stands in backticks, has a slash and begins with a folder of this repository. Braces list
//! several (`src/{link,netns}.rs`); a placeholder in angle brackets, a star or `NNNN` ends the check at the
//! folder before it. Fenced blocks are commands or pictures and not looked at.
//!
//! A test is named behind its path: `crates/a/src/b.rs::name_of_the_test`, `e2e/scenario::words of a step`. Each row of the
//! tables of invariants and of outcomes names one.

use std::collections::BTreeSet;

use super::{Finding, Tree};

const RULE: &str = "doc-paths";

/// Folders at the root, whether or not they exist yet: a document may not promise one.
const ROOMS: &[&str] = &["crates", "xtask", "docs", "lab", "e2e", "demo", "deploy", "test", ".ci", ".cargo"];

/// The documents in which every row of a table has to name a test.
const TABLES_OF_TESTS: [&str; 2] = ["docs/invariants.md", "docs/outcomes.md"];

/// What stands between the path of a test and its name.
const SIGN: &str = "::";

pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let known: BTreeSet<&str> = ROOMS.iter().copied().chain(tree.paths().filter_map(top_folder)).collect();
    let is_ours = |path: &str| known.contains(path.split('/').next().unwrap_or_default());
    let mut findings = Vec::new();
    for (path, text) in tree.texts(&[".md"]).filter(|(path, _)| is_document(path)) {
        for (line, span) in code_spans(text) {
            let (paths, test) = span.split_once(SIGN).map_or((span, None), |(path, test)| (path, Some(test)));
            for named in expand(paths).into_iter().filter(|named| is_ours(named)) {
                if !exists(tree, &named) {
                    let what = format!("`{named}` does not exist: correct the path");
                    findings.push(Finding::new(path, line, RULE, what));
                } else if test.is_some_and(|test| !has_test(tree, &named, test)) {
                    let what = format!("`{span}` does not exist: correct the name of the test");
                    findings.push(Finding::new(path, line, RULE, what));
                }
            }
        }
        if TABLES_OF_TESTS.contains(&path) {
            let rows = rows_without_test(text).map(|line| {
                Finding::new(path, line, RULE, "this row names no test: write one, and its name here")
            });
            findings.extend(rows);
        }
    }
    findings
}

/// Tells whether a file has this test, or a scenario this step.
fn has_test(tree: &Tree, path: &str, test: &str) -> bool {
    if path.ends_with(".rs") {
        return tree.text(path).is_some_and(|text| is_test_of(text, test));
    }
    let steps = tree.text(&format!("{path}/steps")).unwrap_or_default();
    steps.lines().any(|line| line.contains("world.step(") && line.contains(test))
}

fn is_test_of(text: &str, test: &str) -> bool {
    let name = format!("fn {test}(");
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let Some(at) = lines.iter().position(|line| line.contains(&name)) else { return false };
    let attributes =
        lines[..at].iter().rev().take_while(|line| line.starts_with("#[") || line.starts_with("//"));
    attributes.into_iter().any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"))
}

/// Lines of rows of tables that name no test, without the heads.
fn rows_without_test(text: &str) -> impl Iterator<Item = usize> {
    let lines: Vec<&str> = text.lines().collect();
    let is_row = |line: &str| line.starts_with('|');
    let is_rule = |line: &str| line.starts_with("|---");
    (0..lines.len())
        .filter(move |at| {
            let is_head = lines.get(at + 1).is_some_and(|next| is_rule(next));
            is_row(lines[*at]) && !is_rule(lines[*at]) && !is_head && !lines[*at].contains(SIGN)
        })
        .map(|at| at + 1)
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

    #[test]
    fn named_tests_exist() {
        let files = [
            (
                "crates/a/src/link.rs",
                "    fn prepares() {}\n\n    #[tokio::test(start_paused = true)]\n    async fn it_holds() {\n",
            ),
            (
                "e2e/first-pod/steps",
                "    with world.step(f\"a pod of {node} is Ready\"):\n        is_ready()\n",
            ),
        ];
        for (text, expect) in [
            ("`crates/a/src/link.rs::it_holds`", &[][..]),
            ("`crates/a/src/link.rs::it_hold`", &["README.md:1"]),
            ("`crates/a/src/link.rs::prepares`", &["README.md:1"]),
            ("`crates/a/src/lost.rs::it_holds`", &["README.md:1"]),
            ("`crates/a::it_holds`", &["README.md:1"]),
            ("`e2e/first-pod::is Ready`", &[]),
            ("`e2e/first-pod::is_ready`", &["README.md:1"]),
            ("`kuryr_planning::pool`, `crates/a`", &[]),
        ] {
            check_rule(check, &[files[0], files[1], ("README.md", text)], expect);
        }
    }

    #[test]
    fn every_row_of_a_table_of_tests_names_one() {
        let code = ("crates/a/src/link.rs", "#[test]\nfn it_holds() {}");
        let head = "| case | tests |\n|---|---|\n";
        for (path, row, expect) in [
            ("docs/outcomes.md", "| a | `crates/a/src/link.rs::it_holds` |", &[][..]),
            ("docs/outcomes.md", "| a | none |", &["docs/outcomes.md:3"]),
            ("docs/invariants.md", "| a | none |", &["docs/invariants.md:3"]),
        ] {
            check_rule(check, &[code, (path, &format!("{head}{row}\n"))], expect);
        }
        check_rule(check, &[("docs/other.md", &format!("{head}| a | b |\n"))], &[]);
    }
}

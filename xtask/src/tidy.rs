//! The rules of the house, each in a file of its own.
//!
//! A rule takes the [`Tree`] and returns findings; it decides nothing about output and never changes a file.
//! Every rule has table tests on small trees that show that it can fail. The tree of this repository is held
//! against all rules by a test, too, so `cargo test` is enough to notice a broken one.

// What rules read: the files, and Rust text without comments and literals.
mod tree;
mod source;

// The shape of the workspace.
// Arrows between rooms point only downwards.
mod layers;
// `planning` performs no I/O.
mod purity;
// Every package has a lint table.
mod lints;

// The files.
// Every Rust file says what it is.
mod module_docs;
// Every Rust file is compiled.
mod orphans;
// No file is named after nothing.
mod names;
// No binaries, nothing large.
mod blobs;
// Generated files equal their generators.
mod generated;

// The words.
// Paths and tests in documents exist.
mod doc_paths;
// The table of Events tells who emits them.
mod events;
// Words with better replacements, places on one machine.
mod words;
// Nothing marked as unfinished.
mod leftovers;

use std::{fmt, path::Path};

use anyhow::Result;

use crate::codegen;
pub(crate) use tree::Tree;

/// One place that breaks one rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    /// Path from the root of the repository.
    pub(crate) path: String,
    /// Line, from one; zero when the file as a whole is meant.
    pub(crate) line: usize,
    /// The rule by name.
    pub(crate) rule: &'static str,
    /// What is wrong, and what to do.
    pub(crate) what: String,
}

impl Finding {
    fn new(path: impl Into<String>, line: usize, rule: &'static str, what: impl Into<String>) -> Self {
        Self { path: path.into(), line, rule, what: what.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.path, self.line.max(1), self.rule, self.what)
    }
}

/// Holds the repository at `root` against every rule.
///
/// # Errors
/// The tree cannot be listed, or `cargo` cannot describe the workspace.
pub(crate) fn tidy(root: &Path) -> Result<Vec<Finding>> {
    let tree = Tree::of_repository(root)?;
    let workspace = layers::describe(root)?;
    let mut findings = layers::check(&workspace);
    findings.extend(purity::check_closure(root)?);
    findings.extend(purity::check_sources(&tree));
    findings.extend(lints::check(&tree));
    findings.extend(module_docs::check(&tree));
    findings.extend(orphans::check(&tree));
    findings.extend(names::check(&tree));
    findings.extend(blobs::check(&tree));
    findings.extend(generated::check(&tree, &codegen::all(root)?, codegen::FOLDERS));
    findings.extend(doc_paths::check(&tree));
    findings.extend(events::check(&tree));
    findings.extend(words::check(&tree));
    findings.extend(leftovers::check(&tree));
    findings.sort();
    Ok(findings)
}

/// A small tree for a table test: paths and texts.
#[cfg(test)]
type Files<'a> = &'a [(&'a str, &'a str)];

/// Checks one rule in a table test: the files of a small tree in, findings as `path:line` out.
#[cfg(test)]
fn check_rule(rule: impl Fn(&Tree) -> Vec<Finding>, files: Files<'_>, expect: &[&str]) {
    let tree = Tree::of_texts(files);
    let got: Vec<String> = rule(&tree).iter().map(|f| format!("{}:{}", f.path, f.line)).collect();
    assert_eq!(got, expect, "{files:?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_repository_is_tidy() -> Result<()> {
        let findings = tidy(&crate::repository()?)?;
        let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
        assert!(lines.is_empty(), "{} found:\n{}", lines.len(), lines.join("\n"));
        Ok(())
    }
}

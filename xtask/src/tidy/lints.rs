//! Every package takes the workspace's lints, or says which of its own it has.
//!
//! A package without a `[lints]` table silently gets none of the workspace's.

use super::{Finding, Tree};

const RULE: &str = "lints";

pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    tree.texts(&["Cargo.toml"])
        .filter(|(path, text)| has_table(text, "[package]") && in_workspace(path))
        .filter(|(_, text)| !takes_lints(text))
        .map(|(path, _)| Finding::new(path, 0, RULE, "add `[lints]` with `workspace = true`"))
        .collect()
}

/// Packages elsewhere (a lab's Go modules have none, fixtures may) are not ours to lint.
fn in_workspace(path: &str) -> bool {
    path.starts_with("crates/") || path.starts_with("xtask/")
}

fn has_table(text: &str, header: &str) -> bool {
    text.lines().any(|line| line.trim() == header)
}

fn takes_lints(text: &str) -> bool {
    let own = text.lines().any(|line| line.trim().starts_with("[lints."));
    let mut after = text.lines().map(str::trim).skip_while(|line| *line != "[lints]").skip(1);
    own || after.find(|line| !line.is_empty()).is_some_and(|line| line.replace(' ', "") == "workspace=true")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::check_rule;

    #[test]
    fn a_package_has_a_lint_table() {
        let path = "crates/types/Cargo.toml";
        let cases: &[(&str, &[&str])] = &[
            ("[package]\nname = \"a\"\n[lints]\nworkspace = true\n", &[]),
            ("[package]\nname = \"a\"\n[lints.rust]\nunsafe_code = \"allow\"\n", &[]),
            ("[workspace]\nmembers = []\n", &[]),
            ("[package]\nname = \"a\"\n", &["crates/types/Cargo.toml:0"]),
            ("[package]\nname = \"a\"\n[lints]\n[dependencies]\n", &["crates/types/Cargo.toml:0"]),
        ];
        for (text, expect) in cases {
            check_rule(check, &[(path, text)], expect);
        }
    }
}

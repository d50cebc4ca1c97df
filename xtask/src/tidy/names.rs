//! Files and modules are named after the idea in them.
//!
//! A name that says nothing collects everything.

use super::{Finding, Tree, source::code_only};

const RULE: &str = "names";

/// Words that name no idea, and what to do.
const EMPTY: &[(&str, &str)] = &[
    ("utils", "name the idea, for example `cidr`, `names`, `backoff`"),
    ("util", "name the idea, for example `cidr`, `names`, `backoff`"),
    ("helpers", "name what they help with"),
    ("helper", "name what it helps with"),
    ("common", "name what is shared"),
    ("misc", "split it and name the parts"),
    ("manager", "name what it does: `pool`, `lease`, `queue`"),
    ("stuff", "name the idea"),
];

pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings: Vec<Finding> = tree
        .paths()
        .filter_map(|path| Some((path, objection(path.split('/'))?)))
        .map(|(path, what)| Finding::new(path, 0, RULE, what))
        .collect();
    for (path, text) in tree.texts(&[".rs"]) {
        for (index, line) in code_only(text).lines().enumerate() {
            // `mod name;` is found by the file's name; a module in braces only here.
            let inline = line.trim().strip_suffix('{').and_then(|line| line.trim().rsplit_once("mod "));
            if let Some(what) = inline.and_then(|(_, name)| objection(std::iter::once(name))) {
                findings.push(Finding::new(path, index + 1, RULE, what));
            }
        }
    }
    findings
}

fn objection<'a>(names: impl Iterator<Item = &'a str>) -> Option<String> {
    names.map(|name| name.split('.').next().unwrap_or(name)).find_map(|stem| {
        let (word, instead) = EMPTY.iter().find(|(word, _)| {
            stem.strip_suffix(word).is_some_and(|before| before.is_empty() || before.ends_with(['_', '-']))
        })?;
        Some(format!("`{word}` names no idea: {instead}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::check_rule;

    #[test]
    fn names_say_something() {
        let cases: &[(&str, &str, &[&str])] = &[
            ("crates/a/src/cidr.rs", "", &[]),
            ("crates/a/src/commonness.rs", "", &[]),
            ("crates/a/src/utils.rs", "", &["crates/a/src/utils.rs:0"]),
            ("crates/a/src/port_helpers.rs", "", &["crates/a/src/port_helpers.rs:0"]),
            ("lab/common/net.sh", "", &["lab/common/net.sh:0"]),
            ("crates/a/src/lib.rs", "\npub mod port_utils {\n}", &["crates/a/src/lib.rs:2"]),
            ("crates/a/src/lib.rs", "// mod utils {", &[]),
        ];
        for (path, text, expect) in cases {
            check_rule(check, &[(path, text)], expect);
        }
    }
}

//! Generated files equal what their generators write now.

use super::{Finding, Tree};
use crate::codegen::Generated;

const RULE: &str = "generated";

/// Compares the tree with what the generators give; `folders` hold nothing else.
pub(crate) fn check(tree: &Tree, generated: &[Generated], folders: &[&str]) -> Vec<Finding> {
    let differing = generated.iter().filter_map(|file| {
        let present = tree.text(&file.path);
        let line = first_difference(present?, &file.text)?;
        Some(Finding::new(&file.path, line, RULE, "differs from its generator: run `cargo xtask codegen`"))
    });
    let absent = generated
        .iter()
        .filter(|file| tree.text(&file.path).is_none())
        .map(|file| Finding::new(&file.path, 0, RULE, "is missing: run `cargo xtask codegen`"));
    let left_over = tree
        .paths()
        .filter(|path| folders.iter().any(|folder| path.starts_with(&format!("{folder}/"))))
        .filter(|path| !generated.iter().any(|file| file.path == *path))
        .map(|path| Finding::new(path, 0, RULE, "no generator writes it: remove it, or add the generator"));
    differing.chain(absent).chain(left_over).collect()
}

fn first_difference(present: &str, wanted: &str) -> Option<usize> {
    if present == wanted {
        return None;
    }
    let same = present.lines().zip(wanted.lines()).take_while(|(left, right)| left == right).count();
    Some(same + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::{Files, check_rule};

    #[test]
    fn files_are_as_generated() {
        let crd = "deploy/crds/a.yaml";
        let generated = [Generated { path: crd.to_owned(), text: "a\nb\n".to_owned() }];
        let other = "deploy/crds/b.yaml";
        let cases: &[(Files<'_>, &[&str])] = &[
            (&[(crd, "a\nb\n"), ("deploy/x.yaml", "")], &[]),
            (&[(crd, "a\nc\n")], &["deploy/crds/a.yaml:2"]),
            (&[(crd, "a\nb")], &["deploy/crds/a.yaml:3"]),
            (&[], &["deploy/crds/a.yaml:0"]),
            (&[(crd, "a\nb\n"), (other, "")], &["deploy/crds/b.yaml:0"]),
        ];
        for (files, expect) in cases {
            check_rule(|tree| check(tree, &generated, &["deploy/crds"]), files, expect);
        }
    }
}

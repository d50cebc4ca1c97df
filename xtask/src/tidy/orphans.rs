//! Every Rust file belongs to a module tree.
//!
//! A file that no `mod` line reaches is not compiled: its tests never run and nobody notices. Roots are what
//! Cargo finds by convention and what a manifest names by `path`; from there `mod name;`, `#[path]` and
//! `include!` are followed.

use std::collections::BTreeSet;

use super::{
    Finding, Tree,
    source::{code_only, lines_naming},
};

const RULE: &str = "orphans";

pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let reached = reached(tree);
    tree.paths()
        .filter(|path| path.ends_with(".rs") && !reached.contains(*path))
        .map(|path| {
            let what = "no `mod` line reaches it, so it is not compiled: name it or remove it";
            Finding::new(path, 0, RULE, what)
        })
        .collect()
}

fn reached(tree: &Tree) -> BTreeSet<String> {
    let mut todo: Vec<String> =
        tree.texts(&["Cargo.toml"]).flat_map(|(path, text)| roots(tree, path, text)).collect();
    let mut reached = BTreeSet::new();
    while let Some(path) = todo.pop() {
        let Some(text) = tree.text(&path) else { continue };
        if reached.insert(path.clone()) {
            todo.extend(children(&path, text));
        }
    }
    reached
}

/// Lists the crate roots of the package with this manifest.
fn roots(tree: &Tree, manifest: &str, text: &str) -> Vec<String> {
    let folder = manifest.strip_suffix("Cargo.toml").unwrap_or_default();
    let mut roots: Vec<String> =
        ["src/lib.rs", "src/main.rs", "build.rs"].iter().map(|file| format!("{folder}{file}")).collect();
    let named = text.lines().filter_map(|line| {
        let value = line.trim().strip_prefix("path")?.trim_start().strip_prefix('=')?.trim();
        value.strip_prefix('"')?.strip_suffix(".rs\"").map(|path| format!("{folder}{path}.rs"))
    });
    roots.extend(named);
    for place in ["src/bin/", "tests/", "benches/", "examples/"] {
        let base = format!("{folder}{place}");
        roots.extend(tree.paths().filter(|path| is_root_below(path, &base)).map(str::to_owned));
    }
    roots
}

/// `tests/netns.rs` and `tests/netns/main.rs` are roots, `tests/netns/world.rs` is not.
fn is_root_below(path: &str, base: &str) -> bool {
    path.strip_prefix(base).is_some_and(|rest| match rest.split_once('/') {
        None => rest.ends_with(".rs"),
        Some((_, file)) => file == "main.rs",
    })
}

/// Lists where the modules and included files that a file names may lie.
fn children(path: &str, text: &str) -> Vec<String> {
    let (folder, file) = path.rsplit_once('/').map_or(("", path), |(folder, file)| (folder, file));
    let stem = file.strip_suffix(".rs").unwrap_or(file);
    // Roots and `mod.rs` have their modules beside them, others in a folder of their own name.
    let is_root = matches!(stem, "lib" | "main" | "mod" | "build") || is_target(folder);
    let own = if is_root { folder.to_owned() } else { format!("{folder}/{stem}") };
    let mut found = Vec::new();
    for name in named_modules(&code_only(text)) {
        for place in [own.as_str(), folder] {
            found.push(normal(&format!("{place}/{name}.rs")));
            found.push(normal(&format!("{place}/{name}/mod.rs")));
            if !is_root {
                break;
            }
        }
    }
    found.extend(quoted_after(text, "#[path = ").map(|file| normal(&format!("{folder}/{file}"))));
    found.extend(quoted_after(text, "include!(").map(|file| normal(&format!("{folder}/{file}"))));
    found
}

/// Tells whether files directly in this folder are crate roots.
fn is_target(folder: &str) -> bool {
    ["src/bin", "tests", "benches", "examples"]
        .iter()
        .any(|place| folder == *place || folder.ends_with(&format!("/{place}")))
}

fn named_modules(code: &str) -> Vec<String> {
    let lines: BTreeSet<usize> = lines_naming(code, "mod").collect();
    let with_mod = code.lines().enumerate().filter(|(index, _)| lines.contains(&(index + 1)));
    with_mod
        .filter_map(|(_, line)| {
            let (before, after) = line.split_once("mod ")?;
            let name = after.trim().split(';').next()?.trim();
            let plain = name.chars().all(|c| c.is_alphanumeric() || c == '_') && after.contains(';');
            let visible =
                before.trim().is_empty() || before.contains("pub") || before.trim_end().ends_with(']');
            (plain && visible).then(|| name.to_owned())
        })
        .collect()
}

fn quoted_after<'a>(text: &'a str, opening: &'a str) -> impl Iterator<Item = &'a str> {
    text.match_indices(opening).filter_map(move |(at, _)| {
        let (file, _) = text[at + opening.len()..].strip_prefix('"')?.split_once('"')?;
        Some(file)
    })
}

/// Resolves `..` within a path.
fn normal(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::{Files, check_rule};

    #[test]
    fn files_outside_the_module_tree_are_found() {
        let cases: &[(Files<'_>, &[&str])] = &[
            (&[("src/lib.rs", "mod a;"), ("src/a.rs", "pub mod b;"), ("src/a/b.rs", "")], &[]),
            (&[("src/lib.rs", "pub(crate) mod a;"), ("src/a/mod.rs", "mod b;"), ("src/a/b.rs", "")], &[]),
            (&[("src/lib.rs", "#[cfg(test)]\nmod a;"), ("src/a.rs", "")], &[]),
            (&[("src/lib.rs", "#[path = \"x/y.rs\"]\nmod a;"), ("src/x/y.rs", "")], &[]),
            (&[("tests/netns.rs", "mod world;"), ("tests/world/mod.rs", "")], &[]),
            (&[("src/bin/tool/main.rs", "mod a;"), ("src/bin/tool/a.rs", "")], &[]),
            (&[("build.rs", ""), ("benches/b.rs", "")], &[]),
            (&[("src/lib.rs", "// mod a;"), ("src/a.rs", "")], &["crates/x/src/a.rs:0"]),
            (&[("src/lib.rs", "mod a { }"), ("src/a.rs", "")], &["crates/x/src/a.rs:0"]),
            (&[("src/lib.rs", "mod a;"), ("src/a.rs", ""), ("src/b.rs", "")], &["crates/x/src/b.rs:0"]),
            (&[("tests/netns/world.rs", "")], &["crates/x/tests/netns/world.rs:0"]),
        ];
        for (files, expect) in cases {
            let placed: Vec<(String, &str)> =
                files.iter().map(|(path, text)| (format!("crates/x/{path}"), *text)).collect();
            let mut all: Vec<(&str, &str)> =
                placed.iter().map(|(path, text)| (path.as_str(), *text)).collect();
            all.push(("crates/x/Cargo.toml", "[package]\n"));
            check_rule(check, &all, expect);
        }
    }

    #[test]
    fn a_manifest_may_name_a_root() {
        let manifest = "[package]\n[[bin]]\nname = \"x\"\npath = \"tool/x.rs\"\n";
        check_rule(check, &[("crates/x/Cargo.toml", manifest), ("crates/x/tool/x.rs", "")], &[]);
    }
}

//! `planning` performs no I/O, knows no time and is not asynchronous.
//!
//! Two checks: nothing asynchronous, no client and no network crate is in its dependency closure (as cargo
//! resolves it for that package alone), and its sources name nothing that reads the outside or has an order
//! that changes from run to run. Only files called `from_kubernetes.rs` may name the types of Kubernetes.

use std::{path::Path, process::Command};

use anyhow::{Context, Result, ensure};

use super::{
    Finding, Tree,
    source::{code_only, lines_naming, without_tests},
};

const RULE: &str = "purity";
const SOURCES: &str = "crates/planning/src/";

/// Crates that have no business below a decision; a trailing `-` stands for a family.
const OUTSIDE: &[&str] = &[
    "tokio",
    "tokio-",
    "async-",
    "futures",
    "futures-",
    "smol",
    "mio",
    "socket2",
    "hyper",
    "hyper-",
    "h2",
    "http-body",
    "http-body-",
    "reqwest",
    "tower",
    "tower-",
    "axum",
    "axum-",
    "rustls",
    "rustls-",
    "native-tls",
    "openssl",
    "kube-client",
    "kube-runtime",
    "aya",
    "aya-",
    "libbpf-",
    "netlink-",
    "rtnetlink",
    "neli",
    "rustix",
    "nix",
    "libc",
    "rand",
    "getrandom",
];

/// What a decision may not name, and what to do instead.
const NAMES: &[(&str, &str)] = &[
    ("HashMap", "use BTreeMap: the order of steps must not change from run to run"),
    ("HashSet", "use BTreeSet: the order of steps must not change from run to run"),
    ("Instant", "take the age as an argument"),
    ("SystemTime", "take the time as an argument"),
    ("std::env", "take the setting as an argument"),
    ("std::fs", "take the content as an argument"),
    ("std::io", "take the content as an argument"),
    ("std::process", "return a step instead"),
    ("std::thread", "return a step instead"),
    ("std::net::TcpStream", "return a step instead"),
    ("std::net::UdpSocket", "return a step instead"),
    ("async", "return a step; a loop awaits it"),
    ("await", "return a step; a loop awaits it"),
    ("tracing", "return what is worth telling"),
];

/// What only `from_kubernetes.rs` may name.
const KUBERNETES: &[&str] = &["k8s_openapi", "kube", "kube_core"];

/// Looks for outside crates in everything that `planning` needs.
///
/// # Errors
/// `cargo tree` fails.
pub(crate) fn check_closure(root: &Path) -> Result<Vec<Finding>> {
    if !root.join(SOURCES).is_dir() {
        return Ok(Vec::new());
    }
    // Without the network where possible; a fresh clone has packages to fetch first.
    let tree = cargo_tree(root, &["--offline"]).or_else(|_| cargo_tree(root, &[]))?;
    Ok(closure(&tree))
}

fn cargo_tree(root: &Path, more: &[&str]) -> Result<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "-p", "kuryr-planning", "-e", "normal,no-proc-macro"])
        .args(["--prefix", "none", "--format", "{lib}"])
        .args(more)
        .current_dir(root)
        .output()
        .context("cargo tree")?;
    ensure!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn closure(tree: &str) -> Vec<Finding> {
    let mut found: Vec<String> = tree
        .lines()
        .map(|line| line.split_whitespace().next().unwrap_or_default().replace('_', "-"))
        .filter(|name| OUTSIDE.iter().any(|banned| matches(name, banned)))
        .collect();
    found.sort();
    found.dedup();
    let what = |name: &String| {
        format!("`{name}` is in its dependency closure (cargo tree -p kuryr-planning -i {name}): cut it off")
    };
    found.iter().map(|name| Finding::new("crates/planning/Cargo.toml", 0, RULE, what(name))).collect()
}

fn matches(name: &str, banned: &str) -> bool {
    if banned.ends_with('-') { name.starts_with(banned) } else { name == banned }
}

/// Looks for names of the outside in the sources of `planning`; tests are free.
pub(crate) fn check_sources(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.texts(&[".rs"]).filter(|(path, _)| path.starts_with(SOURCES)) {
        let whole = code_only(text);
        let code = without_tests(&whole);
        for (name, instead) in NAMES {
            let at = lines_naming(code, name);
            findings.extend(at.map(|line| {
                Finding::new(path, line, RULE, format!("a decision does not name `{name}`: {instead}"))
            }));
        }
        if path.ends_with("/from_kubernetes.rs") {
            continue;
        }
        for name in KUBERNETES {
            let at = lines_naming(code, name);
            findings.extend(at.map(|line| {
                let what =
                    format!("`{name}` belongs into from_kubernetes.rs: parse there, pass our own type");
                Finding::new(path, line, RULE, what)
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
    fn the_closure_has_no_client() {
        for (tree, expect) in [
            ("kuryr_planning\nserde\nk8s_openapi\n", vec![]),
            ("kuryr_planning\nserde\ntokio (*)\n\nnetlink_sys", vec!["netlink-sys", "tokio"]),
            ("kube_core\nkube_client\ntokens", vec!["kube-client"]),
        ] {
            let got: Vec<String> = closure(tree).iter().map(|f| f.what.clone()).collect();
            assert_eq!(got.len(), expect.len(), "{got:?}");
            for (what, name) in got.iter().zip(expect) {
                assert!(what.starts_with(&format!("`{name}`")), "{what}");
            }
        }
    }

    #[test]
    fn sources_name_nothing_outside() {
        let file = "crates/planning/src/pool/refill.rs";
        let parse = "crates/planning/src/pool/from_kubernetes.rs";
        let cases: &[(&str, &str, &[&str])] = &[
            (file, "// HashMap, std::env\nlet text = \"std::fs\";\n", &[]),
            (file, "fn a() {}\n#[cfg(test)]\nmod tests { use std::fs; }", &[]),
            (file, "use std::collections::HashMap;", &["crates/planning/src/pool/refill.rs:1"]),
            (file, "\nlet now = std::time::Instant::now();", &["crates/planning/src/pool/refill.rs:2"]),
            (file, "use k8s_openapi::api;", &["crates/planning/src/pool/refill.rs:1"]),
            (parse, "use k8s_openapi::api;", &[]),
            (parse, "use std::env;", &["crates/planning/src/pool/from_kubernetes.rs:1"]),
            ("crates/agent/src/main.rs", "use std::env;", &[]),
        ];
        for (path, text, expect) in cases {
            check_rule(check_sources, &[(path, text)], expect);
        }
    }
}

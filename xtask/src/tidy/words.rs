//! Words with better replacements, and places that exist on one machine only.
//!
//! The list is short on purpose: it holds what weakens a sentence, what the field has replaced, and what
//! would tie the repository to the machine of whoever wrote it.

use super::{Finding, Tree};

const RULE: &str = "words";

/// Whole words, in any case, and what to write instead.
const WORDS: &[(&str, &str)] = &[
    ("whitelist", "write `allow list`"),
    ("blacklist", "write `deny list`"),
    ("sanity check", "say what is checked"),
    ("utilize", "write `use`"),
    ("utilise", "write `use`"),
    ("leverage", "write `use`"),
    ("leverages", "write `uses`"),
    ("seamless", "say what the user does not notice"),
    ("seamlessly", "say what the user does not notice"),
    ("robust", "say what it withstands"),
    ("blazing", "give the figure"),
    ("blazingly", "give the figure"),
    ("state-of-the-art", "say what it does"),
    ("cutting-edge", "say what it does"),
    ("best-in-class", "give the comparison"),
    ("obviously", "leave it out"),
    ("magic", "say what happens"),
];

/// Folders of one person's machine.
const PLACES: &[&str] = &["/root/", "/home/", "/work/", "/Users/"];

/// Hosts whose name tells of a private copy of a public registry.
const PRIVATE_HOST_PARTS: &[&str] =
    &["artifactory", "nexus", "mirror", "proxy", "registry", "index", "internal", "intranet", "corp", "lan"];

/// Public hosts that carry such a part in their name.
const PUBLIC_HOSTS: &[&str] =
    &["registry.k8s.io", "proxy.golang.org", "index.crates.io", "registry.npmjs.org", "index.docker.io"];

/// Endings of files that are prose or code.
const TEXTS: &[&str] = &[
    ".md",
    ".rs",
    ".py",
    ".sh",
    ".toml",
    ".yaml",
    ".yml",
    ".c",
    ".h",
    ".go",
    ".conf",
    ".json",
    ".txt",
    "Makefile",
    "/lab",
    "/run",
    "/steps",
    "/demo",
    "/prerequisites",
];

/// This table names what it bans.
const OWN: &str = "xtask/src/tidy/words.rs";

pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let texts = tree.texts(TEXTS).filter(|(path, _)| *path != OWN && !path.ends_with("Cargo.lock"));
    texts
        .flat_map(|(path, text)| {
            let lines = text.lines().enumerate();
            lines.flat_map(move |(index, line)| {
                objections(line).into_iter().map(move |what| Finding::new(path, index + 1, RULE, what))
            })
        })
        .collect()
}

fn objections(line: &str) -> Vec<String> {
    let lower = line.to_lowercase();
    let mut found: Vec<String> = WORDS
        .iter()
        .filter(|(word, _)| stands_alone(&lower, word))
        .map(|(word, instead)| format!("`{word}`: {instead}"))
        .collect();
    let places = PLACES.iter().filter(|place| begins_a_path(line, place));
    found.extend(
        places.map(|place| format!("`{place}` exists on one machine: use a variable or a relative path")),
    );
    let hosts = hosts(line).filter(|host| is_private(host));
    found.extend(hosts.map(|host| format!("host `{host}` is not public: name the public registry")));
    found
}

fn stands_alone(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let of_word = |c: char| c.is_alphanumeric() || c == '_';
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !before.is_some_and(of_word) && !after.is_some_and(of_word)
    })
}

/// Tells a path from the root from the middle of a longer one (`$HOME/work/`, `https://host/work/`).
fn begins_a_path(line: &str, place: &str) -> bool {
    line.match_indices(place).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || "_-.}/$)>*]".contains(c))
    })
}

fn hosts(line: &str) -> impl Iterator<Item = &str> {
    line.match_indices("://").map(move |(at, _)| {
        let rest = &line[at + 3..];
        let end =
            rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '.' || c == '-')).unwrap_or(rest.len());
        &rest[..end]
    })
}

fn is_private(host: &str) -> bool {
    let part = |part: &str| host.split(['.', '-']).any(|of_host| of_host == part);
    host.contains('.') && !PUBLIC_HOSTS.contains(&host) && PRIVATE_HOST_PARTS.iter().any(|name| part(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::check_rule;

    #[test]
    fn words_places_and_hosts() {
        let cases: &[(&str, &[&str])] = &[
            ("An allow list of networks.", &[]),
            ("A Whitelist of networks.", &["README.md:1"]),
            ("robustness is shown by the table", &[]),
            ("\nIt is robust.", &["README.md:2"]),
            ("cd /root/kuryr", &["README.md:1"]),
            ("cd $HOME/work/kuryr and https://docs.example.org/work/", &[]),
            ("${cache}/root/bin, $ROOT/home/", &[]),
            ("`/home/me/x`", &["README.md:1"]),
            ("pip install -i https://pypi-mirror.example.net/simple x", &["README.md:1"]),
            ("https://registry.k8s.io/pause and https://proxy.golang.org", &[]),
            ("https://docs.example.org/index.html", &[]),
            ("http://proxy:3128", &[]),
        ];
        for (text, expect) in cases {
            check_rule(check, &[("README.md", text)], expect);
        }
    }
}

//! The repository holds text of readable size: no binaries, no archives, no dumps.
//!
//! What is built or downloaded belongs into the build output or the lab's cache.

use super::{Finding, Tree};

const RULE: &str = "blobs";
/// Largest file; the lock file of a large workspace stays well below.
const MAX_BYTES: usize = 1 << 20;
/// Where a zero byte gives a binary away.
const HEAD_BYTES: usize = 8192;

pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    tree.paths().filter_map(|path| Some((path, objection(tree.bytes(path)?)?))).map(finding).collect()
}

fn finding((path, what): (&str, String)) -> Finding {
    Finding::new(path, 0, RULE, what)
}

fn objection(bytes: &[u8]) -> Option<String> {
    let head = &bytes[..bytes.len().min(HEAD_BYTES)];
    if head.contains(&0) {
        return Some("is a binary: build or download it instead of committing it".to_owned());
    }
    let size = bytes.len();
    (size > MAX_BYTES)
        .then(|| format!("has {size} bytes, more than {MAX_BYTES}: make it smaller or generate it"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::check_rule;

    #[test]
    fn only_text_of_readable_size() {
        let large = "x".repeat(MAX_BYTES + 1);
        let limit = "x".repeat(MAX_BYTES);
        let cases: &[(&str, &[&str])] =
            &[("text", &[]), (&limit, &[]), (&large, &["file:0"]), ("\u{7f}ELF\0", &["file:0"])];
        for (text, expect) in cases {
            check_rule(check, &[("file", text)], expect);
        }
    }
}

//! The files of a repository, listed and read once.
//!
//! With `git` the list is what is committed or could be (untracked files count, ignored ones do not); without
//! it, in an unpacked archive, everything but build output counts.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

/// Folders that never belong to the repository, for trees without `git`.
const NOT_OURS: &[&str] = &[".git", "target", "__pycache__", "node_modules"];

/// All files by their path from the root, with content.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    files: BTreeMap<String, Vec<u8>>,
}

impl Tree {
    /// Reads the repository at `root`.
    ///
    /// # Errors
    /// A listed folder or file cannot be read.
    pub(crate) fn of_repository(root: &Path) -> Result<Self> {
        let paths = match listed_by_git(root) {
            Some(paths) => paths,
            None => walked(root, Path::new(""))?,
        };
        let mut files = BTreeMap::new();
        for path in paths {
            let full = root.join(&path);
            // A file that is deleted but still in the index, or a link, has no content of its own.
            if !full.symlink_metadata().is_ok_and(|data| data.is_file()) {
                continue;
            }
            files.insert(path.clone(), fs::read(&full).with_context(|| path)?);
        }
        Ok(Self { files })
    }

    /// A tree of texts, for tests.
    #[cfg(test)]
    pub(crate) fn of_texts(files: &[(&str, &str)]) -> Self {
        let owned = |(path, text): &(&str, &str)| ((*path).to_owned(), text.as_bytes().to_vec());
        Self { files: files.iter().map(owned).collect() }
    }

    /// Lists every path in order.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// Tells whether `path` is a file, or a folder with files in it.
    pub(crate) fn has(&self, path: &str) -> bool {
        let folder = format!("{path}/");
        self.files.contains_key(path)
            || self.files.range(folder.clone()..).next().is_some_and(|(next, _)| next.starts_with(&folder))
    }

    /// Reads a file as bytes.
    pub(crate) fn bytes(&self, path: &str) -> Option<&[u8]> {
        self.files.get(path).map(Vec::as_slice)
    }

    /// Reads a file as text; nothing if it is absent or not text.
    pub(crate) fn text(&self, path: &str) -> Option<&str> {
        self.bytes(path).and_then(|bytes| std::str::from_utf8(bytes).ok())
    }

    /// Lists every text file whose name ends in one of `endings`, with its content.
    pub(crate) fn texts<'a>(&'a self, endings: &'a [&'a str]) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.paths()
            .filter(|path| endings.iter().any(|ending| path.ends_with(ending)))
            .filter_map(|path| Some((path, self.text(path)?)))
    }
}

fn listed_by_git(root: &Path) -> Option<Vec<String>> {
    if !root.join(".git").exists() {
        return None;
    }
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    let list = String::from_utf8(output.stdout).ok()?;
    Some(list.split('\0').filter(|path| !path.is_empty()).map(str::to_owned).collect())
}

fn walked(root: &Path, below: &Path) -> Result<Vec<String>> {
    let folder: PathBuf = root.join(below);
    let mut found = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = below.join(&name);
        if entry.file_type()?.is_dir() {
            if !NOT_OURS.contains(&name.as_str()) {
                found.extend(walked(root, &path)?);
            }
        } else {
            found.push(path.to_string_lossy().into_owned());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unpacked_archive_is_walked_without_build_output() -> Result<()> {
        let root = tempfile::tempdir()?;
        for path in ["src/lib.rs", "target/debug/x", "README.md"] {
            let full = root.path().join(path);
            fs::create_dir_all(full.parent().context("folder")?)?;
            fs::write(full, path)?;
        }
        let tree = Tree::of_repository(root.path())?;
        assert_eq!(tree.paths().collect::<Vec<_>>(), ["README.md", "src/lib.rs"]);
        assert!(tree.has("src") && tree.has("src/lib.rs") && !tree.has("sr") && !tree.has("src/li"));
        Ok(())
    }
}

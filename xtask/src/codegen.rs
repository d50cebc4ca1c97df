//! What is generated, and from what.
//!
//! Each generator is a function of a crate that returns text; this file only says where the text goes. A new
//! generator is one more entry in [`all`] and, if it fills a folder alone, one more in [`FOLDERS`].

use std::{fs, path::Path};

use anyhow::{Context, Result};

/// Folders in which every file is generated: anything else there is left over from an older generator.
pub(crate) const FOLDERS: &[&str] = &["deploy/crds"];

/// A file that a generator writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Generated {
    /// Path from the root of the repository.
    pub(crate) path: String,
    /// The whole content.
    pub(crate) text: String,
}

/// Runs every generator.
pub(crate) fn all() -> Vec<Generated> {
    custom_resources().chain([configuration_reference()]).collect()
}

/// Definitions of the custom resources, from the types in `crates/api`.
fn custom_resources() -> impl Iterator<Item = Generated> {
    let definitions = kuryr_api::crd::all().into_iter();
    definitions.map(|(name, text)| Generated { path: format!("deploy/crds/{name}"), text })
}

/// The reference of every option, from the declarations in `crates/conf`.
fn configuration_reference() -> Generated {
    Generated { path: "docs/configuration.md".to_owned(), text: kuryr_conf::reference() }
}

/// Writes what differs, removes what no generator writes any more, and tells each change in one line.
///
/// # Errors
/// A file or folder cannot be read, written or removed.
pub(crate) fn write(root: &Path, generated: &[Generated]) -> Result<Vec<String>> {
    let mut changes = Vec::new();
    for Generated { path, text } in generated {
        let target = root.join(path);
        if fs::read_to_string(&target).is_ok_and(|present| &present == text) {
            continue;
        }
        let folder = target.parent().context("a generated file needs a folder")?;
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        fs::write(&target, text).with_context(|| path.clone())?;
        changes.push(format!("wrote {path}"));
    }
    for path in left_over(root, generated)? {
        fs::remove_file(root.join(&path)).with_context(|| path.clone())?;
        changes.push(format!("removed {path}"));
    }
    Ok(changes)
}

/// Finds the files in generated folders that no generator writes.
fn left_over(root: &Path, generated: &[Generated]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for folder in FOLDERS {
        let Ok(entries) = fs::read_dir(root.join(folder)) else { continue };
        for entry in entries {
            let path = format!("{folder}/{}", entry?.file_name().to_string_lossy());
            if !generated.iter().any(|file| file.path == path) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_what_differs_and_removes_what_nobody_writes() -> Result<()> {
        let root = tempfile::tempdir()?;
        let crds = root.path().join("deploy/crds");
        fs::create_dir_all(&crds)?;
        fs::write(crds.join("same.yaml"), "same")?;
        fs::write(crds.join("older.yaml"), "older")?;
        let file =
            |name: &str, text: &str| Generated { path: format!("deploy/crds/{name}"), text: text.to_owned() };
        let wanted = [file("same.yaml", "same"), file("new.yaml", "new")];

        let expect = ["wrote deploy/crds/new.yaml", "removed deploy/crds/older.yaml"];
        assert_eq!(write(root.path(), &wanted)?, expect);
        assert_eq!(fs::read_to_string(crds.join("new.yaml"))?, "new");
        assert!(write(root.path(), &wanted)?.is_empty(), "a second run changes nothing");
        Ok(())
    }
}

//! Where files are when the command line names none.
//!
//! 1. [`OURS`], below the folder of the system's configuration.
//! 2. Where that is absent, upstream's places, as oslo.config looks for a project `kuryr-k8s`: the file `kuryr-k8s.conf` and then
//!    the folder `kuryr-k8s.conf.d`, each in the first of `~/.kuryr-k8s/`, `~/`, `/etc/kuryr-k8s/` and `/etc/` that has it.
//!
//! What is different: upstream's programs look for files of their own names, too (`kuryr-daemon.conf`), and look for a file also
//! where only `--config-dir` is given, and the other way round. Here what is named on the command line is all that is read.
//!
//! Sources: oslo.config 10, `cfg.py` (`find_config_files`, `find_config_dirs`); Kuryr-Kubernetes 10.0, `config.py` (`init`).

use std::path::{Path, PathBuf};

/// The folder of the system's configuration.
pub(crate) const SYSTEM: &str = "/etc";

/// Read when nothing else is named, below [`SYSTEM`].
const OURS: &str = "kuryr/kuryr.conf";

/// What upstream's programs say they belong to.
const PROJECT: &str = "kuryr-k8s";

/// What was found, to be read in this order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// A file.
    pub(crate) file: Option<PathBuf>,
    /// A folder of files.
    pub(crate) dir: Option<PathBuf>,
}

/// Looks below `system` and `home`, the folder of the user if there is one.
pub(crate) fn find(system: &Path, home: Option<&Path>) -> Found {
    let ours = system.join(OURS);
    if ours.exists() {
        return Found { file: Some(ours), dir: None };
    }
    let of_user = home.map(|home| [home.join(format!(".{PROJECT}")), home.to_owned()]);
    let of_system = [system.join(PROJECT), system.to_owned()];
    let places: Vec<PathBuf> = of_user.into_iter().flatten().chain(of_system).collect();
    let first = |name: String| places.iter().map(|place| place.join(&name)).find(|path| path.exists());
    Found { file: first(format!("{PROJECT}.conf")), dir: first(format!("{PROJECT}.conf.d")) }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// With `present` (folders end in a slash), `file` and `dir` are found.
    fn check(present: &[&str], file: Option<&str>, dir: Option<&str>) {
        let folder = tempfile::tempdir().unwrap();
        let (system, home) = (folder.path().join("etc"), folder.path().join("home"));
        for path in present {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            if path.to_str().unwrap().ends_with('/') {
                fs::create_dir_all(path).unwrap();
            } else {
                fs::write(path, "").unwrap();
            }
        }
        let path = |name: Option<&str>| name.map(|name| folder.path().join(name));
        let expect = Found { file: path(file), dir: path(dir) };
        assert_eq!(find(&system, Some(&home)), expect, "{present:?}");
        let of_home = |name: Option<&str>| name.is_some_and(|name| name.starts_with("home"));
        if !of_home(file) && !of_home(dir) {
            assert_eq!(find(&system, None), expect, "{present:?} without a home");
        }
    }

    #[test]
    fn ours_goes_before_upstreams_places_and_those_in_its_order() {
        let places = [
            "home/.kuryr-k8s/kuryr-k8s.conf",
            "home/kuryr-k8s.conf",
            "etc/kuryr-k8s/kuryr-k8s.conf",
            "etc/kuryr-k8s.conf",
        ];
        check(&[], None, None);
        for (number, place) in places.iter().enumerate() {
            check(&places[number..], Some(place), None);
        }
        let mut all = places.to_vec();
        all.extend(["etc/kuryr/kuryr.conf", "etc/kuryr-k8s.conf.d/"]);
        check(&all, Some("etc/kuryr/kuryr.conf"), None);
        check(&["etc/kuryr-k8s/kuryr.conf", "etc/kuryr.conf"], None, None);
    }

    #[test]
    fn a_folder_is_looked_for_by_itself() {
        check(&["etc/kuryr-k8s/kuryr-k8s.conf.d/"], None, Some("etc/kuryr-k8s/kuryr-k8s.conf.d"));
        check(
            &["etc/kuryr-k8s.conf", "home/kuryr-k8s.conf.d/", "etc/kuryr-k8s.conf.d/"],
            Some("etc/kuryr-k8s.conf"),
            Some("home/kuryr-k8s.conf.d"),
        );
    }
}

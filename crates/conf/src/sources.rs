//! Several files, folders and the environment, read into one [`Conf`].
//!
//! 1. `--config-file`, in the order given; a file that is missing is an error.
//! 2. `--config-dir`: files that end in `.conf`, sorted by name, after all files.
//! 3. The environment: `OS_<SECTION>__<OPTION>` in upper case.
//!
//! Of the same option the last one wins. If neither files nor folders are named, they are looked for (`search.rs`). Upstream's
//! variable `K8S_API` counts where nobody says where the API server is.
//!
//! Sources: oslo.config 10, "Option Sources"; Kuryr-Kubernetes 10.0, images.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use crate::{
    dialect::{self, Assignment, DEFAULT_SECTION},
    error::{Error, Place},
    options::{self, Declared, Opt, kubernetes},
    search::{self, Found},
    substitution::{self, Failure},
    value::Value,
};

/// Where upstream's programs look for the API server besides.
const API_ROOT_VARIABLE: &str = "K8S_API";

/// How deep values may refer to values before this is taken for a circle.
const NESTING_MAX: usize = 16;

/// Where a configuration comes from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// `--config-file`, in order.
    pub files: Vec<PathBuf>,
    /// `--config-dir`, in order.
    pub dirs: Vec<PathBuf>,
    /// The environment of the process.
    pub environment: BTreeMap<String, String>,
}

/// A configuration: what was written, and the defaults for the rest.
#[derive(Debug, Clone, Default)]
pub struct Conf {
    files: Vec<PathBuf>,
    environment: BTreeMap<String, String>,
    written: BTreeMap<(String, String), Written>,
}

/// One value as it was written.
#[derive(Debug, Clone)]
pub(crate) struct Written {
    /// `file:line` or the environment variable.
    pub(crate) origin: String,
    pub(crate) text: String,
    /// The environment is shared by all programs: what is unknown there is not ours.
    pub(crate) from_file: bool,
}

impl Conf {
    /// Reads all sources.
    ///
    /// # Errors
    /// A file that cannot be read or does not belong to the dialect.
    pub fn load(sources: &Sources) -> Result<Self, Error> {
        let mut conf = Self { environment: sources.environment.clone(), ..Self::default() };
        for path in sources.paths(Path::new(search::SYSTEM))? {
            let text = read_file(&path)?;
            conf.add(&path.display().to_string(), &text)?;
            conf.files.push(path);
        }
        conf.add_environment();
        conf.add_upstreams_variable();
        Ok(conf)
    }

    /// Reads texts, each with the name it has in errors, as if they were files.
    ///
    /// # Errors
    /// A text that does not belong to the dialect.
    pub fn from_texts(texts: &[(&str, &str)]) -> Result<Self, Error> {
        let mut conf = Self::default();
        for (name, text) in texts {
            conf.add(name, text)?;
        }
        Ok(conf)
    }

    /// The value of `option`: written or default, with names replaced, within its range and choices.
    ///
    /// # Errors
    /// A value that this option cannot have, or that refers to an unknown name.
    pub fn get<T: Value>(&self, option: &Opt<T>) -> Result<T, Error> {
        let declared = &option.declared;
        let text = self.text(declared)?.unwrap_or_else(|| declared.default.to_owned());
        let text = text.trim();
        let text = if text.is_empty() && !T::EMPTY_IS_VALUE { declared.default } else { text };
        let refused = || self.refused(declared, text, declared.expectation(), declared.advice());
        let value = T::read(text).ok_or_else(refused)?;
        if declared.allows(value.measure(), value.choice()) { Ok(value) } else { Err(refused()) }
    }

    /// Tells whether `option` was written by somebody, in a file or in the environment.
    #[must_use]
    pub fn is_set<T>(&self, option: &Opt<T>) -> bool {
        self.written.contains_key(&option.declared.key())
    }

    /// All options of a section as they were written, with names replaced.
    ///
    /// # Errors
    /// A value that refers to an unknown name.
    pub fn section(&self, name: &str) -> Result<BTreeMap<String, String>, Error> {
        let name = dialect::section_name(name);
        let of_section = self.written.iter().filter(|((section, _), _)| *section == name);
        of_section
            .map(|((section, option), _)| {
                Ok((option.clone(), self.resolve(section, option, 0)?.unwrap_or_default()))
            })
            .collect()
    }

    /// An error about the value of `option`, for what can only be judged beside other options.
    #[must_use]
    pub fn invalid<T>(&self, option: &Opt<T>, problem: impl Into<String>, fix: impl Into<String>) -> Error {
        let declared = &option.declared;
        let text = self.text(declared).ok().flatten();
        self.refused(declared, text.as_deref().unwrap_or(declared.default), problem.into(), fix.into())
    }

    /// An environment variable of the process.
    #[must_use]
    pub fn environment(&self, name: &str) -> Option<&str> {
        self.environment.get(name).map(String::as_str)
    }

    /// The whole environment, as it was given.
    #[must_use]
    pub const fn all_environment(&self) -> &BTreeMap<String, String> {
        &self.environment
    }

    /// The files that were read, in order.
    #[must_use]
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    pub(crate) fn written(&self) -> impl Iterator<Item = (&str, &str, &Written)> {
        self.written.iter().map(|((section, option), written)| (section.as_str(), option.as_str(), written))
    }

    fn add(&mut self, file: &str, text: &str) -> Result<(), Error> {
        for Assignment { line, section, option, value } in dialect::read(file, text)? {
            let written = Written { origin: format!("{file}:{line}"), text: value, from_file: true };
            self.written.insert((section, option), written);
        }
        Ok(())
    }

    fn add_environment(&mut self) {
        for (name, value) in &self.environment {
            if let Some(key) = environment_key(name) {
                let written = Written { origin: format!("${name}"), text: value.clone(), from_file: false };
                self.written.insert(key, written);
            }
        }
    }

    /// After all else: it stands in where nobody says where the API server is. Nothing that is written says so, too.
    fn add_upstreams_variable(&mut self) {
        let is_said = self.is_set(&kubernetes::API_ROOT) || self.is_set(&kubernetes::KUBECONFIG);
        if let Some(value) = self.environment.get(API_ROOT_VARIABLE).filter(|_| !is_said) {
            let origin = format!("${API_ROOT_VARIABLE}");
            let written = Written { origin, text: value.clone(), from_file: false };
            self.written.insert(kubernetes::API_ROOT.declared.key(), written);
        }
    }

    fn text(&self, declared: &Declared) -> Result<Option<String>, Error> {
        self.resolve(declared.section, declared.option, 0)
    }

    /// The written value with its names replaced.
    fn resolve(&self, section: &str, option: &str, depth: usize) -> Result<Option<String>, Error> {
        let Some(written) = self.written.get(&(section.to_owned(), option.to_owned())) else {
            return Ok(None);
        };
        let place = || self.place(section, option);
        let mut deeper = None;
        let replaced = substitution::substitute(&written.text, |name| {
            if depth >= NESTING_MAX {
                return Err(Failure::Circle(name.to_owned()));
            }
            self.look_up(section, name, depth + 1)
                .map_err(|error| {
                    deeper = Some(error);
                    Failure::Unknown(name.to_owned())
                })?
                .ok_or_else(|| Failure::Unknown(name.to_owned()))
        });
        match (replaced, deeper) {
            (Ok(text), _) => Ok(Some(text)),
            (Err(_), Some(error)) => Err(error),
            (Err(Failure::Unknown(name)), None) => {
                Err(Error::NameUnknown { place: place(), name: shown(section, option, name) })
            }
            (Err(Failure::Circle(name)), None) => {
                Err(Error::NameCircle { place: place(), name: shown(section, option, name) })
            }
        }
    }

    /// What a name within a value of `section` stands for; `None` if it names nothing.
    fn look_up(&self, section: &str, name: &str, depth: usize) -> Result<Option<String>, Error> {
        let elsewhere = name.split_once('.').map(|(other, option)| (dialect::section_name(other), option));
        let dotted = elsewhere.as_ref().map(|(other, option)| (other.as_str(), *option));
        let candidates = [dotted.unwrap_or((section, name)), (DEFAULT_SECTION, name)];
        for (section, option) in candidates {
            if let Some(text) = self.resolve(section, option, depth)? {
                return Ok(Some(text));
            }
            if let Some(declared) = options::find(section, option) {
                return Ok(Some(declared.default.to_owned()));
            }
        }
        Ok(None)
    }

    fn place(&self, section: &str, option: &str) -> Box<Place> {
        let written = self.written.get(&(section.to_owned(), option.to_owned()));
        Box::new(Place {
            origin: written.map(|written| written.origin.clone()),
            section: section.to_owned(),
            option: option.to_owned(),
        })
    }

    fn refused(&self, declared: &Declared, text: &str, problem: String, fix: String) -> Error {
        let value = if declared.secret { "(not shown)".to_owned() } else { format!("`{text}`") };
        Error::Value { place: self.place(declared.section, declared.option), value, problem, fix }
    }
}

/// A name within a value. In a secret it is a part of that, most likely behind a dollar sign that was meant as one.
fn shown(section: &str, option: &str, name: String) -> String {
    let is_secret = options::find(section, option).is_some_and(|declared| declared.secret);
    if is_secret { "(not shown)".to_owned() } else { name }
}

impl Sources {
    /// What is named, or else what is found below `system` and in the folder of the user.
    fn paths(&self, system: &Path) -> Result<Vec<PathBuf>, Error> {
        let is_named = !self.files.is_empty() || !self.dirs.is_empty();
        let (mut paths, dirs) =
            if is_named { (self.files.clone(), self.dirs.clone()) } else { self.found(system) };
        for dir in &dirs {
            paths.extend(files_of(dir)?);
        }
        Ok(paths)
    }

    fn found(&self, system: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
        let home = self.environment.get("HOME").filter(|home| !home.is_empty());
        let Found { file, dir } = search::find(system, home.map(Path::new));
        (file.into_iter().collect(), dir.into_iter().collect())
    }
}

fn read_file(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })
}

fn files_of(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = |source| Error::Read { path: dir.to_owned(), source };
    let entries = fs::read_dir(dir).map_err(failed)?;
    let paths: io::Result<Vec<_>> = entries.map(|entry| entry.map(|entry| entry.path())).collect();
    let mut paths = paths.map_err(failed)?;
    // A ConfigMap is mounted as links into a folder that begins with two dots, hence `is_file` of the target.
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "conf") && path.is_file());
    paths.sort();
    Ok(paths)
}

/// `OS_VIF_POOL__PORTS_POOL_MIN` is `ports_pool_min` of section `vif_pool`.
fn environment_key(name: &str) -> Option<(String, String)> {
    let (section, option) = name.strip_prefix("OS_")?.split_once("__")?;
    let section = if section == DEFAULT_SECTION { section.to_owned() } else { section.to_lowercase() };
    (!section.is_empty() && !option.is_empty()).then(|| (section, option.to_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{neutron_defaults, vif_pool};

    fn conf(text: &str) -> Conf {
        Conf::from_texts(&[("kuryr.conf", text)]).unwrap()
    }

    #[test]
    fn later_sources_win() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, minimum: u32, batch: u32| {
            let text = format!("[vif_pool]\nports_pool_min = {minimum}\nports_pool_batch = {batch}\n");
            fs::write(folder.path().join(name), text).unwrap();
        };
        write("first.conf", 1, 11);
        fs::create_dir(folder.path().join("d")).unwrap();
        write("d/b.conf", 3, 33);
        write("d/a.conf", 2, 22);
        write("d/ignored.txt", 9, 99);
        let environment = [
            ("OS_VIF_POOL__PORTS_POOL_BATCH".to_owned(), "44".to_owned()),
            ("OS_AUTH_URL".to_owned(), "x".to_owned()),
        ];
        let sources = Sources {
            files: vec![folder.path().join("first.conf")],
            dirs: vec![folder.path().join("d")],
            environment: environment.into(),
        };
        let conf = Conf::load(&sources).unwrap();
        assert_eq!(conf.get(&vif_pool::PORTS_POOL_MIN).unwrap(), 3);
        assert_eq!(conf.get(&vif_pool::PORTS_POOL_BATCH).unwrap(), 44);
        assert_eq!(conf.files().len(), 3);
        assert!(conf.is_set(&vif_pool::PORTS_POOL_MIN) && !conf.is_set(&vif_pool::PORTS_POOL_MAX));

        let missing = Sources { files: vec![folder.path().join("none.conf")], ..Sources::default() };
        assert!(Conf::load(&missing).unwrap_err().to_string().contains("none.conf"));
    }

    #[test]
    fn what_is_named_is_all_that_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "").unwrap();
            path
        };
        let upstreams = [write("etc/kuryr-k8s/kuryr-k8s.conf"), write("home/kuryr-k8s.conf.d/a.conf")];
        let named = write("named/a.conf");
        let system = folder.path().join("etc");
        let home = ("HOME".to_owned(), folder.path().join("home").display().to_string());
        let sources = Sources { environment: [home].into(), ..Sources::default() };
        assert_eq!(sources.paths(&system).unwrap(), upstreams);
        let by_dir = Sources { dirs: vec![folder.path().join("named")], ..sources.clone() };
        assert_eq!(by_dir.paths(&system).unwrap(), [named]);
        let ours = write("etc/kuryr/kuryr.conf");
        assert_eq!(sources.paths(&system).unwrap(), [ours]);
    }

    #[test]
    fn upstreams_variable_counts_where_nobody_says_where_the_api_server_is() {
        for (text, environment, expect) in [
            ("", &[][..], ""),
            ("", &[("K8S_API", "https://v")], "https://v"),
            ("[kubernetes]\napi_root = https://f", &[("K8S_API", "https://v")], "https://f"),
            ("[kubernetes]\napi_root = \"\"", &[("K8S_API", "https://v")], ""),
            ("[kubernetes]\nkubeconfig = /k", &[("K8S_API", "https://v")], ""),
            ("", &[("K8S_API", "https://v"), ("OS_KUBERNETES__API_ROOT", "https://e")], "https://e"),
        ] {
            let file = tempfile::NamedTempFile::new().unwrap();
            fs::write(file.path(), text).unwrap();
            let environment = environment.iter().map(|(name, value)| ((*name).into(), (*value).into()));
            let files = vec![file.path().to_owned()];
            let sources = Sources { files, environment: environment.collect(), ..Sources::default() };
            let conf = Conf::load(&sources).unwrap();
            assert_eq!(conf.get(&kubernetes::API_ROOT).unwrap(), expect, "{text} {:?}", sources.environment);
        }
    }

    #[test]
    fn defaults_apply_where_nothing_is_said() {
        let conf = conf("[vif_pool]\nports_pool_min =\n[kubernetes]\napi_root = \"\"\n");
        assert_eq!(conf.get(&vif_pool::PORTS_POOL_MIN).unwrap(), 5);
        assert_eq!(conf.get(&kubernetes::API_ROOT).unwrap(), "");
        assert!(conf.get(&neutron_defaults::POD_SUBNETS).unwrap().is_empty());
    }

    #[test]
    fn names_within_values() {
        let conf = conf(
            "[DEFAULT]\nhost = h\n[neutron]\nauth_url = http://$host:${vif_pool.ports_pool_min}/$path\npath = v$$3\n",
        );
        assert_eq!(conf.section("neutron").unwrap()["auth_url"], "http://h:5/v$3");
    }

    #[test]
    fn errors_name_place_value_and_fix() {
        for (text, expect) in [
            (
                "[vif_pool]\nports_pool_min = many",
                &["kuryr.conf:2: [vif_pool] ports_pool_min = `many`", "whole number", "default 5"][..],
            ),
            ("[vif_pool]\nports_pool_min = 1001", &["`1001`", "from 0 to 1000"]),
            ("[kubernetes]\npod_vif_driver = nested", &["`nested`", "neutron-vif, nested-vlan"]),
            ("[kubernetes]\nuse_events = maybe", &["true or false"]),
        ] {
            let conf = conf(text);
            let errors = [
                conf.get(&vif_pool::PORTS_POOL_MIN).err(),
                conf.get(&kubernetes::POD_VIF_DRIVER).err(),
                conf.get(&kubernetes::USE_EVENTS).err(),
            ];
            let text = errors.into_iter().flatten().next().unwrap().to_string();
            for part in expect {
                assert!(text.contains(part), "{text} lacks {part}");
            }
        }
    }

    #[test]
    fn names_that_lead_nowhere() {
        let unknown = |text: &str| conf(text).section("neutron").unwrap_err().to_string();
        let of_url = unknown("[neutron]\nauth_url = http://$hots\n");
        assert!(of_url.contains("`$hots`") && of_url.contains("`$$`"), "{of_url}");
        let of_password = unknown("[neutron]\npassword = pa$5word$tail\n");
        assert!(!of_password.contains("tail") && of_password.contains("`$$`"), "{of_password}");
        let circle = conf("[neutron]\na = $b\nb = x$a\n").section("neutron").unwrap_err();
        assert!(matches!(circle, Error::NameCircle { .. }), "{circle}");
    }
}

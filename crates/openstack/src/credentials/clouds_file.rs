//! `clouds.yaml` and `secure.yaml`.
//!
//! A value of `secure.yaml` wins over the one of `clouds.yaml` at the same place. Messages say where in a file
//! something is wrong, never what is written there. Vendor profiles (`profile`, `clouds-public.yaml`), lists
//! of regions and settings of other programs are not read.
//!
//! Source: openstacksdk, "Configuring OpenStack SDK applications".

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::settings::{Origin, Settings};
use crate::error::Error;

/// A `clouds.yaml` and, if there is one, the `secure.yaml` beside or elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudsFiles {
    /// `clouds.yaml`.
    pub clouds: PathBuf,
    /// `secure.yaml`.
    pub secure: Option<PathBuf>,
}

/// A larger file is none that a person wrote.
const MAX_FILE: u64 = 1 << 20;

impl CloudsFiles {
    /// Looks for the files where openstacksdk does: `OS_CLIENT_CONFIG_FILE` and `OS_CLIENT_SECURE_FILE`, the
    /// current directory, `$XDG_CONFIG_HOME/openstack` or `~/.config/openstack`, `/etc/openstack`.
    ///
    /// # Errors
    /// [`Error::CloudsFile`] if a file named in the environment does not exist.
    pub fn search(environment: &BTreeMap<String, String>) -> Result<Option<Self>, Error> {
        let value = |name: &str| environment.get(name).filter(|value| !value.is_empty());
        let mut folders = vec![PathBuf::new()];
        let config = value("XDG_CONFIG_HOME").map(PathBuf::from);
        let config = config.or_else(|| value("HOME").map(|home| Path::new(home).join(".config")));
        folders.extend(config.map(|config| config.join("openstack")));
        folders.push("/etc/openstack".into());

        let clouds = find("clouds", value("OS_CLIENT_CONFIG_FILE"), &folders)?;
        let secure = find("secure", value("OS_CLIENT_SECURE_FILE"), &folders)?;
        Ok(clouds.map(|clouds| Self { clouds, secure }))
    }

    /// The settings of one cloud.
    pub(super) fn settings(&self, cloud: Option<&str>) -> Result<Settings, Error> {
        let mut clouds = read(&self.clouds)?.clouds;
        let name = match cloud {
            Some(cloud) => cloud.to_owned(),
            None if clouds.len() == 1 => clouds.keys().cloned().collect(),
            None => return Err(self.unknown(None, clouds)),
        };
        let Some(chosen) = clouds.remove(&name) else { return Err(self.unknown(Some(name), clouds)) };
        let mut values: BTreeMap<_, _> = chosen.pairs().collect();
        if let Some(path) = &self.secure
            && let Some(secret) = read(path)?.clouds.remove(&name)
        {
            values.extend(secret.pairs());
        }
        let origin = Origin::Cloud { file: self.clouds.clone(), cloud: name };
        Ok(Settings::new(origin, values.into_iter()))
    }

    fn unknown(&self, cloud: Option<String>, clouds: BTreeMap<String, Cloud>) -> Error {
        Error::CloudUnknown { path: self.clouds.clone(), cloud, known: clouds.into_keys().collect() }
    }
}

fn find(stem: &str, named: Option<&String>, folders: &[PathBuf]) -> Result<Option<PathBuf>, Error> {
    if let Some(path) = named.map(PathBuf::from) {
        // A file that was named but is not there would otherwise be replaced by another cloud's.
        return if path.is_file() {
            Ok(Some(path))
        } else {
            Err(Error::CloudsFile {
                path,
                problem: "named in the environment, but it is not there".to_owned(),
            })
        };
    }
    let candidates =
        folders.iter().flat_map(|folder| ["yaml", "yml"].map(|end| folder.join(format!("{stem}.{end}"))));
    Ok(candidates.into_iter().find(|path| path.is_file()))
}

fn read(path: &Path) -> Result<CloudsYaml, Error> {
    let wrong = |problem: String| Error::CloudsFile { path: path.to_owned(), problem };
    let size = fs::metadata(path).map_err(|error| wrong(error.to_string()))?.len();
    if size > MAX_FILE {
        return Err(wrong(format!("it has {size} bytes, more than the {MAX_FILE} that are read")));
    }
    let text = fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    serde_saphyr::from_str(&text).map_err(|error| {
        // The library's own text quotes the file.
        let place = error.location().map_or_else(String::new, |place| {
            format!(" at line {}, column {}", place.line(), place.column())
        });
        wrong(format!("it is not valid{place}"))
    })
}

#[derive(Deserialize)]
struct CloudsYaml {
    #[serde(default)]
    clouds: BTreeMap<String, Cloud>,
}

/// Every value is kept as the text that is written, so a password of digits keeps its zeros.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Cloud {
    auth: BTreeMap<String, Option<String>>,
    auth_type: Option<String>,
    region_name: Option<String>,
    interface: Option<String>,
    endpoint_type: Option<String>,
    network_endpoint_override: Option<String>,
    load_balancer_endpoint_override: Option<String>,
    cacert: Option<String>,
    cert: Option<String>,
    key: Option<String>,
    verify: Option<String>,
    insecure: Option<String>,
    api_timeout: Option<String>,
}

impl Cloud {
    fn pairs(self) -> impl Iterator<Item = (String, String)> {
        // Dashes are accepted in names, as openstacksdk does.
        let auth = self.auth.into_iter().map(|(name, value)| (name.replace('-', "_"), value));
        let beside = [
            ("auth_type", self.auth_type),
            ("region_name", self.region_name),
            ("interface", self.interface),
            ("endpoint_type", self.endpoint_type),
            ("network_endpoint_override", self.network_endpoint_override),
            ("load_balancer_endpoint_override", self.load_balancer_endpoint_override),
            ("cacert", self.cacert),
            ("cert", self.cert),
            ("key", self.key),
            ("verify", self.verify),
            ("insecure", self.insecure),
            ("api_timeout", self.api_timeout),
        ];
        let beside = beside.into_iter().map(|(name, value)| (name.to_owned(), value));
        auth.chain(beside).filter_map(|(name, value)| Some((name, value?)))
    }
}

/// Says whether a setting is one of the cloud itself; all others are in its `auth`.
pub(super) fn stands_beside_auth(name: &str) -> bool {
    const BESIDE: [&str; 10] = [
        "auth_type",
        "region_name",
        "interface",
        "endpoint_type",
        "cacert",
        "cert",
        "key",
        "verify",
        "insecure",
        "api_timeout",
    ];
    BESIDE.contains(&name) || name.ends_with("_endpoint_override")
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;
    use tempfile::TempDir;

    use super::*;
    use crate::credentials::{Credentials, Identity, Interface};

    const CLOUDS: &str = "
clouds:
  lab:
    auth:
      auth_url: https://cloud:5000/v3
      username: kuryr
      project-name: k8s
      user_domain_name: Default
      project_domain_name: Default
    region_name: RegionOne
    interface: internal
    cacert: /etc/ca.pem
    verify: false
    identity_api_version: 3
    regions: [RegionOne, {name: RegionTwo}]
  other:
    profile: vendor
    auth: {password: wr0ng}
";
    const SECURE: &str = "
clouds:
  lab:
    auth:
      password: 0012
";

    struct Folder(TempDir);

    impl Folder {
        fn new(files: &[(&str, &str)]) -> Self {
            let folder = tempfile::tempdir().unwrap();
            fs::create_dir_all(folder.path().join("openstack")).unwrap();
            for (name, text) in files {
                fs::write(folder.path().join("openstack").join(name), text).unwrap();
            }
            Self(folder)
        }

        fn environment(&self, more: &[(&str, &str)]) -> BTreeMap<String, String> {
            let own = ("XDG_CONFIG_HOME", self.0.path().to_str().unwrap());
            let pairs = more.iter().chain([&own]);
            pairs.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        }

        fn find(&self, more: &[(&str, &str)]) -> Result<Credentials, Error> {
            Credentials::find(&BTreeMap::new(), &self.environment(more))
        }
    }

    #[test]
    fn secure_yaml_is_laid_over_and_scalars_stay_text() {
        let folder = Folder::new(&[("clouds.yaml", CLOUDS), ("secure.yaml", SECURE)]);
        let credentials = folder.find(&[("OS_CLOUD", "lab")]).unwrap();
        assert_eq!(credentials.auth_url, "https://cloud:5000/v3");
        assert_eq!(credentials.region.as_deref(), Some("RegionOne"));
        assert_eq!(credentials.interfaces, [Interface::Internal]);
        assert!(credentials.tls.insecure);
        let Identity::Password { password, .. } = credentials.identity else { panic!() };
        assert_eq!(password.expose_secret(), "0012");
    }

    #[test]
    fn a_mistake_is_named_by_its_place_and_shows_no_value() {
        let folder = Folder::new(&[("clouds.yaml", CLOUDS)]);
        let file = folder.0.path().join("openstack/clouds.yaml");
        let file = file.to_str().unwrap();
        let changed = |from: &str, to: &str| CLOUDS.replace(from, to);
        for (text, cloud, expect) in [
            (CLOUDS.to_owned(), "lab", format!("clouds.lab.auth.password in {file} is not set")),
            (
                changed("interface: internal", "interface: mine"),
                "other",
                format!("clouds.other.auth.auth_url in {file} is not set"),
            ),
            (
                changed("interface: internal", "interface: mine")
                    .replace("kuryr", "kuryr\n      password: s3cret"),
                "lab",
                format!("clouds.lab.interface in {file} contains `mine`"),
            ),
            (
                CLOUDS.to_owned(),
                "none",
                format!("{file}: cloud `none` is not there; set OS_CLOUD to one that is"),
            ),
            (CLOUDS.to_owned(), "", format!("{file}: which cloud is meant is not said; set OS_CLOUD")),
            (changed("wr0ng}", "wr0ng"), "lab", format!("{file}: it is not valid")),
            (
                changed("auth: {password: wr0ng}", "auth: [wr0ng]"),
                "lab",
                format!("{file}: it is not valid at line 1"),
            ),
        ] {
            fs::write(file, &text).unwrap();
            let error = folder.find(&[("OS_CLOUD", cloud)]).unwrap_err();
            let shown = format!("{error} {error:?}");
            assert!(shown.starts_with(&expect), "{shown} instead of {expect}");
            assert!(!shown.contains("wr0ng") && !shown.contains("s3cret"), "{shown}");
        }
    }

    #[test]
    fn a_file_that_the_environment_names_must_be_there() {
        let folder = Folder::new(&[("clouds.yaml", CLOUDS)]);
        let error = folder.find(&[("OS_CLOUD", "lab"), ("OS_CLIENT_CONFIG_FILE", "/nonexistent/c.yaml")]);
        let text = error.unwrap_err().to_string();
        assert_eq!(text, "/nonexistent/c.yaml: named in the environment, but it is not there");
    }
}

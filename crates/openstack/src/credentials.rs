//! Who we are for the cloud, and where it is.
//!
//! Credentials come from the options of a section such as `[neutron]` in `kuryr.conf`, from `clouds.yaml`, or
//! from the environment. All three use the names of keystoneauth in three spellings, which `settings` brings
//! together.
//!
//! Understood: passwords (`password`, `v3password`) scoped to a project, and application credentials
//! (`v3applicationcredential`), by id or by name and user. Other ways to authenticate, scopes other than a
//! project, and `auth_section` are refused with a message. This file reads no environment and no clock; only
//! [`CloudsFiles`] reads files, once, when it is asked to.
//!
//! Sources: keystoneauth, "Loading plugins" and "Authentication plugins"; openstacksdk, "Configuring
//! OpenStack SDK applications"; Identity API v3, "Authentication and token management".

mod clouds_file; // clouds.yaml and secure.yaml
mod settings; // what was written, whatever its spelling

use std::{collections::BTreeMap, path::PathBuf, str::FromStr, time::Duration};

use http::Uri;
use kuryr_types::ProjectId;
use secrecy::SecretString;

pub use clouds_file::CloudsFiles;

use crate::error::Error;
use settings::Settings;

/// Everything that is needed to get a token and to find the services.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// Keystone, with or without `/v3`.
    pub auth_url: Uri,
    /// Who, and by what proof.
    pub identity: Identity,
    /// Region whose endpoints are used; any if not given.
    pub region: Option<String>,
    /// Interfaces of endpoints that are acceptable, best first.
    pub interfaces: Vec<Interface>,
    /// Services whose URL is given instead of looked up, by service type, such as `network`.
    pub endpoint_overrides: BTreeMap<String, Uri>,
    /// Certificates.
    pub tls: Tls,
    /// How long one call may take, if the user has said so.
    pub timeout: Option<Duration>,
}

/// Who, and by what proof.
#[derive(Debug, Clone)]
pub enum Identity {
    /// A user with a password, for a project.
    Password {
        /// The user.
        user: User,
        /// Its password.
        password: SecretString,
        /// The project that tokens are scoped to.
        project: Project,
    },
    /// An application credential; it knows its user and project itself.
    ApplicationCredential {
        /// Which.
        credential: ApplicationCredential,
        /// Its secret.
        secret: SecretString,
    },
}

/// A user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum User {
    /// By id.
    Id(String),
    /// By name within a domain.
    Name(String, Domain),
}

/// A project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Project {
    /// By id.
    Id(ProjectId),
    /// By name within a domain.
    Name(String, Domain),
}

/// A domain, in which names of users and projects are unique.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Domain {
    /// By id, such as `default`.
    Id(String),
    /// By name, such as `Default`.
    Name(String),
}

/// An application credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApplicationCredential {
    /// By id.
    Id(String),
    /// By name among those of a user.
    Name(String, User),
}

/// Which of a service's endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interface {
    /// For everybody.
    Public,
    /// For the cloud's own network.
    Internal,
    /// For administrators; rarely used by now.
    Admin,
}

impl Interface {
    /// The name in the catalogue.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Internal => "internal",
            Self::Admin => "admin",
        }
    }
}

impl FromStr for Interface {
    type Err = ();

    /// Accepts `internal` and the older `internalURL`.
    fn from_str(text: &str) -> Result<Self, ()> {
        match text.strip_suffix("URL").unwrap_or(text) {
            "public" => Ok(Self::Public),
            "internal" => Ok(Self::Internal),
            "admin" => Ok(Self::Admin),
            _ => Err(()),
        }
    }
}

/// Certificates for the connections to the cloud.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// PEM file of certificate authorities to trust instead of the system's.
    pub cafile: Option<PathBuf>,
    /// PEM file of our own certificate, if the cloud asks for one.
    pub certfile: Option<PathBuf>,
    /// PEM file of the key to it; by default in the same file.
    pub keyfile: Option<PathBuf>,
    /// Accept any certificate.
    pub insecure: bool,
}

/// Options that say that a section means to hold credentials, not only details such as a timeout.
const TELLING: [&str; 5] = ["auth_url", "auth_type", "username", "user_id", "application_credential_id"];

impl Credentials {
    /// Looks where a user may have put credentials: in the section if it names any, else in `clouds.yaml` if
    /// `OS_CLOUD` is set, or if the file exists and `OS_AUTH_URL` is not set, else in the environment.
    ///
    /// # Errors
    /// Those of the source that was chosen; [`Error::SettingMissing`] if there is none.
    pub fn find(
        section: &BTreeMap<String, String>,
        environment: &BTreeMap<String, String>,
    ) -> Result<Self, Error> {
        Self::find_with(section, environment, CloudsFiles::search)
    }

    fn find_with(
        section: &BTreeMap<String, String>,
        environment: &BTreeMap<String, String>,
        search: impl FnOnce(&BTreeMap<String, String>) -> Result<Option<CloudsFiles>, Error>,
    ) -> Result<Self, Error> {
        let options = Settings::of_section(section);
        if TELLING.iter().any(|name| options.get(name).is_some()) {
            return options.credentials();
        }
        let variables = Settings::of_environment(environment);
        let cloud = variables.get("cloud");
        if cloud.is_none() && variables.get("auth_url").is_some() {
            return variables.credentials();
        }
        match search(environment)? {
            Some(files) => Self::from_clouds(&files, cloud),
            None if cloud.is_some() => Err(variables.invalid(
                "cloud",
                "is set, but there is no clouds.yaml",
                "name the file in OS_CLIENT_CONFIG_FILE, or put it into ./, ~/.config/openstack or /etc/openstack",
            )),
            None => Err(options.missing(
                "auth_url",
                "put credentials into that section, or set OS_CLOUD for a clouds.yaml, or OS_AUTH_URL and its \
                 companions",
            )),
        }
    }

    /// Reads the options of the section `[neutron]`; dashes in names count as underscores.
    ///
    /// # Errors
    /// [`Error::SettingMissing`] and [`Error::SettingInvalid`], naming the option.
    pub fn from_options(section: &BTreeMap<String, String>) -> Result<Self, Error> {
        Settings::of_section(section).credentials()
    }

    /// Reads variables such as `OS_AUTH_URL`.
    ///
    /// # Errors
    /// [`Error::SettingMissing`] and [`Error::SettingInvalid`], naming the variable.
    pub fn from_environment(environment: &BTreeMap<String, String>) -> Result<Self, Error> {
        Settings::of_environment(environment).credentials()
    }

    /// Reads one cloud of a `clouds.yaml`; `None` means the only one in it.
    ///
    /// # Errors
    /// [`Error::CloudsFile`], [`Error::CloudUnknown`], and those of a setting, naming it by its place in the
    /// file.
    pub fn from_clouds(files: &CloudsFiles, cloud: Option<&str>) -> Result<Self, Error> {
        files.settings(cloud)?.credentials()
    }
}

#[cfg(test)]
mod tests {
    use super::settings::tests::{PASSWORD, changed, map};
    use super::*;

    #[test]
    fn the_section_comes_first_and_a_half_filled_one_is_no_reason_to_look_elsewhere() {
        let variables = map("OS_AUTH_URL=http://cloud
             OS_USER_ID=u
             OS_PASSWORD=s3cret
             OS_PROJECT_ID=p
             HOME=/nonexistent");
        let find = |section: &str| Credentials::find(&map(section), &variables);
        assert_eq!(find("timeout=5").unwrap().auth_url, "http://cloud");
        assert_eq!(find(PASSWORD).unwrap().auth_url, "http://10.199.0.1:25000/v3");
        let text = find("username=kuryr").unwrap_err().to_string();
        assert!(text.starts_with("[neutron] auth_url is not set"), "{text}");
    }

    #[test]
    fn without_a_clouds_yaml_the_message_says_where_it_could_be() {
        for (variables, expect) in [
            (
                "OS_CLOUD=lab",
                "OS_CLOUD is set, but there is no clouds.yaml: name the file in OS_CLIENT_CONFIG_FILE",
            ),
            (
                "OS_CLOUD=",
                "[neutron] auth_url is not set: put credentials into that section, or set OS_CLOUD",
            ),
        ] {
            let found = Credentials::find_with(&BTreeMap::new(), &map(variables), |_| Ok(None));
            let text = found.unwrap_err().to_string();
            assert!(text.starts_with(expect), "{text}");
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let application = "auth_type=\napplication_credential_id=i\napplication_credential_secret=s3cret";
        for lines in ["", application] {
            let shown = format!("{:?}", changed(lines).unwrap());
            assert!(shown.contains("10.199.0.1") && !shown.contains("s3cret"), "{shown}");
        }
    }
}

//! Settings as they were written, read into credentials.
//!
//! Each source is brought into one map of keystoneauth's names first and read by one function; an error then names the
//! setting the way its user wrote it. An empty value counts as not set, as in shell files and in quoted options.
//!
//! Names of `[neutron]` that nobody reads are told by `crates/conf`, which has to know each name that is read here.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use http::Uri;
use secrecy::SecretString;

use super::{
    ApplicationCredential, Credentials, Domain, Identity, Interface, Project, Tls, User,
    clouds_file::stands_beside_auth,
};
use crate::error::Error;

/// Settings under their keystoneauth names.
pub(super) struct Settings {
    origin: Origin,
    values: BTreeMap<String, String>,
    /// Which older name was used, for messages.
    written: BTreeMap<&'static str, &'static str>,
}

pub(super) enum Origin {
    Section(&'static str),
    Environment,
    Cloud { file: PathBuf, cloud: String },
}

/// Other names of the same settings (keystoneauth, "deprecated"; openstacksdk). The first that is given counts.
const ALIASES: [(&str, &str); 12] = [
    ("auth_plugin", "auth_type"),
    ("user_name", "username"),
    ("tenant_id", "project_id"),
    ("tenant_name", "project_name"),
    ("cacert", "cafile"),
    ("ca_file", "cafile"),
    ("cert", "certfile"),
    ("key", "keyfile"),
    ("region", "region_name"),
    ("interface", "valid_interfaces"),
    ("endpoint_type", "valid_interfaces"),
    ("api_timeout", "timeout"),
];

impl Settings {
    pub(super) fn of_section(section: &BTreeMap<String, String>) -> Self {
        let pairs = section.iter().map(|(name, value)| (name.replace('-', "_"), value.clone()));
        let mut settings = Self::new(Origin::Section("neutron"), pairs);
        // In a section about Neutron the override without a service's name is Neutron's.
        if let Some(url) = settings.values.remove("endpoint_override") {
            settings.values.insert(NETWORK_OVERRIDE.to_owned(), url);
            settings.written.insert(NETWORK_OVERRIDE, "endpoint_override");
        }
        settings
    }

    pub(super) fn of_environment(environment: &BTreeMap<String, String>) -> Self {
        let pairs = environment.iter().filter_map(|(name, value)| {
            Some((name.strip_prefix("OS_")?.to_ascii_lowercase(), value.clone()))
        });
        Self::new(Origin::Environment, pairs)
    }

    pub(super) fn new(origin: Origin, pairs: impl Iterator<Item = (String, String)>) -> Self {
        let mut values: BTreeMap<_, _> = pairs.filter(|(_, value)| !value.is_empty()).collect();
        let mut written = BTreeMap::new();
        for (alias, name) in ALIASES {
            if let Some(value) = values.remove(alias)
                && !values.contains_key(name)
            {
                values.insert(name.to_owned(), value);
                written.insert(name, alias);
            }
        }
        Self { origin, values, written }
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    fn required(&self, name: &'static str, fix: &str) -> Result<&str, Error> {
        self.get(name).ok_or_else(|| self.missing(name, fix))
    }

    fn secret(&self, name: &'static str, fix: &str) -> Result<SecretString, Error> {
        Ok(SecretString::from(self.required(name, fix)?))
    }

    pub(super) fn missing(&self, name: &str, fix: impl Into<String>) -> Error {
        Error::SettingMissing { name: self.spelled(name), fix: fix.into() }
    }

    pub(super) fn invalid(&self, name: &str, problem: impl Into<String>, fix: impl Into<String>) -> Error {
        Error::SettingInvalid { name: self.spelled(name), problem: problem.into(), fix: fix.into() }
    }

    /// A setting the way its user writes it.
    fn spelled(&self, name: &str) -> String {
        let name = self.written.get(name).copied().unwrap_or(name);
        match &self.origin {
            Origin::Section(section) => format!("[{section}] {name}"),
            Origin::Environment => format!("OS_{}", name.to_ascii_uppercase()),
            Origin::Cloud { file, cloud } => {
                let beside = stands_beside_auth(name);
                let place = if beside { "" } else { "auth." };
                format!("clouds.{cloud}.{place}{name} in {}", file.display())
            }
        }
    }

    pub(super) fn credentials(&self) -> Result<Credentials, Error> {
        let auth_url =
            self.required("auth_url", "give the URL of Keystone, such as https://cloud:5000/v3")?;
        Ok(Credentials {
            auth_url: self.url("auth_url", auth_url)?,
            identity: self.identity()?,
            region: self.get("region_name").map(str::to_owned),
            interfaces: self.interfaces()?,
            endpoint_overrides: self.endpoint_overrides()?,
            tls: self.tls()?,
            timeout: self.timeout()?,
        })
    }

    fn url(&self, name: &str, text: &str) -> Result<Uri, Error> {
        let fix = "give an absolute http or https URL";
        // The text is not repeated: with a mistake like this it may well contain a password.
        let uri: Uri =
            text.trim_end_matches('/').parse().map_err(|_| self.invalid(name, "is no URL", fix))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(self.invalid(name, "is no http or https URL", fix));
        }
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(self.invalid(
                name,
                "contains a user or password",
                "give those in their own settings",
            ));
        }
        if uri.query().is_some() {
            return Err(self.invalid(name, "has a query", fix));
        }
        Ok(uri)
    }

    fn identity(&self) -> Result<Identity, Error> {
        self.refuse_other_scopes()?;
        let default = match self.get("application_credential_secret") {
            Some(_) => "v3applicationcredential",
            None => "password",
        };
        match self.get("auth_type").unwrap_or(default) {
            "password" | "v3password" => Ok(Identity::Password {
                user: self.user()?,
                password: self.secret("password", "give the user's password")?,
                project: self.project()?,
            }),
            "v3applicationcredential" => Ok(Identity::ApplicationCredential {
                credential: self.application_credential()?,
                secret: self.secret(
                    "application_credential_secret",
                    "give the secret that Keystone showed when the application credential was made",
                )?,
            }),
            other => Err(self.invalid(
                "auth_type",
                format!("is `{other}`, which is not supported"),
                "use password or v3applicationcredential",
            )),
        }
    }

    /// A token of another scope would see other resources than the user expects, so these are not ignored.
    fn refuse_other_scopes(&self) -> Result<(), Error> {
        let fix = "tokens are scoped to a project; remove it";
        for name in ["system_scope", "trust_id", "domain_id", "domain_name"] {
            if self.get(name).is_some() {
                return Err(self.invalid(name, "is not supported", fix));
            }
        }
        match self.get("auth_section") {
            Some(_) => {
                Err(self.invalid("auth_section", "is not supported", "put the options into this section"))
            }
            None => Ok(()),
        }
    }

    fn user(&self) -> Result<User, Error> {
        if let Some(id) = self.get("user_id") {
            return Ok(User::Id(id.to_owned()));
        }
        let name = self.required("username", "give the user's name, or user_id")?;
        Ok(User::Name(name.to_owned(), self.domain("user_domain_id", "user_domain_name", "user")?))
    }

    fn project(&self) -> Result<Project, Error> {
        if let Some(id) = self.get("project_id") {
            return Ok(Project::Id(id.into()));
        }
        let name = self.required("project_name", "give the project's name, or project_id")?;
        let domain = self.domain("project_domain_id", "project_domain_name", "project")?;
        Ok(Project::Name(name.to_owned(), domain))
    }

    fn domain(&self, id: &str, name: &'static str, what: &str) -> Result<Domain, Error> {
        let given = |id, name| {
            let by_id = self.get(id).map(|id| Domain::Id(id.to_owned()));
            by_id.or_else(|| self.get(name).map(|name| Domain::Name(name.to_owned())))
        };
        given(id, name)
            .or_else(|| given("default_domain_id", "default_domain_name"))
            .ok_or_else(|| self.missing(name, format!("give the name of the {what}'s domain, often Default")))
    }

    fn application_credential(&self) -> Result<ApplicationCredential, Error> {
        if let Some(id) = self.get("application_credential_id") {
            return Ok(ApplicationCredential::Id(id.to_owned()));
        }
        let name = self.get("application_credential_name").ok_or_else(|| {
            self.missing("application_credential_id", "give it, or application_credential_name with the user")
        })?;
        Ok(ApplicationCredential::Name(name.to_owned(), self.user()?))
    }

    fn interfaces(&self) -> Result<Vec<Interface>, Error> {
        let Some(text) = self.get("valid_interfaces") else { return Ok(vec![Interface::Public]) };
        let fix = "use public, internal or admin, or several with commas, best first";
        let unknown = |name| self.invalid("valid_interfaces", format!("contains `{name}`"), fix);
        text.split(',').map(str::trim).map(|name| name.parse().map_err(|()| unknown(name))).collect()
    }

    fn endpoint_overrides(&self) -> Result<BTreeMap<String, Uri>, Error> {
        self.values
            .iter()
            .filter_map(|(name, url)| Some((name, name.strip_suffix("_endpoint_override")?, url)))
            .map(|(name, service, url)| Ok((service.replace('_', "-"), self.url(name, url)?)))
            .collect()
    }

    fn tls(&self) -> Result<Tls, Error> {
        let path = |name| self.get(name).map(PathBuf::from);
        // `verify: false` of clouds.yaml is the same switch the other way round.
        let verified = self.get("verify").map(|text| self.boolean("verify", text)).transpose()?;
        let insecure = self.get("insecure").map(|text| self.boolean("insecure", text)).transpose()?;
        Ok(Tls {
            cafile: path("cafile"),
            certfile: path("certfile"),
            keyfile: path("keyfile"),
            insecure: insecure.unwrap_or(false) || verified == Some(false),
        })
    }

    fn boolean(&self, name: &str, text: &str) -> Result<bool, Error> {
        match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Ok(true),
            "false" | "0" | "no" | "off" => Ok(false),
            _ => Err(self.invalid(name, format!("is `{text}`"), "use true or false")),
        }
    }

    fn timeout(&self) -> Result<Option<Duration>, Error> {
        let Some(text) = self.get("timeout") else { return Ok(None) };
        let seconds = text.parse::<f64>().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        match seconds {
            Some(seconds) if !seconds.is_zero() && seconds <= LONGEST_TIMEOUT => Ok(Some(seconds)),
            _ => Err(self.invalid("timeout", format!("is `{text}`"), "give seconds, up to 3600")),
        }
    }
}

/// Where a URL for Neutron stands among the settings.
const NETWORK_OVERRIDE: &str = "network_endpoint_override";
/// A call that takes longer holds its place for too long; also guards against a unit mistaken.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(3600);

#[cfg(test)]
pub(super) mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    pub(in crate::credentials) fn map(lines: &str) -> BTreeMap<String, String> {
        let pairs = lines.lines().filter_map(|line| line.trim().split_once('='));
        pairs.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned())).collect()
    }

    pub(in crate::credentials) const PASSWORD: &str = "auth_type = password
        auth_url = http://10.199.0.1:25000/v3/
        username = kuryr
        password = s3cret
        user_domain_name = Default
        project_name = k8s
        project_domain_id = default";

    #[test]
    fn a_section_as_upstream_writes_it_is_understood() {
        let credentials = Credentials::from_options(&map(PASSWORD)).unwrap();
        assert_eq!(credentials.auth_url, "http://10.199.0.1:25000/v3");
        assert_eq!(credentials.interfaces, [Interface::Public]);
        assert_eq!(credentials.region, None);
        assert_eq!(credentials.tls, Tls::default());
        let Identity::Password { user, password, project } = credentials.identity else { panic!() };
        assert_eq!(user, User::Name("kuryr".to_owned(), Domain::Name("Default".to_owned())));
        assert_eq!(project, Project::Name("k8s".to_owned(), Domain::Id("default".to_owned())));
        assert_eq!(password.expose_secret(), "s3cret");
    }

    /// Changes the complete section by lines; a line without a value takes the option away.
    pub(in crate::credentials) fn changed(lines: &str) -> Result<Credentials, Error> {
        let mut section = map(PASSWORD);
        section.extend(map(lines));
        Credentials::from_options(&section)
    }

    #[test]
    fn an_error_names_the_option_and_the_fix() {
        for (lines, expect) in [
            ("auth_url =", "[neutron] auth_url is not set: give the URL of Keystone"),
            ("auth_url = cloud:5000", "[neutron] auth_url is no http or https URL: give an absolute"),
            ("auth_url = ftp://cloud", "[neutron] auth_url is no http or https URL"),
            ("auth_url = http://me:pw@cloud", "[neutron] auth_url contains a user or password"),
            ("username =", "[neutron] username is not set: give the user's name, or user_id"),
            ("password =", "[neutron] password is not set"),
            (
                "user_domain_name =",
                "[neutron] user_domain_name is not set: give the name of the user's domain",
            ),
            ("project_name =", "[neutron] project_name is not set: give the project's name, or project_id"),
            ("project_domain_id =", "[neutron] project_domain_name is not set"),
            (
                "auth_type = v3token",
                "[neutron] auth_type is `v3token`, which is not supported: use password or",
            ),
            ("system_scope = all", "[neutron] system_scope is not supported"),
            ("auth_section = keystone", "[neutron] auth_section is not supported: put the options"),
            (
                "valid_interfaces = internal,private",
                "[neutron] valid_interfaces contains `private`: use public",
            ),
            ("endpoint_type = privateURL", "[neutron] endpoint_type contains `privateURL`: use public"),
            ("insecure = maybe", "[neutron] insecure is `maybe`: use true or false"),
            ("timeout = 30s", "[neutron] timeout is `30s`: give seconds"),
            ("timeout = -1", "[neutron] timeout is `-1`"),
            ("timeout = nan", "[neutron] timeout is `nan`"),
            ("endpoint_override = neutron", "[neutron] endpoint_override is no http or https URL"),
            (
                "auth_type = v3applicationcredential",
                "[neutron] application_credential_id is not set: give it, or application_credential_name",
            ),
            (
                "auth_type = v3applicationcredential\napplication_credential_id = a",
                "[neutron] application_credential_secret is not set",
            ),
        ] {
            let text = changed(lines).unwrap_err().to_string();
            assert!(text.starts_with(expect), "{lines}: {text}");
            assert!(!text.contains("s3cret") && !text.contains("me:pw"), "{lines}: {text}");
        }
    }

    #[test]
    fn older_names_and_details_are_understood() {
        let credentials = changed(
            "project_name =
             tenant_id = 7f
             region-name = RegionTwo
             endpoint_type = internalURL
             endpoint_override = http://neutron:9696/
             load_balancer_endpoint_override = http://octavia:9876
             cafile = /etc/ca.pem
             insecure = False
             timeout = 2.5",
        )
        .unwrap();
        assert_eq!(credentials.region.as_deref(), Some("RegionTwo"));
        assert_eq!(credentials.interfaces, [Interface::Internal]);
        assert_eq!(credentials.timeout, Some(Duration::from_millis(2500)));
        assert_eq!(credentials.tls.cafile, Some("/etc/ca.pem".into()));
        assert!(!credentials.tls.insecure);
        let overrides: Vec<_> =
            credentials.endpoint_overrides.iter().map(|(service, url)| format!("{service} {url}")).collect();
        assert_eq!(overrides, ["load-balancer http://octavia:9876/", "network http://neutron:9696/"]);
        let Identity::Password { project, .. } = credentials.identity else { panic!() };
        assert_eq!(project, Project::Id("7f".into()));
    }

    #[test]
    fn application_credentials_come_by_id_or_by_name_and_user() {
        let by_id = map("auth_url=https://cloud:5000
             application_credential_id=a1
             application_credential_secret=s3cret");
        let by_name = map("auth_type=v3applicationcredential
             auth_url=https://cloud:5000
             application_credential_name=kuryr-app
             application_credential_secret=s3cret
             username=kuryr
             default_domain_id=default");
        let user = User::Name("kuryr".to_owned(), Domain::Id("default".to_owned()));
        for (options, expect) in [
            (by_id, ApplicationCredential::Id("a1".to_owned())),
            (by_name, ApplicationCredential::Name("kuryr-app".to_owned(), user)),
        ] {
            let identity = Credentials::from_options(&options).unwrap().identity;
            let Identity::ApplicationCredential { credential, secret } = identity else { panic!() };
            assert_eq!(credential, expect);
            assert_eq!(secret.expose_secret(), "s3cret");
        }
    }

    #[test]
    fn variables_are_read_and_named_as_variables() {
        let mut variables = map("OS_AUTH_URL=http://cloud/identity
             OS_USERNAME=kuryr
             OS_PASSWORD=s3cret
             OS_USER_DOMAIN_NAME=Default
             OS_PROJECT_NAME=k8s
             OS_PROJECT_DOMAIN_NAME=Default
             OS_CACERT=/ca.pem
             OS_INTERFACE=internal
             PATH=/bin");
        let credentials = Credentials::from_environment(&variables).unwrap();
        assert_eq!(credentials.tls.cafile, Some("/ca.pem".into()));
        assert_eq!(credentials.interfaces, [Interface::Internal]);
        variables.remove("OS_PROJECT_NAME");
        let text = Credentials::from_environment(&variables).unwrap_err().to_string();
        assert!(text.starts_with("OS_PROJECT_NAME is not set"), "{text}");
    }
}

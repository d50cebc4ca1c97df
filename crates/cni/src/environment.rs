//! The `CNI_*` variables, checked.
//!
//! Which variable a verb needs, and what a container id and an interface name may look like, is the
//! specification's (section 2, "Parameters"; section 1 for the characters). `CNI_PATH` is not needed: this
//! plugin calls no other.

use std::env::{self, VarError};

use kuryr_api::{
    cni::{CniError, Verb, Version, code},
    names,
};

/// A call as the runtime made it.
#[derive(Debug)]
pub(crate) struct Environment {
    /// `CNI_COMMAND`.
    pub(crate) verb: Verb,
    /// Which interface, for the verbs that are about one.
    pub(crate) network: Option<Network>,
}

/// The interface that ADD, DEL and CHECK are about.
#[derive(Debug)]
pub(crate) struct Network {
    /// `CNI_CONTAINERID`.
    pub(crate) container_id: String,
    /// `CNI_NETNS`; may be empty with DEL, when the namespace is gone already.
    pub(crate) netns: String,
    /// `CNI_IFNAME`.
    pub(crate) ifname: String,
    /// `CNI_ARGS`, not split.
    pub(crate) args: String,
}

impl Environment {
    /// Reads and checks the process's environment.
    ///
    /// # Errors
    ///
    /// Code 4 for a missing or invalid variable.
    pub(crate) fn read() -> Result<Self, (Option<Version>, CniError)> {
        Self::from(&variable).map_err(|error| (None, error))
    }

    fn from(read: &dyn Fn(&str) -> Result<String, CniError>) -> Result<Self, CniError> {
        let command = read("CNI_COMMAND")?;
        let verb = Verb::parse(&command).ok_or_else(|| {
            let message = if command.is_empty() {
                "CNI_COMMAND is missing: this is a CNI plugin, the container runtime calls it".to_owned()
            } else {
                format!("CNI_COMMAND {command:?} is not a verb of the CNI specification 0.3.1 to 1.1.0")
            };
            invalid(message)
        })?;
        let network = match verb {
            Verb::Add | Verb::Check => Some(Network::from(read, true)?),
            Verb::Del => Some(Network::from(read, false)?),
            Verb::Gc | Verb::Status | Verb::Version => None,
        };
        Ok(Self { verb, network })
    }

    /// The interface the call is about.
    ///
    /// # Errors
    ///
    /// Code 4; does not happen for ADD, DEL and CHECK, whose variables were checked when they were read.
    pub(crate) fn network(&self) -> Result<&Network, CniError> {
        self.network.as_ref().ok_or_else(|| invalid("CNI_CONTAINERID and CNI_IFNAME are missing".to_owned()))
    }
}

impl Network {
    fn from(read: &dyn Fn(&str) -> Result<String, CniError>, needs_netns: bool) -> Result<Self, CniError> {
        let network = Self {
            container_id: read("CNI_CONTAINERID")?,
            netns: read("CNI_NETNS")?,
            ifname: read("CNI_IFNAME")?,
            args: read("CNI_ARGS")?,
        };
        if !valid_container_id(&network.container_id) {
            return Err(invalid(format!(
                "CNI_CONTAINERID {:?} is missing or invalid: it must start with a letter or digit and hold only those, _ . and -",
                network.container_id
            )));
        }
        if !valid_ifname(&network.ifname) {
            return Err(invalid(format!(
                "CNI_IFNAME {:?} is missing or invalid: 1 to {} characters, no / : or white space, not . or ..",
                network.ifname,
                names::INTERFACE_NAME_MAX
            )));
        }
        if needs_netns && network.netns.is_empty() {
            return Err(invalid(
                "CNI_NETNS is missing: the path of the container's network namespace".to_owned(),
            ));
        }
        Ok(network)
    }
}

fn variable(name: &str) -> Result<String, CniError> {
    match env::var(name) {
        Ok(value) => Ok(value),
        Err(VarError::NotPresent) => Ok(String::new()),
        Err(VarError::NotUnicode(_)) => Err(invalid(format!("{name} is not UTF-8"))),
    }
}

fn invalid(message: String) -> CniError {
    CniError::new(code::INVALID_ENVIRONMENT, message)
}

fn valid_container_id(id: &str) -> bool {
    id.starts_with(|first: char| first.is_ascii_alphanumeric())
        && id.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

/// What the kernel accepts as a name (`dev_valid_name`).
fn valid_ifname(name: &str) -> bool {
    (1..=names::INTERFACE_NAME_MAX).contains(&name.len())
        && !matches!(name, "." | "..")
        && !name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(variables: &[(&str, &str)], expect: Result<Verb, u32>) {
        let read = |name: &str| {
            let found = variables.iter().find(|(key, _)| *key == name);
            Ok(found.map_or(String::new(), |(_, value)| (*value).to_owned()))
        };
        let got = Environment::from(&read).map(|environment| environment.verb).map_err(|error| error.code);
        assert_eq!(got, expect, "{variables:?}");
    }

    #[test]
    fn each_verb_has_its_variables() {
        let id = ("CNI_CONTAINERID", "c1-2_3.4");
        let netns = ("CNI_NETNS", "/run/netns/x");
        let ifname = ("CNI_IFNAME", "eth0");
        let wrong = Err(code::INVALID_ENVIRONMENT);
        check(&[], wrong);
        check(&[("CNI_COMMAND", "add")], wrong);
        check(&[("CNI_COMMAND", "ADD"), id, netns, ifname], Ok(Verb::Add));
        check(&[("CNI_COMMAND", "ADD"), id, ifname], wrong);
        check(&[("CNI_COMMAND", "ADD"), id, netns], wrong);
        check(&[("CNI_COMMAND", "ADD"), netns, ifname], wrong);
        check(&[("CNI_COMMAND", "CHECK"), id, ifname], wrong);
        check(&[("CNI_COMMAND", "CHECK"), id, netns, ifname], Ok(Verb::Check));
        check(&[("CNI_COMMAND", "DEL"), id, ifname], Ok(Verb::Del));
        check(&[("CNI_COMMAND", "DEL"), id], wrong);
        check(&[("CNI_COMMAND", "GC")], Ok(Verb::Gc));
        check(&[("CNI_COMMAND", "STATUS")], Ok(Verb::Status));
        check(&[("CNI_COMMAND", "VERSION")], Ok(Verb::Version));
        for bad in ["", "-c", "a/b", "a b", "../x"] {
            check(&[("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", bad), ifname], wrong);
        }
        for bad in ["", ".", "..", "a/b", "a:b", "a b", "sixteen-bytes-00"] {
            check(&[("CNI_COMMAND", "DEL"), id, ("CNI_IFNAME", bad)], wrong);
        }
    }
}

//! Which URL a service has.
//!
//! A token comes with the catalogue of its project: services by type, each with endpoints by interface and
//! region. An endpoint's URL may or may not contain the version; here it is brought to the form without it.
//!
//! Source: Identity API v3, "Get service catalog".

use http::Uri;
use serde::Deserialize;

use crate::{credentials::Credentials, error::Error};

/// A service of the cloud.
#[derive(Debug)]
pub(crate) struct Service {
    /// Its type in the catalogue.
    pub(crate) kind: &'static str,
    /// With which an endpoint's URL may end.
    versions: &'static [&'static str],
}

/// Neutron.
pub(crate) static NETWORK: Service = Service { kind: "network", versions: &["/v2.0"] };
/// Octavia.
pub(crate) static LOAD_BALANCER: Service = Service { kind: "load-balancer", versions: &["/v2.0", "/v2"] };

/// Services and their endpoints, as Keystone told them.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(transparent)]
pub(crate) struct Catalogue(Vec<Entry>);

#[derive(Debug, Clone, Deserialize)]
struct Entry {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    endpoints: Vec<Endpoint>,
}

#[derive(Debug, Clone, Deserialize)]
struct Endpoint {
    #[serde(default)]
    interface: String,
    #[serde(default)]
    region_id: Option<String>,
    /// The older name of the same.
    #[serde(default)]
    region: Option<String>,
    url: String,
}

impl Endpoint {
    fn region(&self) -> &str {
        self.region_id.as_deref().or(self.region.as_deref()).unwrap_or_default()
    }
}

impl Catalogue {
    /// Finds the URL of `service` for these credentials, without version and without a slash at its end: an
    /// override if one is given, else the first endpoint of the best acceptable interface in the region.
    ///
    /// # Errors
    /// [`Error::EndpointMissing`], which lists what there is.
    pub(crate) fn endpoint(
        &self,
        service: &'static Service,
        credentials: &Credentials,
    ) -> Result<String, Error> {
        if let Some(url) = credentials.endpoint_overrides.get(service.kind) {
            return Ok(without_version(url, service.versions));
        }
        let offered: Vec<&Endpoint> = self
            .0
            .iter()
            .filter(|found| found.kind == service.kind)
            .flat_map(|found| &found.endpoints)
            .collect();
        let wanted = |endpoint: &&Endpoint| {
            credentials.region.as_deref().is_none_or(|region| region == endpoint.region())
        };
        let of_interface = |name: &str| {
            let mut fitting = offered.iter().copied().filter(wanted);
            fitting.find(|endpoint| endpoint.interface == name)
        };
        let names = credentials.interfaces.iter().map(|interface| interface.as_str());
        let found = names.clone().find_map(of_interface);
        // An endpoint that is no URL is as good as none; the message shows it.
        let url = found.and_then(|endpoint| endpoint.url.parse::<Uri>().ok());
        url.map(|url| without_version(&url, service.versions)).ok_or_else(|| Error::EndpointMissing {
            service: service.kind,
            interfaces: names.map(str::to_owned).collect(),
            region: credentials.region.clone(),
            offered: offered
                .iter()
                .map(|endpoint| format!("{} in {} ({})", endpoint.interface, endpoint.region(), endpoint.url))
                .collect(),
        })
    }
}

/// `http://cloud:9696/v2.0/` -> `http://cloud:9696`.
pub(crate) fn without_version(url: &Uri, versions: &[&str]) -> String {
    let text = url.to_string();
    let text = text.trim_end_matches('/');
    let shortened = versions.iter().find_map(|version| text.strip_suffix(version));
    shortened.unwrap_or(text).trim_end_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn credentials(more: &[(&str, &str)]) -> Credentials {
        let base = [("auth_url", "http://k"), ("user_id", "u"), ("password", "p"), ("project_id", "t")];
        let pairs = base.iter().chain(more).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Credentials::from_options(&BTreeMap::from_iter(pairs)).unwrap()
    }

    #[test]
    fn versions_at_the_end_of_an_endpoint_are_cut_off() {
        for (url, expect) in [
            ("http://o:9876", "http://o:9876"),
            ("http://o:9876/v2.0/", "http://o:9876"),
            ("http://o/load-balancer/v2", "http://o/load-balancer"),
        ] {
            assert_eq!(without_version(&url.parse().unwrap(), LOAD_BALANCER.versions), expect);
        }
    }

    #[test]
    fn interface_region_and_override_choose_the_url() {
        let catalogue: Catalogue = serde_json::from_str(
            r#"[{"type": "network", "name": "neutron", "id": "1", "endpoints": [
                  {"interface": "public", "region": "One", "region_id": "One", "url": "https://one/networking/v2.0/"},
                  {"interface": "internal", "region_id": "One", "url": "http://one:9696"},
                  {"interface": "public", "region": "Two", "url": "https://two:9696/"}]},
                {"type": "compute", "endpoints": []}]"#,
        )
        .unwrap();
        for (options, expect) in [
            (vec![], Ok("https://one/networking")),
            (vec![("region_name", "Two")], Ok("https://two:9696")),
            (vec![("valid_interfaces", "internal,public")], Ok("http://one:9696")),
            (vec![("valid_interfaces", "internal,public"), ("region_name", "Two")], Ok("https://two:9696")),
            (vec![("endpoint_override", "http://over:1/v2.0")], Ok("http://over:1")),
            (
                vec![("valid_interfaces", "admin"), ("region_name", "Two")],
                Err(
                    "the catalogue has no network endpoint with interface admin in region Two; it offers: public \
                     in One (https://one/networking/v2.0/), internal in One (http://one:9696), public in Two \
                     (https://two:9696/)",
                ),
            ),
        ] {
            let found = catalogue.endpoint(&NETWORK, &credentials(&options));
            let found = found.map_err(|error| error.to_string());
            assert_eq!(found.as_deref().map_err(String::as_str), expect, "{options:?}");
        }
    }
}

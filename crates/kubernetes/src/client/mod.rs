//! A connection to the API server.
//!
//! Where it is, in this order: `api_root`, of which there may be several (upstream's options `[kubernetes] api_root, ssl_ca_crt_file,
//! ssl_verify_server_crt, token_file, ssl_client_crt_file, ssl_client_key_file`), a kubeconfig, the service
//! account of the pod we run in, whose API server is a ClusterIP: what that led to before is asked first, if it was kept
//! ([`save_servers`]).
//!
//! The token file and the CA file are read again while the process runs. A client certificate is read once:
//! after its renewal the process has to be restarted.
//!
//! The client tries nothing twice and follows nothing: a failed call is told to whoever asked. Every wait has a
//! bound ([`Timeouts`]).
//!
//! Sources: kuryr.conf options of group `kubernetes`; Kubernetes, "Accessing the Kubernetes API from a Pod".

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use http::{HeaderValue, Uri, header::USER_AGENT};
use kube::{
    Client, Config,
    client::ClientBuilder,
    config::{AuthInfo, KubeConfigOptions, Kubeconfig, KubeconfigError},
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use tower::timeout::TimeoutLayer;

use crate::{Error, Result};

mod options;
mod saved;
mod several;
mod token;

pub use saved::save_servers;
use several::Several;
use token::TokenLayer;

/// Where the API server is and who we are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientConfig {
    /// Address of the API server, or several, separated by commas: when one does not answer, or only with errors of its
    /// own, the next is asked. Empty: see `kubeconfig`.
    pub api_root: String,
    /// Used when `api_root` is empty; when this is empty too, the service account of the pod.
    pub kubeconfig: Option<PathBuf>,
    /// Where addresses of API servers are kept ([`save_servers`]); counts for the service account only.
    pub saved_servers: Option<PathBuf>,
    /// The context within the kubeconfig, unless its current one.
    pub context: Option<String>,
    /// CA certificates that the API server's certificate must chain to; none: those of the system.
    pub ssl_ca_crt_file: Option<PathBuf>,
    /// Whether the API server's certificate is checked at all.
    pub ssl_verify_server_crt: bool,
    /// Holds our bearer token; read again while the process runs.
    pub token_file: Option<PathBuf>,
    /// Our certificate.
    pub ssl_client_crt_file: Option<PathBuf>,
    /// The key of our certificate.
    pub ssl_client_key_file: Option<PathBuf>,
    /// What the API server's audit log shows.
    pub user_agent: String,
    /// Bounds.
    pub timeouts: Timeouts,
}

/// Bounds on waiting for the API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For a TCP connection and its TLS handshake.
    pub connect: Duration,
    /// For sending a part of a request.
    pub write: Duration,
    /// From a request to the head of its answer; the API server itself gives up after 60 s.
    pub answer: Duration,
    /// For the next bytes of an answer. Longer than a watch may be silent, which the watch itself bounds.
    pub read: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            write: Duration::from_secs(30),
            answer: Duration::from_secs(60),
            read: Duration::from_secs(120),
        }
    }
}

impl ClientConfig {
    /// The service account of the pod we run in.
    pub fn new(user_agent: impl Into<String>) -> Self {
        Self {
            api_root: String::new(),
            kubeconfig: None,
            saved_servers: None,
            context: None,
            ssl_ca_crt_file: None,
            ssl_verify_server_crt: true,
            token_file: None,
            ssl_client_crt_file: None,
            ssl_client_key_file: None,
            user_agent: user_agent.into(),
            timeouts: Timeouts::default(),
        }
    }

    /// Whether the service account of the pod we run in says where the API server is.
    #[must_use]
    pub fn is_by_service_account(&self) -> bool {
        self.api_root.trim().is_empty() && self.kubeconfig.is_none()
    }

    /// The IP addresses in `api_root`, without names.
    #[must_use]
    pub fn api_addresses(&self) -> Vec<IpAddr> {
        let servers = addresses(&self.api_root).unwrap_or_default();
        servers.iter().filter_map(|server| server.host()?.trim_matches(['[', ']']).parse().ok()).collect()
    }
}

/// Makes *ring* the cryptography of this process; harmless when called again.
///
/// Two providers in one process leave TLS without a default, so this belongs at the start of `main`.
pub fn install_crypto() {
    // An error means that a provider is installed already, which is what was wanted.
    drop(rustls::crypto::ring::default_provider().install_default());
}

/// Prepares a client; no call is made yet.
///
/// # Errors
///
/// Whatever is wrong with the configuration or the files it names.
pub async fn connect(config: &ClientConfig) -> Result<Client> {
    install_crypto();
    let mut servers = Vec::new();
    for resolved in resolve(config).await? {
        servers.push((resolved.cluster_url.clone(), to_one(config, resolved)?));
    }
    if let [(_, client)] = servers.as_slice() {
        return Ok(client.clone());
    }
    let namespace = servers.first().map_or("default", |(_, client)| client.default_namespace()).to_owned();
    Ok(Client::new(Several::new(servers), namespace))
}

/// A client of one server.
fn to_one(config: &ClientConfig, mut resolved: Config) -> Result<Client> {
    apply_common(config, &mut resolved)?;
    // kube's own reading of token files stumbles over the newline that editors and `echo` leave at the end.
    let token_file = resolved.auth_info.token_file.take().map(PathBuf::from);
    let token = token_file.map(TokenLayer::new).transpose()?;
    let builder =
        ClientBuilder::try_from(resolved).map_err(|source| Error::Client { source: Box::new(source) })?;
    let bounded = builder.with_layer(&TimeoutLayer::new(config.timeouts.answer));
    Ok(match token {
        Some(token) => bounded.with_layer(&token).build(),
        None => bounded.build(),
    })
}

/// One or several servers.
async fn resolve(config: &ClientConfig) -> Result<Vec<Config>> {
    if !config.api_root.trim().is_empty() {
        return addresses(&config.api_root)?.into_iter().map(|one| from_api_root(config, one)).collect();
    }
    let Some(path) = &config.kubeconfig else {
        let cluster_ip =
            Config::incluster_env().map_err(|source| Error::InCluster { source: Box::new(source) })?;
        let kept = config.saved_servers.as_deref().map(saved::read).unwrap_or_default();
        return Ok(saved::before(cluster_ip, &kept));
    };
    let broken = |source: KubeconfigError| Error::Kubeconfig { source: Box::new(source) };
    let kubeconfig = Kubeconfig::read_from(path).map_err(broken)?;
    let options = KubeConfigOptions { context: config.context.clone(), ..KubeConfigOptions::default() };
    Ok(vec![Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(broken)?])
}

fn from_api_root(config: &ClientConfig, server: Uri) -> Result<Config> {
    let mut resolved = Config::new(server);
    resolved.accept_invalid_certs = !config.ssl_verify_server_crt;
    resolved.root_cert = match &config.ssl_ca_crt_file {
        Some(path) if config.ssl_verify_server_crt => Some(certificates(path)?),
        // Nothing is checked, so the system's certificates, which may not exist, need not be read.
        _ if !config.ssl_verify_server_crt => Some(Vec::new()),
        _ => None,
    };
    resolved.root_cert_file = config.ssl_ca_crt_file.clone().filter(|_| config.ssl_verify_server_crt);
    resolved.auth_info = identity(config)?;
    Ok(resolved)
}

fn apply_common(config: &ClientConfig, resolved: &mut Config) -> Result<()> {
    resolved.connect_timeout = Some(config.timeouts.connect);
    resolved.write_timeout = Some(config.timeouts.write);
    resolved.read_timeout = Some(config.timeouts.read);
    // Without this the time that a connection sat idle in the pool counts against the next answer.
    resolved.reset_reader_on_write = true;
    resolved.default_retry = false;
    let agent = HeaderValue::from_str(&config.user_agent)
        .map_err(|_| Error::BadUserAgent(config.user_agent.clone()))?;
    resolved.headers.push((USER_AGENT, agent));
    Ok(())
}

/// The addresses in the option, of which each has to be one.
fn addresses(api_root: &str) -> Result<Vec<Uri>> {
    api_root.split(',').map(|one| address(one.trim())).collect()
}

fn address(text: &str) -> Result<Uri> {
    let bad = || Error::BadApiRoot { api_root: text.to_owned() };
    let uri: Uri = text.parse().map_err(|_| bad())?;
    let usable = matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some();
    if usable { Ok(uri) } else { Err(bad()) }
}

fn certificates(path: &Path) -> Result<Vec<Vec<u8>>> {
    let pem = read(path)?;
    let found: Vec<Vec<u8>> =
        CertificateDer::pem_slice_iter(&pem).filter_map(|der| der.ok().map(|der| der.to_vec())).collect();
    if found.is_empty() {
        return Err(Error::BadFile { path: path.to_owned(), expected: "certificate" });
    }
    Ok(found)
}

fn identity(config: &ClientConfig) -> Result<AuthInfo> {
    let mut identity = AuthInfo::default();
    match (&config.ssl_client_crt_file, &config.ssl_client_key_file) {
        (Some(certificate), Some(key)) => {
            // Read here only so that a missing file is named in the error.
            read(certificate).and_then(|_| read(key))?;
            identity.client_certificate = Some(certificate.display().to_string());
            identity.client_key = Some(key.display().to_string());
        }
        (None, None) => {}
        _ => return Err(Error::HalfIdentity),
    }
    identity.token_file = config.token_file.as_ref().map(|path| path.display().to_string());
    Ok(identity)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|source| Error::ReadFile { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_addresses_of_which_each_has_to_be_one() {
        for (api_root, expect) in [
            ("https://192.0.2.1:6443", Ok("https://192.0.2.1:6443/")),
            (" https://[2001:db8::1]:6443 , https://b:1", Ok("https://[2001:db8::1]:6443/ https://b:1/")),
            ("http://localhost:8080/", Ok("http://localhost:8080/")),
            ("192.0.2.1:6443", Err("`192.0.2.1:6443`")),
            ("https://a,ftp://b", Err("`ftp://b`")),
            ("https://a,", Err("``")),
            ("https://", Err("`https://`")),
        ] {
            match (addresses(api_root), expect) {
                (Ok(found), Ok(expect)) => {
                    let found: Vec<String> = found.iter().map(Uri::to_string).collect();
                    assert_eq!(found.join(" "), expect, "{api_root}");
                }
                (Err(error), Err(expect)) => assert!(error.to_string().contains(expect), "{error}"),
                (found, expect) => panic!("{api_root}: {found:?} instead of {expect:?}"),
            }
        }
    }

    #[test]
    fn tells_the_addresses_where_there_are_no_names() {
        for (api_root, expect) in [
            ("https://10.0.0.1:6443", &["10.0.0.1"][..]),
            ("https://[fd00::1]:6443/x,https://b:1,https://10.0.0.2", &["fd00::1", "10.0.0.2"]),
            ("https://[fd00::1]", &["fd00::1"]),
            ("https://api.example.org:6443", &[]),
            ("", &[]),
        ] {
            let config = ClientConfig { api_root: api_root.into(), ..ClientConfig::new("kuryr-test") };
            let found: Vec<String> = config.api_addresses().iter().map(IpAddr::to_string).collect();
            assert_eq!(found, expect, "{api_root}");
        }
    }

    #[tokio::test]
    async fn says_which_part_of_the_configuration_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let empty = folder.path().join("empty");
        std::fs::write(&empty, "").unwrap();
        let missing = folder.path().join("missing");
        let base = ClientConfig { api_root: "https://192.0.2.1".into(), ..ClientConfig::new("kuryr-test") };
        for (config, expect) in [
            (ClientConfig { api_root: "nowhere".into(), ..base.clone() }, "is not the address"),
            (ClientConfig { ssl_ca_crt_file: Some(missing.clone()), ..base.clone() }, "cannot read"),
            (ClientConfig { ssl_ca_crt_file: Some(empty.clone()), ..base.clone() }, "holds no certificate"),
            (ClientConfig { token_file: Some(empty.clone()), ..base.clone() }, "holds no token"),
            (ClientConfig { ssl_client_crt_file: Some(empty), ..base.clone() }, "must be given together"),
            (ClientConfig { user_agent: "a\nb".into(), ..base.clone() }, "cannot be a user agent"),
            (
                ClientConfig { kubeconfig: Some(missing), api_root: String::new(), ..base.clone() },
                "kubeconfig",
            ),
        ] {
            let error = connect(&config).await.err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains(expect), "{error}");
        }
    }

    #[tokio::test]
    async fn builds_a_client_without_calling_anybody() {
        let open = ClientConfig {
            api_root: "https://192.0.2.1".into(),
            ssl_verify_server_crt: false,
            ..ClientConfig::new("kuryr-test")
        };
        connect(&open).await.unwrap();
    }
}

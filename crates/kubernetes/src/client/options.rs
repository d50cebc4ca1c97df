//! How to reach the API server, by the options of `[kubernetes]`.

use std::path::{Path, PathBuf};

use kuryr_conf::{Conf, Error, Opt, options::kubernetes};

use super::{ClientConfig, Timeouts};

/// Where Kubernetes puts the credentials of a pod's service account.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

impl ClientConfig {
    /// Resolves the options for `component`, which signs its requests with its name and version.
    ///
    /// # Errors
    /// An option with a value that cannot be used.
    pub fn resolve(conf: &Conf, component: &str) -> Result<Self, Error> {
        Self::resolve_in(Path::new(SERVICE_ACCOUNT), conf, component)
    }

    fn resolve_in(service_account: &Path, conf: &Conf, component: &str) -> Result<Self, Error> {
        let credential = |option, file| credential(conf, option, &service_account.join(file));
        let (bounds, answer) = (Timeouts::default(), conf.get(&kubernetes::WATCH_READ_TIMEOUT)?);
        Ok(Self {
            timeouts: Timeouts {
                connect: conf.get(&kubernetes::WATCH_CONNECTION_TIMEOUT)?,
                answer,
                // An answer that may take longer must not end in between.
                read: bounds.read.max(answer),
                ..bounds
            },
            api_root: conf.get(&kubernetes::API_ROOT)?,
            kubeconfig: conf.get(&kubernetes::KUBECONFIG)?,
            ssl_ca_crt_file: credential(&kubernetes::SSL_CA_CRT_FILE, "ca.crt")?,
            ssl_verify_server_crt: conf.get(&kubernetes::SSL_VERIFY_SERVER_CRT)?,
            token_file: credential(&kubernetes::TOKEN_FILE, "token")?,
            ssl_client_crt_file: conf.get(&kubernetes::SSL_CLIENT_CRT_FILE)?,
            ssl_client_key_file: conf.get(&kubernetes::SSL_CLIENT_KEY_FILE)?,
            ..Self::new(format!("{component}/{}", env!("CARGO_PKG_VERSION")))
        })
    }
}

/// What `option` says, or what a pod's service account has of it, where `api_root` says who is asked: as upstream's defaults. Over
/// plain HTTP nobody is given a token that was not written.
fn credential(conf: &Conf, option: &Opt<Option<PathBuf>>, default: &Path) -> Result<Option<PathBuf>, Error> {
    let api_root = conf.get(&kubernetes::API_ROOT)?;
    let is_verified = !api_root.trim().is_empty() && !api_root.contains("http://");
    let is_by_default = !conf.is_set(option) && is_verified && default.exists();
    if is_by_default { Ok(Some(default.to_owned())) } else { conf.get(option) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_api_root_a_pod_shows_its_service_account_unless_something_is_written() {
        let account = tempfile::tempdir().unwrap();
        let (token, ca) = (account.path().join("token"), account.path().join("ca.crt"));
        let files = |text: &str| {
            let conf = Conf::from_texts(&[("kuryr.conf", &format!("[kubernetes]\n{text}\n"))]).unwrap();
            let config = ClientConfig::resolve_in(account.path(), &conf, "kuryr-test").unwrap();
            (config.token_file, config.ssl_ca_crt_file)
        };
        assert_eq!(files("api_root = https://a"), (None, None), "there is no service account");
        std::fs::write(&token, "t").unwrap();
        std::fs::write(&ca, "c").unwrap();
        for (text, expect) in [
            ("api_root = https://a", (Some(&token), Some(&ca))),
            ("api_root = https://a,https://b\ntoken_file = ", (None, Some(&ca))),
            ("api_root = https://a\nssl_ca_crt_file = \"\"", (Some(&token), None)),
            ("api_root = https://a,http://b", (None, None)),
            ("", (None, None)),
        ] {
            assert_eq!(files(text), (expect.0.cloned(), expect.1.cloned()), "{text}");
        }
    }

    fn check(text: &str, expect: &ClientConfig) {
        let conf = Conf::from_texts(&[("kuryr.conf", &format!("[kubernetes]\n{text}\n"))]).unwrap();
        assert_eq!(&ClientConfig::resolve(&conf, "kuryr-test").unwrap(), expect, "{text}");
    }

    #[test]
    fn nothing_written_is_the_service_account() {
        let pod = ClientConfig::new(concat!("kuryr-test/", env!("CARGO_PKG_VERSION")));
        check("", &pod);
        check("ssl_verify_server_crt = no", &ClientConfig { ssl_verify_server_crt: false, ..pod.clone() });
        check(
            "api_root = https://a\nssl_ca_crt_file = /b\ntoken_file = /c\nssl_client_crt_file = /d\n\
             ssl_client_key_file = /e\nkubeconfig = /f",
            &ClientConfig {
                api_root: "https://a".into(),
                ssl_ca_crt_file: Some("/b".into()),
                token_file: Some("/c".into()),
                ssl_client_crt_file: Some("/d".into()),
                ssl_client_key_file: Some("/e".into()),
                kubeconfig: Some("/f".into()),
                ..pod.clone()
            },
        );
        let seconds = std::time::Duration::from_secs;
        let (connect, answer, read) = (seconds(7), seconds(300), seconds(300));
        let timeouts = Timeouts { connect, answer, read, ..Timeouts::default() };
        check("watch_connection_timeout = 7\nwatch_read_timeout = 300", &ClientConfig { timeouts, ..pod });
    }
}

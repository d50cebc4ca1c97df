//! How to reach the API server, by the options of `[kubernetes]`.

use kuryr_conf::{Conf, Error, options::kubernetes};

use super::{ClientConfig, Timeouts};

impl ClientConfig {
    /// Resolves the options for `component`, which signs its requests with its name and version.
    ///
    /// # Errors
    /// An option with a value that cannot be used.
    pub fn resolve(conf: &Conf, component: &str) -> Result<Self, Error> {
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
            ssl_ca_crt_file: conf.get(&kubernetes::SSL_CA_CRT_FILE)?,
            ssl_verify_server_crt: conf.get(&kubernetes::SSL_VERIFY_SERVER_CRT)?,
            token_file: conf.get(&kubernetes::TOKEN_FILE)?,
            ssl_client_crt_file: conf.get(&kubernetes::SSL_CLIENT_CRT_FILE)?,
            ssl_client_key_file: conf.get(&kubernetes::SSL_CLIENT_KEY_FILE)?,
            ..Self::new(format!("{component}/{}", env!("CARGO_PKG_VERSION")))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

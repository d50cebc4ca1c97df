//! Addresses of API servers, kept on disk.
//!
//! To a pod the API server is a ClusterIP. On a node that has just booted it leads nowhere until somebody who knows the
//! cluster's Services makes it lead there; who does that himself has to know what it led to before. So those addresses are
//! asked first, and the ClusterIP last, in case that they have all changed.
//!
//! A server is held to the name that it has as a ClusterIP, at its own address, too: its certificate is valid for that name,
//! or nobody in a pod could talk to it.
//!
//! The file has an address with its port in each line and is replaced whole. It is no configuration: what cannot be read of
//! it is passed over.

use std::{
    fs::{self, File},
    io::{self, Write},
    net::SocketAddr,
    path::Path,
};

use http::Uri;
use kube::Config;

use crate::{Error, Result};

/// Keeps these addresses for the next start, in this order.
///
/// # Errors
///
/// `WriteFile`: the former ones are kept.
pub fn save_servers(path: &Path, servers: &[SocketAddr]) -> Result<()> {
    let text: String = servers.iter().map(|server| format!("{server}\n")).collect();
    let beside = path.with_extension("new");
    let written = File::create(&beside).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    let saved = written.and_then(|()| fs::rename(&beside, path));
    saved.map_err(|source| Error::WriteFile { path: path.to_owned(), source })
}

/// The addresses that were kept; none if none were.
pub(super) fn read(path: &Path) -> Vec<SocketAddr> {
    match fs::read_to_string(path) {
        Ok(text) => text.lines().filter_map(|line| line.trim().parse().ok()).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "addresses of API servers that were kept cannot be read");
            Vec::new()
        }
    }
}

/// The servers that are asked: those that were kept, then the ClusterIP.
pub(super) fn before(cluster_ip: Config, kept: &[SocketAddr]) -> Vec<Config> {
    let name = cluster_ip.cluster_url.host().map(|host| host.trim_matches(['[', ']']).to_owned());
    let mut servers = Vec::new();
    for url in kept.iter().filter_map(|server| format!("https://{server}/").parse::<Uri>().ok()) {
        let mut server = cluster_ip.clone();
        server.cluster_url = url;
        server.tls_server_name.clone_from(&name);
        servers.push(server);
    }
    servers.push(cluster_ip);
    servers
}

#[cfg(test)]
mod tests {
    use super::{
        super::{ClientConfig, install_crypto, to_one},
        *,
    };

    #[test]
    fn what_was_saved_is_read_and_what_is_no_address_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api-servers");
        assert_eq!(read(&path), []);
        let servers: Vec<SocketAddr> =
            ["192.0.2.2:6443", "[2001:db8::1]:6443"].map(|text| text.parse().unwrap()).into();
        save_servers(&path, &servers).unwrap();
        assert_eq!(read(&path), servers);
        save_servers(&path, &servers[1..]).unwrap();
        assert_eq!(read(&path), servers[1..]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside");
        fs::write(&path, "garbled\n192.0.2.1\n 192.0.2.1:6443 \n").unwrap();
        assert_eq!(read(&path), ["192.0.2.1:6443".parse().unwrap()]);
        assert_eq!(read(folder.path()), [], "a folder");
        let nowhere = folder.path().join("nowhere/api-servers");
        assert!(save_servers(&nowhere, &servers).unwrap_err().to_string().contains("cannot write"));
    }

    #[tokio::test]
    async fn an_address_is_a_name_that_a_client_can_hold_a_server_to() {
        install_crypto();
        for cluster_ip in ["https://10.96.0.1/", "https://[fd00:96::1]/"] {
            let mut open = Config::new(cluster_ip.parse().unwrap());
            open.accept_invalid_certs = true;
            for server in before(open, &["192.0.2.2:6443".parse().unwrap()]) {
                to_one(&ClientConfig::new("kuryr-test"), server).unwrap();
            }
        }
    }

    #[test]
    fn they_are_asked_before_the_cluster_ip_and_held_to_its_name() {
        for (cluster_ip, name) in
            [("https://10.96.0.1/", "10.96.0.1"), ("https://[fd00:96::1]:8443/", "fd00:96::1")]
        {
            let kept = ["192.0.2.2:6443", "[2001:db8::1]:443"].map(|text| text.parse().unwrap());
            let servers = before(Config::new(cluster_ip.parse().unwrap()), &kept);
            let told: Vec<(String, Option<&str>)> = servers
                .iter()
                .map(|server| (server.cluster_url.to_string(), server.tls_server_name.as_deref()))
                .collect();
            let expect = [
                ("https://192.0.2.2:6443/".to_owned(), Some(name)),
                ("https://[2001:db8::1]:443/".to_owned(), Some(name)),
                (cluster_ip.to_owned(), None),
            ];
            assert_eq!(told, expect);
        }
        let alone = before(Config::new("https://10.96.0.1/".parse().unwrap()), &[]);
        assert_eq!(alone.len(), 1);
    }
}

//! Holds real servers against the recording by which the servers in memory are built; see `e2e/contract`.
//!
//! Who we are is in variables as OpenStack's clients have them, `KUBECONFIG` names the cluster, and the words are the place:
//! network, subnet, external network, host, namespace, and a file for what is recorded now.
#![expect(clippy::print_stdout, reason = "differences are told to whoever runs it")]

use std::{env, error::Error, fs, process::ExitCode};

use kuryr_kubernetes::client::ClientConfig;
use kuryr_openstack::Credentials;
use kuryr_sim::contract::{Place, RECORDED, differences, record_real};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode, Box<dyn Error + Send + Sync>> {
    let words: Vec<String> = env::args().skip(1).collect();
    let [network, subnet, external_network, host, namespace, file] = <[String; 6]>::try_from(words)
        .map_err(|_| "usage: kuryr-contract NETWORK SUBNET EXTERNAL-NETWORK HOST NAMESPACE FILE")?;
    let credentials = Credentials::from_environment(&env::vars().collect())?;
    let kubeconfig = env::var_os("KUBECONFIG").map(Into::into);
    let cluster = ClientConfig { kubeconfig, ..ClientConfig::new("kuryr-contract") };
    let place = Place { network, subnet, external_network, host, namespace };
    let now = record_real(credentials, &cluster, place).await?;
    fs::write(file, format!("{now:#}\n"))?;
    let found = differences(&serde_json::from_str(RECORDED)?, &now);
    found.iter().for_each(|difference| println!("{difference}"));
    println!("{} steps, {} differences", now.as_array().map_or(0, Vec::len), found.len());
    Ok(if found.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

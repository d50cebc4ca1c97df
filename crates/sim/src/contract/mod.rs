//! What the programs rely on in the answers of Neutron, Octavia and the API server: a script of calls, made by the clients
//! that the programs use, whose answers are held against one recording.
//!
//! The recording was made with real servers. `cargo test` runs the script against the clouds in memory, the scenario
//! `e2e/contract` against those of the lab; on either side a difference names the call and the field. What of an answer is
//! recorded is what the programs read ([`fields`]); ids, addresses that the other side chose, versions and times have names
//! instead ([`names`]).
//!
//! Not here: trunks and pairs of addresses, which the cloud in memory does not have.

use std::{error::Error, net::IpAddr, sync::Arc, time::Duration};

use kuryr_kubernetes::client::{ClientConfig, connect};
use kuryr_openstack::{Client, Credentials, HyperTransport, Options, Ownership, Transport};
use kuryr_types::{NetworkId, SubnetId};
use serde_json::Value;
use tokio::time::{Instant, sleep};

// The script, one file for each server.
mod kubernetes;
mod neutron;
mod octavia;
// What is heard of it.
mod recording;
// What of an answer is kept, and how.
mod fields;
mod names;
// Two recordings, side by side.
mod differences;
// The servers in memory.
mod fakes;

pub use differences::differences;
pub use fakes::record_fakes;

use names::Names;
use recording::{Recorder, overhear_kubernetes, overhear_openstack};

/// The recording, of real servers.
pub const RECORDED: &str = include_str!("../../golden/contract.json");

/// The tag that makes what the script makes in the cloud its own.
const TAG: &str = crate::cloud::TAG;
/// Longest time until a change is done.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between looks at whether it is.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What of the servers the script is told: where it may make things. All of it is empty at the beginning.
#[derive(Debug, Clone)]
pub struct Place {
    /// A network of the project, for ports.
    pub network: String,
    /// Its subnet, 10.0.0.0/24, of which Neutron gives addresses from [`FIRST_FREE`] to [`LAST_FREE`].
    pub subnet: String,
    /// An external network that a router leads to.
    pub external_network: String,
    /// A host on which ports can be bound.
    pub host: String,
    /// A namespace, in which there are Probes (`e2e.kuryr.openstack.org/v1`, with status) besides what Kubernetes has.
    pub namespace: String,
}

/// Last byte of the first address that Neutron gives by itself.
pub const FIRST_FREE: u8 = 10;
/// Last byte of the last one.
pub const LAST_FREE: u8 = 17;
/// So many ports the project may have.
pub const PORT_QUOTA: u32 = 25;

/// Why the script did not come to its end.
type Ended = Box<dyn Error + Send + Sync>;

/// Both sides, as the script calls them.
struct Servers {
    openstack: Client,
    owner: Ownership,
    kubernetes: kube::Client,
    place: Place,
    recorder: Recorder,
}

/// Runs the script against real servers, as the project and the cluster that are named, and returns what was recorded.
///
/// # Errors
/// There is no client of one of the servers, or Keystone gives no token.
pub async fn record_real(
    credentials: Credentials,
    cluster: &ClientConfig,
    place: Place,
) -> Result<Value, Ended> {
    let options = Options::default();
    let transport = HyperTransport::new(&credentials.tls, options.connect_timeout)?;
    let client = connect(cluster).await?;
    record(credentials, Arc::new(transport), client, place).await
}

async fn record(
    credentials: Credentials,
    transport: Arc<dyn Transport>,
    client: kube::Client,
    place: Place,
) -> Result<Value, Ended> {
    let recorder = Recorder::default();
    let transport = overhear_openstack(&recorder, transport);
    let openstack = Client::with_transport(credentials, Options::default(), transport);
    let project = openstack.project_id().await?;
    recorder.know(&Names::of_place(&place, project.as_str()));
    let owner = Ownership::new(project, TAG)?;
    let kubernetes = overhear_kubernetes(&recorder, client);
    let servers = Servers { openstack, owner, kubernetes, place, recorder };
    // One after the other, each as far as it comes: a difference in one says nothing of the next.
    servers.chapter("Neutron", neutron::script(&servers)).await;
    servers.chapter("Octavia", octavia::script(&servers)).await;
    servers.chapter("Kubernetes", kubernetes::script(&servers)).await;
    Ok(servers.recorder.recording())
}

impl Servers {
    async fn chapter(&self, of: &'static str, script: impl Future<Output = Result<(), Ended>>) {
        self.recorder.begin(of);
        if let Err(why) = script.await {
            self.recorder.ended(why.as_ref());
        }
    }

    fn network(&self) -> NetworkId {
        self.place.network.as_str().into()
    }

    fn subnet(&self) -> SubnetId {
        self.place.subnet.as_str().into()
    }

    /// Waits until something holds; what is asked meanwhile is not recorded.
    async fn until(
        &self,
        what: &str,
        mut holds: impl AsyncFnMut() -> Result<bool, Ended>,
    ) -> Result<(), Ended> {
        let _unheard = self.recorder.unheard();
        let end = Instant::now() + PATIENCE;
        while !holds().await? {
            if Instant::now() > end {
                return Err(format!("{what}: not within {PATIENCE:?}").into());
            }
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }
}

/// An address of the subnet.
fn address(last: u8) -> IpAddr {
    [10, 0, 0, last].into()
}

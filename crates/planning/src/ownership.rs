//! Names and tags of what Kuryr makes in the cloud, and what of it is ours.
//!
//! Ours is what is in our project *and* carries all our tags. A name proves nothing (everybody may choose
//! it), a tag alone neither: with role `service` Neutron shows the ports of all projects, and a stranger may
//! copy a tag. What passed [`Owner::admit`] carries the proof in its type, [`OurPort`].
//!
//! Among our own resources the name says what a port is for, so that a create whose answer was lost is found
//! again, and so that a port which is going to be deleted is recognised by whoever leads next.
//!
//! Sources: Networking API v2.0, "tags", "ports"; Kuryr-Kubernetes 10.0 `constants.py` (`device_owner`).

use std::{net::IpAddr, ops::Deref};

use kuryr_api::names::{
    NODE_DEVICE_OWNER, PAIR_DEVICE_OWNER, POD_DEVICE_OWNER, SUBPORT_DEVICE_OWNER, TRUNK_SUBPORT_OWNER,
};
use kuryr_types::{MacAddr, NetworkId, PortId, ProjectId, SecurityGroupId, SubnetId};
use sha2::{Digest, Sha256};

/// Longest name in Neutron, in characters.
const NAME_MAX: usize = 255;

/// Characters of the cluster's id in names that people read.
const SHORT_ID: usize = 8;

/// Begin of the tag that names the Service of a floating IP.
pub const SERVICE_TAG: &str = "kuryr-service:";

/// The tag of a floating IP whose Service asks to keep it: of a Service that is gone nothing else tells.
pub const KEPT_TAG: &str = "kuryr-kept";

/// The tag of listeners and pools of a Service on a load balancer that is not its own, by which they are found.
pub const GUEST_TAG: &str = "kuryr-guest";

/// Begin of the tag of a listener that names the timeouts that were asked for.
const TIMEOUTS_TAG: &str = "kuryr-timeouts:";

const CLUSTER_TAG: &str = "kuryr-cluster:";
/// Begin of the tag of a port that names its node, where the name is that of a pod.
const NODE_TAG: &str = "kuryr-node:";

/// Longest tag in Neutron, in characters.
pub(crate) const TAG_MAX: usize = 60;

/// Bytes of a hash that stands for a name that is too long for a tag.
const HASH_BYTES: usize = 16;

const POOL_PORT: &str = "kuryr-pool/";
const OWN_PORT: &str = "kuryr-node/";
const CONDEMNED: &str = "kuryr-condemned/";

/// The tag by which resources of one cluster are told from those of another.
#[must_use]
pub fn cluster_tag(cluster: &str) -> String {
    format!("{CLUSTER_TAG}{cluster}")
}

/// Name of the ports of `node` that serve pods.
#[must_use]
pub fn pool_port_name(node: &str) -> String {
    named(POOL_PORT, node)
}

/// Name of a port that a pod has, where ports are named after pods; upstream's. None where it would tell something else.
#[must_use]
pub fn pod_port_name(namespace: &str, pod: &str) -> Option<String> {
    let name: String = format!("{namespace}/{pod}").chars().take(NAME_MAX).collect();
    let is_ours = [POOL_PORT, OWN_PORT, CONDEMNED].iter().any(|prefix| name.starts_with(prefix));
    (!is_ours).then_some(name)
}

/// The tag of a port of `node` by which it is found again when it is named after a pod.
#[must_use]
pub fn node_tag(node: &str) -> String {
    if NODE_TAG.len() + node.len() <= TAG_MAX {
        return format!("{NODE_TAG}{node}");
    }
    let hash = Sha256::digest(node);
    hash[..HASH_BYTES].iter().fold(NODE_TAG.to_owned(), |tag, byte| format!("{tag}{byte:02x}"))
}

/// Name of the port that belongs to `node` itself.
#[must_use]
pub fn own_port_name(node: &str) -> String {
    named(OWN_PORT, node)
}

/// Name that a port gets before it is deleted, where no node's record can tell that it is doomed. It keeps its
/// former name behind, for people.
#[must_use]
pub fn condemned_name(former: &str) -> String {
    named(CONDEMNED, former)
}

/// Tells whether a port of this name is going to be deleted, and no record spoke for it.
#[must_use]
pub fn is_condemned(name: &str) -> bool {
    name.starts_with(CONDEMNED)
}

/// Name of the cluster's group that allows everything.
#[must_use]
pub fn allow_all_group_name(cluster: &str) -> String {
    let short: String = cluster.chars().take(SHORT_ID).collect();
    format!("kuryr-{short}-allow-all")
}

/// Name of the load balancer of a Service; upstream's.
#[must_use]
pub fn load_balancer_name(namespace: &str, service: &str) -> String {
    format!("{namespace}/{service}")
}

/// Name of a listener and of its pool; upstream's.
#[must_use]
pub fn listener_name(load_balancer: &str, protocol: &str, port: u16) -> String {
    format!("{load_balancer}:{protocol}:{port}")
}

/// Name of the load balancer of the Service that a listener or pool was made for.
#[must_use]
pub fn made_for(listener: &str) -> Option<&str> {
    let (rest, port) = listener.rsplit_once(':')?;
    let (load_balancer, protocol) = rest.rsplit_once(':')?;
    let is_made = load_balancer.contains('/') && !protocol.is_empty() && port.parse::<u16>().is_ok();
    is_made.then_some(load_balancer)
}

/// Name of a member, for people; upstream's, cut to what Octavia takes.
#[must_use]
pub fn member_name(namespace: &str, pod_or_service: &str, port: u16) -> String {
    let tail = format!(":{port}");
    let room = NAME_MAX - tail.len();
    let name: String = format!("{namespace}/{pod_or_service}").chars().take(room).collect();
    name + &tail
}

/// The tag that names the Service of a floating IP: a floating IP that lost its port is found by it.
#[must_use]
pub fn service_tag(uid: &str) -> String {
    format!("{SERVICE_TAG}{uid}")
}

/// The UID of the Service that a tag of a floating IP names.
#[must_use]
pub fn service_of_tag(tag: &str) -> Option<&str> {
    tag.strip_prefix(SERVICE_TAG)
}

/// The tag of a listener by which it is known later which of its timeouts (client data, connect, member data, inspection)
/// were asked for: Octavia does not tell its defaults. None if all are Octavia's own.
#[must_use]
pub fn timeouts_tag(are_asked: [bool; 4]) -> Option<String> {
    let marks: String = are_asked.map(|is_asked| if is_asked { 'x' } else { '-' }).into_iter().collect();
    are_asked.contains(&true).then(|| format!("{TIMEOUTS_TAG}{marks}"))
}

/// Which timeouts of a listener with these tags were asked for.
#[must_use]
pub fn asked_timeouts(tags: &[String]) -> [bool; 4] {
    let marks = tags.iter().find_map(|tag| tag.strip_prefix(TIMEOUTS_TAG)).unwrap_or_default();
    std::array::from_fn(|at| marks.as_bytes().get(at) == Some(&b'x'))
}

fn named(prefix: &str, rest: &str) -> String {
    prefix.chars().chain(rest.chars()).take(NAME_MAX).collect()
}

/// Who we are in the cloud.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    project: ProjectId,
    tags: Vec<String>,
}

/// A port as a list shows it, of whomever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedPort {
    /// Neutron's id.
    pub id: PortId,
    /// Project it is in.
    pub project: ProjectId,
    /// Tags, in any order.
    pub tags: Vec<String>,
    /// Name.
    pub name: String,
    /// `device_owner`.
    pub device_owner: String,
    /// Host it is bound to; `None` if unbound.
    pub host: Option<String>,
    /// Policy hides the host from us: our user has lost role `service`, or never had it.
    pub host_hidden: bool,
    /// Network.
    pub network: NetworkId,
    /// Hardware address.
    pub mac: MacAddr,
    /// Addresses with their subnets.
    pub addresses: Vec<(SubnetId, IpAddr)>,
    /// Security groups, in any order.
    pub security_groups: Vec<SecurityGroupId>,
    /// What Neutron says of it.
    pub condition: PortCondition,
    /// Neutron filters it on a bridge of its own (`ovs_hybrid_plug` in `binding:vif_details`).
    pub hybrid: bool,
}

/// What Neutron says of a port, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortCondition {
    /// `ACTIVE`: some switch has it.
    Active,
    /// Usable, on no switch yet.
    Down,
    /// It is to be bound to a host, and no driver has bound it.
    Unbound,
    /// Binding failed or Neutron gave up.
    Broken,
}

/// A port that is proved to be ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OurPort(ListedPort);

/// What one of our ports is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// Serves pods of a node.
    Pool,
    /// Belongs to a node itself.
    Node,
    /// Is going to be deleted.
    Condemned,
    /// Carries our tags, and nothing that this version makes.
    Unknown,
}

impl Owner {
    /// The owner of what is in `project` and carries all of `tags`.
    ///
    /// # Panics
    /// Without project or without tag: everything would be ours.
    #[must_use]
    pub fn new(project: ProjectId, tags: Vec<String>) -> Self {
        assert!(!project.as_str().is_empty() && !tags.is_empty(), "an owner has a project and a tag");
        Self { project, tags }
    }

    /// Tags of everything we make.
    #[must_use]
    pub fn tags(&self) -> &[String] {
        &self.tags
    }

    /// The tag of the cluster: the first. What has no tags yet is known by it, where it is written elsewhere.
    #[must_use]
    pub fn mark(&self) -> &str {
        &self.tags[0]
    }

    /// The project we make it in.
    #[must_use]
    pub const fn project(&self) -> &ProjectId {
        &self.project
    }

    /// Tells whether tags are all of ours, and maybe others.
    #[must_use]
    pub fn has_marked(&self, tags: &[String]) -> bool {
        self.tags.iter().all(|tag| tags.contains(tag))
    }

    /// Tells whether tags name another cluster than ours.
    #[must_use]
    pub fn is_another_clusters(&self, tags: &[String]) -> bool {
        tags.iter().any(|tag| tag.starts_with(CLUSTER_TAG) && !self.tags.contains(tag))
    }

    /// Proves that `port` is ours, or drops it.
    #[must_use]
    pub fn admit(&self, port: ListedPort) -> Option<OurPort> {
        (port.project == self.project && self.has_marked(&port.tags)).then_some(OurPort(port))
    }
}

impl OurPort {
    /// What the port is for. A device owner that does not fit the name is nothing of ours, except where
    /// Neutron changed it: a trunk takes and clears it.
    #[must_use]
    pub fn purpose(&self) -> Purpose {
        if is_condemned(&self.name) {
            Purpose::Condemned
        } else if self.name.starts_with(OWN_PORT) {
            if self.device_owner == NODE_DEVICE_OWNER { Purpose::Node } else { Purpose::Unknown }
        } else if (self.name.starts_with(POOL_PORT) || self.node_tag().is_some())
            && (self.device_owner == POD_DEVICE_OWNER || self.goes_unbound())
        {
            Purpose::Pool
        } else {
            Purpose::Unknown
        }
    }

    /// Tells whether the port may be put on a trunk, or is on one: it was made for that, or Neutron has set or
    /// cleared its device owner since.
    #[must_use]
    pub fn may_be_subport(&self) -> bool {
        [SUBPORT_DEVICE_OWNER, TRUNK_SUBPORT_OWNER, ""].contains(&self.device_owner.as_str())
    }

    /// Tells whether the port was made for its addresses to be pairs of a server's port.
    #[must_use]
    pub fn is_for_pairs(&self) -> bool {
        self.device_owner == PAIR_DEVICE_OWNER
    }

    /// Tells whether the port is never bound to a host by us. Neutron may show one all the same: that of the trunk, or
    /// of the server that sends under its address.
    #[must_use]
    pub fn goes_unbound(&self) -> bool {
        self.may_be_subport() || self.is_for_pairs()
    }

    /// Tells whether the port was made for `node`.
    #[must_use]
    pub fn is_of_node(&self, node: &str) -> bool {
        match self.purpose() {
            Purpose::Pool if !self.name.starts_with(POOL_PORT) => {
                self.node_tag() == Some(node_tag(node).as_str())
            }
            Purpose::Pool => self.name == pool_port_name(node),
            Purpose::Node => self.name == own_port_name(node),
            Purpose::Condemned => {
                let mut names = [pool_port_name(node), own_port_name(node)].into_iter();
                names.any(|former| self.name == condemned_name(&former))
                    || self.found_by() == node_tag(node).as_str()
            }
            Purpose::Unknown => false,
        }
    }

    /// What the port's node is found by: its name, if it tells that, else the tag that does.
    #[must_use]
    pub fn found_by(&self) -> &str {
        let former = self.name.strip_prefix(CONDEMNED).unwrap_or(&self.name);
        let tells = former.starts_with(POOL_PORT) || former.starts_with(OWN_PORT);
        self.node_tag().filter(|_| !tells).unwrap_or(&self.name)
    }

    fn node_tag(&self) -> Option<&str> {
        self.tags.iter().map(String::as_str).find(|tag| tag.starts_with(NODE_TAG))
    }

    /// Tells whether the port is bound to `host`, as far as we may know: what we cannot see is not taken for changed.
    #[must_use]
    pub fn is_bound_to(&self, host: &str) -> bool {
        self.host_hidden || self.host.as_deref() == Some(host)
    }

    /// The addresses alone.
    pub fn ips(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().map(|(_, address)| *address)
    }
}

impl Deref for OurPort {
    type Target = ListedPort;

    fn deref(&self) -> &ListedPort {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(project: &str, tags: &[&str], name: &str, device_owner: &str) -> ListedPort {
        ListedPort {
            id: "p".into(),
            project: project.into(),
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            name: name.to_owned(),
            device_owner: device_owner.to_owned(),
            host: None,
            host_hidden: false,
            network: "n".into(),
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            addresses: vec![],
            security_groups: vec![],
            condition: PortCondition::Down,
            hybrid: false,
        }
    }

    #[test]
    fn timeouts_that_were_asked_for_are_known_by_a_tag() {
        for are_asked in [[false; 4], [true, false, true, false], [false, false, false, true]] {
            let mut tags = vec!["other".to_owned()];
            tags.extend(timeouts_tag(are_asked));
            assert_eq!(asked_timeouts(&tags), are_asked, "{tags:?}");
        }
        assert_eq!(timeouts_tag([true, false, false, true]).as_deref(), Some("kuryr-timeouts:x--x"));
        assert_eq!(asked_timeouts(&["kuryr-timeouts:".to_owned()]), [false; 4]);
    }

    #[test]
    fn a_listeners_name_tells_whose_it_is() {
        for (name, expect) in [
            (listener_name(&load_balancer_name("d", "web"), "TCP", 80), Some("d/web")),
            ("d/web:80".to_owned(), None),
            ("d/web:TCP:http".to_owned(), None),
            ("d/web::80".to_owned(), None),
            ("a:b:80".to_owned(), None),
            (String::new(), None),
        ] {
            assert_eq!(made_for(&name), expect, "{name}");
        }
    }

    #[test]
    fn ours_is_project_and_all_tags() {
        let owner = Owner::new("k8s".into(), vec![cluster_tag("c1"), "site".to_owned()]);
        for (project, tags, expect) in [
            ("k8s", &["site", "kuryr-cluster:c1", "other"][..], true),
            ("stranger", &["kuryr-cluster:c1", "site"], false),
            ("k8s", &["kuryr-cluster:c1"], false),
            ("k8s", &["kuryr-cluster:c2", "site"], false),
            ("k8s", &[], false),
        ] {
            assert_eq!(owner.admit(port(project, tags, "", "")).is_some(), expect, "{project} {tags:?}");
        }
        for (tags, expect) in [
            (vec!["kuryr-cluster:c1".to_owned()], false),
            (vec!["theirs".to_owned()], false),
            (vec!["site".to_owned(), "kuryr-cluster:c2".to_owned()], true),
        ] {
            assert_eq!(owner.is_another_clusters(&tags), expect, "{tags:?}");
        }
    }

    #[test]
    fn a_host_that_is_hidden_is_not_taken_for_another() {
        let owner = Owner::new("k8s".into(), vec!["t".to_owned()]);
        for (host, host_hidden, expect) in
            [(Some("h"), false, true), (Some("g"), false, false), (None, false, false), (None, true, true)]
        {
            let port = port("k8s", &["t"], "", POD_DEVICE_OWNER);
            let port = ListedPort { host: host.map(str::to_owned), host_hidden, ..port };
            assert_eq!(owner.admit(port).unwrap().is_bound_to("h"), expect, "{host:?} {host_hidden}");
        }
    }

    #[test]
    fn a_port_that_is_named_after_a_pod_is_known_by_its_tag() {
        let owner = Owner::new("k8s".into(), vec!["t".to_owned()]);
        let (pod, tag) = (pod_port_name("ns", "web-0").unwrap(), node_tag("w1"));
        for (name, device_owner, node, expect) in [
            (pod.clone(), POD_DEVICE_OWNER, "w1", (Purpose::Pool, true, tag.clone())),
            (pod.clone(), TRUNK_SUBPORT_OWNER, "w1", (Purpose::Pool, true, tag.clone())),
            (pod.clone(), POD_DEVICE_OWNER, "w2", (Purpose::Pool, false, tag.clone())),
            (pod.clone(), "compute:nova", "w1", (Purpose::Unknown, false, tag.clone())),
            (condemned_name(&pod), POD_DEVICE_OWNER, "w1", (Purpose::Condemned, true, tag.clone())),
            (condemned_name(&pod), POD_DEVICE_OWNER, "w2", (Purpose::Condemned, false, tag.clone())),
            // A name that tells it wins.
            (pool_port_name("w2"), POD_DEVICE_OWNER, "w2", (Purpose::Pool, true, pool_port_name("w2"))),
            (own_port_name("w1"), POD_DEVICE_OWNER, "w1", (Purpose::Unknown, false, own_port_name("w1"))),
        ] {
            let port = owner.admit(port("k8s", &["t", &tag], &name, device_owner)).unwrap();
            assert_eq!(
                (port.purpose(), port.is_of_node(node), port.found_by().to_owned()),
                expect,
                "{name} {node}"
            );
        }
        // Whoever may make namespaces makes nobody believe that a port is something else.
        for namespace in ["kuryr-pool", "kuryr-node", "kuryr-condemned"] {
            assert_eq!(pod_port_name(namespace, "web-0"), None);
        }
        let (one, two) = (node_tag(&"n".repeat(200)), node_tag(&"n".repeat(201)));
        assert!(one != two && one.len() <= TAG_MAX && two.starts_with(NODE_TAG), "{one} {two}");
        assert_eq!(tag, "kuryr-node:w1");
    }

    #[test]
    fn the_name_says_what_a_port_is_for() {
        let owner = Owner::new("k8s".into(), vec!["t".to_owned()]);
        let long = "n".repeat(300);
        for (name, device_owner, node, expect) in [
            (pool_port_name("w1"), POD_DEVICE_OWNER, "w1", (Purpose::Pool, true)),
            (pool_port_name("w1"), POD_DEVICE_OWNER, "w", (Purpose::Pool, false)),
            (own_port_name("w1"), NODE_DEVICE_OWNER, "w1", (Purpose::Node, true)),
            (own_port_name("w1"), "compute:nova", "w1", (Purpose::Unknown, false)),
            (condemned_name(&pool_port_name("w1")), POD_DEVICE_OWNER, "w1", (Purpose::Condemned, true)),
            (condemned_name(&own_port_name("w2")), NODE_DEVICE_OWNER, "w1", (Purpose::Condemned, false)),
            (pool_port_name("w1"), SUBPORT_DEVICE_OWNER, "w1", (Purpose::Pool, true)),
            (pool_port_name("w1"), TRUNK_SUBPORT_OWNER, "w1", (Purpose::Pool, true)),
            (pool_port_name("w1"), PAIR_DEVICE_OWNER, "w1", (Purpose::Pool, true)),
            (pool_port_name("w1"), "", "w1", (Purpose::Pool, true)),
            (pool_port_name("w1"), "network:dhcp", "w1", (Purpose::Unknown, false)),
            ("web".to_owned(), POD_DEVICE_OWNER, "w1", (Purpose::Unknown, false)),
            ("ns/web-0".to_owned(), POD_DEVICE_OWNER, "w1", (Purpose::Unknown, false)),
            (pool_port_name(&long), POD_DEVICE_OWNER, &long, (Purpose::Pool, true)),
        ] {
            let port = owner.admit(port("k8s", &["t"], &name, device_owner)).unwrap();
            assert_eq!((port.purpose(), port.is_of_node(node)), expect, "{name}");
            assert!(port.name.len() <= NAME_MAX);
        }
    }
}

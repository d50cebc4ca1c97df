//! Names that other programs look for: labels, annotations, finalizers, device owners, paths.
//!
//! Source: Kuryr-Kubernetes 10.0, `constants.py`; what is new here says so.

/// Label of a `KuryrPort` with the node its pod runs on; old daemons watch by it.
pub const NODE_NAME_LABEL: &str = "kuryr.openstack.org/nodeName";

/// Finalizer that upstream's controller put on pods. Never added; nothing takes it off by itself yet.
pub const POD_FINALIZER: &str = "kuryr.openstack.org/pod-finalizer";

/// Finalizer that upstream's controller put on `KuryrPort`s. Recognised and removed, never added.
pub const KURYRPORT_FINALIZER: &str = "kuryr.openstack.org/kuryrport-finalizer";

/// Finalizer that upstream's controller put on `KuryrLoadBalancer`s. Recognised and removed, never added.
pub const KURYRLOADBALANCER_FINALIZER: &str = "kuryr.openstack.org/kuryrloadbalancer-finalizers";

/// Finalizer of Services that have a load balancer; upstream's.
pub const SERVICE_FINALIZER: &str = "kuryr.openstack.org/service-finalizer";

/// Annotation of a Service by which a release of upstream's before Victoria marked its load balancer; such a Service is
/// left alone.
pub const LBAAS_SPEC_ANNOTATION: &str = "openstack.org/kuryr-lbaas-spec";

/// Annotation of a Service or a namespace that says who serves ClusterIPs, with the words of `[kubernetes] service_mode`; new
/// here.
pub const SERVICE_MODE_ANNOTATION: &str = "openstack.org/kuryr-service-mode";

/// `spec.loadBalancerClass` of Services that are Kuryr's, besides those that name no class; new here.
pub const LOAD_BALANCER_CLASS: &str = "openstack.org/kuryr";

/// Begin of the description of floating IPs that were made for Services; all of it where upstream made them.
pub const FLOATING_IP_DESCRIPTION: &str = "kuryr_lb";

/// `device_owner` of pod ports in Neutron.
pub const POD_DEVICE_OWNER: &str = "compute:kuryr";

/// `device_owner` of the port that belongs to a node itself; new here. Not upstream's, so that no tool takes
/// the port for a pod's.
pub const NODE_DEVICE_OWNER: &str = "kuryr:node";

/// `device_owner` of pod ports that are made to be subports, until Neutron puts its own there; new here. Not
/// upstream's: a project's member without role `service` may not delete ports of `compute:`.
pub const SUBPORT_DEVICE_OWNER: &str = "kuryr:subport";

/// `device_owner` of pod ports whose addresses are address pairs of a server's port (mode `nested-macvlan`); new here.
/// Upstream's `compute:kuryr` could not be deleted again by such a member.
pub const PAIR_DEVICE_OWNER: &str = "kuryr:pair";

/// `device_owner` that Neutron gives a port while it is on a trunk; taking it off clears it.
pub const TRUNK_SUBPORT_OWNER: &str = "trunk:subport";

/// Label of a Node that says how ports reach it, with the words of `spec.mode`; new here.
pub const MODE_LABEL: &str = "kuryr.openstack.org/mode";

/// Annotation of the leader's Lease with the epoch it writes under; new here.
pub const EPOCH_ANNOTATION: &str = "kuryr.openstack.org/epoch";

/// Annotation by which the kubelet marks the mirror object of a static pod with the identity of that pod.
///
/// Source: Kubernetes, well-known annotations, `kubernetes.io/config.hash`.
pub const STATIC_POD_HASH_ANNOTATION: &str = "kubernetes.io/config.hash";

/// Name under which a pod's first interface stands in `KuryrPort.status.vifs`, whatever the runtime calls it.
pub const PRIMARY_INTERFACE: &str = "eth0";

/// Integration bridge of Open vSwitch where nothing else is configured.
pub const DEFAULT_BRIDGE: &str = "br-int";

/// Where the agent listens for the CNI binary.
pub const AGENT_SOCKET: &str = "/run/kuryr/agent.sock";

/// File name of the CNI configuration list the agent writes; upstream's.
pub const CNI_CONFLIST: &str = "10-kuryr.conflist";

/// Name of the CNI binary in the runtime's plugin directory; upstream's.
pub const CNI_PLUGIN: &str = "kuryr-cni";

/// Longest interface name in bytes (`IFNAMSIZ` without the terminating zero).
pub const INTERFACE_NAME_MAX: usize = 15;

/// Upstream cuts `tap` and the port id to this many characters.
const TAP_NAME_LENGTH: usize = 14;

/// Names the end of a port's uplink that is plugged on the integration bridge: `tap` and the start of the
/// port id, as Nova and upstream Kuryr name it, so that operators and `ovs-vsctl` find it.
#[must_use]
pub fn tap_name(port_id: &str) -> String {
    prefixed("tap", port_id, TAP_NAME_LENGTH)
}

/// Names the bridge between a port's tap and the integration bridge, as Nova names it (`ovs_hybrid_plug`).
#[must_use]
pub fn hybrid_bridge_name(port_id: &str) -> String {
    prefixed("qbr", port_id, TAP_NAME_LENGTH)
}

/// Names the end on that bridge of the link by which it reaches the integration bridge.
#[must_use]
pub fn hybrid_inner_name(port_id: &str) -> String {
    prefixed("qvb", port_id, TAP_NAME_LENGTH)
}

/// Names the other end of that link, which is plugged on the integration bridge in the place of the tap.
#[must_use]
pub fn hybrid_outer_name(port_id: &str) -> String {
    prefixed("qvo", port_id, TAP_NAME_LENGTH)
}

/// Names the prepared other end of a port's uplink, which waits in the node's namespace.
#[must_use]
pub fn uplink_name(port_id: &str) -> String {
    prefixed("kru", port_id, TAP_NAME_LENGTH)
}

/// Names the node's end of a pod's link. Made from the port's id: a port belongs to one pod at a time.
#[must_use]
pub fn host_end_name(port_id: &str) -> String {
    prefixed("krp", port_id, TAP_NAME_LENGTH)
}

/// Names the node's own interface on the pods' network.
pub const NODE_INTERFACE: &str = "kuryr0";

fn prefixed(prefix: &str, id: &str, length: usize) -> String {
    prefix.chars().chain(id.chars()).take(length).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_names_fit_the_kernel_and_match_upstream() {
        let id = "c4e1a7d2-90b3-4f6c-8d15-3b2a1f0e9d8c";
        assert_eq!(tap_name(id), "tapc4e1a7d2-90");
        let hybrid = [hybrid_bridge_name(id), hybrid_inner_name(id), hybrid_outer_name(id)];
        assert_eq!(hybrid, ["qbrc4e1a7d2-90", "qvbc4e1a7d2-90", "qvoc4e1a7d2-90"]);
        for name in [tap_name(id), uplink_name(id), host_end_name(id)].iter().chain(&hybrid) {
            assert!(name.len() <= INTERFACE_NAME_MAX, "{name}");
        }
    }

    #[test]
    fn upstreams_objects_have_these_finalizers() {
        for (golden, finalizer) in [
            (include_str!("../golden/upstream-pod.json"), POD_FINALIZER),
            (include_str!("../golden/upstream-service.json"), SERVICE_FINALIZER),
            (include_str!("../golden/kuryrport-active.json"), KURYRPORT_FINALIZER),
            (include_str!("../golden/kuryrloadbalancer-created.json"), KURYRLOADBALANCER_FINALIZER),
        ] {
            let object: serde_json::Value = serde_json::from_str(golden).unwrap();
            assert_eq!(object["metadata"]["finalizers"], serde_json::json!([finalizer]), "{object}");
        }
    }
}

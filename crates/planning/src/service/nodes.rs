//! The addresses of nodes, at each of which a port of nodes (`NodePort`) is reached.
//!
//! They are those of `Node.status.addresses`, internal and external. kube-proxy serves ports of nodes at addresses of its
//! own node only and leaves the rest to the wire; at a socket nothing would bring the client back, so those of other
//! nodes are in the table, too.
//!
//! Loopback addresses are there for pods' ports on the node (`hostPort`), not for ports of nodes.
//!
//! Sources: kube-proxy 1.36, `pkg/proxy/nftables` (`nodeport-ips`); the CNI plugin `portmap`.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::{
    inputs::Cluster,
    tables::{Step, Tables},
};

/// Whose an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeKind {
    /// Another node's.
    Other,
    /// This node's.
    Own,
    /// The loopback address: of this node, for those who are in its network.
    Loopback,
}

/// Tells whose addresses are; what two nodes have is this node's, if one of them is this one.
#[must_use]
pub fn kinds(cluster: &Cluster, own: &str) -> BTreeMap<IpAddr, NodeKind> {
    let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
    let mut kinds: BTreeMap<_, _> = loopback.map(|address| (address, NodeKind::Loopback)).into();
    for (name, addresses) in &cluster.nodes {
        for address in addresses.iter().filter(|address| !address.is_loopback()) {
            if name == own {
                kinds.insert(*address, NodeKind::Own);
            } else {
                kinds.entry(*address).or_insert(NodeKind::Other);
            }
        }
    }
    kinds
}

/// Plans what has to be written; to be noted by [`Tables::note_nodes`].
#[must_use]
pub fn diff(tables: &Tables, wanted: &BTreeMap<IpAddr, NodeKind>) -> Vec<Step> {
    let put = wanted.iter().filter(|(address, kind)| tables.nodes().get(address) != Some(kind));
    let gone = tables.nodes().keys().filter(|address| !wanted.contains_key(address));
    gone.map(|address| Step::DeleteNode(*address))
        .chain(put.map(|(address, kind)| Step::PutNode(*address, *kind)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(nodes: &[(&str, &[&str])]) -> Cluster {
        let node = |(name, addresses): &(&str, &[&str])| {
            ((*name).to_owned(), addresses.iter().map(|address| address.parse().unwrap()).collect())
        };
        Cluster { nodes: nodes.iter().map(node).collect(), ..Cluster::default() }
    }

    #[test]
    fn own_and_other_addresses_follow_the_nodes() {
        let mut tables = Tables::default();
        let mut check = |nodes: &[(&str, &[&str])], expect: &[&str]| {
            let wanted = kinds(&cluster(nodes), "n1");
            let steps = diff(&tables, &wanted);
            let told: Vec<String> = steps
                .iter()
                .map(|step| match step {
                    Step::PutNode(address, kind) => format!("+{address} {kind:?}"),
                    Step::DeleteNode(address) => format!("-{address}"),
                    other => panic!("{other:?}"),
                })
                .collect();
            assert_eq!(told, expect);
            tables.note_nodes(wanted.clone());
            assert_eq!(diff(&tables, &wanted), []);
        };
        check(
            &[("n1", &["10.0.0.1", "fd00::1"]), ("n2", &["10.0.0.2"])],
            &["+10.0.0.1 Own", "+10.0.0.2 Other", "+127.0.0.1 Loopback", "+::1 Loopback", "+fd00::1 Own"],
        );
        check(&[("n1", &["10.0.0.1"]), ("n2", &["10.0.0.3"])], &["-10.0.0.2", "-fd00::1", "+10.0.0.3 Other"]);
        check(&[("n1", &["10.0.0.3", "127.0.0.1"])], &["-10.0.0.1", "+10.0.0.3 Own"]);
        check(&[("a", &["10.0.0.3"]), ("n1", &["10.0.0.3"]), ("z", &["10.0.0.3"])], &[]);
    }
}

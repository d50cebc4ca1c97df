//! What is left over, in both directions, for people who want to see it before it is collected.
//!
//! 1. Ours without an owner: a port that no record speaks for, a record whose Node is gone.
//! 2. An owner without ours: an entry of a record whose port does not exist.
//!
//! Nothing is decided here. Ports are collected by [`super::orphans`], a node's by the plan of that node.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use kuryr_api::kuryrnode::KuryrNodeSpec;
use kuryr_types::PortId;

use super::orphans;
use crate::ownership::{OurPort, Purpose};

/// Something that is left over.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Garbage {
    /// A port that no record speaks for.
    Port {
        /// The port.
        id: PortId,
        /// Its name.
        name: String,
        /// It has the name of one that is going to be deleted.
        condemned: bool,
    },
    /// A record whose Node is gone.
    Record {
        /// Name of both.
        node: String,
        /// Ports that it names.
        ports: usize,
    },
    /// An entry of a record whose port does not exist, and which is not on its way out already.
    Entry {
        /// Name of the record.
        node: String,
        /// The port.
        id: PortId,
    },
}

impl Garbage {
    /// All kinds, in words for metrics.
    pub const KINDS: [&'static str; 3] = ["port", "record", "entry"];

    /// The kind, one of [`Garbage::KINDS`].
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Port { .. } => Self::KINDS[0],
            Self::Record { .. } => Self::KINDS[1],
            Self::Entry { .. } => Self::KINDS[2],
        }
    }
}

impl fmt::Display for Garbage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port { id, name, condemned: false } => {
                write!(
                    f,
                    "port {id} ({name}): no KuryrNode speaks for it; it will be condemned, cut off and deleted"
                )
            }
            Self::Port { id, name, condemned: true } => {
                write!(f, "port {id} ({name}): it is condemned, and deleted when its addresses have rested")
            }
            Self::Record { node, ports } => {
                write!(
                    f,
                    "KuryrNode {node}: there is no such Node; its ports ({ports}) will be cut off and deleted, then it"
                )
            }
            Self::Entry { node, id } => {
                write!(
                    f,
                    "KuryrNode {node}: its port {id} does not exist; it is forgotten when no sandbox has it"
                )
            }
        }
    }
}

/// What is left over of our `ports`, all of them, and of `records`, while there are these `nodes`.
#[must_use]
pub fn find(
    ports: &[OurPort],
    records: &BTreeMap<&str, &KuryrNodeSpec>,
    nodes: &BTreeSet<&str>,
) -> Vec<Garbage> {
    let left = orphans::orphans(ports, records).into_iter().map(|port| Garbage::Port {
        id: port.id.clone(),
        name: port.name.clone(),
        condemned: port.purpose() == Purpose::Condemned,
    });
    let gone = records.iter().filter(|(node, _)| !nodes.contains(*node));
    let gone = gone.map(|(node, spec)| Garbage::Record {
        node: (*node).to_owned(),
        ports: spec.ports.len() + usize::from(spec.own_port.is_some()),
    });
    let there: BTreeSet<&PortId> = ports.iter().map(|port| &port.id).collect();
    let entries = records.iter().flat_map(|(node, spec)| {
        let stay = spec.ports.iter().filter(|(_, entry)| !entry.doomed).map(|(id, _)| id);
        stay.chain(spec.own_port.as_ref().map(|own| &own.id)).map(move |id| (*node, id))
    });
    let lost = entries.filter(|(_, id)| !there.contains(*id));
    let lost = lost.map(|(node, id)| Garbage::Entry { node: node.to_owned(), id: id.clone() });
    left.chain(gone).chain(lost).collect()
}

#[cfg(test)]
mod tests {
    use super::super::fixtures;
    use super::*;
    use crate::ownership::{condemned_name, pool_port_name};
    use kuryr_types::Generation;

    #[test]
    fn what_has_no_owner_and_whose_owner_has_nothing() {
        let entry = fixtures::entry(Generation { epoch: 1, counter: 1 });
        let with = |ids: &[&str]| KuryrNodeSpec {
            ports: ids.iter().map(|id| ((*id).into(), entry.clone())).collect(),
            ..KuryrNodeSpec::default()
        };
        let (mut here, away) = (with(&["used", "lost", "deleted"]), with(&["cut"]));
        here.ports.get_mut("deleted").unwrap().doomed = true;
        let records = BTreeMap::from([("w1", &here), ("w2", &away)]);
        let ports = [
            fixtures::port("used", &pool_port_name("w1"), Some("h")),
            fixtures::port("new", &pool_port_name("w1"), Some("h")),
            fixtures::port("cut", &pool_port_name("w2"), None),
            fixtures::port("orphan", &pool_port_name("w9"), Some("h")),
            fixtures::port("condemned", &condemned_name(&pool_port_name("w9")), None),
            fixtures::port("other", "of-another-version", None),
        ];
        let found = find(&ports, &records, &["w1", "w3"].into());
        let port = |id: &str, name: String, condemned| Garbage::Port { id: id.into(), name, condemned };
        assert_eq!(
            found,
            [
                port("orphan", pool_port_name("w9"), false),
                port("condemned", condemned_name(&pool_port_name("w9")), true),
                Garbage::Record { node: "w2".into(), ports: 1 },
                Garbage::Entry { node: "w1".into(), id: "lost".into() },
            ]
        );
        for one in &found {
            assert!(Garbage::KINDS.contains(&one.kind()), "{one}");
        }
        assert_eq!(
            find(
                &ports[..3],
                &BTreeMap::from([("w1", &with(&["used"])), ("w2", &away)]),
                &["w1", "w2"].into()
            ),
            []
        );
    }
}

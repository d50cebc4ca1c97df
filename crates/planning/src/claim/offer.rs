//! The controller's record of a node, as far as it is meant for this agent.
//!
//! A record speaks to one Node object and one checkpoint. Another of either means another node of the same name, or an
//! agent that lost its memory: until the controller has seen that, nothing in the record may be begun with.

use kuryr_api::kuryrnode::{KuryrNodeSpec, PortEntry};
use kuryr_types::{Generation, PortId};

use super::ledger::Ledger;

/// Who this agent is to the controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    /// UID of the Node.
    pub node_uid: String,
    /// Id of the checkpoint.
    pub checkpoint: String,
}

/// A record that speaks to this agent.
#[derive(Debug, Clone, Copy)]
pub struct Offer<'a> {
    spec: &'a KuryrNodeSpec,
}

impl<'a> Offer<'a> {
    /// The record as an offer, if it is meant for this agent.
    #[must_use]
    pub fn accept(spec: &'a KuryrNodeSpec, own: &Own) -> Option<Self> {
        let meant = !own.node_uid.is_empty()
            && spec.node_uid == own.node_uid
            && spec.checkpoint.as_deref() == Some(own.checkpoint.as_str());
        meant.then_some(Self { spec })
    }

    /// The record.
    #[must_use]
    pub fn spec(&self) -> &'a KuryrNodeSpec {
        self.spec
    }

    /// Whether somebody deleted this port in Neutron, as far as this offer of it tells.
    #[must_use]
    pub fn has_lost(&self, port: &PortId, generation: Generation) -> bool {
        self.spec.ports.get(port).is_some_and(|entry| entry.lost && entry.generation == generation)
    }

    /// Ports that are the agent's: offered, not wanted back, not returned at their generation.
    pub fn usable(&self, ledger: &Ledger) -> impl Iterator<Item = (&'a PortId, &'a PortEntry)> {
        self.spec.ports.iter().filter(move |(port, entry)| {
            !entry.withdrawn && !entry.doomed && ledger.returned.get(*port) != Some(&entry.generation)
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::attachment::links::tests::{entry, spec};

    /// This agent.
    pub(crate) fn own() -> Own {
        Own { node_uid: "node".into(), checkpoint: "point".into() }
    }

    /// A record for this agent with these ports and generations, all of the default class `plain`.
    pub(crate) fn offered(ports: &[(&str, &str)]) -> KuryrNodeSpec {
        let port = |(id, generation): &(&str, &str)| {
            let mut entry = entry(&[("four", "10.128.6.23")]);
            entry.generation = generation.parse().unwrap();
            (PortId::from(*id), entry)
        };
        KuryrNodeSpec {
            node_uid: "node".into(),
            checkpoint: Some("point".into()),
            default_class: Some("plain".into()),
            ports: ports.iter().map(port).collect(),
            ..spec()
        }
    }

    #[test]
    fn is_meant_for_one_node_and_one_checkpoint() {
        for (node, checkpoint, expect) in [
            ("node", Some("point"), true),
            ("other", Some("point"), false),
            ("node", Some("older"), false),
            ("node", None, false),
        ] {
            let spec = KuryrNodeSpec {
                node_uid: node.into(),
                checkpoint: checkpoint.map(Into::into),
                ..KuryrNodeSpec::default()
            };
            assert_eq!(Offer::accept(&spec, &own()).is_some(), expect, "{node} {checkpoint:?}");
        }
        let unknown = Own { node_uid: String::new(), checkpoint: "point".into() };
        let spec = KuryrNodeSpec { checkpoint: Some("point".into()), ..KuryrNodeSpec::default() };
        assert!(Offer::accept(&spec, &unknown).is_none());
    }
}

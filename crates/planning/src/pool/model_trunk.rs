//! The trunks of the model world: the node's, and another one. Neutron's own rules are kept here: a VLAN id is given
//! once on a trunk, a port is on one trunk, a request is done as a whole or not at all.
//!
//! Source: neutron `services/trunk/plugin.py`, `rules.py`, `drivers/ovn/trunk_driver.py`.

use std::collections::{BTreeMap, BTreeSet};

use kuryr_api::{
    kuryrnode::{KuryrNodeSpec, NodeUplink},
    names::TRUNK_SUBPORT_OWNER,
};
use kuryr_types::{MacAddr, PortId, TrunkId};

use super::trunk::{Attachment, HeldUp, Sight, Trunk, TrunkCondition, Trunks};
use crate::ownership::{ListedPort, PortCondition};

type Ports = BTreeMap<PortId, ListedPort>;

/// Both trunks.
#[derive(Debug, Clone)]
pub(super) struct Segments {
    node: TrunkId,
    made: u32,
    parent_active: bool,
    on: BTreeMap<(TrunkId, u16), PortId>,
    /// Ports that do not become ACTIVE.
    broken: BTreeSet<PortId>,
}

pub(super) fn uplink() -> NodeUplink {
    NodeUplink { name: "eth0".into(), mac: MacAddr([2, 0, 0, 0, 9, 9]) }
}

fn elsewhere() -> TrunkId {
    "elsewhere".into()
}

impl Segments {
    pub(super) fn new() -> Self {
        let (on, broken) = (BTreeMap::new(), BTreeSet::new());
        Self { node: "trunk-0".into(), made: 0, parent_active: true, on, broken }
    }

    /// What a list of all trunks tells.
    pub(super) fn attached(&self) -> BTreeMap<PortId, Attachment> {
        let at = |((trunk, vlan), port): (&(TrunkId, u16), &PortId)| {
            (port.clone(), Attachment { trunk: trunk.clone(), vlan: *vlan })
        };
        self.on.iter().map(at).collect()
    }

    pub(super) fn seen(&self, held_up: BTreeMap<TrunkId, HeldUp>) -> Trunks {
        let mine = self.on.iter().filter(|((trunk, _), _)| *trunk == self.node);
        let trunk = Trunk {
            id: self.node.clone(),
            parent: "parent".into(),
            parent_enabled: true,
            parent_active: self.parent_active,
            enabled: true,
            condition: if self.parent_active { TrunkCondition::Good } else { TrunkCondition::Down },
            subports: mine.map(|((_, vlan), port)| (*vlan, port.clone())).collect(),
        };
        Trunks { node: Sight::Trunk(trunk), attached: self.attached(), held_up }
    }

    pub(super) fn add(&mut self, trunk: &TrunkId, subports: &[(PortId, u16)], ports: &mut Ports) -> bool {
        let is_free = |(id, vlan): &(PortId, u16)| {
            ports.contains_key(id)
                && !self.on.contains_key(&(trunk.clone(), *vlan))
                && self.on.values().all(|other| other != id)
        };
        let distinct: BTreeSet<u16> = subports.iter().map(|(_, vlan)| *vlan).collect();
        if *trunk != self.node || !subports.iter().all(is_free) || distinct.len() < subports.len() {
            return false;
        }
        for (id, vlan) in subports {
            assert_eq!(ports[id].project.as_str(), "k8s", "a stranger's port is put on a trunk");
            self.put_on(id, trunk.clone(), *vlan, ports);
        }
        true
    }

    pub(super) fn remove(&mut self, trunk: &TrunkId, ids: &[PortId], ports: &mut Ports) -> bool {
        let is_on = |id: &PortId| self.on.iter().any(|((on, _), port)| on == trunk && port == id);
        let all = ids.iter().all(is_on);
        if all {
            ids.iter().for_each(|id| self.take_off(id, ports));
        }
        all
    }

    fn put_on(&mut self, id: &PortId, trunk: TrunkId, vlan: u16, ports: &mut Ports) {
        let condition = match self.parent_active && !self.broken.contains(id) {
            true => PortCondition::Active,
            false => PortCondition::Down,
        };
        if let Some(port) = ports.get_mut(id) {
            (port.device_owner, port.condition) = (TRUNK_SUBPORT_OWNER.into(), condition);
        }
        self.on.insert((trunk, vlan), id.clone());
    }

    /// The port does not exist any more.
    pub(super) fn forget(&mut self, id: &PortId) {
        self.on.retain(|_, port| port != id);
    }

    // ---- what others do

    pub(super) fn others_use(&mut self, vlan: u16) {
        let port = format!("foreign-{vlan}").as_str().into();
        self.on.entry((self.node.clone(), vlan)).or_insert(port);
    }

    pub(super) fn others_leave(&mut self, vlan: u16) {
        self.on.retain(|(_, used), port| *used != vlan || !port.as_str().starts_with("foreign"));
    }

    pub(super) fn take_off(&mut self, id: &PortId, ports: &mut Ports) {
        let before = self.on.len();
        self.forget(id);
        if let Some(port) = ports.get_mut(id).filter(|_| self.on.len() < before) {
            (port.device_owner, port.condition) = (String::new(), PortCondition::Down);
        }
    }

    pub(super) fn move_elsewhere(&mut self, id: &PortId, ports: &mut Ports) {
        if self.attached().contains_key(id) {
            self.take_off(id, ports);
            let free = (1..).find(|vlan| !self.on.contains_key(&(elsewhere(), *vlan)));
            self.put_on(id, elsewhere(), free.unwrap(), ports);
        }
    }

    /// Somebody deletes the trunk and makes another for the same parent.
    pub(super) fn make_anew(&mut self, ports: &mut Ports) {
        for id in self.attached().into_keys() {
            self.take_off(&id, ports);
        }
        self.made += 1;
        self.node = format!("trunk-{}", self.made).as_str().into();
    }

    pub(super) fn turn(&mut self, active: bool, ports: &mut Ports) {
        self.parent_active = active;
        let condition = if active { PortCondition::Active } else { PortCondition::Down };
        for id in self.on.values().filter(|id| !self.broken.contains(*id)) {
            if let Some(port) = ports.get_mut(id) {
                port.condition = condition;
            }
        }
    }

    pub(super) fn break_down(&mut self, id: &PortId, ports: &mut Ports) {
        self.broken.insert(id.clone());
        let is_on = self.attached().contains_key(id);
        if let Some(port) = ports.get_mut(id).filter(|_| is_on) {
            port.condition = PortCondition::Down;
        }
    }

    // ---- quiet

    /// The server runs, and no more ports than these have trouble.
    pub(super) fn heal(&mut self, most: usize, ports: &mut Ports) {
        self.broken = self.broken.iter().filter(|id| ports.contains_key(*id)).take(most).cloned().collect();
        self.turn(true, ports);
    }

    pub(super) fn check_settled(&self, spec: &KuryrNodeSpec, ports: &Ports) {
        assert_eq!(spec.trunk.as_ref(), Some(&self.node), "the record names the trunk");
        for (id, entry) in spec.ports.iter().filter(|(id, _)| ports.contains_key(*id)) {
            let at = |vlan| self.on.get(&(self.node.clone(), vlan));
            match entry.vlan.and_then(at) {
                Some(on) if on == id => {}
                // Somebody else was faster, while a pod kept what it had.
                Some(other) => {
                    assert!(other.as_str().starts_with("foreign"), "{id} lost its VLAN id to {other}")
                }
                // Moved away by somebody who is not to be fought with.
                None => {
                    let at = self.attached().remove(id);
                    assert!(at.is_some_and(|at| at.trunk == elsewhere()), "{id} is on the trunk: {entry:?}");
                }
            }
        }
    }
}

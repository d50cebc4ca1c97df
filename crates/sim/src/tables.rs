//! The tables of Services in a node's kernel: each write to one of them is a call.
//!
//! They outlive the agent, and a reboot takes them. Not here: tables of clients outside the node, and sockets.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use kuryr_agent::Forwarder;
use kuryr_datapath::{Outcomes, Result};
use kuryr_planning::service::{
    Backend, Contents, Frontend, Member, NodeKind, Place, ROW, Step, Target, Value,
};

use crate::machine::Reach;

/// What a kernel has of them.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    contents: Contents,
    is_attached: bool,
}

impl Tables {
    /// What a client finds at each frontend; none where a slot is empty.
    pub(crate) fn found(&self) -> BTreeMap<Frontend, Option<BTreeSet<Target>>> {
        let targets = |value: &Value| {
            let backends = self.contents.backends(value);
            backends.map(|backend| backend.map(|backend| backend.target)).collect()
        };
        self.contents.values.iter().map(|(at, value)| (*at, targets(value))).collect()
    }

    /// Whose addresses there are.
    pub(crate) fn nodes(&self) -> &BTreeMap<IpAddr, NodeKind> {
        &self.contents.nodes
    }

    pub(crate) fn is_attached(&self) -> bool {
        self.is_attached
    }

    /// Backends and members that no frontend leads to.
    pub(crate) fn strays(&self) -> usize {
        let Contents { values, rows, members, .. } = &self.contents;
        let count = |id: u32, generation: u32| {
            let same = values.values().filter(|it| (it.id, it.generation) == (id, generation));
            same.map(|it| it.count as usize).max().unwrap_or_default()
        };
        let stray_backends = |(place, row): (&Place, &Vec<Backend>)| {
            let led = count(place.id, place.generation).saturating_sub(place.row as usize * ROW);
            row.len().max(1).saturating_sub(led)
        };
        let is_member = |member: &Member, slot: u32| {
            let value =
                Value { id: member.id, generation: member.generation, count: slot + 1, affinity_seconds: 0 };
            let backend = self.contents.backends(&value).last().flatten();
            (slot as usize) < count(member.id, member.generation)
                && backend.is_some_and(|backend| backend.endpoint == member.endpoint)
        };
        rows.iter().map(stray_backends).sum::<usize>()
            + members.iter().filter(|(member, slot)| !is_member(member, **slot)).count()
    }

    fn write(&mut self, step: Step) {
        let Contents { values, rows, members, nodes } = &mut self.contents;
        match step {
            Step::PutRow(place, row) => drop(rows.insert(place, row)),
            Step::PutMember(member, slot) => drop(members.insert(member, slot)),
            Step::PutValue(frontend, value) => drop(values.insert(frontend, value)),
            Step::DeleteValue(frontend) => drop(values.remove(&frontend)),
            Step::DeleteRow(place) => drop(rows.remove(&place)),
            Step::DeleteMember(member) => drop(members.remove(&member)),
            Step::PutNode(address, kind) => drop(nodes.insert(address, kind)),
            Step::DeleteNode(address) => drop(nodes.remove(&address)),
        }
    }
}

impl Forwarder for Reach {
    fn read(&self) -> Result<Contents> {
        self.look_at("tables", |machine| machine.tables.contents.clone())
    }

    fn write(&self, steps: &[Step]) -> Result<()> {
        for step in steps {
            self.change(&format!("tables {step:?}"), |machine| {
                machine.tables.write(step.clone());
                Ok(())
            })?;
            self.world.judge_tables(&self.node);
        }
        Ok(())
    }

    fn attach(&self) -> Result<()> {
        self.change("attach programs of Services", |machine| {
            machine.tables.is_attached = true;
            Ok(())
        })
    }

    fn answer(&self) -> bool {
        self.look(|machine| machine.tables.is_attached).unwrap_or_default()
    }

    fn tells_refusal(&self) -> bool {
        true
    }

    fn outcomes(&self) -> Result<Outcomes> {
        self.look(|_| Outcomes::default())
    }
}

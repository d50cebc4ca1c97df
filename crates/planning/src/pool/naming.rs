//! What ports are called, where ports are to be named after pods (`[kubernetes] port_debug`).
//!
//! 1. A port that a pod has is called as upstream calls it, `<namespace>/<pod>`; every other has the name of its pool.
//! 2. By that name nobody finds the port's node again, so the port has a tag of its node before.
//! 3. Names wait for quiet: they are for people, and demand is not kept waiting for them.
//! 4. A port that is going to be deleted is not renamed, nor one that is condemned, if by a call that came late: its name says so.

use kuryr_api::kuryrnode::KuryrNodeStatus;

use super::{desired::Draft, step::CloudStep};
use crate::ownership::{Purpose, node_tag, pod_port_name, pool_port_name};

/// Ports that are renamed in one plan; Neutron takes tenths of a second for each.
const RENAMES_AT_ONCE: usize = 8;

impl Draft<'_> {
    /// Ports that are not called what they should be, the first few of them.
    pub(super) fn names(&self, status: &KuryrNodeStatus) -> Vec<CloudStep> {
        let node = self.inputs.node;
        let stay = self.record.spec.ports.iter().filter(|(_, entry)| !entry.doomed);
        let ours = stay.filter_map(|(id, _)| self.ports.get(id)).filter(|port| port.is_of_node(node));
        let ours = ours.filter(|port| port.purpose() != Purpose::Condemned);
        // Those that are held up keep no others waiting.
        let held_up = &self.inputs.cloud.held_up;
        let ours = ours.filter(|port| held_up.get(&port.id).is_none_or(|held| self.inputs.now >= held.until));
        let renames = ours.filter_map(|port| {
            let claim = status.claims.get(&port.id).filter(|_| self.inputs.limits.names_pods);
            let after_pod = claim.and_then(|claim| pod_port_name(&claim.namespace, &claim.name));
            let name = after_pod.unwrap_or_else(|| pool_port_name(node));
            (port.name != name).then(|| CloudStep::Name { id: port.id.clone(), name, tag: node_tag(node) })
        });
        renames.take(RENAMES_AT_ONCE).collect()
    }
}

#[cfg(test)]
mod tests {
    use kuryr_api::kuryrnode::{KuryrNodeSpec, PortEntry};
    use kuryr_types::Generation;

    use super::super::{
        Cloud, Generations, Inputs, Limits, Memory, Record,
        fixtures::{self, claim, entry, status},
        plan,
    };
    use super::*;
    use crate::ownership::{ListedPort, condemned_name};

    /// What is renamed to what, of a port with this name and these tags besides ours, with the claim of a pod.
    fn check(
        names_pods: bool,
        name: &str,
        tags: &[String],
        pod: Option<&str>,
        doomed: bool,
        expect: Option<&str>,
    ) {
        let generation = Generation { epoch: 1, counter: 1 };
        let entry = PortEntry { withdrawn: doomed, doomed, ..entry(generation) };
        let spec = KuryrNodeSpec {
            epoch: 1,
            node_uid: "u".into(),
            ports: [("p".into(), entry)].into(),
            ..KuryrNodeSpec::default()
        };
        let mut status = status("u", "c");
        status.claims.extend(pod.map(|pod| ("p".into(), claim(pod, generation))));
        let listed = fixtures::listed("p", name, Some("h"), [10, 0, 0, 1], fixtures::GROUP);
        let tags = listed.tags.iter().chain(tags).cloned().collect();
        let cloud = Cloud {
            ports: fixtures::owner().admit(ListedPort { tags, ..listed }).map(|port| vec![port]),
            default: Some(fixtures::default_class(fixtures::GROUP)),
            ..Cloud::default()
        };
        let record = Record { spec: &spec, status: Some(&status) };
        let limits = Limits { names_pods, ..fixtures::limits() };
        let inputs = Inputs { now: 1000, limits: &limits, ..fixtures::look(record, &cloud) };
        let plan = plan(&inputs, &mut Memory::default(), &mut Generations::of_epoch(1));
        let renamed = plan.cloud.iter().find_map(|step| match step {
            CloudStep::Name { name, tag, .. } => Some((name.as_str(), tag.as_str())),
            _ => None,
        });
        assert_eq!(
            renamed,
            expect.map(|name| (name, "kuryr-node:w1")),
            "{names_pods} {name} {pod:?} {doomed}"
        );
    }

    #[test]
    fn a_port_is_called_after_its_pod_and_after_its_pool_again() {
        let (pool, tag) = (pool_port_name("w1"), [node_tag("w1")]);
        check(true, &pool, &[], Some("web-0"), false, Some("ns/web-0"));
        check(true, "ns/web-0", &tag, Some("web-0"), false, None);
        check(true, "ns/web-0", &tag, Some("web-1"), false, Some("ns/web-1"));
        check(true, "ns/web-0", &tag, None, false, Some(&pool));
        check(true, &pool, &tag, None, false, None);
        // Where it is not wished any more, and where it never was.
        check(false, "ns/web-0", &tag, Some("web-0"), false, Some(&pool));
        check(false, &pool, &[], Some("web-0"), false, None);
        check(true, &pool, &[], None, true, None);
        check(true, &condemned_name(&pool), &tag, Some("web-0"), false, None);
        check(false, &condemned_name(&pool), &tag, None, false, None);
        // Without the tag it is nobody's: a name alone proves nothing.
        check(true, "ns/web-0", &[], Some("web-0"), false, None);
    }
}

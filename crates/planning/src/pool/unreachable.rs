//! Of a node that nobody hears of: which pods are told why they wait, in the place of their agent.
//!
//! Pods that wait are told by their node's agent, which reads the problems in the record. What keeps a server of the cloud
//! from having ports, a parent port that is down, keeps its agent from the API server, too. So while Kubernetes has lost
//! the node and there is a problem to tell, each pod that waits there is told once for each reason.

use std::collections::BTreeSet;

use kuryr_api::kuryrnode::KuryrNodeStatus;

use super::{desired::Draft, from_kubernetes};

impl Draft<'_> {
    /// Notes which pods are to be told.
    pub(super) fn tell_pods(&mut self, status: &KuryrNodeStatus) {
        let problem = self.out.spec.problems.first().filter(|_| self.inputs.facts.unreachable);
        let Some(problem) = problem.cloned() else { return self.memory.told.clear() };
        let waiting = from_kubernetes::waiting(self.inputs.pods, status);
        self.memory.told.retain(|identity, reason| *reason == problem.reason && waiting.contains(identity));
        let told = &mut self.memory.told;
        let untold: BTreeSet<_> =
            waiting.into_iter().filter(|identity| !told.contains_key(*identity)).collect();
        for identity in untold {
            told.insert(identity.clone(), problem.reason.clone());
            self.out.told.push((identity.clone(), problem.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use kuryr_api::kuryrnode::{KuryrNodeSpec, Problem};
    use kuryr_types::Generation;

    use super::super::{Cloud, Generations, Inputs, Memory, NodeFacts, PodFacts, Record, fixtures, plan};

    #[test]
    fn each_pod_that_waits_is_told_once_for_each_reason_while_nobody_hears_of_its_node() {
        let spec = KuryrNodeSpec {
            node_uid: "u".into(),
            checkpoint: Some("c".into()),
            epoch: 1,
            ..KuryrNodeSpec::default()
        };
        let mut status = fixtures::status("u", "c");
        let claim = fixtures::claim("has-one", Generation { epoch: 1, counter: 1 });
        status.claims.insert("p".into(), claim);
        let on_host = PodFacts { host_network: true, ..fixtures::pod("on-host") };
        let (mut memory, mut generations) = (Memory::default(), Generations::of_epoch(1));
        let mut told = |unreachable, reason: Option<&str>, pods: &[&str]| {
            let problem = |reason: &str| Problem { reason: reason.into(), message: "m".into() };
            let cloud = Cloud { problems: reason.map(problem).into_iter().collect(), ..Cloud::default() };
            let pods = pods.iter().map(|pod| fixtures::pod(pod)).chain([on_host.clone()]);
            let inputs = Inputs {
                now: 1000,
                facts: &NodeFacts { unreachable, ..NodeFacts::default() },
                pods: &pods.collect::<Vec<_>>(),
                ..fixtures::look(Record { spec: &spec, status: Some(&status) }, &cloud)
            };
            let plan = plan(&inputs, &mut memory, &mut generations);
            let names =
                plan.told.iter().map(|(pod, problem)| format!("{}: {}", pod.as_str(), problem.reason));
            names.collect::<Vec<_>>()
        };
        assert_eq!(told(false, Some("Down"), &["a"]), [""; 0], "its agent tells it");
        assert_eq!(told(true, None, &["a"]), [""; 0]);
        assert_eq!(told(true, Some("Down"), &["a", "has-one"]), ["a: Down"]);
        assert_eq!(told(true, Some("Down"), &["a", "b"]), ["b: Down"]);
        assert_eq!(told(true, Some("Down"), &["a", "b"]), [""; 0]);
        assert_eq!(told(true, Some("Gone"), &["a", "b"]), ["a: Gone", "b: Gone"]);
        assert_eq!(told(true, None, &["a", "b"]), [""; 0]);
        assert_eq!(told(true, Some("Gone"), &["b"]), ["b: Gone"], "it was over meanwhile");
    }
}

//! Workloads and their pods, as the forecast takes them.

use std::{collections::BTreeMap, sync::Arc};

use kuryr_kubernetes::{
    index::Index,
    slim::{self, controller_of},
    store::Store,
};
use kuryr_planning::demand::{Needs, Place, Workload, forecast::Controller};

/// Taints of these effects keep pods away.
const KEEPS_AWAY: [&str; 2] = ["NoSchedule", "NoExecute"];

/// Whatever makes pods, and the pods by what made them.
pub(crate) struct Workloads {
    pub(crate) deployments: Store<slim::Deployment>,
    pub(crate) replica_sets: Store<slim::ReplicaSet>,
    pub(crate) stateful_sets: Store<slim::StatefulSet>,
    pub(crate) jobs: Store<slim::Job>,
    /// Pods on the pods' network that have not ended, by UID of their controller.
    pub(crate) pods_by_controller: Index<String, slim::Pod>,
}

/// One look, which the forecast borrows from.
#[derive(Default)]
pub(super) struct Look {
    deployments: Vec<Arc<slim::Deployment>>,
    replica_sets: Vec<Arc<slim::ReplicaSet>>,
    stateful_sets: Vec<Arc<slim::StatefulSet>>,
    jobs: Vec<Arc<slim::Job>>,
    pods: BTreeMap<String, Vec<Arc<slim::Pod>>>,
}

/// The key of a pod in the index: whoever controls it; a pod that nobody controls stands for itself.
pub(crate) fn controllers(pod: &slim::Pod) -> Vec<String> {
    if pod.spec.host_network || pod.has_ended() || pod.is_terminating() {
        return vec![];
    }
    let own = pod.metadata.uid.as_deref().filter(|_| pod.spec.node_name.is_none());
    controller_of(&pod.metadata).or(own).map(str::to_owned).into_iter().collect()
}

/// Nodes as places for pods.
pub(super) fn places(nodes: &[Arc<slim::Node>]) -> Vec<Place<'_>> {
    nodes.iter().map(|node| place(node)).collect()
}

fn place(node: &slim::Node) -> Place<'_> {
    let taints = node.spec.taints.iter().filter(|taint| KEEPS_AWAY.contains(&taint.effect.as_str()));
    Place {
        name: node.name(),
        labels: node.metadata.labels.as_ref(),
        is_cordoned: node.spec.unschedulable,
        taints: taints.map(|taint| taint.key.as_str()).collect(),
    }
}

impl Workloads {
    /// Looks at everything.
    pub(super) fn look(&self) -> Look {
        let keys = self.pods_by_controller.keys();
        Look {
            deployments: self.deployments.list(),
            replica_sets: self.replica_sets.list(),
            stateful_sets: self.stateful_sets.list(),
            jobs: self.jobs.list(),
            pods: keys.into_iter().map(|key| (key.clone(), self.pods_by_controller.get(&key))).collect(),
        }
    }
}

impl Look {
    /// Every workload with what is coming of it.
    pub(super) fn workloads(&self) -> Vec<Workload<'_>> {
        let mut rest: BTreeMap<&str, &[Arc<slim::Pod>]> =
            self.pods.iter().map(|(controller, pods)| (controller.as_str(), pods.as_slice())).collect();
        let mut found = Vec::new();
        let mut sets = self.replica_sets_by_deployment();
        for deployment in &self.deployments {
            let Some(current) = uid(&deployment.metadata).and_then(|uid| sets.remove(uid)) else { continue };
            let pods = take(&mut rest, &current.metadata);
            let controller = Controller::Deployment {
                replicas: slim::count(deployment.spec.replicas),
                current: pods.len(),
                current_wanted: slim::count(current.spec.replicas),
                step: deployment.step(),
                is_halted: deployment.is_halted(),
                is_refused: deployment.is_refused(),
            };
            found.extend(workload(controller, pods, &current.spec.template));
        }
        for set in self.replica_sets.iter().filter(|set| controller_of(&set.metadata).is_none()) {
            let pods = take(&mut rest, &set.metadata);
            let controller = Controller::ReplicaSet {
                replicas: slim::count(set.spec.replicas),
                pods: pods.len(),
                is_refused: set.is_refused(),
            };
            found.extend(workload(controller, pods, &set.spec.template));
        }
        for set in &self.stateful_sets {
            let pods = take(&mut rest, &set.metadata);
            let controller = Controller::StatefulSet {
                replicas: slim::count(set.spec.replicas),
                pods: pods.len(),
                is_parallel: set.spec.pod_management_policy == "Parallel",
            };
            found.extend(workload(controller, pods, &set.spec.template));
        }
        for job in &self.jobs {
            let pods = take(&mut rest, &job.metadata);
            let controller = Controller::Job {
                parallelism: slim::count(job.spec.parallelism),
                completions: job.spec.completions.map(|number| slim::count(Some(number))),
                succeeded: slim::count(Some(job.status.succeeded)),
                pods: pods.len(),
                is_suspended: job.is_at_rest(),
            };
            found.extend(workload(controller, pods, &job.spec.template));
        }
        found.extend(rest.into_values().map(|pods| of_pods(pods, 0, 0)));
        found
    }

    /// The present `ReplicaSet` of each Deployment.
    fn replica_sets_by_deployment(&self) -> BTreeMap<&str, &slim::ReplicaSet> {
        let mut present = BTreeMap::<&str, &slim::ReplicaSet>::new();
        for set in &self.replica_sets {
            let Some(deployment) = controller_of(&set.metadata) else { continue };
            let known = present.entry(deployment).or_insert(set);
            if known.revision() < set.revision() {
                *known = set;
            }
        }
        present
    }
}

fn uid(metadata: &kube::core::ObjectMeta) -> Option<&str> {
    metadata.uid.as_deref()
}

fn take<'a>(
    pods: &mut BTreeMap<&str, &'a [Arc<slim::Pod>]>,
    metadata: &kube::core::ObjectMeta,
) -> &'a [Arc<slim::Pod>] {
    uid(metadata).and_then(|uid| pods.remove(uid)).unwrap_or_default()
}

fn workload<'a>(
    controller: Controller,
    pods: &'a [Arc<slim::Pod>],
    template: &'a slim::Template,
) -> Option<Workload<'a>> {
    if template.spec.host_network {
        return None;
    }
    let tolerates = template.spec.tolerations.iter().map(|toleration| toleration.key.as_deref()).collect();
    let needs = Needs { labels: template.spec.node_selector.as_ref(), tolerates };
    Some(Workload { needs, ..of_pods(pods, controller.ahead(), controller.wave()) })
}

/// Pods that are there, those without a node among them, and those that are not there yet.
fn of_pods(pods: &[Arc<slim::Pod>], ahead: usize, wave: usize) -> Workload<'_> {
    let mut workload = Workload { ahead, wave, ..Workload::default() };
    for pod in pods {
        match pod.spec.node_name.as_deref() {
            Some(node) => *workload.placed.entry(node).or_insert(0) += 1,
            None if pod.status.is_held_back => {}
            None => workload.ahead += 1,
        }
    }
    workload
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read<T: serde::de::DeserializeOwned>(value: Value) -> Arc<T> {
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn metadata(uid: &str, controller: Option<&str>, revision: &str) -> Value {
        let owner =
            |uid| json!({"apiVersion": "v1", "kind": "k", "name": "n", "uid": uid, "controller": true});
        json!({
            "namespace": "d", "name": uid, "uid": uid,
            "annotations": {"deployment.kubernetes.io/revision": revision},
            "ownerReferences": controller.map(owner).into_iter().collect::<Vec<_>>(),
        })
    }

    fn pods(controller: &str, placed: usize, free: usize, held: usize) -> (String, Vec<Arc<slim::Pod>>) {
        let pod = |node: Option<&str>, status: &str| {
            let conditions = json!([{"type": "PodScheduled", "status": status}]);
            read(
                json!({"metadata": metadata("p", Some(controller), ""), "spec": {"nodeName": node}, "status": {"conditions": conditions}}),
            )
        };
        let all = std::iter::repeat_n(pod(Some("n1"), "True"), placed)
            .chain(std::iter::repeat_n(pod(None, "True"), free))
            .chain(std::iter::repeat_n(pod(None, "False"), held));
        (controller.to_owned(), all.collect())
    }

    /// Ahead and wave of each workload.
    fn check(look: &Look, expect: &[(usize, usize)]) {
        let got: Vec<_> = look.workloads().iter().map(|one| (one.ahead, one.wave)).collect();
        assert_eq!(got, expect);
    }

    #[test]
    fn a_rollout_counts_the_pods_of_its_newest_replica_set() {
        let set = |uid, revision, replicas: u32| {
            read(json!({"metadata": metadata(uid, Some("d"), revision), "spec": {"replicas": replicas}}))
        };
        let look = Look {
            deployments: vec![read(json!({"metadata": metadata("d", None, ""), "spec": {"replicas": 60,
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}}}}))],
            replica_sets: vec![set("old", "9", 45), set("new", "10", 30)],
            pods: [pods("old", 60, 0, 0), pods("new", 10, 5, 2)].into(),
            ..Look::default()
        };
        // 60 wanted, 17 there; five of those have no node yet, two never will. Those of the old one go.
        check(&look, &[(43 + 5, 30), (0, 0)]);
    }

    #[test]
    fn pods_that_a_quota_refuses_are_not_coming() {
        let refused = json!({"conditions": [{"type": "ReplicaFailure", "status": "True"}]});
        let mut set =
            json!({"metadata": metadata("r", None, ""), "spec": {"replicas": 4}, "status": refused});
        let alone = read(set.clone());
        set["metadata"] = metadata("s", Some("d"), "1");
        let deployment = read(json!({"metadata": metadata("d", None, ""), "spec": {"replicas": 100_000,
                "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}}, "status": refused}));
        let look = Look {
            deployments: vec![deployment],
            replica_sets: vec![alone, read(set)],
            pods: [pods("s", 3, 0, 0)].into(),
            ..Look::default()
        };
        check(&look, &[(0, 1), (0, 0)]);
    }

    #[test]
    fn every_kind_of_workload_counts() {
        let look = Look {
            replica_sets: vec![read(json!({"metadata": metadata("r", None, ""), "spec": {"replicas": 4}}))],
            stateful_sets: vec![read(
                json!({"metadata": metadata("s", None, ""), "spec": {"replicas": 4, "podManagementPolicy": "OrderedReady"}}),
            )],
            jobs: vec![
                read(
                    json!({"metadata": metadata("j", None, ""), "spec": {"parallelism": 10, "completions": 200}}),
                ),
                read(
                    json!({"metadata": metadata("h", None, ""), "spec": {"parallelism": 10, "completions": 200,
                    "template": {"spec": {"hostNetwork": true}}}}),
                ),
            ],
            pods: [pods("r", 1, 1, 0), pods("j", 4, 2, 0), pods("somebody else", 3, 7, 0)].into(),
            ..Look::default()
        };
        check(&look, &[(2 + 1, 0), (1, 1), (4 + 2, 10), (7, 0)]);
    }

    #[test]
    fn only_pods_that_need_a_port_are_counted() {
        let pod = |spec: Value, phase: &str| -> slim::Pod {
            serde_json::from_value(
                json!({"metadata": metadata("u", None, ""), "spec": spec, "status": {"phase": phase}}),
            )
            .unwrap()
        };
        assert_eq!(controllers(&pod(json!({}), "Pending")), ["u"], "stands for itself");
        assert!(controllers(&pod(json!({"nodeName": "n"}), "Pending")).is_empty(), "counted at its node");
        assert!(controllers(&pod(json!({"hostNetwork": true}), "Pending")).is_empty());
        assert!(controllers(&pod(json!({}), "Failed")).is_empty());
    }
}

//! Pods that are about to come, spread over the nodes that can take them.
//!
//! 1. What is coming is counted per workload: pods that have no node yet, and pods that the workload's controller
//!    still has to make ([`Controller::ahead`]). Pods that exist are counted as they are seen, never by the
//!    `status` of their workload, which is written later than the pods are. Where that says that the API server refuses
//!    more pods (`ReplicaFailure`, as by a quota), no more are coming.
//! 2. They are spread as the scheduler does by default: each goes where the fewest pods of the workload are
//!    (`PodTopologySpread` over host names), among the nodes that are not cordoned, have the labels of the node
//!    selector and no taint that the pod does not tolerate. Affinity, values of tolerations and
//!    resources are not looked at: the result may be too high for a node, never for all together.
//! 3. The *wave* of a workload is what could come at any moment although nothing announces it: the pods that a
//!    rollout replaces at once, the pods that follow those of a Job. Workloads seldom begin at the same time, so a
//!    node reckons with the greatest wave, not with their sum.
//!
//! Sources: Kubernetes documentation, "Deployments" (rolling update, progress deadline), `StatefulSets` (pod management
//! policies), "Jobs" (parallelism), "Pod Topology Spread Constraints" (cluster-level defaults).

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

/// What is coming to one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Coming {
    /// Pods that are known to come.
    pub pods: usize,
    /// Pods that could come at once.
    pub wave: usize,
}

/// A node, as a place for pods.
#[derive(Debug, Clone)]
pub struct Place<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its labels.
    pub labels: Option<&'a BTreeMap<String, String>>,
    /// Whether new pods are kept away.
    pub is_cordoned: bool,
    /// Keys of the taints that keep pods away.
    pub taints: Vec<&'a str>,
}

/// What a pod needs of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Needs<'a> {
    /// Labels the node must have.
    pub labels: Option<&'a BTreeMap<String, String>>,
    /// Keys of the taints it tolerates; `None` among them: all.
    pub tolerates: Vec<Option<&'a str>>,
}

/// Pods that are alike and not all there.
#[derive(Debug, Clone, Default)]
pub struct Workload<'a> {
    /// How many are coming.
    pub ahead: usize,
    /// How many could come at once.
    pub wave: usize,
    /// How many there are, by node.
    pub placed: BTreeMap<&'a str, usize>,
    /// What they need.
    pub needs: Needs<'a>,
}

/// What makes pods, as far as it says how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Controller {
    /// A Deployment.
    Deployment {
        /// Pods wanted.
        replicas: usize,
        /// Pods of the present template that are there.
        current: usize,
        /// Pods that its present `ReplicaSet` wants.
        current_wanted: usize,
        /// Pods that a rollout replaces at once.
        step: usize,
        /// The rollout is paused, or has stopped making progress.
        is_halted: bool,
        /// The API server refuses its pods.
        is_refused: bool,
    },
    /// A `ReplicaSet` without Deployment.
    ReplicaSet {
        /// Pods wanted.
        replicas: usize,
        /// Pods that are there.
        pods: usize,
        /// The API server refuses its pods.
        is_refused: bool,
    },
    /// A `StatefulSet`.
    StatefulSet {
        /// Pods wanted.
        replicas: usize,
        /// Pods that are there.
        pods: usize,
        /// Pods do not wait for each other.
        is_parallel: bool,
    },
    /// A Job.
    Job {
        /// Pods wanted at the same time.
        parallelism: usize,
        /// Pods that have to succeed in all; `None`: one, and then no more are made.
        completions: Option<usize>,
        /// Pods that succeeded.
        succeeded: usize,
        /// Pods that are there and have not ended.
        pods: usize,
        /// No pods are made now.
        is_suspended: bool,
    },
}

impl Controller {
    /// How many pods it is going to make now, one after the other without waiting for anything but pods that get
    /// ready.
    #[must_use]
    pub const fn ahead(&self) -> usize {
        match *self {
            // However many are wanted, a quota may never let them come.
            Self::Deployment { is_refused: true, .. } | Self::ReplicaSet { is_refused: true, .. } => 0,
            Self::Deployment { current, current_wanted, is_halted: true, .. } => {
                current_wanted.saturating_sub(current)
            }
            Self::Deployment { replicas, current, .. } => replicas.saturating_sub(current),
            Self::ReplicaSet { replicas, pods, .. }
            | Self::StatefulSet { replicas, pods, is_parallel: true } => replicas.saturating_sub(pods),
            Self::StatefulSet { replicas, pods, .. } => least(1, replicas.saturating_sub(pods)),
            Self::Job { is_suspended: true, .. } => 0,
            // Once pods of it have ended, the next ones follow as fast.
            Self::Job { pods, succeeded, .. } => {
                let next = if succeeded > 0 { self.next_wave() } else { 0 };
                self.at_once().saturating_sub(pods) + next
            }
        }
    }

    /// How many pods could come at once, unannounced.
    #[must_use]
    pub const fn wave(&self) -> usize {
        match *self {
            Self::Deployment { replicas, step, .. } => least(step, replicas),
            Self::ReplicaSet { .. } => 0,
            Self::StatefulSet { replicas, .. } => least(1, replicas),
            Self::Job { is_suspended: true, .. } => 0,
            Self::Job { .. } => self.next_wave(),
        }
    }

    /// Pods of a Job that follow those that there should be now.
    const fn next_wave(&self) -> usize {
        match *self {
            Self::Job { parallelism, completions: Some(completions), succeeded, pods, .. } => {
                let begun = most(pods, self.at_once());
                least(parallelism, completions.saturating_sub(succeeded).saturating_sub(begun))
            }
            _ => 0,
        }
    }

    /// Pods of a Job that there should be now.
    const fn at_once(&self) -> usize {
        match *self {
            Self::Job { parallelism, completions: Some(completions), succeeded, .. } => {
                least(parallelism, completions.saturating_sub(succeeded))
            }
            Self::Job { parallelism, succeeded: 0, .. } => parallelism,
            _ => 0,
        }
    }
}

const fn least(one: usize, other: usize) -> usize {
    if one < other { one } else { other }
}

const fn most(one: usize, other: usize) -> usize {
    if one < other { other } else { one }
}

/// What is coming, by name of the node; nodes to which nothing comes are left out. Of one workload a node gets at
/// most `cap` pods.
#[must_use]
pub fn forecast(places: &[Place<'_>], workloads: &[Workload<'_>], cap: usize) -> BTreeMap<String, Coming> {
    let mut coming = BTreeMap::<&str, Coming>::new();
    // Nearly every workload has a wave, and most need the same of a node: what they need is looked at once.
    let mut alike = BTreeMap::<&Needs<'_>, Alike<'_>>::new();
    for workload in workloads.iter().filter(|workload| workload.ahead + workload.wave > 0) {
        let alike = alike.entry(&workload.needs).or_insert_with(|| Alike::of(places, &workload.needs));
        alike.wave = alike.wave.max(workload.wave);
        for (name, pods) in spread(workload, &alike.able, cap) {
            coming.entry(name).or_default().pods += pods;
        }
    }
    for Alike { able, wave } in alike.into_values().filter(|alike| alike.wave > 0) {
        let share = wave.div_ceil(able.len().max(1)).min(cap);
        for name in able {
            let node = coming.entry(name).or_default();
            node.wave = node.wave.max(share);
        }
    }
    coming.into_iter().map(|(name, coming)| (name.to_owned(), coming)).collect()
}

/// Workloads that need the same of a node.
struct Alike<'a> {
    /// Nodes that can take their pods.
    able: Vec<&'a str>,
    /// The greatest wave of one of them.
    wave: usize,
}

impl<'a> Alike<'a> {
    fn of(places: &[Place<'a>], needs: &Needs<'_>) -> Self {
        let able = places.iter().filter(|place| place.can_take(needs)).map(|place| place.name);
        Self { able: able.collect(), wave: 0 }
    }
}

/// Gives each pod that is coming to the node with the fewest.
fn spread<'a>(workload: &Workload<'_>, able: &[&'a str], cap: usize) -> BTreeMap<&'a str, usize> {
    if workload.ahead == 0 {
        return BTreeMap::new();
    }
    let placed = |name: &str| workload.placed.get(name).copied().unwrap_or(0);
    let mut fewest: BinaryHeap<_> = able.iter().map(|name| Reverse((placed(name), *name))).collect();
    let mut given = BTreeMap::new();
    for _ in 0..workload.ahead {
        let Some(Reverse((count, name))) = fewest.pop() else { break };
        let pods = given.entry(name).or_insert(0);
        *pods += 1;
        if *pods < cap {
            fewest.push(Reverse((count + 1, name)));
        }
    }
    given
}

impl Place<'_> {
    fn can_take(&self, needs: &Needs<'_>) -> bool {
        let has = |(name, value): (&String, &String)| {
            self.labels.is_some_and(|labels| labels.get(name) == Some(value))
        };
        let tolerated = |taint: &&str| needs.tolerates.iter().any(|key| key.is_none_or(|key| key == *taint));
        !self.is_cordoned
            && needs.labels.is_none_or(|labels| labels.iter().all(has))
            && self.taints.iter().all(tolerated)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn place(name: &str) -> Place<'_> {
        Place { name, labels: None, is_cordoned: false, taints: vec![] }
    }

    fn check(workloads: &[Workload<'_>], places: &[Place<'_>], expect: &[(&str, usize, usize)]) {
        let got = forecast(places, workloads, 50);
        let got: Vec<_> = got.iter().map(|(name, node)| (name.as_str(), node.pods, node.wave)).collect();
        assert_eq!(got, expect, "{workloads:?}");
    }

    #[test]
    fn pods_go_where_the_fewest_are() {
        let two = [place("a"), place("b")];
        let workload = |ahead, wave, placed: &[(&'static str, usize)]| Workload {
            ahead,
            wave,
            placed: placed.iter().copied().collect(),
            needs: Needs::default(),
        };
        check(&[workload(30, 0, &[])], &two, &[("a", 15, 0), ("b", 15, 0)]);
        check(&[workload(12, 0, &[("a", 10), ("b", 8)])], &two, &[("a", 5, 0), ("b", 7, 0)]);
        check(&[workload(2, 0, &[("a", 10), ("b", 8)])], &two, &[("b", 2, 0)]);
        check(&[workload(1, 0, &[])], &[], &[]);
        check(&[workload(200, 0, &[])], &two, &[("a", 50, 0), ("b", 50, 0)]);
        // What comes adds up; what could come does not.
        check(&[workload(4, 9, &[]), workload(2, 4, &[])], &two, &[("a", 3, 5), ("b", 3, 5)]);
        check(&[workload(0, 0, &[("a", 3)])], &two, &[]);
    }

    #[test]
    fn only_nodes_that_can_take_them() {
        let labels = BTreeMap::from([("disk".to_owned(), "ssd".to_owned())]);
        let places = [
            Place { labels: Some(&labels), ..place("a") },
            Place { labels: Some(&labels), taints: vec!["gpu"], ..place("b") },
            Place { labels: Some(&labels), is_cordoned: true, ..place("c") },
            place("d"),
        ];
        let workload = |labels, tolerates: &[Option<&'static str>]| Workload {
            ahead: 4,
            needs: Needs { labels, tolerates: tolerates.to_vec() },
            ..Workload::default()
        };
        check(&[workload(None, &[])], &places, &[("a", 2, 0), ("d", 2, 0)]);
        check(&[workload(Some(&labels), &[])], &places, &[("a", 4, 0)]);
        check(&[workload(Some(&labels), &[Some("gpu")])], &places, &[("a", 2, 0), ("b", 2, 0)]);
        check(&[workload(Some(&labels), &[None])], &places, &[("a", 2, 0), ("b", 2, 0)]);
    }

    #[test]
    fn controllers_say_what_they_are_going_to_make() {
        let deployment = |replicas, current, current_wanted, is_halted| Controller::Deployment {
            replicas,
            current,
            current_wanted,
            step: 30,
            is_halted,
            is_refused: false,
        };
        let replica_set = |is_refused| Controller::ReplicaSet { replicas: 5, pods: 2, is_refused };
        let set = |replicas, pods, is_parallel| Controller::StatefulSet { replicas, pods, is_parallel };
        let job = |completions, succeeded, pods, is_suspended| Controller::Job {
            parallelism: 20,
            completions,
            succeeded,
            pods,
            is_suspended,
        };
        for (controller, ahead, wave) in [
            // A rollout has begun, is half done, is done; it has stopped.
            (deployment(60, 0, 30, false), 60, 30),
            (deployment(60, 35, 35, false), 25, 30),
            (deployment(60, 60, 60, false), 0, 30),
            (deployment(60, 28, 30, true), 2, 30),
            // Scaled up; scaled down.
            (deployment(8, 3, 3, false), 5, 8),
            (deployment(2, 3, 3, false), 0, 2),
            (replica_set(false), 3, 0),
            (replica_set(true), 0, 0),
            (set(5, 2, false), 1, 1),
            (set(5, 2, true), 3, 1),
            (set(5, 5, false), 0, 1),
            (job(Some(200), 0, 0, false), 20, 20),
            (job(Some(200), 40, 18, false), 2 + 20, 20),
            (job(Some(200), 170, 20, false), 10, 10),
            (job(Some(200), 190, 10, false), 0, 0),
            (job(None, 0, 5, false), 15, 0),
            (job(None, 1, 5, false), 0, 0),
            (job(Some(200), 0, 0, true), 0, 0),
        ] {
            assert_eq!((controller.ahead(), controller.wave()), (ahead, wave), "{controller:?}");
        }
    }

    proptest! {
        #[test]
        fn every_pod_goes_to_one_node_and_evenly(
            placed in proptest::collection::vec(0..20usize, 1..8),
            ahead in 0..200usize,
            wave in 0..50usize,
        ) {
            let names: Vec<String> = (0..placed.len()).map(|number| format!("n{number}")).collect();
            let places: Vec<_> = names.iter().map(|name| place(name)).collect();
            let placed: BTreeMap<&str, usize> = names.iter().map(String::as_str).zip(placed).collect();
            let workload = Workload { ahead, wave, placed: placed.clone(), needs: Needs::default() };
            let got = forecast(&places, &[workload], 1000);
            prop_assert_eq!(got.values().map(|node| node.pods).sum::<usize>(), ahead);
            let total = |name: &str| placed[name] + got.get(name).map_or(0, |node| node.pods);
            let highest_filled = got.iter().filter(|(_, node)| node.pods > 0).map(|(name, _)| total(name)).max();
            let lowest = names.iter().map(|name| total(name)).min().unwrap();
            prop_assert!(highest_filled.is_none_or(|highest| highest <= lowest + 1));
            prop_assert!(got.values().all(|node| node.wave * names.len() < wave + names.len()));
        }

        #[test]
        fn workloads_count_together_as_each_by_itself(
            of in proptest::collection::vec((0..9usize, 0..9usize, 0..3usize, 0..4usize), 0..8),
        ) {
            let label = |value: &str| BTreeMap::from([("disk".to_owned(), value.to_owned())]);
            let (ssd, none_has) = (label("ssd"), label("tape"));
            let places = [
                Place { labels: Some(&ssd), ..place("a") },
                Place { labels: Some(&ssd), taints: vec!["gpu"], ..place("b") },
                place("c"),
            ];
            let workload = |&(ahead, wave, placed, needs): &(usize, usize, usize, usize)| Workload {
                ahead,
                wave,
                placed: [("a", placed)].into(),
                needs: Needs {
                    labels: [None, Some(&ssd), Some(&none_has), None][needs],
                    tolerates: if needs == 3 { vec![Some("gpu")] } else { vec![] },
                },
            };
            let workloads: Vec<_> = of.iter().map(workload).collect();
            let mut expect = BTreeMap::<String, Coming>::new();
            for one in workloads.iter().flat_map(|one| forecast(&places, std::slice::from_ref(one), 50)) {
                let node = expect.entry(one.0).or_default();
                (node.pods, node.wave) = (node.pods + one.1.pods, node.wave.max(one.1.wave));
            }
            prop_assert_eq!(forecast(&places, &workloads, 50), expect);
        }
    }
}

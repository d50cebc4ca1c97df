//! What people are told: an Event on the record when problems begin, and when the last one is over.
//!
//! Pods that wait are told by the agent of their node, which reads the problems in the record. Of an agent that is cut
//! off, the controller takes the place.

use kuryr_api::kuryrnode::Problem;
use kuryr_kubernetes::event::reference;
use kuryr_planning::pool::SpecStep;
use kuryr_types::PodIdentity;

use super::observe::Look;
use crate::wiring::World;

/// Tells about a change of problems, if the plan has one.
pub(super) fn tell(look: &Look, steps: &[SpecStep], world: &World) {
    let Some(record) = &look.record else { return };
    let problems = steps.iter().find_map(|step| match step {
        SpecStep::SetProblems(problems) => Some(problems),
        _ => None,
    });
    let Some(problems) = problems else { return };
    let about = reference(record.as_ref());
    if problems.is_empty() {
        world.events.normal(&about, "PortsProvided", "ports are provided again");
    }
    for problem in problems.iter().filter(|problem| !record.spec.problems.contains(problem)) {
        world.events.warning(&about, &problem.reason, problem.message.clone());
    }
}

/// Tells pods of `node` why they wait.
pub(super) fn tell_pods(node: &str, told: &[(PodIdentity, Problem)], world: &World) {
    if told.is_empty() {
        return;
    }
    let pods = world.pods_by_node.get(&node.to_owned());
    for (identity, problem) in told {
        for pod in pods.iter().filter(|pod| pod.identity() == *identity) {
            world.events.warning(&reference(pod.as_ref()), &problem.reason, problem.message.clone());
        }
    }
}

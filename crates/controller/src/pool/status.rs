//! What people are told: an Event on the record when problems begin, and when the last one is over.
//!
//! Pods that wait are told by the agent of their node, which reads the problems in the record.

use kuryr_kubernetes::event::reference;
use kuryr_planning::pool::SpecStep;

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

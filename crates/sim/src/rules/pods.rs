//! Pods: each is connected by an address and a port that are its own.

use super::connected;
use crate::{
    machine::{Joint, Sandbox},
    world::World,
};

impl World {
    /// A pod was connected.
    pub(crate) fn judge_attachment(&self, node: &str, joint: &Joint, sandbox: &Sandbox) {
        let objections = {
            let state = &mut *self.state();
            let mut found: Vec<String> = joint
                .addresses
                .iter()
                .filter_map(|net| state.rules.objection(net.addr(), &sandbox.pod))
                .collect();
            for (other_node, other, pod) in connected(state) {
                let is_robbed = state.rules.is_stolen_mac(other.mac);
                let same = other.mac == joint.mac || (other.addresses == joint.addresses && !is_robbed);
                if same && pod.pod != sandbox.pod {
                    found.push(format!("{} on {other_node} is connected by the same port", pod.pod));
                }
            }
            let got = joint.addresses.iter().map(|net| ((net.addr(), sandbox.pod.clone()), joint.mac));
            state.rules.got_by.extend(got);
            found
        };
        for why in objections {
            self.broken(format!("pod {} on {node} gets {:?} and {why}", sandbox.pod, joint.addresses));
        }
    }
}

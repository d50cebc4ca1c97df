//! When a claim is cut and when it ends.
//!
//! DEL is one way to a cut; the other is that the recorded namespace is gone (a reboot, a runtime that lost its
//! memory). A claim that is cut is kept for its pod until the pod will certainly not start a sandbox again: it is
//! absent from a watch in sync, its name belongs to another life, it is being deleted (nothing undoes that, and the
//! kubelet makes no sandbox for it), or it has ended. What is unknown keeps everything.
//!
//! A port that somebody deleted in Neutron connects no other sandbox: a claim of it ends when it is cut, and the pod gets
//! another port.

use kuryr_types::PodIdentity;

use super::ledger::Claim;

/// What the watch shows under the name of a claim's pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodState {
    /// The watch is not in sync, or the object could not be read.
    Unknown,
    /// There is no pod of that name.
    Absent,
    /// There is one.
    Present {
        /// Its identity.
        identity: PodIdentity,
        /// It has succeeded or failed.
        ended: bool,
        /// It is being deleted.
        terminating: bool,
    },
}

/// What becomes of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Nothing.
    Keep,
    /// Its namespace is gone: cut what is left in the kernel.
    Cut,
    /// It is over: return the port.
    Release,
}

/// Decides about one claim. `namespace_gone`: the path recorded for its sandbox leads to no namespace or to another.
/// `port_lost`: the record says that its port was deleted.
#[must_use]
pub fn decide(claim: &Claim, namespace_gone: bool, port_lost: bool, pod: &PodState) -> Decision {
    if claim.sandbox.is_some() {
        return if namespace_gone { Decision::Cut } else { Decision::Keep };
    }
    let over = match pod {
        PodState::Unknown => false,
        PodState::Absent => true,
        PodState::Present { identity, ended, terminating } => {
            *identity != claim.identity || *ended || *terminating
        }
    };
    if over || port_lost { Decision::Release } else { Decision::Keep }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claim::ledger::tests::claim;

    #[test]
    fn only_what_is_cut_and_gone_ends() {
        let present = |identity: &str, ended, terminating| PodState::Present {
            identity: identity.into(),
            ended,
            terminating,
        };
        for (joined, gone, lost, pod, expect) in [
            (true, false, false, PodState::Absent, Decision::Keep),
            (true, false, false, present("a", true, true), Decision::Keep),
            (true, true, false, present("a", false, false), Decision::Cut),
            (true, true, false, PodState::Unknown, Decision::Cut),
            (false, true, false, PodState::Unknown, Decision::Keep),
            (false, true, false, PodState::Absent, Decision::Release),
            (false, false, false, present("a", false, false), Decision::Keep),
            (false, false, false, present("b", false, false), Decision::Release),
            (false, false, false, present("a", true, false), Decision::Release),
            (false, false, false, present("a", false, true), Decision::Release),
            (true, false, true, present("a", false, false), Decision::Keep),
            (true, true, true, present("a", false, false), Decision::Cut),
            (false, true, true, present("a", false, false), Decision::Release),
            (false, true, true, PodState::Unknown, Decision::Release),
        ] {
            let claim = claim("a", "1.1", joined.then_some("c1"));
            assert_eq!(decide(&claim, gone, lost, &pod), expect, "{joined} {gone} {lost} {pod:?}");
        }
    }
}

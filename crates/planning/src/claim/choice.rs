//! Which port a pod takes.
//!
//! In this order:
//! 1. the port it holds already, ready or not: a pod never changes its address, unless somebody deleted the port; then it
//!    waits until that is given back;
//! 2. a ready port that is meant for it (`for`);
//! 3. for an ordinary pod, the ready port of its class that has been ready longest, so that ports rotate and an
//!    address rests as long as possible before it is seen again;
//! 4. otherwise it waits, and the reason says for what.

use std::{collections::BTreeMap, fmt, time::Duration};

use kuryr_api::kuryrnode::{PortEntry, Problem};
use kuryr_types::{ClassId, Generation, PodIdentity, PortId};

use super::{ledger::Ledger, offer::Offer};

/// The controller's reason for having no subnet of pods.
const NO_SUBNET: &str = "NoPodSubnet";

/// What kind of port a pod needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need<'a> {
    /// Any port of this class.
    Interchangeable(&'a ClassId),
    /// The one that is meant for it, never another.
    Assigned,
}

/// A port that a pod could take now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    /// Offer that is ready.
    pub generation: Generation,
    /// Since when, as time since the agent started.
    pub since: Duration,
}

/// What the pod does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// It goes on with the port it holds.
    Held(PortId),
    /// It takes this one.
    Take(PortId),
    /// It waits.
    Wait(Wait),
}

/// What a pod waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wait {
    /// The controller's record does not exist or is meant for another checkpoint.
    NoOffer,
    /// The controller has not named a class for ordinary pods.
    NoClass,
    /// No port of the class is ready.
    NoReadyPort {
        /// Ports of the class that are offered and free, but not ready.
        coming: usize,
    },
    /// A port of its own has not come yet.
    NotAssigned,
    /// Its port is not ready on the switch.
    HeldNotReady(PortId),
    /// Somebody deleted its port: it is given back, then the pod gets another.
    HeldLost(PortId),
}

/// Chooses the port for a pod.
#[must_use]
pub fn choose(
    identity: &PodIdentity,
    need: Option<Need<'_>>,
    offer: Option<&Offer<'_>>,
    ledger: &Ledger,
    ready: &BTreeMap<PortId, Ready>,
) -> Choice {
    if let Some((port, claim)) = ledger.held_by(identity) {
        if offer.is_some_and(|offer| offer.has_lost(port, claim.generation)) {
            return Choice::Wait(Wait::HeldLost(port.clone()));
        }
        let is_ready = ready.get(port).is_some_and(|ready| ready.generation == claim.generation);
        return if is_ready {
            Choice::Held(port.clone())
        } else {
            Choice::Wait(Wait::HeldNotReady(port.clone()))
        };
    }
    let Some(offer) = offer else { return Choice::Wait(Wait::NoOffer) };
    let free = || offer.usable(ledger).filter(|(port, _)| !ledger.claims.contains_key(*port));
    let since = |port: &PortId, entry: &PortEntry| {
        ready.get(port).filter(|ready| ready.generation == entry.generation).map(|ready| ready.since)
    };
    let oldest = |mine: &dyn Fn(&PortEntry) -> bool| {
        free()
            .filter(|(_, entry)| mine(entry))
            .filter_map(|(port, entry)| Some((since(port, entry)?, entry.generation, port)))
            .min()
            .map(|(_, _, port)| port.clone())
    };
    if let Some(port) = oldest(&|entry| entry.for_pod.as_ref() == Some(identity)) {
        return Choice::Take(port);
    }
    match need {
        None => Choice::Wait(Wait::NoClass),
        Some(Need::Assigned) => Choice::Wait(Wait::NotAssigned),
        Some(Need::Interchangeable(class)) => {
            let of_class = |entry: &PortEntry| entry.class == *class && entry.for_pod.is_none();
            let coming = || free().filter(|(_, entry)| of_class(entry)).count();
            let none = || Choice::Wait(Wait::NoReadyPort { coming: coming() });
            oldest(&of_class).map_or_else(none, Choice::Take)
        }
    }
}

impl Wait {
    /// A word for Events, metrics and conditions.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NoOffer => "NoOffer",
            Self::NoClass => "NoClass",
            Self::NoReadyPort { .. } => "NoReadyPort",
            Self::NotAssigned => "NotAssigned",
            Self::HeldNotReady(_) => "PortNotReady",
            Self::HeldLost(_) => "PortLost",
        }
    }

    /// The reason of the Event that tells a pod that it waits: upstream's word for what is nearest. `of_controller` is what
    /// keeps the controller from providing ports.
    ///
    /// Source: Kuryr-Kubernetes 10.0, Events of Pods.
    #[must_use]
    pub fn event(&self, of_controller: Option<&Problem>) -> &'static str {
        match (self, of_controller) {
            (Self::HeldNotReady(_), _) | (Self::NoReadyPort { coming: 1.. }, None) => {
                "CNIWaitingForActiveVIFs"
            }
            (_, Some(problem)) if problem.reason == NO_SUBNET => "NoPodSubnetFound",
            (Self::NoClass, _) => "NoPodSubnetFound",
            _ => "FailToPopulateVIFPool",
        }
    }

    /// The reason of the Event that tells a pod that its ADD has ended without a port; upstream's.
    #[must_use]
    pub const fn event_of_end(&self) -> &'static str {
        match self {
            Self::HeldNotReady(_) | Self::NoReadyPort { coming: 1.. } => "CNITimedOutWaitingForActiveVIFs",
            _ => "CNITimeoutKuryrPortRegistry",
        }
    }

    /// What a person should read: what is waited for, and what the controller says about it.
    #[must_use]
    pub fn explain(&self, problems: &[Problem]) -> String {
        let mut text = self.to_string();
        // What the controller cannot do explains missing ports only.
        if !matches!(self, Self::HeldNotReady(_) | Self::HeldLost(_)) {
            for problem in problems {
                text.push_str("; ");
                text.push_str(&problem.message);
            }
        }
        text
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoOffer => f.write_str(
                "kuryr-controller has not offered ports to this node yet; is it running and leading?",
            ),
            Self::NoClass => f.write_str(
                "kuryr-controller has not named subnets for pods; check pod_subnets in its kuryr.conf",
            ),
            Self::NoReadyPort { coming: 0 } => f.write_str(
                "no Neutron port is free on this node; waiting for kuryr-controller to offer more",
            ),
            Self::NoReadyPort { coming } => {
                write!(f, "no free Neutron port is ready on this node yet; {coming} being plugged")
            }
            Self::NotAssigned => f.write_str("the pod's own Neutron port is not there yet"),
            Self::HeldNotReady(port) => write!(
                f,
                "Neutron port {port} of this pod is not ready on the switch; are ovs-vswitchd and ovn-controller running?"
            ),
            Self::HeldLost(port) => write!(
                f,
                "somebody deleted Neutron port {port} of this pod; it gets another once its former sandbox is gone"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claim::{
        ledger::tests::claim,
        offer::tests::{offered, own},
    };

    fn ready(ports: &[(&str, &str, u64)]) -> BTreeMap<PortId, Ready> {
        let one = |(port, generation, since): &(&str, &str, u64)| {
            let ready = Ready { generation: generation.parse().unwrap(), since: Duration::from_secs(*since) };
            (PortId::from(*port), ready)
        };
        ports.iter().map(one).collect()
    }

    fn check(
        change: impl FnOnce(&mut kuryr_api::kuryrnode::KuryrNodeSpec, &mut Ledger),
        ready_ports: &[(&str, &str, u64)],
        expect: Choice,
    ) {
        let mut spec = offered(&[("p1", "1.1"), ("p2", "1.2"), ("p3", "1.3")]);
        let mut ledger = Ledger::default();
        change(&mut spec, &mut ledger);
        let offer = Offer::accept(&spec, &own());
        let class = ClassId::from("plain");
        let need = Some(Need::Interchangeable(&class));
        assert_eq!(choose(&"a".into(), need, offer.as_ref(), &ledger, &ready(ready_ports)), expect);
    }

    #[test]
    fn an_ordinary_pod() {
        let give_back = |ledger: &mut Ledger, generation: &str| {
            ledger.returned.insert("p2".into(), generation.parse().unwrap());
        };
        let take = |port: &str| Choice::Take(port.into());
        let none = |coming| Choice::Wait(Wait::NoReadyPort { coming });
        let all = [("p1", "1.1", 9), ("p2", "1.2", 5), ("p3", "1.3", 5)];
        check(|_, _| {}, &all, take("p2"));
        check(|_, _| {}, &[], none(3));
        check(|_, _| {}, &[("p1", "1.0", 1)], none(3));
        check(|spec, _| spec.ports.get_mut("p2").unwrap().withdrawn = true, &all, take("p3"));
        check(|spec, _| spec.ports.get_mut("p2").unwrap().doomed = true, &all, take("p3"));
        check(|spec, _| spec.ports.get_mut("p2").unwrap().class = "other".into(), &all, take("p3"));
        check(|spec, _| spec.ports.get_mut("p2").unwrap().for_pod = Some("b".into()), &all, take("p3"));
        check(|spec, _| spec.ports.get_mut("p1").unwrap().for_pod = Some("a".into()), &all, take("p1"));
        check(|_, ledger| ledger.claim(&"p2".into(), claim("b", "1.2", None)), &all, take("p3"));
        check(|_, ledger| give_back(ledger, "1.2"), &all, take("p3"));
        check(|_, ledger| give_back(ledger, "1.0"), &all, take("p2"));
        check(|spec, _| spec.checkpoint = Some("older".into()), &all, Choice::Wait(Wait::NoOffer));
        let all_claimed = |ledger: &mut Ledger| {
            for (port, pod) in [("p1", "x"), ("p2", "y"), ("p3", "z")] {
                let generation = format!("1.{}", &port[1..]);
                ledger.claim(&port.into(), claim(pod, &generation, None));
            }
        };
        check(|_, ledger| all_claimed(ledger), &all, none(0));
    }

    #[test]
    fn a_held_port_comes_first() {
        let hold = |ledger: &mut Ledger| ledger.claim(&"p3".into(), claim("a", "1.3", None));
        let all = [("p1", "1.1", 1), ("p3", "1.3", 5)];
        check(|_, ledger| hold(ledger), &all, Choice::Held("p3".into()));
        check(|spec, ledger| (spec.checkpoint = None, hold(ledger)).1, &all, Choice::Held("p3".into()));
        let withdrawn = |spec: &mut kuryr_api::kuryrnode::KuryrNodeSpec| {
            spec.ports.get_mut("p3").unwrap().withdrawn = true;
        };
        check(|spec, ledger| (withdrawn(spec), hold(ledger)).1, &all, Choice::Held("p3".into()));
        let not_ready = Choice::Wait(Wait::HeldNotReady("p3".into()));
        check(|_, ledger| hold(ledger), &[("p1", "1.1", 1)], not_ready);
    }

    #[test]
    fn a_port_that_somebody_deleted_is_not_held_to() {
        let all = [("p1", "1.1", 1), ("p3", "1.3", 5)];
        let lose = |spec: &mut kuryr_api::kuryrnode::KuryrNodeSpec| {
            spec.ports.get_mut("p3").unwrap().lost = true;
        };
        let hold = |generation: &'static str| {
            move |ledger: &mut Ledger| ledger.claim(&"p3".into(), claim("a", generation, None))
        };
        let waits = Choice::Wait(Wait::HeldLost("p3".into()));
        check(|spec, ledger| (lose(spec), hold("1.3")(ledger)).1, &all, waits);
        let given_back = |ledger: &mut Ledger| drop(ledger.release(&"p3".into()));
        check(
            |spec, ledger| (lose(spec), hold("1.3")(ledger), given_back(ledger)).2,
            &all,
            Choice::Take("p1".into()),
        );
        // Another offer of it says nothing.
        let older = [("p3", "1.2", 5)];
        check(|spec, ledger| (lose(spec), hold("1.2")(ledger)).1, &older, Choice::Held("p3".into()));
    }

    #[test]
    fn a_guarded_pod_takes_its_own_port_only() {
        let mut spec = offered(&[("p1", "1.1"), ("p2", "1.2")]);
        let ready = ready(&[("p1", "1.1", 1), ("p2", "1.2", 2)]);
        let ledger = Ledger::default();
        let choice = |spec: &_| {
            let offer = Offer::accept(spec, &own());
            choose(&"a".into(), Some(Need::Assigned), offer.as_ref(), &ledger, &ready)
        };
        assert_eq!(choice(&spec), Choice::Wait(Wait::NotAssigned));
        spec.ports.get_mut("p2").unwrap().for_pod = Some("a".into());
        assert_eq!(choice(&spec), Choice::Take("p2".into()));
    }

    #[test]
    fn events_have_upstreams_reasons() {
        let problem = |reason: &str| Problem { reason: reason.into(), message: "m".into() };
        let (quota, subnet) = (problem("QuotaExceeded"), problem(NO_SUBNET));
        let (held, none) = (Wait::HeldNotReady("p".into()), |coming| Wait::NoReadyPort { coming });
        for (wait, of_controller, expect, of_end) in [
            (none(0), None, "FailToPopulateVIFPool", "CNITimeoutKuryrPortRegistry"),
            (none(0), Some(&quota), "FailToPopulateVIFPool", "CNITimeoutKuryrPortRegistry"),
            (none(2), None, "CNIWaitingForActiveVIFs", "CNITimedOutWaitingForActiveVIFs"),
            (none(2), Some(&quota), "FailToPopulateVIFPool", "CNITimedOutWaitingForActiveVIFs"),
            (none(0), Some(&subnet), "NoPodSubnetFound", "CNITimeoutKuryrPortRegistry"),
            (held, Some(&quota), "CNIWaitingForActiveVIFs", "CNITimedOutWaitingForActiveVIFs"),
            (Wait::NoClass, None, "NoPodSubnetFound", "CNITimeoutKuryrPortRegistry"),
            (Wait::NoOffer, None, "FailToPopulateVIFPool", "CNITimeoutKuryrPortRegistry"),
            (Wait::NotAssigned, None, "FailToPopulateVIFPool", "CNITimeoutKuryrPortRegistry"),
        ] {
            assert_eq!(
                (wait.event(of_controller), wait.event_of_end()),
                (expect, of_end),
                "{wait:?} {of_controller:?}"
            );
        }
    }

    #[test]
    fn tells_what_the_controller_says() {
        let problem =
            Problem { reason: "QuotaExceeded".into(), message: "quota of 100 ports is used up".into() };
        let text = Wait::NoReadyPort { coming: 0 }.explain(std::slice::from_ref(&problem));
        assert!(text.ends_with("to offer more; quota of 100 ports is used up"), "{text}");
        let held = Wait::HeldNotReady("p1".into()).explain(&[problem]);
        assert!(!held.contains("quota"), "{held}");
    }
}

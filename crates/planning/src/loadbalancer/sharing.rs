//! Load balancers that Services share: where a Service is served, and whose is what there.
//!
//! 1. Annotation `loadbalancer.openstack.org/load-balancer-id` names a load balancer of our project, whoever made it. The
//!    Service is a guest there: its listeners and pools stand beside those of others. One that names its own is none.
//! 2. A listener or pool is the Service's by its name, on the Service's own load balancer unless another cluster has
//!    marked it, elsewhere only with all our tags. What is another's is never changed.
//! 3. A Service whose annotation names another one moves: it is made whole there and told before it leaves the former one.
//!    As long as the one that is named takes no change, or is not there, it is served where it was.
//! 4. A load balancer is deleted on behalf of the Service whose name it has, or had, and only when nobody else has anything
//!    on it; that goes for its floating IP, too. One that was made by others is never deleted.
//! 5. A port that somebody else has there is refused; who comes first has it.
//!
//! Worked example: `d/web` has load balancer `b`. `d/dns` names `b`: `b` gets listener and pool `d/dns:UDP:53`. `d/web` is
//! deleted: `b` loses listener and pool `d/web:TCP:80` and stays, with its floating IP. `d/dns` is deleted: `b` loses the
//! rest; the next look at `d/web`, which is not there any more, deletes `b`.
//!
//! Source: cloud-provider-openstack, "Sharing load balancer with multiple Services". Different from it: there is no greatest
//! number of Services, and load balancers carry no tags of their guests.

use kuryr_api::kuryrnode::Problem;
use kuryr_types::LoadBalancerId;

use super::{
    annotations::{REASON, asked},
    from_kubernetes::role,
    inputs::{Balancer, Inputs, OtherListener, State},
};
use crate::{
    ownership::{Owner, made_for},
    pool::Millis,
};

/// Between looks at one that somebody else has to repair.
pub(super) const LOOK_AGAIN: Millis = 10_000;
/// Between looks at one that is being changed, while the Service is served elsewhere.
const LOOK_SOON: Millis = 1_000;

/// The annotation, for people.
const ANNOTATION: &str = "annotation loadbalancer.openstack.org/load-balancer-id";

/// Where a Service is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place<'a> {
    /// By a load balancer of its own, which is to be made if there is none.
    Own,
    /// By one that is not its own.
    Shared(&'a Balancer),
    /// By none: what its annotation names cannot be had, and it was served by none before.
    Nowhere,
}

/// Where a Service is served, and why not elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Placed<'a> {
    pub(super) place: Place<'a>,
    pub(super) problems: Vec<Problem>,
    /// Where it is going to be served, as soon as that can be.
    pub(super) later: Option<&'a LoadBalancerId>,
    /// When to look again for that.
    pub(super) wake_after: Option<Millis>,
}

impl<'a> Placed<'a> {
    const fn at(place: Place<'a>) -> Self {
        Self { place, problems: vec![], later: None, wake_after: None }
    }

    fn because(place: Place<'a>, message: String) -> Self {
        let problems = vec![Problem { reason: REASON.to_owned(), message }];
        Self { place, problems, later: None, wake_after: None }
    }
}

/// Where the Service is to be served.
pub(super) fn place<'a>(inputs: &Inputs<'a>) -> Placed<'a> {
    let Inputs { service, settings, actual, .. } = *inputs;
    let role = role(service, settings, inputs.is_so_already());
    let Some(named) = asked(&service.annotations).shared.filter(|_| role.is_outside && !service.is_leaving)
    else {
        return Placed::at(Place::Own);
    };
    if role.is_inside {
        let message = format!(
            "{ANNOTATION}: Octavia serves the ClusterIP of this Service, which takes a load balancer of its own: remove the \
             annotation, or set openstack.org/kuryr-service-mode to node"
        );
        return Placed::because(Place::Own, message);
    }
    if actual.balancers.iter().any(|own| own.id == named) {
        return Placed::at(Place::Own);
    }
    let former = former(inputs, &named);
    let meanwhile = if former == Place::Nowhere { "" } else { "; until then it is served where it was" };
    match actual.shared.iter().find(|found| found.id == named) {
        Some(found) if found.state == State::Active || !found.listeners.is_empty() => {
            Placed::at(Place::Shared(found))
        }
        None => Placed::because(
            former,
            format!(
                "{ANNOTATION}: {named} is no load balancer of the project that Kuryr may see: correct or remove \
                 it{meanwhile}"
            ),
        ),
        Some(found) if found.state == State::Deleting => {
            let message =
                format!("{ANNOTATION}: {named} is being deleted: name another or remove it{meanwhile}");
            Placed { wake_after: Some(LOOK_AGAIN), ..Placed::because(former, message) }
        }
        Some(found) if former == Place::Nowhere => Placed::at(Place::Shared(found)),
        Some(found) => {
            let (problems, after) = match found.state {
                State::Error => (vec![in_error(found)], LOOK_AGAIN),
                _ => (vec![], LOOK_SOON),
            };
            Placed { place: former, problems, later: Some(&found.id), wake_after: Some(after) }
        }
    }
}

/// Where it is served if not there.
fn former<'a>(inputs: &Inputs<'a>, named: &LoadBalancerId) -> Place<'a> {
    // One that takes no change does not tell whether it serves, and one that nobody else uses is there for the Service alone.
    let serves = |own: &Balancer| match own.state {
        State::Pending | State::Error => true,
        State::Active => own.others.is_empty() || own.carries_something(),
        State::Deleting => false,
    };
    if inputs.actual.balancers.iter().any(serves) {
        return Place::Own;
    }
    let mut elsewhere = inputs.actual.shared.iter().filter(|found| found.id != *named);
    elsewhere.find(|found| !found.listeners.is_empty()).map_or(Place::Nowhere, Place::Shared)
}

/// Nothing can be done about it by us.
pub(super) fn in_error(found: &Balancer) -> Problem {
    let message = format!(
        "load balancer {} is in state ERROR and carries what is not of this Service alone, so it is left as it is: have it \
         repaired (`openstack loadbalancer failover`), or have the Service use another",
        found.id
    );
    Problem { reason: super::diff::STUCK.to_owned(), message }
}

/// The listener of somebody else that keeps one of this protocol from a port; where listeners `share_ports`, only one whose
/// protocol is the same below.
pub(super) fn taken(
    (protocol, port): (super::Protocol, u16),
    found: &Balancer,
    share_ports: bool,
) -> Option<&OtherListener> {
    found.others.listeners.iter().find(|other| {
        let collides = super::Protocol::below(&other.protocol).is_none_or(|below| below == protocol);
        other.port == port && (collides || !share_ports)
    })
}

/// Whether a listener or pool on the own load balancer of a Service, whose name that has, is the Service's.
#[must_use]
pub fn is_own(name: &str, tags: &[String], balancer: &str, owner: &Owner) -> bool {
    made_for(name) == Some(balancer) && !owner.is_another_clusters(tags)
}

/// Whether a listener or pool elsewhere is the Service's whose load balancers have this name.
#[must_use]
pub fn is_guest(name: &str, tags: &[String], balancer: &str, owner: &Owner) -> bool {
    made_for(name) == Some(balancer) && owner.has_marked(tags)
}

#[cfg(test)]
mod tests {
    use super::super::{
        Actual, Protocol, ServiceFacts,
        fixtures::{balancer, service, settings},
        inputs::Others,
    };
    use super::*;
    use crate::ownership::cluster_tag;

    #[test]
    fn whose_is_what() {
        let owner = Owner::new("k8s".into(), vec![cluster_tag("a")]);
        for (name, tags, own, guest) in [
            ("d/web:TCP:80", vec![cluster_tag("a")], true, true),
            ("d/web:TCP:80", vec![cluster_tag("a"), "more".to_owned()], true, true),
            // Upstream marks nothing of this cluster's.
            ("d/web:TCP:80", vec![], true, false),
            ("d/web:TCP:80", vec![cluster_tag("b")], false, false),
            ("d/dns:TCP:80", vec![cluster_tag("a")], false, false),
            ("mine", vec![cluster_tag("a")], false, false),
        ] {
            assert_eq!(is_own(name, &tags, "d/web", &owner), own, "{name} {tags:?}");
            assert_eq!(is_guest(name, &tags, "d/web", &owner), guest, "{name} {tags:?}");
        }
    }

    #[test]
    fn a_port_is_taken_by_what_is_below_the_protocol() {
        let mut found = balancer("b");
        let listener = |protocol: &str| OtherListener {
            name: "mine".to_owned(),
            protocol: protocol.to_owned(),
            port: 80,
        };
        for (theirs, wanted, shares, expect) in [
            ("TCP", Protocol::Tcp, true, true),
            ("HTTP", Protocol::Tcp, true, true),
            ("UDP", Protocol::Tcp, true, false),
            ("UDP", Protocol::Tcp, false, true),
            ("NEWER", Protocol::Sctp, true, true),
        ] {
            found.others = Others { listeners: vec![listener(theirs)], pools: 0 };
            assert_eq!(taken((wanted, 80), &found, shares).is_some(), expect, "{theirs} {wanted:?}");
            assert!(taken((wanted, 81), &found, shares).is_none());
        }
    }

    /// A Service that names load balancer `x`.
    fn naming() -> ServiceFacts {
        let mut service = service();
        service.annotations.insert("loadbalancer.openstack.org/load-balancer-id".to_owned(), "x".to_owned());
        service
    }

    fn at(state: State, serves: bool, id: &str) -> Balancer {
        let mut found = Balancer { state, ..balancer(id) };
        if !serves {
            (found.listeners, found.pools, found.others.pools) = (vec![], vec![], 1);
        }
        found
    }

    fn placed(service: &ServiceFacts, own: &[Balancer], shared: &[Balancer]) -> (String, usize, bool) {
        let actual = Actual { balancers: own.to_vec(), shared: shared.to_vec(), ..Actual::default() };
        let settings = settings("ovn");
        let placed = place(&Inputs { now: 0, service, endpoints: &[], settings: &settings, actual: &actual });
        let place = match placed.place {
            Place::Own => "own".to_owned(),
            Place::Shared(found) => found.id.to_string(),
            Place::Nowhere => "nowhere".to_owned(),
        };
        (place, placed.problems.len(), placed.wake_after.is_some())
    }

    #[test]
    fn where_a_service_is_served() {
        use State::{Active, Deleting, Error, Pending};
        let own = [at(Active, true, "own")];
        let left = [at(Active, false, "own")];
        let mut closed = at(Active, false, "own");
        closed.others = Others::default();
        let closed = [closed];
        let elsewhere = at(Active, true, "y");
        let x = |state, serves| at(state, serves, "x");
        for (case, own, shared, expect) in [
            ("a new guest", &[][..], vec![x(Active, false)], ("x", 0, false)),
            ("it is busy", &[], vec![x(Pending, false)], ("x", 0, false)),
            ("broken", &[], vec![x(Error, false)], ("x", 0, false)),
            ("not there", &[], vec![], ("nowhere", 1, false)),
            ("about to go", &[], vec![x(Deleting, false)], ("nowhere", 1, true)),
            ("it moves", &own, vec![x(Active, false)], ("x", 0, false)),
            ("not yet", &own, vec![x(Pending, false)], ("own", 0, true)),
            ("it moves to what is broken", &own, vec![x(Error, false)], ("own", 1, true)),
            ("it moves to nothing", &own, vec![], ("own", 1, false)),
            ("it has moved, and that is busy", &own, vec![x(Pending, true)], ("x", 0, false)),
            ("without ports", &closed, vec![], ("own", 1, false)),
            ("its own is broken", &[at(Error, false, "own")], vec![], ("own", 1, false)),
            ("only others are on its own", &left, vec![x(Pending, false)], ("x", 0, false)),
            ("from one to another", &[], vec![elsewhere.clone(), x(Pending, false)], ("y", 0, true)),
            ("that is there", &[], vec![elsewhere.clone(), x(Active, false)], ("x", 0, false)),
            ("and is gone", &[], vec![elsewhere], ("y", 1, false)),
        ] {
            let (place, problems, waits) = placed(&naming(), own, &shared);
            assert_eq!((place.as_str(), problems, waits), expect, "{case}");
        }
    }

    #[test]
    fn who_shares_nothing() {
        let x = [at(State::Active, false, "x")];
        let own = |change: fn(&mut ServiceFacts)| {
            let mut service = naming();
            change(&mut service);
            placed(&service, &[], &x)
        };
        assert_eq!(own(|service| service.annotations.clear()).0, "own");
        assert_eq!(own(|service| service.kind = "ClusterIP".to_owned()), ("own".to_owned(), 0, false));
        assert_eq!(own(|service| service.is_leaving = true).0, "own");
        let inside = own(|service| {
            service.cluster_ips = vec!["10.96.0.7".parse().unwrap()];
            let mode = kuryr_api::names::SERVICE_MODE_ANNOTATION.to_owned();
            service.annotations.insert(mode, "octavia".to_owned());
        });
        assert_eq!(inside, ("own".to_owned(), 1, false));
        // It names its own.
        assert_eq!(placed(&naming(), &[at(State::Active, true, "x")], &[]), ("own".to_owned(), 0, false));
    }
}

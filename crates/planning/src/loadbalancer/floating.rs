//! The floating IP of a load balancer.
//!
//! 1. One that leads to the VIP already is taken, whoever made it, unless the user asks for another address.
//! 2. One that was made for the Service and lost its port (the load balancer was made anew) leads to the VIP again. It is
//!    known by its tags; where it could not be tagged, by its mark ([`super::mark`]); where it has none, by the address that
//!    the Service tells. Where none can be made, these still count. A second one, which was made before the first one was
//!    found, is deleted.
//! 3. What was made for the Service and is not wanted is deleted, or kept where the user says so; what was not made for
//!    it is taken off at most. One that the Service asks to keep is marked so, for when the Service is gone.

use std::net::IpAddr;

use kuryr_api::kuryrnode::Problem;
use kuryr_types::PortId;

use super::{
    annotations::REASON,
    from_kubernetes::{FloatingWish, keeps_floating},
    inputs::{Actual, Balancer, Floating, ServiceFacts},
    step::Step,
};
use crate::ownership::{KEPT_TAG, service_tag};

/// What to do that `vip` has the floating IP that is wished.
pub(super) fn towards(
    wish: &FloatingWish,
    vip: &PortId,
    service: &ServiceFacts,
    actual: &Actual,
) -> (Vec<Step>, Vec<Problem>) {
    let on_vip: Vec<&Floating> = of_port(vip, actual).collect();
    match wish {
        FloatingWish::None => (release(service, actual, false), vec![]),
        // Nothing is done about what is others'.
        FloatingWish::Theirs => (vec![], vec![]),
        FloatingWish::Any(_) | FloatingWish::Kept => {
            if let Some(found) = on_vip.first() {
                let others =
                    actual.floating.iter().filter(|other| found.is_ours && is_surplus(other, service));
                return (adopt(found, service).into_iter().chain(others.map(delete)).collect(), vec![]);
            }
            let find = |is_it: &dyn Fn(&Floating) -> bool| actual.floating.iter().find(|found| is_it(found));
            let lost = find(&|found| found.is_ours)
                .or_else(|| find(&|found| found.is_marked))
                .or_else(|| find(&|found| is_lost(found, service)));
            let step = match (lost, wish) {
                (Some(lost), _) => {
                    Some(Step::Associate { floating: lost.id.clone(), port: Some(vip.clone()) })
                }
                (None, FloatingWish::Any(external)) => Some(Step::CreateFloating {
                    port: vip.clone(),
                    external: external.clone(),
                    tags: tags(service),
                }),
                (None, _) => None,
            };
            (step.into_iter().collect(), vec![])
        }
        FloatingWish::Given(address) => given(*address, vip, &on_vip, actual),
    }
}

fn given(address: IpAddr, vip: &PortId, on_vip: &[&Floating], actual: &Actual) -> (Vec<Step>, Vec<Problem>) {
    if on_vip.iter().any(|floating| floating.address == address) {
        return (vec![], vec![]);
    }
    let problem = |message: String| vec![Problem { reason: REASON.to_owned(), message }];
    let Some(wanted) = actual.floating.iter().find(|floating| floating.address == address) else {
        return (
            vec![],
            problem(format!(
                "spec.loadBalancerIP: there is no floating IP {address} in the project: create it, or remove the field"
            )),
        );
    };
    if wanted.port.is_some() {
        return (
            vec![],
            problem(format!(
                "spec.loadBalancerIP: floating IP {address} leads to another port: disassociate it, or choose another"
            )),
        );
    }
    // A VIP has one floating IP.
    let mut steps: Vec<Step> = on_vip.iter().map(|floating| take_off(floating)).collect();
    if steps.is_empty() {
        steps.push(Step::Associate { floating: wanted.id.clone(), port: Some(vip.clone()) });
    }
    (steps, vec![])
}

/// It was made for the Service alone, leads nowhere, nobody was told of it, and it is not to be kept.
fn is_surplus(floating: &Floating, service: &ServiceFacts) -> bool {
    let is_kept = floating.is_kept || keeps_floating(service);
    let is_free = floating.port.is_none() && !floating.is_others && !is_told(floating, service);
    floating.is_ours && floating.is_made && !is_kept && is_free
}

fn delete(floating: &Floating) -> Step {
    Step::DeleteFloating { floating: floating.id.clone() }
}

/// What to do about floating IPs of a Service that needs none any more.
pub(super) fn release(service: &ServiceFacts, actual: &Actual, keeps: bool) -> Vec<Step> {
    actual.floating.iter().filter_map(|floating| release_one(floating, service, actual, keeps)).collect()
}

fn release_one(floating: &Floating, service: &ServiceFacts, actual: &Actual, keeps: bool) -> Option<Step> {
    let is_gone = service.uid.is_empty();
    match (floating.is_ours, keeps || is_gone && floating.is_kept) {
        (true, true) => Some(Step::KeepFloating { floating: floating.id.clone() }),
        (true, false) => Some(delete(floating)),
        // What becomes of it the next look tells.
        (false, _) if floating.is_marked => adopt(floating, service),
        (false, true) => None,
        (false, false) if floating.is_kept => None,
        (false, false) if leads_to_ours(floating, actual) || is_lost(floating, service) => {
            adopt(floating, service)
        }
        (false, false) => None,
    }
}

/// Addresses of those that [`release`] does something about, if they can be left to the full lists: they are found there by tag
/// or mark, and it is known which of them are to be kept.
pub(super) fn may_be_left(service: &ServiceFacts, actual: &Actual, keeps: bool) -> Option<Vec<IpAddr>> {
    let is_known = |floating: &Floating| floating.is_ours || floating.is_marked;
    let is_due = |floating: &&Floating| release_one(floating, service, actual, keeps).is_some();
    let may_be_left = |floating: &Floating| is_known(floating) && (!keeps || floating.is_kept);
    let due = actual.floating.iter().filter(is_due);
    due.map(|floating| may_be_left(floating).then_some(floating.address)).collect()
}

/// What to do before a load balancer goes while its Service stays, and whether it may go even if that fails: besides tags and
/// mark only the port of its VIP tells whose a floating IP is, and the address that the Service tells.
pub(super) fn hold(found: &Balancer, service: &ServiceFacts, actual: &Actual) -> (Vec<Step>, bool) {
    let on_vips = || found.vips().filter_map(|(_, port)| port).flat_map(|vip| of_port(vip, actual));
    let steps: Vec<Step> = on_vips().filter_map(|floating| adopt(floating, service)).collect();
    let is_found_again = |floating: &Floating| {
        adopt(floating, service).is_none() || floating.is_marked || is_told(floating, service)
    };
    (steps, on_vips().all(is_found_again))
}

/// The address by which the VIP is reached from outside.
pub(super) fn address(wish: &FloatingWish, vip: &PortId, actual: &Actual) -> Option<IpAddr> {
    let mut on_vip = of_port(vip, actual).map(|floating| floating.address);
    match wish {
        FloatingWish::None => None,
        FloatingWish::Any(_) | FloatingWish::Kept | FloatingWish::Theirs => on_vip.next(),
        FloatingWish::Given(address) => on_vip.find(|found| found == address),
    }
}

fn of_port<'a>(vip: &'a PortId, actual: &'a Actual) -> impl Iterator<Item = &'a Floating> {
    actual.floating.iter().filter(move |floating| floating.port.as_ref() == Some(vip))
}

/// It was made for the Service, could not be tagged, and then its load balancer went.
fn is_lost(floating: &Floating, service: &ServiceFacts) -> bool {
    let is_untagged = !(floating.is_ours || floating.is_others || floating.is_kept);
    floating.is_made && is_untagged && floating.port.is_none() && is_told(floating, service)
}

fn is_told(floating: &Floating, service: &ServiceFacts) -> bool {
    service.told.iter().any(|ingress| ingress.ip == Some(floating.address))
}

fn leads_to_ours(floating: &Floating, actual: &Actual) -> bool {
    let mut ports = actual.balancers.iter().flat_map(|balancer| balancer.vips().filter_map(|(_, port)| port));
    ports.any(|port| floating.port.as_ref() == Some(port))
}

/// Tags by which a floating IP of the Service is found; of one that is gone only the port tells.
fn tags(service: &ServiceFacts) -> Vec<String> {
    let uid = Some(&service.uid).filter(|uid| !uid.is_empty());
    let kept = keeps_floating(service).then(|| KEPT_TAG.to_owned());
    uid.map(|uid| service_tag(uid)).into_iter().chain(kept).collect()
}

/// It was made for the Service, and could not be tagged, or the Service asks to keep it now, or no more.
fn adopt(floating: &Floating, service: &ServiceFacts) -> Option<Step> {
    let was_not_tagged = floating.is_made && !floating.is_ours && !floating.is_kept;
    let is_gone = service.uid.is_empty();
    let is_marked_wrong = floating.is_ours && !is_gone && floating.is_kept != keeps_floating(service);
    let step = || Step::AdoptFloating { floating: floating.id.clone(), tags: tags(service) };
    (was_not_tagged || is_marked_wrong).then(step)
}

fn take_off(floating: &Floating) -> Step {
    match floating.is_ours {
        true => delete(floating),
        false => Step::Associate { floating: floating.id.clone(), port: None },
    }
}

#[cfg(test)]
mod tests {
    use super::super::{
        fixtures::{balancer, service},
        inputs::{External, Ingress},
    };
    use super::*;

    fn floating(id: &str, port: Option<&str>, is_ours: bool, is_made: bool) -> Floating {
        let address = format!("203.0.113.{}", id.len()).parse().unwrap();
        Floating {
            id: id.into(),
            address,
            port: port.map(PortId::from),
            is_ours,
            is_made,
            is_marked: false,
            is_others: false,
            is_kept: false,
        }
    }

    fn steps(wish: &FloatingWish, found: &[Floating]) -> (Vec<&'static str>, usize) {
        let actual = Actual { balancers: vec![balancer("b")], floating: found.to_vec(), ..Actual::default() };
        let (steps, problems) = towards(wish, &"vip-b".into(), &service(), &actual);
        (steps.iter().map(Step::name).collect(), problems.len())
    }

    #[test]
    fn one_is_taken_again_or_made() {
        let any = FloatingWish::Any(External { network: "ext".into(), subnet: None });
        for (found, expect) in [
            (vec![], vec!["create_floating_ip"]),
            (vec![floating("f", Some("vip-b"), true, true)], vec![]),
            (vec![floating("f", Some("vip-b"), false, true)], vec!["adopt_floating_ip"]),
            (vec![floating("f", Some("vip-b"), false, false)], vec![]),
            (vec![floating("f", None, true, true)], vec!["associate_floating_ip"]),
        ] {
            assert_eq!(steps(&any, &found), (expect.clone(), 0), "{found:?}");
            // Where none can be made, none is, and all else is the same.
            let kept = expect.into_iter().filter(|step| *step != "create_floating_ip").collect();
            assert_eq!(steps(&FloatingWish::Kept, &found), (kept, 0), "{found:?}");
        }
    }

    #[test]
    fn a_second_one_that_leads_nowhere_is_deleted_once_the_vip_has_one_of_ours() {
        let any = FloatingWish::Any(External { network: "ext".into(), subnet: None });
        let second = floating("second", None, true, true);
        for (first, second, expect) in [
            (floating("f", Some("vip-b"), true, true), second.clone(), vec!["delete_floating_ip"]),
            (floating("f", Some("vip-b"), true, true), Floating { is_kept: true, ..second.clone() }, vec![]),
            (floating("f", Some("vip-b"), true, true), floating("second", None, true, false), vec![]),
            (floating("f", Some("vip-b"), true, true), floating("second", None, false, true), vec![]),
            (
                floating("f", Some("vip-b"), true, true),
                floating("second", Some("elsewhere"), true, true),
                vec![],
            ),
            // Somebody has put another one there, and may take it off again.
            (floating("f", Some("vip-b"), false, false), second.clone(), vec![]),
            (floating("f", Some("vip-b"), false, true), second, vec!["adopt_floating_ip"]),
        ] {
            let found = [first, second];
            assert_eq!(steps(&any, &found), (expect, 0), "{found:?}");
        }
    }

    #[test]
    fn one_is_tagged_with_its_service_as_long_as_there_is_it() {
        let actual = Actual {
            balancers: vec![balancer("b")],
            floating: vec![floating("f", Some("vip-b"), false, true)],
            ..Actual::default()
        };
        let tags_of = |service: &ServiceFacts| match &release(service, &actual, false)[..] {
            [Step::AdoptFloating { tags, .. }] => tags.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(tags_of(&service()), ["kuryr-service:u"]);
        assert_eq!(tags_of(&ServiceFacts { uid: String::new(), ..service() }), Vec::<String>::new());
    }

    #[test]
    fn one_that_could_not_be_tagged_is_known_by_the_address_that_is_told() {
        let lost = floating("f", None, false, true);
        let any = FloatingWish::Any(External { network: "ext".into(), subnet: None });
        let told = Ingress { ip: Some(lost.address), hostname: None, is_proxied: false };
        let told = ServiceFacts { told: vec![told], ..service() };
        let actual = |floating: &[Floating]| Actual {
            balancers: vec![balancer("b")],
            floating: floating.to_vec(),
            ..Actual::default()
        };
        let names = |steps: Vec<Step>| steps.iter().map(Step::name).collect::<Vec<_>>();
        let again = |service: &ServiceFacts, floating: &[Floating]| {
            names(towards(&any, &"vip-b".into(), service, &actual(floating)).0)
        };
        assert_eq!(again(&told, std::slice::from_ref(&lost)), ["associate_floating_ip"]);
        assert_eq!(again(&service(), std::slice::from_ref(&lost)), ["create_floating_ip"], "nobody told it");
        let users = Floating { is_made: false, ..lost.clone() };
        assert_eq!(again(&told, &[users]), ["create_floating_ip"], "not made for a Service");
        let guests = Floating { is_others: true, ..lost.clone() };
        assert_eq!(
            again(&told, std::slice::from_ref(&guests)),
            ["create_floating_ip"],
            "it names its Service"
        );
        assert_eq!(names(release(&told, &actual(&[guests]), false)), [""; 0]);
        let kept = Floating { is_kept: true, ..lost.clone() };
        assert_eq!(
            names(release(&told, &actual(&[kept]), false)),
            [""; 0],
            "a Service before asked to keep it"
        );
        let elsewhere = Floating { port: Some("elsewhere".into()), ..lost.clone() };
        assert_eq!(again(&told, &[elsewhere]), ["create_floating_ip"]);
        assert_eq!(names(release(&told, &actual(&[lost]), false)), ["adopt_floating_ip"]);
    }

    #[test]
    fn one_that_could_not_be_tagged_is_known_by_its_mark() {
        let any = FloatingWish::Any(External { network: "ext".into(), subnet: None });
        let names = |steps: Vec<Step>| steps.iter().map(Step::name).collect::<Vec<_>>();
        let marked = Floating { is_marked: true, ..floating("f", None, false, true) };
        let actual = |port: Option<&str>| Actual {
            balancers: vec![balancer("b")],
            floating: vec![Floating { port: port.map(PortId::from), ..marked.clone() }],
            ..Actual::default()
        };
        assert_eq!(steps(&any, std::slice::from_ref(&marked)), (vec!["associate_floating_ip"], 0));
        // It is tagged first, so that what is to be done is decided as for each that is ours.
        for keeps in [false, true] {
            for port in [None, Some("vip-b"), Some("elsewhere")] {
                let left = release(&service(), &actual(port), keeps);
                assert_eq!(names(left), ["adopt_floating_ip"], "{keeps} {port:?}");
            }
        }
        // Its load balancer goes before it is tagged, whatever becomes of that.
        let (steps, may_go) = hold(&balancer("b"), &service(), &actual(Some("vip-b")));
        assert_eq!((names(steps), may_go), (vec!["adopt_floating_ip"], true));
    }

    #[test]
    fn one_that_is_to_be_kept_is_marked_while_its_service_can_say_so() {
        let any = FloatingWish::Any(External { network: "ext".into(), subnet: None });
        let keep = || [("loadbalancer.openstack.org/keep-floatingip".to_owned(), "true".to_owned())];
        let keeps = ServiceFacts { annotations: keep().into(), ..service() };
        let gone = ServiceFacts { uid: String::new(), ..service() };
        for is_kept in [false, true] {
            let found = Floating { is_kept, ..floating("f", Some("vip-b"), true, true) };
            let actual =
                Actual { balancers: vec![balancer("b")], floating: vec![found], ..Actual::default() };
            let marked = |service: &ServiceFacts| match &towards(&any, &"vip-b".into(), service, &actual).0[..]
            {
                [] => None,
                [Step::AdoptFloating { tags, .. }] => Some(tags.contains(&KEPT_TAG.to_owned())),
                other => panic!("{other:?}"),
            };
            assert_eq!(
                (marked(&keeps), marked(&service())),
                ((!is_kept).then_some(true), is_kept.then_some(false),)
            );
            let left = release(&gone, &actual, false);
            let expect = if is_kept { "keep_floating_ip" } else { "delete_floating_ip" };
            assert_eq!(left.iter().map(Step::name).collect::<Vec<_>>(), [expect]);
        }
    }

    #[test]
    fn what_the_user_gave_is_never_deleted() {
        let given = FloatingWish::Given("203.0.113.5".parse().unwrap());
        for (found, expect) in [
            (vec![], (vec![], 1)),
            (vec![floating("given", None, false, false)], (vec!["associate_floating_ip"], 0)),
            (vec![floating("given", Some("elsewhere"), false, false)], (vec![], 1)),
            (vec![floating("given", Some("vip-b"), false, false)], (vec![], 0)),
            (
                vec![floating("given", None, false, false), floating("f", Some("vip-b"), true, true)],
                (vec!["delete_floating_ip"], 0),
            ),
            (
                vec![floating("given", None, false, false), floating("g", Some("vip-b"), false, false)],
                (vec!["associate_floating_ip"], 0),
            ),
        ] {
            assert_eq!(steps(&given, &found), expect, "{found:?}");
        }
        let theirs = [floating("given", Some("vip-b"), false, false)];
        assert_eq!(steps(&FloatingWish::None, &theirs), (vec![], 0));
    }

    #[test]
    fn at_the_end_it_goes_or_is_kept() {
        let actual =
            |found| Actual { balancers: vec![balancer("b")], floating: vec![found], ..Actual::default() };
        let names =
            |actual, keeps| release(&service(), &actual, keeps).iter().map(Step::name).collect::<Vec<_>>();
        for (found, gone, kept) in [
            (floating("f", Some("vip-b"), true, true), vec!["delete_floating_ip"], vec!["keep_floating_ip"]),
            (floating("f", None, true, true), vec!["delete_floating_ip"], vec!["keep_floating_ip"]),
            (floating("f", Some("vip-b"), false, true), vec!["adopt_floating_ip"], vec![]),
            (floating("f", Some("elsewhere"), false, true), vec![], vec![]),
            (floating("f", Some("vip-b"), false, false), vec![], vec![]),
        ] {
            assert_eq!(names(actual(found.clone()), false), gone, "{found:?}");
            assert_eq!(names(actual(found), true), kept);
        }
    }
}

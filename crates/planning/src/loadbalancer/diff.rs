//! From the load balancer as it is to the load balancer as it should be: the next legal steps.

use std::{borrow::Cow, collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use kuryr_api::kuryrnode::Problem;
use kuryr_types::{LoadBalancerId, PortId};

use super::{
    Plan,
    annotations::REASON,
    desired::{BalancerSpec, ListenerSpec, PoolSpec, Protocol},
    floating,
    from_kubernetes::{ClientTold, FloatingWish, Intent, keeps_floating},
    inputs::{Balancer, FoundListener, FoundPool, Ingress, Inputs, ServiceFacts, State, Stranger},
    memory::Memory,
    provider,
    sharing::{LOOK_AGAIN, in_error, taken},
    step::Step,
};
use crate::pool::Millis;

/// Towards a load balancer of the Service's own; it may be served by another one later.
pub(super) fn towards(
    desired: &BalancerSpec,
    intent: &Intent,
    later: Option<&LoadBalancerId>,
    inputs: &Inputs<'_>,
    memory: &mut Memory,
) -> Plan {
    if !inputs.service.has_finalizer {
        return Plan { steps: vec![Step::AddFinalizer], ..Plan::default() };
    }
    let Some(found) = choose(inputs) else { return create(desired, intent, inputs, memory) };
    let mut plan = Plan::default();
    delete_doubles(&mut plan, found, inputs);
    match found.state {
        State::Active => {
            memory.settled(State::Active);
            memory.released();
            memory.has_vips(found.vips().map(|(address, _)| address));
        }
        State::Pending | State::Deleting => return wait(plan, found, inputs, memory),
        State::Error if !found.others.is_empty() => {
            memory.settled(State::Error);
            return Plan { problems: vec![in_error(found)], wake_after: Some(LOOK_AGAIN), ..plan };
        }
        State::Error => {
            memory.settled(State::Error);
            memory.has_vips(found.vips().map(|(address, _)| address));
            plan.problems.push(made_anew(found));
            if make_way(&mut plan, found, inputs) {
                memory.failed(inputs.now);
            } else {
                plan.tell = tell(intent, found, inputs);
            }
            return plan;
        }
    }
    if !can_become(found, desired) {
        match found.others.is_empty() {
            true if make_way(&mut plan, found, inputs) => {}
            true => plan.tell = tell(intent, found, inputs),
            false => plan.problems.push(kept_for_others(found)),
        }
        return plan;
    }
    if let Some(vip) = translated(found) {
        let (steps, problems) = floating::towards(&intent.floating, vip, inputs.service, inputs.actual);
        plan.steps.extend(steps);
        plan.problems.extend(problems);
    }
    let missing = intent.prefixes().find(|prefix| !has_family(found, prefix.addr()));
    plan.problems.extend(missing.map(|prefix| lacks_family(found, prefix)));
    let (wanted, refused) = free(fitted(desired, found), found, inputs);
    plan.problems.extend(refused);
    go_on(&mut plan, &wanted, found, inputs, memory);
    plan.tell = tell(intent, found, inputs);
    if is_settled(&plan) && !is_about_to_lose(found, desired) {
        return leave(plan, [None, later], inputs, memory);
    }
    plan
}

/// Towards listeners on a load balancer that is shared; the Service may be served by another one later.
pub(super) fn towards_shared(
    desired: &BalancerSpec,
    intent: &Intent,
    (found, later): (&Balancer, Option<&LoadBalancerId>),
    inputs: &Inputs<'_>,
    memory: &mut Memory,
) -> Plan {
    if !inputs.service.has_finalizer {
        return Plan { steps: vec![Step::AddFinalizer], ..Plan::default() };
    }
    match found.state {
        State::Active => memory.settled(State::Active),
        State::Pending | State::Deleting => return wait(Plan::default(), found, inputs, memory),
        State::Error => {
            memory.settled(State::Error);
            return Plan { problems: vec![in_error(found)], wake_after: Some(LOOK_AGAIN), ..Plan::default() };
        }
    }
    let mut plan = Plan::default();
    let (wanted, refused) = free(Cow::Borrowed(desired), found, inputs);
    go_on(&mut plan, &wanted, found, inputs, memory);
    let Inputs { actual, .. } = inputs;
    let is_elsewhere = |other: &Balancer| other.id != found.id && other.carries_something();
    let moves = actual.balancers.iter().chain(&actual.shared).any(is_elsewhere);
    // Clients would find what is somebody else's at the new address.
    let is_reached = refused.is_empty() || !moves && !found.listeners.is_empty();
    plan.problems.extend(refused);
    if !is_reached || !is_settled(&plan) || is_about_to_lose(found, desired) {
        return plan;
    }
    plan.tell = tell(intent, found, inputs);
    if !is_settled(&plan) {
        return plan;
    }
    let (plan, _) = take_away(plan, inputs, memory);
    leave(plan, [Some(&found.id), later], inputs, memory)
}

/// The next change of a load balancer that is active, if it is time for it.
fn go_on(plan: &mut Plan, wanted: &BalancerSpec, found: &Balancer, inputs: &Inputs<'_>, memory: &mut Memory) {
    let members_wait = memory.members_wait(inputs.now, inputs.settings.coalesce);
    match next(wanted, found, members_wait) {
        Next::Step(step) => {
            if matches!(*step, Step::SetMembers { .. }) {
                memory.replaced_members(inputs.now);
            }
            plan.steps.push(*step);
        }
        Next::Wait(after) => plan.wake_after = Some(after),
        Next::Done => {}
    }
}

fn is_settled(plan: &Plan) -> bool {
    plan.is_empty() && plan.wake_after.is_none()
}

/// Takes what the Service has on load balancers that are not its own off all but these.
fn leave(
    mut plan: Plan,
    but: [Option<&LoadBalancerId>; 2],
    inputs: &Inputs<'_>,
    memory: &mut Memory,
) -> Plan {
    let is_left = |found: &&Balancer| !but.contains(&Some(&found.id)) && found.carries_something();
    for found in inputs.actual.shared.iter().filter(is_left) {
        match found.state {
            State::Active => plan.steps.extend(stale(&BTreeMap::new(), found)),
            State::Pending | State::Deleting => plan = wait(plan, found, inputs, memory),
            State::Error => {
                plan.problems.push(in_error(found));
                plan.wake_after = Some(LOOK_AGAIN);
            }
        }
    }
    plan
}

/// Takes the Service's own load balancers away, and what only it has on those that others use, too. Tells whether nothing is to wait
/// for its floating IPs any more.
fn take_away(mut plan: Plan, inputs: &Inputs<'_>, memory: &mut Memory) -> (Plan, bool) {
    let Inputs { service, actual, .. } = inputs;
    let own = &actual.balancers;
    // What others have on it is not known now.
    if let Some(busy) = own.iter().find(|found| found.state == State::Pending) {
        return (wait(plan, busy, inputs, memory), false);
    }
    let mut is_given_up = false;
    if own.iter().all(|found| found.others.is_empty()) {
        let keeps = keeps_floating(service);
        let steps = floating::release(service, actual, keeps);
        if steps.is_empty() {
            memory.released();
        } else {
            plan.steps.extend(steps);
            let is_late = memory.releasing(inputs.now);
            // Later the port that a floating IP leads to is gone.
            let Some(left) = floating::may_be_left(service, actual, keeps).filter(|_| is_late) else {
                return (plan, false);
            };
            plan.problems.push(not_released(&left));
            is_given_up = true;
        }
    }
    for found in own {
        match (found.state, found.others.is_empty()) {
            (State::Active | State::Error, true) => plan.steps.push(delete(found)),
            (State::Active, false) => plan.steps.extend(stale(&BTreeMap::new(), found)),
            (State::Error | State::Pending | State::Deleting, _) => {}
        }
    }
    match own.iter().find(|found| found.state == State::Deleting) {
        Some(busy) => (wait(plan, busy, inputs, memory), is_given_up),
        None => (plan, is_given_up),
    }
}

fn not_released(addresses: &[IpAddr]) -> Problem {
    let addresses: Vec<String> = addresses.iter().take(NAMED).map(ToString::to_string).collect();
    let message = format!(
        "the cloud did not let floating IP {} go for minutes: all else goes without it, and it goes as soon as the cloud lets it",
        addresses.join(", ")
    );
    Problem { reason: "KuryrReleaseLB".to_owned(), message }
}

/// Towards no load balancer at all.
pub(super) fn towards_nothing(inputs: &Inputs<'_>, memory: &mut Memory) -> Plan {
    let Inputs { service, actual, .. } = inputs;
    // The finalizer says that what upstream made is still there for this Service.
    let upstreams = inputs.upstreams().filter(|_| service.has_finalizer);
    match upstreams {
        // Nobody could delete it but by hand, and a Service does not wait for that.
        Some(found) if found.state == State::Error => {}
        Some(found) => return adopt(found),
        None => {}
    }
    let problems = upstreams.map(not_adopted).into_iter().collect();
    let (plan, is_given_up_floating) = take_away(Plan { problems, ..Plan::default() }, inputs, memory);
    let mut plan = leave(plan, [None; 2], inputs, memory);
    // What stays for others stays without us. Of one that takes no change a Service does not wait: what is left there is
    // found by its tags.
    let is_left = |found: &Balancer| !found.others.is_empty() && !found.carries_something();
    let is_given_up = |found: &Balancer| !found.carries_something() || found.state == State::Error;
    let is_over = actual.balancers.iter().all(is_left) && actual.shared.iter().all(is_given_up);
    let is_waited_for = |step: &Step| !(is_given_up_floating && step.is_about_floating());
    if plan.steps.iter().any(is_waited_for) || !is_over {
        return plan;
    }
    memory.settled(State::Active);
    if actual.balancers.is_empty() {
        memory.is_gone();
    }
    // Without the finalizer it is not ours, and addresses that it has are told by somebody else.
    if service.has_finalizer {
        plan.problems.extend(actual.balancers.iter().map(stays));
        match service.told.is_empty() || service.is_leaving {
            true => plan.steps.push(Step::RemoveFinalizer),
            false => plan.tell = Some(vec![]),
        }
    }
    plan
}

/// Towards load balancers that let nobody in to the Service, if there are any.
pub(super) fn towards_closed(inputs: &Inputs<'_>, memory: &mut Memory) -> Plan {
    let mut plan = close_own(inputs, memory);
    for found in &inputs.actual.shared {
        let Some(listener) = found.listeners.first() else { continue };
        match found.state {
            State::Active => plan
                .steps
                .push(Step::DeleteListener { balancer: found.id.clone(), listener: listener.id.clone() }),
            State::Pending | State::Deleting => plan = wait(plan, found, inputs, memory),
            State::Error => {
                plan.problems.push(in_error(found));
                plan.wake_after = Some(LOOK_AGAIN);
            }
        }
    }
    plan
}

fn close_own(inputs: &Inputs<'_>, memory: &mut Memory) -> Plan {
    let Some(found) = choose(inputs) else {
        let leaving = inputs.actual.balancers.first();
        return leaving.map_or_else(Plan::default, |leaving| wait(Plan::default(), leaving, inputs, memory));
    };
    let mut plan = Plan::default();
    delete_doubles(&mut plan, found, inputs);
    match (found.state, found.listeners.first()) {
        (State::Pending | State::Deleting, _) => return wait(plan, found, inputs, memory),
        (State::Active, Some(listener)) => plan
            .steps
            .push(Step::DeleteListener { balancer: found.id.clone(), listener: listener.id.clone() }),
        (State::Error, _) if !found.others.is_empty() => {
            plan.problems.push(in_error(found));
            plan.wake_after = Some(LOOK_AGAIN);
        }
        // It takes no change.
        (State::Error, _) => drop(make_way(&mut plan, found, inputs)),
        (State::Active, None) => memory.settled(State::Active),
    }
    plan
}

/// The load balancer to go on with: one that clients know, if there are several.
pub(super) fn choose<'a>(inputs: &Inputs<'a>) -> Option<&'a Balancer> {
    let usable = |balancer: &&Balancer| balancer.state != State::Deleting;
    let rank = |balancer: &&Balancer| {
        (balancer.state == State::Error, !is_told(balancer, inputs), balancer.state, balancer.id.clone())
    };
    inputs.actual.balancers.iter().filter(usable).min_by_key(rank)
}

fn is_told(balancer: &Balancer, inputs: &Inputs<'_>) -> bool {
    let told = |address: IpAddr| inputs.service.told.iter().any(|ingress| ingress.ip == Some(address));
    let leads_here = |floating: &&super::Floating| {
        floating.port.is_some() && balancer.vips().any(|(_, port)| port == floating.port.as_ref())
    };
    balancer.vips().any(|(address, _)| told(address))
        || inputs.actual.floating.iter().filter(leads_here).any(|floating| told(floating.address))
}

/// Others of the name, which a lost answer left.
fn delete_doubles(plan: &mut Plan, kept: &Balancer, inputs: &Inputs<'_>) {
    let own = inputs.actual.balancers.iter();
    let others = own.filter(|other| other.id != kept.id && other.others.is_empty());
    for other in others.filter(|other| matches!(other.state, State::Active | State::Error)) {
        make_way(plan, other, inputs);
    }
}

/// Deletes a load balancer in whose place there is or will be another, unless a floating IP could not be found again; tells
/// whether it does.
fn make_way(plan: &mut Plan, found: &Balancer, inputs: &Inputs<'_>) -> bool {
    let (steps, may_go) = floating::hold(found, inputs.service, inputs.actual);
    plan.steps.extend(steps);
    plan.steps.extend(may_go.then(|| delete(found)));
    may_go
}

fn delete(balancer: &Balancer) -> Step {
    Step::DeleteBalancer { balancer: balancer.id.clone() }
}

/// Takes deletions out of a plan that were asked for a moment ago.
pub(super) fn delete_once(plan: &mut Plan, inputs: &Inputs<'_>, memory: &mut Memory) {
    let is_active = |found: &&Balancer| found.state == State::Active;
    let active: Vec<_> = inputs.actual.balancers.iter().filter(is_active).map(|found| &found.id).collect();
    let mut wake_after = plan.wake_after;
    plan.steps.retain(|step| match step {
        Step::DeleteBalancer { balancer } if active.contains(&balancer) => {
            let wait = memory.deletion_wait(balancer, inputs.now);
            wake_after = wake_after.into_iter().chain(wait).min();
            wait.is_none()
        }
        _ => true,
    });
    plan.wake_after = wake_after;
}

fn create(desired: &BalancerSpec, intent: &Intent, inputs: &Inputs<'_>, memory: &mut Memory) -> Plan {
    // What is left is being deleted; its name and address become free then.
    if let Some(leaving) = inputs.actual.balancers.first() {
        return wait(Plan::default(), leaving, inputs, memory);
    }
    if let Some(found) = inputs.upstreams() {
        return adopt(found);
    }
    // They follow a new Service within a moment; a tree that is made without them needs a second call.
    let endpoints = if inputs.endpoints.is_empty() { memory.endpoints_wait(inputs.now) } else { 0 };
    match memory.recreate_wait(inputs.now).max(endpoints) {
        0 => {
            memory.settled(State::Error);
            let (spec, problems) = made_whole(desired, intent, inputs, memory);
            Plan { steps: vec![Step::CreateBalancer(Box::new(spec))], problems, ..Plan::default() }
        }
        after => Plan { wake_after: Some(after), ..Plan::default() },
    }
}

/// Makes what upstream made ours. One that is no longer wanted is deleted after that.
fn adopt(found: &Stranger) -> Plan {
    match found.state {
        State::Active => {
            Plan { steps: vec![Step::AdoptBalancer { stranger: found.id.clone() }], ..Plan::default() }
        }
        _ => Plan { wake_after: Some(STRANGER), problems: vec![not_adopted(found)], ..Plan::default() },
    }
}

fn not_adopted(found: &Stranger) -> Problem {
    let message = format!(
        "load balancer {} has the ClusterIP and none of this cluster's tags, and takes no change now, so it cannot be given \
         them: repair it or delete it",
        found.id
    );
    Problem { reason: STUCK.to_owned(), message }
}

/// What is asked for by the call that makes it: with the addresses that clients know, as long as they can be had.
fn made_whole(
    desired: &BalancerSpec,
    intent: &Intent,
    inputs: &Inputs<'_>,
    memory: &mut Memory,
) -> (BalancerSpec, Vec<Problem>) {
    let mut spec = desired.clone();
    if !provider::capabilities(&spec.provider).takes_monitors_whole {
        spec.listeners.values_mut().for_each(|listener| listener.pool.monitor = None);
    }
    // Of one that is shared the address stays there.
    let is_free = |address: &IpAddr| {
        let mut shared = inputs.actual.shared.iter().flat_map(Balancer::vips);
        shared.all(|(vip, _)| vip != *address)
    };
    let told = inputs.service.told.iter().filter_map(|ingress| ingress.ip).filter(is_free);
    let known: Vec<IpAddr> = memory.vips().unwrap_or_default().iter().copied().chain(told).collect();
    let of = |prefix: &IpNet| known.iter().copied().find(|address| prefix.contains(address));
    let first = of(&intent.vip_subnet.1).filter(|_| spec.vip_address.is_none() && spec.vip_port.is_none());
    let wanted = intent.more_vips.iter();
    let more: Vec<_> = wanted.map(|(_, prefix, address)| of(prefix).filter(|_| address.is_none())).collect();
    if first.is_none() && more.iter().all(Option::is_none) {
        return (spec, vec![]);
    }
    if memory.vips().is_none() {
        let had: Vec<String> = first.iter().chain(more.iter().flatten()).map(ToString::to_string).collect();
        let message = format!(
            "address {} of the load balancer that was there could not be had again: clients have to use another",
            had.join(", ")
        );
        return (spec, vec![Problem { reason: STUCK.to_owned(), message }]);
    }
    memory.asks_for_same_address();
    spec.vip_address = spec.vip_address.or(first);
    spec.more_vips.iter_mut().zip(more).for_each(|((_, address), had)| *address = address.or(had));
    (spec, vec![])
}

/// The port that a floating IP can lead to: IPv6 is not translated.
fn translated(found: &Balancer) -> Option<&PortId> {
    let mut vips = found.vips();
    let of_v4 = vips.find(|(address, port)| address.is_ipv4() && port.is_some()).and_then(|(_, port)| port);
    of_v4.or(found.vip_port.as_ref())
}

fn has_family(found: &Balancer, like: IpAddr) -> bool {
    found.vip_address.is_none() || found.vips().any(|(address, _)| address.is_ipv6() == like.is_ipv6())
}

/// Without members of a family that the load balancer has no address of: a provider may refuse them.
fn fitted<'a>(desired: &'a BalancerSpec, found: &Balancer) -> Cow<'a, BalancerSpec> {
    let fits = |address: &IpAddr| has_family(found, *address);
    let mut pools = desired.listeners.values().map(|listener| &listener.pool);
    if pools.all(|pool| pool.members.keys().all(|(address, _)| fits(address))) {
        return Cow::Borrowed(desired);
    }
    let mut fitted = desired.clone();
    for listener in fitted.listeners.values_mut() {
        listener.pool.members.retain(|(address, _), _| fits(address));
    }
    Cow::Owned(fitted)
}

fn lacks_family(found: &Balancer, prefix: &IpNet) -> Problem {
    let family = if matches!(prefix, IpNet::V6(_)) { "IPv6" } else { "IPv4" };
    let message = format!(
        "load balancer {} was made without {family} address, and Octavia gives it none later: make the Service anew to \
         have one",
        found.id
    );
    Problem { reason: REASON.to_owned(), message }
}

/// Looks again as long as members are about to go: no pod gets their addresses before a look shows that they are gone.
///
/// Provider ovn removes only what it knows: of a member that it has removed, and that Octavia goes on deleting after an outage of
/// Neutron, it tells nothing, whatever members are asked for. Asked for that member alone it does.
pub(super) fn follow_leaving(plan: &mut Plan, inputs: &Inputs<'_>, memory: &mut Memory) {
    let mut all = inputs.actual.balancers.iter().chain(&inputs.actual.shared);
    let is_busy = all.any(|found| found.state == State::Pending);
    let leaving = || inputs.actual.leaving();
    let members = leaving().map(|(.., member)| member);
    let lost = memory.loses_members(members, is_busy, inputs.now, inputs.settings.activation);
    let Some((after, late)) = lost else { return };
    let late = late.filter(|_| plan.wake_after.is_none());
    let told = leaving().find(|(.., member)| Some(*member) == late.as_ref());
    plan.problems.extend(told.map(|(found, _, address, _)| never_loses(found, address, inputs)));
    plan.wake_after = plan.wake_after.into_iter().chain([after]).min();
    if plan.is_empty() {
        let stuck = memory.stuck_member(inputs.now);
        let asked = leaving().find(|(.., member)| Some(*member) == stuck.as_ref());
        plan.steps.extend(asked.map(|(found, pool, _, member)| Step::DeleteMember {
            balancer: found.id.clone(),
            pool: pool.id.clone(),
            member: member.clone(),
        }));
    }
}

fn never_loses(found: &Balancer, address: IpAddr, inputs: &Inputs<'_>) -> Problem {
    let message = format!(
        "load balancer {} has been about to lose member {address} for more than {} s: see `openstack loadbalancer status \
         show`; as long as its provider shows the member, no pod gets that address",
        found.id,
        inputs.settings.activation / 1000
    );
    Problem { reason: STUCK.to_owned(), message }
}

/// Nothing is asked of what is being changed.
fn wait(plan: Plan, busy: &Balancer, inputs: &Inputs<'_>, memory: &mut Memory) -> Plan {
    let (after, is_stuck) = memory.pending(inputs.now, inputs.settings.activation);
    let mut plan = Plan { wake_after: Some(after), ..plan };
    if is_stuck {
        plan.problems.push(Problem {
            reason: STUCK.to_owned(),
            message: format!(
                "load balancer {} has been pending for more than {} s: see `openstack loadbalancer status show`; its \
                 provider has to finish or give up before anything else can be done",
                busy.id,
                inputs.settings.activation / 1000
            ),
        });
    }
    plan
}

/// Between looks at one that is not ours and takes no change.
const STRANGER: Millis = 10_000;

/// Reason of Events about a load balancer that does not become usable; upstream's.
pub(super) const STUCK: &str = "KuryrEnsureLBError";

fn kept_for_others(found: &Balancer) -> Problem {
    let message = format!(
        "load balancer {} would have to be made anew to be as the Service says (provider, subnet, address or port of the VIP), \
         and carries {}: take back what was changed, or have the others use another load balancer",
        found.id,
        what_others_have(found)
    );
    Problem { reason: REASON.to_owned(), message }
}

fn stays(found: &Balancer) -> Problem {
    let message = format!(
        "load balancer {} stays with its addresses, since it carries {}: it goes with the last of them",
        found.id,
        what_others_have(found)
    );
    Problem { reason: "KuryrReleaseLB".to_owned(), message }
}

/// Listeners of others that a problem names at most.
const NAMED: usize = 3;

fn what_others_have(found: &Balancer) -> String {
    let others = &found.others.listeners;
    let named: Vec<&str> = others.iter().take(NAMED).map(|other| other.name.as_str()).collect();
    match (named.join(", "), others.len().saturating_sub(NAMED)) {
        (_, 0) if named.is_empty() => format!("{} pools of others", found.others.pools),
        (named, 0) => format!("listeners of others ({named})"),
        (named, more) => format!("listeners of others ({named} and {more} more)"),
    }
}

/// What is wanted without the ports that others have there.
fn free<'a>(
    wanted: Cow<'a, BalancerSpec>,
    found: &Balancer,
    inputs: &Inputs<'_>,
) -> (Cow<'a, BalancerSpec>, Vec<Problem>) {
    let share_ports = provider::shares_ports(inputs.settings.version);
    let other = |key: &(Protocol, u16)| taken(*key, found, share_ports);
    let problem = |key: &(Protocol, u16)| {
        let message = format!(
            "port {} {}: listener {} of somebody else has it on load balancer {}: choose another port or another load balancer",
            key.1,
            key.0.name(),
            other(key)?.name,
            found.id
        );
        Some(Problem { reason: "KuryrSkipListener".to_owned(), message })
    };
    let problems: Vec<Problem> = wanted.listeners.keys().filter_map(problem).collect();
    if problems.is_empty() {
        return (wanted, problems);
    }
    let mut wanted = wanted.into_owned();
    wanted.listeners.retain(|key, _| other(key).is_none());
    (Cow::Owned(wanted), problems)
}

fn made_anew(found: &Balancer) -> Problem {
    let message = format!(
        "load balancer {} is in state ERROR: it is deleted and made anew; if that goes on, look for its id in the log of \
         provider {}",
        found.id, found.provider
    );
    Problem { reason: STUCK.to_owned(), message }
}

/// Whether changes can make it what is wanted.
fn can_become(found: &Balancer, desired: &BalancerSpec) -> bool {
    // The older name of the same.
    let provider = |name: &str| if name == "octavia" { "amphora".to_owned() } else { name.to_owned() };
    provider(&found.provider) == provider(&desired.provider)
        && found.vip_subnet.as_ref().is_none_or(|subnet| *subnet == desired.vip_subnet)
        && desired.vip_address.is_none_or(|address| found.vip_address == Some(address))
        && desired.vip_port.as_ref().is_none_or(|port| found.vip_port.as_ref() == Some(port))
}

enum Next {
    Step(Box<Step>),
    Wait(Millis),
    Done,
}

/// The one next change of a load balancer that is active.
fn next(desired: &BalancerSpec, found: &Balancer, members_wait: Millis) -> Next {
    let mut waits = false;
    for (key, listener) in &desired.listeners {
        let Some(pool) = pool_of(*key, listener, found) else { continue };
        if members_differ(&listener.pool, pool) {
            if members_wait == 0 {
                let (balancer, to) = (found.id.clone(), but_leaving(&listener.pool, pool));
                let step = Step::SetMembers { balancer, pool: pool.id.clone(), to };
                return Next::Step(Box::new(step));
            }
            waits = true;
        }
    }
    let wanted = desired.listeners.iter().find_map(|(key, listener)| towards_listener(*key, listener, found));
    match wanted.or_else(|| stale(&desired.listeners, found)) {
        Some(step) => Next::Step(Box::new(step)),
        None if waits => Next::Wait(members_wait),
        None => Next::Done,
    }
}

fn towards_listener(key: (Protocol, u16), wanted: &ListenerSpec, found: &Balancer) -> Option<Step> {
    let balancer = found.id.clone();
    let Some(pool) = pool_of(key, wanted, found) else {
        let (name, pool) = (wanted.name.clone(), wanted.pool.clone());
        return Some(Step::CreatePool { balancer, name, pool });
    };
    if pool.algorithm != wanted.pool.algorithm || pool.is_persistent != wanted.pool.is_persistent {
        return Some(Step::UpdatePool { balancer, pool: pool.id.clone(), to: wanted.pool.clone() });
    }
    match listener_at(key, found) {
        // Members first: they come with the next plan.
        None if members_differ(&wanted.pool, pool) => None,
        None => {
            Some(Step::CreateListener { balancer, at: key, pool: pool.id.clone(), listener: wanted.clone() })
        }
        // The protocol of a listener cannot be changed, and two of them cannot share its port.
        Some(listener) if listener.protocol != wanted.protocol && !members_differ(&wanted.pool, pool) => {
            Some(Step::DeleteListener { balancer, listener: listener.id.clone() })
        }
        Some(listener) if listener.protocol != wanted.protocol => None,
        // It goes over to a pool with members.
        Some(listener) if listener.pool.as_ref() != Some(&pool.id) && members_differ(&wanted.pool, pool) => {
            None
        }
        Some(listener) if differs(listener, pool, wanted) => Some(Step::UpdateListener {
            balancer,
            listener: listener.id.clone(),
            pool: pool.id.clone(),
            to: wanted.clone(),
        }),
        Some(_) => towards_monitor(wanted, pool, found),
    }
}

fn towards_monitor(wanted: &ListenerSpec, pool: &FoundPool, found: &Balancer) -> Option<Step> {
    let balancer = found.id.clone();
    let monitor = match (&pool.monitor, &wanted.pool.monitor) {
        (None, None) => return None,
        (None, Some(monitor)) => {
            let (pool, name, monitor) = (pool.id.clone(), wanted.name.clone(), monitor.clone());
            return Some(Step::CreateMonitor { balancer, pool, name, monitor });
        }
        (Some(there), Some(to)) if there.spec == *to => return None,
        (Some(there), Some(to)) if there.spec.kind == to.kind => {
            return Some(Step::UpdateMonitor { balancer, monitor: there.id.clone(), to: to.clone() });
        }
        (Some(there), _) => there.id.clone(),
    };
    Some(Step::DeleteMonitor { balancer, monitor })
}

/// What nobody wants any more; listeners first, since a pool in use cannot go.
fn stale(desired: &BTreeMap<(Protocol, u16), ListenerSpec>, found: &Balancer) -> Option<Step> {
    let is_wanted = |listener: &&FoundListener| {
        let protocol = Protocol::below(&listener.protocol);
        protocol.is_some_and(|protocol| desired.contains_key(&(protocol, listener.port)))
    };
    if let Some(listener) = found.listeners.iter().find(|listener| !is_wanted(listener)) {
        return Some(Step::DeleteListener { balancer: found.id.clone(), listener: listener.id.clone() });
    }
    let wanted: Vec<_> =
        desired.iter().filter_map(|(key, listener)| pool_of(*key, listener, found)).collect();
    // One that is to be replaced is a listener's until the members of the other are there.
    let is_in_use =
        |pool: &FoundPool| found.listeners.iter().any(|listener| listener.pool.as_ref() == Some(&pool.id));
    let mut pools = found.pools.iter().filter(|pool| !is_in_use(pool));
    let pool = pools.find(|pool| wanted.iter().all(|wanted| wanted.id != pool.id))?;
    Some(Step::DeletePool { balancer: found.id.clone(), pool: pool.id.clone() })
}

fn listener_at((protocol, port): (Protocol, u16), found: &Balancer) -> Option<&FoundListener> {
    let is_at = |listener: &&FoundListener| {
        Protocol::below(&listener.protocol) == Some(protocol) && listener.port == port
    };
    found.listeners.iter().find(is_at)
}

/// The pool of a listener: of its name, with what members are to be sent, and with its algorithm where that cannot be changed and is
/// in force; of several, the one that it has.
fn pool_of<'a>(key: (Protocol, u16), wanted: &ListenerSpec, found: &'a Balancer) -> Option<&'a FoundPool> {
    let current = listener_at(key, found).and_then(|listener| listener.pool.as_ref());
    let changes = provider::capabilities(&found.provider).changes_algorithms;
    let can_be = |pool: &FoundPool| {
        changes || pool.algorithm == wanted.pool.algorithm && !is_overridden(pool, &found.pools)
    };
    let named = found
        .pools
        .iter()
        .filter(|pool| pool.name == wanted.name && pool.protocol == wanted.pool.protocol && can_be(pool));
    named.min_by_key(|pool| (Some(&pool.id) != current, &pool.id))
}

/// Whether another pool that was made since has another algorithm. Provider ovn has one algorithm for all pools of a load balancer and a
/// protocol, which is that of the pool that was made last. What was made in the same second may have been made since.
fn is_overridden(pool: &FoundPool, pools: &[FoundPool]) -> bool {
    let is_since = |other: &FoundPool| !pool.created.is_empty() && other.created >= pool.created;
    let differs = |other: &FoundPool| other.protocol == pool.protocol && other.algorithm != pool.algorithm;
    pools.iter().any(|other| differs(other) && is_since(other))
}

/// Whether members are wanted that it is about to lose ([`follow_leaving`] looks again).
fn is_about_to_lose(found: &Balancer, desired: &BalancerSpec) -> bool {
    desired.listeners.iter().any(|(key, wanted)| {
        let pool = pool_of(*key, wanted, found);
        pool.is_some_and(|pool| pool.leaving.keys().any(|at| wanted.pool.members.contains_key(at)))
    })
}

/// What is wanted of a pool but the members that it is about to lose. Asked for them, Octavia would change what it is deleting, and
/// then it is gone: they are asked for afterwards, and the others meanwhile.
fn but_leaving(wanted: &PoolSpec, found: &FoundPool) -> PoolSpec {
    let mut others = wanted.clone();
    others.members.retain(|at, _| !found.leaving.contains_key(at));
    others
}

/// Whether it has other members than are wanted, but for those that it is about to lose.
fn members_differ(wanted: &PoolSpec, found: &FoundPool) -> bool {
    let stay = wanted.members.keys().filter(|at| !found.leaving.contains_key(at));
    if stay.count() != found.members.len() {
        return true;
    }
    // A provider need not tell the subnet.
    let is_wanted = |member: &super::FoundMember| {
        wanted.members.get(&(member.address, member.port)).is_some_and(|spec| {
            member.subnet.is_none() || spec.subnet.is_none() || member.subnet == spec.subnet
        })
    };
    !found.members.iter().all(is_wanted)
}

fn differs(found: &FoundListener, pool: &FoundPool, wanted: &ListenerSpec) -> bool {
    let is_as_asked = |at: usize| match wanted.timeouts[at] {
        // A default of Octavia's that is the same today may be another tomorrow.
        Some(timeout) => found.timeouts[at] == Some(timeout) && found.asked_timeouts[at],
        None => !found.asked_timeouts[at],
    };
    found.pool.as_ref() != Some(&pool.id)
        || found.connection_limit != wanted.connection_limit
        || !(0..wanted.timeouts.len()).all(is_as_asked)
        || found.forwards_for != wanted.forwards_for
        || found.allowed != wanted.allowed
}

/// What the status should tell, if it tells something else; nothing as long as an address is not known.
fn tell(intent: &Intent, found: &Balancer, inputs: &Inputs<'_>) -> Option<Vec<Ingress>> {
    if !intent.is_told {
        // Of another class it is somebody else who tells.
        let is_left = inputs.service.kind != "LoadBalancer" && !inputs.service.told.is_empty();
        return is_left.then(Vec::new);
    }
    let is_proxied = intent.client_told != ClientTold::Not;
    let mut told = vec![];
    for (vip, port) in found.vips() {
        let is_wanted = intent.prefixes().any(|prefix| prefix.addr().is_ipv6() == vip.is_ipv6());
        let address = match (&intent.floating, port) {
            _ if !is_wanted => continue,
            (FloatingWish::None, _) => vip,
            _ if vip.is_ipv6() => vip,
            (FloatingWish::Theirs, port) => {
                let floating = port.and_then(|port| floating::address(&intent.floating, port, inputs.actual));
                floating.unwrap_or(vip)
            }
            (wish, Some(port)) => floating::address(wish, port, inputs.actual)?,
            (_, None) => return None,
        };
        told.push(Ingress { ip: Some(address), hostname: None, is_proxied });
    }
    if told.is_empty() {
        return None;
    }
    if let Some(hostname) = &intent.hostname {
        told = vec![Ingress { ip: None, hostname: Some(hostname.clone()), is_proxied: false }];
    }
    differs_from(inputs.service, told)
}

fn differs_from(service: &ServiceFacts, wanted: Vec<Ingress>) -> Option<Vec<Ingress>> {
    (service.told != wanted).then_some(wanted)
}

#[cfg(test)]
mod tests {
    use super::super::{
        Actual, External, Floating, MonitorSettings, MonitorSpec, OtherListener, Others, Settings,
        fixtures::{balancer, endpoint, service, settings},
        model::{self, Cloud, Fault},
        plan,
    };
    use super::*;

    #[derive(Clone)]
    struct Look {
        service: ServiceFacts,
        settings: Settings,
        actual: Actual,
        pods: Vec<super::super::EndpointFacts>,
    }

    fn look() -> Look {
        let mut service = service();
        service.has_finalizer = true;
        let settings = Settings { external: None, ..settings("ovn") };
        let actual = Actual { balancers: vec![balancer("b")], ..Actual::default() };
        Look { service, settings, actual, pods: vec![endpoint("10.1.0.7")] }
    }

    fn planned(look: &Look, now: Millis, memory: &mut Memory) -> Plan {
        let Look { service, settings, actual, pods } = look;
        plan(&Inputs { now, service, endpoints: pods, settings, actual }, memory)
    }

    fn names(plan: &Plan) -> Vec<&'static str> {
        plan.steps.iter().map(Step::name).collect()
    }

    fn steps(change: impl FnOnce(&mut Look)) -> Vec<&'static str> {
        let mut look = look();
        change(&mut look);
        names(&planned(&look, 1000, &mut Memory::default()))
    }

    #[test]
    fn a_floating_ip_is_tagged_or_told_before_the_port_that_tells_whose_it_is_goes() {
        let address: IpAddr = "203.0.113.7".parse().unwrap();
        let ingress = Ingress { ip: Some(address), hostname: None, is_proxied: false };
        let lost = |is_told: bool, change: fn(&mut Balancer)| {
            let mut look = look();
            look.settings.external = Some(External { network: "ext".into(), subnet: None });
            let port = Some("vip-b".into());
            look.actual.floating = vec![Floating {
                id: "f".into(),
                address,
                port,
                is_ours: false,
                is_made: true,
                is_marked: false,
                is_others: false,
                is_kept: false,
            }];
            look.service.told = is_told.then(|| ingress.clone()).into_iter().collect();
            change(&mut look.actual.balancers[0]);
            let plan = planned(&look, 0, &mut Memory::default());
            (names(&plan), plan.tell)
        };
        let changes: [fn(&mut Balancer); 2] =
            [|found| found.state = State::Error, |found| found.provider = "amphora".to_owned()];
        for change in changes {
            let first = (vec!["adopt_floating_ip"], Some(vec![ingress.clone()]));
            assert_eq!(lost(false, change), first);
            assert_eq!(lost(true, change), (vec!["adopt_floating_ip", "delete_load_balancer"], None));
        }
    }

    #[test]
    fn what_is_as_it_should_be_is_left_alone() {
        let mut look = look();
        look.service.told =
            vec![Ingress { ip: Some("10.1.0.100".parse().unwrap()), hostname: None, is_proxied: false }];
        assert_eq!(planned(&look, 0, &mut Memory::default()), Plan::default());
    }

    #[test]
    fn members_that_are_about_to_go_are_looked_at_until_they_are_gone_and_told_if_they_stay() {
        let mut look = look();
        look.service.told =
            vec![Ingress { ip: Some("10.1.0.100".parse().unwrap()), hostname: None, is_proxied: false }];
        look.actual.balancers[0].pools[0].leaving =
            [(("10.1.0.9".parse().unwrap(), 8080), "m".into())].into();
        let mut memory = Memory::default();
        let waits = [0, 250, 10_000, 20_000, 59_999];
        let waits = waits.map(|now| planned(&look, now, &mut memory));
        assert!(waits.iter().all(Plan::is_empty));
        assert_eq!(waits.map(|plan| plan.wake_after), [250, 250, 5000, 5000, 5000].map(Some));
        let asked = |now: Millis, memory: &mut Memory| names(&planned(&look, now, memory));
        assert_eq!(asked(60_000, &mut memory), ["delete_member"]);
        assert_eq!(asked(119_999, &mut memory), [""; 0], "it has been asked for");
        assert_eq!(asked(120_000, &mut memory), ["delete_member"]);
        let plan = planned(&look, 310_000, &mut memory);
        assert_eq!(plan.wake_after, Some(60_000));
        assert!(plan.problems[0].message.contains("10.1.0.9"), "{:?}", plan.problems);
        look.actual.balancers[0].pools[0].leaving.clear();
        assert_eq!(planned(&look, 400_000, &mut memory), Plan::default());
        look.actual.balancers[0].pools[0].leaving =
            [(("10.1.0.9".parse().unwrap(), 8080), "m".into())].into();
        assert_eq!(planned(&look, 500_000, &mut memory).wake_after, Some(250), "others");
    }

    #[test]
    fn members_that_stay_are_deleted_one_after_the_other() {
        let mut look = look();
        look.service.told =
            vec![Ingress { ip: Some("10.1.0.100".parse().unwrap()), hostname: None, is_proxied: false }];
        let leaving = ["1", "2", "3"].map(|id| ((format!("10.1.0.9{id}").parse().unwrap(), 8080), id.into()));
        look.actual.balancers[0].pools[0].leaving = leaving.into();
        // The last is wanted again.
        look.pods.push(endpoint("10.1.0.93"));
        let mut memory = Memory::default();
        let mut asked = vec![];
        for now in (0..=100_000).step_by(500) {
            let plan = planned(&look, now, &mut memory);
            let balancer = &mut look.actual.balancers[0];
            balancer.state = State::Active;
            let waits = plan.wake_after.filter(|_| plan.is_empty() && (1..3).contains(&asked.len()));
            assert!(waits <= Some(500), "{now}: {plan:?}");
            for step in &plan.steps {
                let Step::DeleteMember { member, .. } = step else { continue };
                asked.push((now, member.to_string()));
                balancer.pools[0].leaving.retain(|_, id| id != member);
                balancer.state = State::Pending;
            }
        }
        assert_eq!(asked, [(60_000, "1"), (61_000, "2"), (62_000, "3")].map(|(at, id)| (at, id.to_owned())));
    }

    #[test]
    fn members_that_stayed_and_are_wanted_come_back_together() {
        let mut look = look();
        let all: Vec<String> = (10..30).map(|last| format!("10.1.0.{last}")).collect();
        look.pods = all.iter().map(|address| endpoint(address)).collect();
        look.service.told =
            vec![Ingress { ip: Some("10.1.0.100".parse().unwrap()), hostname: None, is_proxied: false }];
        let pool = &mut look.actual.balancers[0].pools[0];
        let one = pool.members.remove(0);
        pool.leaving = all.iter().map(|at| ((at.parse().unwrap(), 8080), at.as_str().into())).collect();
        let (mut memory, mut replaced) = (Memory::default(), vec![]);
        let there = |(address, port)| super::super::FoundMember { address, port, ..one.clone() };
        let mut now = 0;
        while look.actual.balancers[0].pools[0].members.len() < all.len() {
            let plan = planned(&look, now, &mut memory);
            let pool = &mut look.actual.balancers[0].pools[0];
            for step in plan.steps {
                match step {
                    Step::DeleteMember { member, .. } => pool.leaving.retain(|_, id| *id != member),
                    Step::SetMembers { to, .. } => {
                        replaced.push(now);
                        pool.members = to.members.keys().map(|at| there(*at)).collect();
                    }
                    other => panic!("{other:?}"),
                }
            }
            now += 1000;
            assert!(now < 90_000, "60 s until the first, a second for each, and some");
        }
        assert_eq!(replaced, [61_000, 66_000, 71_000, 76_000, 81_000, 85_000]);
    }

    #[test]
    fn next_steps() {
        type Change = fn(&mut Look);
        let annotate = |look: &mut Look, name: &str, value: &str| {
            let name = format!("loadbalancer.openstack.org/{name}");
            look.service.annotations.insert(name, value.to_owned());
        };
        let monitored = |delay: u32| super::super::FoundMonitor {
            id: "h".into(),
            spec: MonitorSpec {
                kind: "TCP".to_owned(),
                settings: MonitorSettings { delay, timeout: 30, max_retries: 1, max_retries_down: 3 },
            },
        };
        for (found, wanted, expect) in [
            (None, "true", &["create_monitor"][..]),
            (None, "false", &[]),
            (Some(60), "true", &[]),
            (Some(61), "true", &["update_monitor"]),
            (Some(60), "false", &["delete_monitor"]),
        ] {
            let steps = steps(|look| {
                look.actual.balancers[0].pools[0].monitor = found.map(monitored);
                annotate(look, "enable-health-monitor", wanted);
            });
            assert_eq!(steps, expect, "{found:?} {wanted}");
        }
        let table: [(&str, Change, &[&str]); 19] = [
            ("no finalizer yet", |look| look.service.has_finalizer = false, &["add_finalizer"]),
            ("nothing there", |look| look.actual.balancers.clear(), &["create_load_balancer"]),
            ("another member", |look| look.pods.push(endpoint("10.1.0.8")), &["replace_members"]),
            ("no member", |look| look.pods.clear(), &["replace_members"]),
            (
                "a member that is about to go",
                |look| {
                    let pool = &mut look.actual.balancers[0].pools[0];
                    pool.leaving = pool
                        .members
                        .drain(..)
                        .map(|member| ((member.address, member.port), member.id))
                        .collect();
                },
                &[],
            ),
            (
                "another that is about to go",
                |look| {
                    look.actual.balancers[0].pools[0].leaving =
                        [(("10.1.0.9".parse().unwrap(), 8080), "m".into())].into();
                    look.pods.push(endpoint("10.1.0.8"));
                },
                &["replace_members"],
            ),
            (
                "another member while one that is wanted is about to go",
                |look| {
                    let pool = &mut look.actual.balancers[0].pools[0];
                    let goes = pool.members.pop().map(|member| ((member.address, member.port), member.id));
                    pool.leaving = goes.into_iter().collect();
                    look.pods.push(endpoint("10.1.0.8"));
                },
                &["replace_members"],
            ),
            ("pending", |look| look.actual.balancers[0].state = State::Pending, &[]),
            ("failed", |look| look.actual.balancers[0].state = State::Error, &["delete_load_balancer"]),
            ("being deleted", |look| look.actual.balancers[0].state = State::Deleting, &[]),
            ("another provider", |look| look.settings = settings("amphora"), &["delete_load_balancer"]),
            ("a double", |look| look.actual.balancers.push(balancer("c")), &["delete_load_balancer"]),
            ("no listener", |look| look.actual.balancers[0].listeners.clear(), &["create_listener"]),
            (
                "neither listener nor pool",
                |look| {
                    look.actual.balancers[0].listeners.clear();
                    look.actual.balancers[0].pools.clear();
                },
                &["create_pool"],
            ),
            (
                "sticky clients",
                |look| look.service.session_affinity = "ClientIP".to_owned(),
                &["create_pool"],
            ),
            (
                "limited by hand",
                |look| look.actual.balancers[0].listeners[0].connection_limit = Some(1),
                &["update_listener"],
            ),
            ("no port", |look| look.service.ports.clear(), &["delete_listener"]),
            (
                "a pool of nobody",
                |look| {
                    look.service.ports.clear();
                    look.actual.balancers[0].listeners.clear();
                },
                &["delete_pool"],
            ),
            (
                "a floating IP beside members",
                |look| {
                    look.settings.external = Some(External { network: "ext".into(), subnet: None });
                    look.pods.clear();
                },
                &["create_floating_ip", "replace_members"],
            ),
        ];
        for (name, change, expect) in table {
            assert_eq!(steps(change), expect, "{name}");
        }
    }

    /// A load balancer of provider amphora, which has something of its own.
    fn amphora(change: impl FnOnce(&mut Look)) -> Look {
        let mut look = look();
        look.settings = Settings { external: None, ..settings("amphora") };
        let found = &mut look.actual.balancers[0];
        found.provider = "amphora".to_owned();
        found.pools[0].algorithm = "ROUND_ROBIN".to_owned();
        change(&mut look);
        look
    }

    /// Kubernetes, "Session affinity". Provider ovn keeps clients at their members by the algorithm only, and leaves that of a pool
    /// as it is.
    #[test]
    fn a_pool_whose_algorithm_cannot_be_changed_is_replaced_while_it_serves() {
        let mut look = look();
        look.service.session_affinity = "ClientIP".to_owned();
        let step = |look: &Look| names(&planned(look, 1000, &mut Memory::default()));
        assert_eq!(step(&look), ["create_pool"]);
        let balancer = &mut look.actual.balancers[0];
        let before = balancer.pools[0].clone();
        let algorithm = "SOURCE_IP".to_owned();
        balancer.pools.push(FoundPool { id: "new".into(), algorithm, members: vec![], ..before.clone() });
        assert_eq!(step(&look), ["replace_members"], "first its members");
        look.actual.balancers[0].pools[1].members = before.members;
        assert_eq!(step(&look), ["update_listener"]);
        look.actual.balancers[0].listeners[0].pool = Some("new".into());
        assert_eq!(step(&look), ["delete_pool"]);
        look.actual.balancers[0].pools.remove(0);
        assert_eq!(step(&look), Vec::<&str>::new());
        // Another provider does as it is told.
        let sticky = amphora(|look| look.service.session_affinity = "ClientIP".to_owned());
        assert_eq!(step(&sticky), ["update_pool"]);
    }

    /// `helper.py` of ovn-octavia-provider 11.0, `pool_create`: the selection fields of OVN's load balancer become those of the new pool.
    #[test]
    fn a_pool_is_no_good_once_another_one_has_overridden_its_algorithm() {
        let mut look = look();
        look.service.session_affinity = "ClientIP".to_owned();
        let step = |look: &Look| names(&planned(look, 1000, &mut Memory::default()));
        let mut before = look.actual.balancers[0].pools[0].clone();
        (before.algorithm, before.created) = ("SOURCE_IP".to_owned(), "2026-11-22T18:21:09".to_owned());
        let made = |id: &str, algorithm: &str, created: &str| FoundPool {
            id: id.into(),
            algorithm: algorithm.to_owned(),
            created: created.to_owned(),
            ..before.clone()
        };
        let table = [
            (vec![], vec![], "nothing else"),
            (vec![made("p2", "SOURCE_IP_PORT", "2026-11-22T18:21:08")], vec!["delete_pool"], "made before"),
            (vec![made("p2", "SOURCE_IP_PORT", "2026-11-22T18:21:10")], vec!["create_pool"], "made since"),
            (
                vec![made("p2", "SOURCE_IP_PORT", "2026-11-22T18:21:09")],
                vec!["create_pool"],
                "in that second",
            ),
            (vec![made("p2", "SOURCE_IP_PORT", "")], vec!["delete_pool"], "nobody knows when"),
            (
                vec![
                    made("p2", "SOURCE_IP_PORT", "2026-11-22T18:21:10"),
                    made("p3", "SOURCE_IP", "2026-11-22T18:21:11"),
                ],
                vec!["update_listener"],
                "and one with it again",
            ),
        ];
        for (others, expect, what) in table {
            look.actual.balancers[0].pools = [vec![before.clone()], others].concat();
            assert_eq!(step(&look), expect, "{what}");
        }
    }

    #[test]
    fn a_timeout_that_nobody_asks_for_any_more_is_octavias_again() {
        let steps = |found: Option<u32>, is_asked: bool, wanted: Option<&str>| {
            let look = amphora(|look| {
                let listener = &mut look.actual.balancers[0].listeners[0];
                (listener.timeouts[0], listener.asked_timeouts[0]) = (found, is_asked);
                let name = "loadbalancer.openstack.org/timeout-client-data".to_owned();
                look.service.annotations.extend(wanted.map(|wanted| (name, wanted.to_owned())));
            });
            names(&planned(&look, 1000, &mut Memory::default()))
        };
        assert!(steps(Some(50_000), false, None).is_empty());
        assert_eq!(steps(Some(50_000), false, Some("7000")), ["update_listener"]);
        assert!(steps(Some(7000), true, Some("7000")).is_empty());
        assert_eq!(steps(Some(7000), true, None), ["update_listener"]);
        // As it is by default now, and has to stay so.
        assert_eq!(steps(Some(50_000), false, Some("50000")), ["update_listener"]);
    }

    #[test]
    fn members_learn_who_the_client_is_without_an_empty_pool() {
        let mut look = amphora(|look| {
            let name = "loadbalancer.openstack.org/x-forwarded-for".to_owned();
            look.service.annotations.insert(name, "true".to_owned());
        });
        let mut cloud = Cloud::of(look.actual.clone());
        let mut seen = vec![];
        for now in (0..200_000).step_by(10_000) {
            cloud.turn(false);
            look.actual = cloud.actual.clone();
            let plan = planned(&look, now, &mut Memory::default());
            for step in &plan.steps {
                seen.push(step.name());
                cloud.apply(step, &mut look.service, Fault::None);
            }
        }
        let expect = ["create_pool", "replace_members", "delete_listener", "create_listener", "delete_pool"];
        assert_eq!(seen, expect);
        let listener = &cloud.actual.balancers[0].listeners[0];
        assert_eq!((listener.protocol.as_str(), listener.forwards_for), ("HTTP", true));
        let told = planned(&look, 0, &mut Memory::default()).tell.unwrap();
        assert!(told[0].is_proxied);
    }

    #[test]
    fn a_pool_is_not_deleted_while_its_listener_waits_for_the_members_of_another() {
        let mut look = amphora(|look| {
            let name = "loadbalancer.openstack.org/x-forwarded-for".to_owned();
            look.service.annotations.insert(name, "true".to_owned());
            look.settings.coalesce = 250;
        });
        let mut memory = Memory::default();
        let before = look.actual.balancers[0].pools[0].clone();
        let new =
            FoundPool { id: "new".into(), protocol: "HTTP".to_owned(), members: vec![], ..before.clone() };
        look.actual.balancers[0].pools.push(new);
        assert_eq!(names(&planned(&look, 1000, &mut memory)), ["replace_members"]);
        look.actual.balancers[0].pools[1].members = before.members;
        look.pods.push(endpoint("10.1.0.8"));
        let plan = planned(&look, 1100, &mut memory);
        assert_eq!((names(&plan), plan.wake_after), (vec![], Some(150)));
    }

    #[test]
    fn one_that_is_made_anew_has_the_address_that_clients_know() {
        let asked = |plan: &Plan| match &plan.steps[..] {
            [Step::CreateBalancer(spec)] => spec.vip_address.map(|address| address.to_string()),
            other => panic!("{other:?}"),
        };
        let (mut look, mut memory) = (look(), Memory::default());
        look.actual.balancers[0].state = State::Error;
        assert_eq!(names(&planned(&look, 0, &mut memory)), ["delete_load_balancer"]);
        look.actual.balancers.clear();
        // It is asked for again, but not for ever: somebody else may have it by now.
        for _ in 0..3 {
            assert_eq!(asked(&planned(&look, 0, &mut memory)).as_deref(), Some("10.1.0.100"));
        }
        let told =
            |ip: &str| vec![Ingress { ip: Some(ip.parse().unwrap()), hostname: None, is_proxied: false }];
        look.service.told = told("10.1.0.100");
        let plan = planned(&look, 0, &mut memory);
        assert_eq!((asked(&plan), plan.problems.len()), (None, 1));
        // A controller that remembers nothing reads it from the status, unless it is a floating IP.
        let plan = planned(&look, 0, &mut Memory::default());
        assert_eq!(asked(&plan).as_deref(), Some("10.1.0.100"));
        look.service.told = told("203.0.113.7");
        assert_eq!(asked(&planned(&look, 0, &mut Memory::default())), None);
    }

    /// A Service with ClusterIP 10.96.0.7, and what is there of its name without our tags.
    fn at_cluster_ip(state: State, vip: &str) -> (Look, Stranger) {
        let mut look = look();
        look.service.kind = "ClusterIP".to_owned();
        look.service.cluster_ips = vec!["10.96.0.7".parse().unwrap()];
        look.settings.service_subnets.insert("c4".into(), "10.96.0.0/16".parse().unwrap());
        let (vip_address, vip_subnet) = (Some(vip.parse().unwrap()), Some("c4".into()));
        let stranger =
            Stranger { id: "x".into(), state, vip_address, vip_subnet, is_of_another_cluster: false };
        look.actual = Actual { strangers: vec![stranger.clone()], ..Actual::default() };
        (look, stranger)
    }

    #[test]
    fn what_upstream_made_for_a_cluster_ip_is_taken_over() {
        let steps = |look: &Look| names(&planned(look, 0, &mut Memory::default()));
        let (look, stranger) = at_cluster_ip(State::Active, "10.96.0.7");
        assert_eq!(steps(&look), ["adopt_load_balancer"]);
        let with = |stranger: Stranger| Actual { strangers: vec![stranger], ..Actual::default() };
        let elsewhere = Stranger { vip_subnet: Some("of another cluster".into()), ..stranger.clone() };
        assert_eq!(steps(&Look { actual: with(elsewhere), ..look.clone() }), ["remove_finalizer"]);
        let another = Stranger { is_of_another_cluster: true, ..stranger };
        assert_eq!(steps(&Look { actual: with(another), ..look.clone() }), ["remove_finalizer"]);
        // Without finalizer nothing says that it is Kuryr's, but whoever wants Octavia takes it.
        let mut new = Look { ..look.clone() };
        new.service.has_finalizer = false;
        assert_eq!(steps(&new), [""; 0]);
        new.settings.by_octavia = true;
        assert_eq!(steps(&new), ["add_finalizer"]);
        // One that is not wanted is taken, too, to be deleted; a Service does not wait for what cannot be.
        let (mut leaving, _) = at_cluster_ip(State::Active, "10.96.0.7");
        leaving.service.is_leaving = true;
        assert_eq!(steps(&leaving), ["adopt_load_balancer"]);
        leaving.actual.strangers[0].state = State::Error;
        let plan = planned(&leaving, 0, &mut Memory::default());
        assert_eq!((names(&plan), plan.problems.len()), (vec!["remove_finalizer"], 1));
        let (other, _) = at_cluster_ip(State::Active, "10.96.0.8");
        assert_eq!(steps(&other), ["remove_finalizer"]);
        let (broken, _) = at_cluster_ip(State::Error, "10.96.0.7");
        let plan = planned(&broken, 0, &mut Memory::default());
        assert_eq!((names(&plan), plan.problems.len()), (vec![], 1));
    }

    #[test]
    fn what_octavia_serves_stays_so_until_somebody_says_node() {
        let (mut look, _) = at_cluster_ip(State::Active, "10.96.0.7");
        let found = Balancer {
            vip_address: Some("10.96.0.7".parse().unwrap()),
            vip_subnet: Some("c4".into()),
            ..balancer("b")
        };
        look.actual = Actual { balancers: vec![found], ..Actual::default() };
        let plan = planned(&look, 0, &mut Memory::default());
        assert_eq!((names(&plan), plan.tell), (vec![], None));
        // It was of type LoadBalancer.
        look.service.told = vec![Ingress { ip: None, hostname: None, is_proxied: false }];
        assert_eq!(planned(&look, 0, &mut Memory::default()).tell, Some(vec![]));
        look.service.kind = "LoadBalancer".to_owned();
        look.service.class = Some("example.org/metal".to_owned());
        assert_eq!(planned(&look, 0, &mut Memory::default()).tell, None);
        let mode = kuryr_api::names::SERVICE_MODE_ANNOTATION.to_owned();
        look.service.annotations.insert(mode, "node".to_owned());
        assert_eq!(names(&planned(&look, 0, &mut Memory::default())), ["delete_load_balancer"]);
    }

    #[test]
    fn monitors_are_made_with_the_rest_where_the_provider_looks_at_them() {
        for (provider, expect) in [("amphora", true), ("ovn", false)] {
            let mut look = look();
            (look.settings, look.actual) = (settings(provider), Actual::default());
            look.settings.has_monitors = true;
            let plan = planned(&look, 0, &mut Memory::default());
            let [Step::CreateBalancer(spec)] = &plan.steps[..] else { panic!("{plan:?}") };
            assert!(spec.listeners.values().all(|listener| listener.pool.monitor.is_some() == expect));
        }
    }

    #[test]
    fn a_family_that_was_added_later_is_told_and_gets_no_members() {
        let mut look = look();
        look.service.families.push("IPv6".to_owned());
        look.pods.push(endpoint("fd00::7"));
        let plan = planned(&look, 0, &mut Memory::default());
        assert_eq!((names(&plan), plan.problems.len()), (vec![], 1), "{:?}", plan.problems);
        let vip = "fd00::100".parse().unwrap();
        look.actual.balancers[0].more_vips.push((vip, None));
        let plan = planned(&look, 0, &mut Memory::default());
        assert_eq!((names(&plan), plan.problems.len()), (vec!["replace_members"], 0));
        let told: Vec<_> = plan.tell.unwrap().into_iter().map(|ingress| ingress.ip).collect();
        assert_eq!(told, [Some("10.1.0.100".parse().unwrap()), Some(vip)]);
    }

    #[test]
    fn what_is_refused_is_closed() {
        let ranges = |look: &mut Look| look.service.source_ranges = vec!["10.0.0.0/8".to_owned()];
        assert_eq!(steps(ranges), ["delete_listener"]);
        let nothing_there = steps(|look| {
            ranges(look);
            look.actual.balancers.clear();
        });
        assert!(nothing_there.is_empty());
    }

    /// What somebody else has at TCP 81.
    fn others() -> Others {
        let listener = OtherListener { name: "theirs".to_owned(), protocol: "TCP".to_owned(), port: 81 };
        Others { listeners: vec![listener], pools: 1 }
    }

    /// A Service that names load balancer `x`, which is somebody else's.
    fn guest() -> Look {
        let mut look = look();
        let name = "loadbalancer.openstack.org/load-balancer-id".to_owned();
        look.service.annotations.insert(name, "x".to_owned());
        let x = Balancer {
            name: "theirs".to_owned(),
            vip_address: Some("10.1.0.200".parse().unwrap()),
            listeners: vec![],
            pools: vec![],
            others: others(),
            ..balancer("x")
        };
        look.actual = Actual { shared: vec![x], ..Actual::default() };
        look
    }

    /// Carries everything out until nothing is left to do; returns what was done, and `tell` with the address.
    fn done(look: &mut Look) -> Vec<String> {
        let mut cloud = Cloud::of(look.actual.clone());
        let (mut seen, mut memory) = (vec![], Memory::default());
        for now in (0..400_000).step_by(10_000) {
            cloud.turn(false);
            look.actual = cloud.actual.clone();
            let plan = planned(look, now, &mut memory);
            for step in &plan.steps {
                seen.push(step.name().to_owned());
                cloud.apply(step, &mut look.service, Fault::None);
            }
            let addresses = plan.tell.iter().flatten().filter_map(|ingress| ingress.ip);
            seen.extend(addresses.map(|address| format!("tell {address}")));
            model::tell(&mut look.service, plan.tell.clone());
        }
        seen
    }

    #[test]
    fn a_guest_stands_beside_others() {
        let mut look = guest();
        let made = ["create_pool", "replace_members", "create_listener", "tell 10.1.0.200"];
        assert_eq!(done(&mut look), made);
        assert_eq!(look.actual.shared[0].others, others());
        look.actual.floating.push(super::super::Floating {
            id: "f".into(),
            address: "203.0.113.7".parse().unwrap(),
            port: Some("vip-x".into()),
            is_ours: false,
            is_made: true,
            is_marked: false,
            is_others: false,
            is_kept: false,
        });
        assert_eq!(done(&mut look), ["tell 203.0.113.7"]);
        assert!(done(&mut look).is_empty());
        look.service.is_leaving = true;
        assert_eq!(done(&mut look), ["delete_listener", "delete_pool", "remove_finalizer"]);
        assert_eq!((&look.actual.shared[0].others, look.actual.floating.len()), (&others(), 1));
    }

    #[test]
    fn a_service_moves_before_it_leaves() {
        let mut look = guest();
        look.actual.balancers.push(balancer("b"));
        let there =
            ["create_pool", "replace_members", "create_listener", "tell 10.1.0.200", "delete_load_balancer"];
        assert_eq!(done(&mut look), there);
        look.service.annotations.clear();
        let [made, told, first, last] = &done(&mut look)[..] else { panic!() };
        assert_eq!((made.as_str(), &told[..5]), ("create_load_balancer", "tell "));
        assert_eq!((first.as_str(), last.as_str()), ("delete_listener", "delete_pool"));
        assert_eq!(look.actual.shared[0].others, others());
    }

    #[test]
    fn a_port_that_others_have_is_told_and_the_rest_served() {
        let mut look = guest();
        let more = super::super::PortFacts { port: 81, ..look.service.ports[0].clone() };
        look.service.ports.push(more);
        assert_eq!(done(&mut look).last().unwrap(), "tell 10.1.0.200");
        let problems = planned(&look, 0, &mut Memory::default()).problems;
        assert_eq!(problems.len(), 1);
        assert!(
            problems[0].reason == "KuryrSkipListener" && problems[0].message.contains("theirs"),
            "{problems:?}"
        );
        assert_eq!(look.actual.shared[0].listeners.len(), 1);
        look.actual.shared[0].others = Others::default();
        assert_eq!(done(&mut look), ["create_pool", "replace_members", "create_listener"]);
        // One that has another place stays there as long as a port is taken.
        let mut look = guest();
        look.service.ports[0].port = 81;
        look.actual.balancers.push(balancer("b"));
        assert!(done(&mut look).is_empty());
        assert_eq!(look.actual.balancers.len(), 1);
    }

    #[test]
    fn what_others_use_stays_when_its_service_goes() {
        let mut look = look();
        look.actual.balancers[0].others = others();
        look.actual.floating.push(super::super::Floating {
            id: "f".into(),
            address: "203.0.113.7".parse().unwrap(),
            port: Some("vip-b".into()),
            is_ours: true,
            is_made: true,
            is_marked: false,
            is_others: false,
            is_kept: false,
        });
        look.service.is_leaving = true;
        assert_eq!(done(&mut look), ["delete_listener", "delete_pool", "remove_finalizer"]);
        assert_eq!((look.actual.balancers.len(), look.actual.floating.len()), (1, 1));
        look.service.has_finalizer = true;
        let problems = planned(&look, 0, &mut Memory::default()).problems;
        assert!(problems[0].message.contains("theirs"), "{problems:?}");
        // They go, too, when there is no Service any more.
        look.service = ServiceFacts { uid: String::new(), is_leaving: true, ..service() };
        look.actual.balancers[0].others = Others::default();
        assert_eq!(done(&mut look), ["delete_floating_ip", "delete_load_balancer"]);
    }

    #[test]
    fn what_others_use_is_not_made_anew() {
        type Change = fn(&mut Look);
        let table: [(&str, Change); 4] = [
            ("it failed", |look| look.actual.balancers[0].state = State::Error),
            ("another provider", |look| look.settings = settings("amphora")),
            ("it failed, and is to be closed", |look| {
                look.service.source_ranges = vec!["10.0.0.0/8".to_owned()];
                look.actual.balancers[0].state = State::Error;
            }),
            ("where it is a guest failed", |look| {
                *look = guest();
                look.actual.shared[0].state = State::Error;
            }),
        ];
        for (name, change) in table {
            let mut look = look();
            look.actual.balancers[0].others = others();
            change(&mut look);
            let plan = planned(&look, 0, &mut Memory::default());
            assert!(plan.steps.is_empty() && !plan.problems.is_empty(), "{name}: {plan:?}");
        }
        let twice = steps(|look| {
            let used = Balancer { others: others(), ..balancer("c") };
            look.actual.balancers.push(used);
        });
        assert!(twice.is_empty(), "{twice:?}");
        // A Service that goes does not wait for what nobody can change.
        let mut look = guest();
        (look.actual.shared[0].listeners, look.actual.shared[0].state) =
            (balancer("x").listeners, State::Error);
        look.service.is_leaving = true;
        let plan = planned(&look, 0, &mut Memory::default());
        assert_eq!((names(&plan), plan.problems.len()), (vec!["remove_finalizer"], 1));
    }

    #[test]
    fn leaving_takes_everything_and_the_finalizer_last() {
        let floating = || super::super::Floating {
            id: "f".into(),
            address: "203.0.113.7".parse().unwrap(),
            port: Some("vip-b".into()),
            is_ours: true,
            is_made: true,
            is_marked: false,
            is_others: false,
            is_kept: false,
        };
        let leaving = |change: fn(&mut Look)| {
            steps(|look| {
                look.service.is_leaving = true;
                change(look);
            })
        };
        assert_eq!(leaving(|_| {}), ["delete_load_balancer"]);
        assert_eq!(leaving(|look| look.actual.balancers.clear()), ["remove_finalizer"]);
        assert!(leaving(|look| look.actual.balancers[0].state = State::Pending).is_empty());
        let mut look = look();
        (look.service.is_leaving, look.actual.floating) = (true, vec![floating()]);
        assert_eq!(names(&planned(&look, 0, &mut Memory::default())), ["delete_floating_ip"]);
        let keep = "loadbalancer.openstack.org/keep-floatingip";
        look.service.annotations.insert(keep.to_owned(), "true".to_owned());
        assert_eq!(names(&planned(&look, 0, &mut Memory::default())), ["keep_floating_ip"]);
        look.actual.floating[0].is_ours = false;
        assert_eq!(names(&planned(&look, 0, &mut Memory::default())), ["delete_load_balancer"]);
    }

    #[test]
    fn a_floating_ip_that_never_goes_holds_a_service_up_for_minutes_only() {
        const LATE: Millis = 300_000;
        let keep = "loadbalancer.openstack.org/keep-floatingip";
        let planned_twice = |is_ours, is_marked, keeps: bool, is_kept, has_balancer: bool| {
            let mut look = look();
            look.service.is_leaving = true;
            look.service.annotations.extend(keeps.then(|| (keep.to_owned(), "true".to_owned())));
            look.actual.floating = vec![Floating {
                id: "f".into(),
                address: "203.0.113.7".parse().unwrap(),
                port: Some("vip-b".into()).filter(|_| has_balancer),
                is_ours,
                is_made: true,
                is_marked,
                is_others: false,
                is_kept,
            }];
            if !has_balancer {
                look.actual.balancers.clear();
            }
            let mut memory = Memory::default();
            let plans = [0, LATE - 1, LATE].map(|now| planned(&look, now, &mut memory));
            let told = plans.iter().map(|plan| plan.problems.len()).collect::<Vec<_>>();
            (plans.map(|plan| names(&plan)[..].join(" ")), told)
        };
        let (delete, adopt, keep) = ("delete_floating_ip", "adopt_floating_ip", "keep_floating_ip");
        for (call, (is_ours, is_marked, keeps, is_kept)) in [
            (delete, (true, false, false, false)),
            (adopt, (false, true, false, false)),
            (keep, (true, false, true, true)),
        ] {
            for (has_balancer, then) in [(true, "delete_load_balancer"), (false, "remove_finalizer")] {
                let (plans, told) = planned_twice(is_ours, is_marked, keeps, is_kept, has_balancer);
                assert_eq!(plans, [call.to_owned(), call.to_owned(), format!("{call} {then}")]);
                assert_eq!(told, [0, 0, 1]);
            }
        }
        // Nothing but the port tells whose it is, or nothing but the Service that it is to be kept.
        for (call, (is_ours, is_marked, keeps, is_kept)) in
            [(adopt, (false, false, false, false)), (keep, (true, false, true, false))]
        {
            let (plans, _) = planned_twice(is_ours, is_marked, keeps, is_kept, true);
            assert_eq!(plans, [call; 3]);
        }
    }

    #[test]
    fn what_is_being_deleted_is_not_deleted_again_though_it_is_called_active() {
        let (mut look, mut memory) = (look(), Memory::default());
        look.service.is_leaving = true;
        assert_eq!(names(&planned(&look, 0, &mut memory)), ["delete_load_balancer"]);
        let plan = planned(&look, 6_000, &mut memory);
        assert_eq!((names(&plan), plan.wake_after), (vec![], Some(5_000)));
        let plan = planned(&look, 29_000, &mut memory);
        assert_eq!((names(&plan), plan.wake_after), (vec![], Some(1_000)));
        assert_eq!(names(&planned(&look, 30_000, &mut memory)), ["delete_load_balancer"]);
        // One that failed waits for nothing.
        look.actual.balancers[0].state = State::Error;
        assert_eq!(names(&planned(&look, 31_000, &mut memory)), ["delete_load_balancer"]);
    }

    #[test]
    fn a_service_of_another_type_is_told_nothing_any_more() {
        let mut look = look();
        look.service.kind = "ClusterIP".to_owned();
        look.service.told =
            vec![Ingress { ip: Some("10.1.0.100".parse().unwrap()), hostname: None, is_proxied: false }];
        look.actual.balancers.clear();
        let plan = planned(&look, 0, &mut Memory::default());
        assert_eq!((names(&plan), plan.tell), (vec![], Some(vec![])));
        let told = std::mem::take(&mut look.service.told);
        let plan = planned(&look, 0, &mut Memory::default());
        assert_eq!((names(&plan), plan.tell), (vec!["remove_finalizer"], None));
        // What another controller tells of its Service is left alone.
        (look.service.told, look.service.has_finalizer) = (told, false);
        let plan = planned(&look, 0, &mut Memory::default());
        assert_eq!((names(&plan), plan.tell), (vec![], None));
    }

    #[test]
    fn the_first_change_of_members_is_sent_at_once_and_others_together() {
        let (mut look, mut memory) = (look(), Memory::default());
        look.settings.coalesce = 250;
        look.pods.push(endpoint("10.1.0.8"));
        assert_eq!(names(&planned(&look, 1000, &mut memory)), ["replace_members"]);
        let plan = planned(&look, 1100, &mut memory);
        assert_eq!((names(&plan), plan.wake_after), (vec![], Some(150)));
        assert_eq!(names(&planned(&look, 1250, &mut memory)), ["replace_members"]);
    }

    #[test]
    fn the_address_is_told_when_clients_can_use_it() {
        let mut look = look();
        let vip = Ingress { ip: Some("10.1.0.100".parse().unwrap()), hostname: None, is_proxied: false };
        assert_eq!(planned(&look, 0, &mut Memory::default()).tell, Some(vec![vip]));
        look.settings.external = Some(External { network: "ext".into(), subnet: None });
        assert_eq!(planned(&look, 0, &mut Memory::default()).tell, None);
        look.actual.floating.push(super::super::Floating {
            id: "f".into(),
            address: "203.0.113.7".parse().unwrap(),
            port: Some("vip-b".into()),
            is_ours: true,
            is_made: true,
            is_marked: false,
            is_others: false,
            is_kept: false,
        });
        let outside = Ingress { ip: Some("203.0.113.7".parse().unwrap()), hostname: None, is_proxied: false };
        assert_eq!(planned(&look, 0, &mut Memory::default()).tell, Some(vec![outside]));
        let hostname = "loadbalancer.openstack.org/hostname";
        look.service.annotations.insert(hostname.to_owned(), "web.test".to_owned());
        let named = Ingress { ip: None, hostname: Some("web.test".to_owned()), is_proxied: false };
        assert_eq!(planned(&look, 0, &mut Memory::default()).tell, Some(vec![named]));
    }

    #[test]
    fn endpoints_of_a_new_service_are_waited_for_a_moment() {
        let (mut look, mut memory) = (look(), Memory::default());
        (look.actual, look.pods) = (Actual::default(), vec![]);
        assert_eq!(planned(&look, 0, &mut memory).wake_after, Some(1000));
        assert_eq!(names(&planned(&look, 1000, &mut memory)), ["create_load_balancer"]);
        look.pods.push(endpoint("10.1.0.7"));
        assert_eq!(names(&planned(&look, 0, &mut Memory::default())), ["create_load_balancer"]);
    }

    #[test]
    fn one_that_is_stuck_is_told() {
        let (mut look, mut memory) = (look(), Memory::default());
        look.actual.balancers[0].state = State::Pending;
        look.settings.activation = 300_000;
        let plan = planned(&look, 0, &mut memory);
        assert_eq!((plan.wake_after, plan.problems.len()), (Some(250), 0));
        let plan = planned(&look, 300_000, &mut memory);
        assert_eq!((plan.wake_after, plan.problems[0].reason.as_str()), (Some(60_000), STUCK));
    }
}

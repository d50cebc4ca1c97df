//! Creations of ports: each waits for its turn with the governor, and then runs beside the reconcile function, so
//! that a node whose ports are being made goes on being served.
//!
//! [`begin`] asks for a turn and hands the creation over; [`run`] makes the calls, as long as the leadership lasts.
//! Of a node at most one creation is under way, and planning counts its ports. Whatever becomes of it, [`Turn`] ends
//! it, tells the governor, and has the node looked at again.

use std::sync::Arc;

use kuryr_api::kuryrnode::Problem;
use kuryr_openstack::{
    Error as CloudError,
    neutron::port::{FixedIpRequest, PortCreate},
};
use kuryr_planning::{
    demand::{
        Urgency,
        governor::{Ended, Turn as Answer},
    },
    pool::{Millis, PortRequest},
};
use kuryr_types::SubnetId;
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::Key;
use crate::{
    cloud::{facts::Access, problem},
    term::Term,
    wiring::World,
};

/// A creation that has its turn.
#[derive(Debug)]
pub(crate) struct Creation {
    node: String,
    lane: String,
    request: PortRequest,
    count: usize,
    urgency: Urgency,
    access: Access,
}

/// What ports share that are made one request after the other: their subnets.
pub(super) fn lane(subnets: &[SubnetId]) -> String {
    subnets.iter().map(SubnetId::as_str).collect::<Vec<_>>().join(" ")
}

/// Begins a creation, or tells when to ask again.
pub(super) fn begin(
    node: &str,
    request: &PortRequest,
    (count, urgency): (usize, Urgency),
    access: &Access,
    world: &World,
    term: &Term,
) -> Option<Millis> {
    let lane = lane(&request.subnets);
    let mut state = term.state();
    let count = match state.governor.ask(world.now(), &lane, node, urgency, count) {
        Answer::Wait(until) => return Some(until),
        Answer::Now(count) => count,
    };
    state.making.insert(node.to_owned(), (request.purpose(), count));
    drop(state);
    let access = access.clone();
    let creation = Creation {
        node: node.to_owned(),
        lane: lane.clone(),
        request: request.clone(),
        count,
        urgency,
        access,
    };
    if term.creations.send(creation).is_err() {
        // The leadership is over.
        let mut state = term.state();
        state.making.remove(node);
        state.governor.end(world.now(), &lane, Ended::Dropped);
    }
    None
}

/// Makes what is wanted until the leadership is `over`, and waits for what is under way then.
pub(crate) async fn run(
    world: &Arc<World>,
    term: &Arc<Term>,
    mut wanted: mpsc::UnboundedReceiver<Creation>,
    over: CancellationToken,
) {
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = over.cancelled() => break,
            // As many as the governor gives turns.
            Some(creation) = wanted.recv() => {
                let turn = Turn { world: Arc::clone(world), term: Arc::clone(term), creation, ended: Ended::Dropped };
                running.spawn(turn.take());
            }
            Some(_) = running.join_next(), if !running.is_empty() => {}
        }
    }
    while running.join_next().await.is_some() {}
}

/// A turn; it ends when this is dropped.
struct Turn {
    world: Arc<World>,
    term: Arc<Term>,
    creation: Creation,
    ended: Ended,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Creation { node, lane, urgency, .. } = &self.creation;
        self.world.figures.asked_for_ports(*urgency, &self.ended);
        let ended = std::mem::replace(&mut self.ended, Ended::Dropped);
        let next = {
            let mut state = self.term.state();
            state.making.remove(node);
            state.governor.end(self.world.now(), lane, ended)
        };
        let keys = next.into_iter().chain([node.clone()]);
        keys.for_each(|node| self.world.look_at(Key::Node(node)));
    }
}

impl Turn {
    /// Makes the ports. Where the cloud has room for fewer, fewer are made.
    async fn take(mut self) {
        let Creation { node, request, access, count, .. } = &self.creation;
        let mut count = *count;
        self.ended = loop {
            if self.term.check().is_err() {
                return;
            }
            let (client, ownership) = (&access.client, &access.ownership);
            match client.create_ports(ownership, &vec![new_port(request); count]).await {
                Ok(ports) => {
                    let made = ports.len();
                    self.world.figures.created.inc_by(made as u64);
                    tracing::info!(node, count = made, "made ports");
                    self.term.ports.made(&access.owner, ports);
                    // Also if they were fewer than wanted: the next creation tells.
                    break Ended::Made(made);
                }
                Err(CloudError::QuotaExceeded { .. } | CloudError::NoFreeAddress { .. }) if count > 1 => {
                    count /= 2;
                }
                Err(error) => break self.failed(&error).await,
            }
        };
    }

    async fn failed(&self, error: &CloudError) -> Ended {
        if error.outcome_unknown() {
            self.term.ports.doubt(&self.creation.node);
            self.world.list_soon.notify_one();
        }
        let Creation { node, request, .. } = &self.creation;
        let subnets = lane(&request.subnets).replace(' ', ", ");
        let mut problem = problem::of(&format!("making ports in subnets {subnets}"), error);
        if let Some(figures) = self.figures(error).await {
            problem.message = format!("{}; {figures}", problem.message);
        }
        let Problem { reason, message } = &problem;
        tracing::warn!(node, reason, "{message}");
        let before =
            self.term.state().governor.blocked(&self.creation.lane).map(|blocked| blocked.problem.clone());
        let problem = problem::steady(problem, before.as_slice());
        if problem::is_of_whole_cloud(error) {
            Ended::CloudFailed { problem, wait: problem::asked_wait(error) }
        } else {
            Ended::Refused(problem)
        }
    }

    /// What is used of what ran out, as far as the cloud tells.
    async fn figures(&self, error: &CloudError) -> Option<String> {
        let Creation { request, access, .. } = &self.creation;
        match error {
            CloudError::QuotaExceeded { .. } => {
                let project = access.owner.project();
                let quota = *access.client.quotas(project).await.ok()?.get("port")?;
                Some(problem::quota_figures(project, quota))
            }
            CloudError::NoFreeAddress { .. } => {
                let mut figures = Vec::new();
                for id in &request.subnets {
                    let subnet = access.client.subnet(id).await.ok()?;
                    figures.push(problem::subnet_figures(&subnet, self.term.ports.addresses_in(id)));
                }
                Some(figures.join("; "))
            }
            _ => None,
        }
    }
}

fn new_port(request: &PortRequest) -> PortCreate {
    let subnet = |subnet: &SubnetId| FixedIpRequest { subnet_id: subnet.clone(), ip_address: None };
    PortCreate {
        fixed_ips: request.subnets.iter().map(subnet).collect(),
        security_groups: request.security_groups.clone(),
        host: request.host.clone(),
        device_owner: request.device_owner.to_owned(),
        tags: request.tags.clone(),
        ..PortCreate::on(request.network.clone(), request.name.clone())
    }
}

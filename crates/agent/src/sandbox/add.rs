//! ADD: a pod gets its interface.
//!
//! 1. Which pod: from the watch, by a held claim, or by asking (see [`crate::pods`]).
//! 2. Its turn.
//! 3. A port: the one it holds, or a ready one; else it waits, and an Event on the pod says for what.
//! 4. The claim durable.
//! 5. Attached. Answered. Reported afterwards by others.
//!
//! On a warm pool nothing outside of the node is asked between request and answer, unless the runtime does not tell the
//! pod's UID.

use std::{net::IpAddr, path::PathBuf, sync::atomic::Ordering, time::Duration};

use kuryr_api::{cni::Attachment, kuryrnode::PortEntry, names, node::CniRequest};
use kuryr_datapath::{PodLinks, Route};
use kuryr_planning::{
    attachment::{Links, told},
    claim::{Choice, Claim, Ledger, Need, Offer, Refusal, Sandbox, Verdict, Wait, choose},
};
use kuryr_types::{Generation, PodIdentity, PodRef, PortId};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{
    Sandboxes, pod_of,
    running::Guard,
    stages::{Stage, Stages},
};
use crate::{
    checkpoint::Ticket,
    error::{Error, Result},
    kuryrport::POST_AFTER,
    metrics::PortSource,
    node::NodeState,
    uplink::announce::DUE_EVERY,
    wiring::Work,
};

/// A pod that waits this long gets an Event. Shorter waits are normal in a burst.
const TELL_AFTER: Duration = Duration::from_secs(3);
/// How often the reasons of a wait are looked at again.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// With a switch that cannot be used there is no point in waiting out the whole time.
const SWITCH_MAY_BE_AWAY: Duration = Duration::from_secs(10);

/// A claimed port and what to make of it.
struct Taken {
    port: PortId,
    claim: Claim,
    /// This ADD made the claim; a failed write takes it back.
    is_new: bool,
    /// The connection of the pod's sandbox before this one.
    replaces: Option<u32>,
    ticket: Ticket,
    state: std::sync::Arc<NodeState>,
}

impl Sandboxes {
    /// Gives a sandbox its interface. `cancel` gives up.
    ///
    /// # Errors
    ///
    /// See [`Error`]; a claim that was made is kept for the pod.
    pub(crate) async fn add(&self, request: &CniRequest, cancel: CancellationToken) -> Result<Attachment> {
        let mut stages = Stages::start();
        self.disturb();
        let result = self.add_timed(request, cancel, &mut stages).await;
        match &result {
            Ok(_) => {
                tracing::debug!(container = request.container_id, "ADD: {stages}");
                self.faults.store(0, Ordering::Relaxed);
            }
            Err(error) if error.is_nodes_fault() => {
                self.faults.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => {}
        }
        self.disturb();
        self.metrics.stages(&stages);
        result
    }

    async fn add_timed(
        &self,
        request: &CniRequest,
        cancel: CancellationToken,
        stages: &mut Stages,
    ) -> Result<Attachment> {
        let deadline = Instant::now() + self.config.add_within;
        let pod = pod_of(request)?;
        let guard = self.running.begin(&request.container_id, &request.ifname, cancel).await;
        let interruptible = async {
            let identity = self.identity(&pod, request.pod_uid(), deadline).await?;
            let turn = self.turns.take(&identity, &request.ifname, deadline).await;
            let turn = turn.ok_or(Error::Busy { what: "turn of the pod" })?;
            stages.end(Stage::Pod);
            let taken = self.take_port(&pod, &identity, request, deadline).await?;
            stages.end(Stage::Port);
            Ok::<_, Error>((turn, taken))
        };
        let (_turn, taken) = tokio::select! {
            biased;
            taken = interruptible => taken?,
            () = guard.canceled() => return Err(guard.interrupted()),
        };
        // From here on nothing is left half done: a DEL that comes meanwhile waits for the end.
        let deadline = deadline.max(Instant::now() + LOOK_WITHIN);
        self.make_durable(&taken, deadline).await?;
        stages.end(Stage::Durable);
        let attachment = self.attach(&taken, request, &guard, deadline).await?;
        stages.end(Stage::Attach);
        self.queue.add_after(Work::KuryrPort(taken.port.clone()), POST_AFTER);
        self.queue.add_after(Work::Announcements, DUE_EVERY);
        Ok(attachment)
    }

    /// Which life of the pod the sandbox is for. A pod that holds a port is known by its claim, also while the API
    /// server is down, if its runtime tells its UID.
    async fn identity(&self, pod: &PodRef, uid: Option<&str>, deadline: Instant) -> Result<PodIdentity> {
        let Some(requested) = uid.map(PodIdentity::from) else {
            // The watch may still show the life before, and what that one holds is not this one's.
            return Ok(self.pods.find(pod, None, deadline).await?.identity());
        };
        match self.pods.judge(pod, Some(&requested)) {
            (Verdict::Refuse(refusal), _) => return Err(Error::Refused { pod: pod.clone(), refusal }),
            (Verdict::Go, Some(found)) => return Ok(found.identity()),
            (Verdict::Go | Verdict::LookAgain, _) => {}
        }
        if self.checkpoint.look(|_, ledger| ledger.held_by(&requested).is_some()) {
            return Ok(requested);
        }
        let found = self.pods.find(pod, Some(&requested), deadline).await?;
        Ok(found.identity())
    }

    /// Waits for a port and claims it.
    async fn take_port(
        &self,
        pod: &PodRef,
        identity: &PodIdentity,
        request: &CniRequest,
        deadline: Instant,
    ) -> Result<Taken> {
        let mut state = self.state.watch();
        let mut waiting: Option<Waiting<'_>> = None;
        loop {
            // Noted before the look: what changes after it wakes the wait below.
            state.borrow_and_update();
            let why = match self.try_to_take(pod, identity, request)? {
                Ok(taken) => {
                    let source = match (taken.is_new, &waiting) {
                        (false, _) => PortSource::Held,
                        (true, None) => PortSource::Ready,
                        (true, Some(_)) => PortSource::Waited,
                    };
                    self.metrics.port_taken(source);
                    return Ok(taken);
                }
                Err(why) => why,
            };
            if let Wait::HeldLost(port) = &why {
                self.queue.add(Work::Claim(port.clone()));
            }
            let waiting = waiting.get_or_insert_with(|| Waiting::begin(self));
            let now = self.state.get();
            waiting.tell(pod, &why, &now);
            if Instant::now() >= waiting.until(deadline, &now) {
                waiting.give_up(pod, &why, &now);
                return Err(no_port(pod, &why, &now));
            }
            self.still_wanted(pod, identity)?;
            let next = deadline.min(Instant::now() + LOOK_EVERY);
            // Elapsed only means: look again. The sender lives as long as `self`.
            let _ = timeout_at(next, state.changed()).await;
        }
    }

    /// Chooses and claims while holding the ledger, so that nobody else takes the same port.
    fn try_to_take(
        &self,
        pod: &PodRef,
        identity: &PodIdentity,
        request: &CniRequest,
    ) -> Result<std::result::Result<Taken, Wait>> {
        let (outcome, ticket) = self.checkpoint.change(|ledger| {
            let claimed = self.claim(ledger, pod, identity, request);
            (matches!(claimed, Ok(Ok(_))), claimed)
        });
        Ok(outcome?.map(|claimed| Taken { ticket, ..claimed }))
    }

    fn claim(
        &self,
        ledger: &mut Ledger,
        pod: &PodRef,
        identity: &PodIdentity,
        request: &CniRequest,
    ) -> Result<std::result::Result<Taken, Wait>> {
        let state = self.state.get();
        // Claims may be wrong as long as the checkpoint has not been judged.
        if state.own.is_none() || !state.surveyed {
            return Ok(Err(Wait::NoOffer));
        }
        let offer = state.offer();
        let class = offer.as_ref().and_then(|offer| offer.spec().default_class.as_ref());
        let need = class.map(Need::Interchangeable);
        let port = match choose(identity, need, offer.as_ref(), ledger, &state.ready) {
            Choice::Held(port) | Choice::Take(port) => port,
            Choice::Wait(why) => return Ok(Err(why)),
        };
        let (generation, links) = self.describe(&port, offer.as_ref(), ledger)?;
        let before = ledger.claims.get(&port);
        let is_new = before.is_none();
        let old = before.and_then(|claim| claim.sandbox.as_ref());
        let same = old.filter(|old| old.container_id == request.container_id && old.netns == request.netns);
        let sandbox = match same {
            // The same sandbox once more: carry on with what it has.
            Some(same) => same.clone(),
            None => Sandbox {
                container_id: request.container_id.clone(),
                ifname: request.ifname.clone(),
                netns: request.netns.clone(),
                netns_id: None,
                host_ifname: names::host_end_name(port.as_str()),
                host_ifindex: None,
            },
        };
        let replaces = old.filter(|_| same.is_none()).and_then(|old| old.host_ifindex);
        let claim =
            Claim { generation, pod: pod.clone(), identity: identity.clone(), links, sandbox: Some(sandbox) };
        ledger.claim(&port, claim.clone());
        Ok(Ok(Taken { port, claim, is_new, replaces, ticket: Ticket::default(), state }))
    }

    /// The links of a port: by the record where it has the offer, else as they were when it was claimed.
    fn describe(
        &self,
        port: &PortId,
        offer: Option<&Offer<'_>>,
        ledger: &Ledger,
    ) -> Result<(Generation, Links)> {
        let held = ledger.claims.get(port);
        let entry = offer.and_then(|offer| offer.spec().ports.get_key_value(port).zip(Some(offer.spec())));
        let of_same_offer = |entry: &PortEntry| held.is_none_or(|held| held.generation == entry.generation);
        match (entry, held) {
            (Some(((_, entry), spec)), _) if of_same_offer(entry) => {
                let links = Links::of(entry, spec, self.state.get().mtu_cap(self.config.mtu_cap));
                let links = links.map_err(|source| Error::Incomplete { port: port.clone(), source })?;
                Ok((entry.generation, links))
            }
            (_, Some(held)) => Ok((held.generation, held.links.clone())),
            // Chosen from the offer, so it is in there.
            (_, None) => Err(Error::BrokenOff { what: "a port was chosen that nobody offers" }),
        }
    }

    /// A pod that leaves while it waits needs no port.
    fn still_wanted(&self, pod: &PodRef, identity: &PodIdentity) -> Result<()> {
        let refuse = |refusal| Err(Error::Refused { pod: pod.clone(), refusal });
        match self.pods.judge(pod, Some(identity)) {
            (Verdict::Refuse(refusal), _) => refuse(refusal),
            (Verdict::LookAgain, Some(_)) => refuse(Refusal::Gone),
            _ => Ok(()),
        }
    }

    /// Waits until the claim is on disk. A new claim that does not get there is taken back: the kernel was not touched.
    async fn make_durable(&self, taken: &Taken, deadline: Instant) -> Result<()> {
        let durable = timeout_at(deadline, self.checkpoint.durable(taken.ticket)).await;
        let result = durable.unwrap_or(Err(Error::Busy { what: "disk of the checkpoint" }));
        if result.is_err() && taken.is_new {
            self.checkpoint.change(|ledger| (true, ledger.unclaim(&taken.port, &taken.claim.identity)));
        }
        result
    }

    async fn attach(
        &self,
        taken: &Taken,
        request: &CniRequest,
        guard: &Guard,
        deadline: Instant,
    ) -> Result<Attachment> {
        let permit = timeout_at(deadline, self.attaching.acquire()).await;
        // The semaphore is never closed.
        let Ok(Ok(_permit)) = permit else { return Err(Error::Busy { what: "kernel" }) };
        guard.check()?;
        let pod = self.pod_links(taken, request)?;
        let host_ifname = pod.host_ifname.clone();
        let replaces = taken.replaces;
        let attached = self.kernel.urgent("attach the pod", move |node| {
            if let Some(old) = replaces {
                node.cut(old)?;
            }
            let attached = node.attach(&pod)?;
            Ok((attached, node.has_entries()))
        });
        if let Some(old) = replaces {
            self.uncleared.add(&taken.port, vec![old]);
        }
        let (attached, has_host_end) = attached.await?;
        let netns_id = attached.netns.to_string();
        let (stands, _) = self.checkpoint.change(|ledger| {
            let stands = stands(ledger, taken);
            (stands && ledger.joined(&taken.port, attached.host_ifindex, &netns_id), stands)
        });
        if !stands {
            let index = attached.host_ifindex;
            self.kernel
                .urgent("cut off a pod that holds no port any more", move |node| node.cut(index))
                .await?;
            return Err(no_port(&taken.claim.pod, &Wait::NoOffer, &self.state.get()));
        }
        let host_ifname = has_host_end.then_some(host_ifname.as_str());
        Ok(told::attachment(&taken.claim.links, &request.ifname, &request.netns, host_ifname))
    }

    fn pod_links(&self, taken: &Taken, request: &CniRequest) -> Result<PodLinks> {
        let links = &taken.claim.links;
        // Ready means that there is an uplink; it may have gone since.
        let uplink = taken.state.uplinks.get(&taken.port).copied();
        let uplink = uplink.ok_or_else(|| {
            no_port(&taken.claim.pod, &Wait::HeldNotReady(taken.port.clone()), &taken.state)
        })?;
        let host_ifname = names::host_end_name(taken.port.as_str());
        let place = (PathBuf::from(&request.netns), request.ifname.clone(), host_ifname);
        Ok(links_of(links, place, uplink, taken.state.node_addresses.clone()))
    }

    /// Joins a pod that is connected to the interface that took the place of its uplink.
    pub(crate) async fn rejoin(&self, port: &PortId, claim: &Claim, uplink: u32) -> Result<()> {
        let Some(sandbox) = &claim.sandbox else { return Ok(()) };
        let deadline = Instant::now() + LOOK_WITHIN;
        let Some(_turn) = self.turn(&claim.identity, &sandbox.ifname, deadline).await else { return Ok(()) };
        let unchanged = self.checkpoint.look(|_, ledger| ledger.claims.get(port) == Some(claim));
        if !unchanged {
            return Ok(());
        }
        tracing::info!(%port, pod = %claim.pod, uplink, "joining to another uplink");
        let place = (PathBuf::from(&sandbox.netns), sandbox.ifname.clone(), sandbox.host_ifname.clone());
        let pod = links_of(&claim.links, place, uplink, self.state.get().node_addresses.clone());
        let attached =
            self.kernel.urgent("join a pod to another uplink", move |node| node.attach(&pod)).await?;
        let netns_id = attached.netns.to_string();
        self.checkpoint.change_if(|ledger| ledger.joined(port, attached.host_ifindex, &netns_id));
        Ok(())
    }
}

/// Whether the claim is still there that an ADD has made: another Node may have taken the place of this one.
fn stands(ledger: &Ledger, taken: &Taken) -> bool {
    let sandbox = |claim: &Claim| claim.sandbox.as_ref().map(|sandbox| sandbox.container_id.clone());
    ledger.claims.get(&taken.port).is_some_and(|claim| {
        claim.identity == taken.claim.identity && sandbox(claim) == sandbox(&taken.claim)
    })
}

/// A pod's links; `place` is the path of its namespace, the interface there, and the node's end.
fn links_of(
    links: &Links,
    (netns, ifname, host_ifname): (PathBuf, String, String),
    uplink: u32,
    node_addresses: Vec<IpAddr>,
) -> PodLinks {
    let route = |route: kuryr_planning::attachment::Route| Route { dst: route.dst, via: route.via };
    PodLinks {
        netns,
        ifname,
        host_ifname,
        mac: links.mac,
        mtu: links.mtu,
        addresses: links.addresses.iter().map(|address| address.address).collect(),
        routes: links.all_routes().into_iter().map(route).collect(),
        uplink,
        vlan: links.vlan,
        node_addresses,
    }
}

/// A pod that waits.
struct Waiting<'a> {
    sandboxes: &'a Sandboxes,
    since: Instant,
    /// The reason that was told last.
    told: Option<String>,
}

impl<'a> Waiting<'a> {
    fn begin(sandboxes: &'a Sandboxes) -> Self {
        sandboxes.waiting.fetch_add(1, Ordering::Relaxed);
        Self { sandboxes, since: Instant::now(), told: None }
    }

    /// Until when it is worth waiting.
    fn until(&self, deadline: Instant, state: &NodeState) -> Instant {
        if state.way().is_missing() { deadline.min(self.since + SWITCH_MAY_BE_AWAY) } else { deadline }
    }

    /// Says on the pod what it waits for, and again when that turns out to be something else: the controller may need
    /// some seconds to find out why it cannot provide ports.
    fn tell(&mut self, pod: &PodRef, why: &Wait, state: &NodeState) {
        if self.since.elapsed() < TELL_AFTER {
            return;
        }
        let (reason, message) = explain(why, state);
        if self.told.as_ref() == Some(&reason) {
            return;
        }
        tracing::info!(%pod, reason, "waits for a port: {message}");
        self.warn(pod, event(why, state), &format!("{reason}: {message}"));
        self.told = Some(reason);
    }

    /// Says on the pod that its ADD ends without a port.
    fn give_up(&self, pod: &PodRef, why: &Wait, state: &NodeState) {
        let (reason, message) = explain(why, state);
        self.warn(pod, why.event_of_end(), &format!("{reason}: {message}"));
    }

    fn warn(&self, pod: &PodRef, event: &str, message: &str) {
        if let Some(reference) = self.sandboxes.pods.reference(pod) {
            self.sandboxes.events.warning(&reference, event, message);
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.sandboxes.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

fn no_port(pod: &PodRef, why: &Wait, state: &NodeState) -> Error {
    let (reason, why) = explain(why, state);
    Error::NoPort { pod: pod.clone(), reason, why }
}

/// The word and the sentence for a person: what the node lacks comes first, then what the controller says, then what
/// the pod waits for.
fn explain(why: &Wait, state: &NodeState) -> (String, String) {
    let problems = state.problems();
    let way = state.way();
    if way.is_missing() {
        return (way.reason, way.message);
    }
    if state.own.is_none() && !state.kubernetes_in_sync {
        let message = "the API server does not answer kuryr-daemon, which has just started and cannot know yet \
                       which ports are its own";
        return ("KubernetesUnreachable".to_owned(), message.to_owned());
    }
    let of_controller =
        problems.first().filter(|_| matches!(why, Wait::NoReadyPort { .. } | Wait::NotAssigned));
    let reason = of_controller.map_or(why.reason(), |problem| problem.reason.as_str());
    (reason.to_owned(), why.explain(problems))
}

/// Upstream's word for it, by which tools know such Events.
fn event(why: &Wait, state: &NodeState) -> &'static str {
    if state.way().is_missing() { "CNIWaitingForActiveVIFs" } else { why.event(state.problems().first()) }
}

/// How long a caller that only wants to know may be kept.
pub(super) const LOOK_WITHIN: Duration = Duration::from_secs(10);

/// Bounds a look at the kernel.
pub(super) async fn within<T>(what: &'static str, work: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(LOOK_WITHIN, work).await.unwrap_or(Err(Error::Busy { what }))
}

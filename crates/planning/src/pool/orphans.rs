//! Ports of ours that no record speaks for: those of a node whose record somebody deleted by force, or whose
//! creation became known only after the node was gone.
//!
//! 1. An orphan is named by no record, and made for no node that has one. What carries our tags but is nothing
//!    that this version makes is left alone.
//! 2. It is condemned after a grace period, for a node may be about to get its record.
//! 3. It is cut off (unbound, or taken off its trunk or its server's port), rests, and is deleted.
//! 4. One that the cloud did not let us change or delete is left alone for a while, and keeps no others waiting.

use std::collections::{BTreeMap, BTreeSet};

use kuryr_api::kuryrnode::KuryrNodeSpec;
use kuryr_types::PortId;

use super::{
    inputs::{Held, Limits, Millis},
    memory::{Memory, RestReason},
    server::{Servers, pairs_of},
    step::CloudStep,
    trunk::{HeldUp, Trunks},
};
use crate::ownership::{OurPort, Purpose};

/// Orphans that are looked after in one plan; the rest follows.
const AT_ONCE: usize = 4;

/// What is known of trunks and of servers, `None` while nobody has looked; and of orphans themselves.
#[derive(Debug, Clone, Copy, Default)]
pub struct Carriers<'a> {
    /// Trunks.
    pub trunks: Option<&'a Trunks>,
    /// Ports of servers.
    pub servers: Option<&'a Servers>,
    /// Orphans whose last change failed.
    pub held_up: Option<&'a BTreeMap<PortId, HeldUp>>,
}

/// What to do about orphans, and when to look again.
#[must_use]
pub fn plan(
    now: Millis,
    ports: &[OurPort],
    records: &BTreeMap<&str, &KuryrNodeSpec>,
    held: Held<'_>,
    carriers: Carriers<'_>,
    limits: &Limits,
    memory: &mut Memory,
) -> (Vec<CloudStep>, Option<Millis>) {
    let orphans = orphans(ports, records);
    let ids: BTreeSet<&PortId> = orphans.iter().map(|port| &port.id).collect();
    memory.retain(|id| ids.contains(id));

    let (mut steps, mut wake_at) = (Vec::new(), None);
    for port in orphans {
        match next(port, now, held, carriers, limits, memory) {
            Next::Step(step) => steps.push(step),
            Next::LookAgain(at) => wake_at = wake_at.into_iter().chain([at]).min(),
        }
    }
    if steps.len() > AT_ONCE {
        steps.truncate(AT_ONCE);
        wake_at = Some(now);
    }
    (steps, wake_at)
}

/// Those of `ports` that no record speaks for.
#[must_use]
pub fn orphans<'a>(ports: &'a [OurPort], records: &BTreeMap<&str, &KuryrNodeSpec>) -> Vec<&'a OurPort> {
    let named: BTreeSet<&PortId> = records
        .values()
        .flat_map(|spec| spec.ports.keys().chain(spec.own_port.as_ref().map(|own| &own.id)))
        .collect();
    let is_orphan = |port: &&OurPort| {
        port.purpose() != Purpose::Unknown
            && !named.contains(&port.id)
            && !records.keys().any(|node| port.is_of_node(node))
    };
    ports.iter().filter(is_orphan).collect()
}

enum Next {
    Step(CloudStep),
    LookAgain(Millis),
}

fn next(
    port: &OurPort,
    now: Millis,
    held: Held<'_>,
    carriers: Carriers<'_>,
    limits: &Limits,
    memory: &mut Memory,
) -> Next {
    let condemned = port.purpose() == Purpose::Condemned;
    let id = port.id.clone();
    if let Some(held_up) =
        carriers.held_up.and_then(|held_up| held_up.get(&id)).filter(|held| now < held.until)
    {
        return Next::LookAgain(held_up.until);
    }
    if condemned && port.may_be_subport() {
        // Whoever looks at the trunks has us look again.
        let Some(trunks) = carriers.trunks else { return Next::LookAgain(now + limits.cool_down.max(1)) };
        if let Some(at) = trunks.attached.get(&id) {
            let trunk = at.trunk.clone();
            return match trunks.held_up.get(&trunk).filter(|held_up| now < held_up.until) {
                Some(held_up) => Next::LookAgain(held_up.until),
                None => Next::Step(CloudStep::RemoveSubports { trunk, ports: vec![id] }),
            };
        }
    } else if condemned && port.is_for_pairs() {
        let Some(servers) = carriers.servers else { return Next::LookAgain(now + limits.cool_down.max(1)) };
        let pairs = pairs_of(port);
        if let Some((server, found)) = servers.with_any(&pairs).next() {
            return match servers.held_up.get(server).filter(|held_up| now < held_up.until) {
                Some(held_up) => Next::LookAgain(held_up.until),
                None => {
                    Next::Step(CloudStep::RemovePairs { server: server.clone(), ports: vec![(id, found)] })
                }
            };
        }
    } else if condemned && port.host.is_some() {
        return Next::Step(CloudStep::Cut { id });
    }
    let (reason, wait) = match condemned {
        true => (RestReason::Condemned, limits.cool_down),
        false => (RestReason::Orphaned, limits.node_grace),
    };
    match held.free_since(memory.resting_since(&id, reason, held.has(port), now)) {
        Some(since) if now >= since + wait && condemned => Next::Step(CloudStep::Delete { id }),
        Some(since) if now >= since + wait => Next::Step(CloudStep::Condemn { id }),
        Some(since) => Next::LookAgain(since + wait),
        None => Next::LookAgain(now + wait.max(1)),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::super::fixtures;
    use super::*;
    use crate::ownership::{condemned_name, pool_port_name};

    #[test]
    fn an_orphan_is_condemned_cut_and_deleted_in_time() {
        let limits = Limits { node_grace: 60, cool_down: 30, ..fixtures::limits() };
        let own_port = Some(fixtures::own_port("named"));
        let spec = KuryrNodeSpec { own_port, ..KuryrNodeSpec::default() };
        let records = BTreeMap::from([("w1", &spec)]);
        let mut memory = Memory::default();
        let told_since = Cell::new(Some(0));
        let mut look_at = |id, now, name: &str, host: Option<&str>, held: bool| {
            let port = fixtures::port(id, name, host);
            let addresses = &if held { port.ips().collect() } else { BTreeSet::new() };
            let held = Held { addresses, told_since: told_since.get() };
            plan(now, &[port], &records, held, Carriers::default(), &limits, &mut memory)
        };
        assert_eq!(
            look_at("named", 0, &pool_port_name("w2"), None, false),
            (vec![], None),
            "a record names it"
        );
        assert_eq!(look_at("other", 0, "of-another-version", None, false), (vec![], None));
        let mut look = |now, name: &str, host, held| look_at("p", now, name, host, held);
        let (orphan, condemned) = (pool_port_name("w2"), condemned_name(&pool_port_name("w2")));
        let id = || PortId::from("p");
        assert_eq!(look(0, &pool_port_name("w1"), Some("h"), false), (vec![], None), "its node plans for it");
        assert_eq!(look(0, &orphan, Some("h"), false), (vec![], Some(60)));
        assert_eq!(look(60, &orphan, Some("h"), false), (vec![CloudStep::Condemn { id: id() }], None));
        assert_eq!(look(61, &condemned, Some("h"), false), (vec![CloudStep::Cut { id: id() }], None));
        assert_eq!(look(62, &condemned, None, true), (vec![], Some(92)), "somebody refers to it");
        assert_eq!(look(70, &condemned, None, false), (vec![], Some(100)));
        told_since.set(None);
        assert_eq!(look(90, &condemned, None, false), (vec![], Some(120)), "nobody would tell");
        told_since.set(Some(95));
        assert_eq!(look(120, &condemned, None, false), (vec![], Some(125)), "somebody may have until 95");
        assert_eq!(look(125, &condemned, None, false), (vec![CloudStep::Delete { id: id() }], None));
    }
}

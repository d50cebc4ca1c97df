//! Neutron, as far as the replay goes: the ports of one subnet, one after the other.

use std::collections::VecDeque;

use kuryr_planning::pool::Millis;

use super::Model;

/// The subnet of all pods.
pub(crate) const SUBNET: &str = "subnet";

/// Requests that are under way.
#[derive(Debug, Default)]
pub(crate) struct Neutron {
    requests: VecDeque<(Millis, Done)>,
    free_at: Millis,
    made: u32,
}

/// A request that is done.
#[derive(Debug)]
pub(crate) struct Done {
    /// Who asked.
    pub(crate) node: String,
    /// How many ports.
    pub(crate) count: usize,
    /// Their numbers.
    pub(crate) ports: std::ops::Range<u32>,
}

impl Neutron {
    /// Begins to make ports when those that were asked for before are made.
    pub(crate) fn create(&mut self, now: Millis, node: &str, count: usize, model: Model) {
        let number = u32::try_from(count).unwrap_or(u32::MAX);
        let at = now.max(self.free_at) + model.request + model.port * Millis::from(number);
        let ports = self.made..self.made + number;
        (self.free_at, self.made) = (at, ports.end);
        self.requests.push_back((at, Done { node: node.to_owned(), count, ports }));
    }

    /// Takes the requests that are done.
    pub(crate) fn done(&mut self, now: Millis) -> Vec<Done> {
        let count = self.requests.iter().take_while(|(at, _)| *at <= now).count();
        self.requests.drain(..count).map(|(_, done)| done).collect()
    }

    /// When the next one is.
    pub(crate) fn next(&self) -> Option<Millis> {
        self.requests.front().map(|(at, _)| *at)
    }
}

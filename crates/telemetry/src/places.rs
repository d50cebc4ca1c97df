//! Who of all that connect to a server is served.
//!
//! A probe or a scrape takes milliseconds. So nobody is turned away: when there is no place, whoever has held one for the
//! longest gives it up. That hits those who hold connections, however many they are together, and not a kubelet or a load
//! balancer that asks while they do.
//!
//! - A client has so many places; one more costs it its own oldest.
//! - Where all places are taken, the client with the most of them loses its oldest.
//! - The node's own processes have places beside all others: a kubelet that is not answered kills the program.

use std::net::IpAddr;

/// Connections at a time, without those of the node itself: load balancers, a few scrapers, a few people.
const PLACES: usize = 64;
/// Connections at a time of one client.
const OF_ONE: usize = 8;
/// Connections at a time, all together.
pub(crate) const PLACES_IN_ALL: usize = PLACES + OF_ONE;

/// Who is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Client {
    /// A process of the node that connects to an address of the node, by the very same address as the kernel chooses it.
    Node,
    /// Somebody at this address.
    At(IpAddr),
}

impl Client {
    /// Who has connected from `peer` to `local`.
    pub(crate) fn new(peer: IpAddr, local: IpAddr) -> Self {
        if peer == local { Self::Node } else { Self::At(peer) }
    }
}

/// Connections that are served, the oldest first.
#[derive(Debug)]
pub(crate) struct Places<C> {
    held: Vec<(Client, C)>,
}

impl<C> Default for Places<C> {
    fn default() -> Self {
        Self { held: Vec::new() }
    }
}

impl<C> Places<C> {
    /// Makes room for one more connection of `client`: returns the connection that has to end for it.
    pub(crate) fn make_room(&mut self, client: Client) -> Option<C> {
        let others = self.held.iter().filter(|(holder, _)| *holder != Client::Node).count();
        let loser = if self.held_by(client) >= OF_ONE {
            client
        } else if client == Client::Node || others < PLACES {
            return None;
        } else {
            self.greediest()?
        };
        let at = self.held.iter().position(|(holder, _)| *holder == loser)?;
        Some(self.held.remove(at).1)
    }

    /// Notes a connection for which there is room.
    pub(crate) fn take(&mut self, client: Client, connection: C) {
        self.held.push((client, connection));
    }

    /// Notes that connections have ended.
    pub(crate) fn leave(&mut self, has_ended: impl Fn(&C) -> bool) {
        self.held.retain(|(_, connection)| !has_ended(connection));
    }

    /// Who of all but the node has most places; among equals the one that has held one for the longest.
    fn greediest(&self) -> Option<Client> {
        let holders = self.held.iter().map(|(holder, _)| *holder).filter(|holder| *holder != Client::Node);
        // The last of equals is taken.
        holders.rev().max_by_key(|holder| self.held_by(*holder))
    }

    fn held_by(&self, client: Client) -> usize {
        self.held.iter().filter(|(holder, _)| *holder == client).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(last: u8) -> Client {
        Client::new(IpAddr::from([10, 0, 0, last]), IpAddr::from([10, 0, 0, 0]))
    }

    /// Connects one after another; tells who lost a connection each time, by its place in this row.
    fn connect(clients: impl IntoIterator<Item = Client>) -> (Places<usize>, Vec<usize>) {
        let (mut places, mut lost) = (Places::default(), Vec::new());
        for (number, client) in clients.into_iter().enumerate() {
            lost.extend(places.make_room(client));
            places.take(client, number);
            assert!(places.held.len() <= PLACES_IN_ALL);
        }
        (places, lost)
    }

    #[test]
    fn who_has_all_that_one_gets_loses_its_own_oldest() {
        let greedy = vec![at(1); OF_ONE];
        assert_eq!(connect(greedy.iter().copied().chain([at(2)])).1, [0; 0]);
        assert_eq!(connect(greedy.into_iter().chain([at(1), at(2), at(1)])).1, [0, 1]);
        assert_eq!(connect(vec![at(0); OF_ONE + 1]).1, [0], "the node, too");
    }

    #[test]
    fn many_together_keep_nobody_out() {
        let greedy: Vec<Client> = (0..PLACES).map(|n| at(u8::try_from(n / OF_ONE).unwrap() + 1)).collect();
        let one_more = |client| connect(greedy.iter().copied().chain([client])).1;
        assert_eq!(one_more(at(99)), [0]);
        assert_eq!(one_more(at(2)), [OF_ONE], "its own");
        assert_eq!(one_more(at(0)), [0; 0], "the node has its own places");
        // Whoever has one is not touched while others have more.
        let (mut places, _) = connect(greedy.iter().copied().chain([at(99), at(98)]));
        for number in PLACES + 2..4 * PLACES {
            let client = at(u8::try_from(number % OF_ONE).unwrap() + 1);
            let lost = places.make_room(client).unwrap();
            assert!(lost != PLACES && lost != PLACES + 1, "{lost}");
            places.take(client, number);
        }
    }

    #[test]
    fn among_equals_the_oldest_goes() {
        let clients = (0..PLACES).map(|n| at(u8::try_from(n).unwrap() + 1));
        assert_eq!(connect(clients.chain([at(99), at(98), at(97)])).1, [0, 1, 2]);
    }

    #[test]
    fn who_leaves_has_left_room() {
        let (mut places, _) = connect((0..PLACES).map(|n| at(u8::try_from(n).unwrap() + 1)));
        places.leave(|number| *number == 7);
        assert_eq!(places.make_room(at(99)), None);
        places.take(at(99), 64);
        assert_eq!(places.make_room(at(98)), Some(0));
    }
}

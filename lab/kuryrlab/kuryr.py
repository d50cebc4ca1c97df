"""Kuryr itself, run as its user would run it: manifests applied, one kuryr.conf, tokens of service accounts, processes
in their places.

The controller runs beside the control plane, an agent on each node in the node's namespaces. An agent's token is bound
to its Node object, so that the API server knows which node is speaking.
"""

import json
import signal
import subprocess
import time
from pathlib import Path

from . import cgroups, places, settings as s
from .failure import Failure
from .lab import Lab
from .node import NodeMachine
from .server import facts_file
from .settings import REPOSITORY, Node, Settings

CONTROLLER_ACCOUNT, AGENT_ACCOUNT, NAMESPACE = "kuryr-controller", "kuryr-daemon", "kube-system"
MANIFESTS = ("crds", "rbac", "admission")
TOKEN_LIFE = "8760h"
START_SECONDS = 0.5  # a wrong configuration shows within it
CONTROLLER = "controller"


def parts(settings: Settings) -> tuple[str, ...]:
    """Return the names by which Kuryr's processes are called on the command line."""
    return (CONTROLLER,) + tuple(n.name for n in settings.nodes)


def configuration(lab: Lab, token: Path, facts: dict) -> str:
    """Return kuryr.conf as a user of this cloud would write it."""
    user = lab.settings.user
    project, password = s.USERS[user]
    return f"""[DEFAULT]
debug = false

[kubernetes]
api_root = {s.API_URL}
ssl_ca_crt_file = {lab.kubernetes.pki.file("ca.crt")}
token_file = {token}
endpoints_driver_octavia_provider = ovn

[neutron]
auth_url = {s.KEYSTONE_URL}
username = {user}
password = {password}
project_name = {project}
user_domain_name = Default
project_domain_name = Default
region_name = {s.REGION}

[neutron_defaults]
project = {facts["project"]}
pod_subnets = {facts["pods_v4"]},{facts["pods_v6"]}
external_svc_net = {facts["external_network"]}

[vif_pool]
ports_pool_min = 5
ports_pool_batch = 10
"""


def without_credentials(text: str) -> str:
    """Return the configuration of an agent: nodes hold no OpenStack credentials."""
    return "\n\n".join(section for section in text.split("\n\n") if not section.startswith("[neutron]"))


def paths_of_node(machine: NodeMachine) -> str:
    """Return what an agent must be told because its node shares disk and kernel with others: its records, the runtime's
    directory, the cgroup of its processes, its OVS if it has one.
    """
    switch = "" if machine.n.nested else f"ovsdb_connection = unix:{machine.run}/ovs/db.sock\n"
    return f"""
[cni_daemon]
state_dir = {machine.state}/kuryr
cni_conf_dir = {machine.cni_configuration}
cgroup_dir = {cgroups.tracking() / machine.settings.node_cgroup(machine.n)}
{switch}"""


class Kuryr:
    """The processes of Kuryr in one lab."""

    def __init__(self, lab: Lab, binaries: Path | None = None, cni: Path | None = None, manifests: Path | None = None):
        self.lab, self.folder = lab, lab.settings.state / "kuryr"
        self.binaries = binaries or REPOSITORY / "target" / "release"
        self.cni = cni or REPOSITORY / "target" / "x86_64-unknown-linux-gnu" / "cni" / "kuryr-cni"
        self.manifests = manifests or REPOSITORY / "deploy"

    @classmethod
    def recorded(cls, lab: Lab) -> "Kuryr":
        """Return Kuryr with the binaries that it was last started from."""
        if not (lab.settings.state / "kuryr" / "origin.json").exists():
            return cls(lab)
        return cls(lab, *[Path(p) for p in json.loads((lab.settings.state / "kuryr" / "origin.json").read_text())])

    def name(self, part: str) -> str:
        """Return the process name of a part."""
        return "kuryr-controller" if part == CONTROLLER else f"{part}-kuryr-daemon"

    def start(self, parts: tuple[str, ...]) -> list[str]:
        """Start parts that do not run; return the names of those that were started."""
        self.prepare()
        (self.folder / "origin.json").write_text(
            json.dumps([str(p) for p in (self.binaries, self.cni, self.manifests)])
        )
        started = [
            part
            for part in parts
            if (self.start_controller() if part == CONTROLLER else self.start_agent(self.lab.settings.node(part)))
        ]
        time.sleep(START_SECONDS if started else 0)
        for part in started:
            if not self.lab.processes.alive(self.name(part)):
                raise Failure(f"{self.name(part)} ended at once", self.lab.processes.log(self.name(part)))
        return started

    def prepare(self) -> None:
        """Apply the manifests and make sure of the service accounts."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for kind in MANIFESTS:
            if list((self.manifests / kind).glob("*.yaml")):
                self.lab.kubernetes.apply(self.manifests / kind)
        for account in (CONTROLLER_ACCOUNT, AGENT_ACCOUNT):
            self.lab.kubernetes.call(
                "POST",
                f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts",
                {"metadata": {"name": account}},
                accept=(409,),
            )

    def configure(self, part: str, token: Path) -> Path:
        """Write a part's configuration."""
        facts = json.loads(facts_file(self.lab.settings).read_text())
        target = self.folder / ("kuryr.conf" if part == CONTROLLER else f"kuryr-{part}.conf")
        text = configuration(self.lab, token, facts)
        if part != CONTROLLER:
            text = without_credentials(text) + paths_of_node(self.lab.machines[part])
        target.touch(mode=0o600)
        target.write_text(text)
        return target

    def variables(self, part: str) -> dict[str, str]:
        """Return what a part has in its environment besides what the lab gives it: nothing."""
        return {}

    def token(self, name: str, account: str, n: Node | None = None) -> Path:
        """Fetch a service account token, bound to the Node if there is one, and return the file it is in.

        While the API server is away it is the one of before: what a kubelet has given to a pod stays there, too.
        """
        target = self.folder / f"{name}.token"
        if target.exists() and not self.lab.processes.alive("kube-apiserver"):
            return target
        words = ["create", "token", account, "-n", NAMESPACE, f"--duration={TOKEN_LIFE}"]
        if n:
            uid = self.lab.kubernetes.call("GET", f"/api/v1/nodes/{n.name}")["metadata"]["uid"]
            words += ["--bound-object-kind=Node", f"--bound-object-name={n.name}", f"--bound-object-uid={uid}"]
        done = subprocess.run(self.lab.kubernetes.kubectl(words), capture_output=True, text=True)
        if done.returncode:
            raise Failure(f"no token for {account}: {done.stderr.strip()}")
        target.touch(mode=0o600)
        target.chmod(0o600)
        target.write_text(done.stdout.strip())
        return target

    def binary(self, name: str) -> Path:
        path = self.binaries / name
        if not path.exists():
            raise Failure(f"{path} does not exist", fix="build it (cargo build --release), or say --bin DIRECTORY")
        return path

    def start_controller(self) -> bool:
        """Start the controller beside the control plane."""
        if self.lab.processes.alive(self.name(CONTROLLER)):
            return False
        config = self.configure(CONTROLLER, self.token(CONTROLLER, CONTROLLER_ACCOUNT))
        return self.lab.processes.start(
            self.name(CONTROLLER),
            places.control(self.lab.settings),
            [self.binary("kuryr-controller"), "--config-file", config],
            self.variables(CONTROLLER),
        )

    def start_agent(self, n: Node) -> bool:
        """Install the CNI binary on a node and start its agent."""
        if self.lab.processes.alive(self.name(n.name)):
            return False
        machine = self.lab.machines[n.name]
        if not self.cni.exists():
            raise Failure(f"{self.cni} does not exist", fix="build it, or say --cni-binary FILE")
        machine.install_timed("kuryr-cni", self.cni)
        config = self.configure(n.name, self.token(n.name, AGENT_ACCOUNT, n))
        return self.lab.processes.start(
            self.name(n.name),
            machine.place(cgroups.KURYR_LEAF),
            [self.binary("kuryr-daemon"), "--config-file", config],
            {"KUBERNETES_NODE_NAME": n.name, "PATH": f"{self.lab.settings.run}/bin:{places.PATH}"}
            | self.variables(n.name),
        )

    def stop(self, parts: tuple[str, ...], how: int = signal.SIGTERM, seconds: float = 20) -> list[str]:
        """Stop parts; return those that ran."""
        return [part for part in parts if self.lab.processes.stop(self.name(part), seconds, how)]

    def status(self) -> list[tuple[str, int | None]]:
        """Return each part with its process id, or None."""
        return [(part, self.lab.processes.pid(self.name(part))) for part in parts(self.lab.settings)]

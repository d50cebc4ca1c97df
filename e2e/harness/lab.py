"""Where things of a lab are, and commands in its places. Names, addresses and paths are the lab's own (`lab/kuryrlab`)."""
import json
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "lab"))
# Compiled files would belong to root: keep them out of the checkout.
sys.dont_write_bytecode = True

from kuryrlab import cgroups, places, power, rights, settings as names  # noqa: E402
from kuryrlab.failure import Failure  # noqa: E402
from kuryrlab.lab import Lab as Parts  # noqa: E402

from .expect import Unmet  # noqa: E402

COMMAND_SECONDS = 180


class Lab:
    """A running lab, by name."""

    def __init__(self, name: str):
        self.settings = names.Settings(name=name)
        self.settings.options = names.Options.load(self.settings.options_file)
        self.parts = Parts(self.settings)
        self.processes = self.parts.processes
        facts = self.settings.state / "neutron.json"
        if not facts.exists() or not self.processes.alive("kube-apiserver"):
            raise SystemExit(f"lab {name!r} is not up: run `lab/lab --name {name} up`")
        # Ids and addresses of what the lab has in Neutron: networks, router, server.
        self.facts = json.loads(facts.read_text())

    @property
    def nodes(self) -> list[str]:
        """Names of the nodes."""
        return [n.name for n in self.settings.nodes]

    def node(self, name: str) -> names.Node:
        """Return a node: its kind, its addresses, its links."""
        return self.settings.node(name)

    @property
    def kinds(self) -> set[str]:
        """The kinds of nodes that there are."""
        return {n.kind for n in self.settings.nodes}

    def first(self, kind: str) -> str:
        """Return the first node of a kind, which the lab must have."""
        return next(n.name for n in self.settings.nodes if n.kind == kind)

    def trunk(self, node: str) -> str:
        """Return the id of the trunk of a node that is a virtual machine."""
        return self.facts["nodes"][node]["trunk"]

    def note_trunk(self, node: str, trunk: str) -> None:
        """Note that a node's trunk was made anew, for those who come later, too."""
        self.facts["nodes"][node]["trunk"] = trunk
        (self.settings.state / "neutron.json").write_text(json.dumps(self.facts, indent=1) + "\n")

    def among_pods(self, node: str) -> bool:
        """Tell whether a node is a virtual machine whose port is on the pods' network, with its pods' addresses as pairs."""
        return self.node(node).among_pods

    def server_port(self, node: str) -> str:
        """Return the id of the port of a node that is a virtual machine."""
        return self.facts["nodes"][node]["port"]

    def nested(self, node: str) -> bool:
        """Tell whether a node is a virtual machine of the cloud."""
        return self.node(node).nested

    def other(self, node: str) -> str:
        """Return another node than this."""
        return next(name for name in self.nodes if name != node)

    def host(self, node: str) -> str:
        """Return what Open vSwitch on a node names its host."""
        return self.node(node).hostname

    def netns(self, place: str) -> str:
        """Return the path of a place's network namespace."""
        return f"/run/netns/{self.settings.netns(place)}"

    def machine(self, node: str):
        """Return the lab's part for a node."""
        return self.parts.machines[node]

    def root(self, node: str) -> Path:
        """Return a node's root directory, with the node's own mounts, as seen from here."""
        holder = self.processes.pid(node)
        if not holder:
            raise Unmet(f"{node} does not run")
        return Path(f"/proc/{holder}/root")

    def place_of_kuryr(self, node: str):
        """Return the place of Kuryr's processes on a node."""
        return self.machine(node).place(cgroups.KURYR_LEAF)

    def on_node(self, node: str, argv: list, env: dict | None = None, stdin: str | None = None, seconds: float = COMMAND_SECONDS, check: bool = True) -> str:
        """Run a command on a node, with the lab's tools in its path, and return what it printed."""
        done = self.outcome_on_node(node, argv, env, stdin, seconds)
        if check and done.returncode:
            raise Unmet(f"`{' '.join(map(str, argv))}` on {node}: exit {done.returncode}: {(done.stdout + done.stderr).strip()[-1500:]}")
        return done.stdout

    def outcome_on_node(self, node: str, argv: list, env: dict | None = None, stdin: str | None = None, seconds: float = COMMAND_SECONDS) -> subprocess.CompletedProcess:
        """Run a command on a node and return how it ended."""
        place = self.machine(node).place(cgroups.RUN_LEAF)
        variables = places.environment(self.settings, {"PATH": f"{self.settings.run}/bin:{places.PATH}", **(env or {})})
        how = {"input": stdin} if stdin is not None else {"stdin": subprocess.DEVNULL}
        return subprocess.run(places.command(place, argv, variables), capture_output=True, text=True, timeout=seconds, check=False, **how)

    def call(self, *words: str, seconds: float = COMMAND_SECONDS) -> str:
        """Call the lab's entry point and return what it printed; fail if it fails."""
        return self.checked([str(ROOT / "lab" / "lab"), "--name", self.settings.name, *words], seconds)

    def kubectl(self, *words: str, stdin: str | None = None, seconds: float = COMMAND_SECONDS, check: bool = True) -> str:
        """Run kubectl as the cluster's admin and return what it printed."""
        return self.checked(self.parts.kubernetes.kubectl(list(words)), seconds, stdin, check)

    def openstack(self, *words: str, cloud: str | None = None, seconds: float = COMMAND_SECONDS) -> str:
        """Run the openstack command line as a user of the lab, Kuryr's if none is named, and return what it printed."""
        return self.checked(self.parts.openstack.cli(list(words), cloud or self.settings.user), seconds)

    def vsctl(self, node: str, *words: str) -> str:
        """Run ovs-vsctl on a node, or a hypervisor, and return what it printed."""
        return self.parts.switches.vsctl(self.settings.chassis_named(node), *words)

    def start_switch(self, node: str) -> None:
        """Start what does not run of a node's Open vSwitch and what controls it; what is not in its database is made."""
        self.guarded(lambda: self.parts.switches.start_chassis(self.settings.chassis_named(node)))

    def stop_neutron(self) -> None:
        """Take Neutron's API away, as an outage does."""
        self.guarded(self.parts.openstack.stop_neutron)

    def start_neutron(self) -> None:
        """Bring Neutron's API back and wait until it answers."""
        self.guarded(self.parts.openstack.start_neutron)

    def stop_apiserver(self) -> None:
        """Take the Kubernetes API away, as an outage does: at once. Asked to end, it would go on serving its watches for a while."""
        self.processes.stop("kube-apiserver", how=signal.SIGKILL)

    def start_apiserver(self) -> None:
        """Bring the Kubernetes API back and wait until it answers."""
        self.guarded(self.parts.kubernetes.start_apiserver)

    def stop_node(self, node: str) -> None:
        """Switch a node off: its processes, pods' namespaces, mounts and links are gone, its disk stays."""
        self.guarded(lambda: power.switch_off(self.parts, self.node(node)))

    def start_node(self, node: str) -> None:
        """Switch a node on again: machine, chassis or port, containerd, kubelet."""
        self.guarded(lambda: power.switch_on(self.parts, self.node(node)))

    def revive(self) -> list[str]:
        """Start daemons of the lab that have ended by themselves; return what they said last."""
        said = []
        for name in names_of_daemons(self):
            record = self.processes.read(name)
            if record and not record.alive():
                lines = Path(record.log).read_text(errors="replace").splitlines() or ["nothing"]
                said.append(f"{name} had ended: {lines[-1]}")
        if said:
            for chassis in self.settings.chassis:
                self.start_switch(chassis.name)
        return said

    def guarded(self, action):
        """Run an action of the lab; its failure, with the end of the right log, is ours."""
        try:
            return action()
        except Failure as failure:
            raise Unmet(failure.text()) from failure

    @staticmethod
    def checked(words: list[str], seconds: float, stdin: str | None = None, check: bool = True) -> str:
        """Run a command and return its output; fail with the end of it."""
        how = {"input": stdin} if stdin is not None else {"stdin": subprocess.DEVNULL}
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=seconds, check=False, **how)
        except subprocess.TimeoutExpired as late:
            raise Unmet(f"`{' '.join(map(str, words[-8:]))}`: no end after {seconds:.0f} s") from late
        if check and done.returncode:
            raise Unmet(f"`{' '.join(map(str, words[-8:]))}`: exit {done.returncode}: {(done.stdout + done.stderr).strip()[-1500:]}")
        return done.stdout


def names_of_daemons(lab: Lab) -> list[str]:
    """Return the names of the switch's daemons on all machines."""
    return [f"{chassis.name}-{daemon}" for chassis in lab.settings.chassis for daemon in lab.parts.switches.daemons]


def become_root() -> None:
    """Go on as root by sudo, keeping what decides where the lab's files are: its namespaces belong to root."""
    rights.become_root([sys.executable, *sys.argv])

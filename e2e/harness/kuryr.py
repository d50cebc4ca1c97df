"""Kuryr on the lab, as the lab starts it (`lab/lab kuryr start`), with settings that a scenario may change.

The lab has no registry, so what a cluster runs as a Deployment and a DaemonSet runs here as processes in the same places, with the same
configuration files and with tokens of the same service accounts; an agent's token is bound to its Node.
"""
import configparser
import io
import json
import math
import signal
import time
from pathlib import Path

from kuryrlab import kuryr as of_lab, settings as names
from kuryrlab.wire import request

from .expect import Unmet, until
from .kubernetes import Kubernetes
from .lab import Lab

NAMESPACE, CONTROLLER, AGENT = of_lab.NAMESPACE, of_lab.CONTROLLER_ACCOUNT, of_lab.AGENT_ACCOUNT
RELEASE = names.REPOSITORY / "target" / "release"
CONTROLLER_HEALTH, AGENT_HEALTH = 8082, 8090
# Small pools: a scenario that needs more than they hold says so, and what is beyond them is easy to see. Short rests: every scenario waits at its
# end until the pools have their size again; `delete-and-reuse` is about the rest itself and sets its own.
POOL = {"ports_pool_min": 5, "ports_pool_max": 10, "ports_pool_batch": 5, "ports_pool_cool_down": 5, "ports_pool_shrink_delay": 3}
READY_SECONDS = 240


class Settled(of_lab.Kuryr):
    """The lab's Kuryr, with options that differ from the lab's."""

    def __init__(self, parts):
        super().__init__(parts)
        self.base: dict[str, dict] = {"controller": {"DEFAULT": {"debug": True}, "vif_pool": POOL}}
        for node in parts.machines:
            self.base[node] = {"DEFAULT": {"debug": True}}
        self.changes: dict[str, dict] = {}
        self.environment: dict[str, dict[str, str]] = {}

    def variables(self, part: str) -> dict[str, str]:
        """Return the environment variables that a scenario gives to a part."""
        return self.environment.get(part, {})

    def pool_bounds(self) -> tuple[float, float]:
        """Return how many ready ports a pool has at least and at most, where that is configured."""
        layers = [layer.get("controller", {}).get("vif_pool", {}) for layer in (self.base, self.changes)]
        least, most = ([layer[name] for layer in layers if layer.get(name)][-1:] for name in ("ports_pool_min", "ports_pool_max"))
        return least[0] if least else 0, most[0] if most else math.inf

    def configure(self, part: str, token: Path) -> Path:
        """Write a part's configuration as the lab does, then with the options that differ."""
        target = super().configure(part, token)
        options = configparser.RawConfigParser(strict=False, default_section="none of ours")
        options.optionxform = str
        options.read(target)
        for layer in (self.base, self.changes):
            for section, values in layer.get(part, {}).items():
                if not options.has_section(section):
                    options.add_section(section)
                for option, value in values.items():
                    options.remove_option(section, option) if value is None else options.set(section, option, str(value))
        text = io.StringIO()
        options.write(text)
        target.write_text(text.getvalue())
        return target


class Kuryr:
    """Kuryr's processes on one lab."""

    def __init__(self, lab: Lab, kube: Kubernetes):
        self.lab, self.kube = lab, kube
        self.of_lab = Settled(lab.parts)

    @property
    def folder(self) -> Path:
        """Where its configuration files and tokens are."""
        return self.of_lab.folder

    def install(self) -> None:
        """Apply the manifests; stop what runs with other settings."""
        self.lab.guarded(self.of_lab.prepare)
        self.stop_all()

    def configure(self, name: str, **sections: dict) -> None:
        """Change options of the controller or of a node's agent; they hold from its next start. None removes an option."""
        for section, values in sections.items():
            self.of_lab.changes.setdefault(name, {}).setdefault(section, {}).update(values)

    def set_environment(self, name: str, variables: dict[str, str]) -> None:
        """Give the controller or a node's agent these environment variables instead of former ones; they hold from its next start."""
        self.of_lab.environment[name] = variables

    def restore(self) -> bool:
        """Take all changes back and start whatever is not running; tell whether anything had to be done."""
        changed = {*self.of_lab.changes, *self.of_lab.environment}
        self.of_lab.changes, self.of_lab.environment = {}, {}
        for name in changed:
            self.stop(name)
        down = [name for name in self.everyone() if not self.alive(name)]
        for name in down:
            self.start(name)
        return bool(changed or down)

    # --- processes ------------------------------------------------------------------------------------

    def everyone(self) -> list[str]:
        """Return the names by which processes are called here: `controller` and the nodes."""
        return ["controller", *self.lab.nodes]

    def process(self, name: str) -> str:
        """Return the name of a process in the lab's records."""
        return self.of_lab.name(name)

    def start(self, name: str) -> None:
        """Start the controller or a node's agent, without waiting."""
        log = self.log_file(name)
        if not self.alive(name) and log.exists():
            # A start begins a new log: keep what was said before.
            with open(self.earlier_log_file(name), "ab") as all_before:
                all_before.write(log.read_bytes())
        start = self.of_lab.start_controller if name == "controller" else lambda: self.of_lab.start_agent(self.lab.node(name))
        self.lab.guarded(start)

    def stop(self, name: str, how: int = signal.SIGTERM, seconds: float = 60) -> None:
        """Stop the controller or a node's agent."""
        self.lab.guarded(lambda: self.of_lab.stop((name,), how, seconds))

    def kill(self, name: str) -> None:
        """Kill the controller or a node's agent, as a crash would."""
        self.stop(name, signal.SIGKILL)

    def restart(self, name: str, how: int = signal.SIGTERM) -> None:
        """Stop and start."""
        self.stop(name, how)
        self.start(name)

    def alive(self, name: str) -> bool:
        """Tell whether a process runs."""
        return self.lab.processes.alive(self.process(name))

    def log_file(self, name: str) -> Path:
        """Return the log of a process since its last start."""
        return self.lab.processes.log(self.process(name))

    def earlier_log_file(self, name: str) -> Path:
        """Return the log of all earlier starts of a process; a new start adds to it."""
        return self.log_file(name).with_suffix(".before.log")

    def log(self, name: str) -> str:
        """Return what a process has logged since its last start."""
        return self.log_file(name).read_text(errors="replace") if self.log_file(name).exists() else ""

    def start_all(self) -> None:
        """Start everything and wait until pods can be wired."""
        for name in self.everyone():
            self.start(name)
        self.wait_ready()

    def stop_all(self) -> None:
        """Stop everything."""
        for name in self.everyone():
            self.stop(name)

    # --- state ----------------------------------------------------------------------------------------

    def node(self, name: str) -> dict:
        """Return a KuryrNode."""
        found = self.kube.get("KuryrNode", name)
        if not found:
            raise Unmet(f"no KuryrNode {name}")
        return found

    def mode(self, node: str) -> str | None:
        """Return how pods of a node get their ports, as its record says."""
        return self.node(node)["spec"].get("mode")

    def ready_ports(self, node: str) -> dict:
        """Return the ports that a pod could take now."""
        return self.node(node).get("status", {}).get("ready") or {}

    def default_subnets(self, node: str) -> list[str] | None:
        """Return the subnets of the class that ordinary pods of a node get."""
        spec = self.node(node)["spec"]
        return (spec.get("classes") or {}).get(spec.get("defaultClass"), {}).get("subnets")

    def claims(self, node: str) -> dict:
        """Return the ports in use by pods."""
        return self.node(node).get("status", {}).get("claims") or {}

    def condition(self, node: str, kind: str) -> dict | None:
        """Return a condition of a KuryrNode."""
        conditions = self.node(node).get("status", {}).get("conditions") or []
        return next((c for c in conditions if c["type"] == kind), None)

    def wait_ready(self, nodes: list[str] | None = None, ports: int = POOL["ports_pool_min"], seconds: float = READY_SECONDS) -> None:
        """Wait until nodes are ready in Kubernetes and have so many ready ports."""
        for node in nodes or self.lab.nodes:
            until(f"{node} has {ports} ready ports", lambda node=node: len(self.ready_ports(node)) >= ports, seconds, why=lambda node=node: self.describe(node))
            until(f"{node} is Ready", lambda node=node: self.node_is_ready(node), seconds, why=lambda node=node: self.describe(node))

    def wait_quiet(self, seconds: float = 180) -> None:
        """Wait until every offered port is ready or claimed and the pools have their size, for two seconds on end: nothing is being plugged or unplugged, or about to be.

        Open vSwitch's userspace datapath drops a few packets each time a port is added to it or removed.
        """
        since = [time.monotonic()]

        least, most = self.of_lab.pool_bounds()

        def quiet() -> bool:
            for node in self.lab.nodes:
                found = self.node(node)
                offered, status = set(found["spec"].get("ports") or {}), found.get("status", {})
                ready = status.get("ready") or {}
                # Of what a pool lacks the ports may be on their way, and of what it has too much.
                is_full = least <= len(ready) <= most
                if not is_full or offered != set(ready) | set(status.get("claims") or {}) or status.get("returned"):
                    since[0] = time.monotonic()
            return time.monotonic() - since[0] >= 2
        until("nothing is being plugged", quiet, seconds, 0.2, why=lambda: [self.describe(node) for node in self.lab.nodes])

    def node_is_ready(self, node: str) -> bool:
        """Tell whether Kubernetes calls a node ready."""
        found = self.kube.get("Node", node)   # none before its kubelet has registered it
        conditions = found["status"]["conditions"] if found else []
        return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)

    def describe(self, node: str) -> str:
        """Return what there is to say about a node, for messages."""
        found = self.kube.get("KuryrNode", node)
        if not found:
            return f"there is no KuryrNode {node}; the controller's log ends: {self.log('controller')[-400:]!r}"
        spec, status = found.get("spec", {}), found.get("status", {})
        return json.dumps({"mode": spec.get("mode"), "offered": len(spec.get("ports") or {}), "ready": len(status.get("ready") or {}), "claims": len(status.get("claims") or {}),
                           "problems": spec.get("problems"), "conditions": [{k: c.get(k) for k in ("type", "status", "reason", "message")} for c in status.get("conditions") or []]})

    def health(self, name: str, path: str) -> int:
        """Ask a process for its health and return the HTTP status."""
        place, port = ("cp", CONTROLLER_HEALTH) if name == "controller" else (name, AGENT_HEALTH)
        return request(self.lab.settings.netns(place), "GET", f"http://127.0.0.1:{port}{path}", timeout=30).status

    # --- what the runtime saw -------------------------------------------------------------------------

    def timings(self, node: str) -> list[dict]:
        """Return the CNI calls on a node as the runtime saw them: at, command, ms, exit, container, and the pod as namespace/name."""
        file = self.lab.machine(node).cni_times
        calls = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        for call in calls:
            arguments = dict(pair.split("=", 1) for pair in call["pod"].split(";") if "=" in pair)
            call["pod"] = f"{arguments.get('K8S_POD_NAMESPACE')}/{arguments.get('K8S_POD_NAME')}"
        return [call for call in calls if call["plugin"] == "kuryr-cni"]

    def calls(self, command: str = "ADD", since: float = 0, pods: set[str] | None = None) -> list[dict]:
        """Return successful CNI calls on all nodes since a time, of certain pods if they are named."""
        found = [call for node in self.lab.nodes for call in self.timings(node)]
        return [c for c in found if c["command"] == command and c["exit"] == 0 and c["at"] >= since and (pods is None or c["pod"] in pods)]

    def agent_call(self, node: str, method: str, path: str, body=None):
        """Call an agent's socket, as `curl --unix-socket` would; return status and text."""
        socket = self.lab.root(node) / "run/kuryr/agent.sock"
        answer = request(None, method, f"http://agent{path}", body, unix=str(socket))
        return answer.status, answer.body.decode(errors="replace")


def now() -> float:
    """Return the time as the logs of requests and CNI calls have it."""
    return time.time()


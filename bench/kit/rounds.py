"""What is measured, and in which order: plugins in turn, round by round, each time in the other order, so that drift of the machine hits all alike."""
import sys
import time

from harness.expect import Unmet, until

from . import cloud, phases, usage, wire
from .cluster import NAMESPACE, Cluster

# Seconds in which what a pod leaves behind is reported.
AFTER_SECONDS = 2
CHURN_PODS, CHURN_BEFORE = 10, 45
# Pods of each plugin on each kind of node that count for nothing: the first ones of a lab that has just come up take longer, whoever's they are.
FIRST_PODS = 6


class Rounds:
    """One run."""

    def __init__(self, lab, kuryr, plugins: list, options):
        self.lab, self.kuryr, self.plugins, self.options = lab, kuryr, plugins, options
        self.cluster = Cluster(lab)
        self.result: dict = {"series": {}, "neutron": {}, "kuryr": {"phases": []}, "wire": {}, "notes": []}

    def run(self) -> dict:
        """Measure everything and return the samples."""
        groups = self.groups()
        try:
            for plugin in self.plugins:
                self.warm_up(plugin, groups)
            for number in range(self.options.rounds):
                if self.options.singles:
                    self.tell(f"round {number + 1} of {self.options.rounds}: bare Neutron")
                    self.bare_neutron()
                for plugin in self.in_order(number):
                    self.turn(plugin, groups, number)
            for mode, nodes in groups.items():
                self.special(mode, nodes)
        finally:
            self.cluster.clear()
        return self.result

    def groups(self) -> dict[str, list[str]]:
        """Return the nodes by the way ports reach them."""
        found: dict[str, list[str]] = {}
        for node in self.lab.nodes:
            found.setdefault(self.kuryr.node(node)["spec"].get("mode") or "ovs", []).append(node)
        return found

    def tell(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def series(self, plugin, mode: str) -> dict:
        return self.result["series"].setdefault(f"{plugin.name} on {mode}", {"plugin": plugin.name, "mode": mode, "failed": 0})

    # --- in turn --------------------------------------------------------------------------------------

    def bare_neutron(self) -> None:
        """Make and delete ports without Kuryr."""
        for key, values in cloud.Bare(self.lab).measure(self.options.singles, 10).items():
            self.result["neutron"].setdefault(key, []).extend(values)

    def in_order(self, number: int) -> list:
        """Return the plugins in the order of a round."""
        return self.plugins[::-1] if number % 2 else self.plugins

    def warm_up(self, plugin, groups: dict) -> None:
        """Run the first pods of a plugin."""
        plugin.take_turn()
        try:
            for mode, nodes in groups.items():
                self.tell(f"first pods: {plugin.name} on {mode} ({', '.join(nodes)})")
                names = {f"{plugin.name}-{mode}-first-{index}": nodes[index % len(nodes)] for index in range(FIRST_PODS)}
                for name, node in names.items():
                    self.cluster.run({name: node})
                self.cluster.delete(list(names))
                plugin.settle()
        finally:
            plugin.give_back()

    def turn(self, plugin, groups: dict, number: int) -> None:
        """One round of one plugin on all groups of nodes."""
        plugin.take_turn()
        try:
            for mode, nodes in groups.items():
                into = self.series(plugin, mode)
                self.tell(f"round {number + 1} of {self.options.rounds}: {plugin.name} on {mode} ({', '.join(nodes)})")
                if self.options.serial:
                    self.phase(plugin, into, f"one by one on {mode}", lambda nodes=nodes, into=into: self.serial(plugin, into, nodes, number))
                for size in self.options.bursts:
                    self.phase(plugin, into, f"burst of {size} on {mode}", lambda size=size, nodes=nodes, into=into: self.burst(plugin, into, nodes, size, number))
        finally:
            plugin.give_back()

    def phase(self, plugin, into: dict, what: str, action) -> None:
        """Run one part with full pools, and note what Kuryr used, asked and gave in it."""
        plugin.settle()
        if not plugin.makes_ports:
            action()
            return
        before, metrics, begin = usage.processes(self.kuryr), usage.agents(self.kuryr), time.time()
        pods = action()
        added = usage.difference(metrics, usage.agents(self.kuryr))
        plugin.settle()
        self.note_phase(what, pods, begin, before, added)

    def note_phase(self, what: str, pods: int, begin: float, before: dict, added: dict) -> None:
        """Note one part of a run."""
        after, end = usage.processes(self.kuryr), time.time()
        same = {name: found for name, found in after.items() if name in before and found["cpu"] >= before[name]["cpu"]}
        self.result["kuryr"]["phases"].append({
            "what": what, "pods": pods, "seconds": end - begin,
            "cpu": {name: found["cpu"] - before[name]["cpu"] for name, found in same.items()},
            "memory": {name: {"now": found["now"], "most": found["most"]} for name, found in after.items()},
            "taken": usage.ports_taken(added), "stages": usage.stages(added),
            "kubernetes": cloud.kubernetes_calls(self.lab, begin, end), "neutron": cloud.neutron_calls(self.lab, begin, end),
        })

    def serial(self, plugin, into: dict, nodes: list[str], number: int) -> int:
        """Pods one after the other."""
        names, begin = [], time.time()
        for index in range(self.options.serial):
            name = f"{plugin.name}-{into['mode']}-{number}-s{index}"
            into.setdefault("serial_running", []).extend(self.cluster.run({name: nodes[index % len(nodes)]}))
            names.append(name)
        self.adds(plugin, into, "serial_add", names, begin)
        self.parts_of(plugin, into, names, begin)
        self.remove(plugin, into, "serial_del", names)
        return len(names)

    def burst(self, plugin, into: dict, nodes: list[str], size: int, number: int) -> int:
        """Pods at once."""
        names = {f"{plugin.name}-{into['mode']}-{number}-b{size}-{index}": nodes[index % len(nodes)] for index in range(size)}
        begin = time.time()
        into.setdefault(f"burst{size}_running", []).extend(self.cluster.run(names))
        into.setdefault(f"burst{size}_all", []).append(time.time() - begin)
        self.adds(plugin, into, f"burst{size}_add", list(names), begin)
        self.remove(plugin, into, f"burst{size}_del", list(names))
        return size

    def adds(self, plugin, into: dict, key: str, names: list[str], begin: float) -> None:
        good, failed = self.calls(plugin, "ADD", names, begin)
        into.setdefault(key, []).extend(good)
        into["failed"] += failed

    def parts_of(self, plugin, into: dict, names: list[str], begin: float) -> None:
        """Note where the time of pods went that came one by one."""
        runtime: dict = {}
        for node in self.lab.nodes:
            log = self.lab.processes.log(f"{node}-containerd")
            runtime |= phases.of_runtime(log.read_text(errors="replace"), NAMESPACE)
        adds = {name: (call["at"], call["at"] + call["ms"] / 1000)
                for name, call in firsts([call for node in self.lab.nodes for call in timings(self.lab, node)], plugin.binary, "ADD", set(names), begin).items()}
        found = phases.of_pods({name: self.cluster.created[name] for name in names}, self.cluster.running, adds, runtime)
        for part, values in found.items():
            into.setdefault("parts", {}).setdefault(part, []).extend(values)

    def remove(self, plugin, into: dict, key: str, names: list[str]) -> None:
        begin = time.time()
        self.cluster.delete(names)
        time.sleep(AFTER_SECONDS)
        into.setdefault(key, []).extend(self.calls(plugin, "DEL", names, begin)[0])

    def calls(self, plugin, verb: str, names: list[str], begin: float) -> tuple[list[float], int]:
        """Return milliseconds of a plugin's calls for pods since a time as the runtime saw them, and how many failed."""
        return of_pods([call for node in self.lab.nodes for call in timings(self.lab, node)], plugin.binary, verb, set(names), begin)

    # --- of Kuryr alone -------------------------------------------------------------------------------

    def special(self, mode: str, nodes: list[str]) -> None:
        """What only Kuryr has: pods over time, the network of pods, and pods for which nothing is ready."""
        plugin = next((p for p in self.plugins if p.name == "kuryr"), None)
        if not plugin:
            return
        plugin.take_turn()
        if self.options.churn:
            self.part(f"kuryr on {mode}: churn", lambda: self.churn(plugin, mode, nodes))
        if self.options.network and len(nodes) > 1:
            self.part(f"kuryr on {mode}: the network of pods", lambda: self.network(mode, nodes))
        if self.options.cold:
            self.part(f"kuryr on {mode}: nothing is ready", lambda: self.cold(plugin, mode, nodes))

    def part(self, what: str, action) -> None:
        """Run a part on which no other depends: if it fails that is noted, and what was measured before is kept."""
        self.tell(what)
        try:
            action()
        except (Unmet, OSError) as error:
            self.result["notes"].append(f"{what}: {error or type(error).__name__}")

    def churn(self, plugin, mode: str, nodes: list[str]) -> None:
        """Every second a pod comes and the oldest goes; what is asked of Neutron meanwhile, once ports have begun to come back."""
        alive, number, pods, metrics, before, begin = [], 0, 0, {}, {}, 0.0
        start = time.time()
        while not begin or pods < self.options.churn:
            if not begin and time.time() - start >= CHURN_BEFORE:
                begin, metrics, before = time.time(), usage.agents(self.kuryr), usage.processes(self.kuryr)
            name = f"churn-{mode}-{number}"
            self.cluster.run({name: nodes[number % len(nodes)]})
            alive.append(name)
            number += 1
            pods += int(bool(begin))
            if len(alive) > CHURN_PODS:
                self.cluster.kube.delete("Pod", alive.pop(0), NAMESPACE)
            time.sleep(max(0.0, start + number - time.time()))
        added = usage.difference(metrics, usage.agents(self.kuryr))
        self.note_phase(f"churn on {mode}", pods, begin, before, added)
        self.cluster.delete(alive)
        plugin.settle()

    def network(self, mode: str, nodes: list[str]) -> None:
        """Between two pods, and between the two uplinks that carry them."""
        names = {f"wire-{mode}-{index}": node for index, node in enumerate(nodes[:2])}
        self.cluster.run(names)
        pods = [pod_of(self.lab, self.cluster, name) for name in names]
        uplinks = [uplink(self.lab, self.kuryr, node) for node in nodes[:2]]
        found = self.result["wire"].setdefault(mode, {"pods": {}, "uplinks": {}})
        for _ in range(self.options.rounds):
            for what, (one, other) in (("pods", pods), ("uplinks", uplinks)):
                into = found[what]
                into.setdefault("megabits", []).append(wire.throughput(one[0], other[0], other[1]))
                into.setdefault("round_trip", []).extend(wire.round_trips(one[0], other[0], other[1]))
        self.cluster.delete(list(names))

    def cold(self, plugin, mode: str, nodes: list[str]) -> None:
        """Pods one after the other on a node that keeps no port ready."""
        into = self.series(plugin, mode)
        self.kuryr.configure("controller", kubernetes={"vif_pool_driver": "noop"})
        try:
            self.kuryr.restart("controller")
            until("no port is ready", lambda: not any(self.kuryr.ready_ports(node) for node in nodes), 240, 1, why=lambda: [self.kuryr.describe(n) for n in nodes])
            names, begin = [], time.time()
            for index in range(self.options.cold):
                name = f"cold-{mode}-{index}"
                into.setdefault("cold_running", []).extend(self.cluster.run({name: nodes[index % len(nodes)]}))
                names.append(name)
            self.adds(plugin, into, "cold_add", names, begin)
            self.remove(plugin, into, "cold_del", names)
        finally:
            self.kuryr.configure("controller", kubernetes={"vif_pool_driver": None})
            self.kuryr.restart("controller")


def of_pods(calls: list[dict], binary: str, verb: str, names: set[str], begin: float) -> tuple[list[float], int]:
    """Return milliseconds of the first call for each of these pods, if it was good, and how many calls for them failed.

    The runtime repeats DEL, also for pods of an earlier part that are long gone: only what begins the end of a pod counts.
    """
    good, failed, seen = [], 0, set()
    for name, call in calls_for(calls, binary, verb, names, begin):
        failed += int(call["exit"] != 0)
        if name not in seen and call["exit"] == 0:
            good.append(call["ms"])
        seen.add(name)
    return good, failed


def firsts(calls: list[dict], binary: str, verb: str, names: set[str], begin: float) -> dict[str, dict]:
    """Return the first call for each of these pods."""
    found: dict[str, dict] = {}
    for name, call in calls_for(calls, binary, verb, names, begin):
        found.setdefault(name, call)
    return found


def calls_for(calls: list[dict], binary: str, verb: str, names: set[str], begin: float):
    """Yield the names of pods with the calls for them, in the order of time."""
    for call in sorted(calls, key=lambda call: call["at"]):
        arguments = dict(pair.split("=", 1) for pair in call["pod"].split(";") if "=" in pair)
        name = arguments.get("K8S_POD_NAME")
        if call["plugin"] == binary and call["command"] == verb and call["at"] >= begin and arguments.get("K8S_POD_NAMESPACE") == NAMESPACE and name in names:
            yield name, call


def timings(lab, node: str) -> list[dict]:
    """Return the CNI calls on a node, of all plugins."""
    import json
    file = lab.machine(node).cni_times
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def pod_of(lab, cluster: Cluster, name: str) -> tuple[str, str]:
    """Return the namespace and an address of a pod."""
    from harness.pods import Pod
    pod = Pod(lab, cluster.kube, NAMESPACE, name)
    return pod.netns, pod.addresses[0]


def uplink(lab, kuryr, node: str) -> tuple[str, str]:
    """Return the namespace and an address of what carries a node's pods: its own port on the pods' network, or its interface."""
    record = kuryr.node(node)
    own = record["spec"].get("ownPort")
    if own:
        return lab.netns(node), own["addresses"][0]["address"]
    addresses = kuryr.kube.get("Node", node)["status"]["addresses"]
    return lab.netns(node), next(a["address"] for a in addresses if a["type"] == "InternalIP")

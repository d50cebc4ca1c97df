"""What the lab gets for the suite, and loses again: a leg of the control plane in the pods' network, an address of elsewhere, names, and what
specs ask of the Internet.

The API server reaches pods (`pods/proxy`, `services/proxy`) by IPv4 only from inside their network: their router translates. So it has a port there, as
a control plane that is a virtual machine of the cloud has.

A spec that a load balancer keeps the client's address takes every address of the nodes' network for a node's. The suite runs beside the control plane, in that
network; so it has an address of elsewhere towards floating IPs, to which their router answers by the external side.

The lab has no Internet. Its external side, which pods reach only through their router, gets the addresses and names that specs ask for. Nodes are in zones.
Pods that may use little of the disk are evicted in the kubelets' place.
"""
import ipaddress
import sys
import threading
import time

from kuryrlab import dns, golang, places, resources, settings as s, vm
from kuryrlab.failure import Failure
from kuryrlab.lab import Lab

PLACE, PORT = "cp", "control-plane"
OUTSIDE = "ext"
# Google's public resolver, with its names, and a server of HTTP.
RESOLVER4, RESOLVER6 = "8.8.8.8", "2001:4860:4860::8888"
NAMES = {RESOLVER4: "dns.google", RESOLVER6: "dns.google", s.INTERNET4: "google.com", s.INTERNET6: "google.com"}
HTTP = 80


class Leg:
    """The control plane's port in the pods' network."""

    def __init__(self, lab: Lab, facts: dict):
        self.lab, self.facts = lab, facts
        self.neutron = resources.Neutron(lab.settings.netns(PLACE))

    def make(self) -> None:
        """Make the port and plug it."""
        if self.lab.settings.options.ml2 != "ovn":
            raise Failure("the suite runs on labs with OVN", fix="lab up without --ml2")
        found = self.neutron.find("ports", PORT) or self.neutron.call("POST", "/ports", {"port": self.wanted()})["port"]
        address = next(ip["ip_address"] for ip in found["fixed_ips"] if ":" not in ip["ip_address"])
        self.machine = vm.Vm(PLACE, self.lab.settings.server_chassis, found["id"], found["mac_address"], self.facts["mtu"])
        self.lab.network.delete_link(PLACE, "eth0")
        vm.link(self.machine, self.lab.network)
        prefix = s.PODS4_CIDR.rpartition("/")[2]
        self.lab.network.ip(PLACE, [f"addr add {address}/{prefix} dev eth0", "link set eth0 up"])
        self.lab.switches.plug(self.machine.chassis, self.machine.tap, self.machine.port, self.machine.mac)
        vm.wait_flows(self.machine, self.lab.switches)

    def wanted(self) -> dict:
        """Return the port as Neutron is asked for it."""
        return {
            "name": PORT,
            "network_id": self.facts["pods_network"],
            "project_id": self.facts["project"],
            "security_groups": [self.facts["server_group"]],
            "device_owner": "compute:nova",
            "device_id": PORT,
            "binding:host_id": self.lab.settings.server_chassis.hostname,
        }

    def remove(self) -> None:
        """Unplug and delete the port."""
        if found := self.neutron.find("ports", PORT):
            machine = vm.Vm(PLACE, self.lab.settings.server_chassis, found["id"], found["mac_address"], self.facts["mtu"])
            vm.unplug(machine, self.lab.network, self.lab.switches)
            self.neutron.call("DELETE", f"/ports/{found['id']}", accept=(404,))


class Elsewhere:
    """The suite's address towards floating IPs."""

    ADDRESS = "198.51.100.20"

    def __init__(self, lab: Lab):
        self.lab = lab

    def make(self) -> None:
        """Give the control plane the address, and the way back."""
        self.lab.network.ip(PLACE, [f"addr replace {self.ADDRESS}/32 dev lo", *(f"route replace {one} dev lan src {self.ADDRESS}" for one in self.floating())])
        self.lab.network.ip(OUTSIDE, [f"route replace {self.ADDRESS}/32 via {s.CONTROL4}"])

    def remove(self) -> None:
        """Take both away."""
        self.lab.network.ip(OUTSIDE, [f"route del {self.ADDRESS}/32"])
        self.lab.network.ip(PLACE, [*(f"route del {one} dev lan" for one in self.floating()), f"addr del {self.ADDRESS}/32 dev lo"])

    @staticmethod
    def floating() -> list[str]:
        """Return the networks that floating IPs are from."""
        first, last = map(ipaddress.IPv4Address, s.EXTERNAL_POOL4)
        return [str(one) for one in ipaddress.summarize_address_range(first, last)]


class Internet:
    """What answers on the lab's external side in place of the Internet."""

    def __init__(self, lab: Lab):
        self.lab = lab
        self.daemons = {"internet-names": self.resolver, "internet-http": self.server}

    def make(self) -> None:
        """Give the external side the addresses, and start what answers there."""
        self.lab.network.ip(OUTSIDE, [f"addr replace {RESOLVER4}/32 dev lo", f"addr replace {RESOLVER6}/128 dev lo"])
        place = places.Place(self.lab.settings, self.lab.settings.netns(OUTSIDE), "control")
        for name, command in self.daemons.items():
            self.lab.processes.start(name, place, command())

    def resolver(self) -> list:
        """Return the command line of the resolver."""
        hosts = "\n".join(f"{address} {name}" for address, name in NAMES.items())
        file = self.lab.settings.etc / "internet-names"
        file.write_text(f".:53 {{\nhosts {{\n{hosts}\n}}\n}}\n")
        return [golang.dns_entry(self.lab.settings).make() / "coredns", "-conf", file]

    def server(self) -> list:
        """Return the command line of the server of HTTP."""
        return [sys.executable, "-I", s.LAB / "kuryrlab" / "answer.py", "internet", str(HTTP)]

    def remove(self) -> None:
        """Take both away."""
        for name in self.daemons:
            self.lab.processes.stop(name)
        self.lab.network.ip(OUTSIDE, [f"addr del {RESOLVER4}/32 dev lo", f"addr del {RESOLVER6}/128 dev lo"])


class Zones:
    """Zones, in which the nodes are in turns: of three nodes each in one of its own, of six two in each."""

    LABEL = "topology.kubernetes.io/zone"
    # No spec wants more.
    NUMBER = 3

    def __init__(self, lab: Lab, number: int = NUMBER):
        self.lab, self.number = lab, number

    def make(self) -> None:
        """Say of each node which zone it is in."""
        for node, zone in self.shared_out(list(self.lab.machines), self.number).items():
            self.label(node, zone)

    @staticmethod
    def shared_out(nodes: list[str], number: int) -> dict[str, str]:
        """Return the zone of each node, of so many."""
        return {node: f"zone{at % number + 1}" for at, node in enumerate(nodes)}

    def remove(self) -> None:
        """Take the labels away."""
        for node in self.lab.machines:
            self.label(node, None)

    def label(self, node: str, zone: str | None) -> None:
        """Set the label, or remove it."""
        change = {"metadata": {"labels": {self.LABEL: zone}}}
        self.lab.kubernetes.call("PATCH", f"/api/v1/nodes/{node}", change, "application/merge-patch+json")


class Evictions:
    """Evicts pods that may use little of a node's disk, some time after their start: what a spec fills its own with is there then.

    The lab's kubelets do not look at what pods write, as they find no file system of their own. So they do not say either how much there is, without which
    no such pod is scheduled.
    """

    SECONDS, EVERY = 15, 1
    RESOURCE, THERE = "ephemeral-storage", "10Gi"

    def __init__(self, lab: Lab):
        self.lab, self.stopping, self.seen = lab, threading.Event(), {}
        self.thread = threading.Thread(target=self.run, daemon=True)

    def make(self) -> None:
        """Say how much of the disk there is, and begin."""
        self.offer(self.THERE)
        self.thread.start()

    def offer(self, amount: str | None) -> None:
        """Say of each node how much of the disk pods may use, or take it back."""
        change = {"status": {what: {self.RESOURCE: amount} for what in ("capacity", "allocatable")}}
        for node in self.lab.machines:
            self.lab.kubernetes.call("PATCH", f"/api/v1/nodes/{node}/status", change, "application/merge-patch+json")

    def run(self) -> None:
        while not self.stopping.wait(self.EVERY):
            try:
                self.look()
            except (Failure, OSError) as problem:
                print(f"evictions: {problem}", file=sys.stderr, flush=True)

    def look(self) -> None:
        """Evict those whose time has come, again if the kubelet has written over it."""
        for pod in self.lab.kubernetes.call("GET", "/api/v1/pods")["items"]:
            status = pod.get("status", {})
            if not self.is_bounded(pod) or status.get("phase") not in ("Running", "Failed") or status.get("reason") == "Evicted":
                continue
            since = self.seen.setdefault(pod["metadata"]["uid"], time.monotonic())
            if time.monotonic() - since >= self.SECONDS:
                path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}/status"
                evicted = {"status": {"phase": "Failed", "reason": "Evicted", "message": "It uses more of the disk than it may."}}
                self.lab.kubernetes.call("PATCH", path, evicted, "application/merge-patch+json", accept=(404, 409))

    @staticmethod
    def is_bounded(pod: dict) -> bool:
        """Tell whether a pod has a limit of what it may use of the disk."""
        return any(Evictions.RESOURCE in one.get("resources", {}).get("limits", {}) for one in pod["spec"]["containers"])

    def remove(self) -> None:
        """End."""
        self.stopping.set()
        self.thread.join(timeout=30)
        self.offer(None)


class Surroundings:
    """All of it. Kuryr has to run, as the cluster's resolvers are pods."""

    def __init__(self, lab: Lab, facts: dict, zones: int = Zones.NUMBER):
        self.lab, self.parts = lab, [Leg(lab, facts), Elsewhere(lab), Internet(lab), Zones(lab, zones), Evictions(lab)]
        self.begun: list[Leg | Elsewhere | Internet | Zones | Evictions] = []

    def make(self) -> None:
        """Make everything."""
        for part in self.parts:
            self.begun.append(part)
            part.make()
        dns.start(self.lab, RESOLVER4)

    def remove(self) -> None:
        """Take away what was begun."""
        dns.stop(self.lab)
        for part in self.begun:
            part.remove()

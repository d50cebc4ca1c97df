"""Load balancers of Octavia for Services: by Kuryr, and step by step as upstream has them made, on the same Octavia.

Upstream's controller makes a load balancer, then a listener and a pool for each port, then each member, one call after the other, and waits before each of them until the
load balancer is ACTIVE (`kuryr_kubernetes/controller/drivers/lbaasv2.py`). It looks once a second; here it is looked more often, so that its way is not made slower than it has to be.
"""
import time

from harness.expect import Unmet, until
from harness.kubernetes import Kubernetes, path
from harness.lab import Lab
from harness.openstack import Octavia
from kuryrlab import settings as names

from . import many

INTERNAL = "service.beta.kubernetes.io/openstack-internal-load-balancer"
PORTS = {"a": (1000, 8080), "b": (1001, 9090)}
# Endpoints at first, and as many later once more.
ENDPOINTS = 10
LOOK_SECONDS, ACTIVE_SECONDS, GONE_SECONDS = 0.2, 120, 300
CHANGES = ("POST", "PUT", "DELETE")


def addresses(count: int) -> list[str]:
    """Return addresses of the pods' subnet that nobody has."""
    return [f"{names.PODS4}.255.{number + 1}" for number in range(count)]


class Balancers:
    """Both ways, each for one Service at a time. Each returns seconds and changes of Octavia: until all of it was there, and for the endpoints that came later."""

    def __init__(self, lab: Lab, kube: Kubernetes):
        self.lab, self.kube, self.octavia, self.writer, self.count = lab, kube, Octavia(lab), many.Writer(kube), 0

    def run(self, times: int, say) -> dict:
        """Let them take turns."""
        found = {"kuryr": [], "stepwise": []}
        if not self.kube.get("Namespace", many.NAMESPACE):
            self.kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": many.NAMESPACE}})
        for number in range(times):
            say(f"a load balancer by Kuryr, {number + 1} of {times}")
            found["kuryr"].append(self.by_kuryr(f"balanced-{number}"))
            say(f"a load balancer step by step, {number + 1} of {times}")
            found["stepwise"].append(self.stepwise(f"stepwise-{number}"))
        return found

    # --- by Kuryr ---------------------------------------------------------------------------------------

    def by_kuryr(self, name: str) -> dict:
        """Make a Service and add endpoints to it."""
        self.writer.write("POST", path("EndpointSlice", many.NAMESPACE), endpoint_slice(name, ENDPOINTS))
        before = self.changes()
        _, begin = self.writer.write("POST", path("Service", many.NAMESPACE), service(name))
        found = {"seconds": self.complete(f"{many.NAMESPACE}/{name}", ENDPOINTS) - begin, "changes": self.changes() - before}
        before = self.changes()
        _, begin = self.writer.write("PUT", many.slice_path(name, 4), endpoint_slice(name, 2 * ENDPOINTS))
        found |= {"more_seconds": self.complete(f"{many.NAMESPACE}/{name}", 2 * ENDPOINTS) - begin, "more_changes": self.changes() - before}
        self.kube.delete("Service", name, many.NAMESPACE)
        self.kube.wait_gone("Service", name, many.NAMESPACE, GONE_SECONDS)
        return found

    def complete(self, name: str, members: int) -> float:
        """Wait until a load balancer is ACTIVE with so many members for each port; return when it was seen."""
        def looked() -> bool:
            found = [one for one in self.octavia.load_balancers() if one["name"] == name]
            if not found or found[0]["provisioning_status"] != "ACTIVE" or len(found[0]["pools"]) != len(PORTS):
                return False
            return all(len(self.octavia.members(pool["id"])) == members for pool in found[0]["pools"])
        until(f"{name} is complete", looked, ACTIVE_SECONDS, LOOK_SECONDS)
        return time.monotonic()

    def changes(self) -> int:
        """Return how many changes the controller has made in Octavia."""
        lines = self.lab.parts.openstack.request_log("octavia").read_text(errors="replace").splitlines()
        words = [line.split() for line in lines if "kuryr-controller" in line]
        return sum(word[1] in CHANGES and word[3].startswith("2") for word in words)

    # --- step by step -----------------------------------------------------------------------------------

    def stepwise(self, name: str) -> dict:
        """Make the same as upstream's controller makes it."""
        self.count = 0
        begin = time.monotonic()
        balancer = self.change("/loadbalancers", "loadbalancer", {"name": name, "vip_subnet_id": self.lab.facts["pods_v4"], "provider": "ovn"})
        pools = {}
        for port, (front, target) in PORTS.items():
            self.active(balancer["id"])
            listener = self.change("/listeners", "listener", {"name": port, "loadbalancer_id": balancer["id"], "protocol": "TCP", "protocol_port": front})
            self.active(balancer["id"])
            pool = {"name": port, "listener_id": listener["id"], "protocol": "TCP", "lb_algorithm": "SOURCE_IP_PORT"}
            pools[self.change("/pools", "pool", pool)["id"]] = target
        self.members(balancer["id"], pools, addresses(ENDPOINTS))
        found = {"seconds": time.monotonic() - begin, "changes": self.count}
        self.count, begin = 0, time.monotonic()
        self.members(balancer["id"], pools, addresses(2 * ENDPOINTS)[ENDPOINTS:])
        found |= {"more_seconds": time.monotonic() - begin, "more_changes": self.count}
        self.octavia.call("DELETE", f"/loadbalancers/{balancer['id']}?cascade=true")
        until(f"{name} is gone", lambda: all(one["id"] != balancer["id"] for one in self.octavia.load_balancers()), GONE_SECONDS, LOOK_SECONDS)
        return found

    def members(self, balancer: str, pools: dict[str, int], new: list[str]) -> None:
        """Add members, one after the other, and wait until all is done."""
        for pool, port in pools.items():
            for address in new:
                self.active(balancer)
                self.change(f"/pools/{pool}/members", "member", {"address": address, "protocol_port": port, "subnet_id": self.lab.facts["pods_v4"]})
        self.active(balancer)

    def change(self, where: str, kind: str, wanted: dict) -> dict:
        """Make one thing and return it."""
        self.count += 1
        return self.octavia.call("POST", where, {kind: wanted})[kind]

    def active(self, balancer: str) -> None:
        """Wait until a load balancer takes changes."""
        def looked() -> bool:
            status = self.octavia.call("GET", f"/loadbalancers/{balancer}")["loadbalancer"]["provisioning_status"]
            if status == "ERROR":
                raise Unmet("the load balancer is in state ERROR")
            return status == "ACTIVE"
        until("the load balancer is ACTIVE", looked, ACTIVE_SECONDS, LOOK_SECONDS)


def service(name: str) -> dict:
    """Return a Service without selector whose load balancer has an address of the pods' network alone."""
    ports = [{"name": port, "port": front, "protocol": "TCP"} for port, (front, _) in PORTS.items()]
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": many.NAMESPACE, "annotations": {INTERNAL: "true"}},
            "spec": {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": False, "ports": ports}}


def endpoint_slice(name: str, count: int) -> dict:
    """Return its slice with so many endpoints."""
    made = many.endpoint_slice(name, 4, addresses(count))
    return made | {"ports": [{"name": port, "port": target, "protocol": "TCP"} for port, (_, target) in PORTS.items()]}

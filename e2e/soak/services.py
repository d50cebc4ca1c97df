"""Services over the pods that come and go, in a thread of its own: they come and go and change as well."""
import importlib.util
import random
import threading
from pathlib import Path

from harness.clients import Client
from harness.expect import Unmet, expect_in, until
from harness.openstack import Octavia
from harness.pods import HTTP_PORT, Pod
from harness.scenario import World

NUMBER = 3
INTERNAL = "service.beta.kubernetes.io/openstack-internal-load-balancer"
# Between two changes of one Service: Octavia makes one load balancer in a few seconds.
STEP_SECONDS = (5, 20)
# Steps in a row that may fail: what somebody else has done to a Service meanwhile is done, and the machine may be busy.
FAILURES_MAX = 10
# Until Octavia has all that was written last, also after an outage of Neutron, in which provider ovn puts parts into ERROR.
REST_SECONDS = 300
ANSWER_SECONDS = 60
WANTED = Path(__file__).resolve().parent.parent / "octavia-churn" / "wanted.py"


class Services:
    """Creates, changes and deletes Services of type LoadBalancer while the block runs; without Octavia they are served on the nodes alone."""

    def __init__(self, world: World, seed: int):
        self.world, self.kube, self.random = world, world.kube, random.Random(seed + 1)
        self.octavia = Octavia(world.lab) if world.lab.settings.options.ml2 == "ovn" else None
        self.stopping, self.thread = threading.Event(), threading.Thread(target=self.run, daemon=True)
        self.changes, self.error, self.before = 0, None, self.what_is_there()

    def __enter__(self) -> "Services":
        self.thread.start()
        return self

    def __exit__(self, *exception) -> None:
        self.stopping.set()
        self.thread.join(timeout=60)

    def check(self) -> None:
        """Fail if Services do not change any more."""
        if self.error or not (self.stopping.is_set() or self.thread.is_alive()):
            raise Unmet(f"Services do not come and go any more: {self.error or 'their thread has ended'}")

    def run(self) -> None:
        """Change one after the other."""
        failures = 0
        while not self.stopping.wait(self.random.uniform(*STEP_SECONDS)):
            # Drawn beforehand, so that the same seed draws the same whatever became of it.
            name, draw = f"service-{self.random.randrange(NUMBER)}", random.Random(self.random.random())
            try:
                self.step(name, draw)
                self.changes, failures = self.changes + 1, 0
            except (Unmet, OSError) as error:
                failures += 1
                if failures >= FAILURES_MAX:
                    self.error = error
                    return

    def step(self, name: str, draw: random.Random) -> None:
        """Create a Service if it is not there; otherwise delete it, give it other ports, or another way to its clients."""
        if not self.kube.get("Service", name, self.world.namespace):
            self.create(name, draw)
        elif (kind := draw.random()) < 0.25:
            self.kube.delete("Service", name, self.world.namespace)
        elif kind < 0.75:
            self.kube.patch("Service", name, {"spec": {"ports": some_ports(draw)}}, self.world.namespace)
        else:
            self.kube.patch("Service", name, {"metadata": {"annotations": {INTERNAL: draw.choice(("true", None))}}}, self.world.namespace)

    def create(self, name: str, draw: random.Random) -> None:
        """Create a Service over all pods."""
        metadata = {"name": name, "namespace": self.world.namespace, "annotations": {INTERNAL: "true"} if draw.random() < 0.5 else {}}
        policy = "RequireDualStack" if draw.random() < 0.3 else "SingleStack"
        spec = {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": False, "ipFamilyPolicy": policy, "selector": {"app": "e2e"}, "ports": some_ports(draw)}
        self.kube.create({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec})

    # --- what must be true at the end -----------------------------------------------------------------

    def have_all(self) -> None:
        """Create those that are not there at the end."""
        for number in range(NUMBER):
            name = f"service-{number}"
            until(f"{name} stays, or is gone", lambda name=name: not self.is_going(name), REST_SECONDS, 1)
            if not self.kube.get("Service", name, self.world.namespace):
                self.create(name, random.Random(number))

    def is_going(self, name: str) -> bool:
        """Tell whether a Service is being deleted."""
        found = self.kube.get("Service", name, self.world.namespace)
        return bool(found) and "deletionTimestamp" in found["metadata"]

    def there(self) -> list[dict]:
        """Return the Services."""
        return self.kube.objects("Service", self.world.namespace)

    def differences(self) -> list[str]:
        """Return what in Octavia, of floating IPs and in what Services tell is not as Services and EndpointSlices say."""
        if not self.octavia:
            return []
        facts, slices = self.world.lab.facts, self.kube.objects("EndpointSlice", self.world.namespace)
        subnets = {4: facts["pods_v4"], 6: facts["pods_v6"]}
        return wanted().differences(self.there(), slices, self.octavia, self.world.cloud.floating_ips(), subnets, self.world.cluster_tag)

    def octavia_has_what_they_say(self) -> None:
        """Wait until nothing differs."""
        until("Octavia has what the Services say", lambda: not self.differences(), REST_SECONDS, 2, why=lambda: "\n".join(self.differences()))

    def answer(self, pods: list[str]) -> None:
        """Wait until each Service answers a pod of each node at its ClusterIPs, and at what its status tells a client outside, by Octavia."""
        of_node = {pod.node: pod for pod in (Pod(self.world.lab, self.kube, self.world.namespace, name) for name in pods)}
        for pod in of_node.values():
            with Client.in_pod(pod) as client:
                self.wait_answers(client, lambda service: service["spec"]["clusterIPs"])
        if self.octavia:
            floating = {found["floating_ip_address"] for found in self.world.cloud.floating_ips()}
            with Client.outside(self.world.lab, "ext") as client:
                self.wait_answers(client, lambda service: [address for address in ingress(service) if address in floating])
            with Client.outside(self.world.lab, "server") as client:
                self.wait_answers(client, lambda service: [address for address in ingress(service) if address not in floating])

    def wait_answers(self, client: Client, addresses) -> None:
        """Wait until each Service answers a client at some of its addresses."""
        def answers() -> bool:
            for service in self.there():
                for address in addresses(service):
                    for port in service["spec"]["ports"]:
                        expect_in(" 200 ", client.ask("http", address=address, port=port["port"]).partition("\r\n")[0], f"answer of {address}")
            return True
        until(f"each answers {client.name}", answers, ANSWER_SECONDS, 1)

    def delete_all(self) -> None:
        """Delete them, and wait until nothing of them is left, in Kubernetes, Octavia and Neutron."""
        for service in self.there():
            self.kube.delete("Service", service["metadata"]["name"], self.world.namespace)
        until("they are gone", lambda: not self.there(), REST_SECONDS, 1, why=lambda: [service["metadata"]["name"] for service in self.there()])
        until("their views are gone", lambda: not self.kube.objects("KuryrLoadBalancer", self.world.namespace), REST_SECONDS, 1)
        until("all of them is gone", lambda: self.what_is_there() <= self.before, REST_SECONDS, 1, why=lambda: self.what_is_there() - self.before)

    def what_is_there(self) -> set[str]:
        """Return the ids of the project's load balancers, of listeners and pools of load balancers that exist, and of floating IPs."""
        if not self.octavia:
            return set()
        balancers, below, _ = self.parts()
        return {part["id"] for part in balancers + below + self.world.cloud.floating_ips()}

    def rows_without_balancer(self) -> int:
        """Return how many listeners and pools Octavia shows of load balancers that are gone.

        While Neutron is away provider ovn gives up a load balancer half made, and when that is deleted forgets what was below it: Octavia answers every call about these
        rows with 409, as their load balancer has been deleted.
        """
        return len(self.parts()[2]) if self.octavia else 0

    def parts(self) -> tuple[list[dict], list[dict], list[dict]]:
        """Return load balancers, the listeners and pools that they have, and those that Octavia shows of load balancers that are gone."""
        balancers, *kinds = (self.octavia.call("GET", f"/{kind}")[kind] for kind in ("loadbalancers", "listeners", "pools"))
        there = {balancer["id"] for balancer in balancers}
        below, rest = [], []
        for part in (part for kind in kinds for part in kind):
            (below if there.intersection(of["id"] for of in part["loadbalancers"]) else rest).append(part)
        return balancers, below, rest


def ingress(service: dict) -> list[str]:
    """Return the addresses that a Service's status tells."""
    return [entry["ip"] for entry in service["status"]["loadBalancer"].get("ingress", [])]


def some_ports(draw: random.Random) -> list[dict]:
    """Return one to three ports."""
    chosen = sorted(draw.sample(range(5), draw.randrange(1, 4)))
    return [{"name": f"web-{number}", "protocol": "TCP", "port": 80 + number, "targetPort": HTTP_PORT} for number in chosen]


def wanted():
    """Return the module that says what Octavia should have."""
    spec = importlib.util.spec_from_file_location("soak_wanted", WANTED)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

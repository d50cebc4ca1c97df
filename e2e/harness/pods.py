"""Pods of a scenario: made, waited for, and looked at from inside."""
from pathlib import Path

from kuryrlab import settings as names

from . import traffic
from .expect import Unmet, expect, expect_equal, until
from .kubernetes import Kubernetes
from .lab import Lab
from .openstack import PAIR_OWNER, POD_OWNER, SUBPORT_OWNER, Neutron, pairs_for

HTTP_PORT = 8080
# Probes that fail in a row until a pod is no endpoint any more: a machine that is busy for a moment changes no Service. It gets Ready by its first good one.
UNREADY_AFTER = 10
# Several times what a pod takes where all that it needs is there.
READY_SECONDS = 150
# Answers with the pod's name and the address it was asked from.
SERVE = ("mkdir -p /www/cgi-bin && printf '#!/bin/sh\\nprintf \"Content-Type: text/plain\\\\r\\\\n\\\\r\\\\n\"; echo \"'$HOSTNAME' saw $REMOTE_ADDR\"\\n' "
         ">/www/cgi-bin/who && chmod +x /www/cgi-bin/who && trap exit TERM && { httpd -f -p '[::]:8080' -h /www & wait; }")


def manifest(name: str, namespace: str, node: str | None = None, probe: bool = True, token: bool = False, labels: dict | None = None, ports: tuple = ()) -> dict:
    """Return a pod that serves HTTP; without a token no volume of it needs the API server."""
    container = {"name": "web", "image": names.IMAGE, "imagePullPolicy": "Never", "command": ["/bin/sh", "-c", SERVE], "ports": [{"containerPort": HTTP_PORT}, *ports]}
    if probe:
        container["readinessProbe"] = {"httpGet": {"path": "/", "port": HTTP_PORT}, "periodSeconds": 1, "timeoutSeconds": 5, "failureThreshold": UNREADY_AFTER}
    spec = {"terminationGracePeriodSeconds": 1, "automountServiceAccountToken": token, "containers": [container]}
    if node:
        spec["nodeName"] = node
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace, "labels": {"app": "e2e", **(labels or {})}}, "spec": spec}


def deployment(name: str, namespace: str, replicas: int, **pod) -> dict:
    """Return a Deployment of such pods, spread over the nodes."""
    template = manifest(name, namespace, **pod)
    spread = {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {"matchLabels": {"set": name}}}
    template["spec"]["topologySpreadConstraints"] = [spread]
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": namespace},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"set": name}},
                     "template": {"metadata": {"labels": {"set": name}}, "spec": template["spec"]}}}


class Pod:
    """One pod."""

    def __init__(self, lab: Lab, kube: Kubernetes, namespace: str, name: str):
        self.lab, self.kube, self.namespace, self.name, self.found_netns = lab, kube, namespace, name, None

    def __str__(self) -> str:
        return self.name

    @property
    def object(self) -> dict:
        """The pod as the API server has it now."""
        found = self.kube.get("Pod", self.name, self.namespace)
        if not found:
            raise Unmet(f"pod {self.name} does not exist")
        return found

    @property
    def reference(self) -> str:
        """The pod as logs of CNI calls name it."""
        return f"{self.namespace}/{self.name}"

    @property
    def node(self) -> str:
        return self.object["spec"]["nodeName"]

    @property
    def uid(self) -> str:
        return self.object["metadata"]["uid"]

    @property
    def addresses(self) -> list[str]:
        """All addresses, first the primary one."""
        return [entry["ip"] for entry in self.object["status"].get("podIPs", [])]

    def address(self, family: int) -> str:
        """Return the address of a family, 4 or 6."""
        for address in self.addresses:
            if (":" in address) == (family == 6):
                return address
        raise Unmet(f"pod {self.name} has no IPv{family} address: {self.addresses}")

    def ready(self) -> bool:
        """Tell whether the pod is Ready."""
        return any(c["type"] == "Ready" and c["status"] == "True" for c in self.object["status"].get("conditions", []))

    def restarts(self) -> int:
        """Return how often its containers were restarted."""
        return sum(c["restartCount"] for c in self.object["status"].get("containerStatuses", []))

    def wait_ready(self, seconds: float = READY_SECONDS) -> "Pod":
        """Wait until the pod is Ready."""
        until(f"pod {self.name} is Ready", self.ready, seconds, why=self.describe)
        return self

    def wait_gone(self, seconds: float = 120) -> None:
        """Wait until the pod's object is gone."""
        until(f"pod {self.name} is gone", lambda: self.kube.get("Pod", self.name, self.namespace) is None, seconds, why=self.describe)

    def delete(self, grace: int | None = None) -> None:
        """Delete the pod, without waiting."""
        self.kube.delete("Pod", self.name, self.namespace, grace)

    def events(self) -> list[str]:
        """Return the Events about the pod."""
        return self.kube.events(self.namespace, self.name)

    def describe(self) -> str:
        """Return what there is to say, for messages."""
        found = self.kube.get("Pod", self.name, self.namespace)
        phase = found["status"].get("phase") if found else "no such pod"
        return f"phase {phase}; events: {self.events()[-4:]}"

    def port(self, cloud: Neutron) -> dict:
        """Return the pod's Neutron port, by its address."""
        return cloud.port_with(self.address(4))

    @property
    def netns(self) -> str:
        """Path of the pod's network namespace, as seen from here."""
        address = self.addresses[0]
        if self.found_netns and traffic.has_address(self.found_netns, address):
            return self.found_netns
        folder = Path(self.lab.root(self.node), "run/netns")
        for entry in sorted(folder.iterdir()):
            if traffic.has_address(str(entry), address):
                self.found_netns = str(entry)
                return self.found_netns
        raise Unmet(f"no namespace on {self.node} has {address}")

    def get(self, address: str, port: int = HTTP_PORT, path: str = "/", seconds: float = 5) -> str:
        """Ask an HTTP server from inside the pod."""
        return traffic.http_get(self.netns, address, port, path, seconds)

    def execute(self, *words: str) -> str:
        """Run a command in the pod by kubectl and return what it printed."""
        return self.lab.kubectl("exec", "-n", self.namespace, self.name, "--", *words)

    def expect_neutron_port(self, cloud: Neutron) -> dict:
        """Check that the pod's addresses, MAC and node are those of one ACTIVE port of ours; return the port.

        On a node with a switch of its own the port is bound to that node's host; on a virtual machine it is a subport of that machine's trunk, or its addresses are pairs of that machine's port, and nobody ever plugs it. Neutron learns some time after the node that a port carries traffic, hence the wait.
        """
        if not self.lab.among_pods(self.node):
            until(f"Neutron calls {self.name}'s port ACTIVE", lambda: self.port(cloud)["status"] == "ACTIVE", 60, 0.3)
        port = self.port(cloud)
        expect_equal(sorted(ip["ip_address"] for ip in port["fixed_ips"]), sorted(self.addresses), f"addresses of {self.name}'s port")
        if self.lab.among_pods(self.node):
            self.expect_pairs(cloud, port)
        elif self.lab.nested(self.node):
            self.expect_subport(cloud, port)
        else:
            expect_equal(port["device_owner"], POD_OWNER, "device_owner")
            expect_equal(port["binding:host_id"], self.lab.host(self.node), "host of the port")
        expect_equal(port["mac_address"], self.mac(), f"MAC of {self.name}")
        return port

    def expect_subport(self, cloud: Neutron, port: dict) -> None:
        """Check that a port is a subport of the node's trunk, under the VLAN id that the node was told."""
        entry = self.kube.get("KuryrNode", self.node)["spec"]["ports"][port["id"]]
        expect_equal(port["device_owner"], SUBPORT_OWNER, "device_owner")
        expect_equal(cloud.subports(self.lab.trunk(self.node)).get(port["id"]), entry["vlan"], f"VLAN id of {self.name}'s port on the trunk of {self.node}")

    def expect_pairs(self, cloud: Neutron, port: dict) -> None:
        """Check that a port's addresses are allowed address pairs of the node's port, which the record names."""
        server = self.lab.server_port(self.node)
        expect_equal(self.kube.get("KuryrNode", self.node)["spec"].get("serverPort"), server, "port of the node")
        expect_equal(port["device_owner"], PAIR_OWNER, "device_owner")
        missing = pairs_for(port) - cloud.pairs(server)
        expect(not missing, f"not allowed on port {server} of {self.node}: {missing}")

    def mac(self) -> str:
        """Return the MAC address of the pod's eth0, read inside."""
        return self.execute("cat", "/sys/class/net/eth0/address").strip()


def expect_reaches(source: Pod, address: str, what: str, port: int = HTTP_PORT, path: str = "/cgi-bin/who", seconds: float = 30) -> str:
    """Check that a pod gets an answer from an HTTP server; return the answer."""
    answer = until(f"{source} reaches {what} at {address}", lambda: source.get(address, port, path, 3), seconds, 0.2)
    expect(answer.strip(), f"{what} answered nothing")
    return answer

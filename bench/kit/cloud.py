"""Bare calls to Neutron, for comparison, and what Kuryr asked of it and of the API server."""
import json
import time
from datetime import datetime

from harness.kuryr import AGENT, CONTROLLER, NAMESPACE
from harness.openstack import Neutron

NAME = "bench"
OURS = {f"system:serviceaccount:{NAMESPACE}:{account}": account for account in (AGENT, CONTROLLER)}


class Bare:
    """Neutron without Kuryr: what a plugin would wait for that makes a port for each pod."""

    def __init__(self, lab):
        self.cloud = Neutron(lab, lab.settings.user) if hasattr(lab.settings, "user") else Neutron(lab)
        subnets = [s for s in self.cloud.call("GET", "/subnets")["subnets"] if s["name"].startswith("pods")]
        self.network, self.subnets = subnets[0]["network_id"], [s["id"] for s in subnets if s["network_id"] == subnets[0]["network_id"]]

    def measure(self, singles: int, bulk: int) -> dict:
        """Make and delete ports; return seconds."""
        found: dict = {"create": [], "delete": [], "bulk_port": []}
        self.clear()
        for _ in range(singles):
            begin = time.monotonic()
            port = self.cloud.call("POST", "/ports", {"port": self.port()})["port"]["id"]
            made = time.monotonic()
            self.cloud.call("DELETE", f"/ports/{port}")
            found["create"].append(made - begin)
            found["delete"].append(time.monotonic() - made)
        begin = time.monotonic()
        ports = self.cloud.call("POST", "/ports", {"ports": [self.port() for _ in range(bulk)]})["ports"]
        found["bulk_port"].append((time.monotonic() - begin) / len(ports))
        self.clear()
        return found

    def port(self) -> dict:
        return {"network_id": self.network, "name": NAME, "fixed_ips": [{"subnet_id": subnet} for subnet in self.subnets]}

    def clear(self) -> None:
        """Delete what this made, also in an earlier run."""
        for port in self.cloud.call("GET", f"/ports?name={NAME}&project_id={self.cloud.project}")["ports"]:
            self.cloud.call("DELETE", f"/ports/{port['id']}", accept=(404,))


def kubernetes_calls(lab, begin: float, end: float) -> dict[str, dict[str, int]]:
    """Return how often Kuryr's controller and agents called the API server in a time, by verb and resource; without the Lease, which has nothing to do with pods."""
    found: dict[str, dict[str, int]] = {account: {} for account in OURS.values()}
    with open(lab.parts.kubernetes.audit_log, encoding="utf-8") as log:
        for line in log:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            account = OURS.get(event["user"]["username"])
            resource = event.get("objectRef", {}).get("resource", "")
            at = datetime.fromisoformat(event["requestReceivedTimestamp"].replace("Z", "+00:00")).timestamp()
            if account and begin <= at <= end and resource != "leases" and event["verb"] != "watch":
                key = f"{event['verb']} {resource}"
                found[account][key] = found[account].get(key, 0) + 1
    return found


def neutron_calls(lab, begin: float, end: float) -> dict[str, int]:
    """Return how often Kuryr called Neutron in a time, by method and kind of resource."""
    found: dict[str, int] = {}
    for line in lab.parts.openstack.request_log("neutron").read_text(errors="replace").splitlines():
        words = line.split()
        if len(words) < 6 or not words[0].isdigit() or "kuryr" not in words[-1].lower() and "kuryr" not in line.lower():
            continue
        if int(begin) <= int(words[0]) <= int(end):
            resource = words[2].partition("?")[0].removeprefix("/v2.0/").split("/")[0].removesuffix(".json")
            found[f"{words[1]} {resource}"] = found.get(f"{words[1]} {resource}", 0) + 1
    return found

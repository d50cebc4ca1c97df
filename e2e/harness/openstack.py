"""A small client of the lab's Neutron and Octavia, as Kuryr's user, as a stranger in another project, or as the admin.

A port of ours is of our project and carries the cluster's tag, whatever its device owner: Neutron itself changes that of a port which joins or leaves a trunk.
"""
import json
import socket
from urllib.parse import urlencode

from kuryrlab import settings as names
from kuryrlab.identity import Keystone
from kuryrlab.wire import request

from .expect import Unmet
from .lab import Lab

V = names.NEUTRON_URL + "/v2.0"
POD_OWNER, NODE_OWNER, SUBPORT_OWNER, PAIR_OWNER = "compute:kuryr", "kuryr:node", "trunk:subport", "kuryr:pair"


class Refused(Unmet):
    """The cloud answered with an error."""

    def __init__(self, status: int, message: str):
        super().__init__(f"the cloud: {status}: {message}")
        self.status = status


class Neutron:
    """Neutron as one user; as Kuryr's if none is named."""

    url = V

    def __init__(self, lab: Lab, user: str | None = None):
        user = user or lab.settings.user
        project, password = ("admin", names.ADMIN_PASSWORD) if user == "admin" else names.USERS[user]
        self.netns, self.run = lab.settings.netns("cp"), lab.settings.run
        self.keystone = Keystone(self.netns, user, password, project)

    @property
    def project(self) -> str:
        """Id of the user's project."""
        if not self.keystone.project_id:
            self.keystone.authenticate()
        return self.keystone.project_id

    def call(self, method: str, path: str, body=None, accept: tuple = (), headers: dict | None = None) -> dict:
        """Send one request below the API's version, with a new token if the old one has expired."""
        for attempt in (1, 2):
            if not self.keystone.token:
                self.keystone.authenticate()
            answer = request(self.netns, method, self.url + path, body, {"X-Auth-Token": self.keystone.token, **(headers or {})})
            if answer.status == 401 and attempt == 1:
                self.keystone.token = None
                continue
            if answer.status >= 300 and answer.status not in accept:
                raise Refused(answer.status, f"{method} {path}: {answer.body[:500].decode(errors='replace')}")
            return answer.json() if answer.body and answer.status < 300 else {}
        raise AssertionError("unreachable: the second attempt returns or raises")

    def ports(self, **filters) -> list[dict]:
        """List ports; a list as a value means any of them."""
        pairs = [(key.replace("__", ":"), item) for key, value in filters.items() for item in (value if isinstance(value, list) else [value])]
        return self.call("GET", "/ports?" + urlencode(pairs))["ports"]

    def ours(self, tag: str) -> list[dict]:
        """List a cluster's ports: of this project, with the cluster's tag."""
        return [port for port in self.ports(project_id=self.project) if tag in port["tags"]]

    def subports(self, trunk: str) -> dict[str, int]:
        """Return the subports of a trunk with their VLAN ids."""
        found = self.call("GET", f"/trunks/{trunk}")["trunk"]["sub_ports"]
        return {sub["port_id"]: sub["segmentation_id"] for sub in found}

    def pairs(self, port: str) -> set[tuple[str, str]]:
        """Return the allowed address pairs of a port: address and MAC."""
        return pairs_of(self.call("GET", f"/ports/{port}")["port"])

    def add_subport(self, trunk: str, port: str, vlan: int) -> None:
        """Put a port on a trunk."""
        self.call("PUT", f"/trunks/{trunk}/add_subports", {"sub_ports": [{"port_id": port, "segmentation_type": "vlan", "segmentation_id": vlan}]})

    def remove_subport(self, trunk: str, port: str) -> None:
        """Take a port off a trunk; one that is not on it is off."""
        self.call("PUT", f"/trunks/{trunk}/remove_subports", {"sub_ports": [{"port_id": port}]}, accept=(404,))

    def port_with(self, address: str) -> dict:
        """Return the one port with an address."""
        found = self.call("GET", "/ports?" + urlencode({"fixed_ips": f"ip_address={address}"}))["ports"]
        if len(found) != 1:
            raise Unmet(f"{len(found)} ports have the address {address}")
        return found[0]

    def create_port(self, **values) -> dict:
        """Create one port."""
        return self.call("POST", "/ports", {"port": values})["port"]

    def update_port(self, port: str, **values) -> dict:
        """Change one port."""
        return self.call("PUT", f"/ports/{port}", {"port": values})["port"]

    def delete_port(self, port: str) -> None:
        """Delete a port; one that is not there is deleted."""
        self.call("DELETE", f"/ports/{port}", accept=(404,))

    def set_tags(self, port: str, tags: list[str]) -> None:
        """Replace the tags of a port."""
        self.call("PUT", f"/ports/{port}/tags", {"tags": tags})

    def create_group(self, name: str, rules: list[dict]) -> dict:
        """Create a security group with exactly these ingress and egress rules."""
        group = self.call("POST", "/security-groups", {"security_group": {"name": name}})["security_group"]
        for rule in group["security_group_rules"]:
            self.call("DELETE", f"/security-group-rules/{rule['id']}")
        if rules:
            bulk = [{"security_group_id": group["id"], **rule} for rule in rules]
            self.call("POST", "/security-group-rules", {"security_group_rules": bulk})
        return group

    def delete_group(self, group: str) -> None:
        """Delete a security group; one that is not there is deleted."""
        self.call("DELETE", f"/security-groups/{group}", accept=(404,))

    def floating_ips(self, **filters) -> list[dict]:
        """List the project's floating IPs."""
        return self.call("GET", "/floatingips?" + urlencode(filters))["floatingips"]

    def quota(self, project: str, **limits: int) -> None:
        """Set quotas of a project, also below what it uses; the admin's right."""
        self.call("PUT", f"/quotas/{project}", {"quota": {**limits, "force": True}})

    def reset_quota(self, project: str) -> None:
        """Give a project its default quotas again."""
        self.call("DELETE", f"/quotas/{project}", accept=(404,))


class Octavia(Neutron):
    """Octavia as one user; as Kuryr's if none is named."""

    url = names.OCTAVIA_URL + "/v2/lbaas"

    def load_balancers(self) -> list[dict]:
        """List the project's load balancers."""
        return self.call("GET", "/loadbalancers")["loadbalancers"]

    def report(self, status: dict) -> None:
        """Report what became of resources, as a provider does it: over the driver agent's socket, a length and JSON."""
        body = json.dumps(status).encode()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as agent:
            agent.settimeout(30)
            agent.connect(str(self.run / "octavia-run" / "octavia" / "status.sock"))
            agent.sendall(f"{len(body)}\n".encode() + body)
            answer = agent.makefile("rb")
            told = json.loads(answer.read(int(answer.readline())))
        if told["status_code"] != 200:
            raise Unmet(f"the driver agent: {told}")

    def members(self, pool: str) -> set[tuple[str, int]]:
        """Return the members of a pool: address and port."""
        return {(member["address"], member["protocol_port"]) for member in self.call("GET", f"/pools/{pool}/members")["members"]}


def pairs_of(port: dict) -> set[tuple[str, str]]:
    """Return the allowed address pairs of a port as it was shown."""
    return {(pair["ip_address"], pair["mac_address"]) for pair in port["allowed_address_pairs"]}


def pairs_for(port: dict) -> set[tuple[str, str]]:
    """Return what of a pod's port has to be a pair of its node's port."""
    return {(ip["ip_address"], port["mac_address"]) for ip in port["fixed_ips"]}

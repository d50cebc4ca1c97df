"""What the lab has in Neutron before Kuryr comes: networks, router, and the port of the server. Made by the admin,
found again by name.

- `external`: the LAN itself, a flat provider network;
- `pods` with `pods-v4` and `pods-v6`, owned by project k8s (with `--subnets shared` by the admin), behind `kuryr-router`
  (source translation for IPv4, plain routing for IPv6);
- `server`, a port in `pods` with a security group that admits everything;
- a port and a trunk for each node that is a virtual machine (see nested).
"""

from . import identity, nested, settings as s
from .identity import Keystone
from .settings import Settings

V = s.NEUTRON_URL + "/v2.0"


class Neutron:
    """Neutron as the lab's admin sees it."""

    def __init__(self, netns: str):
        self.keystone = Keystone(netns, "admin", s.ADMIN_PASSWORD, "admin")

    def call(self, method: str, path: str, body=None, accept: tuple = ()):
        """Send one request below /v2.0."""
        return self.keystone.call(method, path, body, V, accept)

    def find(self, collection: str, name: str, **filters: str) -> dict | None:
        """Return the object of that name."""
        query = "&".join([f"name={name}"] + [f"{k}={v}" for k, v in filters.items()])
        found = self.call("GET", f"/{collection}?{query}")[collection.replace("-", "_")]
        return found[0] if found else None

    def ensure(self, collection: str, name: str, **values) -> dict:
        """Return the object of that name, made if it is missing."""
        kind = collection.replace("-", "_")[:-1]
        return (
            self.find(collection, name) or self.call("POST", f"/{collection}", {kind: {"name": name, **values}})[kind]
        )

    def project(self, name: str) -> str:
        """Return a project's id."""
        return self.keystone.call("GET", f"/projects?name={name}")["projects"][0]["id"]


def create(neutron: Neutron, settings: Settings) -> dict:
    """Make everything, and return the facts that the rest of the lab needs."""
    k8s = neutron.project("k8s")
    external = neutron.ensure(
        "networks",
        "external",
        **{"router:external": True, "provider:network_type": "flat", "provider:physical_network": s.PHYSICAL_NETWORK},
    )
    external_subnets = {}
    for name, version, cidr, gateway, pool in (
        ("external-v4", 4, s.LAN4_CIDR, s.EXTERNAL4, s.EXTERNAL_POOL4),
        ("external-v6", 6, s.LAN6_CIDR, s.EXTERNAL6, s.EXTERNAL_POOL6),
    ):
        external_subnets[version] = neutron.ensure(
            "subnets",
            name,
            network_id=external["id"],
            ip_version=version,
            cidr=cidr,
            gateway_ip=gateway,
            enable_dhcp=False,
            allocation_pools=[{"start": pool[0], "end": pool[1]}],
        )["id"]
    pods, v4, v6 = pods_network(neutron, k8s, settings.options.subnets)
    router = neutron.ensure(
        "routers",
        "kuryr-router",
        project_id=k8s,
        external_gateway_info={"network_id": external["id"], "enable_snat": True},
    )
    attach(neutron, router["id"], (v4, v6))
    gateway = {
        6 if ":" in ip["ip_address"] else 4: ip["ip_address"]
        for ip in router["external_gateway_info"]["external_fixed_ips"]
    }
    group = open_group(neutron, "server", k8s)
    port = (
        neutron.find("ports", "server")
        or neutron.call(
            "POST",
            "/ports",
            {
                "port": {
                    "name": "server",
                    "network_id": pods["id"],
                    "project_id": k8s,
                    "security_groups": [group],
                    "device_owner": "compute:nova",
                    "device_id": "server",
                    "binding:host_id": settings.server_chassis.hostname,
                }
            },
        )["port"]
    )
    places = {False: (external, external_subnets), True: (pods, {4: v4["id"], 6: v6["id"]})}
    nodes = virtual_nodes(neutron, settings, places, k8s)
    addresses = {6 if ":" in ip["ip_address"] else 4: ip["ip_address"] for ip in port["fixed_ips"]}
    return {
        "project": k8s,
        "external_network": external["id"],
        "pods_network": pods["id"],
        "pods_v4": v4["id"],
        "pods_v6": v6["id"],
        "pods_gateway_v4": v4["gateway_ip"],
        "pods_gateway_v6": v6["gateway_ip"],
        "mtu": pods["mtu"],
        "router": router["id"],
        "router_v4": gateway[4],
        "router_v6": gateway[6],
        "server_group": group,
        "server_port": port["id"],
        "server_mac": port["mac_address"],
        "server_v4": addresses[4],
        "server_v6": addresses[6],
        "nodes": nodes,
    }


def pods_network(
    neutron: Neutron,
    project: str,
    kind: str,
    name: str = "pods",
    cidrs: tuple[str, str] = (s.PODS4_CIDR, s.PODS6_CIDR),
) -> tuple[dict, dict, dict]:
    """Make a network for pods with its subnets of both families, of one of the kinds in `settings.SUBNETS`."""
    owner = {} if kind.startswith("shared") else {"project_id": project}
    pods = neutron.ensure("networks", name, **owner, **({"shared": True} if not owner else {}))
    slaac = {"ipv6_ra_mode": "slaac", "ipv6_address_mode": "slaac", "enable_dhcp": True}
    how = {"enable_dhcp": False} | (slaac if kind.endswith("slaac") else {})
    common = {"network_id": pods["id"], **owner}
    v4 = neutron.ensure("subnets", f"{name}-v4", **common, ip_version=4, cidr=cidrs[0], enable_dhcp=False)
    v6 = neutron.ensure("subnets", f"{name}-v6", **common, ip_version=6, cidr=cidrs[1], **how)
    return pods, v4, v6


def attach(neutron: Neutron, router: str, subnets: tuple[dict, ...]) -> None:
    """Give a router a leg in each subnet where it has none."""
    attached = {
        ip["subnet_id"]
        for port in neutron.call("GET", f"/ports?device_id={router}")["ports"]
        for ip in port["fixed_ips"]
    }
    for subnet in subnets:
        if subnet["id"] not in attached:
            neutron.call("PUT", f"/routers/{router}/add_router_interface", {"subnet_id": subnet["id"]})


def virtual_nodes(neutron: Neutron, settings: Settings, places: dict, project: str) -> dict:
    """Make what the nodes that are virtual machines need, and return the facts by the node's name; `places` are the
    networks with their subnets, by whether pods are on them.
    """
    virtual = [n for n in settings.nodes if n.nested]
    if not virtual:
        return {}
    identity.complete(neutron.keystone)
    group = open_group(neutron, "nodes", project)
    return {n.name: nested.declare(neutron, settings, n, *places[n.among_pods], group, project) for n in virtual}


def open_group(neutron: Neutron, name: str, project: str) -> str:
    """Return the id of a security group that admits everything."""
    group = neutron.ensure("security-groups", name, project_id=project)
    if len(group["security_group_rules"]) < 4:
        rules = [
            {"security_group_id": group["id"], "direction": "ingress", "ethertype": e, "project_id": project}
            for e in ("IPv4", "IPv6")
        ]
        neutron.call("POST", "/security-group-rules", {"security_group_rules": rules}, accept=(409,))
    return group["id"]

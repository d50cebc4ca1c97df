"""Nodes that are virtual machines: their Neutron port, the parent of a trunk, made as an operator and Nova would, and
how their namespace hangs on it.

Everything such a node sends or receives, its own frames and those of its pods with a VLAN tag, passes `eth0`, which is
plugged on br-int of a hypervisor. The port is on the provider network `external`, so the node has the same addresses
as others and reaches the API server the same way. The trunk belongs to the project of Kuryr's user.

A node of kind `nested-macvlan` has a port without a trunk, and a label that tells Kuryr its mode: a plain virtual
machine does not show what is meant. The port is on the pods' network, as frames of its pods leave there as they are; the
node reaches the API server through the router, and the API server its kubelet.
"""

import json
import uuid

from . import server, settings as s, vm
from .network import Network
from .ovs import Switches
from .settings import Node, Settings

MODE_LABEL = "kuryr.openstack.org/mode"


def declare(neutron, settings: Settings, n: Node, network: dict, subnets: dict, group: str, project: str) -> dict:
    """Make the port of a node and its trunk; return the facts about them."""
    addresses = ((subnets[4], n.lan4), (subnets[6], n.lan6))
    port = neutron.find("ports", n.name) or neutron.call(
        "POST",
        "/ports",
        {
            "port": {
                "name": n.name,
                "network_id": network["id"],
                "project_id": project,
                "fixed_ips": [{"subnet_id": subnet, "ip_address": address} for subnet, address in addresses],
                "security_groups": [group],
                # What the plugin ptp gives to pods leaves under the pods' own addresses.
                "allowed_address_pairs": [{"ip_address": s.ptp_pods(n)}],
                "device_owner": "compute:nova",
                "device_id": str(uuid.uuid5(uuid.NAMESPACE_DNS, n.hostname)),
                "binding:host_id": settings.hypervisors[0].hostname,
            }
        },
    )["port"]
    facts = {"port": port["id"], "mac": port["mac_address"], "mtu": network["mtu"]}
    if n.kind == s.NESTED_VLAN:
        facts["trunk"] = neutron.ensure("trunks", n.name, port_id=port["id"], project_id=project)["id"]
    return facts


def machine(settings: Settings, n: Node) -> vm.Vm | None:
    """Return a node as its hypervisor knows it, or None while its port has not been made."""
    file = server.facts_file(settings)
    facts = json.loads(file.read_text())["nodes"].get(n.name) if file.exists() else None
    return facts and vm.Vm(n.name, settings.hypervisors[0], facts["port"], facts["mac"], facts["mtu"])


def plug(settings: Settings, n: Node, network: Network, switches: Switches) -> str | None:
    """Plug a node that is up."""
    it = machine(settings, n)
    made = not vm.plugged(it, network)
    if made:
        network.delete_link(n.name, "eth0")
        vm.link(it, network)
        address(settings, n, network)
        network.wired(n.name).touch()
    switches.plug(it.chassis, it.tap, it.port, it.mac)
    vm.wait_flows(it, switches)
    return f"{n.lan4} on {it.chassis.name}" if made else None


def address(settings: Settings, n: Node, network: Network) -> None:
    """Give a node its addresses and routes; on the pods' network the router is its gateway, and leads back to it."""
    if not n.among_pods:
        network.address(n)
        return
    facts = json.loads(server.facts_file(settings).read_text())
    network.ip(
        n.name,
        [
            f"addr add {n.lan4}/16 dev {n.uplink}",
            f"addr add {n.lan6}/64 dev {n.uplink} nodad",
            f"link set {n.uplink} up",
            f"route add default via {facts['pods_gateway_v4']}",
            f"route add default via {facts['pods_gateway_v6']} dev {n.uplink}",
        ],
    )
    network.ip("cp", [f"route replace {n.lan4}/32 via {facts['router_v4']}"])


def unplug(settings: Settings, n: Node, network: Network, switches: Switches) -> None:
    """Take a node's link away, if it ever had one."""
    it = machine(settings, n)
    if it and network.exists(it.chassis.name):
        vm.unplug(it, network, switches)

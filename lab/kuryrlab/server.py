"""The machines beside the cluster: the *server*, plugged as an ordinary Neutron port as a VM would be, and the external
side of the router.
"""

import json
import sys
from pathlib import Path

from . import places, settings as s
from .network import Network
from .ovn import Ovn
from .processes import Processes
from .settings import LAB, Settings
from .steps import until
from .wire import request

TAP = "tapserver"


def answer(name: str) -> list[str]:
    """Return the command line of the HTTP server."""
    return [sys.executable, "-I", str(LAB / "kuryrlab" / "answer.py"), name, str(s.HTTP_PORT)]


def start_external(settings: Settings, processes: Processes) -> str | None:
    """Start the external side's HTTP server."""
    place = places.Place(settings, settings.netns("ext"), "control")
    started = processes.start("external", place, answer("external"))
    processes.wait("external", lambda: alive(settings, "ext"), 20)
    return f"HTTP at {s.EXTERNAL4}:{s.HTTP_PORT}" if started else None


def start_server(settings: Settings, processes: Processes, network: Network, ovn: Ovn, facts: dict) -> str | None:
    """Plug the server's namespace as its Neutron port and start its HTTP server."""
    n = s.node(s.SERVER_NODE)
    there = settings.netns("server")
    plugged = network.exists("server") and network.wired("server").exists() and TAP in network.links(n.name)
    if not plugged:
        processes.stop("server", 1)
        network.delete_netns("server")
        network.delete_link(n.name, TAP)
        network.add_netns("server", forward=False)
        mtu = facts["mtu"]
        network.ip(
            n.name,
            [
                f"link add {TAP} mtu {mtu} type veth peer name eth0 address {facts['server_mac']} mtu {mtu}"
                f" netns {there}",
                f"link set {TAP} addrgenmode none",
                f"link set {TAP} up",
            ],
        )
        network.offloads_off("server", "eth0")
        network.ip(
            "server",
            [
                f"addr add {facts['server_v4']}/16 dev eth0",
                f"addr add {facts['server_v6']}/64 dev eth0 nodad",
                "link set eth0 up",
                f"route add default via {facts['pods_gateway_v4']}",
                f"route add default via {facts['pods_gateway_v6']} dev eth0",
            ],
        )
        network.wired("server").touch()
    ovn.plug(n, TAP, facts["server_port"], facts["server_mac"])
    started = processes.start("server", places.Place(settings, there, "control"), answer("server"))
    processes.wait("server", lambda: alive(settings, "server"), 20)
    until(
        "flows of the server's port", lambda: ovn.installed(n, TAP), 60, log=processes.log(f"{n.name}-ovn-controller")
    )
    return (
        f"HTTP at {facts['server_v4']}:{s.HTTP_PORT} and [{facts['server_v6']}]:{s.HTTP_PORT}"
        if started or not plugged
        else None
    )


def plug_again(lab) -> None:
    """Plug the server once more, after its node was switched off and on."""
    facts = json.loads(facts_file(lab.settings).read_text())
    start_server(lab.settings, lab.processes, lab.network, lab.ovn, facts)


def alive(settings: Settings, place: str) -> bool:
    """Tell whether a place's HTTP server answers in its own namespace."""
    return request(settings.netns(place), "GET", f"http://127.0.0.1:{s.HTTP_PORT}/", timeout=3).status == 200


def route_pods(network: Network, facts: dict) -> None:
    """Lead the pods' IPv6 network from the LAN to its router; IPv4 leaves translated and needs no route."""
    for place in ("cp", "ext"):
        network.ip(place, [f"route replace {s.PODS6_CIDR} via {facts['router_v6']}"])


def facts_file(settings: Settings) -> Path:
    """Return where the ids and addresses of the lab's Neutron objects are kept, as JSON."""
    return settings.state / "neutron.json"

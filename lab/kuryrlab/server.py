"""The machines beside the cluster: the *server*, plugged as an ordinary Neutron port as a VM would be, and the external
side of the router.
"""

import json
import sys
from pathlib import Path

from . import places, settings as s, vm
from .network import Network
from .ovs import Switches
from .processes import Processes
from .settings import LAB, Settings
from .wire import request


def answer(name: str) -> list[str]:
    """Return the command line of the HTTP server."""
    return [sys.executable, "-I", str(LAB / "kuryrlab" / "answer.py"), name, str(s.HTTP_PORT)]


def start_external(settings: Settings, processes: Processes) -> str | None:
    """Start the external side's HTTP server."""
    place = places.Place(settings, settings.netns("ext"), "control")
    started = processes.start("external", place, answer("external"))
    processes.wait("external", lambda: alive(settings, "ext"), 90)
    return f"HTTP at {s.EXTERNAL4}:{s.HTTP_PORT}" if started else None


def start_server(
    settings: Settings, processes: Processes, network: Network, switches: Switches, facts: dict
) -> str | None:
    """Plug the server's namespace as its Neutron port and start its HTTP server."""
    machine = vm.Vm("server", settings.server_chassis, facts["server_port"], facts["server_mac"], facts["mtu"])
    plugged = vm.plugged(machine, network)
    if not plugged:
        processes.stop("server", 1)
        network.delete_netns("server")
        network.add_netns("server", forward=False)
        vm.link(machine, network)
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
    switches.plug(machine.chassis, machine.tap, machine.port, machine.mac)
    place = places.Place(settings, settings.netns("server"), "control")
    started = processes.start("server", place, answer("server"))
    processes.wait("server", lambda: alive(settings, "server"), 90)
    vm.wait_flows(machine, switches)
    return (
        f"HTTP at {facts['server_v4']}:{s.HTTP_PORT} and [{facts['server_v6']}]:{s.HTTP_PORT}"
        if started or not plugged
        else None
    )


def plug_again(lab) -> None:
    """Plug the server once more, after its host was switched off and on."""
    facts = json.loads(facts_file(lab.settings).read_text())
    start_server(lab.settings, lab.processes, lab.network, lab.switches, facts)


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

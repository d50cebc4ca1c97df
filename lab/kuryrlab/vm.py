"""A namespace plugged as the Neutron port of a virtual machine: what a hypervisor does with its tap, here with a veth
pair, one end on br-int of a chassis, the other in the namespace.
"""

import time
from dataclasses import dataclass

from .network import Network
from .ovs import Switches
from .settings import Chassis
from .steps import until

FLOWS_SECONDS = 240
# Several times what that takes.
AGAIN_SECONDS = 30


@dataclass(frozen=True)
class Vm:
    """One virtual machine: its place, its chassis, its port."""

    place: str
    chassis: Chassis
    port: str
    mac: str
    mtu: int

    @property
    def tap(self) -> str:
        return f"tap{self.place}"


def plugged(vm: Vm, network: Network) -> bool:
    """Tell whether the virtual machine has its link, complete with what was set behind it."""
    return network.exists(vm.place) and network.wired(vm.place).exists() and vm.tap in network.links(vm.chassis.name)


def link(vm: Vm, network: Network) -> None:
    """Make the pair; the place's namespace is there and has no `eth0`."""
    network.delete_link(vm.chassis.name, vm.tap)
    network.ip(
        vm.chassis.name,
        [
            f"link add {vm.tap} mtu {vm.mtu} type veth peer name eth0 address {vm.mac} mtu {vm.mtu}"
            f" netns {network.settings.netns(vm.place)}",
            f"link set {vm.tap} addrgenmode none",
            f"link set {vm.tap} up",
        ],
    )
    network.offloads_off(vm.place, "eth0")


def wait_flows(vm: Vm, switches: Switches) -> None:
    """Wait until the port carries traffic; a port that does not is plugged anew.

    ovn-controller was seen to take its mark off a port that had been unplugged and plugged again within a second, for good.
    """
    plugged = time.monotonic()

    def works() -> bool:
        nonlocal plugged
        if switches.carries(vm.chassis, vm.tap, vm.port):
            return True
        if time.monotonic() - plugged > AGAIN_SECONDS:
            switches.unplug(vm.chassis, vm.tap)
            switches.plug(vm.chassis, vm.tap, vm.port, vm.mac)
            plugged = time.monotonic()
        return False

    until(f"the port of {vm.place} works", works, FLOWS_SECONDS, log=switches.log(vm.chassis))


def unplug(vm: Vm, network: Network, switches: Switches) -> None:
    """Take the virtual machine's link away, as its hypervisor does when it is switched off."""
    switches.unplug(vm.chassis, vm.tap)
    network.delete_link(vm.chassis.name, vm.tap)

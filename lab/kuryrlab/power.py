"""A node loses power, and boots; what hangs on it is plugged again."""

from . import cgroups, nested
from .lab import Lab
from .server import facts_file, plug_again
from .settings import Node


def switch_off(lab: Lab, n: Node) -> None:
    """Switch a node off: its processes, pods' namespaces, mounts and links are gone, its disk stays."""
    lab.machines[n.name].stop()


def switch_on(lab: Lab, n: Node) -> None:
    """Switch a node on: machine, chassis or port, containerd, kubelet."""
    machine = lab.machines[n.name]
    cgroups.create(lab.settings)
    machine.boot()
    if n.nested:
        nested.plug(lab.settings, n, lab.network, lab.switches)
    else:
        lab.switches.start_chassis(n)
    machine.start()
    if n == lab.settings.server_chassis and facts_file(lab.settings).exists():
        plug_again(lab)
